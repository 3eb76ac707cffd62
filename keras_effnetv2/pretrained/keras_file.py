"""Keras' own files, `.weights.h5` and `.keras`: names as a function of position, and the reader.

Keras stores a layer's weights under `layers/{class}_{count}/vars/{n}`, counted by class along
`model.layers`; nothing but these arrays is read, so no code from the file is run.
"""

import io
import os
import zipfile
from collections import Counter
from pathlib import Path

import h5py
import keras
import numpy as np

_WEIGHTS_MEMBER = "model.weights.h5"
_LAYER_NAMES = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}
CLASSIFIER_BIAS = "layers/dense/vars/1"


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


def is_keras_file(path: str | os.PathLike[str]) -> bool:
    """Whether the path is named like a file that Keras 3 writes."""
    return os.fspath(path).endswith((".weights.h5", ".keras"))


def read_keras_file(
    path: str | os.PathLike[str],
) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Reads the arrays of a `.weights.h5` or `.keras` file.

    Returns:
        Tensors by their name in the file, and the names left out with the reason.

    Raises:
        ValueError: the file is not what its name says.
    """
    path = Path(path)
    try:
        if path.name.endswith(".keras"):
            with zipfile.ZipFile(path) as archive:
                return _read_h5(io.BytesIO(archive.read(_WEIGHTS_MEMBER)))
        return _read_h5(path)
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} cannot be read as a Keras weight file: {error}") from None


def _read_h5(source: Path | io.BytesIO) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    tensors: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if not isinstance(item, h5py.Dataset):
            return
        if name.startswith("optimizer/"):
            ignored[name] = "optimizer state"
        elif "/seed_generator/" in name:
            ignored[name] = "random generator state"
        else:
            tensors[name] = item[()]

    with h5py.File(source, "r") as file:
        file.visititems(visit)
    return tensors, ignored
