"""HDF5 and `.keras` files of Keras in any layout, and snapshots of `train`: their arrays by name.

Keras 3 stores a layer's weights under `layers/{class}_{count}/vars/{n}`, counted by class in the
order of `model.layers`. The nets of keras.applications have the same layers of each class in the
same order as ours, so they load, too. Keras 2 stores weights as LAYER/.../WEIGHT, in a whole model
under `model_weights`; Keras 3 still does this for .h5. A snapshot has all variables of a training,
as GROUP/NUMBER/PATH OF THE VARIABLE. Only arrays are read.
"""

import io
import logging
import re
import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from keras_effnetv2._common.files import parse_json
from keras_effnetv2.architectures.normalization import NORMALIZATIONS
from keras_effnetv2.pretrained.bounded import ZIP_DAMAGE, BoundedReader, unpacked_limit
from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.hdf5 import Arrays, read_arrays, refuse_code
from keras_effnetv2.pretrained.input_range import layers_in_front, stated_by_layers
from keras_effnetv2.pretrained.places import (
    CLASSIFIER,
    FIRST_LAYER,
    NUMBERED,
    network_prefix,
    own_layers,
)

if TYPE_CHECKING:
    import keras

WEIGHTS_MEMBER = "model.weights.h5"
SNAPSHOT_WEIGHTS = "model/"  # the group of the network's own variables in a snapshot

_LOG = logging.getLogger("keras_effnetv2")
_MODEL_MEMBER = "config.json"
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
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
    (rf"(.*/)?({NUMBERED})?block\d+[a-z]+_", "keras-applications"),
)
_NORMALIZATION = re.compile(
    r"layers/normalization/vars/\d|normalization(_\d+)?/(mean|variance|count)(:0)?"
)
# Layers with weights of the networks, in the names of keras.applications (and ours), leondgarse.
_OF_NETWORK = re.compile(
    rf"(stem|top|post)_(conv|bn)|{CLASSIFIER}|block\d+[a-z]+_\w+|stack_\d+_block\d+_\w+"
)
# The variables of a layer in the order in which Keras 3 numbers them.
_VARIABLES = {
    "conv2d": ("kernel", "bias"),
    "depthwise_conv2d": ("kernel", "bias"),
    "dense": ("kernel", "bias"),
    "batch_normalization": ("gamma", "beta", "moving_mean", "moving_variance"),
    "normalization": ("mean", "variance", "count"),
}


def positional_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path (e.g. "stem_conv/kernel") -> name in a file of Keras 3.

    For files without the layers' names, which early versions of Keras 3 wrote.
    """
    counts: Counter[str] = Counter()
    names = {}
    ours = {id(layer): name for name, layer in own_layers(model).items()}
    for layer in model.layers:
        kind = _LAYER_NAMES.get(type(layer).__name__)
        if kind is None:
            continue
        number = counts[kind]
        counts[kind] += 1
        group = f"layers/{kind}_{number}" if number else f"layers/{kind}"
        for index, weight in enumerate(layer.weights):
            names[f"{ours.get(id(layer), layer.name)}/{weight.name}"] = f"{group}/vars/{index}"
    return names


def read_keras_file(path: Path, source: str = "auto") -> Contents:
    """Read the arrays of an HDF5 file, a `.keras` archive or a snapshot.

    The `source` is "keras", "keras-applications" or "leondgarse"; "auto" decides by the arrays'
    names. The tensors are named by layer and weight, e.g. "stem_conv/kernel:0"; of "keras" by the
    whole path in the file if it does not name its layers.

    Raises:
        ValueError: the file is damaged or refused, or is not of these networks.
    """
    model = b""
    try:
        if is_snapshot(path):
            arrays, source = _of_snapshot(path), "keras"
            tensors, others = _by_layer(arrays)
        else:
            model, weights = unpacked_model(path) if zipfile.is_zipfile(path) else (b"", None)
            arrays = read_arrays(path, _left_out, weights)
            source = _layout(arrays.tensors) if source == "auto" else source
            tensors, others = _by_layer(arrays) if source != "keras" else _by_name(arrays)
        described = model or arrays.model
        front = layers_in_front(parse_json(described)) if described else ()
    except (ValueError, AttributeError, SafetensorError, *ZIP_DAMAGE) as error:
        # AttributeError: a type that NumPy does not have
        raise ValueError(f"{path} cannot be read as a Keras weight file: {error}") from None
    stated: Any = None
    try:
        stated = stated_by_layers(front, others)
    except ValueError as error:
        stated = ValueError(f"{path} says how its pixels are normalised, but {error}.")
    both = {**tensors, **others}
    values = {name: both[name] for name in both if _NORMALIZATION.fullmatch(name)}
    if stated is None:
        _report_normalization(path, values)
    reason = "input normalisation; the model has its own"
    return Contents(
        source,
        {name: array for name, array in tensors.items() if name not in values},
        arrays.ignored | dict.fromkeys(values, reason),
        {name: array for name, array in others.items() if name not in values},
        stated,
    )


def is_snapshot(path: Path) -> bool:
    """Return whether a file is a snapshot of a training."""
    try:
        with safe_open(path, "numpy") as file:
            return any(name.startswith(SNAPSHOT_WEIGHTS) for name in file.keys())  # noqa: SIM118
    except (SafetensorError, OSError):
        return False


def _of_snapshot(path: Path) -> Arrays:
    with safe_open(path, "numpy") as file:
        names = set(file.keys())
        own = {name for name in names if name.startswith(SNAPSHOT_WEIGHTS)}
        tensors = {name: file.get_tensor(name) for name in sorted(own)}
    return Arrays(tensors, dict.fromkeys(names - own, "state of the training"), {}, "")


def unpacked_model(path: Path) -> tuple[bytes, io.BytesIO]:
    """Return the JSON of the model and the HDF5 file of the weights in a `.keras` archive.

    Raises:
        ValueError: it contains Python code, or unpacks to far more than its size.
    """
    with zipfile.ZipFile(path) as archive:
        members = {}
        for name in (_MODEL_MEMBER, WEIGHTS_MEMBER):
            if archive.getinfo(name).compress_type not in _METHODS:
                raise ValueError(f"its {name} is packed in a way that Keras does not use")
            with archive.open(name) as member:
                members[name] = BoundedReader(member, unpacked_limit(path)).read()
    refuse_code(members[_MODEL_MEMBER])
    return members[_MODEL_MEMBER], io.BytesIO(members[WEIGHTS_MEMBER])


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


def _by_layer(arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the network's arrays by layer and weight, and those of other layers.

    This is for the layout of Keras 2, whose paths end with layer and weight.
    """
    return _split({name: "/".join(name.split("/")[-2:]) for name in arrays.tensors}, arrays)


def _by_name(arrays: Arrays) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Do `_by_layer` for the layout of Keras 3, which names the layer of each group of arrays.

    Without names all arrays are the network's, by their paths.
    """
    names = {}
    for path in arrays.tensors:
        group, _, number = path.rpartition("/")
        kind = re.sub(r"_\d+$", "", group.split("/")[-2] if "/" in group else "")
        variables = _VARIABLES.get(kind, ())
        known = number.isdecimal() and int(number) < len(variables)
        variable = variables[int(number)] if known else f"vars/{number}"
        names[path] = f"{arrays.layers.get(group, '')}/{variable}"
    if not any(name.endswith(f"{FIRST_LAYER}/kernel") for name in names.values()):
        return arrays.tensors, {}
    return _split(names | _only_head(names), arrays)


def _only_head(names: Mapping[str, str]) -> dict[str, str]:
    """Return our names for a classifier with another name, if it is all that follows the network.

    Not for a network that is nested in the model: other layers may be between the two.
    """
    heads = {
        path: name
        for path, name in names.items()
        if not _OF_NETWORK.fullmatch(name.partition("/")[0]) and not _NORMALIZATION.fullmatch(name)
    }
    is_dense = all(re.fullmatch(r"layers/dense/vars/\d", path) for path in heads)
    is_nested = "layers/conv2d/vars/0" not in names
    if not is_dense or is_nested or any(name.startswith(CLASSIFIER) for name in names.values()):
        return {}
    return {path: f"{CLASSIFIER}/{name.rpartition('/')[2]}" for path, name in heads.items()}


def _split(
    names: Mapping[str, str], arrays: Arrays
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Return the network's arrays and the others, given path -> layer and weight."""
    tensors: dict[str, np.ndarray] = {}
    others: dict[str, np.ndarray] = {}
    prefix = network_prefix({name.partition("/")[0] for name in names.values()})
    for path, other in names.items():
        name = other.removeprefix(prefix)
        if not other.startswith(prefix) or not _OF_NETWORK.fullmatch(name.partition("/")[0]):
            others[path if other in others else other] = arrays.tensors[path]
        elif name in tensors:
            raise ValueError(f"it holds {name} twice, also as {path}; one network is allowed")
        else:
            tensors[name] = arrays.tensors[path]
    _move_other_classifier(tensors, others)
    return tensors, others


def _move_other_classifier(tensors: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    """Move a layer with the classifier's name to the others if it does not fit the network."""
    widths = [
        array.shape[0]
        for name, array in tensors.items()
        if re.match(r"(top|post)_bn/gamma", name) and array.ndim == 1
    ]
    classifier = {name: one for name, one in tensors.items() if name.startswith(f"{CLASSIFIER}/")}
    kernels = [one.shape[0] for one in classifier.values() if one.ndim == 2]
    if widths and kernels and widths != kernels:
        for name in classifier:
            others[name] = tensors.pop(name)


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
