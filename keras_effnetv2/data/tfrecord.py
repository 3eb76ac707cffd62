"""TFRecord files as a `Catalog`: from `pack`, and from other tools.

    tfrecord:DIR        a packed folder, or one with files named by split, as
                        train-00000-of-01024, validation-00000-of-00128 or set-test.tfrecord-...,
                        or with such files in folders train/, validation/, test/
    tfrecord:PATTERN    files by a pattern (*, ?, [...], ** for folders), without splits
    tfrecord:...?image=KEY&label=KEY[&name=KEY]
                        records with other keys for the picture, the number of the class and perhaps
                        its name

TFRecords from other tools are `tf.train.Example` with one of two sets of keys, see `_LAYOUTS`, or
with given keys. They have no index, so each process reads them once, as fast as the disk allows,
and keeps only labels, lengths and class names.

Names of classes: `image/class/synset`, else `image/class/text`, else the file LABELKEY.labels.txt
beside the records (TensorFlow Datasets writes it), else the number as it is written. Labels under
`image/class/label` count from 1 if no record has a 0, as in the official ImageNet files (1..1000),
else from 0; those under `label` count from 0.
"""

import functools
import glob
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from logging import getLogger
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.text import some
from keras_effnetv2.data.catalog import (
    ALL,
    SPLITS,
    Catalog,
    LabelledPictures,
    check_data_file,
    file_state,
)
from keras_effnetv2.data.names import SPLIT_ALIASES, SPLIT_NAMES, composed, splits_of
from keras_effnetv2.data.packed import is_pack, open_packed
from keras_effnetv2.data.records import FRAME_BYTES, RecordStore, readable_records


@dataclass(frozen=True)
class Keys:
    """Where an example has its encoded picture (bytes), its label (int64) and its class's name."""

    image: str
    label: str
    class_name: str | None = None


TELL_FROM = 256 * 1024**2  # bytes of records; smaller sets are read in a second
_BATCH = 512
_BUFFER = 8 * 1024**2
_GZIP = b"\x1f\x8b"
_LOG = getLogger(__name__)
_OFFICIAL = Keys("image/encoded", "image/class/label")
_DATASETS = Keys("image", "label")
_LAYOUTS = (_OFFICIAL, _DATASETS)
_CLASS_NAME_KEYS = ("image/class/synset", "image/class/text")  # a synset names one class only
_MAX_LABEL = 1_000_000  # more is no number of a class, but some other number
# How the files of a set are called; others in a folder (README, JSON) are not looked at.
_SHARD = re.compile(r"(?P<set>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(\..*)?")
_RECORD_FILE = re.compile(r".*\.(tfrecords?|tfrec|records?)(-.*)?", re.IGNORECASE)
_KEYS = re.compile(r"(.+)\?((?:image|label|name)=.*)")
_MAX_NAMES_BYTES = 64 * 1024**2  # of a file with the names of the classes
_SPLIT = re.compile(rf"(?:.*[-_.])?({'|'.join(SPLIT_ALIASES)})(?:[-_.].*)?", re.IGNORECASE)


def open_tfrecord(pattern: str) -> Catalog:
    """Open a folder, a file or a glob pattern; files without an index are read once."""
    keys = None
    if (matched := _KEYS.fullmatch(pattern)) and not os.path.lexists(pattern):
        pattern, keys = matched[1], _parse_keys(matched[2])
    if os.path.isdir(pattern):
        if is_pack(pattern) and keys is None:
            return open_packed(pattern)
        return open_records(_files_by_split(pattern), pattern, keys)
    # What is there by its very name may have the signs of a pattern in it.
    files = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    files = [os.path.abspath(path) for path in files if not os.path.isdir(path)]
    if not files:
        raise FileNotFoundError(
            f"No file is called {pattern!r} (looked for {os.path.abspath(pattern)!r}). Expected "
            "'tfrecord:' with a folder or a pattern, for example 'tfrecord:imagenet/train-*'."
        )
    return open_records({ALL: files}, pattern, keys)


def _parse_keys(text: str) -> Keys:
    named = dict(part.partition("=")[::2] for part in text.split("&"))
    if {"image", "label"} - named.keys() or named.keys() - {"image", "label", "name"}:
        raise ValueError(
            "Keys are given as '?image=KEY&label=KEY', or '?image=KEY&label=KEY&name=KEY' where "
            f"the records have names of classes. Received: '?{text}'."
        )
    return Keys(named["image"], named["label"], named.get("name"))


def open_records(
    files: Mapping[str, Sequence[str]],
    name: str,
    keys: Keys | None = None,
    class_names: Sequence[str] | None = None,
) -> Catalog:
    """Open record files that have no index.

    Args:
        files: absolute paths of the files of each part.
        name: name of the data, for messages.
        keys: keys of picture and label; None: taken from the first record.
        class_names: names of the labels from 0; None: see above.
    """
    paths = tuple(chain.from_iterable(files.values()))
    for path in paths:
        check_data_file(path)
    # A set with more files than pictures has empty ones.
    first = next((path for path in paths if os.path.getsize(path)), paths[0])
    keys = _find_keys(first) if keys is None else keys
    states = tuple(file_state(os.fsencode(path)) for path in paths)
    lengths, labels, names = _read_through(paths, keys, states)
    every = np.concatenate(list(labels.values()))
    _check_labels(name, every, keys)
    base = int(keys.label == _OFFICIAL.label and every.min() > 0)
    if base:
        _LOG.info("%s: no label is 0, so labels count from 1.", name)
    if class_names is None:
        class_names = _class_names(first, keys, names, range(base, every.max() + 1))
    elif every.max() >= len(class_names):
        raise ValueError(
            f"{name!r} has the label {every.max()}, but only {len(class_names)} class names. "
            "Prepare the data set again."
        )

    def read(part: str) -> LabelledPictures:
        own = [lengths[path] for path in files[part]]
        counts = np.array(list(map(len, own)))
        store = RecordStore(tuple(files[part]), counts, np.concatenate(own), keys.image)
        return LabelledPictures.of(
            np.concatenate([labels[path] for path in files[part]]) - base, store
        )

    return Catalog(dict.fromkeys(files, tuple(class_names)), read)


def _find_keys(path: str) -> Keys:
    record = next(_records(path), None)
    if record is None:
        raise ValueError(_unreadable(path, 0, 0))
    present = _features(path, record)
    for layout in _LAYOUTS:
        if layout.image in present and layout.label in present:
            named = (key for key in _CLASS_NAME_KEYS if key in present)
            return replace(layout, class_name=next(named, None) if layout is _OFFICIAL else None)
    allowed = " or ".join(f"{layout.image!r} and {layout.label!r}" for layout in _LAYOUTS)
    raise ValueError(
        f"{path!r} has records without the keys of labelled pictures: expected {allowed}. "
        f"It has: {some(sorted(present), limit=20)}. Give other keys behind the pattern: "
        "'tfrecord:PATTERN?image=KEY&label=KEY'."
    )


def _check_labels(name: str, labels: np.ndarray, keys: Keys) -> None:
    if not len(labels):
        raise ValueError(f"{name!r} has no pictures: all its files are empty. Get them again.")
    if labels.min() < 0:
        raise ValueError(
            f"{name!r} has pictures without a label: {keys.label!r} is {labels.min()} in "
            f"{np.count_nonzero(labels < 0)} of {len(labels)} records. Use files with labels."
        )
    if labels.max() > _MAX_LABEL:
        raise ValueError(
            f"{name!r} has the label {labels.max()}; labels may be at most {_MAX_LABEL:,}. "
            f"Write the number of the class under {keys.label!r}."
        )


# A set is opened once for its training pictures and once for those of validation.
@functools.lru_cache(maxsize=4)
def _read_through(
    paths: tuple[str, ...], keys: Keys, states: tuple[bytes, ...]
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[int, str]]:
    """Return the records' lengths (with frames) and labels by file, and the names of labels."""
    total = sum(os.path.getsize(path) for path in paths)
    if total >= TELL_FROM:
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
            first = names.setdefault(label, name)
            if first != name and _text(first) != _text(name):
                texts = sorted(map(_text, (first, name)))
                raise ValueError(
                    f"Label {label} has several names: {some(texts)} (seen in {path!r})."
                )
            labels.append(label)
            lengths.append(len(record) + FRAME_BYTES)
        if sum(lengths) != os.path.getsize(path):  # it goes on behind what can be read
            raise ValueError(_unreadable(path, len(lengths), sum(lengths)))
        all_lengths[path] = np.array(lengths, dtype=np.int64)
        all_labels[path] = np.array(labels, dtype=np.int64)
    return all_lengths, all_labels, {label: _text(name) for label, name in names.items()}


def _text(name: bytes) -> str:
    return composed(name.decode("utf-8", "replace"))


def _records(path: str) -> Iterator[bytes]:
    """Yield the records of a file, up to the first that is damaged."""
    whole = _count_whole(path)
    # `take`, because `zip` asks for one more than there are numbers.
    found = tf.data.TFRecordDataset(path, buffer_size=_BUFFER).take(whole)
    records = readable_records(found, whole)
    for _, batch in records.batch(_BATCH).prefetch(1).as_numpy_iterator():
        yield from batch.tolist()


def _count_whole(path: str) -> int:
    """Return how many records of a file end in it, by their lengths.

    TensorFlow asks for as much memory as a length says; if there is none, the process ends.
    """
    size, count, at = os.path.getsize(path), 0, 0
    with open(path, "rb", buffering=0) as file:
        while len(length := file.read(8)) == 8:
            at += int.from_bytes(length, "little") + FRAME_BYTES
            if at > size:
                break
            file.seek(at)
            count += 1
    return count


def _features(path: str, record: bytes) -> Mapping[str, Any]:
    try:
        example = tf.train.Example.FromString(record)
    except Exception as error:  # the class of this error is no part of TensorFlow
        if type(error).__name__ != "DecodeError":
            raise
        raise ValueError(
            f"{path!r} holds records that are not tf.train.Examples. Convert them."
        ) from None
    return example.features.feature


def _label(path: str, features: Mapping[str, Any], keys: Keys) -> tuple[int, bytes]:
    """Return the label of an example that has its picture, and the name of the class."""
    for key in (keys.image, keys.label):
        if key not in features:
            has = some(sorted(features), limit=20)
            raise ValueError(f"{path!r} has a record without the key {key!r}. It has: {has}.")
    images, labels = features[keys.image].bytes_list.value, features[keys.label].int64_list.value
    if len(images) != 1 or len(labels) != 1:
        wrong = f"{keys.image!r} is not bytes or {keys.label!r} is not one int64"
        raise ValueError(f"{path!r} holds records in which {wrong}. Write them again.")
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
        return f"{path!r} is compressed with gzip, and records are read in any order. Unpack it."
    return (
        f"{path!r} is damaged, truncated or not a TFRecord file: record {number} at byte {offset} "
        "cannot be read. Get or write the file again."
    )


def _class_names(first: str, keys: Keys, names: dict[int, str], labels: range) -> tuple[str, ...]:
    """Return the names of the labels, see above."""
    beside = os.path.join(os.path.dirname(first), f"{keys.label}.labels.txt")
    if keys.class_name is None and "/" not in keys.label and os.path.isfile(beside):
        check_data_file(beside, _MAX_NAMES_BYTES)
        with open(beside, encoding="utf-8") as file:
            names = dict(enumerate(map(composed, file.read().splitlines())))
        labels = range(max(labels.stop, len(names)))
    counts = Counter(names.values())

    def unique(label: int) -> str:
        name = names.get(label) or str(label)
        # `image/class/text` is the same for two classes of ImageNet each ("crane", "maillot").
        return f"{name} ({label})" if counts[name] > 1 else name

    return tuple(map(unique, labels))


def _files_by_split(folder: str) -> dict[str, list[str]]:
    """Return the record files of a folder by split, in the order of their names."""
    found = _record_files(folder)
    for entry in sorted(os.scandir(folder), key=lambda entry: entry.name):
        split = splits_of([entry.name]).get(entry.name)
        if split in SPLITS and entry.is_dir():
            found |= dict.fromkeys(_record_files(entry.path), split)
    if not found:
        raise FileNotFoundError(
            f"{folder!r} has no TFRecord files, and no index.json of `keras-effnetv2 pack`. "
            "Expected names such as 'train-00000-of-00016' or 'train.tfrecord'. For other names "
            f"give a pattern, 'tfrecord:{os.path.join(folder, '*')}'."
        )
    _check_all_there(folder, found)
    unnamed = [os.path.basename(path) for path, split in found.items() if split == ALL]
    if 0 < len(unnamed) < len(found):
        raise ValueError(
            f"{folder!r} has files named by split, and others that are not: "
            f"{some(unnamed)}. Allowed in a name: {SPLIT_NAMES}. Move them elsewhere, "
            "or give a pattern."
        )
    splits = dict.fromkeys(found.values())
    return {split: [path for path in found if found[path] == split] for split in splits}


def _record_files(folder: str) -> dict[str, str]:
    """Return the record files directly in a folder, each with the split in its name, or "all"."""
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.abspath(os.path.join(folder, name))
        if (_SHARD.fullmatch(name) or _RECORD_FILE.fullmatch(name)) and os.path.isfile(path):
            matched = _SPLIT.fullmatch(name)
            found[path] = SPLIT_ALIASES[matched[1].lower()] if matched else ALL
    return found


def _check_all_there(folder: str, paths: Iterable[str]) -> None:
    """Raise ValueError if some of the files numbered 0 to N-1 of N are missing."""
    numbers = defaultdict(set)
    for matched in filter(None, map(_SHARD.fullmatch, paths)):
        numbers[matched["set"], int(matched["count"])].add(int(matched["number"]))
    for (name, count), there in numbers.items():
        if missing := [number for number in range(count) if number not in there]:
            raise ValueError(
                f"{folder!r} has {len(there)} of the {count} files {os.path.basename(name)!r}; "
                f"missing: {some([f'{number:05d}' for number in missing])}. Get them, or give a "
                f"pattern to use a part: 'tfrecord:{name}-*'."
            )
