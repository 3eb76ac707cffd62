"""Training crops: a random rectangle of a picture, made square, without decoding more than needed.

Two things make it fast. Only the rectangle of a JPEG is decoded. And if the rectangle is at least
two, four or eight times as large as the result, the JPEG's inverse cosine transform produces it at
a half, a quarter or an eighth of its size. Plain bilinear interpolation of the full picture, as in
the official code, would skip pixels there; the reduced decode averages them. For other formats and
beyond eight the pixels are averaged after decoding.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2.images.decode import WHITE, Colour, decode_image
from keras_effnetv2.images.evaluation_crop import (
    central_window,
    cut,
    resize_bicubic,
    resize_bilinear,
)
from keras_effnetv2.images.headers import JPEG, is_jpeg
from keras_effnetv2.images.orientation import (
    AS_STORED,
    orientation,
    stored_window,
    turned,
    turned_shape,
)
from keras_effnetv2.images.styles import CROP_STYLES

_REDUCTIONS = (1, 2, 4, 8)  # what the JPEG decoder offers
_BLOCKS = (*_REDUCTIONS, 16, 32, 64)  # sides of what is averaged after decoding


@dataclass(frozen=True)
class _Style:
    """How a rectangle is drawn and resized."""

    area: tuple[float, float]  # smallest and largest share of the picture; (1, 1) is all of it
    aspect_ratio: tuple[float, float] = (0.75, 1.33)  # smallest and largest width / height
    # As `tf.image.sample_distorted_bounding_box` takes it, with the whole picture as the object.
    min_object_covered: float = 0.0
    attempts: int = 100  # draws before the whole picture is used
    # TensorFlow 1's bicubic interpolation instead of bilinear (neither with antialias), and the
    # central square of evaluation if no draw fits.
    is_v1: bool = False


_STYLES = {
    "v2": _Style(area=(0.05, 1.0)),
    "v1": _Style((0.08, 1.0), (3 / 4, 4 / 3), min_object_covered=0.1, attempts=10, is_v1=True),
    "finetune": _Style(area=(1.0, 1.0)),
}


def decode_random_crop(
    data: Any,
    image_size: int,
    seed: Any,
    *,
    style: str = "v2",
    area: tuple[float, float] | None = None,
    reduced_decode: bool = True,
    exif: bool = True,
    background: Colour = WHITE,
) -> Any:
    """Decode a random rectangle of a picture file, as viewers show it, and make it square.

    A pure function of the bytes and the seed. The styles are those of the official code
    (google/automl):

    - "v2" (`preprocessing.py`): shares of the area from (0.05, 1), bilinear. Trained S to XL.
    - "v1" (`preprocess_legacy.py`): (0.08, 1), TensorFlow 1's bicubic interpolation, whose result
      may leave 0..255; the central square of evaluation where no draw fits. Trained V2 B0-B3, V1.
    - "finetune" (`preprocess_for_finetune`): the whole picture, bilinear.

    Args:
        data: scalar string tensor, the bytes of a picture file, see `decode_image`. The part
            of a JPEG below the rectangle is not read, so damage there is not found.
        image_size: height and width of the result in pixels.
        seed: integers (2,), as `tf.random.stateless_uniform` takes them.
        style: one of `CROP_STYLES`.
        area: smallest and largest share of the area instead of the style's,
            0 < smallest <= largest <= 1; (1, 1) takes the whole picture.
        reduced_decode: average blocks of 2 x 2, 4 x 4, ... pixels before interpolating, if the
            rectangle is that much larger than the result. The JPEG decoder returns blocks up to
            8 x 8 faster than single pixels. False is official: pixels in between are skipped.
        exif: as for `decode_image`.
        background: as for `decode_image`.

    Returns:
        float32 (image_size, image_size, 3), 0..255 ("v1" may leave that range).

    Raises:
        ValueError: the style is unknown, the range is empty or out of bounds, the size is not a
            positive whole number, or the background is not a colour.
        tf.errors.InvalidArgumentError: as `decode_image`, when the op runs.
    """
    check_integer("image_size", image_size, minimum=1)
    area = crop_area(style, area)
    rule = _STYLES[style]

    def decode_jpeg() -> Any:
        turn = orientation(data, JPEG) if exif else AS_STORED
        shape = turned_shape(tf.io.extract_jpeg_shape(data), turn)
        window = _draw_window(shape, image_size, seed, rule, area)
        return _decode_jpeg_window(data, window, shape, turn, image_size, reduced_decode)

    def decode_other() -> Any:
        image = decode_image(data, exif=exif, background=background)
        return cut(image, _draw_window(tf.shape(image), image_size, seed, rule, area))

    # The bytes of other formats decode whole, and much more slowly.
    image = tf.cond(is_jpeg(data), decode_jpeg, decode_other)
    image = tf.ensure_shape(image, [None, None, 3])
    if reduced_decode:
        image = _average(image, image_size)  # of a JPEG what is still large at an eighth
    return (resize_bicubic if rule.is_v1 else resize_bilinear)(image, image_size)


def crop_area(style: str, area: tuple[float, float] | None = None) -> tuple[float, float]:
    """Return the smallest and largest share of a picture's area: those given, or the style's own.

    Raises:
        ValueError: the style is unknown, or the range is empty or out of bounds.
    """
    check_choice("style", style, CROP_STYLES)
    if area is None:
        return _STYLES[style].area
    if not 0 < area[0] <= area[1] <= 1:
        raise ValueError(
            f"area must be (smallest, largest) with 0 < smallest <= largest <= 1. Received: {area}"
        )
    return area


def _draw_window(shape: Any, size: int, seed: Any, rule: _Style, area: tuple[float, float]) -> Any:
    """Draw a rectangle: int32 (4,), top, left, height, width."""
    if area[0] == 1:
        return tf.concat([[0, 0], shape[:2]], axis=0)
    begin, extent, _ = tf.image.stateless_sample_distorted_bounding_box(
        shape,
        bounding_boxes=tf.constant([[[0.0, 0.0, 1.0, 1.0]]]),
        seed=seed,
        min_object_covered=rule.min_object_covered,
        aspect_ratio_range=rule.aspect_ratio,
        area_range=area,
        max_attempts=rule.attempts,
    )
    window = tf.stack([*tf.unstack(begin)[:2], *tf.unstack(extent)[:2]])
    if not rule.is_v1:
        return window
    no_draw_fits = tf.reduce_all(tf.equal(extent[:2], shape[:2]))
    return tf.where(no_draw_fits, central_window(shape, size, round_up=True), window)


def _largest(blocks: tuple[int, ...], extent: Any, size: int) -> Any:
    """Return the index of the largest ascending block that fits `size` times into each side.

    The first block is 1, for pictures too small for the others.
    """
    fits = tf.constant([size * block for block in blocks[1:]], tf.int32) <= tf.reduce_min(extent)
    return tf.reduce_sum(tf.cast(fits, tf.int32))


def _decode_jpeg_window(
    data: Any, window: Any, shape: Any, turn: Any, size: int, reduced: bool
) -> Any:
    """Decode a window of a JPEG whose turned shape is given; the result is turned, too."""
    reductions = _REDUCTIONS if reduced else (1,)
    index = _largest(reductions, window[2:], size)
    # The window counts the pixels that come out.
    reduction = tf.gather(reductions, index)
    stored = stored_window(window // reduction, -(-shape // reduction), turn)
    decode = partial(tf.io.decode_and_crop_jpeg, data, stored, channels=3)
    image = tf.switch_case(index, [partial(decode, ratio=ratio) for ratio in reductions])
    return turned(image, turn)


def _average(image: Any, size: int) -> Any:
    """Average blocks of pixels, the largest that fit `size` times into each side; uint8."""
    index = _largest(_BLOCKS, tf.shape(image)[:2], size)

    def average() -> Any:
        values = tf.expand_dims(tf.cast(image, tf.float32), 0)
        pools = [partial(tf.nn.avg_pool2d, values, n, n, "VALID") for n in _BLOCKS[1:]]
        return tf.cast(tf.round(tf.squeeze(tf.switch_case(index - 1, pools), 0)), tf.uint8)

    averaged = tf.cond(index > 0, average, lambda: image)
    return tf.ensure_shape(averaged, [None, None, 3])
