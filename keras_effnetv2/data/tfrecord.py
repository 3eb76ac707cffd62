"""TFRecord files as a `Catalog`: what `pack` wrote, and those of others.

    tfrecord:DIR        a packed folder, or one with files named by split, as
                        train-00000-of-01024, validation-00000-of-00128 or set-test.tfrecord-...,
                        or with such files in folders train/, validation/, test/
    tfrecord:PATTERN    files by a pattern (*, ?, [...], ** for folders), one pile

Records of others are `tf.train.Example` with one of two sets of keys, see `_LAYOUTS`.

Names of classes: `image/class/synset`, else `image/class/text`, else the file LABELKEY.labels.txt
beside the records (TensorFlow Datasets writes it), else the number as it is written. Labels under
`image/class/label` are from 1 on if no record has a 0, as in the official ImageNet files (1..1000),
else from 0 on; those under `label` are from 0 on.
"""

import glob
import os
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from logging import getLogger

import numpy as np

from keras_effnetv2.data.catalog import ALL, SPLIT_ALIASES, Catalog, LabelledPictures, some
from keras_effnetv2.data.packed import is_pack, open_packed
from keras_effnetv2.data.record_index import Keys, RecordIndex, first_example, index_records
from keras_effnetv2.data.records import RecordStore

_LOG = getLogger("keras_effnetv2")
_OFFICIAL = Keys("image/encoded", "image/class/label")
_DATASETS = Keys("image", "label")
_LAYOUTS = (_OFFICIAL, _DATASETS)
_CLASS_NAME_KEYS = ("image/class/synset", "image/class/text")  # a synset names one class only
_MAX_LABEL = 1_000_000  # more is no number of a class, but some other number
# How the files of a set are called; others in a folder (README, JSON) are not looked at.
_SHARD = re.compile(r"(?P<set>.*)-(?P<number>\d{5,})-of-(?P<count>\d{5,})(\..*)?")
_RECORD_FILE = re.compile(r".*\.(tfrecords?|tfrec|records?)(-.*)?", re.IGNORECASE)
_SPLIT = re.compile(rf"(?:.*[-_.])?({'|'.join(SPLIT_ALIASES)})(?:[-_.].*)?", re.IGNORECASE)


def open_tfrecord(pattern: str) -> Catalog:
    """Open a folder, a file, or a glob pattern; what has no index is read through once."""
    if os.path.isdir(pattern):
        if is_pack(pattern):
            return open_packed(pattern)
        return open_records(_files_by_split(pattern), pattern)
    # What is there by its very name may have the signs of a pattern in it.
    files = [pattern] if os.path.lexists(pattern) else sorted(glob.glob(pattern, recursive=True))
    files = [os.path.abspath(path) for path in files if not os.path.isdir(path)]
    if not files:
        raise FileNotFoundError(
            f"No file is called {pattern!r} (looked for {os.path.abspath(pattern)!r}). Expected "
            "'tfrecord:' with a folder or a pattern, for example 'tfrecord:imagenet/train-*'."
        )
    return open_records({ALL: files}, pattern)


def open_records(
    files: Mapping[str, Sequence[str]],
    name: str,
    keys: Keys | None = None,
    class_names: Sequence[str] | None = None,
) -> Catalog:
    """Open record files that have no index.

    Args:
        files: absolute paths of the files of each part.
        name: of all of it, for messages.
        keys: of picture and label; None: found in the first record.
        class_names: of the labels from 0 on; None: see above.
    """
    paths = [path for part in files.values() for path in part]
    # A set with more files than pictures has empty ones.
    first = next((path for path in paths if os.path.getsize(path)), paths[0])
    keys = _find_keys(first) if keys is None else keys
    index = index_records(paths, keys)
    labels = np.concatenate([index.labels[path] for path in paths])
    _check_labels(name, labels, keys)
    base = int(keys.label == _OFFICIAL.label and labels.min() > 0)
    if base:
        _LOG.info("%s: no label is 0, so that the labels are counted from 1.", name)
    if class_names is None:
        class_names = _class_names(first, keys, index, range(base, labels.max() + 1))
    elif labels.max() >= len(class_names):
        raise ValueError(
            f"{name!r} has the label {labels.max()}, but only {len(class_names)} class names."
        )

    def read(part: str) -> LabelledPictures:
        own = files[part]
        lengths = [index.lengths[path] for path in own]
        counts = np.array(list(map(len, lengths)))
        store = RecordStore(tuple(own), counts, np.concatenate(lengths), keys.image)
        labels = np.concatenate([index.labels[path] for path in own])
        return LabelledPictures.of(labels - base, store)

    return Catalog(dict.fromkeys(files, tuple(class_names)), read)


def _find_keys(path: str) -> Keys:
    present = first_example(path)
    for layout in _LAYOUTS:
        if layout.image in present and layout.label in present:
            named = (key for key in _CLASS_NAME_KEYS if key in present)
            return replace(layout, class_name=next(named, None) if layout is _OFFICIAL else None)
    allowed = " or ".join(f"{layout.image!r} and {layout.label!r}" for layout in _LAYOUTS)
    raise ValueError(
        f"{path!r} has records without the keys of labelled pictures: expected {allowed}. "
        f"It has: {some(sorted(present), limit=20)}."
    )


def _check_labels(name: str, labels: np.ndarray, keys: Keys) -> None:
    if not len(labels):
        raise ValueError(f"{name!r} has no pictures: all its files are empty.")
    if labels.min() < 0:
        raise ValueError(
            f"{name!r} has pictures without a label: {keys.label!r} is {labels.min()} in "
            f"{np.count_nonzero(labels < 0)} of {len(labels)} records."
        )
    if labels.max() > _MAX_LABEL:
        raise ValueError(
            f"{name!r} has the label {labels.max()}; classes have numbers up to {_MAX_LABEL:,}."
        )


def _class_names(first: str, keys: Keys, index: RecordIndex, labels: range) -> tuple[str, ...]:
    """Return the names of the labels, see above."""
    names = index.class_names
    beside = os.path.join(os.path.dirname(first), f"{keys.label}.labels.txt")
    if keys.class_name is None and "/" not in keys.label and os.path.isfile(beside):
        with open(beside, encoding="utf-8") as file:
            names = dict(enumerate(file.read().splitlines()))
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
        if entry.name.lower() in SPLIT_ALIASES and entry.is_dir():
            split = SPLIT_ALIASES[entry.name.lower()]
            found |= dict.fromkeys(_record_files(entry.path), split)
    if not found:
        raise FileNotFoundError(
            f"{folder!r} has no TFRecord files, and no index.json of `keras-effnetv2 pack`. "
            "Expected names such as 'train-00000-of-00016' or 'train.tfrecord'; other names can be "
            f"given as a pattern, 'tfrecord:{os.path.join(folder, '*')}'."
        )
    _check_all_there(folder, found)
    unnamed = [os.path.basename(path) for path, split in found.items() if split == ALL]
    if 0 < len(unnamed) < len(found):
        raise ValueError(
            f"{folder!r} has files of splits, and some whose split their names do not say: "
            f"{some(unnamed)}. Allowed in a name: {', '.join(SPLIT_ALIASES)}. Move them elsewhere, "
            "or give a pattern."
        )
    splits: dict[str, list[str]] = {}
    for path, split in found.items():
        splits.setdefault(split, []).append(path)
    return splits


def _record_files(folder: str) -> dict[str, str]:
    """Return the record files right in a folder, and the split that each name says, or "all"."""
    found = {}
    for name in sorted(os.listdir(folder)):
        path = os.path.abspath(os.path.join(folder, name))
        if (_SHARD.fullmatch(name) or _RECORD_FILE.fullmatch(name)) and os.path.isfile(path):
            matched = _SPLIT.fullmatch(name)
            found[path] = SPLIT_ALIASES[matched[1].lower()] if matched else ALL
    return found


def _check_all_there(folder: str, paths: Iterable[str]) -> None:
    """Raise ValueError if of files that are called 0 to N-1 of N some are not there."""
    numbers: dict[tuple[str, int], set[int]] = {}
    for matched in filter(None, map(_SHARD.fullmatch, paths)):
        shards = numbers.setdefault((matched["set"], int(matched["count"])), set())
        shards.add(int(matched["number"]))
    for (name, count), there in numbers.items():
        if missing := [number for number in range(count) if number not in there]:
            raise ValueError(
                f"{folder!r} has {len(there)} of the {count} files {os.path.basename(name)!r}; "
                f"missing: {some([f'{number:05d}' for number in missing])}. Fetch them, or give a "
                f"pattern for a part: 'tfrecord:{name}-*'."
            )
