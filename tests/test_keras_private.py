"""Private names of Keras: which the package needs, and where alone they may stand.

They are why pyproject.toml caps Keras at the minor version that was tested.
"""

import ast
from pathlib import Path

import keras
import pytest

import keras_effnetv2

PACKAGE = Path(keras_effnetv2.__file__).parent
inputs = keras.Input((4, 4, 3))
model = keras.Model(inputs, keras.layers.Conv2D(2, 1)(inputs))
node = model.layers[1]._inbound_nodes[0]
optimizer = keras.optimizers.SGD()
adam = keras.optimizers.Adam()
for one in (optimizer, adam):
    one.build(model.trainable_variables)

OURS = {"_inputs", "_path"}  # which classes of this package have, too
NEEDED = {
    "models/graph.py": {
        "_flatten_layers": model,
        "_get_call_context": model,
        "_nodes_by_depth": model,
        "_keras_history": inputs,
        "_inbound_nodes": model.layers[1],
        "_outbound_nodes": model.layers[0],
        "operation": node,
        "input_tensors": node,
        "outputs": node,
        "arguments": node,
        "fill_in": node.arguments,
    },
    "recipes/optimizers.py": {
        "_apply_weight_decay": optimizer,
        "_get_variable_index": optimizer,
        "_iterations": optimizer,
        "_trainable_variables": optimizer,
        "_backend_apply_gradients": optimizer,
        "_backend_update_step": optimizer,
        "_momentums": adam,
        "_velocities": adam,
        "_clip_gradients": optimizer,
    },
}


@pytest.mark.parametrize(
    ("name", "owner"), [item for names in NEEDED.values() for item in names.items()]
)
def test_keras_has_the_private_names_that_are_needed(name, owner):
    assert hasattr(owner, name), (
        f"Keras {keras.__version__} has no {type(owner).__name__}.{name} any more: see "
        f"{[place for place, names in NEEDED.items() if name in names]}"
    )


def private(name):
    return name.startswith("_") and not name.startswith("__")


def test_no_other_file_uses_private_names_of_keras():
    owners = (model, *model.layers, inputs, node, optimizer, adam, keras.callbacks.Callback())
    of_keras = {name for owner in owners for name in dir(owner) if private(name)} - OURS
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        used = set()
        for part in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(part, ast.Attribute | ast.FunctionDef):
                used.add(part.attr if isinstance(part, ast.Attribute) else part.name)
            elif isinstance(part, ast.ImportFrom | ast.Import):
                names = [part.module or ""] if isinstance(part, ast.ImportFrom) else []
                names += [alias.name for alias in part.names]
                used.update("keras.src" for name in names if name.startswith("keras.src"))
        if used & (of_keras | {"keras.src"}):
            found[path.relative_to(PACKAGE).as_posix()] = used & (of_keras | {"keras.src"})
    needed = {place: set(filter(private, names)) for place, names in NEEDED.items()}
    assert found == needed
