"""What the header of a picture file says: format, height and width, and whether it can be read.

Made of TensorFlow ops alone, so the same code runs eagerly, inside a `tf.data` pipeline and inside
a SavedModel served without Python. The header is looked at before anything is decoded, because an
op that raises cannot be caught in a graph, and because a small file can unpack to more memory than
the machine has.

Every new iterator of a `tf.data` pipeline copies and optimizes these ops anew, at 0.1 to 0.2 ms
each (docs/benchmarks.md), so they are few: numbers at fixed places are read together, and choices
are tables.

Layouts: ISO/IEC 10918-1 annex B (JPEG), W3C PNG 11.2.1 (IHDR), the GIF89a specification,
RFC 9649 (WebP) and the BITMAPINFOHEADER family of the Windows GDI reference (BMP).
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

MAX_PIXELS = 100_000_000
"""Pixels a picture may have: 10,000 x 10,000, which is 300 MB once it is decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WebP")
"""The picture formats that are read, in the order in which this module numbers them."""

GIF_EXTENSION, GIF_FRAME, GIF_TRAILER = b"!", b",", b";"  # the byte a block begins with

_JPEG_START = b"\xff\xd8\xff"
_FORMAT_NAMES = (*FORMATS, "picture")  # the last where the content is none of them
# What files of each begin with; None is any byte. The first that fits holds.
_STARTS: tuple[tuple[str, Sequence[int | None]], ...] = (
    ("JPEG", _JPEG_START),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("BMP", b"BM"),
    ("GIF", b"GIF87a"),
    ("GIF", b"GIF89a"),
    ("WebP", [*b"RIFF", *[None] * 4, *b"WEBP"]),
    ("picture", []),
)
_START_LENGTH = 12
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)  # OS/2 1, INFO, V2, V3, OS/2 2, V4, V5
_JPEG_MAX_STEPS = 4096  # segments in front of the frame header; real files have some dozens
# What a JPEG's marker bytes mean: none (a fill or a stray byte, stepped over as libjpeg does), a
# segment with its length, a marker without one, a frame header, and the end or the coded data.
_NO_MARKER, _SEGMENT, _BARE, _FRAME, _END = range(5)
_JPEG_MARKERS = np.full(256, _SEGMENT, np.int32)
_JPEG_MARKERS[[0x00, 0xFF]] = _NO_MARKER
_JPEG_MARKERS[[0x01, *range(0xD0, 0xD9)]] = _BARE
_JPEG_MARKERS[[code for code in range(0xC0, 0xD0) if code not in (0xC4, 0xC8, 0xCC)]] = _FRAME
_JPEG_MARKERS[[0xD9, 0xDA]] = _END


def _graph_function(*specs: tf.TensorSpec) -> Callable[[Callable[..., Any]], Any]:
    """Decorator: a function of a file's bytes and `specs` becomes one graph for all its uses.

    It is traced once a process, which takes up to a second, a pipeline holds it once, and a step of
    its loops costs a seventieth of an eager one.
    """
    signature = [tf.TensorSpec([], tf.string), *specs]
    return functools.partial(tf.function, input_signature=signature, autograph=False)


def check_image(data: Any, max_pixels: int = MAX_PIXELS) -> Any:
    """Say what is wrong with a picture file, judged by its header alone.

    The format is recognised by content, never by a file name. Nothing is decoded and nothing is
    raised for the content, so a huge or broken file costs next to nothing. The whole file is
    needed: a JPEG's or a GIF's size may stand behind any amount of metadata.

    Args:
        data: scalar string tensor, the bytes of the file.
        max_pixels: the largest height x width that is accepted.

    Returns:
        Scalar string tensor: empty for the header of a JPEG, PNG, BMP, GIF or WebP picture that
        `decode_image` reads and that has at most `max_pixels` pixels, otherwise why not.

    Raises:
        ValueError: `max_pixels` is not positive.
    """
    check_pixel_limit(max_pixels)
    return _check_image(data, max_pixels)


@_graph_function(tf.TensorSpec([], tf.int64))
def _check_image(data: Any, max_pixels: Any) -> Any:
    index = format_index(data)
    readers = [_jpeg_extent, _png_extent, _bmp_extent, gif_extent, webp_extent]
    extent = tf.switch_case(index, branches(readers, data), default=lambda: tf.zeros([2], tf.int64))
    # What is wrong in several ways is told by the last of these, so they go from fine to coarse.
    reason = tf.cond(
        tf.equal(index, FORMATS.index("BMP")),
        lambda: _unsupported_bmp(data),
        lambda: tf.constant(b""),
    )
    too_large = _message(
        extent[0],
        " x ",
        extent[1],
        " pixels (height x width) is more than the ",
        max_pixels,
        " that are accepted",
    )
    # Not height * width: four-byte numbers from a hostile header would overflow.
    is_too_large = extent[0] > max_pixels // tf.maximum(extent[1], 1)
    reason = tf.where(is_too_large, too_large, reason)
    corrupt = _message("truncated or corrupt ", tf.gather(_FORMAT_NAMES, index), " header")
    reason = tf.where(tf.reduce_any(extent < 1), corrupt, reason)
    no_picture = f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"
    reason = tf.where(tf.equal(index, len(FORMATS)), no_picture, reason)
    return tf.where(tf.equal(data, b""), "the file is empty", reason)


def _message(*parts: Any) -> Any:
    """Joins texts and numbers, scalar."""
    texts = [
        tf.strings.as_string(part) if tf.is_tensor(part) and part.dtype.is_integer else part
        for part in parts
    ]
    return tf.strings.join(texts)


def check_pixel_limit(max_pixels: int) -> None:
    """Raise ValueError unless the limit is positive."""
    if max_pixels < 1:
        raise ValueError(f"max_pixels must be a positive number. Received: {max_pixels!r}")


def format_name(data: Any) -> Any:
    """Name the formats of files: one of `FORMATS` each, "picture" where the content is none.

    Args:
        data: string tensor of any shape, the bytes of files.

    Returns:
        String tensor of the same shape.
    """
    return tf.gather(_FORMAT_NAMES, format_index(data))


def is_jpeg(data: Any) -> Any:
    """Tell which files are JPEG, bool as shaped; sooner than `format_index`."""
    return tf.equal(tf.strings.substr(data, 0, len(_JPEG_START)), _JPEG_START)


def branches(functions: Sequence[Callable[[Any], Any]], data: Any) -> list[Callable[[], Any]]:
    """Bind functions of `data` to it, as `tf.switch_case` wants its branches."""
    return [functools.partial(function, data) for function in functions]


def format_index(data: Any) -> Any:
    """Return the index into FORMATS by the first bytes, len(FORMATS) for none: int32, as shaped."""
    head = tf.io.decode_raw(data, tf.uint8, fixed_length=_START_LENGTH)[..., tf.newaxis, :]
    starts = np.zeros([len(_STARTS), _START_LENGTH], np.uint8)
    is_any = np.ones(starts.shape, bool)
    for row, (_, start) in enumerate(_STARTS):
        for column, byte in enumerate(start):
            if byte is not None:
                starts[row, column], is_any[row, column] = byte, False
    fits = tf.reduce_all(tf.equal(head, starts) | is_any, axis=-1)
    first = tf.argmax(tf.cast(fits, tf.int32), axis=-1, output_type=tf.int32)
    return tf.gather([_FORMAT_NAMES.index(name) for name, _ in _STARTS], first)


def require(data: Any, condition: Any, message: Any) -> Any:
    """Return `data`, which raises `message` when it is read unless `condition` holds."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(data)


def byte_length(data: Any) -> Any:
    """Number of bytes, int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def byte_slice(data: Any, position: Any, count: Any) -> Any:
    """Return the bytes from `position` (>= 0), at the end of the file fewer than `count`."""
    position = tf.minimum(byte_length(data), position)
    return tf.strings.substr(data, position, tf.convert_to_tensor(count, tf.int64))


def bytes_at(data: Any, position: Any, count: int) -> Any:
    """Return `count` bytes as int64 (count,); behind the end of the file they read as 0."""
    if not isinstance(position, int) or position > 0:
        data = byte_slice(data, position, count)
    return tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=count), tf.int64)


def numbers_at(
    data: Any, *places: tuple[int, int], start: Any = 0, big_endian: bool = False
) -> list[Any]:
    """Return unsigned numbers, one int64 scalar for each place.

    Args:
        data: scalar string tensor, the bytes of a file.
        places: (bytes from `start`, number of bytes, at most seven) of each.
        start: position in the file.
        big_endian: whether the highest byte comes first.
    """
    width = max(count for _, count in places)
    columns = np.zeros([len(places), width], np.int32)
    weights = np.zeros([len(places), width], np.int64)  # 0 where a number has fewer bytes
    for row, (position, count) in enumerate(places):
        columns[row, :count] = np.arange(position, position + count)
        powers = 256 ** np.arange(count)
        weights[row, :count] = powers[::-1] if big_endian else powers
    values = bytes_at(data, start, max(sum(place) for place in places))
    return tf.unstack(tf.reduce_sum(tf.gather(values, columns) * weights, axis=1))


def _four_bytes(text: bytes) -> int:
    """What `numbers_at` reads where a file has this text."""
    return int.from_bytes(text, "little")


# The extent of each format: int64 (2,), height and width; zeros if the header does not say.


def _extent_if(condition: Any, height: Any, width: Any) -> Any:
    return tf.where(condition, tf.stack([height, width]), tf.zeros([2], tf.int64))


def _jpeg_extent(data: Any) -> Any:
    """Walk over the segments to the frame header (SOFn)."""
    length = byte_length(data)

    def unfinished(position: Any, extent: Any) -> Any:
        return (position + 9 <= length) & (extent[0] == 0)

    def advance(position: Any, extent: Any) -> tuple[Any, Any]:
        places = (0, 1), (1, 1), (2, 2), (5, 2), (7, 2)
        fill, marker, segment, height, width = numbers_at(
            data, *places, start=position, big_endian=True
        )
        kind = tf.where(fill == 0xFF, tf.gather(_JPEG_MARKERS, marker), _NO_MARKER)
        steps = tf.stack([1, 2 + segment, 2, length, length])  # of each kind
        size = tf.where(tf.equal(kind, _FRAME), tf.stack([height, width]), extent)
        return position + tf.gather(steps, kind), size

    start = (tf.constant(2, tf.int64), tf.zeros([2], tf.int64))
    return tf.while_loop(unfinished, advance, start, maximum_iterations=_JPEG_MAX_STEPS)[1]


def _png_extent(data: Any) -> Any:
    has_header = tf.equal(byte_slice(data, 12, 4), b"IHDR")
    width, height = numbers_at(data, (16, 4), (20, 4), big_endian=True)
    return _extent_if(has_header, height, width)


def _bmp_extent(data: Any) -> Any:
    header = read_bmp_header(data)
    known = tf.reduce_any(header.size == tf.constant(_BMP_HEADER_SIZES, tf.int64))
    whole = byte_length(data) >= 14 + header.size
    return _extent_if(known & whole, header.height, header.width)


@_graph_function()
def gif_extent(data: Any) -> Any:
    """Return the logical screen, enlarged to hold the first frame where that reaches beyond it."""
    screen_width, screen_height = numbers_at(data, (6, 2), (8, 2))
    position = find_gif_frame(data)
    found = byte_length(data) >= position + 10
    places = (1, 2), (3, 2), (5, 2), (7, 2)
    left, top, width, height = numbers_at(data, *places, start=position)
    return _extent_if(
        found & (height > 0) & (width > 0),
        tf.maximum(screen_height, top + height),
        tf.maximum(screen_width, left + width),
    )


@_graph_function()
def webp_extent(data: Any) -> Any:
    """Height and width of a WebP file, int64 (2,); of an animation, those of its canvas."""
    places = (12, 4), (23, 3), (20, 1), (21, 4), (26, 2), (28, 2), (24, 3), (27, 3)
    kind, start_code, signature, bits, *sides = numbers_at(data, *places)
    lossy_width, lossy_height, canvas_width, canvas_height = sides
    # A lossy frame begins with three bytes of flags and the start code 9D 01 2A.
    lossy = (kind == _four_bytes(b"VP8 ")) & (start_code == 0x2A019D)
    lossless = (kind == _four_bytes(b"VP8L")) & (signature == 0x2F)
    extended = kind == _four_bytes(b"VP8X")
    width = tf.where(lossy, lossy_width % 2**14, bits % 2**14 + 1)
    height = tf.where(lossy, lossy_height % 2**14, bits // 2**14 % 2**14 + 1)
    width = tf.where(extended, canvas_width + 1, width)
    height = tf.where(extended, canvas_height + 1, height)
    length = byte_length(data)
    whole = ((lossy | extended) & (length >= 30)) | (lossless & (length >= 25))
    return _extent_if(whole, height, width)


@dataclass(frozen=True)
class BmpHeader:
    """Scalar int64 tensors; `masks` int64 (3,), `top_down` boolean.

    Attributes:
        pixels: position of the pixels in the file.
        masks: which bits of a 32-bit pixel are red, green and blue.
    """

    size: Any
    height: Any
    width: Any
    top_down: Any
    bits: Any
    compression: Any
    pixels: Any
    masks: Any


def read_bmp_header(data: Any) -> BmpHeader:
    """What a BMP file says of its pixels."""
    core = (20, 2), (18, 2), (24, 2)  # OS/2 1.x: 16-bit numbers, no compression, never top-down
    info = (22, 4), (18, 4), (28, 2)
    pixels, size, compression, *rest = numbers_at(
        data, (10, 4), (14, 4), (30, 4), *core, *info, (54, 4), (58, 4), (62, 4)
    )
    of_core, of_info, masks = rest[:3], rest[3:6], rest[6:]
    is_core = size == 12
    height, width, bits = tf.unstack(tf.where(is_core, of_core, of_info))
    compression = tf.where(is_core, tf.constant(0, tf.int64), compression)
    top_down = height >= 2**31  # a negative number: the first row is the top one
    usual = tf.constant([0xFF0000, 0xFF00, 0xFF], tf.int64)
    return BmpHeader(
        size=size,
        height=tf.where(top_down, 2**32 - height, height),
        width=tf.where(width >= 2**31, tf.constant(0, tf.int64), width),
        top_down=top_down,
        bits=bits,
        compression=compression,
        pixels=pixels,
        masks=tf.where(compression == 0, usual, masks),
    )


BYTE_MASKS = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)


def _unsupported_bmp(data: Any) -> Any:
    """Return why a well-formed BMP is not read (16 bits, run-length coded), empty if it is."""
    header = read_bmp_header(data)
    plain = tf.reduce_any(header.bits == tf.constant([1, 4, 8, 24, 32], tf.int64))
    plain &= header.compression == 0
    is_byte = header.masks[:, tf.newaxis] == tf.constant(BYTE_MASKS, tf.int64)
    whole_bytes = tf.reduce_all(tf.reduce_any(is_byte, axis=1))
    fields = (header.compression == 3) | (header.compression == 6)  # BI_(ALPHA)BITFIELDS
    reason = _message(
        "a BMP of ",
        header.bits,
        " bits a pixel with compression ",
        header.compression,
        " is not supported: save it uncompressed with 24 bits, or as PNG",
    )
    return tf.where(plain | (fields & (header.bits == 32) & whole_bytes), b"", reason)


@_graph_function(tf.TensorSpec([], tf.int64))
def _after_gif_sub_blocks(data: Any, position: Any) -> Any:
    """Return the position behind a chain of sub-blocks; beyond the end of a truncated file."""

    def advance(position: Any, size: Any) -> tuple[Any, Any]:
        position += 1 + size
        return position, numbers_at(data, (0, 1), start=position)[0]

    start = (position, numbers_at(data, (0, 1), start=position)[0])
    return tf.while_loop(lambda _, size: size > 0, advance, start)[0] + 1


def after_gif_colour_table(flags: Any, position: Any) -> Any:
    """Return the position behind the colour table, if the flags say that there is one."""
    entries = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
    return tf.where(flags >= 128, position + 3 * entries, position)


def after_gif_block(data: Any, position: Any) -> Any:
    """Return the position behind the extension or frame that begins at `position`."""
    kind, flags = numbers_at(data, (0, 1), (9, 1), start=position)
    # A frame's sub-blocks follow its descriptor, its colour table and one byte of code size.
    frame_data = after_gif_colour_table(flags, position + 10) + 1
    return _after_gif_sub_blocks(data, tf.where(kind == ord(GIF_FRAME), frame_data, position + 2))


def after_gif_blocks(data: Any, position: Any, kinds: bytes) -> Any:
    """Return the position of the first block from `position` on that is of none of the kinds.

    Args:
        data: scalar string tensor, the bytes of a GIF file.
        position: int64 scalar, where a block begins.
        kinds: `GIF_EXTENSION`, `GIF_FRAME` or both.
    """
    return _after_gif_blocks(data, position, tf.constant([*kinds], tf.int64))


@_graph_function(tf.TensorSpec([], tf.int64), tf.TensorSpec([None], tf.int64))
def _after_gif_blocks(data: Any, position: Any, kinds: Any) -> Any:
    return tf.while_loop(
        lambda position: tf.reduce_any(bytes_at(data, position, 1) == kinds),
        lambda position: (after_gif_block(data, position),),
        (position,),
    )[0]


@_graph_function()
def find_gif_frame(data: Any) -> Any:
    """Return the position of the first frame's descriptor, that of the file's end if none."""
    (flags,) = numbers_at(data, (10, 1))
    start = after_gif_colour_table(flags, tf.constant(13, tf.int64))
    position = after_gif_blocks(data, start, GIF_EXTENSION)
    is_frame = tf.equal(byte_slice(data, position, 1), GIF_FRAME)
    return tf.where(is_frame, position, byte_length(data))
