"""Batch normalisation folded into the convolutions before it: the same function, fewer operations.

With the moving statistics, batch normalisation is one scale and one offset a channel. The kernel
and the bias of a linear layer before it can absorb both (Jacob et al. 2018,
https://arxiv.org/abs/1712.05877, section 3.2).
"""

from collections import Counter
from dataclasses import dataclass
from itertools import chain
from string import ascii_letters
from typing import Any

import keras
import numpy as np

from keras_effnetv2.models.graph import (
    all_layers,
    bare_graph,
    call_of,
    copy_weights,
    graph_nodes,
    has_outputs,
)

_layers = keras.layers
_BatchNorm = keras.layers.BatchNormalization
_SEPARABLE = (_layers.SeparableConv1D, _layers.SeparableConv2D)
_DEPTHWISE = (_layers.DepthwiseConv1D, _layers.DepthwiseConv2D)
_TRANSPOSED = (_layers.Conv1DTranspose, _layers.Conv2DTranspose, _layers.Conv3DTranspose)
_LINEAR = (
    *(_layers.Conv1D, _layers.Conv2D, _layers.Conv3D, _layers.Dense),
    *_SEPARABLE,
    *_DEPTHWISE,
    *_TRANSPOSED,
)


@dataclass(frozen=True)
class _Rebuilt:
    """A layer of the new model, built but not filled yet."""

    layer: Any
    source: Any  # whose weights it takes; None for a scale and offset by themselves
    batch_norm: Any  # what is worked into it; None for nothing


def fold_batch_norm(model: keras.Model) -> keras.Model:
    """Build the same function without batch normalisation, for inference.

    If only a `BatchNormalization` uses the output of a linear layer (any convolution, `Dense`), it
    becomes part of that layer, which keeps its name and gets a bias. Any other one (after an
    addition, an activation, an input or a shared layer) becomes one scale and one offset a channel
    under its own name: a 1x1 `DepthwiseConv2D` on (N, H, W, C), else an `EinsumDense`. Folding is
    computed in float64; only float32 rounding differs.

    Works on every backend, with nested models, several inputs and outputs, shared layers and any
    data format. All other layers, including Dropout and dtype policies, stay as they are.

    Args:
        model: functional or Sequential model. It is not changed and shares nothing with the result.

    Returns:
        A functional model with the same name, inputs and outputs, not compiled. It has stock layers
        where `model` has them.

    Raises:
        ValueError: the model is not functional, or a batch norm is inside another layer or does
            not use its moving statistics.
    """
    if not has_outputs(model):
        raise ValueError(
            "Only a built functional or Sequential model can be folded. Rebuild a "
            f"subclassed model from layers, and give a Sequential an Input. Received: {model!r}"
        )
    rebuilt: list[_Rebuilt] = []
    folded = _rebuild(model, rebuilt)
    left = _batch_norms(folded)
    if left:
        raise ValueError(
            "Batch normalisation inside another layer cannot be folded. Use the wrapped layers "
            f"themselves in a functional model. Received: {', '.join(left)} in {model.name!r}"
        )
    for new in rebuilt:
        _fill(new)
    return folded


def _rebuild(model: keras.Model, rebuilt: list[_Rebuilt]) -> keras.Model:
    """Return the model without batch norms, with fresh weights, and list its new layers."""
    graph = bare_graph(model)
    nodes = graph_nodes(graph)
    foldable = _foldable(nodes, graph.outputs)
    batch_norm_of = {layer: batch_norm for batch_norm, layer in foldable.items()}
    ranks = {node.operation: len(node.input_tensors[0].shape) for node in nodes}
    scales = set()

    def clone(layer: Any) -> Any:
        if layer in foldable:
            return layer  # is never called, see below
        if has_outputs(layer):
            return _rebuild(layer, rebuilt)
        if type(layer) is _BatchNorm:
            new = _scale_layer(layer, ranks[layer])
            scales.add(new)
            rebuilt.append(_Rebuilt(new, None, layer))
            return new
        batch_norm = batch_norm_of.get(layer)
        new = _clone(layer, with_bias=batch_norm is not None)
        if isinstance(layer, keras.Layer):
            rebuilt.append(_Rebuilt(new, layer, batch_norm))
        return new

    def call(layer: Any, *args: Any, **keywords: Any) -> Any:
        if layer not in foldable and layer not in scales:
            return layer(*args, **keywords)
        inputs = args[0] if args else keywords["inputs"]
        return inputs if layer in foldable else layer(inputs)  # has no argument `training`

    return keras.models.clone_model(graph, clone_function=clone, call_function=call)


def _foldable(nodes: list[Any], results: list[Any]) -> dict[Any, Any]:
    """Return {batch norm: the linear layer that absorbs it} of a graph with these results."""
    calls = Counter(node.operation for node in nodes)
    used = [*chain.from_iterable(node.input_tensors for node in nodes), *results]
    uses = Counter(id(tensor) for tensor in used)
    found = {}
    for node in nodes:
        batch_norm = node.operation
        _check_uses_statistics(node)
        if type(batch_norm) is not _BatchNorm:
            continue
        source = node.input_tensors[0]
        layer = call_of(source).operation
        is_alone = calls[layer] == calls[batch_norm] == uses[id(source)] == 1
        if is_alone and _is_linear(layer) and _same_channels(batch_norm, layer, len(source.shape)):
            found[batch_norm] = layer
    return found


def _check_uses_statistics(node: Any) -> None:
    is_training = isinstance(node.operation, keras.Layer) and node.arguments.kwargs.get("training")
    if is_training and _batch_norms(node.operation):
        raise ValueError(
            "Batch normalisation called with training=True uses the statistics of each "
            "batch and cannot be folded. Build the model without that argument. "
            f"Received: {node.operation.name!r}"
        )


def _batch_norms(layer: Any) -> list[str]:
    """Return the names of the batch norms in a layer, or its own if it is one."""
    parts = [layer, *all_layers(layer)]
    return [part.name for part in parts if isinstance(part, _BatchNorm)]


def _is_linear(layer: Any) -> bool:
    """Return whether a layer is linear, with a kernel and a bias that can be scaled."""
    if type(layer) not in _LINEAR or layer.activation is not keras.activations.linear:
        return False
    # A quantised layer, or one with low-rank additions, has more weights.
    kernels = 2 if isinstance(layer, _SEPARABLE) else 1
    return len(layer.weights) == kernels + (layer.bias is not None)


def _same_channels(batch_norm: Any, layer: Any, rank: int) -> bool:
    is_first = getattr(layer, "data_format", None) == "channels_first"
    return batch_norm.axis % rank == (1 if is_first else rank - 1)


def _clone(layer: Any, *, with_bias: bool) -> Any:
    try:
        config = layer.get_config()
        if with_bias:
            config["use_bias"] = True
        return type(layer).from_config(config)
    except (NotImplementedError, ValueError, TypeError) as error:
        raise ValueError(
            f"A model can only be folded if Keras can rebuild its layers from their get_config. "
            f"Received: {layer.name!r}, a {type(layer).__name__}: {error}"
        ) from error


def _scale_layer(batch_norm: Any, rank: int) -> Any:
    """Return a layer that multiplies and adds one number per channel."""
    axis = batch_norm.axis % rank
    settings = {
        "name": batch_norm.name,
        "dtype": batch_norm.dtype_policy,
        "trainable": batch_norm.trainable,
    }
    if (rank, axis) == (4, 3):
        return _layers.DepthwiseConv2D(1, data_format="channels_last", **settings)
    axes = ascii_letters[:rank]
    shape: list[int | None] = [None] * (rank - 1)  # without the batch
    shape[axis - 1] = batch_norm.moving_mean.shape[0]
    return _layers.EinsumDense(
        f"{axes},{axes[axis]}->{axes}", shape, bias_axes=axes[axis], **settings
    )


def _fill(new: _Rebuilt) -> None:
    if new.batch_norm is None:
        copy_weights(new.source.weights, new.layer.weights)
        return
    scale, offset = _scale_and_offset(new.batch_norm)
    if new.source is None:
        new.layer.kernel.assign(scale.reshape(new.layer.kernel.shape))
        new.layer.bias.assign(offset.reshape(new.layer.bias.shape))
        return
    *first, kernel = [weight for weight in new.source.weights if weight is not new.source.bias]
    *new_first, new_kernel, new_bias = new.layer.weights
    copy_weights(first, new_first)
    new_kernel.assign(_float64(kernel) * scale.reshape(_scale_shape(new.source)))
    bias = 0.0 if new.source.bias is None else _float64(new.source.bias)
    new_bias.assign(bias * scale + offset)


def _scale_shape(layer: Any) -> tuple[int, ...]:
    """Return the shape that spreads one number per output channel over the kernel."""
    if isinstance(layer, _DEPTHWISE):
        return tuple(layer.kernel.shape[-2:])  # (..., channels, multiplier)
    if isinstance(layer, _TRANSPOSED):
        return (-1, 1)  # (..., outputs, inputs)
    return (-1,)  # (..., inputs, outputs)


def _scale_and_offset(batch_norm: Any) -> tuple[Any, Any]:
    """Return the scale and the offset of a batch norm, float64 (channels,) each."""
    gamma = _float64(batch_norm.gamma) if batch_norm.scale else 1.0
    beta = _float64(batch_norm.beta) if batch_norm.center else 0.0
    scale = gamma / np.sqrt(_float64(batch_norm.moving_variance) + batch_norm.epsilon)
    return scale, beta - _float64(batch_norm.moving_mean) * scale


def _float64(weight: Any) -> Any:
    return keras.ops.convert_to_numpy(weight).astype(np.float64)
