"""Copies of a source's pictures that are quicker to read: in memory, or packed on a disk."""

import hashlib
import json
import os
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.packed import is_pack, open_pack, read_split, write_pack
from keras_effnetv2.data.stores import MemoryStore, Store, why_unread

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource


def in_memory(source: "ImageSource") -> tuple[Store, np.ndarray]:
    """Read all pictures, encoded, into main memory; return the store and their rows there."""
    by_row = np.argsort(source.rows, kind="stable")  # the order of a disk is the quick one
    rows = source.rows[by_row]
    try:
        with tf.device("CPU:0"):
            # One batch of everything: the bytes go into the tensor without a copy in Python.
            data = source.store.read(rows).batch(len(rows)).get_single_element()
    except tf.errors.OpError as error:
        raise ValueError(
            f"A picture cannot be kept in memory: {why_unread(error)}. Mend or remove it; a scan "
            "(--scan) lists all such pictures, and --skip-bad leaves out what it finds."
        ) from error
    return MemoryStore(data, source.store.names(rows)), np.argsort(by_row)


def on_disk(folder: str | os.PathLike[str], source: "ImageSource") -> tuple[Store, np.ndarray]:
    """Pack the pictures into a folder, unless they are there; return the store and their rows."""
    fingerprint = _fingerprint(source)
    if not is_pack(folder):
        try:
            write_pack(folder, {source.split: source}, fingerprint=fingerprint)
        except FileExistsError:
            if not is_pack(folder):  # else another process has written it meanwhile
                raise
    pack = open_pack(folder)
    if pack.fingerprint != fingerprint:
        raise ValueError(
            f"{os.fspath(folder)!r} is not the cache of {source.spec!r} ({source.split}) as it is "
            "now: it was packed from other pictures, labels or class names, or the files have "
            "changed since. Remove that folder, or choose another."
        )
    pictures = read_split(pack, source.split)
    return pictures.store, pictures.rows


def _fingerprint(source: "ImageSource") -> str:
    """Return a hash that changes with the pictures, their order and their labels."""
    described = [source.spec, source.split, *source.class_names]
    digest = hashlib.sha256(json.dumps(described).encode())
    digest.update(source.labels.astype("<i8").tobytes())
    for state in source.store.states(source.rows):
        digest.update(b"%d:" % len(state) + state)
    return digest.hexdigest()
