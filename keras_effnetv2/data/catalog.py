"""The result of every reader of pictures: which pictures there are, and where their bytes are.

A reader (`folder`, `csv_file`, `tfrecord`, `tfds`, `digits`) takes what follows the prefix of a
source and returns a `Catalog`. It raises FileNotFoundError if nothing is there, and ValueError for
everything else that is wrong. `sources.load_source` makes the splits, maps the class names and
builds the `ImageSource`, so those rules are in one place.

The bytes are in a `Store`: files, memory, or records (`records.RecordStore`). A store numbers its
pictures; such a number is a row. All subsets of a source share one store.
"""

import hashlib
import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from keras_effnetv2._common.files import file_trouble
from keras_effnetv2.images.picture_file import picture_file_trouble

if TYPE_CHECKING:  # where a folder is wrong is found out without it
    import tensorflow as tf

Columns = Sequence[Any]  # arrays or tensors
Function = Callable[..., Any]
Random = np.random.Generator | None
Shard = tuple[int, int] | None  # (index, count), see `ImageSource.dataset`

# That this process may use: so many pictures are read and made at once.
CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()

TRAIN = "train"
VALIDATION = "validation"
TEST = "test"
ALL = "all"  # as a part of a Catalog: one pile of pictures that nobody has divided yet

SPLITS = (TRAIN, VALIDATION, TEST, ALL)

CLASS_DIVIDER = ";"  # between the classes of a picture, where a text names them


def encoded_alone(data: Any, *entries: Any) -> Any:
    """Return the bytes of a picture, the default of `Store.read`."""
    return data


class Store(ABC):
    """Where an `ImageSource` keeps its pictures."""

    @abstractmethod
    def names(self, rows: np.ndarray) -> tuple[str, ...]:
        """Return readable names of the pictures, for messages and tables."""

    @abstractmethod
    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the size of each picture, bytes, (N,) int64."""

    @abstractmethod
    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yield bytes that change if the rows hold other or modified pictures."""

    def contents(self, rows: np.ndarray) -> np.ndarray:
        """Return what the bytes of each picture hash to, see `ImageSource.contents`."""
        found = np.zeros(len(rows), np.uint64)
        by_place = np.argsort(rows, kind="stable")  # the order of a disk is the quick one
        # An error takes its number with it.
        read = self.read(rows[by_place]).enumerate().ignore_errors()
        for number, data in read.as_numpy_iterator():
            found[by_place[number]] = _content_hash(hashlib.sha256(data))
        return found

    @abstractmethod
    def order(self, rows: np.ndarray, random: Random, shard: Shard) -> np.ndarray:
        """Return positions in `rows` in the order of an epoch, or of a shard of it.

        `random` draws the order; None keeps the order of `rows`.
        """

    @abstractmethod
    def read(
        self, rows: Any, columns: Columns = (), function: Function = encoded_alone
    ) -> "tf.data.Dataset":
        """Return the results of a function of each picture, in the order of `rows`, (N,) int64.

        The function is called, in parallel, with the bytes, () string, and the picture's entry of
        each column, an array (N, ...). Reading and the function are one step, because each parallel
        step costs time. A picture that cannot be read fails when it is reached; the next one can
        still be read.
        """

    @abstractmethod
    def joined(self, others: Sequence[Self]) -> Self:
        """Return a store with these pictures, followed by those of the others."""


def _content_hash(digest: Any) -> int:
    return int.from_bytes(digest.digest()[:8], "big")


def why_unread(error: "tf.errors.OpError") -> str:
    """Return the message of a reading error, without its place in a graph."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", str(error.message)).partition("\n")[0]
    asserted = re.search(r"assertion failed: \[(.*)\]", text)
    return asserted[1] if asserted else re.sub(r"^Error in .*? with iterator: \S+: ", "", text)


@dataclass(frozen=True, eq=False)
class _RandomAccess(Store):
    """Pictures that can be read equally fast in any order."""

    values: "tf.Tensor"  # (M,) string, in main memory
    named: Sequence[str]  # M readable names

    @classmethod
    def of(cls, values: Iterable[bytes], named: Sequence[str]) -> Self:
        """Return a store of Python's byte strings."""
        import tensorflow as tf

        with tf.device("CPU:0"):  # strings never live on an accelerator
            return cls(tf.constant(list(values), dtype=tf.string), named)

    def names(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(self.named[row] for row in rows.tolist())

    def order(self, rows: np.ndarray, random: Random, shard: Shard) -> np.ndarray:
        """Return a uniform order; worker i of n has its elements i, i + n, ...

        So n workers with batches of B / n together see the batches of one process with B.
        """
        order = np.arange(len(rows)) if random is None else random.permutation(len(rows))
        if shard is None:
            return order
        index, count = shard
        shared = len(order) if random is None else len(order) // count * count
        return order[:shared][index::count]

    def joined(self, others: Sequence[Self]) -> Self:
        if not others:
            return self  # tf.concat would copy every picture
        import tensorflow as tf

        named = tuple(chain(self.named, *(store.named for store in others)))
        with tf.device("CPU:0"):
            values = tf.concat([self.values, *(store.values for store in others)], axis=0)
        return type(self)(values, named)

    def read(
        self, rows: Any, columns: Columns = (), function: Function = encoded_alone
    ) -> "tf.data.Dataset":
        import tensorflow as tf

        values, load = self.values, self._load
        # Looked up in one shared tensor: permuting encoded pictures would copy them all.
        return tf.data.Dataset.from_tensor_slices((rows, *columns)).map(
            lambda row, *entries: function(load(tf.gather(values, row)), *entries),
            num_parallel_calls=CORES,
            deterministic=True,
        )

    def _load(self, value: Any) -> Any:
        """Return the bytes of the picture behind an element of `values`."""
        return value


class FileStore(_RandomAccess):
    """Pictures in files of their own; `values` are the paths, bytes that need not be UTF-8.

    They are absolute, because TensorFlow takes a relative `a://b` for an address on another
    machine, and because the working directory may change before a picture is read.
    """

    @classmethod
    def at(cls, paths: Sequence[str]) -> Self:
        """Return a store of the files at these paths."""
        encoded = list(map(os.fsencode, paths))
        return cls.of(map(os.path.abspath, encoded), list(map(readable, encoded)))

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        return np.fromiter((os.stat(path).st_size for path in self.paths(rows)), np.int64)

    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        for path in self.paths(rows):
            yield file_state(path)

    def contents(self, rows: np.ndarray) -> np.ndarray:
        with ThreadPoolExecutor() as threads:
            return np.fromiter(threads.map(_file_content, self.paths(rows)), np.uint64)

    def paths(self, rows: np.ndarray) -> tuple[bytes, ...]:
        """Return the absolute paths of pictures."""
        import tensorflow as tf

        return tuple(tf.gather(self.values, rows).numpy().tolist())

    def _load(self, value: Any) -> Any:
        import tensorflow as tf

        return tf.io.read_file(value)


class MemoryStore(_RandomAccess):
    """Pictures in main memory; `values` are their bytes."""

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        import tensorflow as tf

        return tf.gather(tf.strings.length(self.values), rows).numpy().astype(np.int64)

    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        yield from self.read(rows).as_numpy_iterator()


def check_data_file(path: str, max_bytes: int | None = None) -> None:
    """Raise ValueError unless a path is a file that can be read, with at most so many bytes."""
    if trouble := file_trouble(os.fsencode(path)):
        raise ValueError(f"{path!r}: {trouble}. Give a file with data.")
    if max_bytes is not None and (size := os.path.getsize(path)) > max_bytes:
        raise ValueError(
            f"{path!r} has {size:,} bytes; at most {max_bytes:,} are read. Divide it, or give "
            "another file."
        )


def _file_content(path: bytes) -> int:
    if picture_file_trouble(path):
        return 0
    try:
        with open(path, "rb") as file:
            return _content_hash(hashlib.file_digest(file, "sha256"))
    except OSError:  # the disk fails
        return 0


def file_state(path: bytes) -> bytes:
    """Return a line that changes with the content of a file."""
    status = os.stat(path)
    return b"%s %d %d\n" % (path, status.st_size, status.st_mtime_ns)


@dataclass(frozen=True, eq=False)
class LabelledPictures:
    """Pictures of one part of a catalog, in a fixed order."""

    labels: np.ndarray  # as those of an `ImageSource`, for the class names of that part
    store: Store
    rows: np.ndarray  # (N,) int64, where each one is in `store`; a permutation of 0..N-1
    origins: Sequence[str] = ()  # N places where labels were given ("line 12"), if not by names

    @classmethod
    def of(cls, labels: np.ndarray, store: Store, origins: Sequence[str] = ()) -> Self:
        """Take the pictures of a store in its order."""
        dtype = bool if labels.ndim == 2 else np.int64
        return cls(labels.astype(dtype), store, np.arange(len(labels)), origins)


@dataclass(frozen=True)
class Catalog:
    """The parts that a source of pictures has: `TRAIN`, `VALIDATION` and `TEST`, or only `ALL`."""

    class_names: Mapping[str, tuple[str, ...]]  # of each part that is there, in order of labels
    read: Callable[[str], LabelledPictures]  # returns the pictures of one of those parts
    horizontal_flip: bool = True  # whether a mirrored picture still shows the same class
    notes: tuple[str, ...] = ()  # what is not used, a line each

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts that are there."""
        return tuple(part for part in SPLITS if part in self.class_names)


def readable(path: bytes) -> str:
    r"""Return a file name as text; bytes that are not UTF-8 show as `\xNN`."""
    return path.decode("utf-8", "backslashreplace")
