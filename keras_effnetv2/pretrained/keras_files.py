"""HDF5 and `.keras` files of Keras in any layout: their arrays by name.

Keras 3 stores a layer's weights under `layers/{class}_{count}/vars/{n}`, counted by class in the
order of `model.layers`. The nets of keras.applications have the same layers of each class in the
same order as ours, so they load, too. Keras 2 stores weights as LAYER/.../WEIGHT, in a whole model
under `model_weights`; Keras 3 still does this for .h5. Only arrays are read.
"""

import io
import logging
import re
import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_effnetv2.architectures.config import NORMALIZATIONS
from keras_effnetv2.pretrained.bounded import BoundedReader, unpacked_limit
from keras_effnetv2.pretrained.hdf5 import read_arrays, refuse_code

if TYPE_CHECKING:
    import keras

WEIGHTS_MEMBER = "model.weights.h5"

_LOG = logging.getLogger("keras_effnetv2")
_MODEL_MEMBER = "config.json"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
# What Python's zipfile reports of a damaged or encrypted archive.
_DAMAGE = (OSError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
_LAYER_NAMES = {
    "Conv2D": "conv2d",
    "DepthwiseConv2D": "depthwise_conv2d",
    "BatchNormalization": "batch_normalization",
    "Dense": "dense",
}
# The first one that occurs in the names of a file's arrays decides.
_LAYOUTS = (
    (r"layers/[^/]+/vars/\d", "keras"),
    (r"(.*/)?stack_\d+_block\d+_", "leondgarse"),
    (r"(.*/)?block\d+[a-z{|}~]+_", "keras-applications"),
)
_NORMALIZATION = re.compile(
    r"layers/normalization/vars/\d|normalization(_\d+)?/(mean|variance|count)(:0)?"
)


def keras_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path (e.g. "stem_conv/kernel") -> name in a file of Keras 3."""
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
    path: Path, source: str = "auto"
) -> tuple[str, dict[str, np.ndarray], dict[str, str]]:
    """Read the arrays of an HDF5 file or a `.keras` archive.

    Args:
        path: the file.
        source: "keras", "keras-applications" or "leondgarse"; "auto" decides by the arrays' names.

    Returns:
        The source; the tensors by their name in the file (the whole path for "keras", else layer
        and weight, e.g. "stem_conv/kernel:0"); the names left out with the reason.

    Raises:
        ValueError: the file is damaged or refused, or is not of these networks.
    """
    try:
        tensors, ignored = read_arrays(path, _left_out, _unpacked(path))
        source = _layout(tensors) if source == "auto" else source
        if source != "keras":
            tensors = _by_layer(tensors)
    except (ValueError, *_DAMAGE) as error:
        raise ValueError(f"{path} cannot be read as a Keras weight file: {error}") from None
    values = {name: tensors.pop(name) for name in list(tensors) if _NORMALIZATION.fullmatch(name)}
    _report_normalization(path, values)
    reason = "input normalisation; the model has its own"
    return source, tensors, ignored | dict.fromkeys(values, reason)


def _unpacked(path: Path) -> io.BytesIO | None:
    """Return the weights in a `.keras` archive; None if the file is not an archive."""
    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        members = {}
        for name in (_MODEL_MEMBER, WEIGHTS_MEMBER):
            if archive.getinfo(name).compress_type not in _METHODS:
                raise ValueError(f"its {name} is packed in a way that Keras does not use")
            with archive.open(name) as member:
                members[name] = BoundedReader(member, unpacked_limit(path)).read()
    refuse_code(members[_MODEL_MEMBER])
    return io.BytesIO(members[WEIGHTS_MEMBER])


def _left_out(name: str) -> str | None:
    if name.startswith(("optimizer/", "optimizer_weights/")):
        return "optimizer state"
    return "random generator state" if "/seed_generator/" in name else None


def _layout(names: Collection[str]) -> str:
    for pattern, source in _LAYOUTS:
        if any(re.match(pattern, name) for name in names):
            return source
    raise ValueError(
        "it is not an EfficientNet in a known layout: keras.applications "
        "(block1a_...), leondgarse (stack_0_block0_...), or Keras 3 (layers/.../vars/0). "
        f"Its arrays: {list(names)[:5]}"
    )


def _by_layer(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the arrays by layer and weight, wherever the layer is in the file."""
    tensors: dict[str, np.ndarray] = {}
    for name, array in arrays.items():
        short = "/".join(name.split("/")[-2:])
        if short in tensors:
            raise ValueError(f"it holds {short} twice, also as {name}; one network is allowed")
        tensors[short] = array
    return tensors


def _report_normalization(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """Log a message if a file's `Normalization` layer does not hold ImageNet's numbers.

    keras.applications' own V1 files have the standard deviation in place of the variance, and
    compensate for it elsewhere.
    """
    scale, offset = (np.asarray(values) for values in NORMALIZATIONS["imagenet"])
    deviation = 1 / (255 * scale)
    expected = (-offset * deviation, deviation, deviation**2)
    for name, array in arrays.items():
        per_channel = array.shape == (len(scale),)
        if per_channel and not any(np.allclose(array, right, atol=1e-4) for right in expected):
            _LOG.warning(
                f"{path}: {name} is {array.tolist()}, not ImageNet's. It is not loaded: the model "
                "normalises pixels in its own way. If the network was trained with it, build the "
                "model with include_preprocessing=False and normalise the pixels in that way."
            )
            return
