"""The named builders (arguments of keras.applications) and `preprocess_input`."""

import inspect
import re
from collections.abc import Callable
from typing import Any, Concatenate, ParamSpec

import keras
import numpy as np

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import scale_and_offset
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.registry import weight_set

_Arguments = ParamSpec("_Arguments")


def _named(
    build: Callable[Concatenate[ModelConfig, _Arguments], keras.Model], name: str, variant: str
) -> Callable[_Arguments, keras.Model]:
    """Return `build` for one variant, with its arguments, but "imagenet" for `weights`."""
    config = ModelConfig.from_name(variant)
    parameters = list(inspect.signature(build).parameters.values())[1:]
    signature = inspect.Signature(
        [one.replace(default="imagenet") if one.name == "weights" else one for one in parameters],
        return_annotation=keras.Model,
    )

    def builder(*args: _Arguments.args, **keywords: _Arguments.kwargs) -> keras.Model:
        given = signature.bind(*args, **keywords)
        given.apply_defaults()
        return build(config, *given.args, **given.kwargs)

    builder.__signature__ = signature  # type: ignore[attr-defined]
    builder.__name__ = builder.__qualname__ = name
    documented = inspect.getdoc(build) or ""
    # Its sections, without the line of the argument that a named builder does not have.
    sections = re.sub(r"    config: .*\n", "", documented[documented.index("Args:\n") :])
    builder.__doc__ = f"""Build {variant}; programs for keras.applications only change the import.

Takes pixels (B, H, W, 3) in 0..255 (unless `include_preprocessing=False`), any size from 32 x 32
up; its authors evaluate at {config.eval_size} x {config.eval_size}. Returns a functional
`keras.Model` with (B, classes) float32 output. `weights` defaults to "imagenet".

Source: google/automl efficientnetv2 (arXiv 2104.00298; V1: arXiv 1905.11946), of Lite
tensorflow/tpu efficientnet/lite.

{sections}"""
    return builder


EfficientNetV2B0 = _named(build_model, "EfficientNetV2B0", "efficientnetv2-b0")
EfficientNetV2B1 = _named(build_model, "EfficientNetV2B1", "efficientnetv2-b1")
EfficientNetV2B2 = _named(build_model, "EfficientNetV2B2", "efficientnetv2-b2")
EfficientNetV2B3 = _named(build_model, "EfficientNetV2B3", "efficientnetv2-b3")
EfficientNetV2S = _named(build_model, "EfficientNetV2S", "efficientnetv2-s")
EfficientNetV2M = _named(build_model, "EfficientNetV2M", "efficientnetv2-m")
EfficientNetV2L = _named(build_model, "EfficientNetV2L", "efficientnetv2-l")
EfficientNetV2XL = _named(build_model, "EfficientNetV2XL", "efficientnetv2-xl")
EfficientNetB0 = _named(build_model, "EfficientNetB0", "efficientnet-b0")
EfficientNetB1 = _named(build_model, "EfficientNetB1", "efficientnet-b1")
EfficientNetB2 = _named(build_model, "EfficientNetB2", "efficientnet-b2")
EfficientNetB3 = _named(build_model, "EfficientNetB3", "efficientnet-b3")
EfficientNetB4 = _named(build_model, "EfficientNetB4", "efficientnet-b4")
EfficientNetB5 = _named(build_model, "EfficientNetB5", "efficientnet-b5")
EfficientNetB6 = _named(build_model, "EfficientNetB6", "efficientnet-b6")
EfficientNetB7 = _named(build_model, "EfficientNetB7", "efficientnet-b7")
EfficientNetLite0 = _named(build_model, "EfficientNetLite0", "efficientnet-lite0")
EfficientNetLite1 = _named(build_model, "EfficientNetLite1", "efficientnet-lite1")
EfficientNetLite2 = _named(build_model, "EfficientNetLite2", "efficientnet-lite2")
EfficientNetLite3 = _named(build_model, "EfficientNetLite3", "efficientnet-lite3")
EfficientNetLite4 = _named(build_model, "EfficientNetLite4", "efficientnet-lite4")


def preprocess_input(images: Any, variant: str, weights: str | None = None) -> Any:
    """Normalise pixels for a model built with `include_preprocessing=False`.

    Args:
        images: (..., H, W, 3) pixels in 0..255, RGB, any dtype: an array or a tensor of the
            current Keras backend.
        variant: e.g. "efficientnetv2-b0".
        weights: the published set of the model, e.g. "imagenet21k"; None for a fresh model,
            which uses the normalisation of the variant's authors.

    Returns:
        The same shape, float32: (x / 255 - mean) / std with ImageNet's figures, (x - 128) / 128,
        x / 127.5 - 1 or (x - 127) / 128, as the weights want. A NumPy array for an array.

    Raises:
        ValueError: the variant is unknown, the set is not published for it, or there are not 3
            channels.
    """
    config = ModelConfig.from_name(variant)
    normalization = config.normalization
    if weights is not None:
        normalization = weight_set(config.name, weights).normalization
    if not hasattr(images, "shape"):
        images = np.asarray(images)
    if not images.shape or images.shape[-1] != 3:
        raise ValueError(
            "`images` must have the shape (..., height, width, 3). "
            f"Received: shape={tuple(images.shape)}"
        )
    scale, offset = (np.asarray(values, np.float32) for values in scale_and_offset(normalization))
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) * scale + offset
    scale, offset = keras.ops.convert_to_tensor(scale), keras.ops.convert_to_tensor(offset)
    return keras.ops.cast(images, "float32") * scale + offset
