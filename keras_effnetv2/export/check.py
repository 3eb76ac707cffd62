"""What an export does to probabilities: how far they move, and whether the best class stays."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2.models.folding import bare_graph

ROUNDING_FACTOR = 4
"""How much more than rounding does to the model itself an export may do. A fixed limit alone would
refuse untrained networks, whose logits can be in the thousands."""

_PICTURES_AT_ONCE = 4


def largest_difference(
    one: Callable[[Any], Any], other: Callable[[Any], Any], image_size: int
) -> float:
    """Return the largest difference of what two functions make of the same pictures.

    Args:
        one: (N, S, S, 3) float32, 0..255 -> a tensor; so is `other`.
        other: see `one`.
        image_size: S in pixels.

    Returns:
        The largest absolute difference, NaN if a value is.
    """
    pictures = check_pictures(image_size)
    differences = [
        tf.reduce_max(tf.abs(one(batch) - other(batch)))
        for batch in tf.split(pictures, len(pictures) // _PICTURES_AT_ONCE)
    ]
    return float(tf.reduce_max(tf.stack(differences)))


def check_pictures(image_size: int) -> Any:
    """Return eight different pictures, float32 (8, S, S, 3), 0..255, always the same.

    Black, white, a ramp of colours, a checkerboard of single pixels and one of large squares, and
    noise: of all pixels, of dark ones, and of large patches.
    """
    size = image_size
    row, column = tf.meshgrid(tf.range(size), tf.range(size), indexing="ij")
    ramp = tf.stack([row, column, size - 1 - row], axis=-1) / max(size - 1, 1)
    square = max(size // 4, 1)
    plain = [tf.zeros_like(row), tf.ones_like(row), (row + column) % 2]
    plain.append((row // square + column // square) % 2)
    structured = [tf.tile(tf.cast(p, tf.float64)[..., tf.newaxis], [1, 1, 3]) for p in plain]
    noise = [
        tf.random.stateless_uniform([side, side, 3], seed=(side, number))
        for number, side in enumerate((size, size, max(size // 8, 1)))
    ]
    noise[1] = noise[1] ** 4
    noise[2] = tf.image.resize(noise[2], [size, size], method="bicubic")
    unit = [tf.cast(picture, tf.float32) for picture in (*structured, ramp, *noise)]
    return tf.clip_by_value(255.0 * tf.stack(unit), 0.0, 255.0)


def best_class(probabilities: np.ndarray) -> np.ndarray:
    """Return the best class of each picture; of a single output the side of one half.

    Args:
        probabilities: (N, C), or (N, 1) of two classes.

    Returns:
        int64 or bool (N,).
    """
    if probabilities.shape[1] == 1:
        return probabilities[:, 0] >= 0.5
    return probabilities.argmax(1)


def in_dtype(model: keras.Model, dtype: str) -> keras.Model:
    """Return a functional copy of a model in which every layer computes in `dtype`."""

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer):
            config["dtype"] = dtype
        return type(layer).from_config(config)

    bare = bare_graph(model)
    copy = keras.models.clone_model(bare, clone_function=clone, recursive=True)
    for weight, value in zip(copy.weights, bare.weights, strict=True):
        weight.assign(value)
    return copy
