"""The structure of a network: its calls of layers, and how it ends.

Keras has no public access to the calls of layers in a model. The private names needed for that are
used only here; tests/test_keras_private.py lists them.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any

import keras
import numpy as np

# Of the sum of 1,000 probabilities in half precision.
_ROUNDING = 0.01
# How far below zero, against its maximum, a function such as SiLU goes that leaves features.
_RECTIFIED = 0.1


def count_trainable(model: keras.Model) -> int:
    """Return the number of trained parameters, without batch statistics."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def all_layers(model: keras.layers.Layer) -> list[Any]:
    """Return every layer of a model, including those inside nested models."""
    return list(model._flatten_layers(include_self=False))  # `model.layers` stops at the top level


def copy_weights(sources: Iterable[Any], targets: Iterable[Any]) -> None:
    """Give variables the values of others, one by one.

    By way of NumPy: on JAX `target.assign(source)` shares the buffer of the two, and `fit` and
    `predict` of either model delete it.
    """
    for source, target in zip(sources, targets, strict=True):
        target.assign(keras.ops.convert_to_numpy(source))


def bare_graph(model: keras.Model) -> keras.Model:
    """Return a functional or Sequential model as a functional one that is not compiled.

    It shares everything with the model. `keras.models.clone_model` compiles the copy of a compiled
    model, and cannot leave out a layer of a Sequential.
    """
    if isinstance(model, keras.Sequential):
        return keras.Model(model.inputs[0], model.outputs[0], name=model.name)
    return keras.Model(model.input, model.output, name=model.name)


def call_of(tensor: Any) -> Any:
    """Return the call of a layer, see `graph_nodes`, that made a symbolic tensor."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def connected_names(tensor: Any) -> set[str]:
    """Return the names of all layers that a symbolic tensor hangs together with, in any model."""
    seen = set()
    waiting = [tensor._keras_history.operation]
    while waiting:
        operation = waiting.pop()
        if operation in seen:
            continue
        seen.add(operation)
        for node in operation._inbound_nodes:
            waiting += [source._keras_history.operation for source in node.input_tensors]
        waiting += [node.operation for node in operation._outbound_nodes]
    return {operation.name for operation in seen}


def graph_nodes(model: keras.Model) -> list[Any]:
    """Return the calls of layers in a functional or Sequential model, in the order they run.

    A shared layer has one for each call. Each is one of Keras' nodes, with `operation` (the layer),
    `input_tensors` and `outputs`; Keras has no public access to them. Inputs are left out.
    """
    graph = keras.Model(model.inputs, model.outputs)  # a Sequential has a graph only this way
    by_depth = graph._nodes_by_depth
    nodes = chain.from_iterable(by_depth[depth] for depth in sorted(by_depth, reverse=True))
    return [node for node in nodes if node.input_tensors]


def is_open(layer: Any) -> bool:
    """Return whether a layer is a model with one input, whose own graph can be walked."""
    return isinstance(layer, keras.Model) and len(getattr(layer, "inputs", None) or ()) == 1


def has_outputs(layer: Any) -> bool:
    """Return whether a layer is a built functional or Sequential model."""
    return isinstance(layer, keras.Model) and bool(getattr(layer, "outputs", None))


def traced_layers(
    model: keras.Model, *input_shapes: tuple[int | None, ...]
) -> Iterator[tuple[Any, list[Any], list[Any]]]:
    """Yield (layer, its inputs, its outputs) of each call; of a nested model those inside.

    Inputs and outputs have the shapes and dtypes that follow from those of the model's inputs, with
    the batch; nothing is computed.
    """
    nodes = graph_nodes(model)
    ends = [[*node.input_tensors, *node.outputs] for node in nodes]
    specs = keras.Model(model.inputs, ends).compute_output_spec(
        [keras.KerasTensor(shape) for shape in input_shapes]
    )
    for node, spec in zip(nodes, specs, strict=True):
        given, results = spec[: len(node.input_tensors)], spec[len(node.input_tensors) :]
        if has_outputs(node.operation):
            yield from traced_layers(node.operation, *(source.shape for source in given))
        else:
            yield node.operation, given, results


def last_activation(tensor: Any) -> str:
    """Return what a symbolic tensor has gone through last, judged by what comes out.

    The layers behind the last one with weights, and that one's activation, are given numbers from
    about -20 to 20 in place of what the network makes: no name counts, no network runs.

    Returns:
        "softmax": all in 0..1, and each row sums to one. "sigmoid": all in 0..1. "rectified":
        large numbers, but (almost) none below zero, as a ReLU leaves them. "linear": any other.
    """
    rows = keras.ops.convert_to_numpy(keras.ops.cast(_sample(tensor), "float32"))
    low, high = rows.min(), rows.max()
    if low >= 0 and 0 < high <= 1 + _ROUNDING:
        return "softmax" if abs(rows.sum(-1) - 1).max() < _ROUNDING else "sigmoid"
    return "rectified" if -low < _RECTIFIED * high else "linear"


def sampled_range(tensor: Any) -> tuple[float, float]:
    """Return the least and the largest of the numbers by which `last_activation` judges."""
    rows = keras.ops.convert_to_numpy(keras.ops.cast(_sample(tensor), "float32"))
    return float(rows.min()), float(rows.max())


def limit_of_two_activations(output: Any) -> float | None:
    """Return what no probability can pass because a softmax or sigmoid got probabilities.

    None if the symbolic tensor `output` has no such pair at its end. For numbers in 0..1 a sigmoid
    stays below e / (e + 1), a softmax of n classes below e / (e + n - 1).
    """
    others = output.shape[-1] - 1 if last_activation(output) == "softmax" else 1
    limit = math.e / (math.e + others)
    largest = limit * (1 + _ROUNDING)
    if sampled_range(output)[1] > largest:
        return None
    tensor = output
    while len((call := call_of(tensor)).input_tensors) == 1:
        if has_outputs(call.operation):
            tensor = call.operation.outputs[tensor._keras_history.tensor_index]
            continue
        if getattr(call.operation, "weights", None):
            return None
        tensor = call.input_tensors[0]
        if last_activation(tensor) in ("softmax", "sigmoid") and sampled_range(tensor)[1] > largest:
            return limit
    return None


def _sample(tensor: Any) -> Any:
    """Return what a symbolic tensor may hold, for random values of what goes before it."""
    call, index = call_of(tensor), tensor._keras_history.tensor_index
    layer = call.operation
    if has_outputs(layer):
        return _sample(layer.outputs[index])
    if not call.input_tensors:
        return _noise(tensor)
    sample = _sample
    if getattr(layer, "weights", None):
        is_stock = getattr(keras.layers, type(layer).__name__, None) is type(layer)
        if is_stock and hasattr(layer, "activation"):
            return layer.activation(_noise(tensor))
        sample = partial(_noise, side=32)  # it may be a whole network, which wants a picture
    values = {id(source): sample(source) for source in call.input_tensors}
    args, keywords = call.arguments.fill_in(values)
    return keras.tree.flatten(layer(*args, **keywords))[index]


def _noise(tensor: Any, side: int = 4) -> Any:
    shape = [16, *(side if length is None else length for length in tensor.shape[1:])]
    numbers = np.random.default_rng(0).normal(scale=5.0, size=shape)
    return keras.ops.convert_to_tensor(numbers, tensor.dtype)
