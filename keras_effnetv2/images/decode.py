"""Picture files to RGB pixels, as TensorFlow ops (see `headers.py` for the reason).

TensorFlow's own decoders do the work. They get only the first frame of an animated GIF or WebP:
they would decode every frame, and `tf.io.decode_image` with `expand_animations=False` ends the
process for some WebP animations (TensorFlow 2.21).
"""

import functools
from typing import Any

import tensorflow as tf

from keras_effnetv2._common.checks import is_integer
from keras_effnetv2.images.headers import (
    FORMATS,
    INDEX,
    Frame,
    branches,
    byte_slice,
    check_image,
    format_index,
    gif_frame,
    graph_function,
    mentions,
    numbers_at,
    webp_frame,
)
from keras_effnetv2.images.orientation import orientation, turned

WHITE = 255
"""The colour behind transparent pixels; viewers and paper are white."""

_PNG = FORMATS.index("PNG")
_FLATTENED_AT_ONCE = 2**20  # pixels; each takes 20 bytes meanwhile

Colour = int | tuple[int, int, int]
"""A gray level, or red, green and blue; 0..255."""


def decode_image(
    data: Any, accurate: bool = False, *, exif: bool = True, background: Colour = WHITE
) -> Any:
    """Decode a picture file to RGB, as viewers show it.

    JPEG with TensorFlow's default settings, as the official `preprocessing.py` does: the fast
    integer DCT and smooth chroma upsampling. Gray and palette pictures become RGB, CMYK too (no
    colour profile is applied). 16-bit samples are scaled to 8 bits, and the first frame of an
    animation is used.

    Args:
        data: scalar string tensor, the bytes of a JPEG, PNG, BMP, GIF or WebP file.
        accurate: decode a JPEG with the exact integer DCT, as Pillow does. It takes longer; grey
            levels differ by 1.2 on average.
        exif: turn the picture as its EXIF orientation says. The official code does not.
        background: the colour behind transparent pixels.

    Returns:
        uint8 tensor (height, width, 3), 0..255.

    Raises:
        ValueError: `background` is not a colour.
        tf.errors.InvalidArgumentError: the bytes are not such a picture, or it is truncated or
            corrupt; raised when the op runs. A damaged JPEG with an intact structure is decoded.
    """
    index = format_index(data)
    image = _decoder("INTEGER_ACCURATE" if accurate else "", rgb(background))(data, index)
    return turned(image, orientation(data, index)) if exif else image


def rgb(background: Colour) -> tuple[int, int, int]:
    """Return a colour as red, green and blue, 0..255.

    Raises:
        ValueError: it is not a colour.
    """
    levels: Any = (background,) * 3 if is_integer(background) else background
    is_tuple = isinstance(levels, tuple) and len(levels) == 3
    if not is_tuple or not all(is_integer(level) and 0 <= level <= 255 for level in levels):
        raise ValueError(
            "`background` must be a gray level 0..255, or a tuple (red, green, blue) of those. "
            f"Received: {background!r}"
        )
    red, green, blue = levels
    return red, green, blue


# These graph functions are traced once a process, not at every use. The one for special files is
# kept out of line: for a JPEG its hundreds of ops would otherwise be visited for nothing, three
# times the decoding time of a small picture.
@functools.cache
def _decoder(dct_method: str, background: tuple[int, int, int]) -> Any:
    decode_jpeg = functools.partial(tf.io.decode_jpeg, channels=3, dct_method=dct_method)
    decode_png = functools.partial(tf.io.decode_png, channels=3)

    @graph_function(INDEX)
    def decode(data: Any, index: Any) -> Any:
        bits, kind = numbers_at(data, (24, 1), (25, 1))
        # Opacity is a channel, or one colour of the others.
        is_plain = (bits <= 8) & (kind & 4 == 0) & ~mentions(data, "tRNS")
        image = tf.switch_case(
            tf.where(is_plain | tf.not_equal(index, _PNG), index, len(FORMATS)),
            branches([decode_jpeg, decode_png], data),
            default=lambda: _special_decoder(background)(data, index),
        )
        return tf.ensure_shape(image, [None, None, 3])

    return decode


@functools.cache
def _special_decoder(background: tuple[int, int, int]) -> Any:
    @graph_function(INDEX, experimental_attributes={"_noinline": True})
    def decode(data: Any, index: Any) -> Any:
        reason = check_image(data, max_pixels=tf.int64.max)
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(reason, ""), [reason])]):
            data = tf.identity(data)
        decode_gif = functools.partial(_decode_gif, background=background)
        decoders = branches([_decode_png, _decode_bmp, decode_gif, _decode_webp], data)
        return _flattened(tf.switch_case(index - _PNG, decoders), background)

    return decode


# These return uint8 (height, width, 4); the last channel is opacity.


def _decode_png(data: Any) -> Any:
    def decode_16_bits() -> Any:
        levels = tf.io.decode_png(data, 4, tf.uint16)
        # Levels / 257, rounded, without a sum beyond 65535.
        return tf.cast((tf.minimum(levels, 65535 - 128) + 128) // 257, tf.uint8)

    (bits,) = numbers_at(data, (24, 1))
    return tf.cond(bits > 8, decode_16_bits, lambda: tf.io.decode_png(data, 4))


def _decode_bmp(data: Any) -> Any:
    pixels = tf.io.decode_bmp(data)
    header, compression, mask = numbers_at(data, (14, 4), (30, 4), (66, 4))
    has_opacity = (header >= 56) & (compression > 0) & (mask == 0xFF000000)
    return tf.cond(has_opacity, lambda: pixels, lambda: _opaque(pixels[:, :, :3]))


def _decode_gif(data: Any, background: tuple[int, int, int]) -> Any:
    frame = gif_frame(data, tf.int32.max)
    # TensorFlow's decoder ignores transparency, so the transparent entry gets the right colour.
    ends = [byte_slice(frame.alone, *part) for part in ((0, frame.clear), (frame.clear + 3, 2**31))]
    alone = tf.strings.join([ends[0], bytes(background), ends[1]])
    alone = tf.cond(frame.clear > 0, lambda: alone, lambda: frame.alone)
    return _on_canvas(_opaque(tf.squeeze(tf.io.decode_gif(alone), 0)), frame)


def _decode_webp(data: Any) -> Any:
    frame = webp_frame(data)
    return _on_canvas(_opaque(tf.squeeze(tf.io.decode_webp(frame.alone), 0)), frame)


def _opaque(pixels: Any) -> Any:
    """Add a channel of full opacity to pixels that have none."""
    *_, channels = tf.unstack(tf.shape(pixels), num=3)
    return tf.pad(pixels, (4 - channels) * [[0, 0], [0, 0], [0, 1]], constant_values=255)


def _on_canvas(pixels: Any, frame: Frame) -> Any:
    """Put a frame into the whole picture, which stays transparent around it."""
    margins = tf.stack([frame.offset, frame.extent - frame.offset - frame.size], axis=1)
    return tf.pad(pixels, tf.concat([margins, [[0, 0]]], axis=0))


def _flattened(pixels: Any, background: tuple[int, int, int]) -> Any:
    """Blend pixels (height, width, 4) with a colour behind them: (height, width, 3), uint8."""
    height, width, _ = tf.unstack(tf.shape(pixels), num=3)
    rows = tf.maximum(_FLATTENED_AT_ONCE // width, 1)
    behind, shift = tf.constant(background, tf.uint16), tf.bitwise.right_shift

    def lay(index: Any, parts: Any) -> tuple[Any, Any]:
        part = tf.cast(pixels[index * rows : (index + 1) * rows], tf.uint16)
        colours, opacity = tf.split(part, [3, 1], axis=2)
        mixed = colours * opacity + behind * (255 - opacity) + 128
        mixed = shift(mixed + shift(mixed, 8), 8)  # / 255, rounded, sooner than by a division
        return index + 1, parts.write(index, tf.cast(mixed, tf.uint8))

    count = (height + rows - 1) // rows
    parts = tf.TensorArray(tf.uint8, count, infer_shape=False, element_shape=[None, None, 3])
    start = (tf.constant(0), parts)
    _, parts = tf.while_loop(lambda index, _: index < count, lay, start, parallel_iterations=1)
    return parts.concat()
