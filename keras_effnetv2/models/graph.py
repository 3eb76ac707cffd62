"""The structure of a network: its calls of layers, and how it ends.

Keras has no public access to the calls of layers in a model. The private names needed for that are
used only here; tests/test_keras_private.py lists them.
"""

import math
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import keras
import numpy as np

_ROUNDING = 0.01  # of the sum of 1,000 probabilities in half precision
_RECTIFIED = 0.1  # SiLU goes this far below zero at most, as a share of its highest value here


def count_trainable(model: keras.Model) -> int:
    """Return the number of trained parameters, without batch statistics."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def all_layers(model: keras.layers.Layer) -> list[Any]:
    """Return every layer of a model, including those inside nested models."""
    return list(model._flatten_layers(include_self=False))  # `model.layers` stops at the top level


def is_training(layer: keras.layers.Layer) -> bool:
    """Return whether the call of a model that a layer is part of has `training=True`."""
    return bool(getattr(layer._get_call_context(), "training", None))


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
    """Return the names of all layers connected with a symbolic tensor, in any model."""
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


class Ending(NamedTuple):
    """How a network ends, judged by sampled outputs.

    The activation is "softmax": all numbers in 0..1, and each row sums to one; "sigmoid": all in
    0..1; "rectified": large numbers, but (almost) none below zero, as a ReLU leaves them; or
    "linear": any other.
    """

    activation: str
    lowest: float  # of the sampled numbers
    highest: float


def ending_of(tensor: Any) -> Ending:
    """Return how the layers before a symbolic tensor end.

    The layers after the last one with weights, and that one's activation, get numbers from about
    -20 to 20 in place of the network's: names do not count, and the network does not run.
    """
    rows = keras.ops.convert_to_numpy(keras.ops.cast(_sample(tensor), "float32"))
    low, high = float(rows.min()), float(rows.max())
    if low >= 0 and 0 < high <= 1 + _ROUNDING:
        kind = "softmax" if abs(rows.sum(-1) - 1).max() < _ROUNDING else "sigmoid"
    else:
        kind = "rectified" if -low < _RECTIFIED * high else "linear"
    return Ending(kind, low, high)


def last_activation(tensor: Any) -> str:
    """Return the last activation before a symbolic tensor, see `Ending`."""
    return ending_of(tensor).activation


def with_features(model: keras.Model) -> keras.Model:
    """Return a model with two outputs: what the classifier is computed from, and the scores.

    Args:
        model: functional or Sequential classifier with one input and one output (N, classes).

    Returns:
        A model with the same weights: the input of the last layer with weights, (N, C), which is
        the pooled feature map in networks of this package; and (N, classes).

    Raises:
        ValueError: there is no such layer, or its input is no row of numbers for a picture.
    """
    if not is_open(model) or len(model.outputs) != 1:
        raise ValueError(
            "Features are read from a functional or Sequential model with one input and one "
            f"output. Received: {model!r}"
        )
    graph = bare_graph(model)
    features = _before_weights(graph.outputs[0])
    if features is None or len(features.shape) != 2:
        raise ValueError(
            f"The model {model.name!r} has no features (N, C): its last layer with weights must "
            f"take one row of numbers per picture. Received: {getattr(features, 'shape', None)}"
        )
    return keras.Model(graph.inputs[0], [features, graph.outputs[0]])


def _before_weights(tensor: Any) -> Any:
    """Return the input of the last layer with weights before a symbolic tensor, or None."""
    while len((call := call_of(tensor)).input_tensors) == 1:
        layer, (source,) = call.operation, call.input_tensors
        if is_open(layer):
            inside = _before_weights(layer.outputs[tensor._keras_history.tensor_index])
            if inside is not None:
                return keras.Model(layer.inputs[0], inside)(source)
        elif getattr(layer, "weights", None):
            return source
        tensor = source
    return None


def limit_of_two_activations(output: Any) -> float | None:
    """Return the highest possible probability if a softmax or sigmoid follows another, else None.

    For numbers in 0..1 a sigmoid stays below e / (e + 1), a softmax of n classes below
    e / (e + n - 1).
    """
    end = ending_of(output)
    others = output.shape[-1] - 1 if end.activation == "softmax" else 1
    limit = math.e / (math.e + others)
    largest = limit * (1 + _ROUNDING)
    if end.highest > largest:
        return None
    tensor = output
    while len((call := call_of(tensor)).input_tensors) == 1:
        if has_outputs(call.operation):
            tensor = call.operation.outputs[tensor._keras_history.tensor_index]
            continue
        if getattr(call.operation, "weights", None):
            return None
        tensor = call.input_tensors[0]
        inner = ending_of(tensor)
        if inner.activation in ("softmax", "sigmoid") and inner.highest > largest:
            return limit
    return None


def _sample(tensor: Any) -> Any:
    """Return possible values of a symbolic tensor, from random values of those before it."""
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
        sample = partial(_noise, side=32)  # a whole network needs a picture
    values = {id(source): sample(source) for source in call.input_tensors}
    args, keywords = call.arguments.fill_in(values)
    return keras.tree.flatten(layer(*args, **keywords))[index]


def _noise(tensor: Any, side: int = 4) -> Any:
    shape = [16, *(side if length is None else length for length in tensor.shape[1:])]
    numbers = np.random.default_rng(0).normal(scale=5.0, size=shape)
    return keras.ops.convert_to_tensor(numbers, tensor.dtype)
