"""Where pictures come from: a folder, a CSV table, TFRecords, TensorFlow Datasets or the digits.

`load_source` turns a short text into an `ImageSource`: labels, class names, and a way to the
bytes of every picture. Every source yields encoded pictures, so decoding is in one place
(`keras_effnetv2.images.evaluation_crop`). For files, only paths and labels are kept in memory.
"""

import functools
import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain, compress
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer, is_integer
from keras_effnetv2._common.text import listed, some
from keras_effnetv2.data.catalog import (
    ALL,
    CLASS_DIVIDER,
    SPLITS,
    TEST,
    TRAIN,
    VALIDATION,
    Catalog,
    FileStore,
    Function,
    MemoryStore,
    Shard,
    Store,
    why_unread,
)
from keras_effnetv2.data.class_labels import as_asked, map_labels
from keras_effnetv2.data.csv_file import open_csv
from keras_effnetv2.data.digits import open_digits
from keras_effnetv2.data.folder import open_folder
from keras_effnetv2.data.names import alike, composed, own_class_names
from keras_effnetv2.data.packed import is_pack, open_pack, read_split, write_pack
from keras_effnetv2.data.spec import kind_of
from keras_effnetv2.data.splits import carve_validation, even_draw, stratified_draw
from keras_effnetv2.data.tfds import open_tfds
from keras_effnetv2.data.tfrecord import open_tfrecord

PILE_VALIDATION_FRACTION = 0.2  # one pile of pictures has to feed both sides
TRAIN_VALIDATION_FRACTION = 0.1  # a given train split has its test pictures elsewhere
_READERS: dict[str, Callable[[str], Catalog]] = {
    "tfds": open_tfds,
    "tfrecord": open_tfrecord,
    "folder": open_folder,
}
IN_MEMORY = "memory"  # for `ImageSource.cached`


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Labelled pictures, and where their bytes are. Made by `load_source`."""

    spec: str  # what `load_source` was given
    split: str  # "train", "validation", "test" or "all"
    class_names: tuple[str, ...] = field(repr=False)  # of every label, also without a picture here
    labels: np.ndarray = field(repr=False)  # (N,) int64; multi-label: (N, classes) bool
    horizontal_flip: bool  # whether a mirrored picture still shows the same class
    store: Store = field(repr=False)  # where the bytes of the pictures are; shared by all subsets
    rows: np.ndarray = field(repr=False)  # (N,) int64, where each picture is in `store`
    # What a person should know, a line each: "note: ..." or "warning: ...".
    notes: tuple[str, ...] = field(default=(), repr=False)

    @property
    def num_examples(self) -> int:
        """The number of pictures."""
        return len(self.labels)

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several classes or none."""
        return self.labels.ndim == 2

    @functools.cached_property
    def names(self) -> tuple[str, ...]:
        """N readable names, for messages and tables: the path if each picture has a file."""
        return self.store.names(self.rows)

    @functools.cached_property
    def label_texts(self) -> tuple[str, ...]:
        """The class of each picture; multi-label: "a;b", or "" without any class."""
        if not self.multi_label:
            return tuple(self.class_names[label] for label in self.labels.tolist())
        return tuple(CLASS_DIVIDER.join(compress(self.class_names, row)) for row in self.labels)

    @functools.cached_property
    def contents(self) -> np.ndarray:
        """The first 64 bits of the SHA-256 of each picture's bytes, (N,) uint64; reads them all.

        A picture has the same in a folder, a table and a record. 0: it cannot be read.
        """
        return self.store.contents(self.rows)

    def class_counts(self) -> np.ndarray:
        """Return the number of pictures of each class, (C,) int64."""
        if self.multi_label:
            return self.labels.sum(axis=0)
        return np.bincount(self.labels, minlength=len(self.class_names))

    def sample(self) -> np.ndarray:
        """Return the positions of 32 pictures from all over the source, int64; fewer if it has."""
        return np.unique(np.linspace(0, self.num_examples - 1, 32).round().astype(np.int64))

    def file_paths(self) -> tuple[bytes, ...] | None:
        """Return the absolute path of every picture, or None if they have no files."""
        return self.store.paths(self.rows) if isinstance(self.store, FileStore) else None

    def subset(self, indices: Sequence[int] | np.ndarray) -> "ImageSource":
        """Return the source with the pictures at these positions, 0..N-1, in this order.

        Raises:
            ValueError: there is no index, or one is out of range or not an integer.
        """
        chosen = np.asarray(indices)
        if chosen.ndim != 1 or not chosen.size or not np.issubdtype(chosen.dtype, np.integer):
            received = f"shape {chosen.shape}, dtype {chosen.dtype}"
        elif chosen.min() < 0 or chosen.max() >= self.num_examples:
            received = f"{chosen.min()}..{chosen.max()}"
        else:
            return replace(self, labels=self.labels[chosen], rows=self.rows[chosen])
        raise ValueError(
            "A subset needs a list of at least one integer index in "
            f"0..{self.num_examples - 1}. Received: {received}"
        )

    def cached(self, place: str | os.PathLike[str]) -> "ImageSource":
        """Return the source with a copy of its pictures, still encoded, that is faster to read.

        The pictures, their order and their labels stay as they are; subsets of the result share
        the copy.

        Args:
            place: "memory" reads everything into main memory at once. Anything else is a folder
                ("./memory" for one of that name): the first call packs the pictures there, and all
                later ones, also in other processes, read them from there.

        Raises:
            ValueError: the folder is the cache of other pictures, labels or another split, or the
                pictures have changed since, or a picture cannot be read.
            FileExistsError: the folder holds something else.
            OSError: there is not enough space on the disk.
        """
        store, rows = _in_memory(self) if place == IN_MEMORY else _on_disk(place, self)
        return replace(self, store=store, rows=rows)

    def stratified_subset(self, num_examples: int, seed: int = 0) -> "ImageSource":
        """Return a random part with the classes in proportion, at least one picture of each.

        Multi-label: of each class but the very rare ones that come with others.

        The same seed, at least 0, draws the same pictures.

        Raises:
            ValueError: `num_examples` is too small or too large, or the seed is negative.
        """
        present = int(np.count_nonzero(self.class_counts()))
        if not is_integer(num_examples) or not present <= num_examples <= self.num_examples:
            raise ValueError(
                f"A part of {self.spec!r} ({self.split}) can have {present} (one picture per "
                f"class) to {self.num_examples} pictures (--max-train-examples, "
                f"max_train_examples=). Received: {num_examples}."
            )
        return self.subset(stratified_draw(self.labels, num_examples, seed))

    def carve(self, fraction: float, seed: int) -> tuple["ImageSource", "ImageSource"]:
        """Return pictures for training and for validation, see `splits.carve_validation`."""
        held = carve_validation(self.labels, self.class_names, fraction, seed)
        rest = np.setdiff1d(np.arange(self.num_examples), held, assume_unique=True)
        return self.subset(rest), self.subset(held)

    def dataset(
        self, *, shuffle: bool = False, seed: int = 0, epoch: int = 0, shard: Shard = None
    ) -> tf.data.Dataset:
        """Return the pictures, still encoded, one by one.

        Args:
            shuffle: True for a random order, which depends only on the seed and the epoch. It is
                uniform over all pictures, but for records it keeps reading sequential (see
                `records.RecordStore.order`). False for the order of the source.
            seed: at least 0.
            epoch: at least 0.
            shard: (index, count): the part of worker `index`, 0..count-1, of `count` workers. The
                parts are disjoint. Shuffled, every worker has N // count pictures, so that none
                waits for another; in order, all together have every picture once. With pictures
                in files or in memory, worker i has elements i, i + count, ... of the order
                without `shard`. With records, each worker has one stretch of the records (or of
                the permuted blocks of records), so it reads only its own part.

        Returns:
            Dataset of (image_bytes () string, label () int64, index () int64), where index is the
            position in this source; multi-label: the label is (classes,) bool. A picture that
            cannot be read fails when it is reached.

        Raises:
            ValueError: an argument is out of range, or there are fewer pictures to shuffle than
                workers.
        """
        return self.in_order(self.order(shuffle=shuffle, seed=seed, epoch=epoch, shard=shard))

    def order(
        self,
        *,
        shuffle: bool = False,
        seed: int = 0,
        epoch: int = 0,
        shard: Shard = None,
        balanced: bool = False,
    ) -> np.ndarray:
        """Return the positions of the pictures in the order of `dataset`, int64.

        With `balanced`, a shuffled order has every class equally often (`splits.even_draw`). Then
        N is added to a position for each time that the picture has been drawn before.
        """
        random = None
        if shuffle:
            check_integer("seed", seed, minimum=0)
            check_integer("epoch", epoch, minimum=0)
            random = np.random.default_rng([seed, epoch])
        if shard is not None:
            index, count = shard
            if not is_integer(index) or not is_integer(count) or not 0 <= index < count:
                raise ValueError(
                    f"shard must be (index, count) with an index of 0..count-1. Received: {shard!r}"
                )
            if shuffle and self.num_examples < count:
                raise ValueError(
                    f"{self.num_examples} pictures are too few for {count} workers. Use fewer "
                    "workers."
                )
        if random is None or not balanced:
            return self.store.order(self.rows, random, shard)
        drawn = even_draw(self.labels, random)
        return drawn[self.store.order(self.rows[drawn % self.num_examples], random, shard)]

    def in_order(
        self, order: Any, function: Function = lambda *example: example
    ) -> tf.data.Dataset:
        """Return the results of a function of the (image_bytes, label, index) of `dataset`.

        It is called in parallel. `order` is like the result of the method `order`, or has positions
        in any order, (N,) int64; it may be a tensor of a graph.
        """

        def pick(order: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
            positions = order % self.num_examples
            return self.rows[positions], self.labels[positions]

        rows, labels = tf.numpy_function(pick, [order], [tf.int64, self.labels.dtype])
        rows = tf.ensure_shape(rows, [None])
        labels = tf.ensure_shape(labels, [None, *self.labels.shape[1:]])
        return self.store.read(rows, (labels, order), function)


def load_source(
    spec: str | os.PathLike[str],
    split: str = TRAIN,
    *,
    class_names: Sequence[str] | None = None,
    multi_label: bool | None = None,
    validation_fraction: float | None = None,
    seed: int = 0,
) -> ImageSource:
    """Find labelled pictures.

    Splits that are given (folders `train`, `validation`, `test`; a CSV column `split`; those of a
    TensorFlow Datasets set or of TFRecord files) are taken as they are. Without a validation split,
    a stratified share of the pictures is held back for validation: of the train split if there is
    one, else of all pictures. The choice depends only on the pictures' order, the fraction and the
    seed. "train" and "validation" of the same fraction and seed are disjoint and together complete.

    Args:
        spec: a folder of class folders, "csv:FILE" (header `path,label[,split]`; see `csv_file`),
            "tfds:NAME", "tfrecord:PATTERN" (see `tfrecord`; also a folder that `pack` wrote), or
            "digits" (a folder of that name is written "./digits").
        split: "train", "validation", "test" or "all".
        class_names: the labels to use, for example those of a trained model; the classes found
            are mapped to them by name, compared in Unicode's NFC. None: the classes of the train
            split, sorted by name (those of TensorFlow Datasets in its own order).
        multi_label: True: a picture may have several classes or none, and the labels are
            multi-hot: (N, classes) bool. None: as the source says, that is for a CSV table with
            a label such as "a;b" and for what was packed from one.
        validation_fraction: share to carve, inside (0, 1). None: 0.2 of an undivided pile, 0.1 of
            a given train split.
        seed: of the carving, at least 0.

    Returns:
        The pictures of the split. Files are not opened: see `unreadable.find_bad_pictures`.

    Raises:
        FileNotFoundError: nothing is there, or a TensorFlow Datasets set is not prepared.
        ImportError: "tfds:" needs the package tensorflow-datasets.
        ValueError: anything else is wrong with the arguments, the folder or the table.
    """
    check_choice("split", split, SPLITS)
    check_integer("seed", seed, minimum=0)
    catalog = _open(name := os.fsdecode(spec), multi_label)
    targets = _target_names(name, catalog, class_names)
    parts, fraction = _plan(name, catalog, split, validation_fraction)
    source = _read_parts(name, split, catalog, parts, targets, multi_label)
    if fraction is None:
        return source
    return source.carve(fraction, seed)[split == VALIDATION]


def load_given_splits(
    spec: str | os.PathLike[str], multi_label: bool | None = None
) -> dict[str, ImageSource]:
    """Find the pictures of every given split, as it is.

    All have the same class names. Arguments and errors are those of `load_source`.
    """
    catalog = _open(name := os.fsdecode(spec), multi_label)
    targets = _target_names(name, catalog, None)
    return {
        part: _read_parts(name, part, catalog, [part], targets, multi_label)
        for part in catalog.parts
    }


def available_splits(
    spec: str | os.PathLike[str], multi_label: bool | None = None
) -> tuple[str, ...]:
    """Return the given splits of a source, without those that `load_source` can draw."""
    return _open(os.fsdecode(spec), multi_label).parts


def available_classes(spec: str | os.PathLike[str]) -> tuple[str, ...]:
    """Return the names of all classes of a source, over all splits."""
    names = _open(os.fsdecode(spec)).class_names.values()
    return tuple(dict.fromkeys(map(composed, chain.from_iterable(names))))


def _open(name: str, multi_label: bool | None = None) -> Catalog:
    kind, place = kind_of(name)
    if kind == "csv":
        return open_csv(place, multi_label)
    return open_digits() if kind == "digits" else _READERS[kind](place)


def _plan(
    name: str, catalog: Catalog, split: str, validation_fraction: float | None
) -> tuple[tuple[str, ...], float | None]:
    """Return the parts to read, and the fraction to hold back for validation, if any."""
    given = catalog.parts
    pile = ALL if ALL in given else TRAIN
    can_carve = pile in given and VALIDATION not in given
    if split == ALL:
        return given, None
    if can_carve and split in (TRAIN, VALIDATION):
        default = PILE_VALIDATION_FRACTION if pile == ALL else TRAIN_VALIDATION_FRACTION
        return (pile,), default if validation_fraction is None else validation_fraction
    if split not in given:
        carved = (TRAIN, VALIDATION) if can_carve else ()
        there = [part for part in SPLITS if part in (*given, *carved, ALL)]
        raise ValueError(f"{name!r} has no split {split!r}. It has: {', '.join(there)}.")
    if split != TEST and validation_fraction is not None:
        raise ValueError(
            "`validation_fraction` must be left out here, because "
            f"{name!r} has validation pictures of its own. Received: {validation_fraction:g}"
        )
    return (split,), None


def _read_parts(
    name: str,
    split: str,
    catalog: Catalog,
    parts: Sequence[str],
    targets: tuple[str, ...],
    multi_label: bool | None = None,
) -> ImageSource:
    """Return the pictures of the parts, one part after the other."""
    pictures = [catalog.read(part) for part in parts]
    shifts = np.cumsum([0, *(len(read.rows) for read in pictures[:-1])])
    labels = [
        map_labels(name, read, catalog.class_names[part], targets)
        for part, read in zip(parts, pictures, strict=True)
    ]
    return ImageSource(
        spec=name,
        split=split,
        class_names=targets,
        labels=as_asked(name, np.concatenate(labels), len(targets), multi_label),
        horizontal_flip=catalog.horizontal_flip,
        store=pictures[0].store.joined([read.store for read in pictures[1:]]),
        rows=np.concatenate([read.rows + by for read, by in zip(pictures, shifts, strict=True)]),
        notes=(*(f"note: {note}" for note in catalog.notes), *_alike_names(targets)),
    )


def _alike_names(names: Sequence[str]) -> Iterator[str]:
    """Yield a warning if there are names that may mean one class."""
    groups: dict[str | float, list[str]] = {}
    for name in names:
        groups.setdefault(alike(name), []).append(name)
    if same := [" and ".join(map(repr, group)) for group in groups.values() if len(group) > 1]:
        yield (
            f"warning: These are several classes, but look like one: {listed(same)}. "
            "If they are one, give them one name."
        )


def _target_names(
    name: str, catalog: Catalog, class_names: Sequence[str] | None
) -> tuple[str, ...]:
    """Return the names of the labels, checked."""
    if class_names is not None:
        if isinstance(class_names, str) or not all(isinstance(one, str) for one in class_names):
            raise ValueError(f"class_names must be a list of names. Received: {class_names!r}.")
        class_names = tuple(map(composed, class_names))
        repeated = [one for one, count in Counter(class_names).items() if count > 1]
        if not class_names or repeated:
            raise ValueError(
                "class_names must be one or more different names. "
                f"Received {len(class_names)}; repeated: {some(repeated) or 'none'}."
            )
        return class_names
    return own_class_names(name, catalog)


def _in_memory(source: ImageSource) -> tuple[Store, np.ndarray]:
    """Read all pictures, encoded, into main memory; return the store and their rows there."""
    by_row = np.argsort(source.rows, kind="stable")  # the order of a disk is the quick one
    rows = source.rows[by_row]
    try:
        with tf.device("CPU:0"):
            # One batch of everything: the bytes go into the tensor without a copy in Python.
            data = source.store.read(rows).batch(len(rows)).get_single_element()
    except tf.errors.OpError as error:
        raise ValueError(
            f"A picture cannot be kept in memory: {why_unread(error)}. Repair or remove it. A scan "
            "(--scan, scan=True) lists all such pictures; --skip-bad, skip_bad=True leaves them "
            "out."
        ) from error
    return MemoryStore(data, source.store.names(rows)), np.argsort(by_row)


def _on_disk(folder: str | os.PathLike[str], source: ImageSource) -> tuple[Store, np.ndarray]:
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
            f"{os.fspath(folder)!r} is not a cache of {source.spec!r} ({source.split}) as it is "
            "now: it was packed from other pictures, labels or class names, or the files have "
            "changed since. Remove that folder, or choose another (--cache, cache=)."
        )
    pictures = read_split(pack, source.split)
    return pictures.store, pictures.rows


def _fingerprint(source: ImageSource) -> str:
    """Return a hash that changes with the pictures, their order and their labels."""
    described = [source.spec, source.split, *source.class_names]
    digest = hashlib.sha256(json.dumps(described).encode())
    digest.update(source.labels.astype("?" if source.multi_label else "<i8").tobytes())
    for state in source.store.states(source.rows):
        digest.update(b"%d:" % len(state) + state)
    return digest.hexdigest()
