"""What `pipeline.py` writes: tables, and where and how they were measured."""

import dataclasses
import importlib.metadata
import json
import os
import platform
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

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
    """The machine, the versions, the date and the command."""
    load = ", ".join(f"{load:.1f}" for load in os.getloadavg())
    return {
        "machine": f"{cpu_model()}, {os.cpu_count()} cores, load of 1, 5, 15 minutes: {load}",
        "versions": ", ".join([f"Python {platform.python_version()}", *installed_versions()]),
        "date": time.strftime("%Y-%m-%d %H:%M"),
        "command": shlex.join(["python", *sys.argv]),
    }


def cpu_model() -> str:
    """The processor's name for people, where Linux knows one."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def installed_versions() -> list[str]:
    """The versions of the packages that take part, of those that are there."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def write(tables: Sequence[Table], about: dict[str, str], paths: Sequence[Path]) -> None:
    """Writes the tables to every path, as Markdown or as JSON by its suffix."""
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
