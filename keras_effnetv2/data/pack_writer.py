"""Writes labelled pictures as a packed folder: shards of records with an index beside them.

The folder gets its name when everything is in it, so what is interrupted never reads as complete.
"""

import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.files import file_sha256, written_whole
from keras_effnetv2.data.catalog import ALL, TRAIN
from keras_effnetv2.data.packed import (
    ARRAYS,
    IMAGE_KEY,
    INDEX,
    Pack,
    PackedShard,
    arrays_of_split,
    is_pack,
)
from keras_effnetv2.data.records import FRAME_BYTES
from keras_effnetv2.data.stores import why_unread
from keras_effnetv2.images.headers import format_name

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource

SHARD_BYTES = 128 * 10**6  # about what each of the 1,024 official ImageNet shards has
_EXTRA_BYTES = 512  # of a picture, at most: the other fields of its record, its place in the index
# What is trained on lies shuffled, so that reading on mixes the classes; the rest is read in order.
_SHUFFLED = (TRAIN, ALL)


def write_pack(
    folder: str | os.PathLike[str],
    parts: Mapping[str, "ImageSource"],
    *,
    prefix: str = "",
    shards: int | None = None,
    shard_bytes: int = SHARD_BYTES,
    seed: int = 0,
    overwrite: bool = False,
    fingerprint: str | None = None,
    progress: Callable[[int, int], object] = lambda done, total: None,
) -> Pack:
    """Write a packed folder; the arguments not named here are those of `pack.pack`.

    Args:
        folder: must not be there, or be empty, or be a pack that is to be overwritten.
        parts: the pictures of each split, all with the same class names.
        prefix: left out of the names that begin with it.
        fingerprint: of the source, if this is its cache.
        progress: called with (pictures written, pictures in all).

    Raises:
        FileExistsError: something is in `folder`.
        OSError: the disk is full, or would be; the folder cannot be written.
        ValueError: a picture cannot be read; more shards than pictures.
    """
    folder = Path(os.path.abspath(folder))
    check_free(folder, overwrite)
    sizes = {split: int(part.store.sizes(part.rows).sum()) for split, part in parts.items()}
    total = sum(part.num_examples for part in parts.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_space(folder.parent, sum(sizes.values()) + _EXTRA_BYTES * total)
    any_part = next(iter(parts.values()))
    done = 0

    def tell() -> None:
        nonlocal done
        done += 1
        progress(done, total)

    with written_whole(folder) as scratch:
        scratch.mkdir()
        splits: dict[str, tuple[PackedShard, ...]] = {}
        arrays: dict[str, np.ndarray] = {}
        for split, part in parts.items():
            count = shards or min(part.num_examples, max(1, round(sizes[split] / shard_bytes)))
            random = np.random.default_rng(seed) if split in _SHUFFLED else None
            order = part.store.order(part.rows, random, None)
            names = [name.removeprefix(prefix) for name in part.store.names(part.rows[order])]
            records = _records(part, order, names)
            splits[split], lengths = _write_shards(scratch, split, records, len(order), count, tell)
            arrays |= arrays_of_split(split, part.labels, np.argsort(order), lengths, names)
        np.savez(scratch / ARRAYS, allow_pickle=False, **arrays)
        pack = Pack(
            folder,
            any_part.class_names,
            any_part.horizontal_flip,
            splits,
            file_sha256(scratch / ARRAYS),
            fingerprint,
        )
        (scratch / INDEX).write_text(pack.to_json(), encoding="utf-8")
        check_free(folder, overwrite)  # another process may have been faster
    return pack


def _write_shards(
    folder: Path,
    split: str,
    records: Iterator[bytes],
    total: int,
    count: int,
    tell: Callable[[], None],
) -> tuple[tuple[PackedShard, ...], np.ndarray]:
    """Write all records to `count` files; return these and the lengths of the records."""
    if count > total:
        raise ValueError(
            f"{total} pictures of {split!r} cannot be divided into {count} shards. Use fewer."
        )
    shards = []
    lengths: list[int] = []
    for number in range(count):  # equally many pictures each, give or take one
        examples = total * (number + 1) // count - len(lengths)
        path = folder / f"{split}-{number:05d}-of-{count:05d}.tfrecord"
        try:
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in islice(records, examples):
                    writer.write(record)
                    lengths.append(len(record) + FRAME_BYTES)
                    tell()
        except tf.errors.OpError as error:  # of writing alone, see `_records`
            raise OSError(f"Writing to {str(folder)!r} failed: {error.message}") from error
        shards.append(PackedShard(path.name, examples, path.stat().st_size, file_sha256(path)))
    return tuple(shards), np.array(lengths, dtype=np.int64)


def _records(part: "ImageSource", order: np.ndarray, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the records of the pictures at the positions `order`, and their names in them."""
    pictures = part.store.read(part.rows[order])
    described = pictures.map(
        lambda data: (data, format_name(data)), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(16)
    iterator = described.as_numpy_iterator()
    for label, name in zip(part.labels[order].tolist(), names, strict=True):
        try:
            data, kind = next(iterator)
        except tf.errors.OpError as error:
            raise ValueError(f"{name!r} cannot be read: {why_unread(error)}") from error
        yield _example(data, kind, label, part.class_names[label], name)


def _example(data: bytes, kind: bytes, label: int, class_name: str, name: str) -> bytes:
    """Return one record, with the keys and the label from 1 on of the official ImageNet files.

    Source: google/automl efficientnetv2/datasets.py and tensorflow/tpu imagenet_to_gcs.py.
    """
    texts = {
        IMAGE_KEY: data,
        "image/format": kind,
        "image/class/text": class_name.encode("utf-8", "backslashreplace"),
        "image/filename": name.encode("utf-8", "backslashreplace"),
    }
    feature = {
        key: tf.train.Feature(bytes_list=tf.train.BytesList(value=[text]))
        for key, text in texts.items()
    }
    numbers = tf.train.Int64List(value=[label + 1])
    feature["image/class/label"] = tf.train.Feature(int64_list=numbers)
    example = tf.train.Example(features=tf.train.Features(feature=feature))
    # A map's order is any; the same pictures shall give the same bytes.
    return example.SerializeToString(deterministic=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError unless the folder may be written."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if not is_pack(folder):
        raise FileExistsError(
            f"{str(folder)!r} exists and is no packed folder; it is not touched. Choose another "
            "output folder."
        )
    if not overwrite:
        raise FileExistsError(
            f"{str(folder)!r} is a packed folder already. Replace it with --overwrite "
            "(overwrite=True), or choose another output folder."
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise OSError(
            f"{str(folder)!r} has {free / 1e6:,.0f} MB free; packing needs about "
            f"{needed / 1e6:,.0f} MB. Free some space or choose another output folder."
        )
