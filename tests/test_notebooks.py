"""The notebooks: what was kept of their execution is whole, and they run."""

import importlib
import json
import os
import re
import sys

import pytest
from helpers.notebooks import NOTEBOOKS, cells_of, execute, program_of, text_of

import keras_effnetv2 as kev2

of_each = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
CODE_KEYS = {"cell_type", "execution_count", "id", "metadata", "outputs", "source"}


def outputs_of(path):
    return [output for cell in cells_of(path, "code") for output in cell["outputs"]]


def pictures_in(outputs):
    return sum(any("image" in kind for kind in output.get("data", ())) for output in outputs)


def without_numbers(text):
    return " ".join(re.sub(r"[-\d.,]*\d", "0", text).split())


@of_each
def test_format(path):
    """Version 4.5 of the format, https://nbformat.readthedocs.io/en/latest/format_description.html,
    and nothing of the machine it was executed on."""
    notebook = json.loads(path.read_text(encoding="utf-8"))
    assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
    assert notebook["metadata"] == {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    code, text = cells_of(path, "code"), cells_of(path, "markdown")
    assert len(code) + len(text) == len(notebook["cells"])
    assert all(set(cell) == CODE_KEYS and not cell["metadata"] for cell in code)
    assert all(set(cell) == CODE_KEYS - {"execution_count", "outputs"} for cell in text)
    ids = [cell["id"] for cell in notebook["cells"]]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", one) for one in ids)


@of_each
def test_every_cell_was_executed_and_its_outputs_kept(path):
    code, outputs = cells_of(path, "code"), outputs_of(path)
    assert [cell["execution_count"] for cell in code] == list(range(1, len(code) + 1))
    kinds = {(output["output_type"], output.get("name")) for output in outputs}
    assert kinds <= {("stream", "stdout"), ("display_data", None), ("execute_result", None)}
    assert pictures_in(outputs) > 0
    assert not re.search(r"/(tmp|home|root|work|usr|Users|content)/|[A-Z]:\\", json.dumps(outputs))
    assert path.stat().st_size < 300_000


def test_size_together():
    assert len(NOTEBOOKS) == 4
    assert sum(path.stat().st_size for path in NOTEBOOKS) < 1_000_000


@of_each
def test_names_exist(path):
    """Of the package, public ones alone, but for what is imported from where it stands."""
    assert program_of(path)
    code = text_of(path, "code")
    assert code.splitlines().count("TOY = True") == 1
    assert set(re.findall(r"\bkev2\.(\w+)", code)) <= set(kev2.__all__)
    for module, names in re.findall(r"^from (keras_effnetv2\.\S+) import (.*)", code, re.M):
        assert all(hasattr(importlib.import_module(module), name) for name in names.split(", "))


@pytest.mark.slow  # they train, export and serve
@of_each
def test_they_run(path, tmp_path, monkeypatch):
    """At toy size they print and draw what was kept of them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # of the server
    printed, pictures = execute(path)
    kept = "".join("".join(output.get("text", "")) for output in outputs_of(path))
    assert without_numbers(printed) == without_numbers(kept)
    assert pictures == pictures_in(outputs_of(path))
    for share in re.findall(r"(?:accuracy|precision) ([\d.]+)%", printed):
        assert float(share) > 60
