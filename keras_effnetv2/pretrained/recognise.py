"""Which source a weight file is of, told by its content; and pickles, which are refused."""

import os
import re
import zipfile
from pathlib import Path

from keras_effnetv2.pretrained import keras_applications, leondgarse
from keras_effnetv2.pretrained.hdf5 import array_names
from keras_effnetv2.pretrained.keras_file import WEIGHTS_MEMBER

_GZIP = b"\x1f\x8b"
_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK"
_PICKLE = re.compile(rb"\x80[\x02-\x05]")
_PICKLE_SUFFIXES = (".pth", ".pt", ".bin", ".ckpt", ".pkl", ".pickle", ".joblib")
# For a file that is damaged at its beginning; the reader then says what is wrong with it.
_SUFFIXES = {
    ".tgz": "official",
    ".tar.gz": "official",
    ".safetensors": "timm",
    ".weights.h5": "keras",
    ".keras": "keras",
}
# The first one that occurs in the names of an HDF5 file's arrays decides.
_H5_LAYOUTS = (
    (r"layers/[^/]+/vars/\d", "keras"),
    (rf"(.*/)?{leondgarse.LAYER_PATTERN}", "leondgarse"),
    (rf"(.*/)?{keras_applications.LAYER_PATTERN}", "keras-applications"),
)


def recognise(path: str | os.PathLike[str]) -> str:
    """The source of a weight file: "official", "timm", "keras-applications", ...

    Raises:
        ValueError: nothing is there, or nothing that is known.
    """
    path = Path(path)
    if Path(f"{path}.index").is_file() or (path.is_dir() and any(path.glob("*.index"))):
        return "official"
    found = ""
    if path.is_file():
        with open(path, "rb") as file:
            start = file.read(9)
        source = _of_content(path, start)
        source = source or next((s for end, s in _SUFFIXES.items() if path.name.endswith(end)), "")
        if source:
            return source
        found = f", which begins with {start!r}"
    raise ValueError(
        "A weight file is an official checkpoint (a folder, a prefix, a .tgz or .tar.gz archive), "
        "a .safetensors of PyTorch Image Models, an .h5 of keras.applications or of leondgarse, "
        "or a .weights.h5 or .keras of this package; `source` names one that is not recognised. "
        f"Received: path={os.fspath(path)!r}{found}"
    )


def _of_content(path: Path, start: bytes) -> str | None:
    if start.startswith(_GZIP):
        return "official"
    if start.startswith(_HDF5):
        return _of_h5(path)
    if start.startswith(_ZIP):
        return "keras" if WEIGHTS_MEMBER in _zip_members(path) else None
    # Eight bytes with the length of the header, then the header, which is JSON.
    return "timm" if start[8:] == b"{" else None


def _of_h5(path: Path) -> str:
    try:
        names = array_names(path)
    except ValueError as error:
        raise ValueError(f"{path} cannot be read as an HDF5 file: {error}") from None
    for pattern, source in _H5_LAYOUTS:
        if any(re.match(pattern, name) for name in names):
            return source
    raise ValueError(
        f"{path} is an HDF5 file, but not of an EfficientNet in a layout that is known: "
        f"keras.applications (block1a_...), leondgarse (stack_0_block0_...), or Keras 3 "
        f"(layers/.../vars/0). Its arrays: {names[:5]}"
    )


def _zip_members(path: Path) -> list[str]:
    try:
        with zipfile.ZipFile(path) as archive:
            return archive.namelist()
    except (OSError, ValueError, NotImplementedError, zipfile.BadZipFile):
        return []


def refuse_pickles(path: str | os.PathLike[str]) -> None:
    """Raises ValueError if a file is a pickle, alone or in PyTorch's archive, or is named like one.

    The content decides where it can be told.
    """
    path = Path(path)
    if not path.is_file():
        return
    with open(path, "rb") as file:
        start = file.read(9)
    known = start.startswith((_GZIP, _HDF5)) or start[8:] == b"{"
    if (
        _PICKLE.match(start)
        or (start.startswith(_ZIP) and any(n.endswith(".pkl") for n in _zip_members(path)))
        or (not known and path.suffix in _PICKLE_SUFFIXES)
    ):
        raise ValueError(
            f"{path} is a pickle, which can run any code when it is read, so it is not. Convert it "
            'to safetensors: python -c "import torch; from safetensors.torch import save_file; '
            f"save_file(torch.load('{path.name}', weights_only=True), '{path.stem}.safetensors')\""
        )
