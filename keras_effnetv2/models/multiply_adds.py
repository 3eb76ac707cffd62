"""What a network costs: the multiply-adds of one picture, layer by layer."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from keras_effnetv2._common.checks import is_integer, plain
from keras_effnetv2._common.text import listed
from keras_effnetv2.models.blocks import channel_axis
from keras_effnetv2.models.graph import all_layers, has_outputs, is_open, traced_layers

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
        ValueError: the size does not suit the model, the model is not functional, or it has
            unknown layers with matrices of weights; the message lists them.
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
    costs = [(call[0], _cost(*call)) for call in _calls(model, [shape], shape)]
    unknown = [f"{one.name!r} ({type(one).__name__})" for one, cost in costs if cost is None]
    if unknown:
        names = list(dict.fromkeys(unknown))
        raise ValueError(
            "count_flops knows layers of Keras and functional models of them. Build these parts "
            f"of {model.name!r} that way, or add their multiply-adds yourself. "
            f"Received: {listed(names, 10)}"
        )
    return sum(cost for _, cost in costs if cost is not None)


def _calls(
    layer: Any, sources: list[_Shape], result: _Shape
) -> Iterator[tuple[Any, list[_Shape], _Shape]]:
    """Yield (layer, shapes of its inputs, shape of its output) of each call in a layer."""
    match layer:
        case keras.Model() if has_outputs(layer):
            for part, given, results in traced_layers(layer, *sources):
                yield from _calls(part, [x.shape for x in given], results[0].shape)
        case _layers.TimeDistributed():  # steps count like pictures
            steps = [(a * b, *rest) for a, b, *rest in (sources[0], result)]
            yield from _calls(layer.layer, steps[:1], steps[1])
        case _layers.Bidirectional():
            yield from _calls(layer.forward_layer, sources, result)
            yield from _calls(layer.backward_layer, sources, result)
        case _layers.Wrapper():
            yield from _calls(layer.layer, sources, result)
        case _:
            yield layer, sources, result


def _cost(layer: Any, sources: list[_Shape], result: _Shape) -> int | None:
    """Return the multiply-adds of one call; None if the layer is not known."""
    match layer:
        case _layers.RNN() if all(isinstance(cell, _CELLS) for cell in _cells(layer)):
            kernels = [x for cell in _cells(layer) for x in (cell.kernel, cell.recurrent_kernel)]
            return math.prod(sources[0][:2]) * sum(math.prod(kernel.shape) for kernel in kernels)
        case _layers.MultiHeadAttention():
            widths = layer.num_heads * (layer.key_dim + layer.value_dim)
            return _projections(layer, sources) + _attention(sources, widths, layer.attention_axes)
        case _layers.Attention():  # AdditiveAttention, too
            return _attention(sources, sources[0][-1] + sources[1][-1], None)
        case _layers.EinsumDense():
            # Every output value is a sum over the kernel's axes that the output lacks.
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
    is_opaque = isinstance(layer, keras.Model)
    if is_opaque or any(len(weight.shape) > 1 for weight in getattr(layer, "weights", ())):
        return None
    return 0  # vectors scale or shift channels, as batch norms do


def _cells(layer: Any) -> list[Any]:
    return getattr(layer.cell, "cells", [layer.cell])


def _projections(layer: Any, sources: list[_Shape]) -> int:
    """Return the multiply-adds of the dense layers in an attention layer."""
    queries, values = (math.prod(shape[:-1]) for shape in sources[:2])
    return sum(
        math.prod(part.kernel.shape) * (values if part.name in ("key", "value") else queries)
        for part in all_layers(layer)
        if isinstance(part, _layers.EinsumDense)
    )


def _attention(sources: list[_Shape], widths: int, axes: Sequence[int] | None) -> int:
    """Return the multiply-adds of scores and weighted sums: each query with each value."""
    queries, values = sources[:2]
    attended = values[1:-1] if axes is None else [values[axis] for axis in axes]
    return math.prod(queries[:-1]) * math.prod(attended) * widths
