"""The named builders (arguments of keras.applications) and `preprocess_input`."""

import os
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from keras_effnetv2.architectures.config import NORMALIZATIONS, ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.registry import weight_set


def _named_builder(function_name: str, variant: str) -> Callable[..., keras.Model]:
    config = ModelConfig.from_name(variant)

    def builder(
        include_top: bool = True,
        weights: str | os.PathLike[str] | None = "imagenet",
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
        return build_model(
            config,
            include_top=include_top,
            weights=weights,
            input_tensor=input_tensor,
            input_shape=input_shape,
            pooling=pooling,
            classes=classes,
            classifier_activation=classifier_activation,
            include_preprocessing=include_preprocessing,
            name=name,
            dropout_rate=dropout_rate,
            drop_path_rate=drop_path_rate,
        )

    builder.__name__ = builder.__qualname__ = function_name
    builder.__doc__ = f"""Builds {variant}; a program for keras.applications changes its import.

    Takes pixels (B, H, W, 3) in 0..255 (unless `include_preprocessing=False`), any size from
    32 x 32 up; its authors evaluate it at {config.eval_size} x {config.eval_size}. Returns a
    functional `keras.Model` with (B, classes) float32 output. Arguments, defaults and errors
    are those of `keras_effnetv2.build_model`, but for `weights`, whose default is "imagenet".
    Source: google/automl efficientnetv2 (arXiv 2104.00298; V1: arXiv 1905.11946).
    """
    return builder


EfficientNetV2B0 = _named_builder("EfficientNetV2B0", "efficientnetv2-b0")
EfficientNetV2B1 = _named_builder("EfficientNetV2B1", "efficientnetv2-b1")
EfficientNetV2B2 = _named_builder("EfficientNetV2B2", "efficientnetv2-b2")
EfficientNetV2B3 = _named_builder("EfficientNetV2B3", "efficientnetv2-b3")
EfficientNetV2S = _named_builder("EfficientNetV2S", "efficientnetv2-s")
EfficientNetV2M = _named_builder("EfficientNetV2M", "efficientnetv2-m")
EfficientNetV2L = _named_builder("EfficientNetV2L", "efficientnetv2-l")
EfficientNetV2XL = _named_builder("EfficientNetV2XL", "efficientnetv2-xl")
EfficientNetB0 = _named_builder("EfficientNetB0", "efficientnet-b0")
EfficientNetB1 = _named_builder("EfficientNetB1", "efficientnet-b1")
EfficientNetB2 = _named_builder("EfficientNetB2", "efficientnet-b2")
EfficientNetB3 = _named_builder("EfficientNetB3", "efficientnet-b3")
EfficientNetB4 = _named_builder("EfficientNetB4", "efficientnet-b4")
EfficientNetB5 = _named_builder("EfficientNetB5", "efficientnet-b5")
EfficientNetB6 = _named_builder("EfficientNetB6", "efficientnet-b6")
EfficientNetB7 = _named_builder("EfficientNetB7", "efficientnet-b7")


def preprocess_input(images: Any, variant: str, weights: str | None = None) -> Any:
    """Normalises pixels for a model built with `include_preprocessing=False`.

    Args:
        images: (..., H, W, 3) pixels in 0..255, RGB, any dtype: an array or a tensor of the
            Keras backend in force.
        variant: e.g. "efficientnetv2-b0".
        weights: the published set the model has, e.g. "imagenet21k"; None for a fresh model,
            which uses what the variant's authors train it with.

    Returns:
        The same shape, float32: (x / 255 - mean) / std with ImageNet's figures, (x - 128) / 128
        or x / 127.5 - 1, as the weights want. A NumPy array for an array.

    Raises:
        ValueError: unknown variant, a set that is not published for it, or not 3 channels.
    """
    config = ModelConfig.from_name(variant)
    normalization = config.normalization
    if weights is not None:
        normalization = weight_set(variant, weights).normalization
    if not hasattr(images, "shape"):
        images = np.asarray(images)
    if not images.shape or images.shape[-1] != 3:
        raise ValueError(
            "`images` must have the shape (..., height, width, 3). "
            f"Received: shape={tuple(images.shape)}"
        )
    scale, offset = (np.asarray(values, np.float32) for values in NORMALIZATIONS[normalization])
    if isinstance(images, np.ndarray):
        return images.astype(np.float32) * scale + offset
    scale, offset = keras.ops.convert_to_tensor(scale), keras.ops.convert_to_tensor(offset)
    return keras.ops.cast(images, "float32") * scale + offset
