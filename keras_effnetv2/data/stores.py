"""Where the bytes of pictures are: in files, in memory, or in records (`records.RecordStore`).

A store numbers its pictures; such a number is a row. All subsets of a source share one store.
"""

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Self

import numpy as np
import tensorflow as tf


def encoded_alone(data: Any, *entries: Any) -> Any:
    """Return the bytes of a picture, what `Store.read` has by default."""
    return data


class Store(ABC):
    """What an `ImageSource` asks of the place where its pictures are."""

    @abstractmethod
    def names(self, rows: np.ndarray) -> tuple[str, ...]:
        """Return readable names of the pictures, for messages and tables."""

    @abstractmethod
    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the bytes that each of the pictures takes, (N,) int64."""

    @abstractmethod
    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yield bytes that differ wherever other pictures, or changed ones, are in the rows."""

    @abstractmethod
    def order(
        self,
        rows: np.ndarray,
        random: np.random.Generator | None,
        shard: tuple[int, int] | None,
    ) -> np.ndarray:
        """Return positions in `rows`, (N,), in the order in which an epoch shows the pictures.

        Args:
            rows: (N,) int64.
            random: draws the order; None: the order of `rows`.
            shard: (index, count): the part of one of several workers, see `ImageSource.dataset`.
        """

    @abstractmethod
    def read(
        self,
        rows: np.ndarray,
        columns: Sequence[np.ndarray] = (),
        function: Callable[..., Any] = encoded_alone,
    ) -> tf.data.Dataset:
        """Return a dataset of what a function makes of each encoded picture.

        Reading and the function are one step, because each parallel step costs time of its own.

        Args:
            rows: (N,) int64; the pictures come in this order.
            columns: arrays (N, ...) with more about each picture.
            function: called with the bytes, () string, and the picture's entry of each column, in
                parallel; by default it returns the bytes.

        A picture that cannot be read fails when it is reached; the next one can still be had.
        """

    @abstractmethod
    def joined(self, others: Sequence[Self]) -> Self:
        """Return a store with these pictures and then those of the others."""


def why_unread(error: tf.errors.OpError) -> str:
    """Return what an error of reading says, without where in a graph it came up."""
    text = re.sub(r"\{\{.*?\}\}\s*", "", str(error.message)).partition("\n")[0]
    asserted = re.search(r"assertion failed: \[(.*)\]", text)
    return asserted[1] if asserted else re.sub(r"^Error in .*? with iterator: \S+: ", "", text)


@dataclass(frozen=True, eq=False)
class _RandomAccess(Store):
    """Pictures of which each is had as fast as any other.

    Attributes:
        values: (M,) string tensor in main memory.
        named: M readable names.
    """

    values: tf.Tensor
    named: Sequence[str]

    @classmethod
    def of(cls, values: Iterable[bytes], named: Sequence[str]) -> Self:
        """Return a store of byte strings that Python holds."""
        with tf.device("CPU:0"):  # strings never live on an accelerator
            return cls(tf.constant(list(values), dtype=tf.string), named)

    def names(self, rows: np.ndarray) -> tuple[str, ...]:
        return tuple(self.named[row] for row in rows.tolist())

    def order(
        self,
        rows: np.ndarray,
        random: np.random.Generator | None,
        shard: tuple[int, int] | None,
    ) -> np.ndarray:
        """Return a uniform order, of which worker i of n has elements i, i + n, ...

        So n workers with batches of B / n see together the batches of one process with B.
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
        stores = [self, *others]
        with tf.device("CPU:0"):
            values = tf.concat([store.values for store in stores], axis=0)
        return type(self)(values, tuple(chain.from_iterable(store.named for store in stores)))

    def read(
        self,
        rows: np.ndarray,
        columns: Sequence[np.ndarray] = (),
        function: Callable[..., Any] = encoded_alone,
    ) -> tf.data.Dataset:
        values, load = self.values, self._load
        # Looked up in one shared tensor: permuting encoded pictures would copy them all.
        return tf.data.Dataset.from_tensor_slices((rows, *columns)).map(
            lambda row, *entries: function(load(tf.gather(values, row)), *entries),
            num_parallel_calls=tf.data.AUTOTUNE,
            deterministic=True,
        )

    def _load(self, value: Any) -> Any:
        """Return the bytes of the picture that an element of `values` stands for."""
        return value


class FileStore(_RandomAccess):
    """Pictures in files of their own; `values` are the absolute paths."""

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        return np.fromiter((os.stat(path).st_size for path in self.paths(rows)), np.int64)

    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        for path in self.paths(rows):
            yield file_state(path)

    def paths(self, rows: np.ndarray) -> tuple[bytes, ...]:
        """Return the absolute paths of pictures."""
        return tuple(tf.gather(self.values, rows).numpy().tolist())

    def _load(self, value: Any) -> Any:
        return tf.io.read_file(value)


class MemoryStore(_RandomAccess):
    """Pictures in main memory; `values` are their bytes."""

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        return tf.gather(tf.strings.length(self.values), rows).numpy().astype(np.int64)

    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        yield from self.read(rows).as_numpy_iterator()


def file_state(path: bytes) -> bytes:
    """Return a line that changes when another file is at the path, or another content."""
    status = os.stat(path)
    return b"%s %d %d\n" % (path, status.st_size, status.st_mtime_ns)
