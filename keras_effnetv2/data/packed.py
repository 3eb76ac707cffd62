"""The folder that `pack` writes: shards of records, and an index that is read instead of them.

    train-00000-of-00016.tfrecord ...   tf.train.Example records, readable by other programs
    index.npz                           arrays by split, see `_ARRAYS`
    index.json                          everything else; written last, so it shows that the folder
    is complete

The records are shuffled on the disk, but a packed split has its pictures in the order of the
source: the same positions, labels and validation split. The folder gets its name when it is
complete, so an interrupted one is never taken for a complete one.
"""

import json
import os
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import chain, count, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.files import file_sha256, read_json, written_whole
from keras_effnetv2._common.text import listed
from keras_effnetv2.data.catalog import (
    ALL,
    TEST,
    TRAIN,
    VALIDATION,
    Catalog,
    LabelledPictures,
    why_unread,
)
from keras_effnetv2.data.records import FRAME_BYTES, RecordStore, Texts
from keras_effnetv2.images.headers import format_name

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource

SHARD_BYTES = 128 * 10**6  # about what each of the 1,024 official ImageNet shards has
INDEX = "index.json"
ARRAYS = "index.npz"
FORMAT = "keras-effnetv2 pack"
VERSION = 1
IMAGE_KEY = "image/encoded"
# Training pictures lie shuffled, so sequential reading mixes the classes; others lie in order.
_SHUFFLED = (TRAIN, ALL)
_EXTRA_BYTES = 512  # of a picture, at most: the other fields of its record, its place in the index
_MAX_INDEX_BYTES = 256 * 1024**2  # 21,843 classes and a million shards take less
# Of each split with N pictures: labels as in `ImageSource`, and rows (N,), where each picture's
# record is, in the order of the source; lengths (N,) of the records with their frames, names as in
# `Texts`, in the order of the records.
_ARRAYS = ("labels", "rows", "lengths", "name_data", "name_ends")
_SHARD_NAME = re.compile(rf"({TRAIN}|{VALIDATION}|{TEST}|{ALL})-\d{{5,}}-of-\d{{5,}}\.tfrecord")


@dataclass(frozen=True)
class PackedShard:
    """One file of a packed split: its name in the folder, its number of records, its size."""

    name: str
    examples: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Pack:
    """A packed folder, as its `index.json` describes it."""

    folder: Path
    class_names: tuple[str, ...]  # of all splits, in the order of the labels
    horizontal_flip: bool  # whether a mirrored picture still shows the same class
    splits: Mapping[str, tuple[PackedShard, ...]]
    arrays_sha256: str  # of `index.npz`
    fingerprint: str | None = None  # of what was packed, if it is the cache of a source

    @property
    def shards(self) -> tuple[PackedShard, ...]:
        """The shards of all splits."""
        return tuple(chain.from_iterable(self.splits.values()))

    def num_examples(self, split: str) -> int:
        """Return the number of pictures of a split."""
        return sum(shard.examples for shard in self.splits[split])

    def to_json(self) -> str:
        """Return the text of `index.json`."""
        described = {"format": FORMAT, "version": VERSION, **asdict(self)}
        del described["folder"]
        return json.dumps(described, indent=1, ensure_ascii=False) + "\n"


def is_pack(folder: str | os.PathLike[str]) -> bool:
    """Return whether a folder has the index of a packed folder."""
    return os.path.isfile(os.path.join(folder, INDEX))


def open_pack(folder: str | os.PathLike[str]) -> Pack:
    """Read the `index.json` of a folder; check that its files exist with the right sizes.

    Raises:
        FileNotFoundError: there is no `index.json`.
        ValueError: it is damaged or has another version, or files are missing or truncated.
    """
    path = Path(folder).absolute() / INDEX
    if not path.is_file():
        raise FileNotFoundError(
            f"{os.fspath(folder)!r} is not a packed folder: it has no {INDEX}. Give the output "
            "folder of `keras-effnetv2 pack`."
        )
    try:
        described = read_json(path, _MAX_INDEX_BYTES)
    except ValueError as error:
        raise _damaged(path, f"it cannot be read as JSON: {error}") from None
    if not isinstance(described, dict) or described.get("format") != FORMAT:
        raise ValueError(
            f"{path} is not an index that `keras-effnetv2 pack` wrote. Remove that file to read "
            "the records next to it without an index."
        )
    if described.get("version") != VERSION:
        raise ValueError(
            f"{path} has version {described.get('version')!r}, but this program reads version "
            f"{VERSION}. Pack the pictures again, or use the program that wrote it."
        )
    try:
        pack = _parse(path.parent, described)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    sizes = {shard.name: shard.bytes for shard in pack.shards}
    wrong = []
    for name in (*sizes, ARRAYS):
        file = pack.folder / name
        if not file.is_file():
            wrong.append(f"{name} is missing")
        elif name in sizes and (found := file.stat().st_size) != sizes[name]:
            wrong.append(f"{name} has {found:,} bytes instead of {sizes[name]:,}")
    if wrong:
        raise ValueError(
            f"The packed folder {str(pack.folder)!r} is not complete: "
            f"{listed(wrong, separator='; ')}. Copy it again, or pack again (--overwrite, "
            "overwrite=True)."
        )
    return pack


def open_packed(folder: str | os.PathLike[str]) -> Catalog:
    """Open a packed folder as a `Catalog`; errors are those of `open_pack` and `read_split`."""
    pack = open_pack(folder)
    names = dict.fromkeys(pack.splits, pack.class_names)
    return Catalog(names, lambda split: read_split(pack, split), pack.horizontal_flip)


def read_split(pack: Pack, split: str) -> LabelledPictures:
    """Return the pictures of one split, in the order of the packed source.

    Raises:
        ValueError: `index.npz` is damaged.
    """
    path = pack.folder / ARRAYS
    if file_sha256(path) != pack.arrays_sha256:
        raise _damaged(path, "its checksum is not the one in index.json")
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as arrays:
            labels, rows, lengths, data, ends = (arrays[f"{split}.{key}"] for key in _ARRAYS)
    except (OSError, KeyError, ValueError, EOFError, MemoryError, zipfile.BadZipFile) as error:
        raise _damaged(path, f"{type(error).__name__}: {error}") from None
    shards = pack.splits[split]
    counts = np.array([shard.examples for shard in shards], dtype=np.int64)
    total = counts.sum()
    if labels.dtype == bool:  # multi-label
        is_labelled = labels.shape == (total, len(pack.class_names))
    else:
        is_labelled = (
            labels.shape == (total,)
            and labels.dtype.kind == "i"
            and labels.min() >= 0
            and labels.max() < len(pack.class_names)
        )
    fit = (
        all(a.shape == (total,) and a.dtype.kind == "i" for a in (rows, lengths, ends))
        and is_labelled
        and data.dtype == np.uint8
        and data.ndim == 1
        and lengths.min() > 0
        and np.array_equal(np.sort(rows), np.arange(total))
        and (np.diff(ends, prepend=0) >= 0).all()
        and ends[-1] == len(data)
        and np.array_equal(
            np.add.reduceat(lengths, np.cumsum(counts) - counts), [shard.bytes for shard in shards]
        )
    )
    if not fit:
        raise _damaged(path, f"its arrays of {split!r} do not fit index.json")
    store = RecordStore(
        paths=tuple(str(pack.folder / shard.name) for shard in shards),
        counts=counts,
        lengths=lengths.astype(np.int64),
        image_key=IMAGE_KEY,
        filenames=Texts(data, ends.astype(np.int64)),
    )
    return replace(LabelledPictures.of(labels, store), rows=rows.astype(np.int64))


def verify_pack(
    folder: str | os.PathLike[str], progress: Callable[[int, int], None] = lambda done, total: None
) -> Pack:
    """Check every byte of a packed folder against its checksums; return its description.

    `progress` is called with (bytes checked, bytes in all).

    Raises:
        FileNotFoundError: there is no `index.json`.
        ValueError: `open_packed` refuses the folder, or files have changed; they are listed.
    """
    pack = open_pack(folder)
    for split in pack.splits:
        read_split(pack, split)
    shards, changed = pack.shards, []
    done = np.cumsum([shard.bytes for shard in shards]).tolist()
    for shard, bytes_read in zip(shards, done, strict=True):
        if file_sha256(pack.folder / shard.name) != shard.sha256:
            changed.append(shard.name)
        progress(bytes_read, done[-1])
    if changed:
        raise ValueError(
            f"{len(changed)} of {len(shards)} shards in {str(pack.folder)!r} have changed since "
            f"they were written: {listed(changed)}. Copy them again, or pack again."
        )
    return pack


def _parse(folder: Path, described: Mapping[str, Any]) -> Pack:
    splits = {}
    for split, shards in described["splits"].items():
        splits[split] = tuple(PackedShard(**shard) for shard in shards)
        for shard in splits[split]:
            matched = _SHARD_NAME.fullmatch(shard.name)
            if matched is None or matched[1] != split:
                raise ValueError(f"{shard.name!r} is not a file name of the split {split!r}")
            if not all(type(n) is int and n > 0 for n in (shard.examples, shard.bytes)):
                raise ValueError(f"the numbers of {shard.name!r} are not positive whole numbers")
    names = described["class_names"]
    if not splits or not all(splits.values()):
        raise ValueError("a split has no shards, or there are no splits")
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError("class_names is empty or has the wrong type")
    if len(set(names)) < len(names):
        raise ValueError("class_names has a name twice")
    return Pack(
        folder,
        tuple(names),
        bool(described["horizontal_flip"]),
        splits,
        str(described["arrays_sha256"]),
        described["fingerprint"],
    )


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"{path} is damaged: {reason}. Copy the folder again, or pack again "
        "(--overwrite, overwrite=True)."
    )


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
    """Write a packed folder. Errors, and what is not described here, are those of `pack.pack`.

    `parts` are the pictures of each split, all with the same class names. `prefix` is removed from
    the names that begin with it. The cache of a source has its `fingerprint`. `progress` is called
    with (pictures written, pictures in all).
    """
    folder = Path(os.path.abspath(folder))
    sizes = {split: int(part.store.sizes(part.rows).sum()) for split, part in parts.items()}
    total = sum(part.num_examples for part in parts.values())
    folder.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(sizes.values()) + _EXTRA_BYTES * total
    free = shutil.disk_usage(folder.parent).free
    if free < needed:
        raise OSError(
            f"{str(folder.parent)!r} has {free / 1e6:,.0f} MB free; packing needs about "
            f"{needed / 1e6:,.0f} MB. Free some space or choose another output folder."
        )
    written = count(1)
    with written_whole(folder) as scratch:
        check_free(folder, overwrite)
        scratch.mkdir()
        splits: dict[str, tuple[PackedShard, ...]] = {}
        arrays: dict[str, np.ndarray] = {}
        for split, part in parts.items():
            random = np.random.default_rng(seed) if split in _SHUFFLED else None
            order = part.store.order(part.rows, random, None)
            names = [name.removeprefix(prefix) for name in part.store.names(part.rows[order])]
            files = shards or min(len(order), max(1, round(sizes[split] / shard_bytes)))
            if files > len(order):
                raise ValueError(
                    f"{len(order)} pictures of {split!r} cannot be divided into {files} shards. "
                    "Use fewer (--shards, shards=)."
                )
            splits[split], lengths = _write_shards(
                scratch / split,
                _records(part, order, names),
                shares=np.diff(len(order) * np.arange(files + 1) // files),
                tell=lambda: progress(next(written), total),
            )
            texts = Texts.of(names)
            rows = np.argsort(order)
            labels = part.labels if part.multi_label else part.labels.astype(np.int32)
            columns: tuple[np.ndarray, ...] = (labels, rows, lengths, texts.data, texts.ends)
            named = zip(_ARRAYS, columns, strict=True)
            arrays |= {f"{split}.{key}": column for key, column in named}
        np.savez(scratch / ARRAYS, allow_pickle=False, **arrays)
        checksum = file_sha256(scratch / ARRAYS)
        pack = Pack(folder, part.class_names, part.horizontal_flip, splits, checksum, fingerprint)
        (scratch / INDEX).write_text(pack.to_json(), encoding="utf-8")
        check_free(folder, overwrite)  # another process may have been faster
    return pack


def _write_shards(
    stem: Path, records: Iterator[bytes], shares: np.ndarray, tell: Callable[[], object]
) -> tuple[tuple[PackedShard, ...], np.ndarray]:
    """Write the given number of records to each file; return the files and the records' lengths."""
    shards = []
    lengths: list[int] = []
    for number, share in enumerate(shares.tolist()):
        path = stem.with_name(f"{stem.name}-{number:05d}-of-{len(shares):05d}.tfrecord")
        try:
            with tf.io.TFRecordWriter(str(path)) as writer:
                for record in islice(records, share):
                    writer.write(record)
                    lengths.append(len(record) + FRAME_BYTES)
                    tell()
        except tf.errors.OpError as error:  # of writing alone, see `_records`
            raise OSError(f"Writing to {str(stem.parent)!r} failed: {error.message}") from error
        shards.append(PackedShard(path.name, share, path.stat().st_size, file_sha256(path)))
    return tuple(shards), np.array(lengths, dtype=np.int64)


def _records(part: "ImageSource", order: np.ndarray, names: Sequence[str]) -> Iterator[bytes]:
    """Yield the records of the pictures at the positions `order`, and their names in them."""
    pictures = part.store.read(part.rows[order])
    described = pictures.map(
        lambda data: (data, format_name(data)), num_parallel_calls=tf.data.AUTOTUNE
    ).prefetch(16)
    iterator = described.as_numpy_iterator()
    for index, name in zip(order.tolist(), names, strict=True):
        try:
            data, kind = next(iterator)
        except tf.errors.OpError as error:
            raise ValueError(f"{name!r} cannot be read: {why_unread(error)}") from error
        label = part.labels[index]
        labels = np.flatnonzero(label).tolist() if part.multi_label else [int(label)]
        yield _example(data, kind, labels, [part.class_names[one] for one in labels], name)


def _example(
    data: bytes, kind: bytes, labels: Sequence[int], class_names: Sequence[str], name: str
) -> bytes:
    """Return one record, with the keys of the official ImageNet files and labels from 1.

    Source: google/automl efficientnetv2/datasets.py and tensorflow/tpu imagenet_to_gcs.py.
    """
    example = tf.train.Example()
    feature = example.features.feature
    feature[IMAGE_KEY].bytes_list.value.append(data)
    feature["image/format"].bytes_list.value.append(kind)
    feature["image/class/label"].int64_list.value.extend(label + 1 for label in labels)
    for key, texts in (("image/class/text", class_names), ("image/filename", [name])):
        encoded = (text.encode("utf-8", "backslashreplace") for text in texts)
        feature[key].bytes_list.value.extend(encoded)
    # A map's order is any; the same pictures shall give the same bytes.
    return example.SerializeToString(deterministic=True)


def check_free(folder: Path, overwrite: bool) -> None:
    """Raise FileExistsError unless the folder may be written."""
    if not os.path.lexists(folder) or (folder.is_dir() and not any(folder.iterdir())):
        return
    if is_pack(folder):
        if overwrite:
            return
        what = "is a packed folder already. Replace it (--overwrite, overwrite=True), or choose"
    else:
        what = "exists and is not a packed folder, so it was left alone. Choose"
    raise FileExistsError(f"{str(folder)!r} {what} another output folder.")
