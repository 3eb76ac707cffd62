"""Pictures in TFRecord files: where each record is, and how records are read in any order.

Layout of a record (tensorflow/core/lib/io/record_writer.h): 8 bytes of length, 4 of its CRC, the
data, 4 of their CRC. The data are a `tf.train.Example` with the encoded picture under one key.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import (
    CORES,
    Columns,
    Function,
    Random,
    Shard,
    Store,
    encoded_alone,
    file_state,
)

FRAME_BYTES = 16  # of a record, beside its data

# Pictures are read in windows, each from its places on the disk in ascending order. A shuffled
# window has them from 32 places: about 600 ImageNet pictures, 2 MiB to each seek of a slow disk.
_WINDOW_BYTES = 64 * 1024**2
WINDOW_PICTURES = 8192
BLOCKS_PER_WINDOW = 32
_WINDOWS_AT_ONCE = 2  # read while a third is handed out
_MAX_BUFFER = 4 * 1024**2  # bytes of one read
_SMALL_BUFFER = 256 * 1024  # of one that is for a single record


@dataclass(frozen=True, eq=False)
class Texts:
    """Many texts in two arrays, with a tenth of the memory and time of Python's strings."""

    data: np.ndarray  # all texts one after the other, UTF-8, (bytes,) uint8
    ends: np.ndarray  # where each one ends, (N,) int64

    @classmethod
    def of(cls, texts: Sequence[str]) -> Self:
        """Pack texts."""
        encoded = [text.encode("utf-8", "backslashreplace") for text in texts]
        ends = np.cumsum([len(text) for text in encoded], dtype=np.int64)
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Put the texts of several objects, at least one, into one."""
        shifts = np.cumsum([0, *(len(part.data) for part in parts[:-1])])
        ends = [part.ends + by for part, by in zip(parts, shifts, strict=True)]
        return cls(np.concatenate([part.data for part in parts]), np.concatenate(ends))

    def __getitem__(self, index: int) -> str:
        start = self.ends[index - 1] if index else 0
        return self.data[start : self.ends[index]].tobytes().decode("utf-8", "replace")


@dataclass(frozen=True, eq=False)
class RecordStore(Store):
    """Pictures in TFRecord files; a row is the number of a record, over all files."""

    paths: tuple[str, ...]  # absolute paths of the S files
    counts: np.ndarray  # records in each file, (S,) int64
    lengths: np.ndarray  # bytes of each record with its frame, (M,) int64
    image_key: str  # of the encoded picture in the example
    filenames: Texts | None = None  # what each picture was called before, if known

    def names(self, rows: np.ndarray) -> tuple[str, ...]:
        """Return "FILE#RECORD (filename)" for each; the number counts from 0 in the file."""
        files, numbers, _ = (column.tolist() for column in self._places(rows))
        called, known = list(map(os.path.basename, self.paths)), self.filenames
        beside = ("" if known is None else f" ({known[row]})" for row in rows)
        return tuple(
            f"{called[file]}#{number}{name}"
            for file, number, name in zip(files, numbers, beside, strict=True)
        )

    def sizes(self, rows: np.ndarray) -> np.ndarray:
        """Return the sizes of the records, slightly more than those of the pictures."""
        return self.lengths[rows]

    def states(self, rows: np.ndarray) -> Iterator[bytes]:
        """Yield the sizes and times of whole files, then the rows."""
        yield from (file_state(os.fsencode(path)) for path in self.paths)
        yield rows.tobytes()

    def order(self, rows: np.ndarray, random: Random, shard: Shard) -> np.ndarray:
        """Return an order in which reading stays sequential.

        The pictures are cut into blocks in the order of the disk, and the blocks are permuted. Each
        worker has one stretch of the result and shuffles it window by window.
        """
        order = np.arange(len(rows)) if random is None else np.argsort(rows, kind="stable")
        window = self._window()
        if random is not None:
            starts = np.arange(0, len(rows), max(1, window // BLOCKS_PER_WINDOW))
            blocks = np.split(order, starts[1:])
            order = np.concatenate([blocks[block] for block in random.permutation(len(blocks))])
        if shard is not None:
            index, count = shard
            total = len(rows) if random is None else len(rows) // count * count
            order = order[total * index // count : total * (index + 1) // count]
        if random is not None:
            for start in range(0, len(order), window):
                random.shuffle(order[start : start + window])
        return order

    def read(
        self, rows: Any, columns: Columns = (), function: Function = encoded_alone
    ) -> tf.data.Dataset:
        """Read windows of about 64 MiB in the order of the disk, see `Store.read`.

        Two windows are being read, each in memory twice while it is sorted, and a third is in use:
        five times 64 MiB.
        """
        paths, key = tf.constant(self.paths), self.image_key
        places, plan = self._plan(rows)

        def parse(record: Any, place: tuple[Any, ...]) -> Any:
            file, _, offset = place
            # A damaged record takes those after it along; each of them is to be had alone.
            alone = _read_run(paths[file], offset, _SMALL_BUFFER, 1)
            record = tf.cond(tf.equal(record, ""), alone.get_single_element, lambda: record)
            feature = tf.io.FixedLenFeature([], tf.string, default_value="")
            picture = tf.io.parse_single_example(record, {key: feature})[key]
            return tf.cond(tf.equal(picture, ""), lambda: _fail(paths, *place), lambda: picture)

        described = tf.data.Dataset.from_tensor_slices((places, tuple(columns)))
        return tf.data.Dataset.zip((_records(paths, *plan), described)).map(
            lambda record, described: function(parse(record, described[0]), *described[1]),
            num_parallel_calls=CORES,
            deterministic=True,
        )

    def _plan(self, rows: Any) -> tuple[tuple[Any, ...], tuple[tuple[Any, ...], ...]]:
        """Return the places of the rows, and the arguments of `_records`; all are tensors."""
        window = self._window()

        def plan(rows: np.ndarray) -> tuple[np.ndarray, ...]:
            places, count = self._places(rows), len(rows)
            windows = np.arange(count) // window
            by_place = np.lexsort((rows, windows))  # window after window, in the disk's order
            placed, files = rows[by_place], places[0][by_place]
            # A run: neighbours in a file, read in one go.
            run_of = np.stack([placed - np.arange(count), files, windows])
            first = np.flatnonzero(np.diff(run_of, axis=1, prepend=-1).any(axis=0))
            starts = np.arange(0, count, window)
            runs = (
                files[first],
                places[2][by_place][first],
                np.add.reduceat(self.lengths[placed], first) if count else first,
                np.diff(first, append=count),
            )
            edges = (
                np.searchsorted(first, starts),
                np.searchsorted(first, starts + window),
                starts,
                np.minimum(starts + window, count),
            )
            return *places, np.argsort(by_place) - windows * window, *runs, *edges

        with tf.device("CPU:0"):
            columns = tf.numpy_function(plan, [rows], [tf.int64] * 12)
            columns = [tf.ensure_shape(column, [None]) for column in columns]
        return tuple(columns[:3]), (columns[3], tuple(columns[4:8]), tuple(columns[8:]))

    def joined(self, others: Sequence[Self]) -> Self:
        """Return one store; all must have the same key for pictures, and all or none have names."""
        stores = [self, *others]
        texts = [store.filenames for store in stores if store.filenames is not None]
        return replace(
            self,
            paths=tuple(path for store in stores for path in store.paths),
            counts=np.concatenate([store.counts for store in stores]),
            lengths=np.concatenate([store.lengths for store in stores]),
            filenames=Texts.joined(texts) if texts else None,
        )

    def _window(self) -> int:
        """Return the number of pictures in a window."""
        mean = max(1, int(self.lengths.mean()))
        return max(BLOCKS_PER_WINDOW, min(WINDOW_PICTURES, _WINDOW_BYTES // mean))

    def _places(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return for each row the file, the number in the file and the byte where it begins."""
        first_rows = np.cumsum(self.counts) - self.counts
        files = np.searchsorted(first_rows, rows, side="right") - 1
        starts = np.cumsum(self.lengths) - self.lengths
        return files, rows - first_rows[files], starts[rows] - starts[first_rows[files]]


def _records(
    paths: tf.Tensor, back: tf.Tensor, runs: tuple[Any, ...], edges: tuple[Any, ...]
) -> tf.data.Dataset:
    """Return the records of a plan, read in windows; those that cannot be read are empty.

    Args:
        paths: of the files.
        back: where each record of a window is among those that are read, in the disk's order.
        runs: file, first byte, bytes and number of the records of each run.
        edges: first run, end of the runs, first record and end of the records of each window.
    """

    def read_window(first_run: Any, end_run: Any, start: Any, end: Any) -> Any:
        own = tuple(column[first_run:end_run] for column in runs)
        records = tf.data.Dataset.from_tensor_slices(own).flat_map(
            lambda file, offset, size, number: _read_run(paths[file], offset, size, number)
        )
        return tf.gather(records.batch(end - start).get_single_element(), back[start:end])

    return (
        tf.data.Dataset.from_tensor_slices(edges)
        .map(read_window, num_parallel_calls=_WINDOWS_AT_ONCE, deterministic=True)
        .unbatch()
        .apply(tf.data.experimental.assert_cardinality(tf.size(back, out_type=tf.int64)))
    )


def _read_run(path: Any, offset: Any, size: Any, count: Any) -> tf.data.Dataset:
    """Return `count` records; the first unreadable one and all after it are empty."""
    variant = tf.raw_ops.TFRecordDatasetV2(
        filenames=[path],
        compression_type="",
        buffer_size=tf.minimum(tf.cast(size, tf.int64), _MAX_BUFFER),
        byte_offsets=[offset],
    )
    records = tf.data.experimental.from_variant(variant, tf.TensorSpec([], tf.string))
    missing = tf.data.Dataset.from_tensors(b"").repeat(count)
    readable = readable_records(records, count).map(lambda _, record: record)
    return readable.concatenate(missing).take(count)


def readable_records(records: tf.data.Dataset, count: Any) -> tf.data.Dataset:
    """Return at most `count` (number, record) of a file, up to the first unreadable one."""
    # The counter ends it: a file that cannot be opened would be tried again for ever.
    return tf.data.Dataset.zip((tf.data.Dataset.range(count), records)).ignore_errors()


def _fail(paths: tf.Tensor, file: Any, number: Any, offset: Any) -> Any:
    """Raise an error that names the record."""
    what = tf.strings.join(["record ", tf.strings.as_string(number), " of ", paths[file]])
    where = tf.strings.join([" (at byte ", tf.strings.as_string(offset), ") cannot be read: "])
    why = "the file is damaged, or was changed or removed since it was opened"
    message = tf.strings.join([what, where, why])
    with tf.control_dependencies([tf.debugging.Assert(False, [message])]):
        return tf.constant(b"")
