"""What a type checker and an editor see of the package from outside."""

import ast
import inspect
import re
import subprocess
import sys
from importlib.resources import files
from pathlib import Path

import pytest

import keras_effnetv2 as kev2

PROGRAM = """
import keras_effnetv2 as kev2

config = kev2.ModelConfig.from_name("efficientnetv2-b0").scaled(width=1.1)
rates: tuple[float, float] = (config.dropout_rate, config.width)
model = kev2.EfficientNetV2B0(weights=None, classes=3, dropout_rate=0.1)
stages = kev2.progressive_stages("efficientnetv2-s", epochs=8)
recipe: kev2.TrainRecipe = kev2.TrainRecipe.preset("finetune")
rows = [row.url for row in kev2.available_weights()]
kev2.augment.apply
"""
WRONG = {
    "kev2.no_such_name": 'has no attribute "no_such_name"',
    "kev2.ModelConfig.from_name(42)": 'incompatible type "int"; expected "str"',
    "kev2.EfficientNetV2B0(clases=3)": 'Unexpected keyword argument "clases"',
    "kev2.train": "",
}
REPOSITORY = Path(kev2.__file__).parent.parent


def test_a_program_that_uses_the_package_is_checked(tmp_path):
    """With the settings of the repository, so that what `make lint` found out is used again."""
    first = len(PROGRAM.splitlines()) + 1
    (tmp_path / "program.py").write_text(PROGRAM + "\n".join(WRONG))
    command = [sys.executable, "-m", "mypy", tmp_path / "program.py"]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True).stdout
    errors = [line for line in said.splitlines() if ": error: " in line]
    assert all("program.py:" in line for line in errors), said
    found = {int(line.partition("program.py:")[2].split(":")[0]): line for line in errors}
    for number, (code, words) in enumerate(WRONG.items(), start=first):
        assert words in found.pop(number, ""), f"{code}: {said}"
    assert not found


def test_the_imports_for_type_checkers_are_those_at_run_time():
    tree = ast.parse(Path(kev2.__file__).read_text("utf-8"))
    (block,) = (
        part
        for part in tree.body
        if isinstance(part, ast.If) and getattr(part.test, "id", "") == "TYPE_CHECKING"
    )
    checked = {}
    for part in block.body:
        assert all(alias.asname == alias.name for alias in part.names)  # which re-exports it
        checked |= {alias.name: part.module for alias in part.names}
    assert set(checked) | {"__version__"} == set(kev2.__all__)
    for name, module in checked.items():
        value = getattr(kev2, name)
        assert value is getattr(sys.modules[module], name)


def test_the_package_says_that_it_has_types():
    assert files("keras_effnetv2").joinpath("py.typed").is_file()


@pytest.mark.parametrize("name", ["EfficientNetV2B0", "EfficientNetB7", "EfficientNetLite4"])
def test_a_builder_shows_its_arguments(name):
    builder = getattr(kev2, name)
    own, of_all = inspect.signature(builder), inspect.signature(kev2.build_model)
    assert list(own.parameters) == list(of_all.parameters)[1:]
    defaults = {key: one.default for key, one in of_all.parameters.items() if key != "config"}
    assert {key: one.default for key, one in own.parameters.items()} == defaults | {
        "weights": "imagenet"
    }
    described = re.findall(r"^    (\w+): ", inspect.getdoc(builder), flags=re.MULTILINE)
    assert list(own.parameters) == [name for name in described if name in of_all.parameters]
    with pytest.raises(TypeError, match="unexpected keyword argument 'clases'"):
        builder(clases=3)
