"""Writes labelled pictures as a packed folder: shards of records with an index beside them.

The folder gets its name when everything is in it, so what is interrupted never reads as complete.
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.files import file_sha256
from keras_effnetv2.data.catalog import ALL, TRAIN, LabelledPictures
from keras_effnetv2.data.packed import (
    ARRAYS,
    IMAGE_KEY,
    INDEX,
    Pack,
    PackedShard,
    is_pack,
    write_arrays,
)
from keras_effnetv2.data.records import FRAME_BYTES
from keras_effnetv2.data.stores import Names, why_unread
from keras_effnetv2.images.headers import format_name

SHARD_BYTES = 128 * 10**6  # about what each of the 1,024 official ImageNet shards has
_EXTRA_BYTES = 512  # of a picture, at most: the other fields of its record, its place in the index
# What is trained on lies shuffled, so that reading on mixes the classes; the rest is read in order.
_SHUFFLED = (TRAIN, ALL)


@dataclass(frozen=True)
class Layout:
    """How pictures are laid out in files.

    Attributes:
        shards: files of each split; None: as many as `shard_bytes` asks for.
        shard_bytes: size of a file, about.
        seed: of the order in which training pictures are written.
    """

    shards: int | None = None
    shard_bytes: int = SHARD_BYTES
    seed: int = 0


def write_pack(
    folder: Path,
    parts: Mapping[str, LabelledPictures],
    class_names: Sequence[str],
    *,
    horizontal_flip: bool,
    prefix: str = "",
    layout: Layout,
    overwrite: bool = False,
    fingerprint: str | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Pack:
    """Writes a packed folder.

    Args:
        folder: must not be there, or be empty, or be a pack that is to be overwritten.
        parts: the pictures of each split, their labels positions in `class_names`.
        class_names: of all parts.
        horizontal_flip: whether a mirrored picture still shows the same class.
        prefix: left out of the names that begin with it.
        layout: how the pictures are divided into files.
        overwrite: replace a pack; another folder is never replaced.
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
    total = sum(len(part.rows) for part in parts.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    _check_space(folder.parent, sum(sizes.values()) + _EXTRA_BYTES * total)
    done = 0

    def count_one() -> None:
        nonlocal done
        done += 1
        if progress is not None:
            progress(done, total)

    with _written_beside(folder, overwrite) as scratch:
        shards, arrays = {}, {}
        for split, part in parts.items():
            random = np.random.default_rng(layout.seed) if split in _SHUFFLED else None
            order = part.store.order(part.rows, random, None)
            names = [name.removeprefix(prefix) for name in Names(part.store, part.rows[order])]
            written = _Split(split, part, order, names, class_names)
            cuts = _cuts(split, len(order), sizes[split], layout)
            shards[split], lengths = written.write(scratch, cuts, count_one)
            rows = np.empty_like(order)
            rows[order] = np.arange(len(order))
            arrays[split] = (part.labels, rows, lengths, names)
        write_arrays(scratch / ARRAYS, arrays)
        pack = Pack(
            folder,
            tuple(class_names),
            horizontal_flip,
            shards,
            file_sha256(scratch / ARRAYS),
            fingerprint,
        )
        (scratch / INDEX).write_text(pack.to_json(), encoding="utf-8")
    return pack


@dataclass(frozen=True, eq=False)
class _Split:
    """One split on its way: `order` are positions in `part`, `names` those of the records."""

    name: str
    part: LabelledPictures
    order: np.ndarray
    names: Sequence[str]
    class_names: Sequence[str]

    def write(
        self, folder: Path, cuts: Sequence[int], count_one: Callable[[], None]
    ) -> tuple[tuple[PackedShard, ...], np.ndarray]:
        """Writes the shards, which end at the records `cuts`; returns them and all lengths."""
        records = self._records()
        lengths: list[int] = []
        shards = []
        for number, (start, end) in enumerate(zip([0, *cuts[:-1]], cuts, strict=True)):
            name = f"{self.name}-{number:05d}-of-{len(cuts):05d}.tfrecord"
            with _disk_errors(folder), tf.io.TFRecordWriter(str(folder / name)) as writer:
                for _ in range(end - start):
                    record = next(records)
                    writer.write(record)
                    lengths.append(len(record) + FRAME_BYTES)
                    count_one()
            path = folder / name
            shards.append(PackedShard(name, end - start, path.stat().st_size, file_sha256(path)))
        return tuple(shards), np.array(lengths, dtype=np.int64)

    def _records(self) -> Iterator[bytes]:
        pictures = self.part.store.read(self.part.rows[self.order])
        described = pictures.map(
            lambda data: (data, format_name(data)), num_parallel_calls=tf.data.AUTOTUNE
        ).prefetch(16)
        labels = self.part.labels[self.order].tolist()
        iterator = described.as_numpy_iterator()
        for label, name in zip(labels, self.names, strict=True):
            try:
                data, kind = next(iterator)
            except tf.errors.OpError as error:
                raise ValueError(f"{name!r} cannot be read: {why_unread(error)}") from error
            yield _example(data, kind, label, self.class_names[label], name)


def _example(data: bytes, kind: bytes, label: int, class_name: str, name: str) -> bytes:
    """Returns one record, with the keys and the label from 1 on of the official ImageNet files.

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


def _cuts(split: str, total: int, size: int, layout: Layout) -> list[int]:
    """Returns where each shard ends, in pictures; they have equally many, give or take one."""
    shards = layout.shards
    if shards is None:
        shards = min(total, max(1, round(size / layout.shard_bytes)))
    if shards > total:
        raise ValueError(
            f"{total} pictures of {split!r} cannot be divided into {shards} shards. Use fewer."
        )
    return [total * (number + 1) // shards for number in range(shards)]


def check_free(folder: Path, overwrite: bool) -> None:
    """Raises FileExistsError unless the folder may be written."""
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


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """Turns TensorFlow's errors of writing, the only ones that reach this, into OSError."""
    try:
        yield
    except tf.errors.OpError as error:
        raise OSError(f"Writing to {str(folder)!r} failed: {error.message}") from error


@contextlib.contextmanager
def _written_beside(folder: Path, overwrite: bool) -> Iterator[Path]:
    """Gives a folder beside `folder` to write to; gives it that name if all is well."""
    scratch = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", suffix=".part", dir=folder.parent))
    try:
        yield scratch
        scratch.chmod(0o777 & ~_umask())  # mkdtemp's folders are for their owner alone
        check_free(folder, overwrite)  # another process may have been faster
        old = scratch.with_suffix(".old")
        if os.path.lexists(folder):
            os.replace(folder, old)
        os.replace(scratch, folder)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
