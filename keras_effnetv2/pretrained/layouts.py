"""Find out the layout of a weight file from its content; read its tensors and their names."""

import logging
import re
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keras_effnetv2._common.files import check_regular, file_sha256
from keras_effnetv2.pretrained.bounded import GZIP, ZIP_DAMAGE
from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.efficientnet_pytorch import efficientnet_pytorch_names
from keras_effnetv2.pretrained.keras_files import (
    WEIGHTS_MEMBER,
    is_snapshot,
    positional_names,
    read_keras_file,
)
from keras_effnetv2.pretrained.legacy_h5 import keras_applications_names, leondgarse_names
from keras_effnetv2.pretrained.official import CHECKPOINT_ENDING, official_names, read_official
from keras_effnetv2.pretrained.places import CLASSIFIER
from keras_effnetv2.pretrained.state_dicts import begins_as_safetensors, read_state_dict
from keras_effnetv2.pretrained.timm import timm_axes, timm_names
from keras_effnetv2.pretrained.timm_config import CONFIG, REPOSITORY_FILES

if TYPE_CHECKING:
    import keras

_LOG = logging.getLogger("keras_effnetv2")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_TORCH_SUFFIXES = (".pth", ".pth.tar", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
# One of several layouts each, which the names in it tell apart.
_KERAS_FILE, _STATE_DICT = "keras file", "state dict"
WEIGHT_FILES = (
    "A weight file is an official checkpoint (a folder, a prefix, a .tgz or .tar.gz archive), a "
    ".safetensors or .pth of PyTorch Image Models or EfficientNet-PyTorch, an .h5 of "
    "keras.applications or of leondgarse, or a .weights.h5 or .keras of this package."
)
# For a file that is damaged at its beginning; the reader then says what is wrong with it.
_SUFFIXES = {
    ".tgz": "official",
    ".tar.gz": "official",
    ".safetensors": _STATE_DICT,
    ".weights.h5": _KERAS_FILE,
    ".keras": _KERAS_FILE,
    **dict.fromkeys(_TORCH_SUFFIXES, _STATE_DICT),
}


class TensorLayout(NamedTuple):
    """The names of the tensors of a source, and the order of their axes."""

    # Model and names in the file -> our weight path -> name in the file.
    names: "Callable[[keras.Model, Collection[str]], dict[str, str]]"
    classifier: tuple[str, ...]  # how the names of the classifier's tensors may begin
    # Our weight path -> the file's axes in our order; None if the order is the same.
    axes: Callable[[str], tuple[int, ...] | None] = lambda ours: None


def _keras_names(model: "keras.Model", stored: Collection[str]) -> dict[str, str]:
    """Return our weight path -> the name in a file of Keras 3, of any of the networks."""
    if any(name.startswith("layers/") for name in stored):
        return positional_names(model)
    is_leondgarse = any(name.startswith("stack_") for name in stored)
    return (leondgarse_names if is_leondgarse else keras_applications_names)(model, stored)


LAYOUTS = {
    "official": TensorLayout(lambda model, stored: official_names(model), ("head/dense/",)),
    "timm": TensorLayout(lambda model, stored: timm_names(model), ("classifier.",), timm_axes),
    "efficientnet-pytorch": TensorLayout(
        lambda model, stored: efficientnet_pytorch_names(model), ("_fc.",), timm_axes
    ),
    "keras-applications": TensorLayout(keras_applications_names, (f"{CLASSIFIER}/",)),
    "leondgarse": TensorLayout(leondgarse_names, (f"{CLASSIFIER}/",)),
    "keras": TensorLayout(_keras_names, (f"{CLASSIFIER}/", "layers/dense/vars/")),
}


def weight_file(path: Path) -> Path:
    """Return the weight file of a path: itself, or the only one in a folder without checkpoint.

    Raises:
        ValueError: nothing is there, it is not a file, or the folder does not hold exactly one.
    """
    check_regular(path)
    if path.is_file() or Path(f"{path}.index").is_file():
        return path
    if not path.is_dir():
        raise ValueError(
            f"There is no file, folder or checkpoint {str(path)!r}. {WEIGHT_FILES} A published set "
            "is named VARIANT/SET; `keras-effnetv2 weights` lists them."
        )
    names = sorted(file.name for file in path.iterdir())
    if any(re.search(f"{CHECKPOINT_ENDING}$", name) for name in names):
        return path
    found = [name for name in names if name.endswith((*_SUFFIXES, ".h5"))]
    # Beside a pytorch_model.bin there often is a model.safetensors with the same weights.
    found = [name for name in found if not name.endswith(_TORCH_SUFFIXES)] or found
    if CONFIG in names:  # a copy of a repository
        found = [name for name in REPOSITORY_FILES if name in names][:1] or found
    if len(found) != 1:
        raise ValueError(
            f"The folder {str(path)!r} must hold one weight file, and has "
            f"{', '.join(found[:5]) or 'none'}. {WEIGHT_FILES}"
        )
    return weight_file(path / found[0])


def read_tensors(path: Path, source: str = "auto") -> Contents:
    """Read a weight file, or the checkpoint with a folder or prefix.

    The `source` is a key of `LAYOUTS`, or "auto" to decide by the content.

    Raises:
        ValueError: the format is unknown, or it cannot be read.
    """
    kind = _kind(path) if source == "auto" else source
    if kind == "official":
        if path.is_file():
            sha256 = file_sha256(path)
            _LOG.warning(
                "%s: there is no published hash to check; its hash is sha256:%s", path, sha256
            )
        return Contents(kind, *read_official(path))
    if kind in (_STATE_DICT, "timm", "efficientnet-pytorch"):
        return read_state_dict(path, source)
    return read_keras_file(path, source)


def _kind(path: Path) -> str:
    """Return "official", or what the file is read as."""
    start = b""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(9)
    members = _zip_members(path, start)
    has_index = Path(f"{path}.index").is_file() or (path.is_dir() and any(path.glob("*.index")))
    if has_index or start.startswith(GZIP):
        return "official"
    if start.startswith(_HDF5) or WEIGHTS_MEMBER in members:
        return _KERAS_FILE
    if begins_as_safetensors(start):
        return _KERAS_FILE if is_snapshot(path) else _STATE_DICT
    if _PICKLE.match(start) or any(name.endswith(".pkl") for name in members):
        return _STATE_DICT
    for suffix, kind in _SUFFIXES.items():
        if path.is_file() and path.name.endswith(suffix):
            return kind
    found = f", which begins with {start!r}" if path.is_file() else ""
    raise ValueError(
        f"{WEIGHT_FILES} Give `source` if it is not recognised. Received: path={str(path)!r}{found}"
    )


def _zip_members(path: Path, start: bytes) -> list[str]:
    if not start.startswith(_ZIP):
        return []
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (ValueError, *ZIP_DAMAGE):
        return []
