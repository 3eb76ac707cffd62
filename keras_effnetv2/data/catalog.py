"""What every reader of pictures hands over, before a train/validation split is drawn.

A reader (`folder`, `csv_file`, `tfrecord`, `tfds`, `digits`) answers one question: which pictures
are there and what are they called. It takes what stands behind the prefix of a source and returns
a `Catalog`, or raises FileNotFoundError where nothing is, and ValueError for everything else that
is wrong. `sources.load_source` makes the splits, maps the class names and builds the `ImageSource`,
so that those rules stand in one place.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from keras_effnetv2.data.stores import Store

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
ALL = "all"  # as a part of a Catalog: one pile of pictures that nobody has divided yet

SPLITS = (TRAIN, VALIDATION, TEST, ALL)

# How data sets in the wild call their splits -> how they are called here.
SPLIT_ALIASES = {
    "train": TRAIN,
    "validation": VALIDATION,
    "valid": VALIDATION,
    "val": VALIDATION,
    "test": TEST,
}


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures of one part of a catalog, in a fixed order.

    Attributes:
        labels: (N,) int64, positions in the class names of that part.
        store: where the pictures are.
        rows: (N,) int64, where each one is in `store`; a permutation of 0..N-1.
        origins: N places where the label was given, for messages about labels ("line 12"); None:
            the names of the pictures.
    """

    labels: np.ndarray
    store: Store
    rows: np.ndarray
    origins: Sequence[str] | None = None

    @classmethod
    def of(
        cls, labels: np.ndarray, store: Store, origins: Sequence[str] | None = None
    ) -> "LabelledPictures":
        """Take the pictures of a store in its order."""
        return cls(labels.astype(np.int64), store, np.arange(len(labels)), origins)


@dataclass(frozen=True)
class Catalog:
    """What a source of pictures offers.

    Attributes:
        class_names: for each part that is there (`TRAIN`, `VALIDATION`, `TEST`, or only `ALL`)
            the names of its classes, in the order of their labels.
        read: takes one of those parts and returns its pictures.
        horizontal_flip: whether a mirrored picture still shows the same class.
    """

    class_names: Mapping[str, tuple[str, ...]]
    read: Callable[[str], LabelledPictures]
    horizontal_flip: bool = True


def readable(path: bytes) -> str:
    """Return a file name as text; bytes that are not UTF-8 show as `\\xNN`."""
    return path.decode("utf-8", "backslashreplace")


def read_path(path: str) -> bytes:
    """Return the absolute path in bytes, which TensorFlow reads whatever the bytes are.

    Absolute, because TensorFlow takes a relative `a://b` for an address on another machine, and
    because the working directory may change before the picture is read.
    """
    return os.path.abspath(os.fsencode(path))


def some(items: Sequence[str], limit: int = 5) -> str:
    """Return the items quoted and joined for a message, at most `limit` of them."""
    shown = ", ".join(repr(item) for item in items[:limit])
    return shown if len(items) <= limit else f"{shown} and {len(items) - limit} more"
