"""What `pipeline.py` writes: tables, and where and how they were measured."""

import dataclasses
import json
import os
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from keras_effnetv2._common.machine import describe_machine

PACKAGES = ("tensorflow", "keras", "keras-effnetv2", "keras-cv", "numpy")
SUFFIXES = (".md", ".json")


@dataclass(frozen=True)
class Table:
    """A measured table.

    Attributes:
        title: what was measured, in one line.
        columns: their headings.
        rows: the cells, as they are printed.
        measured: the single measurements behind the cells, by name; JSON alone has them.
        notes: sentences below the table.
    """

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    measured: dict[str, list[float]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def markdown(self) -> str:
        lines = [self.columns, ["---"] * len(self.columns), *self.rows]
        cells = ["| " + " | ".join(line) + " |" for line in lines]
        notes = ["", *(f"- {note}" for note in self.notes)] if self.notes else []
        return "\n".join([f"## {self.title}", "", *cells, *notes, ""])


def surroundings() -> dict[str, str]:
    """Say what the measured times depend on, and the command that measured them."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    command = shlex.join(["python", *sys.argv])
    return describe_machine(PACKAGES) | {"load of 1, 5, 15 minutes": load, "command": command}


def write(tables: Sequence[Table], about: dict[str, str], paths: Sequence[Path]) -> None:
    """Write the tables to every path, as Markdown or as JSON by its suffix."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(
            as_json(tables, about) if path.suffix == ".json" else as_markdown(tables, about),
            "utf-8",
        )


def as_markdown(tables: Sequence[Table], about: dict[str, str]) -> str:
    lines = [f"{name}: {text}  " for name, text in about.items()]
    return "\n".join([*lines, "", *(table.markdown() for table in tables)])


def as_json(tables: Sequence[Table], about: dict[str, str]) -> str:
    content = about | {"tables": [dataclasses.asdict(table) for table in tables]}
    return json.dumps(content, indent=1) + "\n"
