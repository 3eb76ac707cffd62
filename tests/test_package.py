"""The package as a whole: what importing it costs, its layers, its documentation, its size."""

import ast
import importlib.metadata
import inspect
import subprocess
import sys
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import NamedTuple

import pytest

import keras_effnetv2 as kev2

PACKAGE = Path(kev2.__file__).parent
SLOW_TO_IMPORT = {"jax", "keras", "numpy", "sklearn", "tensorflow", "torch"}
MAX_FILE_LINES = 500
MAX_FUNCTION_LINES = 70  # signature and body; a docstring may be as long as it has to be

# Every module, lowest layer first: a module imports only from modules above it. Beside each stand
# the third-party packages that it may import as soon as it is imported. "" is the package itself.
LAYERS: dict[str, set[str]] = {
    "_version": set(),
    "data": set(),
    "pretrained": set(),
    "training": set(),
    "variants": set(),
    "checksums": set(),
    "machine": set(),
    "whole_files": set(),
    "config": set(),
    "config_file": set(),
    "blocks": {"keras"},
    "pretrained.bounded": set(),
    "pretrained.bundle": set(),
    "pretrained.hdf5": {"h5py", "ml_dtypes", "numpy"},
    "pretrained.places": {"keras"},
    "pretrained.legacy_h5": {"keras", "numpy"},
    "pretrained.keras_applications": {"keras"},
    "pretrained.leondgarse": {"keras"},
    "pretrained.keras_file": {"keras", "numpy"},
    "pretrained.official": {"keras", "numpy"},
    "pretrained.timm": {"keras", "ml_dtypes", "numpy", "safetensors"},
    "pretrained.recognise": set(),
    "pretrained.load": {"keras", "numpy"},
    "pretrained.registry": set(),
    "pretrained.fetch": set(),
    "labels": set(),
    "model": {"keras"},
    "applications": {"keras", "numpy"},
    "architecture": {"keras"},
    "search": set(),
    "search.space": set(),
    "search.scaling": set(),
    "headers": {"numpy", "tensorflow"},
    "decode": {"tensorflow"},
    "preprocess": {"tensorflow"},
    "random_crop": {"tensorflow"},
    "data.stores": {"numpy", "tensorflow"},
    "data.records": {"numpy", "tensorflow"},
    "data.catalog": {"numpy", "tensorflow"},
    "data.folder": {"numpy"},
    "data.csv_file": {"numpy"},
    "data.digits": {"numpy", "tensorflow"},
    "data.packed": {"numpy"},
    "data.record_index": {"numpy", "tensorflow"},
    "data.tfrecord": {"numpy"},
    "data.tfds": {"numpy"},
    "data.pack_writer": {"numpy", "tensorflow"},
    "data.source_cache": {"numpy", "tensorflow"},
    "data.splits": {"numpy"},
    "data.sources": {"numpy", "tensorflow"},
    "data.class_match": set(),
    "data.scan": {"numpy", "tensorflow"},
    "data.pack": set(),
    "data.unreadable": {"numpy", "tensorflow"},
    "data.augment_levels": set(),
    "data.augment_ops": {"tensorflow"},
    "data.augment": {"tensorflow"},
    "data.autoaugment": {"tensorflow"},
    "data.mixing": {"tensorflow"},
    "data.pipeline": {"tensorflow"},
    "report_style": {"numpy"},
    "report_charts": {"numpy"},
    "report": {"numpy"},
    "evaluation": {"keras", "numpy"},
    "folding": {"keras", "numpy"},
    "serving_warmup": {"tensorflow"},
    "export_check": {"keras", "numpy", "tensorflow"},
    "export_signatures": {"keras", "tensorflow"},
    "model_card": {"keras", "tensorflow"},
    "export": {"keras", "tensorflow"},
    "runtimes": {"numpy"},
    "converters": {"numpy", "tensorflow"},
    "real_pictures": {"numpy"},
    "formats": {"keras", "numpy", "tensorflow"},
    "training.stages": set(),
    "training.schedule": {"keras"},
    "training.optimizers": {"keras"},
    "training.recipe_presets": set(),
    "training.recipe": {"keras"},
    "training.progressive": {"keras", "tensorflow"},
    "training.ema": {"keras", "tensorflow"},
    "training.workers": {"keras", "tensorflow"},
    "training.preflight": {"keras", "numpy", "tensorflow"},
    "training.transfer": {"keras"},
    "training.footprint": {"keras", "tensorflow"},
    "training.findings": {"keras", "numpy", "tensorflow"},
    "training.run_folder": {"keras"},
    "training.interruption": set(),
    "training.history": {"keras"},
    "training.snapshots": {"h5py", "keras", "numpy"},
    "training.samples": {"numpy"},
    "training.run_report": {"numpy"},
    "training.assemble": {"keras", "numpy"},
    "training.preview": {"keras", "numpy"},
    "training.results": {"keras", "numpy"},
    "training.fit": {"keras", "numpy", "tensorflow"},
    "weight_files": {"keras", "numpy"},
    "benchmark": set(),
    "benchmark.timing": {"numpy"},
    "search.objective": set(),
    "search.record": set(),
    "search.front": set(),
    "search.summary": set(),
    "search.chart": set(),
    "search.report": set(),
    "search.storage": {"optuna"},
    "search.step_time": {"keras", "numpy", "tensorflow"},
    "search.training": {"keras"},
    "search.engine": {"numpy", "optuna"},
    "benchmark.paper": set(),
    "benchmark.contestants": {"keras", "numpy", "tensorflow"},
    "benchmark.comparison": {"numpy"},
    "benchmark.report": {"numpy"},
    "reproduce": set(),
    "reproduce.tables": set(),
    "reproduce.measure": {"keras", "numpy"},
    "reproduce.report": set(),
    "reproduce.scaling": set(),
    "grad_cam": {"keras", "numpy", "tensorflow"},
    "serve": set(),
    "serve.errors": set(),
    "serve.saved_model": {"numpy", "tensorflow"},
    "serve.batching": {"numpy"},
    "serve.body": {"starlette"},
    "serve.metrics": set(),
    "serve.service": {"numpy", "tensorflow"},
    "serve.overlay": {"numpy", "tensorflow"},
    "serve.page": set(),
    "serve.hosts": {"starlette"},
    "serve.connections": {"uvicorn"},
    "serve.rest_json": {"numpy", "tensorflow"},
    "serve.app": {"fastapi", "starlette"},
    "serve.grpc_messages": {"google", "numpy", "tensorflow", "tensorflow_serving"},
    "serve.grpc_service": {"grpc", "tensorflow_serving"},
    "serve.server": {"numpy", "tensorflow", "uvicorn"},
    "cli_training": set(),
    "cli_benchmark": set(),
    "cli_reproduce": set(),
    "cli_search": set(),
    "cli_export": set(),
    "cli_serve": set(),
    "cli_parser": set(),
    "cli_evaluate": set(),
    "cli_pack": set(),
    "cli_weights": set(),
    "cli": set(),
    "__main__": set(),
    "": set(),
}
# What a module may import in addition when a function is called that needs it.
WITHIN_FUNCTIONS = {
    "labels": {"keras", "numpy"},
    "pretrained.bundle": {"tensorflow"},
    "pretrained.official": {"tensorflow"},
    "data.tfds": {"tensorflow_datasets"},
    "data.digits": {"sklearn"},
    "report_style": {"tensorflow"},
    "training.ema": {"jax"},
    "training.optimizers": {"tensorflow"},
    "training.workers": {"jax"},
    "cli_benchmark": {"keras", "numpy", "tensorflow"},
    "cli_evaluate": {"numpy"},
    "cli_reproduce": {"keras"},
}


class Import(NamedTuple):
    """Something imported, e.g. "keras.layers", and whether already when its importer is."""

    name: str
    at_once: bool


def module_name(path: Path) -> str:
    """Name of a file's module below the package, e.g. "data.pipeline"; "" is the package."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path.read_text("utf-8") for path in PACKAGE.rglob("*.py")}
FUNCTION_NODES = (ast.FunctionDef, ast.AsyncFunctionDef)


def imports_of(node: ast.AST, at_once: bool = True) -> Iterator[Import]:
    """All imports of a syntax tree; `from a import b` counts as `a.b`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import):
            yield from (Import(alias.name, at_once) for alias in child.names)
        elif isinstance(child, ast.ImportFrom):
            assert child.level == 0, f"line {child.lineno}: imports are absolute in this package"
            yield from (Import(f"{child.module}.{alias.name}", at_once) for alias in child.names)
        else:
            yield from imports_of(child, at_once and not isinstance(child, FUNCTION_NODES))


def own_module(name: str) -> str:
    """Our module that an import reaches: "keras_effnetv2.config.Stage" -> "config"."""
    path = name.removeprefix("keras_effnetv2").removeprefix(".")
    while path not in SOURCES:  # the last part is something in a module; "" is always there
        path = path.rpartition(".")[0]
    return path


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
        "import keras_effnetv2.cli",
    ],
)
def test_import_starts_nothing_and_prints_nothing(use):
    program = f"import sys, keras_effnetv2\n{use}\nprint({SLOW_TO_IMPORT} & set(sys.modules))"
    finished = run_python(program)
    assert (finished.stdout, finished.stderr) == ("set()\n", "")


def test_public_names_resolve_and_are_listed():
    assert len(kev2.__all__) == len(set(kev2.__all__))
    assert dir(kev2) == sorted(kev2.__all__)
    for name in kev2.__all__:
        assert getattr(kev2, name) is not None


def test_public_names_are_those_of_their_modules():
    from keras_effnetv2.config import ModelConfig
    from keras_effnetv2.data import augment
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


def test_every_module_has_its_layer():
    assert set(LAYERS) == set(SOURCES)
    assert set(WITHIN_FUNCTIONS) <= set(LAYERS)


@pytest.mark.parametrize("module", LAYERS)
def test_a_module_imports_only_from_layers_below(module):
    below = set(takewhile(lambda name: name != module, LAYERS))
    within_functions = LAYERS[module] | WITHIN_FUNCTIONS.get(module, set())
    for name, at_once in imports_of(ast.parse(SOURCES[module])):
        root = name.partition(".")[0]
        if root == "keras_effnetv2":
            assert own_module(name) in below, f"{module} imports {name}, which is above it"
        elif root not in sys.stdlib_module_names:
            allowed = LAYERS[module] if at_once else within_functions
            assert root in allowed, f"{module} imports {name}"


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
        if "those of `keras_effnetv2.build_model`" in text:
            text += kev2.build_model.__doc__
        is_sentence = "\n" not in text  # which may name an argument without a section for it
        assert is_sentence or "Args:" in text or not parameters, f"{name} has no section Args"
        missing = [p for p in parameters if (p if is_sentence else f"{p}:") not in text]
        assert not missing, f"{name} does not describe {missing}"
