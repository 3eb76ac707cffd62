"""What the header of a picture file says: format, height and width, and whether it can be read.

Made of TensorFlow ops alone, so the same code runs eagerly, inside a `tf.data` pipeline and inside
a SavedModel served without Python. The header is looked at before anything is decoded, because an
op that raises cannot be caught in a graph, and because a small file can unpack to more memory than
the machine has.

Layouts: ISO/IEC 10918-1 annex B (JPEG), W3C PNG 11.2.1 (IHDR), the GIF89a specification,
RFC 9649 (WebP) and the BITMAPINFOHEADER family of the Windows GDI reference (BMP).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

MAX_PIXELS = 100_000_000
"""Pixels a picture may have: 10,000 x 10,000, which is 300 MB once it is decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WebP")
"""The picture formats that are read, in the order in which this module numbers them."""

GIF_EXTENSION, GIF_FRAME, GIF_TRAILER = b"!", b",", b";"  # the byte a block begins with

_JPEG_START = b"\xff\xd8\xff"
_BMP_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)  # OS/2 1, INFO, V2, V3, OS/2 2, V4, V5
_JPEG_MAX_STEPS = 4096  # segments in front of the frame header; real files have some dozens


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


# Traced once a process, not at every use: the branches of all formats take seconds to trace.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)], autograph=False
)
def _check_image(data: Any, max_pixels: Any) -> Any:
    index = format_index(data)
    readers = [_jpeg_extent, _png_extent, _bmp_extent, gif_extent, webp_extent]
    extent = tf.switch_case(index, branches(readers, data), default=lambda: tf.zeros([2], tf.int64))
    too_large = tf.strings.join(
        [
            tf.strings.as_string(extent[0]),
            " x ",
            tf.strings.as_string(extent[1]),
            " pixels (height x width) is more than the ",
            tf.strings.as_string(max_pixels),
            " that are accepted",
        ]
    )
    unsupported = tf.cond(
        tf.equal(index, FORMATS.index("BMP")),
        lambda: _unsupported_bmp(data),
        lambda: tf.constant(b""),
    )
    # Rows before the first that holds are not reached, so the order is from coarse to fine.
    return tf.case(
        [
            (tf.equal(tf.strings.length(data), 0), lambda: tf.constant("the file is empty")),
            (
                tf.equal(index, len(FORMATS)),
                lambda: tf.constant(f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture"),
            ),
            (
                tf.reduce_any(extent < 1),
                lambda: tf.strings.join(["truncated or corrupt ", format_name(data), " header"]),
            ),
            # Not height * width: four-byte numbers from a hostile header would overflow.
            (extent[0] > max_pixels // tf.maximum(extent[1], 1), lambda: too_large),
        ],
        default=lambda: unsupported,
    )


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
    return tf.gather(tf.constant([*FORMATS, "picture"]), format_index(data))


def is_jpeg(data: Any) -> Any:
    """Tell which files are JPEG, bool as shaped; sooner than `format_index`."""
    return tf.equal(tf.strings.substr(data, 0, len(_JPEG_START)), _JPEG_START)


def branches(functions: Sequence[Callable[[Any], Any]], data: Any) -> list[Callable[[], Any]]:
    """Bind functions of `data` to it, as `tf.switch_case` wants its branches."""
    return [partial(function, data) for function in functions]


def format_index(data: Any) -> Any:
    """Return the index into FORMATS by the first bytes, len(FORMATS) for none: int32, as shaped."""
    head = tf.strings.join([tf.strings.substr(data, 0, 12), tf.constant(bytes(12))])

    def starts(magic: bytes, position: int = 0) -> Any:
        return tf.equal(tf.strings.substr(head, position, len(magic)), magic)

    found = [
        starts(_JPEG_START),
        starts(b"\x89PNG\r\n\x1a\n"),
        starts(b"BM"),
        starts(b"GIF87a") | starts(b"GIF89a"),
        starts(b"RIFF") & starts(b"WEBP", 8),
    ]
    return tf.argmax(tf.stack([*found, tf.ones_like(found[0])]), axis=0, output_type=tf.int32)


def require(data: Any, condition: Any, message: Any) -> Any:
    """Return `data`, which raises `message` when it is read unless `condition` holds."""
    with tf.control_dependencies([tf.debugging.Assert(condition, [message])]):
        return tf.identity(data)


def byte_length(data: Any) -> Any:
    """Number of bytes, int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def byte_slice(data: Any, position: Any, count: Any) -> Any:
    """Return the bytes from `position`, at the end of the file fewer than `count`, no error."""
    position = tf.clip_by_value(tf.cast(position, tf.int64), 0, byte_length(data))
    return tf.strings.substr(data, position, tf.cast(count, tf.int64))


def _bytes_at(data: Any, position: Any, count: int) -> Any:
    """Return `count` bytes as int64 (count,); behind the end of the file they read as 0."""
    raw = tf.io.decode_raw(byte_slice(data, position, count), tf.uint8, fixed_length=count)
    return tf.cast(raw, tf.int64)


def number_at(data: Any, position: Any, count: int, big_endian: bool = False) -> Any:
    """Return the unsigned number in `count` bytes, int64 scalar."""
    weights = [256**power for power in range(count)]
    values = _bytes_at(data, position, count)
    return tf.reduce_sum(values * tf.constant(weights[::-1] if big_endian else weights, tf.int64))


# The extent of each format: int64 (2,), height and width; zeros if the header does not say.


def _extent_if(condition: Any, height: Any, width: Any) -> Any:
    return tf.where(condition, tf.stack([height, width]), tf.zeros([2], tf.int64))


def _jpeg_extent(data: Any) -> Any:
    """Walk over the segments to the frame header (SOFn)."""
    length = byte_length(data)

    def unfinished(position: Any, extent: Any) -> Any:
        return (position + 9 <= length) & (extent[0] == 0)

    def advance(position: Any, extent: Any) -> tuple[Any, Any]:
        head = _bytes_at(data, position, 9)
        marker = head[1]
        is_marker = (head[0] == 0xFF) & (marker > 0) & (marker < 0xFF)
        # C4, C8 and CC lie among the frame headers C0..CF but are tables and an extension.
        is_table = tf.reduce_any(marker == tf.constant([0xC4, 0xC8, 0xCC], tf.int64))
        is_frame = is_marker & (marker >= 0xC0) & (marker <= 0xCF) & ~is_table
        is_bare = (marker == 0x01) | ((marker >= 0xD0) & (marker <= 0xD8))
        is_end = (marker == 0xD9) | (marker == 0xDA)  # end of image, start of the coded data
        segment = tf.where(is_bare, tf.constant(2, tf.int64), 2 + head[2] * 256 + head[3])
        # Fill bytes and stray ones between segments are stepped over, as libjpeg does.
        step = tf.where(is_marker, segment, tf.constant(1, tf.int64))
        next_position = tf.where(is_marker & is_end, length, position + step)
        size = tf.stack([head[5] * 256 + head[6], head[7] * 256 + head[8]])
        return tf.where(is_frame, length, next_position), tf.where(is_frame, size, extent)

    start = (tf.constant(2, tf.int64), tf.zeros([2], tf.int64))
    return tf.while_loop(unfinished, advance, start, maximum_iterations=_JPEG_MAX_STEPS)[1]


def _png_extent(data: Any) -> Any:
    has_header = tf.equal(byte_slice(data, 12, 4), b"IHDR")
    return _extent_if(has_header, number_at(data, 20, 4, True), number_at(data, 16, 4, True))


def _bmp_extent(data: Any) -> Any:
    header = read_bmp_header(data)
    known = tf.reduce_any(header.size == tf.constant(_BMP_HEADER_SIZES, tf.int64))
    whole = byte_length(data) >= 14 + header.size
    return _extent_if(known & whole, header.height, header.width)


def gif_extent(data: Any) -> Any:
    """Return the logical screen, enlarged to hold the first frame where that reaches beyond it."""
    position = find_gif_frame(data)
    found = byte_length(data) >= position + 10
    left, top, width, height = (number_at(data, position + offset, 2) for offset in (1, 3, 5, 7))
    return _extent_if(
        found & (height > 0) & (width > 0),
        tf.maximum(number_at(data, 8, 2), top + height),
        tf.maximum(number_at(data, 6, 2), left + width),
    )


def webp_extent(data: Any) -> Any:
    """Height and width of a WebP file, int64 (2,); of an animation, those of its canvas."""
    kind = byte_slice(data, 12, 4)
    # A lossy frame begins with three bytes of flags and the start code 9D 01 2A.
    lossy = tf.equal(kind, b"VP8 ") & tf.equal(byte_slice(data, 23, 3), b"\x9d\x01\x2a")
    lossless = tf.equal(kind, b"VP8L") & tf.equal(byte_slice(data, 20, 1), b"\x2f")
    extended = tf.equal(kind, b"VP8X")
    bits = number_at(data, 21, 4)
    width = tf.where(lossy, number_at(data, 26, 2) % 2**14, bits % 2**14 + 1)
    height = tf.where(lossy, number_at(data, 28, 2) % 2**14, bits // 2**14 % 2**14 + 1)
    width = tf.where(extended, number_at(data, 24, 3) + 1, width)
    height = tf.where(extended, number_at(data, 27, 3) + 1, height)
    length = byte_length(data)
    whole = ((lossy | extended) & (length >= 30)) | (lossless & (length >= 25))
    return _extent_if(whole, height, width)


@dataclass(frozen=True)
class BmpHeader:
    """Scalar int64 tensors, `top_down` boolean."""

    size: Any
    height: Any
    width: Any
    top_down: Any
    bits: Any
    compression: Any


def read_bmp_header(data: Any) -> BmpHeader:
    """What a BMP file says of its pixels."""
    size = number_at(data, 14, 4)
    is_core = size == 12  # OS/2 1.x: 16-bit numbers, no compression, never top-down

    def field(core: tuple[int, int], info: tuple[int, int]) -> Any:
        return tf.where(is_core, number_at(data, *core), number_at(data, *info))

    height = field((20, 2), (22, 4))
    width = field((18, 2), (18, 4))
    top_down = height >= 2**31  # a negative number: the first row is the top one
    return BmpHeader(
        size=size,
        height=tf.where(top_down, 2**32 - height, height),
        width=tf.where(width >= 2**31, tf.constant(0, tf.int64), width),
        top_down=top_down,
        bits=field((24, 2), (28, 2)),
        compression=tf.where(is_core, tf.constant(0, tf.int64), number_at(data, 30, 4)),
    )


def bmp_channel_masks(data: Any) -> Any:
    """Return which bits of a 32-bit pixel are red, green and blue, int64 (3,)."""
    masks = tf.stack([number_at(data, position, 4) for position in (54, 58, 62)])
    usual = tf.constant([0xFF0000, 0xFF00, 0xFF], tf.int64)
    return tf.where(read_bmp_header(data).compression == 0, usual, masks)


BYTE_MASKS = (0xFF, 0xFF00, 0xFF0000, 0xFF000000)


def _unsupported_bmp(data: Any) -> Any:
    """Return why a well-formed BMP is not read (16 bits, run-length coded), empty if it is."""
    header = read_bmp_header(data)
    plain = tf.reduce_any(header.bits == tf.constant([1, 4, 8, 24, 32], tf.int64))
    plain &= header.compression == 0
    masks = bmp_channel_masks(data)[:, tf.newaxis]
    whole_bytes = tf.reduce_all(tf.reduce_any(masks == tf.constant(BYTE_MASKS, tf.int64), axis=1))
    fields = (header.compression == 3) | (header.compression == 6)  # BI_(ALPHA)BITFIELDS
    reason = tf.strings.join(
        [
            "a BMP of ",
            tf.strings.as_string(header.bits),
            " bits a pixel with compression ",
            tf.strings.as_string(header.compression),
            " is not supported: save it uncompressed with 24 bits, or as PNG",
        ]
    )
    return tf.where(plain | (fields & (header.bits == 32) & whole_bytes), tf.constant(b""), reason)


# Compiled to a graph, because a step of an eager loop costs seventy times as much.
@tf.function(
    input_signature=[tf.TensorSpec([], tf.string), tf.TensorSpec([], tf.int64)], autograph=False
)
def _after_gif_sub_blocks(data: Any, position: Any) -> Any:
    """Return the position behind a chain of sub-blocks; beyond the end of a truncated file."""

    def advance(position: Any, size: Any) -> tuple[Any, Any]:
        position += 1 + size
        return position, number_at(data, position, 1)

    start = (position, number_at(data, position, 1))
    return tf.while_loop(lambda _, size: size > 0, advance, start)[0] + 1


def after_gif_colour_table(flags: Any, position: Any) -> Any:
    """Return the position behind the colour table, if the flags say that there is one."""
    entries = tf.bitwise.left_shift(tf.constant(2, tf.int64), flags % 8)
    return tf.where(flags >= 128, position + 3 * entries, position)


def after_gif_block(data: Any, position: Any) -> Any:
    """Return the position behind the extension or frame that begins at `position`."""
    is_frame = tf.equal(byte_slice(data, position, 1), GIF_FRAME)
    # A frame's sub-blocks follow its descriptor, its colour table and one byte of code size.
    frame_data = after_gif_colour_table(number_at(data, position + 9, 1), position + 10) + 1
    return _after_gif_sub_blocks(data, tf.where(is_frame, frame_data, position + 2))


def after_gif_blocks(data: Any, position: Any, kinds: Sequence[bytes]) -> Any:
    """Return the position of the first block from `position` on that is of none of the kinds.

    Args:
        data: scalar string tensor, the bytes of a GIF file.
        position: int64 scalar, where a block begins.
        kinds: `GIF_EXTENSION`, `GIF_FRAME` or both.
    """
    return tf.while_loop(
        lambda position: tf.reduce_any(tf.equal(byte_slice(data, position, 1), kinds)),
        lambda position: (after_gif_block(data, position),),
        (position,),
    )[0]


def find_gif_frame(data: Any) -> Any:
    """Return the position of the first frame's descriptor, that of the file's end if none."""
    start = after_gif_colour_table(number_at(data, 10, 1), tf.constant(13, tf.int64))
    position = after_gif_blocks(data, start, [GIF_EXTENSION])
    is_frame = tf.equal(byte_slice(data, position, 1), GIF_FRAME)
    return tf.where(is_frame, position, byte_length(data))
