"""Building blocks on tensors: conv_bn, squeeze_excite, mbconv (fused or not).

Plain arguments, stock Keras layers, any Keras backend. Layer names begin with the caller's `name`
and are those of `keras.applications.efficientnet_v2`, so programs that look layers up by name keep
working.

Numbers are the official ones (google/automl, efficientnetv2/effnetv2_model.py): batch norm
momentum 0.9 and epsilon 1e-3, He-normal kernels over the fan-out, squeeze-excite with biases.
"""

from typing import Any

import keras

BATCH_NORM_MOMENTUM = 0.9  # share of the old moving statistic that is kept, as Keras counts
BATCH_NORM_EPSILON = 1e-3


def conv_initializer() -> keras.initializers.Initializer:
    """Return a normal distribution, deviation sqrt(2 / fan_out), not truncated, as officially."""
    return keras.initializers.VarianceScaling(2.0, "fan_out", "untruncated_normal")


def channel_axis() -> int:
    """Return the axis of the channels in the current image data format of Keras."""
    return 1 if keras.config.image_data_format() == "channels_first" else -1


def batch_norm(x: Any, *, activation: str | None, name: str) -> Any:
    """Add batch normalisation with the official constants, and an activation (None: none).

    The layers are `{name}bn`, `{name}activation`.
    """
    x = keras.layers.BatchNormalization(
        axis=channel_axis(),
        momentum=BATCH_NORM_MOMENTUM,
        epsilon=BATCH_NORM_EPSILON,
        name=f"{name}bn",
    )(x)
    if activation is not None:
        x = keras.layers.Activation(activation, name=f"{name}activation")(x)
    return x


def conv_bn(
    x: Any,
    filters: int,
    kernel_size: int,
    *,
    strides: int = 1,
    activation: str | None = "swish",
    name: str,
) -> Any:
    """Add a convolution without bias, batch norm, activation (None: none); padding is SAME.

    (B, H, W, C) becomes (B, ceil(H / strides), ceil(W / strides), filters). The layers are
    `{name}conv`, `{name}bn`, `{name}activation`.
    """
    x = keras.layers.Conv2D(
        filters,
        kernel_size,
        strides=strides,
        padding="same",
        use_bias=False,
        kernel_initializer=conv_initializer(),
        name=f"{name}conv",
    )(x)
    return batch_norm(x, activation=activation, name=name)


def squeeze_excite(x: Any, *, reduced_filters: int, activation: str = "swish", name: str) -> Any:
    """Scale each channel of (B, H, W, C) by a gate computed from all channel means.

    It has `reduced_filters` channels between two 1x1 convolutions, and `activation`. The
    layers are `{name}squeeze`, `{name}reduce`, `{name}expand`, `{name}excite`.
    """
    gate = keras.layers.GlobalAveragePooling2D(keepdims=True, name=f"{name}squeeze")(x)
    for filters, function, role in (
        (reduced_filters, activation, "reduce"),
        (x.shape[channel_axis()], "sigmoid", "expand"),
    ):
        gate = keras.layers.Conv2D(
            filters,
            1,
            activation=function,
            kernel_initializer=conv_initializer(),
            name=f"{name}{role}",
        )(gate)
    return keras.layers.Multiply(name=f"{name}excite")([x, gate])


def residual(x: Any, shortcut: Any, *, drop_path_rate: float, name: str) -> Any:
    """Add stochastic depth to `x`, then its sum with `shortcut`, both (B, H, W, C).

    In training the whole `x` of an example is set to zero with the probability `drop_path_rate`;
    all others are scaled by 1 / (1 - rate). 0 adds no layer. The layers are `{name}drop` and
    `{name}add`.
    """
    if drop_path_rate > 0:
        x = keras.layers.Dropout(drop_path_rate, noise_shape=(None, 1, 1, 1), name=f"{name}drop")(x)
    # The shortcut comes first: Keras walks a functional graph by recursion, first inputs first,
    # and along the shortcuts even the 100 blocks of XL stay far below Python's recursion limit.
    return keras.layers.Add(name=f"{name}add")([shortcut, x])


def mbconv(
    x: Any,
    *,
    fused: bool,
    filters: int,
    kernel_size: int = 3,
    strides: int = 1,
    expand_ratio: int = 4,
    se_ratio: float | None = None,
    activation: str = "swish",
    drop_path_rate: float = 0.0,
    name: str,
) -> Any:
    """Add an inverted residual block: expand 1x1, depthwise, squeeze-excite, project 1x1.

    Args:
        x: (B, H, W, C) tensor.
        fused: use one full convolution instead of expand and depthwise. With `expand_ratio` 1
            the block is only that convolution, and it ends with the activation.
        filters: output channels. There is a shortcut if they equal C and `strides` is 1.
        kernel_size: side of the depthwise or full convolution.
        strides: strides of the same convolution.
        expand_ratio: expanded channels over C; 1 has no expansion.
        se_ratio: squeeze-excite channels over C; None is no squeeze-excite.
        activation: of all convolutions but the projection, and in squeeze-excite.
        drop_path_rate: see `residual`; it has no effect without a shortcut.
        name: prefix such as "block4a_".

    Returns:
        (B, ceil(H / strides), ceil(W / strides), filters) tensor.
    """
    shortcut, input_filters = x, x.shape[channel_axis()]
    spatial, pointwise = (kernel_size, strides), (1, 1)
    if expand_ratio > 1:
        size, step = spatial if fused else pointwise
        expanded = input_filters * expand_ratio
        x = conv_bn(x, expanded, size, strides=step, activation=activation, name=f"{name}expand_")
    if not fused:
        x = keras.layers.DepthwiseConv2D(
            kernel_size,
            strides=strides,
            padding="same",
            use_bias=False,
            depthwise_initializer=conv_initializer(),
            name=f"{name}dwconv2",
        )(x)
        x = batch_norm(x, activation=activation, name=name)
    if se_ratio is not None:
        reduced = max(1, int(input_filters * se_ratio))
        x = squeeze_excite(x, reduced_filters=reduced, activation=activation, name=f"{name}se_")
    is_alone = fused and expand_ratio == 1
    size, step = spatial if is_alone else pointwise
    last = activation if is_alone else None
    x = conv_bn(x, filters, size, strides=step, activation=last, name=f"{name}project_")
    if strides == 1 and input_filters == filters:
        x = residual(x, shortcut, drop_path_rate=drop_path_rate, name=name)
    return x
