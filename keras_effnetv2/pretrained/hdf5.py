"""The arrays of an HDF5 file, and nothing else from it.

Attributes that describe a model are not deserialised. A file that refers to other places (links,
external or virtual data), or declares far more data than it has, is refused.
"""

import io
import math
import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import h5py
import ml_dtypes
import numpy as np

# Damage comes out of HDF5 as whatever Python error stands for the place of it (measured: all but
# the last two).
_DAMAGE = (OSError, RuntimeError, LookupError, TypeError, ValueError, ArithmeticError, MemoryError)
# A layer with Python code, in the older and the newer way to describe models.
_CODE = re.compile(r'"class_name":\s*"(Lambda|__lambda__)"')


class Arrays(NamedTuple):
    """The arrays of an HDF5 file, and their layers."""

    tensors: dict[str, np.ndarray]  # by their paths in the file
    ignored: dict[str, str]  # path in the file -> why it is left out
    layers: dict[str, str]  # path of a group -> name of its layer, in files of Keras 3
    model: str | bytes  # JSON of the model in a Keras 2 file of a whole one; else empty


def read_arrays(
    path: str | os.PathLike[str],
    ignore: Callable[[str], str | None],
    content: io.BytesIO | None = None,
) -> Arrays:
    """Read the arrays of an HDF5 file.

    Args:
        path: the file; not read if `content` is given.
        ignore: returns the reason to leave out an array, given its path in the file (e.g.
            "model_weights/stem_conv/kernel"); None reads it.
        content: the HDF5 file itself, if it is part of an archive.

    Raises:
        ValueError: the file is damaged or refused, see the module; the message does not name it.
    """
    tensors: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    layers: dict[str, str] = {}
    left = os.path.getsize(path) if content is None else content.getbuffer().nbytes
    try:
        with h5py.File(Path(path) if content is None else content, "r") as file:
            model = file.attrs.get("model_config", "")
            refuse_code(model)
            for name, dataset in _datasets(file):
                reason = ignore(name)
                if reason is not None:
                    ignored[name] = reason
                    continue
                left -= _checked_size(name, dataset)
                if left < 0:
                    raise ValueError("its arrays need more bytes than it has")
                array = np.asarray(dataset[()])
                tensors[name] = array.view(ml_dtypes.bfloat16) if _is_bfloat16(dataset) else array
                layer = dataset.parent.attrs.get("name")
                if isinstance(layer, str):
                    layers[name.rpartition("/")[0]] = layer
    except _DAMAGE as error:
        raise ValueError(str(error)) from None
    return Arrays(tensors, ignored, layers, model)


def refuse_code(description: str | bytes) -> None:
    """Raise ValueError if a model's description contains Python code, as in Lambda layers."""
    text = description.decode("utf-8", "replace") if isinstance(description, bytes) else description
    if _CODE.search(text):
        raise ValueError(
            "its model has a Lambda layer, which is Python code. Nothing was run. Files of "
            "these networks have no such layer"
        )


def _datasets(file: h5py.File) -> Iterator[tuple[str, h5py.Dataset]]:
    """Yield every dataset with its path; links are not followed, and each is read once."""
    seen = set()
    waiting = [("", file)]
    while waiting:
        path, group = waiting.pop()
        for key in group:
            name = f"{path}/{key}" if path else key
            if not isinstance(group.get(key, getlink=True), h5py.HardLink):
                raise ValueError(f"{name} is a link, and weight files have no links")
            item = group[key]
            address = h5py.h5o.get_info(item.id).addr
            if address in seen:
                raise ValueError(f"{name} is there twice, or contains itself")
            seen.add(address)
            if isinstance(item, h5py.Group):
                waiting.append((name, item))
            elif isinstance(item, h5py.Dataset):
                yield name, item
            else:
                raise ValueError(f"{name} is neither a group nor an array")


def _checked_size(name: str, dataset: h5py.Dataset) -> int:
    """Return the size of an array in memory, bytes, if it may be read."""
    if dataset.external or dataset.is_virtual:
        raise ValueError(f"the data of {name} is in another file")
    # What unpacks it may be a plugin, that is code, and to what size is known only afterwards.
    if dataset.id.get_create_plist().get_nfilters():
        raise ValueError(
            f"{name} is compressed, which Keras never does. Unpack it with HDF5's own tool: "
            "h5repack -f NONE OLD NEW"
        )
    if dataset.dtype.kind not in "fiub" and not _is_bfloat16(dataset):
        raise ValueError(f"{name} does not hold numbers but the type {dataset.dtype}")
    size = math.prod(dataset.shape) * dataset.dtype.itemsize
    if size and not dataset.id.get_storage_size():
        raise ValueError(f"{name} declares the shape {dataset.shape} and holds no data")
    return size


def _is_bfloat16(dataset: h5py.Dataset) -> bool:
    """Return whether Keras stored bfloat16 there, a type that HDF5 does not have."""
    return dataset.dtype == np.dtype("V2") and dataset.attrs.get("dtype") == "bfloat16"
