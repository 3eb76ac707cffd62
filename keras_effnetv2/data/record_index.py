"""What is in TFRecord files that come without an index: found in one pass over every record.

The pass reads everything once a process, as fast as the disk gives it; nothing but labels, lengths
and the names of classes is kept.
"""

import functools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from logging import getLogger
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import some
from keras_effnetv2.data.records import FRAME_BYTES, readable_records
from keras_effnetv2.data.stores import file_state

_TELL_FROM = 256 * 1024**2  # bytes of records; smaller sets are read in a second
_BATCH = 512
_BUFFER = 8 * 1024**2
_GZIP = b"\x1f\x8b"
_LOG = getLogger(__name__)


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
        lengths: of each file the bytes of its records with their frames, (N,) int64.
        labels: of each file the labels of its records as they are written, (N,) int64.
        class_names: names of labels, as far as they are written.
    """

    lengths: dict[str, np.ndarray]
    labels: dict[str, np.ndarray]
    class_names: dict[int, str]


def first_example(path: str) -> Mapping[str, Any]:
    """Return the features of the first record of a file.

    Raises:
        ValueError: the file is empty, damaged, compressed, or has no `tf.train.Example` in it.
    """
    record = next(_records(path), None)
    if record is None:
        raise ValueError(_unreadable(path, 0, 0))
    return _features(path, record)


def index_records(paths: Sequence[str], keys: Keys) -> RecordIndex:
    """Read the labels and lengths of all records.

    Args:
        paths: absolute paths of the files.
        keys: where the pictures and labels are.

    Raises:
        OSError: a file cannot be opened.
        ValueError: a file is damaged, cut off or compressed; a record without picture or label, or
            with another type; a label with two names. The message names the file.
    """
    states = tuple(file_state(os.fsencode(path)) for path in paths)
    return _index_records(tuple(paths), keys, states)


# A set is opened once for its training pictures and once for those of validation.
@functools.lru_cache(maxsize=4)
def _index_records(paths: tuple[str, ...], keys: Keys, states: tuple[bytes, ...]) -> RecordIndex:
    total = sum(os.path.getsize(path) for path in paths)
    if total >= _TELL_FROM:
        _LOG.warning(
            "Reading each record of %d TFRecord files (%.1f GB) once for their labels; a folder "
            "that `keras-effnetv2 pack` wrote starts at once.",
            len(paths),
            total / 1e9,
        )
    all_lengths, all_labels = {}, {}
    names: dict[int, bytes] = {}
    for path in paths:
        lengths: list[int] = []
        labels: list[int] = []
        for record in _records(path):
            label, name = _label(path, _features(path, record), keys)
            if names.setdefault(label, name) != name:
                texts = sorted(text.decode("utf-8", "replace") for text in (names[label], name))
                raise ValueError(
                    f"Label {label} has several names: {some(texts)} (seen in {path!r})."
                )
            labels.append(label)
            lengths.append(len(record) + FRAME_BYTES)
        if sum(lengths) != os.path.getsize(path):  # it goes on behind what can be read
            raise ValueError(_unreadable(path, len(lengths), sum(lengths)))
        all_lengths[path] = np.array(lengths, dtype=np.int64)
        all_labels[path] = np.array(labels, dtype=np.int64)
    decoded = {label: name.decode("utf-8", "replace") for label, name in names.items()}
    return RecordIndex(all_lengths, all_labels, decoded)


def _records(path: str) -> Iterator[bytes]:
    """Yield the records of a file, up to the first that is damaged."""
    with open(path, "rb"):  # raises an OSError that says more than TensorFlow's
        pass
    most = os.path.getsize(path) // FRAME_BYTES + 1
    records = readable_records(tf.data.TFRecordDataset(path, buffer_size=_BUFFER), most)
    for _, batch in records.batch(_BATCH).prefetch(1).as_numpy_iterator():
        yield from batch.tolist()


def _features(path: str, record: bytes) -> Mapping[str, Any]:
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # the class of this error is no part of TensorFlow
        if type(error).__name__ != "DecodeError":
            raise
        raise ValueError(f"{path!r} holds records that are no tf.train.Example.") from None
    return example.features.feature


def _label(path: str, features: Mapping[str, Any], keys: Keys) -> tuple[int, bytes]:
    """Return the label of an example that has its picture, and the name of the class."""
    for key in (keys.image, keys.label):
        if key not in features:
            raise ValueError(f"{path!r} has a record without {key!r}, which its first record has.")
    images, labels = features[keys.image].bytes_list.value, features[keys.label].int64_list.value
    if len(images) != 1 or len(labels) != 1:
        raise ValueError(
            f"{path!r} holds records whose {keys.image!r} is not bytes or {keys.label!r} not one "
            "int64."
        )
    if not images[0]:
        raise ValueError(f"{path!r} has a record without {keys.image!r}: it is empty.")
    if keys.class_name is None:
        return labels[0], str(labels[0]).encode()
    names = features[keys.class_name].bytes_list.value if keys.class_name in features else ()
    return labels[0], names[0] if names else b""


def _unreadable(path: str, number: int, offset: int) -> str:
    """Return what is wrong with a file whose record `number` cannot be read."""
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
