"""The package as a whole: what importing it costs, its layers, its documentation, its size."""

import ast
import dataclasses
import importlib.metadata
import inspect
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import keras_effnetv2 as kev2
from keras_effnetv2.cli.main import parse

PACKAGE = Path(kev2.__file__).parent
SLOW_TO_IMPORT = {"jax", "keras", "numpy", "sklearn", "tensorflow", "torch"}
MAX_FILE_LINES = 500
_TRAINING = ("training", "recipes", "runs")
MAX_FUNCTION_LINES = 70  # signature and body; a docstring may be as long as it has to be


def module_name(path: Path) -> str:
    """Name of a file's module below the package, e.g. "data.pipeline"; "" is the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)


def run_python(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "use",
    [
        "",
        "dir(keras_effnetv2)",
        "keras_effnetv2.ModelConfig.from_name('efficientnetv2-s')",
        "import keras_effnetv2.cli.main",
    ],
)
def test_import_starts_nothing_and_prints_nothing(use):
    program = f"import sys, keras_effnetv2\n{use}\nprint({SLOW_TO_IMPORT} & set(sys.modules))"
    finished = run_python(program)
    assert (finished.stdout, finished.stderr) == ("set()\n", "")


def test_tensorflow_keeps_the_memory_of_a_step_for_the_next():
    import tensorflow as tf

    # The allocator of the system counts nothing, and the call fails: "stats not available".
    assert tf.config.experimental.get_memory_info("CPU:0").keys() == {"current", "peak"}


def test_public_names_resolve_and_are_listed():
    assert len(kev2.__all__) == len(set(kev2.__all__))
    assert dir(kev2) == sorted(kev2.__all__)
    for name in kev2.__all__:
        assert getattr(kev2, name) is not None


def test_public_names_are_those_of_their_modules():
    from keras_effnetv2 import augment
    from keras_effnetv2.architectures.config import ModelConfig
    from keras_effnetv2.training.fit import train

    assert kev2.ModelConfig is ModelConfig
    assert kev2.augment is augment
    assert kev2.train is train


def test_an_unknown_name_is_an_attribute_error():
    unknown = "EfficientNetV3"
    with pytest.raises(AttributeError, match="'keras_effnetv2' has no attribute 'EfficientNetV3'"):
        getattr(kev2, unknown)


def test_version_is_that_of_the_installed_package():
    assert kev2.__version__ == importlib.metadata.version("keras-effnetv2")


def test_a_file_has_a_name_of_its_own():
    names = Counter(name.rpartition(".")[2] for name in SOURCES)
    assert [name for name, files in names.items() if files > 1] == []


def test_a_public_class_has_a_name_of_its_own():
    names = Counter(
        node.name
        for source in SOURCES.values()
        for node in ast.parse(source).body
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_")
    )
    assert [name for name, classes in names.items() if classes > 1] == []


def line_count(node: ast.stmt) -> int:
    return node.end_lineno - node.lineno + 1


@pytest.mark.parametrize("module", SOURCES)
def test_files_and_functions_are_short(module):
    file_length = SOURCES[module].count("\n")
    assert file_length <= MAX_FILE_LINES
    for node in ast.walk(ast.parse(SOURCES[module])):
        if isinstance(node, FUNCTION_NODES):
            docstring = node.body[0] if ast.get_docstring(node) else None
            length = line_count(node) - (line_count(docstring) if docstring else 0)
            assert length <= MAX_FUNCTION_LINES, f"{node.name} has {length} lines"


def is_public_code(name: str, value: object, module: str) -> bool:
    is_code = inspect.isroutine(value) or inspect.isclass(value) or isinstance(value, property)
    return is_code and not name.startswith("_") and getattr(value, "__module__", module) == module


def public_objects() -> dict[str, object]:
    """What `__all__` reaches: functions, classes, their methods, and what its modules define."""
    found: dict[str, object] = {}
    for name in kev2.__all__:
        value = getattr(kev2, name)
        members = vars(value) if inspect.ismodule(value) else {name: value}
        module = value.__name__ if inspect.ismodule(value) else getattr(value, "__module__", "")
        found |= {
            member: code for member, code in members.items() if is_public_code(member, code, module)
        }
    for name, owner in list(found.items()):
        if inspect.isclass(owner):
            inherited = {member for base in owner.__mro__[1:] for member in vars(base)}
            found |= {
                f"{name}.{member}": code
                for member, code in vars(owner).items()
                # What overrides a method of Keras means what Keras says.
                if member not in inherited and is_public_code(member, code, owner.__module__)
            }
    return found


def test_errors_of_a_training_name_options_and_arguments_that_it_has():
    """Such as "(--image-size, image_size=)": options of `train`, and arguments of `kev2.train`."""
    options = vars(parse(["train", "--data", "digits", "--output", "x"]))["params"]
    recipe = {one.name for one in dataclasses.fields(kev2.TrainRecipe)}
    arguments = {*inspect.signature(kev2.train).parameters, *recipe} - {"fields"}
    found = []
    for path in (path for folder in _TRAINING for path in (PACKAGE / folder).glob("*.py")):
        text = re.sub(r'"\s*\n\s*f?"', "", path.read_text("utf-8"))  # one line, as it is said
        found += re.findall(r"\(--(?:no-)?([a-z-]+)[^()]*?, (\w+)=", text)
    assert len(found) > 20
    assert {option.replace("-", "_") for option, _ in found} <= {*options, "probe"}
    assert {argument for _, argument in found} <= arguments


def test_everything_public_is_documented():
    undocumented = [
        name
        for name, value in public_objects().items()
        # A dataclass without a docstring gets its signature for one.
        if not value.__doc__ or value.__doc__.startswith(f"{name}(")
    ]
    assert not undocumented, f"without docstring: {', '.join(undocumented)}"


def test_public_functions_document_their_arguments():
    for name, value in public_objects().items():
        if not inspect.isfunction(value) or "." in name:
            continue
        parameters = inspect.signature(value).parameters
        text = value.__doc__
        is_sentence = "\n" not in text  # which may name an argument without a section for it
        assert is_sentence or "Args:" in text or not parameters, f"{name} has no section Args"
        missing = [p for p in parameters if (p if is_sentence else f"{p}:") not in text]
        assert not missing, f"{name} does not describe {missing}"
