"""Reads the notebooks in examples/notebooks, and executes them without Jupyter."""

import contextlib
import io
import json
import logging
import re
from pathlib import Path

import pytest

from helpers.quick_runs import leave_out_results

ROOT = Path(__file__).parent.parent.parent
NOTEBOOKS = sorted((ROOT / "examples/notebooks").glob("*.ipynb"))


def cells_of(path, cell_type):
    """Returns the cells of a type."""
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == cell_type]


def text_of(path, cell_type):
    """Returns what a person wrote into the cells of a type."""
    return "\n\n".join("".join(cell["source"]) for cell in cells_of(path, cell_type))


def program_of(path):
    """Returns the code of all cells, compiled; in place of `%pip` it has an error."""
    code = re.sub(r"^( *)%pip .*", r"\1raise ImportError", text_of(path, "code"), flags=re.M)
    return compile(code, path.name, "exec")


def execute(path):
    """Executes one in the current folder; returns what it printed, and how many pictures it drew.

    `train` writes neither export nor report, which other tests do.
    """
    import matplotlib.pyplot as plt

    tensorflow = logging.getLogger("tensorflow")
    level = tensorflow.level  # which the notebooks change
    plt.switch_backend("Agg")
    plt.close("all")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_results(patch)
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            exec(program_of(path), {"__name__": "__main__"})
    tensorflow.setLevel(level)
    pictures = len(plt.get_fignums())
    plt.close("all")
    return printed.getvalue(), pictures
