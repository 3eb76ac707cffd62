"""Copies of a source's pictures that are quicker to read: in memory, or packed on a disk."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import LabelledPictures
from keras_effnetv2.data.pack_writer import Layout, write_pack
from keras_effnetv2.data.packed import is_pack, open_pack, read_split
from keras_effnetv2.data.stores import MemoryStore, Names, why_unread


def in_memory(pictures: LabelledPictures) -> LabelledPictures:
    """Reads all pictures, encoded, into main memory.

    Raises:
        ValueError: a picture cannot be read.
    """
    by_row = np.argsort(pictures.rows, kind="stable")  # the order of a disk is the quick one
    rows = pictures.rows[by_row]
    try:
        with tf.device("CPU:0"):
            # One batch of everything: the bytes go into the tensor without a copy in Python.
            data = pictures.store.read(rows).batch(len(rows)).get_single_element()
    except tf.errors.OpError as error:
        raise ValueError(
            f"A picture cannot be kept in memory: {why_unread(error)}. Mend or remove it; a scan "
            "(--scan) lists all such pictures, and --skip-bad leaves out what it finds."
        ) from error
    back = np.empty_like(by_row)
    back[by_row] = np.arange(len(rows))
    return replace(pictures, store=MemoryStore(data, Names(pictures.store, rows)), rows=back)


def on_disk(
    folder: str | os.PathLike[str],
    pictures: LabelledPictures,
    *,
    spec: str,
    split: str,
    class_names: Sequence[str],
    horizontal_flip: bool,
) -> LabelledPictures:
    """Packs the pictures into a folder, unless they are there already.

    Raises:
        ValueError: the folder is the cache of other pictures, or damaged.
        FileExistsError: the folder holds something else.
        OSError: not enough room; see `pack_writer.write_pack`.
    """
    fingerprint = _fingerprint(pictures, spec, split, class_names)
    if not is_pack(folder):
        try:
            write_pack(
                Path(folder),
                {split: pictures},
                class_names,
                horizontal_flip=horizontal_flip,
                layout=Layout(),
                fingerprint=fingerprint,
            )
        except FileExistsError:
            if not is_pack(folder):  # else another process has written it meanwhile
                raise
    pack = open_pack(folder)
    if pack.fingerprint != fingerprint:
        raise ValueError(
            f"{os.fspath(folder)!r} is not the cache of {spec!r} ({split}) as it is now: it was "
            "packed from other pictures, labels or class names, or the files have changed since. "
            "Remove that folder, or choose another."
        )
    return read_split(pack, split)


def _fingerprint(
    pictures: LabelledPictures, spec: str, split: str, class_names: Sequence[str]
) -> str:
    """Returns a hash that changes with the pictures, their order and their labels."""
    digest = hashlib.sha256(json.dumps([spec, split, *class_names]).encode())
    digest.update(pictures.labels.astype("<i8").tobytes())
    for state in pictures.store.states(pictures.rows):
        digest.update(b"%d:" % len(state) + state)
    return digest.hexdigest()
