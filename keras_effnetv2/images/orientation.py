"""Which way up a picture is shown: its EXIF orientation, read in the graph and applied to pixels.

A camera stores the pixels as its sensor reads them, and notes how to turn them. Viewers turn
them, so the network must see them turned, too. Malformed EXIF data turns nothing.

Layouts: EXIF 3.0 (CIPA DC-008) 4.5 and 4.6, PNG 11.3.2 (eXIf), RFC 9649 2.7 (WebP).
"""

from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.images.headers import (
    FORMATS,
    INDEX,
    byte_length,
    byte_slice,
    byte_values,
    byte_weights,
    graph_function,
    mentions,
    numbers_at,
)

AS_STORED = np.int64(1)
"""The orientation of a picture that is not turned."""

_MAX_BLOCKS = 1_000  # in front of the EXIF data; reading them takes 50 ms
_MAX_BYTES = 2**16  # of EXIF data, as many as a JPEG can hold
_PREFIX = b"Exif\0\0"  # stands before the data in a JPEG, and in other formats by mistake
_MAX_ENTRIES = 500  # of a directory; cameras write 20
_OF_TWO_BYTES, _OF_FOUR = 0x0112_0003_0000_0001, 0x0112_0004_0000_0001  # tag, type, count
_ORDERS = [int.from_bytes(order) for order in (b"II*\0", b"MM\0*")]  # of the bytes of numbers
_HEAD = 8  # bytes of a block that tell its name and size
# Second bytes of a JPEG's markers that have no size behind them.
_ALONE = np.zeros(256, bool)
_ALONE[[0x00, 0x01, *range(0xD0, 0xDA), 0xFF]] = True


# The order of bytes, and the place of the first directory in either order.
_HEADER = byte_weights(8, range(4), range(7, 3, -1), range(4, 8))
# The number of entries, in either order; and of an entry: tag, type and count as one number, and a
# value of two and of four bytes.
_COUNT = np.array([[1, 256], [256, 1]])
_ENTRY = np.stack(
    [
        byte_weights(12, [1, 0, 3, 2, 7, 6, 5, 4], [9, 8], [11, 10, 9, 8]).T,
        byte_weights(12, range(8), range(8, 10), range(8, 12)).T,
    ]
)


def _blocks(
    start: int, around: int, even: int, name: list[int], size: list[int], exif: bytes, last: bytes
) -> list[int]:
    """Return a row of _BLOCKS and of _HEADS: how the blocks of a format follow each other.

    Args:
        start: position of the first.
        around: bytes of a block that its size does not count.
        even: 1 if blocks of odd size are padded with a byte, else 0.
        name: places of the bytes of its name, the highest first.
        size: places of the bytes of its size, the highest first.
        exif: name of the block with EXIF data.
        last: beginning of the name of the block that ends the search.
    """
    unit = 256 ** (len(exif) - len(last))
    names = map(int.from_bytes, (exif, last))
    return [start, around, even, *names, unit, *byte_weights(_HEAD, name, size).ravel()]


_ROWS = {
    "JPEG": _blocks(2, 2, 0, [0, 1, 4, 5, 6, 7], [2, 3], b"\xff\xe1Exif", b"\xff\xda"),
    "PNG": _blocks(8, 12, 0, [4, 5, 6, 7], [0, 1, 2, 3], b"eXIf", b"IEND"),
    "WebP": _blocks(12, 8, 1, [0, 1, 2, 3], [7, 6, 5, 4], b"EXIF", b"\0\0\0\0"),
}
# A text that every file with EXIF data contains, by format.
_MENTIONS = [r"Exif\x00\x00", "eXIf", "", "", "EXIF", ""]
_NO_BLOCKS = [2**62, *[1] * (5 + 2 * _HEAD)]  # begin after the end of any file
_BLOCKS, _HEADS = np.split(
    np.array([_ROWS.get(name, _NO_BLOCKS) for name in (*FORMATS, "other")]), [6], axis=1
)
_HEADS = _HEADS.reshape(-1, 2, _HEAD)


def orientation(data: Any, index: Any) -> Any:
    """Return the EXIF orientation of a picture file, 1 if it has none: int64 scalar, 1..8.

    `index` is the result of `format_index` for it.
    """
    # Most files end here: a search is a thousand times faster than a walk through the blocks.
    may_say = mentions(data, tf.gather(_MENTIONS, index))
    return tf.cond(may_say, lambda: _orientation_of(data, index), lambda: tf.constant(1, tf.int64))


@graph_function(INDEX, experimental_attributes={"_noinline": True})
def _orientation_of(data: Any, index: Any) -> Any:
    length = byte_length(data)
    start, around, even, exif, last, unit = tf.unstack(tf.gather(_BLOCKS, index))
    weights = tf.gather(_HEADS, index)
    is_jpeg = tf.equal(index, FORMATS.index("JPEG"))
    # A WebP file says at its beginning whether it has EXIF data; viewers believe that.
    first, flags = numbers_at(data, (12, 4), (20, 1))
    has_none = (first != int.from_bytes(b"VP8X", "little")) | (flags & 8 == 0)
    start = tf.where(has_none & tf.equal(index, FORMATS.index("WebP")), length, start)

    def advance(position: Any, *_: Any) -> tuple[Any, ...]:
        head = tf.strings.substr(data, position, _HEAD)
        numbers = byte_values(head, _HEAD)
        name, size = tf.unstack(tf.reduce_sum(weights * numbers, axis=1))
        is_exif = name == exif
        at_end = is_exif | (name // unit == last)
        # There may be any bytes between the segments of a JPEG.
        lead, marker, *_ = tf.unstack(numbers)
        is_alone = is_jpeg & ((lead != 0xFF) | tf.gather(_ALONE, marker))
        step = tf.where(is_alone, tf.constant(1, tf.int64), around + size + even * (size % 2))
        return tf.where(at_end, position, position + step), at_end, is_exif, size

    begin, _, is_found, size = tf.while_loop(
        lambda position, at_end, *_: (position < length) & ~at_end,
        advance,
        (start, tf.constant(False), tf.constant(False), tf.constant(0, tf.int64)),
        maximum_iterations=_MAX_BLOCKS,
    )

    def read() -> Any:
        # Of the first eight bytes of a JPEG's block the last four belong to the data.
        before = tf.where(is_jpeg, tf.constant(4, tf.int64), 8)
        count = tf.clip_by_value(around + size - before, 0, _MAX_BYTES)
        return _orientation_in(byte_slice(data, begin + before, count))

    return tf.cond(is_found, read, lambda: tf.constant(1, tf.int64))


def _orientation_in(block: Any) -> Any:
    """Return the orientation that the first directory of EXIF data has; 1 without a valid one."""
    has_prefix = tf.equal(tf.strings.substr(block, 0, len(_PREFIX)), _PREFIX)
    tiff = tf.strings.substr(block, tf.where(has_prefix, len(_PREFIX), 0), _MAX_BYTES)
    order, *places = tf.unstack(tf.reduce_sum(_HEADER * byte_values(tiff, 8), axis=1))
    is_big = tf.cast(order == _ORDERS[1], tf.int32)
    directory = byte_slice(tiff, tf.gather(places, is_big), _MAX_BYTES)
    values = byte_values(directory, 2 + 12 * _MAX_ENTRIES)
    before, entries = tf.split(values, [2, 12 * _MAX_ENTRIES])
    count = tf.reduce_sum(before * tf.gather(_COUNT, is_big))
    numbers = tf.matmul(tf.reshape(entries, [_MAX_ENTRIES, 12]), tf.gather(_ENTRY, is_big))
    kind, of_two_bytes, of_four = tf.unstack(numbers, axis=1)
    found = tf.where(kind == _OF_FOUR, of_four, AS_STORED)
    found = tf.where(kind == _OF_TWO_BYTES, of_two_bytes, found)
    value = tf.reduce_max(tf.where(np.arange(_MAX_ENTRIES) < count, found, AS_STORED))
    is_valid = tf.reduce_any(tf.equal(order, _ORDERS)) & (value <= 8)
    return tf.where(is_valid, tf.maximum(value, 1), 1)


# For each orientation from 0 (unused): the order of the stored axes in the turned picture, and
# which of them then go from the end to the beginning.
_AXES = np.array([[0, 1, 2]] * 5 + [[1, 0, 2]] * 4, np.int32)
_IS_FLIPPED = np.array([[0, 0, 0]] + [[0, 0, 0], [0, 1, 0], [1, 1, 0], [1, 0, 0]] * 2, bool)


def _window_maps() -> np.ndarray:
    """Return int32 (9, 4, 6): turned window (top, left, height, width), shape -> stored."""
    maps = np.zeros([len(_AXES), 4, 6], np.int32)
    maps[:, [2, 3], [2, 3]] = 1
    for axis in (0, 1):
        is_flipped = _IS_FLIPPED[:, axis].astype(np.int32)
        numbers = [1 - 2 * is_flipped, -is_flipped, is_flipped]
        maps[:, axis, [axis, 2 + axis, 4 + axis]] = np.stack(numbers, axis=1)
    maps[5:] = maps[5:, [1, 0, 3, 2]]
    return maps


_WINDOW_MAPS = _window_maps()


def turned(image: Any, orientation: Any) -> Any:
    """Turn a stored picture, uint8 (height, width, 3), as viewers do."""
    return tf.cond(orientation > 1, lambda: _turned(image, orientation), lambda: image)


@tf.function(
    input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int64)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _turned(image: Any, orientation: Any) -> Any:
    transposed = tf.transpose(image, tf.gather(_AXES, orientation))
    flipped = tf.raw_ops.Reverse(tensor=transposed, dims=tf.gather(_IS_FLIPPED, orientation))
    return tf.ensure_shape(flipped, [None, None, 3])


def turned_shape(shape: Any, orientation: Any) -> Any:
    """Return the shape (3,) of a picture after turning it, from the stored shape."""
    return tf.gather(shape, tf.gather(_AXES, orientation))


def stored_window(window: Any, shape: Any, orientation: Any) -> Any:
    """Return where a window of a turned picture of some shape, int32 (3,), lies in the stored one.

    A window is int32 (4,): top, left, height, width.
    """
    numbers = tf.concat([window, shape[:2]], axis=0)
    return tf.linalg.matvec(tf.gather(_WINDOW_MAPS, orientation), numbers)
