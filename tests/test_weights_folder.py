"""The folder weights/: the lists are what the registry gives, scripts run in a bare clone."""

import importlib.util
import os
import re
import shlex
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import yaml

import keras_effnetv2 as kev2
from keras_effnetv2.cli.main import parse
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, available_weights

FOLDER = Path(__file__).parent.parent / "weights"
README = (FOLDER / "README.md").read_text(encoding="utf-8")
COMMANDS = re.findall(r"^keras-effnetv2 (.*)$", README, flags=re.MULTILINE)


@pytest.fixture(scope="module")
def manifest():
    return (FOLDER / "MANIFEST.md").read_text(encoding="utf-8")


def test_the_lists_are_what_the_registry_gives(manifest, monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)  # as for a script that is run; undone afterwards
    spec = importlib.util.spec_from_file_location("make_manifest", FOLDER / "make_manifest.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert manifest == script.manifest(), "run: python weights/make_manifest.py"
    index = script.MODEL_INDEX.read_text(encoding="utf-8")
    assert index == script.model_index(), "run: python weights/make_manifest.py"


def test_the_model_index_has_a_row_for_each_set():
    index = yaml.safe_load((FOLDER.parent / "model-index.yml").read_text(encoding="utf-8"))
    rows = {row["Name"]: row for row in index["Models"]}
    assert set(rows) == {f"{found.variant}/{found.weights}" for found in WEIGHT_SETS.values()}
    # Published by google/automl; the paper's Table 7 has 85.1.
    (result,) = rows["efficientnetv2-m/imagenet"]["Results"]
    assert result["Metrics"] == {"Top 1 Accuracy": 85.2, "Top 1 Accuracy of the paper": 85.1}


def test_every_set_and_file_has_its_line(manifest):
    lines = manifest.splitlines()
    for found in WEIGHT_SETS.values():
        (line,) = [line for line in lines if f"({found.archive})" in line]
        assert line.startswith(f"| {found.variant} | {found.weights} | {found.classes:,} |")
        assert found.top1 is None or f"| {found.top1} |" in line
    for row in available_weights():
        (line,) = [line for line in lines if row.hash.partition(":")[2] in line]
        assert line.startswith(f"| {row.variant} | {row.weights} | ")
        assert f"({row.url})" in line
        assert row.licence in line


@pytest.mark.parametrize("script", ["convert", "verify"])
def test_scripts_run_in_a_clone_without_installation(script, tmp_path):
    finished = subprocess.run(
        # -S: site-packages is a plain folder, so that an editable installation is not found
        [sys.executable, "-S", FOLDER / f"{script}.py", "--help"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": sysconfig.get_path("purelib")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert f"keras-effnetv2 weights {script} " in finished.stdout


def test_readme_links_lead_somewhere():
    links = re.findall(r"\]\((?!https?:)([^)]+)\)", README)
    assert "MANIFEST.md" in links
    for link in links:
        assert (FOLDER / link).exists(), link


def test_readme_says_what_every_file_is():
    files = {path.name for path in FOLDER.iterdir() if path.is_file()} - {"README.md"}
    first_table = README.partition("\n## ")[0]
    assert files == set(re.findall(r"^\| [`[]([\w.]+)", first_table, flags=re.MULTILINE))


@pytest.mark.parametrize("command", COMMANDS)
def test_readme_commands_parse(command):
    parse(shlex.split(command))


def test_readme_has_a_command_for_every_action():
    paths = {parse(shlex.split(command)).command_path for command in COMMANDS}
    names = ("weights", "weights fetch", "weights convert", "weights verify")
    assert paths == {f"keras-effnetv2 {name}" for name in names}


def test_readme_examples_name_what_is_there():
    """They take weight files that are not here, so they are compiled only."""
    examples = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    assert len(examples) == 3
    for example in examples:
        compile(example, "weights/README.md", "exec")
        assert set(re.findall(r"\bkev2\.(\w+)", example)) <= set(kev2.__all__)
