"""Keras' own files, `.weights.h5` and `.keras`: names as a function of position, and the reader.

Keras stores a layer's weights under `layers/{class}_{count}/vars/{n}`, counted by class along
`model.layers`; nothing but these arrays is read, so no code from the file is run. The nets of
keras.applications have the same layers of each class in the same order, and load too.
"""

import io
import os
import re
import zipfile
import zlib
from collections import Counter
from pathlib import Path

import keras
import numpy as np

from keras_effnetv2.pretrained.bounded import BoundedReader, unpacked_limit
from keras_effnetv2.pretrained.hdf5 import read_arrays, refuse_code
from keras_effnetv2.pretrained.legacy_h5 import normalization_reasons

WEIGHTS_MEMBER = "model.weights.h5"
_MODEL_MEMBER = "config.json"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
_LAYER_NAMES = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}
_NORMALIZATION = re.compile(r"layers/normalization/vars/\d")
# What Python's zipfile reports of a damaged or encrypted archive.
_DAMAGE = (OSError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)


def keras_names(model: keras.Model) -> dict[str, str]:
    """Our weight path (e.g. "stem_conv/kernel") -> name in a file Keras writes."""
    counts: Counter[str] = Counter()
    names = {}
    for layer in model.layers:
        kind = _LAYER_NAMES.get(type(layer).__name__)
        if kind is None:
            continue
        number = counts[kind]
        counts[kind] += 1
        group = f"layers/{kind}_{number}" if number else f"layers/{kind}"
        for index, weight in enumerate(layer.weights):
            names[f"{layer.name}/{weight.name}"] = f"{group}/vars/{index}"
    return names


def read_keras_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a `.weights.h5` or `.keras` file.

    Returns:
        Tensors by their name in the file, and the names left out with the reason.

    Raises:
        ValueError: the file is not what its name says.
    """
    try:
        content = _unpacked(Path(path)) if zipfile.is_zipfile(path) else None
        tensors, ignored = read_arrays(path, _ignore, content)
    except (ValueError, *_DAMAGE) as error:
        raise ValueError(
            f"{os.fspath(path)} cannot be read as a Keras weight file: {error}"
        ) from None
    values = {name: tensors.pop(name) for name in list(tensors) if _NORMALIZATION.fullmatch(name)}
    return tensors, ignored | normalization_reasons(path, values)


def _unpacked(path: Path) -> io.BytesIO:
    """The weights in a `.keras` archive."""
    with zipfile.ZipFile(path) as archive:
        members = {}
        for name in (_MODEL_MEMBER, WEIGHTS_MEMBER):
            if archive.getinfo(name).compress_type not in _METHODS:
                raise ValueError(f"its {name} is packed in a way that Keras does not use")
            with archive.open(name) as member:
                members[name] = BoundedReader(member, unpacked_limit(path)).read()
    refuse_code(members[_MODEL_MEMBER])
    return io.BytesIO(members[WEIGHTS_MEMBER])


def _ignore(name: str) -> str | None:
    if name.startswith("optimizer/"):
        return "optimizer state"
    return "random generator state" if "/seed_generator/" in name else None
