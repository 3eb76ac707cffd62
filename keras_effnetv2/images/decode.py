"""Picture files to RGB pixels, as TensorFlow ops (see `headers.py` for the reason).

TensorFlow's own decoders do the work where they can. What is added is the first frame alone of an
animated GIF or WebP (the ops decode every frame), and BMP files with a palette or with fewer than 8
bits a pixel, which `tf.io.decode_bmp` reads as gray or refuses.
"""

import functools
from functools import partial
from typing import Any

import tensorflow as tf

from keras_effnetv2.images.headers import (
    BYTE_MASKS,
    FORMATS,
    GIF_EXTENSION,
    GIF_FRAME,
    GIF_TRAILER,
    BmpHeader,
    after_gif_block,
    after_gif_blocks,
    after_gif_colour_table,
    branches,
    byte_length,
    byte_slice,
    check_image,
    find_gif_frame,
    format_index,
    gif_extent,
    numbers_at,
    read_bmp_header,
    require,
    webp_extent,
)


def decode_image(data: Any, accurate: bool = False) -> Any:
    """Decode a picture file to RGB.

    JPEG with TensorFlow's default settings, as the official `preprocessing.py` does: the fast
    integer DCT and smooth chroma upsampling. Gray and palette pictures become RGB, CMYK too (no
    colour profile is applied). Of 16-bit samples the high byte is kept, alpha is dropped, of an
    animation the first frame is taken. EXIF orientation is not applied (the official code does
    not either).

    Args:
        data: scalar string tensor, the bytes of a JPEG, PNG, BMP, GIF or WebP file.
        accurate: decode a JPEG with the exact integer DCT, as Pillow does; grey levels differ by
            1.2 on average. It takes longer.

    Returns:
        uint8 tensor (height, width, 3), 0..255.

    Raises:
        tf.errors.InvalidArgumentError: when it runs, if the bytes are no such picture, or one that
            is truncated or corrupt. A JPEG whose damage leaves its structure whole is decoded.
    """
    return _decoder("INTEGER_ACCURATE" if accurate else "")(data)


# These graph functions are traced once a process, not at every use. The one for other formats is
# kept out of line: for a JPEG its thousand ops would otherwise be visited for nothing, three times
# the decoding time of a small picture.
@functools.cache
def _decoder(dct_method: str) -> Any:
    def decode(data: Any) -> Any:
        decode_jpeg = partial(tf.io.decode_jpeg, channels=3, dct_method=dct_method)
        image = tf.switch_case(
            format_index(data),
            branches([decode_jpeg, partial(tf.io.decode_png, channels=3)], data),
            default=lambda: _decode_other_format(data),
        )
        return tf.ensure_shape(image, [None, None, 3])

    return tf.function(decode, input_signature=[tf.TensorSpec([], tf.string)], autograph=False)


@tf.function(
    input_signature=[tf.TensorSpec([], tf.string)],
    autograph=False,
    experimental_attributes={"_noinline": True},
)
def _decode_other_format(data: Any) -> Any:
    reason = check_image(data, max_pixels=tf.int64.max)
    data = require(data, tf.equal(reason, ""), reason)
    decoders = [_decode_bmp, _decode_gif, _decode_webp]
    return tf.switch_case(format_index(data) - FORMATS.index("BMP"), branches(decoders, data))


def _decode_bmp(data: Any) -> Any:
    header = read_bmp_header(data)
    stride = (header.width * header.bits + 31) // 32 * 4  # rows are padded to four bytes
    raw = byte_slice(data, header.pixels, stride * header.height)
    raw = require(raw, byte_length(raw) == stride * header.height, "truncated BMP")
    rows = tf.reshape(tf.io.decode_raw(raw, tf.uint8), tf.stack([header.height, stride]))
    image = tf.cond(
        header.bits <= 8,
        lambda: _bmp_palette_pixels(data, rows, header),
        lambda: _bmp_colour_pixels(rows, header),
    )
    return tf.cond(header.top_down, lambda: image, lambda: tf.reverse(image, axis=[0]))


def _bmp_palette_pixels(data: Any, rows: Any, header: BmpHeader) -> Any:
    """Unpack 1, 4 or 8 bits a pixel, the leftmost pixel in the highest bits, and look them up."""
    bits = tf.cast(header.bits, tf.int32)
    shifts = tf.cast(tf.range(8 - bits, -1, -bits), tf.uint8)
    packed = tf.bitwise.right_shift(rows[:, :, tf.newaxis], shifts)
    low_bits = tf.cast(tf.bitwise.left_shift(1, bits) - 1, tf.uint8)
    indices = tf.reshape(tf.bitwise.bitwise_and(packed, low_bits), tf.stack([header.height, -1]))
    # An entry is blue, green, red and, but in the OS/2 1.x layout, an unused byte. The table
    # ends where the pixels begin; indices behind its end are black.
    entry = tf.where(header.size == 12, 3, 4)
    start = 14 + header.size
    table = byte_slice(data, start, tf.maximum(header.pixels - start, 0))
    table = tf.io.decode_raw(table, tf.uint8, fixed_length=256 * 4)[: 256 * entry]
    table = tf.reverse(tf.reshape(table, tf.stack([256, entry]))[:, :3], axis=[1])
    return tf.gather(table, tf.cast(indices[:, : header.width], tf.int32))


def _bmp_colour_pixels(rows: Any, header: BmpHeader) -> Any:
    """Pick red, green and blue out of pixels of three or four bytes."""
    pixel_bytes = header.bits // 8
    shape = tf.stack([header.height, header.width, pixel_bytes])
    pixels = tf.reshape(rows[:, : header.width * pixel_bytes], shape)
    is_channel = header.masks[:, tf.newaxis] == tf.constant(BYTE_MASKS, tf.int64)
    return tf.gather(pixels, tf.argmax(tf.cast(is_channel, tf.int32), axis=1), axis=2)


def _decode_gif(data: Any) -> Any:
    """Decode a file made of the header, the first frame and the trailer only."""
    start = find_gif_frame(data)
    blocks_end = after_gif_blocks(data, start, GIF_EXTENSION + GIF_FRAME)
    ends_well = tf.equal(byte_slice(data, blocks_end, 1), GIF_TRAILER)
    data = require(data, ends_well, "truncated or corrupt GIF")
    (flags,) = numbers_at(data, (10, 1))
    screen = byte_slice(data, 0, after_gif_colour_table(flags, 13))
    # With its offset as 0, 0: the op's canvas is as large as the frame, not as the picture.
    first = byte_slice(data, start + 5, after_gif_block(data, start) - (start + 5))
    only_first = tf.strings.join([screen, GIF_FRAME, bytes(4), first, GIF_TRAILER])
    frame = tf.io.decode_gif(only_first)[0]
    left, top = numbers_at(data, (1, 2), (3, 2), start=start)
    return _on_canvas(frame, (top, left), gif_extent(data))


def _decode_webp(data: Any) -> Any:
    """Decode a file made of the picture data of the first frame only, without metadata."""
    length = byte_length(data)

    def is_picture(position: Any) -> Any:
        kind = byte_slice(data, position, 4)
        return tf.equal(kind, b"VP8 ") | tf.equal(kind, b"VP8L")

    def unfinished(position: Any, frame: Any) -> Any:
        del frame
        return (position < length) & ~is_picture(position)

    def advance(position: Any, frame: Any) -> tuple[Any, Any]:
        (size,) = numbers_at(data, (4, 4), start=position)
        is_frame = tf.equal(byte_slice(data, position, 4), b"ANMF")
        # A frame's chunks follow its 16-byte header; other chunks are skipped, padded to even.
        step = tf.where(is_frame, tf.constant(24, tf.int64), 8 + size + size % 2)
        return position + step, tf.where(is_frame, position, frame)

    start = (tf.constant(12, tf.int64), length)
    position, frame = tf.while_loop(unfinished, advance, start)
    size = 8 + numbers_at(data, (4, 4), start=position)[0]
    file_end = 8 + numbers_at(data, (4, 4))[0]
    is_whole = (file_end <= length) & (position + size <= file_end)
    data = require(data, is_whole, "truncated or corrupt WebP")
    size += size % 2
    chunk = byte_slice(data, position, size)
    riff = tf.strings.join([b"RIFF", _little_endian(4 + byte_length(chunk)), b"WEBP", chunk])
    image = tf.io.decode_webp(riff, channels=0)[0, :, :, :3]
    # In units of two pixels; 0 where there is no frame around the picture.
    left, top = (2 * place for place in numbers_at(data, (8, 3), (11, 3), start=frame))
    return _on_canvas(image, (top, left), webp_extent(data))


def _little_endian(number: Any) -> Any:
    """Return the four bytes of a number, the lowest first, as a scalar string."""
    digits = number // tf.constant([256**power for power in range(4)], tf.int64) % 256
    return tf.strings.reduce_join(tf.gather([bytes([value]) for value in range(256)], digits))


def _on_canvas(frame: Any, offset: tuple[Any, Any], extent: Any) -> Any:
    """Lay a frame on black where it does not cover the whole picture."""
    top, left = (tf.cast(value, tf.int32) for value in offset)
    below, right = tf.unstack(tf.cast(extent, tf.int32) - [top, left] - tf.shape(frame)[:2])
    return tf.pad(frame, tf.stack([[top, below], [left, right], [0, 0]]))
