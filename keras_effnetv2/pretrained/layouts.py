"""Find out the layout of a weight file from its content; read its tensors and their names."""

import logging
import re
import zipfile
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from keras_effnetv2._common.files import check_regular, file_sha256
from keras_effnetv2.pretrained.bounded import GZIP
from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.keras_files import WEIGHTS_MEMBER, positional_names, read_keras_file
from keras_effnetv2.pretrained.legacy_h5 import keras_applications_names, leondgarse_names
from keras_effnetv2.pretrained.official import CHECKPOINT_ENDING, official_names, read_official
from keras_effnetv2.pretrained.places import CLASSIFIER
from keras_effnetv2.pretrained.timm import read_timm, timm_axes, timm_names

if TYPE_CHECKING:
    import keras

_LOG = logging.getLogger("keras_effnetv2")
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
_KERAS_FILE = "keras file"  # one of three layouts, which the names in it tell apart
WEIGHT_FILES = (
    "A weight file is an official checkpoint (a folder, a prefix, a .tgz or .tar.gz archive), a "
    ".safetensors of PyTorch Image Models, an .h5 of keras.applications or of leondgarse, or a "
    ".weights.h5 or .keras of this package."
)
# For a file that is damaged at its beginning; the reader then says what is wrong with it.
_SUFFIXES = {
    ".tgz": "official",
    ".tar.gz": "official",
    ".safetensors": "timm",
    ".weights.h5": _KERAS_FILE,
    ".keras": _KERAS_FILE,
}


class TensorLayout(NamedTuple):
    """The names of the tensors of a source, and the order of their axes.

    Attributes:
        names: from model and names in the file, returns our weight path -> name in the file.
        classifier: possible beginnings of the names of the classifier's tensors.
        axes: our weight path -> the file's axes in our order; None if the order is the same.
    """

    names: "Callable[[keras.Model, Collection[str]], dict[str, str]]"
    classifier: tuple[str, ...]
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
    if len(found) != 1:
        raise ValueError(
            f"The folder {str(path)!r} must hold one weight file, and has "
            f"{', '.join(found[:5]) or 'none'}. {WEIGHT_FILES}"
        )
    return weight_file(path / found[0])


def read_tensors(path: Path, source: str = "auto") -> Contents:
    """Read a weight file.

    Args:
        path: path of a file, or the folder or prefix of a checkpoint.
        source: a key of `LAYOUTS`, or "auto" to decide by the content.

    Raises:
        ValueError: the format is unknown, or it cannot be read.
    """
    start = _refuse_pickle(path)
    kind = _kind(path, start) if source == "auto" else source
    if kind == "official":
        if path.is_file():
            sha256 = file_sha256(path)
            _LOG.warning(
                "%s: there is no published hash to check; its hash is sha256:%s", path, sha256
            )
        return Contents(kind, *read_official(path))
    if kind == "timm":
        return read_timm(path)
    return read_keras_file(path, source)


def _kind(path: Path, start: bytes) -> str:
    """Return "official", "timm" or the kind for files of Keras."""
    if Path(f"{path}.index").is_file() or (path.is_dir() and any(path.glob("*.index"))):
        return "official"
    if start.startswith(GZIP):
        return "official"
    if start.startswith(_HDF5) or WEIGHTS_MEMBER in _zip_members(path, start):
        return _KERAS_FILE
    if start[8:] == b"{":  # after the length of the header, which is JSON
        return "timm"
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
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []


def _refuse_pickle(path: Path) -> bytes:
    """Return the first bytes of a file, unless it is a pickle, alone or in PyTorch's archive.

    The content decides if possible, else the name.
    """
    if not path.is_file():
        return b""
    with open(path, "rb") as file:
        start = file.read(9)
    known = start.startswith((GZIP, _HDF5)) or start[8:] == b"{"
    if (
        _PICKLE.match(start)
        or any(name.endswith(".pkl") for name in _zip_members(path, start))
        or (not known and path.suffix in _PICKLE_SUFFIXES)
    ):
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is read, so it is refused. "
            'Convert it to safetensors: python -c "import torch; from safetensors.torch import '
            "save_file; "
            f"save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\""
        )
    return start
