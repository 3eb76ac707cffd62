"""Which way up a picture is shown: its EXIF orientation, read in the graph and applied to pixels.

A camera stores the pixels as its sensor reads them, and notes how to turn them. Viewers turn
them, so the network must see them turned, too. Malformed EXIF data turns nothing.

Layouts: EXIF 3.0 (CIPA DC-008) 4.5 and 4.6, PNG 11.3.2 (eXIf), RFC 9649 2.7 (WebP).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.images.headers import (
    FORMATS,
    byte_length,
    byte_slice,
    format_index,
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
_ORIENTATION = [[0x0112, 3, 1], [0x0112, 4, 1]]  # tag, type (of two bytes, or four), count
_ORDERS = [int.from_bytes(order) for order in (b"II*\0", b"MM\0*")]  # of the bytes of numbers
_HEAD = 8  # bytes of a block that tell its name and size
# Second bytes of a JPEG's markers that have no size behind them.
_ALONE = np.zeros(256, bool)
_ALONE[[0x00, 0x01, *range(0xD0, 0xDA), 0xFF]] = True


def _weights(size: int, *numbers: Sequence[int]) -> np.ndarray:
    """Return the weights that make numbers of bytes by multiplication, int64 (numbers, size).

    Args:
        size: how many bytes there are.
        numbers: places of the bytes of each, the highest first.
    """
    weights = np.zeros([len(numbers), size], np.int64)
    for row, places in zip(weights, numbers, strict=True):
        row[[*places]] = 256 ** np.arange(len(places))[::-1]
    return weights


# The order of bytes, and the place of the first directory in either order.
_HEADER = _weights(8, range(4), range(7, 3, -1), range(4, 8))
# Of an entry, in either order: tag, type, count, and a value of two and of four bytes.
_PARTS = [range(2), range(2, 4), range(4, 8), range(8, 10), range(8, 12)]
_ENTRY = np.stack([_weights(12, *[part[::-1] for part in _PARTS]).T, _weights(12, *_PARTS).T])


def _blocks(
    start: int, around: int, even: int, name: list[int], size: list[int], exif: bytes, last: bytes
) -> list[int]:
    """Return a row of _BLOCKS: how the blocks of a format follow each other.

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
    return [start, around, even, *names, unit, *_weights(_HEAD, name, size).ravel()]


_ROWS = {
    "JPEG": _blocks(2, 2, 0, [0, 1, 4, 5, 6, 7], [2, 3], b"\xff\xe1Exif", b"\xff\xda"),
    "PNG": _blocks(8, 12, 0, [4, 5, 6, 7], [0, 1, 2, 3], b"eXIf", b"IEND"),
    "WebP": _blocks(12, 8, 1, [0, 1, 2, 3], [7, 6, 5, 4], b"EXIF", b"\0\0\0\0"),
}
# A text that every file with EXIF data contains, by format.
_MENTIONS = [r"Exif\x00\x00", "eXIf", "", "", "EXIF", ""]
_NO_BLOCKS = [2**62, *[1] * (5 + 2 * _HEAD)]  # begin after the end of any file
_BLOCKS = np.array([_ROWS.get(name, _NO_BLOCKS) for name in (*FORMATS, "other")])


def orientation(data: Any, index: Any) -> Any:
    """Return the EXIF orientation of a picture file, 1 if it has none.

    Args:
        data: scalar string tensor, the bytes of a file.
        index: the result of `format_index` for it.

    Returns:
        int64 scalar, 1..8.
    """
    # Most files end here: a search is a thousand times faster than a walk through the blocks.
    may_say = mentions(data, tf.gather(_MENTIONS, index))
    return tf.cond(may_say, lambda: _orientation_of(data), lambda: tf.constant(1, tf.int64))


@graph_function(experimental_attributes={"_noinline": True})
def _orientation_of(data: Any) -> Any:
    index, length = format_index(data), byte_length(data)
    row = tf.gather(_BLOCKS, index)
    start, around, even, exif, last, unit = tf.unstack(row[:6])
    weights = tf.reshape(row[6:], [2, _HEAD])
    is_jpeg = tf.equal(index, FORMATS.index("JPEG"))
    # A WebP file says at its beginning whether it has EXIF data; viewers believe that.
    first, flags = numbers_at(data, (12, 4), (20, 1))
    has_none = (first != int.from_bytes(b"VP8X", "little")) | (flags // 8 % 2 == 0)
    start = tf.where(has_none & tf.equal(index, FORMATS.index("WebP")), length, start)

    def advance(position: Any, *_: Any) -> tuple[Any, ...]:
        head = tf.strings.substr(data, position, _HEAD)
        numbers = _byte_values(head, _HEAD)
        name, size = tf.unstack(tf.linalg.matvec(weights, numbers))
        is_exif = name == exif
        at_end = is_exif | (name // unit == last)
        # There may be any bytes between the segments of a JPEG.
        is_alone = is_jpeg & ((numbers[0] != 0xFF) | tf.gather(_ALONE, numbers[1]))
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
    order, *places = tf.unstack(tf.linalg.matvec(_HEADER, _byte_values(tiff, 8)))
    is_big = tf.cast(order == _ORDERS[1], tf.int32)
    directory = byte_slice(tiff, tf.gather(places, is_big), _MAX_BYTES)
    values = _byte_values(directory, 2 + 12 * _MAX_ENTRIES)
    numbers = tf.gather(_ENTRY, is_big)
    entries = tf.matmul(tf.reshape(values[2:], [_MAX_ENTRIES, 12]), numbers)
    count = tf.reduce_sum(values[:2] * numbers[:2, 0])
    fits = tf.reduce_all(tf.equal(entries[:, tf.newaxis, :3], _ORIENTATION), axis=-1)
    fits &= tf.range(tf.constant(_MAX_ENTRIES, tf.int64))[:, tf.newaxis] < count
    value = tf.reduce_max(tf.where(fits, entries[:, 3:], 1))
    is_valid = tf.reduce_any(tf.equal(order, _ORDERS)) & (value <= 8)
    return tf.where(is_valid, tf.maximum(value, 1), 1)


def _byte_values(data: Any, count: int) -> Any:
    """Return the first bytes as numbers, int64 (count,), with zeros after the end."""
    return tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=count), tf.int64)


# For each orientation from 0 (unused): the order of the stored axes in the turned picture, and the
# steps along them, where -1 goes from the end to the beginning.
_AXES = np.array([[0, 1, 2]] * 5 + [[1, 0, 2]] * 4, np.int32)
_STEPS = np.array([[1, 1]] + [[1, 1], [1, -1], [-1, -1], [-1, 1]] * 2, np.int32)


def _window_maps() -> np.ndarray:
    """Return int32 (9, 4, 6): turned window (top, left, height, width), shape -> stored."""
    maps = np.zeros([len(_STEPS), 4, 6], np.int32)
    maps[:, [2, 3], [2, 3]] = 1
    for axis in (0, 1):
        is_flipped = (_STEPS[:, axis] < 0).astype(np.int32)
        numbers = [_STEPS[:, axis], -is_flipped, is_flipped]
        maps[:, axis, [axis, 2 + axis, 4 + axis]] = np.stack(numbers, axis=1)
    maps[5:] = maps[5:, [1, 0, 3, 2]]
    return maps


_WINDOW_MAPS = _window_maps()


def turned(image: Any, orientation: Any) -> Any:
    """Turn a stored picture as viewers do.

    Args:
        image: uint8 (height, width, 3).
        orientation: int64 scalar, 1..8, see the function of that name.
    """
    return tf.cond(orientation > 1, lambda: _turned(image, orientation), lambda: image)


@tf.function(
    input_signature=[tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([], tf.int64)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _turned(image: Any, orientation: Any) -> Any:
    axes, steps = tf.gather(_AXES, orientation), tf.gather(_STEPS, orientation)
    flipped = tf.transpose(image, axes)[:: steps[0], :: steps[1]]
    return tf.ensure_shape(flipped, [None, None, 3])


def turned_shape(shape: Any, orientation: Any) -> Any:
    """Return the shape (3,) of a picture after turning it, from the stored shape."""
    return tf.gather(shape, tf.gather(_AXES, orientation))


def stored_window(window: Any, shape: Any, orientation: Any) -> Any:
    """Return where a window of a turned picture lies in the stored one.

    Args:
        window: int32 (4,): top, left, height, width.
        shape: of the turned picture, int32 (3,).
        orientation: as for `turned`.
    """
    numbers = tf.concat([window, shape[:2]], axis=0)
    return tf.linalg.matvec(tf.gather(_WINDOW_MAPS, orientation), numbers)
