"""Picture files to RGB pixels, as TensorFlow ops (see `headers.py` for the reason).

TensorFlow's own decoders do the work. They get only the first frame of an animated GIF or WebP:
they would decode every frame, and `tf.io.decode_image` with `expand_animations=False` ends the
process for some WebP animations (TensorFlow 2.21).
"""

import functools
from typing import Any

import tensorflow as tf

from keras_effnetv2.images.headers import (
    FORMATS,
    Frame,
    branches,
    check_image,
    format_index,
    gif_frame,
    webp_frame,
)


def decode_image(data: Any, accurate: bool = False) -> Any:
    """Decode a picture file to RGB.

    JPEG with TensorFlow's default settings, as the official `preprocessing.py` does: the fast
    integer DCT and smooth chroma upsampling. Gray and palette pictures become RGB, CMYK too (no
    colour profile is applied). The high byte of 16-bit samples and the first frame of an animation
    are used; alpha is dropped. EXIF orientation is not applied (nor in the official code).

    Args:
        data: scalar string tensor, the bytes of a JPEG, PNG, BMP, GIF or WebP file.
        accurate: decode a JPEG with the exact integer DCT, as Pillow does. It takes longer; grey
            levels differ by 1.2 on average.

    Returns:
        uint8 tensor (height, width, 3), 0..255.

    Raises:
        tf.errors.InvalidArgumentError: the bytes are not such a picture, or it is truncated or
            corrupt; raised when the op runs. A damaged JPEG with an intact structure is decoded.
    """
    return _decoder("INTEGER_ACCURATE" if accurate else "")(data)


# These graph functions are traced once a process, not at every use. The one for other formats is
# kept out of line: for a JPEG its hundreds of ops would otherwise be visited for nothing, three
# times the decoding time of a small picture.
@functools.cache
def _decoder(dct_method: str) -> Any:
    def decode(data: Any) -> Any:
        decode_jpeg = functools.partial(tf.io.decode_jpeg, channels=3, dct_method=dct_method)
        decode_png = functools.partial(tf.io.decode_png, channels=3)
        image = tf.switch_case(
            format_index(data),
            branches([decode_jpeg, decode_png], data),
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
    with tf.control_dependencies([tf.debugging.Assert(tf.equal(reason, ""), [reason])]):
        data = tf.identity(data)
    decoders = [lambda data: tf.io.decode_bmp(data)[:, :, :3], _decode_gif, _decode_webp]
    return tf.switch_case(format_index(data) - FORMATS.index("BMP"), branches(decoders, data))


def _decode_gif(data: Any) -> Any:
    frame = gif_frame(data, tf.int32.max)
    return _on_canvas(tf.io.decode_gif(frame.alone)[0], frame)


def _decode_webp(data: Any) -> Any:
    frame = webp_frame(data)
    return _on_canvas(tf.io.decode_webp(frame.alone)[0, :, :, :3], frame)


def _on_canvas(pixels: Any, frame: Frame) -> Any:
    """Lay a frame on black where it does not cover the whole picture."""
    before, size = tf.cast(frame.offset, tf.int32), tf.shape(pixels)[:2]
    after = tf.cast(frame.extent, tf.int32) - before - size
    margins = tf.stack([before, after], axis=1)
    return tf.pad(pixels, tf.concat([margins, [[0, 0]]], axis=0))
