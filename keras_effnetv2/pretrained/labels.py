"""The classes of ImageNet (1,000) and ImageNet-21k (21,843) in the order of the published heads.

Sources and licences of the lists are in `class_lists/README.md`.
"""

import functools
import gzip
from importlib.resources import files
from typing import Any, NamedTuple

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2.pretrained.registry import IMAGENET21K_CLASSES, IMAGENET_CLASSES

_FILES = {
    IMAGENET_CLASSES: "imagenet.tsv.gz",
    IMAGENET21K_CLASSES: "imagenet21k.tsv.gz",
}
_LIST_NAMES = f"{IMAGENET_CLASSES} (ImageNet) and {IMAGENET21K_CLASSES} (ImageNet-21k)"


class Label(NamedTuple):
    """A class of a published list."""

    wordnet_id: str  # e.g. "n02504458"; unique
    name: str  # e.g. "African_elephant"; a few classes share one ("crane": a bird, a machine)


def has_class_list(classes: int) -> bool:
    """Return whether there is a published list of this many classes."""
    return classes in _FILES


@functools.cache
def class_list(classes: int) -> tuple[Label, ...]:
    """Return the classes of a head of 1000 (ImageNet) or 21843 (ImageNet-21k), in its order.

    Raises:
        ValueError: there is no list of this many classes.
    """
    if not has_class_list(classes):
        raise ValueError(f"There are class lists for {_LIST_NAMES} classes. Received: {classes!r}")
    compressed = (files("keras_effnetv2.pretrained") / "class_lists" / _FILES[classes]).read_bytes()
    lines = gzip.decompress(compressed).decode().splitlines()
    return tuple(Label(*line.split("\t")) for line in lines)


def decode_predictions(scores: Any, top: int = 5) -> list[list[tuple[str, str, float]]]:
    """Name the highest scores, as `keras.applications` does, but also for ImageNet-21k.

    Args:
        scores: (N, 1000) or (N, 21843), the output of a network with a published head: an array
            or a tensor of the current Keras backend.
        top: how many classes to name, at least 1; all if there are fewer.

    Returns:
        For each of the N rows a list of (WordNet id, name, score), the highest score first, equal
        scores in the order of the classes.

    Raises:
        ValueError: the shape is wrong, or `top` is not a positive integer.
    """
    import keras  # not with the module: reading a list needs no backend
    import numpy as np

    array = keras.ops.convert_to_numpy(scores).astype("float64")
    if array.ndim != 2:
        raise ValueError(
            "`scores` must have the shape (pictures, classes). Give the scores of one picture as "
            f"scores[None]. Received: shape={array.shape}"
        )
    if not has_class_list(array.shape[1]):
        raise ValueError(
            f"`scores` must have {_LIST_NAMES} columns, which have known names. For your own "
            "classifier use your own names: class_names[index] for each index of "
            f"(-row).argsort()[:top]. Received: shape={array.shape}"
        )
    check_integer("top", top, minimum=1)
    labels = class_list(array.shape[1])
    best = np.argsort(-array, axis=-1, kind="stable")[:, :top]
    return [
        [(*labels[index], float(row[index])) for index in indices]
        for row, indices in zip(array, best, strict=True)
    ]
