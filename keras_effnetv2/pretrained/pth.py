"""State dicts that `torch.save` wrote (.pth, .pt, pytorch_model.bin), read without PyTorch.

In such a file a pickle describes tensors, and beside it are the numbers of their storages: since
PyTorch 1.6 in a zip archive, before that one after another.
"""

import io
import os
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

import numpy as np

from keras_effnetv2.pretrained.bounded import ZIP_DAMAGE
from keras_effnetv2.pretrained.torch_pickle import WAY_OUT, Storage, Tensor, read_pickle

_MAGIC = 0x1950A86A20F9469CFC6C  # the first pickle of the old form
_MAX_PICKLE = 2**22  # bytes; a tensor takes 150, and 1,500 tensors are a large network
_BIG_ENDIAN = "its numbers are big-endian; save it again on a little-endian machine"
# The state dict in a training checkpoint, in the order of PyTorch Image Models
# (timm/models/_helpers.py, `load_state_dict`).
_STATE_DICTS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model")
_StateDict = tuple[dict[str, np.ndarray], dict[str, str], str]


def read_pth(path: Path) -> _StateDict:
    """Read a state dict, alone or in a training checkpoint, whose averages are preferred.

    Returns:
        Name -> array, the names that were left out with the reason, and the name of the network
        in a training checkpoint of PyTorch Image Models, else "".

    Raises:
        ValueError: the file is damaged, or is no state dict.
        OSError: it cannot be read.
    """
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        is_archive = file.read(2) == b"PK"
        file.seek(0)
        if not is_archive:
            return _state_dict(*_open_old_form(file, size))
        try:
            with zipfile.ZipFile(file) as archive:
                return _state_dict(*_open_archive(archive, size))
        except (UnicodeDecodeError, *ZIP_DAMAGE) as error:
            raise ValueError(f"its archive is damaged: {error}") from None


_Opened = tuple[object, Callable[[Storage], bytearray]]
"""The object of a file's pickle, and what reads the numbers of a storage."""


def _open_archive(archive: zipfile.ZipFile, size: int) -> _Opened:
    members = {member.filename: member for member in archive.infolist()}
    pickles = [name for name in members if name.endswith(".pkl")]
    if any(name.endswith("constants.pkl") for name in pickles):
        raise ValueError(f"it is a program (TorchScript). {WAY_OUT}")
    if len(pickles) != 1 or not f"/{pickles[0]}".endswith("/data.pkl"):
        raise ValueError(f"its archive must have one data.pkl, and has {pickles[:5]}")
    # So the members take no more memory than the file has bytes.
    if (
        len(members) < len(archive.infolist())
        or any(member.compress_type != zipfile.ZIP_STORED for member in members.values())
        or sum(member.file_size for member in members.values()) > size
    ):
        raise ValueError("its archive is compressed or has a member twice; torch.save does neither")
    folder = pickles[0].removesuffix("data.pkl")

    def read(name: str) -> bytes:
        with archive.open(folder + name) as member:
            return member.read(members[folder + name].file_size)

    if f"{folder}byteorder" in members and read("byteorder") != b"little":
        raise ValueError(_BIG_ENDIAN)
    if members[pickles[0]].file_size > _MAX_PICKLE:
        raise ValueError(f"its data.pkl has more than {_MAX_PICKLE:,} bytes")
    loaded = read_pickle(io.BytesIO(read("data.pkl")), {})
    return loaded, lambda storage: bytearray(read(f"data/{storage.key}"))


def _open_old_form(file: IO[bytes], size: int) -> _Opened:
    storages: dict[str, Storage] = {}
    pickles = io.BytesIO(file.read(_MAX_PICKLE))
    if read_pickle(pickles, {}) != _MAGIC:
        raise ValueError(f"it is a pickle that torch.save did not write. {WAY_OUT}")
    _version, system, loaded, keys = (read_pickle(pickles, storages) for _ in range(4))
    if isinstance(system, dict) and system.get("little_endian") is False:
        raise ValueError(_BIG_ENDIAN)
    places: dict[str, int] = {}
    position = pickles.tell()
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in storages:
            raise ValueError("its list of storages has one that no tensor uses")
        file.seek(position)
        places[key] = position + 8
        position += 8 + storages[key].size * storages[key].dtype.itemsize
        if int.from_bytes(file.read(8), "little") != storages[key].size or position > size:
            raise ValueError("it is cut off, or its storages have other sizes than its pickle says")

    def read(storage: Storage) -> bytearray:
        if storage.key not in places:
            raise ValueError(f"its storage {storage.key[:50]!r} is missing")
        file.seek(places[storage.key])
        size = storages[storage.key].size * storages[storage.key].dtype.itemsize
        return bytearray(file.read(size))

    return loaded, read


def _state_dict(loaded: object, read: Callable[[Storage], bytearray]) -> _StateDict:
    """Return what `read_pth` does, of the object of a pickle."""
    found = loaded if isinstance(loaded, dict) else {}
    network, ignored = found.get("arch"), {}
    inner = {key: entry for key, entry in found.items() if isinstance(entry, dict)}
    inner = {key: entry for key, entry in inner.items() if _tensors(entry)}
    known = [key for key in _STATE_DICTS if key in inner]
    if known or (inner and not _tensors(found)):
        if not known and len(inner) > 1:
            raise ValueError(f"it holds several state dicts, {_names(inner)}; keep one. {WAY_OUT}")
        (key,) = known[:1] or inner
        ignored = {str(name): f"beside {key!r} in a training checkpoint" for name in found}
        found = inner[key]
        del ignored[str(key)]
    described = _tensors(found)
    if not described:
        there = f", but {_names(found)}" if found else ""
        raise ValueError(f"it holds no tensors by name{there}. {WAY_OUT}")
    ignored |= {str(name): "not a tensor" for name in found if name not in described}
    data: dict[str, bytearray] = {}
    for tensor in described.values():
        key = tensor.storage.key
        if key not in data:
            data[key] = read(tensor.storage)
    tensors = {name: one.array(data[one.storage.key]) for name, one in described.items()}
    return tensors, ignored, network if isinstance(network, str) else ""


def _tensors(found: dict[Any, Any]) -> dict[str, Tensor]:
    return {
        name: value
        for name, value in found.items()
        if isinstance(name, str) and isinstance(value, Tensor)
    }


def _names(found: dict[Any, Any]) -> list[str]:
    return [str(name)[:50] for name in found][:5]
