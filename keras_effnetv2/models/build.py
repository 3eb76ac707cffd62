"""From a `ModelConfig` to a functional Keras model: `build_model`, the named builders, features.

Built models consist of stock Keras layers only, on any Keras backend and image data format; the
weights' normalisation is a `Rescaling` layer inside.
"""

import itertools
import logging
import math
import os
import re
from collections.abc import Callable
from functools import partial
from typing import Any

import keras

from keras_effnetv2._common.checks import (
    check_choice,
    check_integer,
    check_number,
    is_integer,
    plain,
)
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import ScaleAndOffset, scale_and_offset
from keras_effnetv2.models.blocks import channel_axis, conv_bn, mbconv
from keras_effnetv2.models.graph import connected_names
from keras_effnetv2.pretrained.load import assign_weights
from keras_effnetv2.pretrained.open_weights import (
    NoWeightsError,
    Weights,
    best_set,
    open_weights,
)
from keras_effnetv2.pretrained.places import CLASSIFIER, PIXELS, network_prefix, numbered, own_name
from keras_effnetv2.pretrained.registry import IMAGENET_CLASSES

_LOG = logging.getLogger("keras_effnetv2")

MIN_SIZE = 32  # pixels, unless the network has fewer strides
_CHANNELS = 3
_OURS = re.compile(  # names of layers
    rf"(stem|top|block\d+[a-z]+)_|({PIXELS}|avg_pool|max_pool|{CLASSIFIER})$"
)


def build_model(
    config: ModelConfig | str,
    include_top: bool = True,
    weights: str | os.PathLike[str] | Weights | None = None,
    input_tensor: Any = None,
    input_shape: tuple[int | None, int | None, int] | None = None,
    pooling: str | None = None,
    classes: int | None = None,
    classifier_activation: str | Callable[..., Any] | None = "auto",
    include_preprocessing: bool = True,
    name: str | None = None,
    *,
    dropout_rate: float | None = None,
    drop_path_rate: float = 0.2,
) -> keras.Model:
    """Build the network of a config.

    The arguments mean what they mean in `keras.applications.EfficientNetV2*`; "auto",
    `dropout_rate` and `drop_path_rate` are additions.

    Args:
        config: the architecture: the name of a variant, e.g. "efficientnetv2-s", or a config.
        include_top: whether to add pooling, dropout and classifier.
        weights: None (fresh), the name of a published set, which is fetched into the Keras cache
            (`available_weights` lists them), "auto" (the published set with the best ImageNet top-1
            that is available; without one a warning says so, and the network starts fresh),
            hf://OWNER/NAME[@REVISION] (a repository of `tf_efficientnet*` on the Hugging Face hub;
            needs the extra [hub]), the path of a weight file (see `load_weights`), or what
            `open_weights` returned.
            If the file says how its pixels were normalised (a `.keras`, a whole `.h5`, the
            config.json of PyTorch Image Models beside it), that is used. Otherwise a file with a
            published name is taken for that one, an ImageNet-21k head means (x - 128) / 128, and
            any other has the config's `normalization`.
        input_tensor: a Keras tensor (`keras.Input` or a layer's output) to build on. Layers in
            front keep their weights. The layer names of a second network on one input begin with
            "net2_", since names in a functional model are unique.
        input_shape: (height, width, 3), or (3, height, width) with channels-first; a side of None
            is any size from 32 up, or from the config's `strides` up if they are fewer. Default
            (None, None, 3).
        pooling: used without the top: None gives the (B, H/32, W/32, C) feature map, "avg" and
            "max" the pooled (B, C) features.
        classes: width of the classifier. None: that of the weights, 1000 without weights.
        classifier_activation: "auto" is softmax (sigmoid for an "imagenet21k" head, its training
            loss); any Keras activation; None gives logits.
        include_preprocessing: True: the model takes pixels 0..255 and normalises them inside.
            False: it takes what `preprocess_input` returns.
        name: name of the Keras model, default the config's.
        dropout_rate: before the classifier, default the config's; 0 leaves the layer out.
        drop_path_rate: stochastic depth; block i of n is dropped with rate * i / n (official
            survival probability 1 - 0.2 * i / n).

    Returns:
        A functional `keras.Model`. Output: (B, classes) float32 with the top, else see `pooling`.

    Raises:
        ValueError: an argument is not as described above, a size is too small, or the weights do
            not fit.
        ConnectionError: weights are not in the cache and cannot be downloaded.
        ImportError: the package for the Hugging Face hub, or that of a published set, is not
            installed.
    """
    if not isinstance(config, ModelConfig):
        config = ModelConfig.from_name(config)
    if dropout_rate is None:
        dropout_rate = config.dropout_rate
    check_number("dropout_rate", dropout_rate, minimum=0, below=1)
    check_number("drop_path_rate", drop_path_rate, minimum=0, below=1)
    if include_top:
        check_integer("classes", classes, minimum=1, or_none=True)
        classes = plain(classes)
        _check_activation(classifier_activation)
    else:
        check_choice("pooling", pooling, (None, "avg", "max"))
    inputs = _make_input(
        input_tensor,
        input_shape,
        need_rgb=include_preprocessing or weights is not None,
        smallest=min(MIN_SIZE, config.strides),
    )
    if weights == "auto":
        try:
            weights = best_set(config).weights
        except NoWeightsError as error:
            _LOG.warning("%s The network starts from random weights.", error)
            weights = None
    if weights is not None and not isinstance(weights, Weights):
        weights = open_weights(weights, config, include_top=include_top, classes=classes)
    x, prefix = inputs, _free_prefix(inputs)
    if include_preprocessing:
        normalization = weights.normalization if weights is not None else None
        numbers = scale_and_offset(normalization or config.normalization)
        x = _normalization_layer(numbers, f"{prefix}{PIXELS}")(x)
    x = _backbone(x, config, drop_path_rate, prefix)
    if include_top or pooling == "avg":
        x = keras.layers.GlobalAveragePooling2D(name=f"{prefix}avg_pool")(x)
    elif pooling == "max":
        x = keras.layers.GlobalMaxPooling2D(name=f"{prefix}max_pool")(x)
    if include_top:
        if dropout_rate > 0:
            x = keras.layers.Dropout(dropout_rate, name=f"{prefix}top_dropout")(x)
        width = classes or (weights and weights.classes) or IMAGENET_CLASSES
        if classifier_activation == "auto":
            keeps_head = weights is not None and width == weights.classes
            classifier_activation = weights.activation if weights and keeps_head else "softmax"
        x = _classifier(width, classifier_activation, f"{prefix}{CLASSIFIER}")(x)
    sources = keras.utils.get_source_inputs(inputs)
    sources = sources[0] if len(sources) == 1 else sources
    model = keras.Model(sources, x, name=name or config.name)
    if weights is not None:
        assign_weights(model, weights, fresh_classifier=classes is not None)
    if keras.backend.backend() == "tensorflow":
        from keras_effnetv2.models.training_kernels import use_training_kernels

        use_training_kernels(model)
    return model


def _free_prefix(inputs: Any) -> str:
    """Return the prefix of the layer names: nothing, unless another network has these names.

    Layer names in a functional model are unique, and all layers connected with the input may
    become part of one.
    """
    names = connected_names(inputs)
    taken = {name.removesuffix(own_name(name)) for name in names if _OURS.match(own_name(name))}
    return next(prefix for prefix in map(numbered, itertools.count(1)) if prefix not in taken)


def _backbone(x: Any, config: ModelConfig, drop_path_rate: float, prefix: str) -> Any:
    """Turn normalised pixels (B, H, W, 3) into (B, ceil(H / 32), ceil(W / 32), head_filters).

    Of small pictures (`for_small_pictures`) the map is larger.
    """
    activation, name = config.activation, f"{prefix}stem_"
    strides = config.stem_strides
    x = conv_bn(x, config.stem_filters, 3, strides=strides, activation=activation, name=name)
    block_index = 0
    for stage_number, stage in enumerate(config.stages, start=1):
        for repeat in range(stage.repeats):
            x = mbconv(
                x,
                fused=stage.conv == "fused",
                filters=stage.output_filters,
                kernel_size=stage.kernel_size,
                strides=stage.strides if repeat == 0 else 1,
                expand_ratio=stage.expand_ratio,
                se_ratio=stage.se_ratio,
                activation=activation,
                drop_path_rate=drop_path_rate * block_index / config.num_blocks,
                name=prefix + block_name(stage_number, repeat),
            )
            block_index += 1
    return conv_bn(x, config.head_filters, 1, activation=activation, name=f"{prefix}top_")


def block_name(stage_number: int, repeat: int) -> str:
    """Layer prefix of a block: "block1a_" ... "block6z_", then "block6aa_".

    The letters are those of keras.applications as far as these go (26 repeats).
    """
    letters = chr(ord("a") + repeat % 26)
    if repeat >= 26:
        letters = chr(ord("a") + repeat // 26 - 1) + letters
    return f"block{stage_number}{letters}_"


def _normalization_layer(numbers: ScaleAndOffset, name: str) -> keras.layers.Layer:
    def per_channel(values: tuple[float, ...]) -> Any:
        """Return one number if it is the same for all channels, else an array for each pixel."""
        if len(set(values)) == 1:
            return values[0]
        return [[[value]] for value in values] if channel_axis() == 1 else list(values)

    scale, offset = map(per_channel, numbers)
    # float32 whatever the policy: bfloat16 has too few digits for pixels between whole numbers.
    return keras.layers.Rescaling(scale, offset, dtype="float32", name=name)


def _classifier(
    classes: int, activation: str | Callable[..., Any] | None, name: str
) -> keras.layers.Layer:
    # Official `dense_kernel_initializer`: uniform in +-1 / sqrt(classes), made for 1,000 classes.
    # For ten it would give logits that start at three times the loss of guessing (measured).
    limit = 1 / math.sqrt(max(classes, IMAGENET_CLASSES))
    # float32 under mixed precision, so that the logits keep their digits.
    mixed = keras.config.dtype_policy().compute_dtype in ("float16", "bfloat16")
    return keras.layers.Dense(
        classes,
        activation=activation,
        kernel_initializer=keras.initializers.RandomUniform(-limit, limit),
        dtype="float32" if mixed else None,
        name=name,
    )


# --- arguments ----------------------------------------------------------------------------------


def _check_activation(activation: Any) -> None:
    if activation == "auto":
        return
    try:
        keras.activations.get(activation)
    except (ValueError, TypeError):
        raise ValueError(
            "`classifier_activation` must be 'auto', None (logits), the name of a Keras "
            "activation such as 'softmax' or 'sigmoid', or a callable. "
            f"Received: classifier_activation={activation!r}"
        ) from None


def _make_input(input_tensor: Any, input_shape: Any, *, need_rgb: bool, smallest: int) -> Any:
    check = partial(_check_shape, need_rgb=need_rgb, smallest=smallest)
    if hasattr(input_shape, "as_list"):  # a TensorShape
        input_shape = input_shape.as_list()
    if isinstance(input_shape, list | tuple):
        input_shape = plain(input_shape)
    if input_tensor is None:
        if input_shape is None:
            first = channel_axis() == 1
            input_shape = (_CHANNELS, None, None) if first else (None, None, _CHANNELS)
        check(input_shape)
        return keras.Input(shape=tuple(input_shape), name="images")
    if not keras.backend.is_keras_tensor(input_tensor):
        raise ValueError(
            "`input_tensor` must be a Keras tensor, that is `keras.Input(...)` or the output of "
            "a Keras layer called on one. Call the finished model on arrays and on tensors of a "
            f"backend. Received: {type(input_tensor).__module__}.{type(input_tensor).__name__}"
        )
    shape = tuple(input_tensor.shape)
    if len(shape) != 4:
        raise ValueError(
            "`input_tensor` must have the rank 4, (batch, height, width, channels). "
            f"Received: shape={shape}"
        )
    check(shape[1:])
    if input_shape is not None:
        check(input_shape)
        pairs = zip(shape[1:], input_shape, strict=True)
        if any(None not in pair and len(set(pair)) > 1 for pair in pairs):
            raise ValueError(
                "`input_tensor` and `input_shape` contradict each other. Leave one out. "
                f"Received: input_tensor of shape {shape}, input_shape={tuple(input_shape)}"
            )
    return input_tensor


def _check_shape(shape: Any, *, need_rgb: bool, smallest: int) -> None:
    axis = 0 if channel_axis() == 1 else -1  # without the batch
    layout = "(3, height, width)" if axis == 0 else "(height, width, 3)"
    valid = isinstance(shape, tuple | list) and len(shape) == 3
    if not valid or not all(n is None or (is_integer(n) and n > 0) for n in shape):
        raise ValueError(
            f"`input_shape` must be a tuple {layout} of positive integers; None allows any "
            f"size. Received: input_shape={shape!r}"
        )
    sides = list(shape)
    channels = sides.pop(axis)
    if channels is None or (need_rgb and channels != _CHANNELS):
        raise ValueError(
            f"The input must have 3 channels, {layout}. Another number needs weights=None and "
            f"include_preprocessing=False. Received: input_shape={tuple(shape)}"
        )
    if any(side is not None and side < smallest for side in sides):
        raise ValueError(
            f"The input size must be at least {smallest}x{smallest}. Enlarge the pictures. "
            f"Received: input_shape={tuple(shape)}"
        )


# --- features -----------------------------------------------------------------------------------


def feature_extractor(model: keras.Model) -> keras.Model:
    """Return the feature maps of a model at every stride, for detection and segmentation heads.

    Args:
        model: a model of `build_model` or a named builder, with or without its top; weights are
            shared with it.

    Returns:
        A `keras.Model` with the same input and a list of feature maps, the last one before each
        further halving, (B, ceil(H / stride), ceil(W / stride), C): strides 2, 4, 8, 16, 32 for
        every published variant, and 1, 2, 4, 8 for small pictures of 32 pixels
        (`ModelConfig.for_small_pictures`).

    Raises:
        ValueError: the model has no blocks with this package's names, or holds two networks.
    """
    blocks: dict[str, list[keras.layers.Layer]] = {}
    prefix = network_prefix([layer.name for layer in model.layers])
    for layer in model.layers:
        match = re.match(rf"{prefix}block\d+[a-z]+_", layer.name)
        if match:
            blocks.setdefault(match.group(), []).append(layer)
    if not blocks:
        raise ValueError(
            "feature_extractor needs a model built by keras_effnetv2, with layers named "
            f"block1a_... Received the model {model.name!r}, whose layers are "
            f"{[layer.name for layer in model.layers[:5]]}..."
        )
    outputs: list[Any] = []
    for layers in blocks.values():
        # Blocks stand in order; one that halves begins a new feature map, any other goes on.
        halves = any(getattr(layer, "strides", (1, 1))[0] == 2 for layer in layers)
        outputs = [*(outputs if halves else outputs[:-1]), layers[-1].output]
    return keras.Model(model.input, outputs, name=f"{model.name}_features")
