"""What a network costs: the multiply-adds of one picture, layer by layer."""

import math
import re
from collections.abc import Sequence
from typing import Any

import keras

from keras_effnetv2._common.checks import is_integer, plain
from keras_effnetv2.models.blocks import channel_axis
from keras_effnetv2.models.graph import has_outputs, is_open, traced_layers

_layers = keras.layers
_CELLS = (_layers.SimpleRNNCell, _layers.LSTMCell, _layers.GRUCell)
_Shape = tuple[int, ...]


def count_flops(model: keras.Model, image_size: int | tuple[int, int]) -> int:
    """Return the multiply-adds of one picture, which is what the paper's FLOPs are.

    Convolutions of all kinds, dense, recurrent and attention layers count; normalisation,
    activations, pooling, embeddings and `keras.ops` do not.

    Args:
        model: a functional model with one picture input, nested models included.
        image_size: side in pixels, or (height, width).

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: the size does not suit the model, the model is not functional, or a layer with
            a matrix of weights is none that is known; the message lists those.
    """
    size = plain(image_size)
    sides = size if isinstance(size, tuple) else (size, size)
    if len(sides) != 2 or not all(is_integer(n) and n > 0 for n in sides):
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size!r}"
        )
    if not is_open(model) or len(model.inputs[0].shape) != 4:
        raise ValueError(
            "count_flops needs a functional model with one (batch, height, width, channels) "
            f"input. Received: {model!r}"
        )
    static = model.inputs[0].shape
    shape = (1, static[1], *sides) if channel_axis() == 1 else (1, *sides, static[-1])
    if any(n not in (None, asked) for n, asked in zip(static[1:], shape[1:], strict=True)):
        raise ValueError(
            f"The model {model.name!r} has the fixed input shape {static}. "
            f"Received: image_size={image_size!r}"
        )
    unknown: list[str] = []
    total = _multiply_adds(model, [shape], shape, unknown)
    if unknown:
        names = list(dict.fromkeys(unknown))
        more = f" and {len(names) - 10} more" if len(names) > 10 else ""
        raise ValueError(
            "count_flops knows layers of Keras and functional models of them. Build these parts "
            f"of {model.name!r} that way, or add their multiply-adds yourself. "
            f"Received: {', '.join(names[:10])}{more}"
        )
    return total


def _multiply_adds(layer: Any, sources: list[_Shape], result: _Shape, unknown: list[str]) -> int:
    """Return those of one call, from the shapes of what goes in and comes out.

    Notes the layers that are not known.
    """

    def inside(part: Any, sources: Any = sources, result: Any = result) -> int:
        return _multiply_adds(part, sources, result, unknown)

    weights = {weight.path: tuple(weight.shape) for weight in getattr(layer, "weights", ())}
    match layer:
        case keras.Model() if has_outputs(layer):
            calls = traced_layers(layer, *sources)
            return sum(
                inside(part, [x.shape for x in given], results[0].shape)
                for part, given, results in calls
            )
        case _layers.TimeDistributed():  # the steps are as good as pictures
            steps = [(a * b, *rest) for a, b, *rest in (sources[0], result)]
            return inside(layer.layer, steps[:1], steps[1])
        case _layers.Wrapper():
            return inside(layer.layer)
        case _layers.Bidirectional():
            return inside(layer.forward_layer) + inside(layer.backward_layer)
        case _layers.RNN() if all(isinstance(cell, _CELLS) for cell in _cells(layer)):
            kernels = [x for cell in _cells(layer) for x in (cell.kernel, cell.recurrent_kernel)]
            return math.prod(sources[0][:2]) * sum(math.prod(kernel.shape) for kernel in kernels)
        case _layers.MultiHeadAttention():
            return _attention_projections(weights, sources) + _attention(
                sources, layer.num_heads * (layer.key_dim + layer.value_dim), layer.attention_axes
            )
        case _layers.Attention():  # AdditiveAttention, too
            return _attention(sources, sources[0][-1] + sources[1][-1], None)
        case _layers.EinsumDense():
            # Every output value is a sum over the kernel's axes that the output has not.
            _, kernel, output = re.split(",|->", layer.equation)
            axes = zip(kernel, layer.kernel.shape, strict=True)
            return math.prod(result) * math.prod(n for axis, n in axes if axis not in output)
        case _layers.DepthwiseConv1D() | _layers.DepthwiseConv2D():
            # (kh, kw, C, multiplier): every output value is a sum over one channel's window.
            return math.prod(layer.kernel.shape[:-2]) * math.prod(result)
        case _layers.SeparableConv1D() | _layers.SeparableConv2D():
            # (kh, kw, C, multiplier), then (1, 1, C * multiplier, filters).
            places = math.prod(result) // layer.filters
            first, second = layer.depthwise_kernel.shape, layer.pointwise_kernel.shape
            return places * (math.prod(first) + math.prod(second))
        case _layers.Conv1DTranspose() | _layers.Conv2DTranspose() | _layers.Conv3DTranspose():
            # (kh, kw, filters, C): every input value is added to a window of every filter.
            return math.prod(layer.kernel.shape[:-1]) * math.prod(sources[0])
        case _layers.Conv1D() | _layers.Conv2D() | _layers.Conv3D() | _layers.Dense():
            # (kh, kw, C / groups, filters) or (C, units): a sum over all but the last axis.
            return math.prod(layer.kernel.shape[:-1]) * math.prod(result)
        case _layers.Embedding() | _layers.PReLU() | _layers.LayerNormalization():
            return 0
    if isinstance(layer, keras.Model) or any(len(shape) > 1 for shape in weights.values()):
        unknown.append(f"{layer.name!r} ({type(layer).__name__})")
    return 0  # vectors scale or shift channels, as batch norms do


def _cells(layer: Any) -> list[Any]:
    return getattr(layer.cell, "cells", [layer.cell])


def _attention_projections(weights: dict[str, _Shape], sources: list[_Shape]) -> int:
    """Return the multiply-adds of the dense layers in an attention layer."""
    queries, values = (math.prod(shape[:-1]) for shape in sources[:2])
    total = 0
    for path, shape in weights.items():
        *_, part, name = path.split("/")
        if name == "kernel":
            total += math.prod(shape) * (values if part in ("key", "value") else queries)
    return total


def _attention(sources: list[_Shape], widths: int, axes: Sequence[int] | None) -> int:
    """Return the multiply-adds of scores and weighted sums: each query with each value."""
    queries, values = sources[:2]
    attended = values[1:-1] if axes is None else [values[axis] for axis in axes]
    return math.prod(queries[:-1]) * math.prod(attended) * widths
