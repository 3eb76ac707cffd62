"""The .h5 layout of Keras 2, which Keras 3 still writes for names in .h5: LAYER/.../WEIGHT.

Two sources have it, each with its own names of layers. Three things differ from writer to writer:
TensorFlow's Keras ends names with ":0" and says `depthwise_kernel` where Keras 3 says `kernel`;
and in a whole model the layers stand under `model_weights`.
"""

import logging
import os
import re
from collections.abc import Callable, Collection

import keras
import numpy as np

from keras_effnetv2.architectures.config import NORMALIZATIONS
from keras_effnetv2.pretrained.hdf5 import read_arrays
from keras_effnetv2.pretrained.places import Place, weight_names

_LOG = logging.getLogger("keras_effnetv2")

_NORMALIZATION = re.compile(r"normalization(_\d+)?/(mean|variance|count)(:0)?")


def legacy_names(
    model: keras.Model, layer: Callable[[Place], str], stored: Collection[str]
) -> dict[str, str]:
    """The name table of a file, in the spelling of the file.

    Args:
        model: a model of `build_model`.
        layer: from a place to the source's name of the layer.
        stored: the names in the file.

    Returns:
        Our weight path -> name in the file.
    """
    end = ":0" if any(name.endswith(":0") for name in stored) else ""
    long = any("/depthwise_kernel" in name for name in stored)

    def theirs(place: Place, weight: str) -> str:
        if long and (place.role, weight) == ("dwconv2", "kernel"):
            weight = "depthwise_kernel"
        return f"{layer(place)}/{weight}{end}"

    return weight_names(model, theirs)


def read_legacy_h5(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a file in the older layout.

    Returns:
        Arrays by layer and weight, e.g. "stem_conv/kernel:0", wherever in the file the layer
        stands; and the names left out with the reason.

    Raises:
        ValueError: the file is damaged or refused, or two weights have one name.
    """
    tensors: dict[str, np.ndarray] = {}
    try:
        arrays, ignored = read_arrays(path, _ignore)
        for name, array in arrays.items():
            short = "/".join(name.split("/")[-2:])
            if short in tensors:
                raise ValueError(f"it holds {short} twice, also as {name}; one network is allowed")
            tensors[short] = array
    except ValueError as error:
        raise ValueError(f"{os.fspath(path)} cannot be read as a Keras .h5 file: {error}") from None
    values = {name: tensors.pop(name) for name in list(tensors) if _NORMALIZATION.fullmatch(name)}
    return tensors, ignored | normalization_reasons(path, values)


def _ignore(name: str) -> str | None:
    return "optimizer state" if name.startswith("optimizer_weights/") else None


def normalization_reasons(
    path: str | os.PathLike[str], arrays: dict[str, np.ndarray]
) -> dict[str, str]:
    """Why the arrays of a file's `Normalization` layer are left out; a model of ours has its own.

    If they are not ImageNet's mean and variance, which a model of ours is built with, one log line
    says so. keras.applications' own files of V1 have the standard deviation for the variance, and
    make up for it elsewhere.

    Args:
        path: the file, for the log.
        arrays: mean, variance and count, by their names in the file.
    """
    scale, offset = (np.asarray(values) for values in NORMALIZATIONS["imagenet"])
    deviation = 1 / (255 * scale)
    expected = (-offset * deviation, deviation, deviation**2)
    for name, array in arrays.items():
        per_channel = array.shape == (len(scale),)
        if per_channel and not any(np.allclose(array, right, atol=1e-4) for right in expected):
            _LOG.warning(
                "%s: %s is %s, not ImageNet's. It is not loaded: the model normalises pixels in "
                "its own way. If the network was trained with it, build the model with "
                "include_preprocessing=False and normalise its pixels so.",
                os.fspath(path),
                name,
                array.tolist(),
            )
            break
    return dict.fromkeys(arrays, "input normalisation; the model has its own")
