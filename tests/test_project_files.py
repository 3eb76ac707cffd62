"""Files of the project beside the package: workflows, forms, citation, versions of Python."""

import re
import tomllib
from pathlib import Path

import pytest
import yaml

import keras_effnetv2 as kev2

ROOT = Path(__file__).parent.parent
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def read_yaml(path: Path) -> dict:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def run_lines(workflow: Path) -> str:
    """All that the steps of a workflow run."""
    jobs = read_yaml(workflow)["jobs"].values()
    return "\n".join(step.get("run", "") for job in jobs for step in job["steps"])


@pytest.mark.parametrize(
    "path",
    [*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"],
    ids=lambda path: path.name,
)
def test_yaml_parses(path):
    assert isinstance(read_yaml(path), dict)


@pytest.mark.parametrize("workflow", WORKFLOWS, ids=lambda path: path.name)
def test_what_a_workflow_runs_exists(workflow):
    commands = run_lines(workflow)
    targets = re.findall(
        r"^(\w[\w-]*):", (ROOT / "Makefile").read_text("utf-8"), flags=re.MULTILINE
    )
    assert set(re.findall(r"\bmake (\w[\w-]*)", commands)) <= set(targets)
    assert all((ROOT / script).is_file() for script in re.findall(r"\.ci/\w+", commands))
    extras = {name for names in re.findall(r'"\.\[(.*?)\]"', commands) for name in names.split(",")}
    assert extras <= set(PROJECT["optional-dependencies"])


def test_the_versions_of_python_are_the_same_everywhere():
    versions = ["3.11", "3.12", "3.13"]
    classifiers = [text.rpartition(" ")[2] for text in PROJECT["classifiers"] if ":: 3." in text]
    quick = read_yaml(ROOT / ".github/workflows/tests.yml")["jobs"]["quick"]
    assert classifiers == quick["strategy"]["matrix"]["python"] == versions
    assert PROJECT["requires-python"] == ">=3.11,<3.14"


def test_the_citation_names_this_version():
    assert read_yaml(ROOT / "CITATION.cff")["version"] == kev2.__version__


def test_the_map_of_the_code_names_each_folder_in_the_order_of_imports():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)/` \|.*\| (.*) \|$", text, flags=re.MULTILINE)
    (contract,) = PYPROJECT["tool"]["importlinter"]["contracts"]
    assert [folder for folder, _ in rows] == contract["layers"][::-1]
    for folder, files in rows:
        for name in re.findall(r"`(.+?)`", files):
            assert (ROOT / "keras_effnetv2" / folder / name).is_file(), name


def test_files_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`([a-z_]+/[\w/.]+\.(?:py|json|md))`", text):
        assert (ROOT / name).is_file() or (ROOT / "keras_effnetv2" / name).is_file(), name
