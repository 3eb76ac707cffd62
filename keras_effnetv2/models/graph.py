"""What a network costs and looks like: multiply-adds, the table of its stages, how it ends."""

import math
from collections.abc import Iterator
from itertools import chain
from typing import Any, NamedTuple

import keras

from keras_effnetv2.architectures.config import ModelConfig

_PASS_THROUGH = ("Identity", "Cast")  # operations that change no value
_COUNTED = (keras.layers.Conv2D, keras.layers.DepthwiseConv2D, keras.layers.Dense)


def count_trainable(model: keras.Model) -> int:
    """Return the number of parameters that are trained: without batch statistics."""
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


def count_flops(model: keras.Model, image_size: int | tuple[int, int]) -> int:
    """Multiply-adds of one picture, which is what the paper's FLOPs are.

    Convolutions and dense layers count; batch norm, activations and pooling do not.

    Args:
        model: a functional model with one picture input, nested models included.
        image_size: side in pixels, or (height, width).

    Returns:
        The number of multiply-adds.

    Raises:
        ValueError: the size does not suit the model, or the model is not functional.
    """
    sides = image_size if isinstance(image_size, tuple | list) else (image_size, image_size)
    if len(sides) != 2 or not all(isinstance(n, int) and n > 0 for n in sides):
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size!r}"
        )
    if len(getattr(model, "inputs", None) or ()) != 1 or len(model.inputs[0].shape) != 4:
        raise ValueError(
            "count_flops needs a functional model with one (batch, height, width, channels) "
            f"input. Received: {model!r}"
        )
    if keras.config.image_data_format() == "channels_first":
        shape = (1, model.inputs[0].shape[1], *sides)
    else:
        shape = (1, *sides, model.inputs[0].shape[-1])
    for static, asked in zip(model.inputs[0].shape[1:], shape[1:], strict=True):
        if static is not None and static != asked:
            raise ValueError(
                f"The model {model.name!r} has the fixed input shape {model.inputs[0].shape}. "
                f"Received: image_size={image_size!r}"
            )
    return sum(_multiply_adds(model, shape))


def _multiply_adds(model: keras.Model, input_shape: tuple[int, ...]) -> Iterator[int]:
    # By node, not by layer: a shared layer counts once a call, and a nested model's own `.input`
    # belongs to its inner graph. Keras has no public way to these tensors.
    graph = keras.Model(model.inputs, model.outputs)  # a Sequential has a graph only this way
    nodes = [
        node
        for node in chain.from_iterable(graph._nodes_by_depth.values())
        if isinstance(node.operation, (*_COUNTED, keras.Model))
    ]
    probe = keras.Model(
        model.inputs[0], [[node.input_tensors[0], node.outputs[0]] for node in nodes]
    )
    specs = probe.compute_output_spec(keras.KerasTensor(input_shape))
    for node, (source, result) in zip(nodes, specs, strict=True):
        layer = node.operation
        if isinstance(layer, keras.Model):
            yield from _multiply_adds(layer, source.shape)
        elif isinstance(layer, keras.layers.DepthwiseConv2D):
            # (kh, kw, C, multiplier): every output value is a sum over one channel's window.
            yield math.prod(layer.kernel.shape[:2]) * math.prod(result.shape)
        else:
            # (kh, kw, C / groups, filters) or (C, units): a sum over all but the last axis.
            yield math.prod(layer.kernel.shape[:-1]) * math.prod(result.shape)


class StageRow(NamedTuple):
    """One line of the paper's Table 4.

    Attributes:
        stage: number counted from 0, the stem.
        operator: e.g. "Fused-MBConv4, k3x3" or "MBConv6, k3x3, SE0.25".
        stride: of the first layer.
        channels: output channels.
        layers: number of blocks.
        size: (height, width) of the output for the picture size asked for.
    """

    stage: int
    operator: str
    stride: int
    channels: int
    layers: int
    size: tuple[int, int]


def stage_table(config: ModelConfig, image_size: int) -> tuple[StageRow, ...]:
    """The architecture as the paper's Table 4 lists it, with the output size of each stage.

    Args:
        config: the architecture.
        image_size: side of the input picture, pixels.
    """
    side = math.ceil(image_size / 2)
    rows = [StageRow(0, "Conv3x3", 2, config.stem_filters, 1, (side, side))]
    for number, stage in enumerate(config.stages, start=1):
        side = math.ceil(side / stage.strides)
        kind = "Fused-MBConv" if stage.conv == "fused" else "MBConv"
        operator = f"{kind}{stage.expand_ratio}, k{stage.kernel_size}x{stage.kernel_size}"
        if stage.se_ratio is not None:
            operator += f", SE{stage.se_ratio:g}"
        rows.append(
            StageRow(
                number, operator, stage.strides, stage.output_filters, stage.repeats, (side, side)
            )
        )
    head = "Conv1x1 & Pooling & FC"
    rows.append(StageRow(len(rows), head, 1, config.head_filters, 1, (side, side)))
    return tuple(rows)


def last_activation(tensor: Any) -> str:
    """Name of the activation that a symbolic tensor has gone through last, e.g. "softmax".

    Looks through what passes values on unchanged (the float32 cast at the end of a mixed precision
    model) and into nested models. The name of the layer's class, if it has no activation.
    """
    operation, node_index, _ = tensor._keras_history
    if isinstance(operation, keras.Model) and getattr(operation, "outputs", None):
        return last_activation(operation.outputs[0])
    kind = type(operation).__name__
    activation = getattr(getattr(operation, "activation", None), "__name__", kind.lower())
    linear_layer = isinstance(operation, keras.layers.Activation) and activation == "linear"
    if linear_layer or kind in _PASS_THROUGH:
        return last_activation(operation._inbound_nodes[node_index].input_tensors[0])
    return activation
