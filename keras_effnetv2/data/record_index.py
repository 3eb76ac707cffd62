"""What is in TFRecord files that come without an index: found in one pass over every record.

The pass reads everything once, as fast as the disk gives it; nothing but labels, lengths and the
names of classes leaves TensorFlow. The result for large sets is kept in the folder
`tfrecord_index` of Keras' cache (`KERAS_HOME`, or ~/.keras), so that the next run starts at once.
"""

import contextlib
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import some
from keras_effnetv2.data.records import FRAME_BYTES, readable_records

_VERSION = 1  # of the kept files
_KEEP_FROM = 256 * 1024**2  # bytes of records; smaller sets are indexed in a second
_BATCH = 512
_BUFFER = 8 * 1024**2
_NO_LABEL = np.iinfo(np.int64).min
_GZIP = b"\x1f\x8b"


@dataclass(frozen=True)
class Keys:
    """Where an example has what is needed.

    Attributes:
        image: key of the encoded picture, bytes.
        label: key of its label, int64.
        class_name: key of the name of its class, bytes; None if there is none.
    """

    image: str
    label: str
    class_name: str | None = None


@dataclass(frozen=True, eq=False)
class RecordIndex:
    """What a pass over TFRecord files has found.

    Attributes:
        counts: records in each file, (S,) int64.
        lengths: bytes of each record with its frame, (M,) int64.
        labels: as they are written, (M,) int64.
        class_names: names of labels, as far as they are written.
    """

    counts: np.ndarray
    lengths: np.ndarray
    labels: np.ndarray
    class_names: dict[int, str]


def first_example(path: str) -> dict[str, Any]:
    """Returns the features of the first record of a file.

    Raises:
        ValueError: the file is empty, damaged, compressed, or has no `tf.train.Example` in it.
    """
    try:
        (record,) = tf.data.TFRecordDataset(path).take(1).as_numpy_iterator()
    except (ValueError, tf.errors.OpError):
        raise ValueError(_unreadable(path, 0, 0)) from None
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # the class of this error is no part of TensorFlow
        if type(error).__name__ != "DecodeError":
            raise
        raise ValueError(f"{path!r} holds records that are no tf.train.Example.") from None
    return dict(example.features.feature)


def index_records(paths: Sequence[str], keys: Keys) -> RecordIndex:
    """Reads the labels and lengths of all records, or what was kept of an earlier pass.

    Args:
        paths: absolute paths of the files.
        keys: where the pictures and labels are.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file is damaged, cut off or compressed; a record without picture or label, or
            with another type; a class with two names. The message names the file.
    """
    for path in paths:
        with open(path, "rb"):  # raises an OSError that says more than TensorFlow's
            pass
    statuses = [os.stat(path) for path in paths]
    total = sum(status.st_size for status in statuses)
    if total < _KEEP_FROM:
        return _read(paths, keys)
    state = [[path, s.st_size, s.st_mtime_ns] for path, s in zip(paths, statuses, strict=True)]
    described = json.dumps([_VERSION, vars(keys), state])
    kept = _folder() / f"{hashlib.sha256(described.encode()).hexdigest()[:32]}.npz"
    index = _load(kept, total)
    if index is None:
        print(
            f"Indexing {len(paths):,} TFRecord files ({total / 1e9:,.1f} GB): each record is read "
            f"once; the index is kept as {kept}",
            file=sys.stderr,
        )
        index = _read(paths, keys)
        _save(kept, index)
    return index


def _read(paths: Sequence[str], keys: Keys) -> RecordIndex:
    lengths, labels = [], []
    names: dict[int, bytes] = {}
    begun = 0  # files of which everything has been seen
    try:
        for sizes, numbers, texts, has_image in _batches(paths, keys).as_numpy_iterator():
            lengths.append(sizes)
            labels.append(numbers)
            records = sizes > 0
            _check_complete(paths, begun, sizes, numbers, has_image, keys)
            _learn_names(names, numbers[records], texts[records], paths[begun])
            begun = min(begun + int(np.count_nonzero(~records)), len(paths) - 1)
    except tf.errors.InvalidArgumentError:
        # The batch that failed may hold records of several files. Which one is it?
        if len(paths) > 1:
            for path in paths[begun:]:
                _read([path], keys)
        raise ValueError(
            f"{paths[begun]!r} holds records that are no tf.train.Example, or whose "
            f"{keys.image!r} is not bytes or {keys.label!r} not one int64."
        ) from None
    everything = np.concatenate(lengths)
    ends = np.flatnonzero(everything == 0)
    if len(ends) != len(paths):
        raise ValueError(f"Empty records among the pictures of {some(paths)}.")
    records = everything > 0
    index = RecordIndex(
        counts=np.diff(ends, prepend=-1) - 1,
        lengths=everything[records] + FRAME_BYTES,
        labels=np.concatenate(labels)[records],
        class_names={label: name.decode("utf-8", "replace") for label, name in names.items()},
    )
    _check_sizes(paths, index)
    return index


def _batches(paths: Sequence[str], keys: Keys) -> tf.data.Dataset:
    """Yields (length, label, class name, whether there is a picture), and zeros behind each file.

    Of a damaged file the records in front of the damage.
    """
    features = {
        keys.image: tf.io.FixedLenFeature([], tf.string, ""),
        keys.label: tf.io.FixedLenFeature([], tf.int64, _NO_LABEL),
    }
    if keys.class_name is not None:
        features[keys.class_name] = tf.io.FixedLenFeature([], tf.string, "")

    def records(path: Any, size: Any) -> tf.data.Dataset:
        found = tf.data.TFRecordDataset(path, buffer_size=_BUFFER)
        end = tf.data.Dataset.from_tensors(b"")
        return readable_records(found, size // FRAME_BYTES + 1).concatenate(end)

    def parse(records: Any) -> tuple[Any, ...]:
        parsed = tf.io.parse_example(records, features)
        sizes = tf.cast(tf.strings.length(records), tf.int64)
        label = parsed[keys.label]
        texts = tf.strings.as_string(label) if keys.class_name is None else parsed[keys.class_name]
        return sizes, label, texts, tf.strings.length(parsed[keys.image]) > 0

    return (
        tf.data.Dataset.from_tensor_slices(
            (list(paths), np.array([os.path.getsize(path) for path in paths], dtype=np.int64))
        )
        .flat_map(records)
        .batch(_BATCH)
        .map(parse, num_parallel_calls=2, deterministic=True)
        .prefetch(2)
    )


def _check_complete(
    paths: Sequence[str],
    begun: int,
    sizes: np.ndarray,
    labels: np.ndarray,
    has_image: np.ndarray,
    keys: Keys,
) -> None:
    """Raises ValueError if a record of a batch lacks its picture or its label."""
    lacking = np.flatnonzero((sizes > 0) & (~has_image | (labels == _NO_LABEL)))
    if not len(lacking):
        return
    first = lacking[0]
    path = paths[begun + int(np.count_nonzero(sizes[:first] == 0))]
    key = keys.image if not has_image[first] else keys.label
    raise ValueError(f"{path!r} has a record without {key!r}, which its first record has.")


def _learn_names(names: dict[int, bytes], labels: np.ndarray, texts: np.ndarray, path: str) -> None:
    """Notes the name of each label; a label must have one name only."""
    for label in np.unique(labels).tolist():
        found = set(texts[labels == label].tolist()) | {names.get(label, texts[labels == label][0])}
        if len(found) > 1:
            shown = some(sorted(text.decode("utf-8", "replace") for text in found))
            raise ValueError(f"Label {label} has several names: {shown} (seen in {path!r}).")
        names[label] = found.pop()


def _check_sizes(paths: Sequence[str], index: RecordIndex) -> None:
    """Raises ValueError if a file goes on behind the last record that could be read."""
    starts = np.cumsum(index.counts) - index.counts
    for path, start, count in zip(paths, starts, index.counts, strict=True):
        seen = int(index.lengths[start : start + count].sum())
        if seen != os.path.getsize(path):
            raise ValueError(_unreadable(path, int(count), seen))


def _unreadable(path: str, number: int, offset: int) -> str:
    """Returns what is wrong with a file whose record `number` cannot be read."""
    with open(path, "rb") as file:
        head = file.read(len(_GZIP))
    if not head:
        return f"{path!r} is empty. Expected TFRecord files with labelled pictures."
    if number == 0 and head == _GZIP:
        return f"{path!r} is compressed with gzip; records are read in any order. Unpack it first."
    return (
        f"{path!r} is damaged, cut off or no TFRecord file: record {number} at byte {offset} "
        "cannot be read. Fetch or write the file again."
    )


# --- the kept index -----------------------------------------------------------------------------


def _folder() -> Path:
    home = os.environ.get("KERAS_HOME") or os.path.join(os.path.expanduser("~"), ".keras")
    return Path(home).expanduser() / "tfrecord_index"


def _load(path: Path, total: int) -> RecordIndex | None:
    """Returns a kept index, None if there is none that can be used."""
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:
            index = RecordIndex(
                kept["counts"],
                kept["lengths"],
                kept["labels"],
                dict(zip(kept["named"].tolist(), kept["names"].tolist(), strict=True)),
            )
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        return None
    fits = index.counts.sum() == len(index.lengths) == len(index.labels)
    return index if fits and index.lengths.sum() == total else None


def _save(path: Path, index: RecordIndex) -> None:
    """Keeps an index; a folder that cannot be written only costs the next run its time."""
    with contextlib.suppress(OSError), _beside(path) as file:
        np.savez(
            file,
            counts=index.counts,
            lengths=index.lengths,
            labels=index.labels,
            named=np.array(list(index.class_names), dtype=np.int64),
            names=np.array(list(index.class_names.values()), dtype=str),
        )


@contextlib.contextmanager
def _beside(path: Path) -> Iterator[Any]:
    """Gives a file beside `path` to write to, which gets that name if all is well."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=".part", delete=False) as file:
        try:
            yield file
            file.close()
            os.replace(file.name, path)
        finally:
            Path(file.name).unlink(missing_ok=True)
