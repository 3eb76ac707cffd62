"""The header of a picture file: its format, height and width, and whether it can be read.

Made of TensorFlow ops alone, so the same code runs eagerly, inside a `tf.data` pipeline and inside
a SavedModel served without Python. The header is looked at before anything is decoded, because a
small file can unpack to more memory than the machine has, and because some of TensorFlow's decoders
trust the numbers in it.

Every new iterator of a `tf.data` pipeline copies and optimizes these ops again, at 0.1 to 0.2 ms
each (docs/benchmarks.md), so they are few: numbers at fixed places are read together, and choices
are tables.

Layouts: W3C PNG 11.2.1 (IHDR), the GIF89a specification, RFC 9649 (WebP) and the BITMAPINFOHEADER
family of the Windows GDI reference (BMP).
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_integer

MAX_PIXELS = 100_000_000
"""The most pixels of a picture: 10,000 x 10,000, which is 300 MB when decoded."""

FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WebP")
"""The supported picture formats, in the order of their numbers in this module."""

INDEX = tf.TensorSpec([], tf.int32)
"""A result of `format_index`."""

JPEG = FORMATS.index("JPEG")
_JPEG_START = b"\xff\xd8\xff"
_ANY = -1  # any byte
_START_LENGTH = 12
# Kinds of files and their first bytes: those of FORMATS, then others. The first match counts.
_KINDS: list[tuple[str, Sequence[int]]] = [
    ("JPEG", _JPEG_START),
    ("PNG", b"\x89PNG\r\n\x1a\n"),
    ("BMP", b"BM"),
    ("GIF", [*b"GIF8", _ANY, *b"a"]),
    ("WebP", [*b"RIFF", *[_ANY] * 4, *b"WEBP"]),
    *[("AVIF", [*[_ANY] * 4, *b"ftyp", *brand]) for brand in (b"avif", b"avis")],
    *[("HEIC", [*[_ANY] * 4, *b"ftyp", *brand]) for brand in (b"hei", b"hev", b"mif1", b"msf1")],
    ("camera RAW", [*[_ANY] * 4, *b"ftypcrx"]),
    ("video", [*[_ANY] * 4, *b"ftyp"]),
    ("camera RAW", [*b"II*\0", *[_ANY] * 4, *b"CR"]),
    *[("TIFF or camera RAW", start) for start in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")],
    *[("camera RAW", start) for start in (b"FUJIFILMCCD", b"IIR", b"MMOR", b"IIU\0", b"FOVb")],
    *[("JPEG XL", start) for start in (b"\xff\x0a", b"\0\0\0\x0cJXL ")],
    *[("JPEG 2000", start) for start in (b"\xff\x4f\xff\x51", b"\0\0\0\x0cjP  ")],
    ("JPEG XR", b"II\xbc"),
    *[("Photoshop (PSD)", start) for start in (b"8BPS\0\1", b"8BPS\0\2")],
    *[
        ("SVG or other XML", start)
        for start in (b"<svg", b"<?xml", b"\xef\xbb\xbf<svg", b"\xef\xbb\xbf<?xml")
    ],
    *[("PDF or PostScript", start) for start in (b"%PDF", b"%!PS")],
    ("icon", b"\0\0\1\0"),
    ("OpenEXR", b"\x76\x2f\x31\x01"),
    ("picture", b""),
]
_STARTS = np.array(
    [[*start, *[_ANY] * (_START_LENGTH - len(start))] for _, start in _KINDS], np.int16
)
_FORMAT_NAMES = (*FORMATS, "picture")  # the last where the content is none of them
_BROKEN = [f"corrupt or truncated {name}" for name in FORMATS]
_BROKEN[FORMATS.index("BMP")] += ", or not uncompressed with 24 or 32 bits: save it as PNG"
_WAY_OUT = "files are not supported: convert it to JPEG or PNG"
# The reason if the header gives no size, by kind.
_UNREADABLE = [
    *_BROKEN,
    *[f"{kind} {_WAY_OUT}" for kind, _ in _KINDS[len(FORMATS) : -1]],
    f"not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} picture",
]
_RGB_MASKS = (0xFF0000, 0xFF00, 0xFF)  # where decode_bmp looks for the colours of a 32-bit pixel
# The kinds of blocks in a GIF file: the end, the beginning of a frame or of an extension,
# or a sub-block of data in one of those. Any other byte than "," and "!" ends the file.
_GIF_END, _GIF_FRAME, _GIF_EXTENSION, _GIF_DATA = range(4)
_GIF_BLOCKS = np.full(256, _GIF_END, np.int32)
_GIF_BLOCKS[[*b",!"]] = _GIF_FRAME, _GIF_EXTENSION
# The bytes of the colour table that a byte of flags announces.
_GIF_COLOUR_BYTES = np.array([3 * 2 ** (n % 8 + 1) * (n >= 128) for n in range(256)])
_MAX_CHUNKS = 1_000  # of a WebP file before its first picture
# Writers fill a block of a GIF with 255 bytes. One byte a block is an attack: a step takes 35 us.
_MIN_STEPS, _MEAN_BLOCK = 10_000, 100
_GIF_CONTROL = 0xF9  # the extension that has a frame's transparency
_GIF_OUTSIDE, _GIF_INSIDE = 1, 2  # of a block: where a walk is that has not come to _GIF_END


def graph_function(*specs: tf.TensorSpec, **options: Any) -> Callable[[Callable[..., Any]], Any]:
    """Return a decorator that makes a function of a file's bytes and `specs` one graph.

    All uses share it: each process traces it once, which takes up to a second, a pipeline holds it
    once, and a step of its loops costs a seventieth of an eager one.
    """
    signature = [tf.TensorSpec([], tf.string), *specs]
    return functools.partial(tf.function, input_signature=signature, autograph=False, **options)


def check_image(data: Any, max_pixels: int = MAX_PIXELS) -> Any:
    """Say what is wrong with a picture file, from its header alone.

    The content decides on the format, never the file name. Nothing is decoded, so a huge or broken
    file costs next to nothing. The whole file is needed: the size in a JPEG or a GIF may come after
    any amount of metadata.

    Args:
        data: scalar string tensor, the bytes of the file.
        max_pixels: the largest height x width that is accepted.

    Returns:
        Scalar string tensor: empty for a JPEG, PNG, BMP, GIF or WebP header that `decode_image`
        reads with at most `max_pixels` pixels, otherwise the reason.

    Raises:
        ValueError: `max_pixels` is not positive.
        tf.errors.InvalidArgumentError: the header of a JPEG is corrupt; raised when the op runs.
    """
    check_integer("max_pixels", max_pixels, minimum=1)
    return _check_image(data, max_pixels)


@graph_function(tf.TensorSpec([], tf.int64))
def _check_image(data: Any, max_pixels: Any) -> Any:
    kind = _first_fit(data, _STARTS)
    extent = _extent(kind, data)
    height, width = tf.unstack(extent)
    sides, limit = tf.unstack(tf.strings.as_string(extent)), tf.strings.as_string(max_pixels)
    words = " x ", " pixels (height x width) is more than the ", " that are accepted"
    too_large = tf.strings.join([sides[0], words[0], sides[1], words[1], limit, words[2]])
    # Of several reasons the last one counts, so they go from fine to coarse.
    # Not height * width: four-byte numbers from a hostile header would overflow.
    is_too_large = height > max_pixels // tf.maximum(width, 1)
    reason = tf.where(is_too_large, too_large, "")
    reason = tf.where(tf.reduce_any(extent < 1), tf.gather(_UNREADABLE, kind), reason)
    return tf.where(tf.equal(data, b""), "the file is empty", reason)


def picture_extent(data: Any) -> Any:
    """Return height and width as stored in the header of a picture file, int64 (2,).

    Zeros are for anything that is not a supported picture. A corrupt JPEG raises
    `tf.errors.InvalidArgumentError` when the op runs.
    """
    return _extent(_first_fit(data, _STARTS), data)


def _extent(kind: Any, data: Any) -> Any:
    gif, webp = lambda data: gif_frame(data, 1).extent, lambda data: webp_frame(data).extent
    readers = [_jpeg_extent, _png_extent, _bmp_extent, gif, webp]
    return tf.switch_case(kind, branches(readers, data), default=lambda: tf.zeros([2], tf.int64))


def format_name(data: Any) -> Any:
    """Name the format of files, one of `FORMATS`, or "picture" for other content: same shape."""
    return tf.gather(_FORMAT_NAMES, format_index(data))


def is_jpeg(data: Any) -> Any:
    """Tell which files are JPEG: bool, same shape; faster than `format_index`."""
    return tf.equal(tf.strings.substr(data, 0, len(_JPEG_START)), _JPEG_START)


def branches(functions: Sequence[Callable[[Any], Any]], data: Any) -> list[Callable[[], Any]]:
    """Bind functions of `data` to it, as `tf.switch_case` wants its branches."""
    return [functools.partial(function, data) for function in functions]


def format_index(data: Any) -> Any:
    """Return the index in FORMATS by the first bytes, len(FORMATS) for none: int32, same shape."""
    return _first_fit(data, _STARTS[[*range(len(FORMATS)), -1]])


def _first_fit(data: Any, starts: np.ndarray) -> Any:
    """Return the index of the first row that the beginning of a file fits: int32, same shape."""
    head = tf.expand_dims(tf.io.decode_raw(data, tf.uint8, fixed_length=_START_LENGTH), axis=-2)
    fits = tf.reduce_all(tf.equal(tf.cast(head, tf.int16), starts) | (starts == _ANY), axis=-1)
    return tf.argmax(tf.cast(fits, tf.int32), axis=-1, output_type=tf.int32)


def byte_length(data: Any) -> Any:
    """Return the number of bytes, int64."""
    return tf.cast(tf.strings.length(data), tf.int64)


def byte_slice(data: Any, position: Any, count: Any) -> Any:
    """Return `count` bytes from `position` (>= 0), fewer at the end of the file."""
    position = tf.minimum(byte_length(data), position)
    return tf.strings.substr(data, position, tf.convert_to_tensor(count, tf.int64))


def mentions(data: Any, text: Any) -> Any:
    """Tell whether a text, a regular expression, is somewhere in a file: 0.1 ns a byte."""
    without = tf.strings.regex_replace(data, text, "", replace_global=False)
    return tf.not_equal(tf.strings.length(without), tf.strings.length(data))


def byte_values(data: Any, count: int) -> Any:
    """Return the first bytes as numbers, int64 (count,), with zeros after the end."""
    return tf.cast(tf.io.decode_raw(data, tf.uint8, fixed_length=count), tf.int64)


def byte_weights(size: int, *numbers: Sequence[int]) -> np.ndarray:
    """Return the weights that make numbers of bytes by multiplication, int64 (numbers, size).

    Args:
        size: how many bytes there are.
        numbers: places of the bytes of each, the highest first.
    """
    weights = np.zeros([len(numbers), size], np.int64)
    for row, places in zip(weights, numbers, strict=True):
        row[[*places]] = 256 ** np.arange(len(places))[::-1]
    return weights


def numbers_at(
    data: Any, *places: tuple[int, int], start: Any = 0, big_endian: bool = False
) -> list[Any]:
    """Return unsigned numbers, one int64 scalar for each place; zeros after the file's end.

    Args:
        data: scalar string tensor, the bytes of a file.
        places: (bytes from `start`, number of bytes, at most seven) of each.
        start: position in the file.
        big_endian: whether the highest byte comes first.
    """
    end = max(sum(place) for place in places)
    order = 1 if big_endian else -1
    weights = byte_weights(end, *(range(place, place + n)[::order] for place, n in places))
    if not isinstance(start, int) or start > 0:
        data = byte_slice(data, start, end)
    return tf.unstack(tf.reduce_sum(byte_values(data, end) * weights, axis=1))


# The extent of each format: int64 (2,), height and width; zeros if the header does not say.


def _extent_if(condition: Any, height: Any, width: Any) -> Any:
    return tf.where(condition, tf.stack([height, width]), tf.zeros([2], tf.int64))


def _jpeg_extent(data: Any) -> Any:
    return tf.stack(tf.unstack(tf.io.extract_jpeg_shape(data, tf.int64), num=3)[:2])


def _png_extent(data: Any) -> Any:
    kind, width, height = numbers_at(data, (12, 4), (16, 4), (20, 4), big_endian=True)
    return _extent_if(kind == int.from_bytes(b"IHDR"), height, width)


def _bmp_extent(data: Any) -> Any:
    places = (10, 4), (14, 4), (18, 4), (22, 4), (28, 2), (30, 4), (54, 4), (58, 4), (62, 4)
    pixels, header, width, height, bits, compression, *masks = numbers_at(data, *places)
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: the top row is first
    is_plain = (compression == 0) & ((bits == 24) | (bits == 32))
    is_masked = (compression == 3) | (compression == 6)  # BI_(ALPHA)BITFIELDS
    is_masked &= (bits == 32) & tf.reduce_all(tf.equal(masks, tf.constant(_RGB_MASKS, tf.int64)))
    row = (width * bits + 31) // 32 * 4  # padded to four bytes
    is_whole = (width < 2**31) & (height <= (byte_length(data) - pixels) // tf.maximum(row, 1))
    return _extent_if((header >= 40) & is_whole & (is_plain | is_masked), height, width)


class Frame(NamedTuple):
    """The first frame of a GIF or WebP file; pairs are int64 (2,), down and right."""

    alone: Any  # bytes of a file that begins with this frame, without animation and metadata
    offset: Any  # position of its corner in the whole picture
    size: Any  # height and width; zeros if there is no frame or the file is truncated
    extent: Any  # of the whole picture, at least as large as the frame; zeros without a frame
    clear: Any  # where `alone` has the colour, three bytes, that stands for none; -1 without one


def _extent_around(canvas: Any, offset: Any, size: Any) -> Any:
    """Return the extent of a picture that its file gives as `canvas`, with a frame in it."""
    has_frame = tf.reduce_all(size > 0)
    return tf.where(has_frame, tf.maximum(canvas, offset + size), tf.zeros([2], tf.int64))


@graph_function(tf.TensorSpec([], tf.int32))
def gif_frame(data: Any, frames_read: Any) -> Frame:
    """Find a GIF's first frame; with `frames_read` 1 faster, but without the bytes in `alone`."""

    def advance(position: Any, place: Any, frames: Any, *found: Any) -> tuple[Any, ...]:
        begin, end, control = found
        kind, label, flags = numbers_at(data, (0, 1), (1, 1), (9, 1), start=position)
        block = tf.where(place == _GIF_INSIDE, _GIF_DATA, tf.gather(_GIF_BLOCKS, kind))
        # The first sub-block of a frame follows its descriptor, its colours and a byte.
        frame_data = position + 11 + tf.gather(_GIF_COLOUR_BYTES, flags)
        ends = tf.stack([position, frame_data, position + 2, position + 1 + kind])
        is_control = tf.equal(block, _GIF_EXTENSION) & (label == _GIF_CONTROL) & (frames < 1)
        control = tf.where(is_control, position, control)
        position = tf.gather(ends, block)
        after_data = tf.where(kind > 0, _GIF_INSIDE, _GIF_OUTSIDE)
        place = tf.gather(tf.stack([_GIF_END, _GIF_INSIDE, _GIF_INSIDE, after_data]), block)
        frames += tf.cast(tf.equal(block, _GIF_FRAME), tf.int32)
        begin, end = tf.where(frames < 1, position, begin), tf.where(frames < 2, position, end)
        return position, place, frames, begin, end, control

    width, height, flags = numbers_at(data, (6, 2), (8, 2), (10, 1))
    first = 13 + tf.gather(_GIF_COLOUR_BYTES, flags)
    length = byte_length(data)
    start = (first, tf.constant(_GIF_OUTSIDE), tf.constant(0), first, first, length)
    last, _, frames, begin, end, control = tf.while_loop(
        lambda _, place, frames, *__: (place != _GIF_END) & (frames < frames_read),
        advance,
        start,
        maximum_iterations=tf.cast(_MIN_STEPS + length // _MEAN_BLOCK, tf.int32),
    )
    places = (3, 2), (1, 2), (7, 2), (5, 2), (9, 1)
    top, left, rows, columns, own = numbers_at(data, *places, start=begin)
    # The colours are the frame's own or the screen's; an extension names the one that is none.
    has_own = own >= 128
    colours = tf.where(has_own, first + 10, 13)
    has_none, none = numbers_at(data, (3, 1), (6, 1), start=control)
    known = tf.gather(_GIF_COLOUR_BYTES, tf.where(has_own, own, flags)) // 3
    is_clear = (has_none % 2 == 1) & (none < known)
    ends_well = (frames == frames_read) | ((frames > 0) & (byte_slice(data, last, 1) == b";"))
    screen, frame = byte_slice(data, 0, first), byte_slice(data, begin + 5, end - begin - 5)
    offset, size = tf.stack([top, left]), _extent_if(ends_well, rows, columns)
    return Frame(
        # With the offset 0, 0: the op's canvas is as large as the frame, not as the picture.
        alone=tf.where(ends_well, tf.strings.join([screen, b",", bytes(4), frame, b";"]), b""),
        offset=offset,
        size=size,
        extent=_extent_around(tf.stack([height, width]), offset, size),
        clear=tf.where(is_clear, colours + 3 * none, -1),
    )


@graph_function()
def webp_frame(data: Any) -> Frame:
    """Find the first coded picture of a WebP file, which may stand alone or in an animation."""
    names = b"VP8 ", b"VP8L", b"ANMF", b"VP8X", b"ALPH"
    lossy, lossless, animated, extended, opacity = (int.from_bytes(x, "little") for x in names)
    length = byte_length(data)

    def advance(position: Any, is_found: Any, frame: Any, alpha: Any) -> tuple[Any, ...]:
        kind, size = numbers_at(data, (0, 4), (4, 4), start=position)
        is_frame = kind == animated
        is_found = (kind == lossy) | (kind == lossless) | (position >= length)
        # The chunks of a frame follow its 16-byte header; others are skipped, padded to even.
        step = tf.where(is_frame, tf.constant(24, tf.int64), 8 + size + size % 2)
        frame = tf.where(is_frame, position, frame)
        alpha = tf.where(kind == opacity, position, alpha)
        return tf.where(is_found, position, position + step), is_found, frame, alpha

    start = (tf.constant(12, tf.int64), tf.constant(False), length, length)
    begin, _, frame, alpha = tf.while_loop(
        lambda _, is_found, *__: ~is_found, advance, start, maximum_iterations=_MAX_CHUNKS
    )
    places = (0, 4), (4, 4), (11, 3), (8, 1), (9, 4), (16, 2), (14, 2)
    kind, size, start_code, signature, bits, *sides = numbers_at(data, *places, start=begin)
    # A lossy picture begins with three bytes of flags and the start code 9D 01 2A.
    is_lossy = (kind == lossy) & (start_code == 0x2A019D)
    is_lossless = (kind == lossless) & (signature == 0x2F)
    height = tf.where(is_lossy, sides[0] % 2**14, bits // 2**14 % 2**14 + 1)
    width = tf.where(is_lossy, sides[1] % 2**14, bits % 2**14 + 1)
    file_size, first, columns, rows = numbers_at(data, (4, 4), (12, 4), (24, 3), (27, 3))
    is_whole = (begin + size <= file_size) & (8 + file_size <= length)
    # Opacity stands before a lossy picture, and is read behind a header with the size of both.
    is_in_frame = frame < length
    is_clear = is_lossy & (first == extended) & (alpha < length)
    is_clear &= alpha >= tf.where(is_in_frame, frame, 30)
    size_bytes = byte_slice(data, tf.where(is_in_frame, frame + 14, 24), 6)
    header = tf.strings.join([b"VP8X\x0a\0\0\0\x10\0\0\0", size_bytes])
    # The skipped part goes to the end, where nothing is read, so the file's size stays right.
    place, skipped = (
        tf.where(is_clear, alpha, begin),
        tf.where(is_clear, tf.constant(30, tf.int64), 12),
    )
    parts = [(0, 12), (place, length), (skipped, place - skipped)]
    riff, *rest = [byte_slice(data, *part) for part in parts]
    top, left = numbers_at(data, (11, 3), (8, 3), start=frame)  # zeros without a frame around
    offset = 2 * tf.stack([top, left])
    size = _extent_if((is_lossy | is_lossless) & is_whole, height, width)
    canvas = _extent_if(first == extended, rows + 1, columns + 1)
    return Frame(
        alone=tf.strings.join([riff, tf.where(is_clear, header, b""), *rest]),
        offset=offset,
        size=size,
        extent=_extent_around(canvas, offset, size),
        clear=tf.constant(-1, tf.int64),
    )
