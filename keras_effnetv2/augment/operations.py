"""The sixteen RandAugment operations on one picture; `randaugment.py` chooses among them.

Every function takes a uint8 (H, W, 3) tensor, H and W >= 1 and possibly unknown while tracing, and
returns the same shape and dtype. The arguments are already degrees, bits, pixels and factors; the
table in `magnitudes.py` says how a magnitude becomes one of them, and how these operations differ
from the textbook ones.

Two rules always hold, because the official results follow them: floats are truncated towards zero
when they become uint8, and arithmetic is float32 in the order written.

The code is written for speed in TensorFlow. Float arithmetic on whole tensors of equal shape runs
at memory speed; a comparison with `tf.where`, a byte-wise lookup and broadcasting along the three
channels cost several times as much. So thresholds are clipped differences, numbers for channels are
spread over a row (H, 3 W) before they are used, and geometry looks up whole pixels.

A sum of several terms is written with minus signs: in a graph TensorFlow's arithmetic optimizer
puts chains of additions into another order, which rounds otherwise. It leaves subtractions alone.
"""

import math
from typing import Any

import tensorflow as tf

FILL = 128  # the grey of what a geometric operation uncovers and what Cutout removes
_VALUES = 256  # distinct values of a uint8
_LUMA = (0.2989, 0.5870, 0.1140)  # of tf.image.rgb_to_grayscale
# Added before floor() it rounds halves up, and never a number below one half.
_BELOW_HALF = 0.5 - 2**-25


def to_uint8(values: Any) -> Any:
    """Clip float values to 0..255 and truncate them towards zero."""
    return tf.cast(tf.minimum(tf.maximum(values, 0.0), 255.0), tf.uint8)


def _blend(degenerate: Any, values: Any, factor: Any) -> Any:
    """Move float values from `degenerate` (factor 0) through themselves (1) and beyond."""
    return to_uint8(degenerate + factor * (values - degenerate))


def _rows(image: Any) -> Any:
    """Lay the channels side by side: float32 (H, 3 W)."""
    return tf.cast(tf.reshape(image, tf.stack([tf.shape(image)[0], -1])), tf.float32)


def _along_row(channels: Any, image: Any) -> Any:
    """Repeat three numbers, one per channel, over a row of the image: (3 W,)."""
    return tf.tile(channels, tf.shape(image)[1:2])


def _at_least(values: Any, threshold: int) -> Any:
    """Return for whole float values whether they reach the threshold: 1.0 or 0.0."""
    return tf.minimum(tf.maximum(values - (threshold - 1.0), 0.0), 1.0)


# ---- point operations --------------------------------------------------------------------------


def invert(image: Any) -> Any:
    """Return 255 - value."""
    return 255 - image


def posterize(image: Any, bits: int) -> Any:
    """Keep the upper `bits` bits of each value, 0..8; 0 bits leave black."""
    return tf.bitwise.bitwise_and(image, tf.constant(0xFF << (8 - bits) & 0xFF, tf.uint8))


def solarize(image: Any, threshold: int) -> Any:
    """Invert the values at or above `threshold`, 0..256."""
    values = tf.cast(image, tf.float32)
    return tf.cast(values + _at_least(values, threshold) * (255.0 - 2.0 * values), tf.uint8)


def solarize_add(image: Any, addition: int) -> Any:
    """Add `addition` (>= 0) to the values below 128 and clip at 255."""
    values = tf.cast(image, tf.float32)
    below = 1.0 - _at_least(values, 128)
    return tf.cast(tf.minimum(values + addition * below, 255.0), tf.uint8)


def brightness(image: Any, factor: Any) -> Any:
    """Blend with black."""
    return to_uint8(factor * tf.cast(image, tf.float32))


def contrast(image: Any, factor: Any, about_mean: bool = False) -> Any:
    """Blend with one grey for the whole picture.

    Officially it is min(255, H * W // 256); `about_mean` uses the rounded mean, as Pillow does.
    """
    if about_mean:
        grey = tf.floor(tf.reduce_mean(_grey(image)) + 0.5)
    else:
        pixels = tf.reduce_prod(tf.shape(image)[:2])
        grey = tf.cast(tf.minimum(pixels // _VALUES, 255), tf.float32)
    return _blend(grey, tf.cast(image, tf.float32), factor)


def auto_contrast(image: Any) -> Any:
    """Stretch each channel to 0..255; a flat channel stays as it is."""
    rows = _rows(image)
    low = tf.reduce_min(tf.reshape(tf.reduce_min(rows, axis=0), [-1, 3]), axis=0)
    high = tf.reduce_max(tf.reshape(tf.reduce_max(rows, axis=0), [-1, 3]), axis=0)
    scale = tf.where(high > low, 255.0 / tf.maximum(high - low, 1.0), 1.0)
    offset = tf.where(high > low, -low * scale, 0.0)
    stretched = rows * _along_row(scale, image) + _along_row(offset, image)
    # It reaches from 0 to just above 255 at most, so nothing is clipped.
    return tf.reshape(tf.cast(stretched, tf.uint8), tf.shape(image))


def equalize(image: Any) -> Any:
    """Flatten the histogram of each channel with Pillow's integer arithmetic.

    A channel whose pixels, the brightest value aside, number fewer than 255 stays as it is.
    """
    height, width = tf.unstack(tf.shape(image)[:2])
    # Channel c counts in bins 256 * c ... 256 * c + 255: one histogram and one lookup for all.
    first_bins = _along_row(tf.constant([0, _VALUES, 2 * _VALUES]), image)
    values = tf.cast(tf.reshape(image, tf.stack([height, -1])), tf.int32)
    bins = tf.reshape(values + first_bins, [-1])
    # The op behind tf.math.bincount, without its three passes that look for the largest value.
    no_weights = tf.zeros([0], tf.int32)
    counts = tf.raw_ops.Bincount(arr=bins, size=3 * _VALUES, weights=no_weights)
    counts = tf.reshape(counts, [3, _VALUES])
    brightest = tf.reduce_max(tf.where(counts > 0, tf.range(_VALUES), 0), axis=1)
    step = (height * width - tf.gather(counts, brightest, batch_dims=1)) // 255
    step = step[:, tf.newaxis]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    # The official table is shifted by one: its first entry is 0, without the rounding term.
    flattened = tf.where(
        tf.range(_VALUES) > 0, (below + step // 2) // tf.maximum(step, 1), tf.zeros_like(below)
    )
    table = tf.where(step > 0, tf.minimum(flattened, 255), tf.range(_VALUES))
    table = tf.reshape(tf.cast(table, tf.uint8), [-1])
    return tf.reshape(tf.gather_nd(table, bins[:, tf.newaxis]), tf.shape(image))


# ---- colour and neighbourhood ------------------------------------------------------------------


def _grey(image: Any) -> Any:
    """Return `tf.image.rgb_to_grayscale` (ITU-R BT.601 luma): whole float32 (H, W)."""
    red, green, blue = tf.unstack(tf.cast(image, tf.float32) * (1 / 255), axis=2)
    luma = (red * _LUMA[0] - green * -_LUMA[1]) - blue * -_LUMA[2]
    return tf.floor(luma * 255.5)


def color(image: Any, factor: Any) -> Any:
    """Blend with the grey version of the picture."""
    # A product with ones is the cheapest way to write each grey value three times.
    grey = tf.matmul(tf.reshape(_grey(image), [-1, 1]), tf.ones([1, 3]))
    values = tf.reshape(tf.cast(image, tf.float32), [-1, 3])
    return tf.reshape(_blend(grey, values, factor), tf.shape(image))


def sharpness(image: Any, factor: Any) -> Any:
    """Blend with the picture smoothed by ((1, 1, 1), (1, 5, 1), (1, 1, 1)) / 13.

    The border of one pixel is not smoothed, so a picture under 3 x 3 comes back unchanged. The nine
    products are added one after the other, row by row: a convolution op leaves order and fused
    multiply-adds to the machine, and each rounding can become a whole unit when truncated.
    """
    rows = _rows(image)
    inner = rows[1:-1]
    middle = rows * (1.0 / 13.0)
    # In the flat picture a neighbour is a shift. What leaves a row meets the border only. Whole
    # rows are taken out of a tensor without copying them, if their length suits.
    padded = tf.concat([tf.zeros([3]), tf.reshape(middle, [-1]), tf.zeros([3])], axis=0)
    left, right = (tf.reshape(shifted, tf.shape(rows)) for shifted in (padded[:-6], padded[6:]))
    minus_smooth = 0.0 - left[:-2]
    for term in (
        *(middle[:-2], right[:-2]),
        *(left[1:-1], inner * (5.0 / 13.0), right[1:-1]),
        *(left[2:], middle[2:], right[2:]),
    ):
        minus_smooth -= term
    sharpened = _blend(tf.floor(0.0 - minus_smooth), inner, factor)
    flat = tf.reshape(image, tf.shape(rows))
    kept = flat[1:-1]
    sharpened = tf.concat([kept[:, :3], sharpened[:, 3:-3], kept[:, 3:][:, -3:]], axis=1)
    return tf.reshape(tf.concat([flat[:1], sharpened, flat[1:][-1:]], axis=0), tf.shape(image))


# ---- geometry ----------------------------------------------------------------------------------


def _nearest(place: Any, size: Any) -> Any:
    """Round float coordinates to whole pixels, int32; -1 and `size` are outside."""
    place = tf.minimum(tf.maximum(place, -1.0), tf.cast(size, tf.float32))
    # -0.5 is rounded away from zero, so it lies outside.
    return tf.cast(tf.floor(place + _BELOW_HALF), tf.int32)


def _coordinates(image: Any) -> tuple[Any, Any]:
    """Return y (H, 1) and x (W,) of the pixels, int32."""
    height, width = tf.unstack(tf.shape(image)[:2])
    return tf.range(height)[:, tf.newaxis], tf.range(width)


def _fetch(image: Any, row: Any, column: Any) -> Any:
    """Fetch each output pixel from a row and column of the input, `FILL` outside.

    The same as the op ImageProjectiveTransformV3, which takes longer because it computes positions
    for every channel.

    Args:
        image: uint8 (H, W, 3).
        row: int32, -1 to H.
        column: int32, -1 to W; both broadcast to (H, W).
    """
    bordered = tf.pad(image, [[1, 1], [1, 1], [0, 0]], constant_values=FILL)
    places = (row + 1) * tf.shape(bordered)[1] + (column + 1)
    # It takes half the time of tf.gather, which calls memcpy for every pixel.
    pixels = tf.gather_nd(tf.reshape(bordered, [-1, 3]), tf.reshape(places, [-1, 1]))
    return tf.reshape(pixels, tf.shape(image))


def rotate(image: Any, degrees: Any) -> Any:
    """Rotate about the centre ((W - 1) / 2, (H - 1) / 2); `degrees` is a float64 scalar."""
    radians = tf.cast(degrees * (math.pi / 180.0), tf.float32)
    cosine, sine = tf.cos(radians), tf.sin(radians)
    y, x = (tf.cast(places, tf.float32) for places in _coordinates(image))
    bottom, right = y[-1, 0], x[-1]
    shift_x = (right - (cosine * right - sine * bottom)) / 2.0
    shift_y = (bottom - (sine * right + cosine * bottom)) / 2.0
    column = _nearest((cosine * x - sine * y) - (0.0 - shift_x), tf.size(x))
    row = _nearest((sine * x - (0.0 - cosine) * y) - (0.0 - shift_y), tf.size(y))
    return _fetch(image, row, column)


def shear_x(image: Any, level: Any) -> Any:
    """Shear along x about the top left corner: out(x, y) = in(x + level * y, y)."""
    y, x = _coordinates(image)
    return _fetch(image, y, _moved(x, tf.cast(level, tf.float32) * tf.cast(y, tf.float32)))


def shear_y(image: Any, level: Any) -> Any:
    """Shear along y about the top left corner: out(x, y) = in(x, y + level * x)."""
    y, x = _coordinates(image)
    return _fetch(image, _moved(y, tf.cast(level, tf.float32) * tf.cast(x, tf.float32)), x)


def translate_x(image: Any, pixels: Any) -> Any:
    """Move the picture to the left by `pixels`: out(x, y) = in(x + pixels, y)."""
    y, x = _coordinates(image)
    return _fetch(image, y, _moved(x, pixels))


def translate_y(image: Any, pixels: Any) -> Any:
    """Move the picture up by `pixels`: out(x, y) = in(x, y + pixels)."""
    y, _ = _coordinates(image)
    bordered = tf.pad(image, [[1, 1], [0, 0], [0, 0]], constant_values=FILL)
    return tf.gather(bordered, _moved(y, pixels)[:, 0] + 1)


def _moved(axis: Any, distance: Any) -> Any:
    """Return coordinates along an axis, all of it, moved by a distance in pixels."""
    return _nearest(tf.cast(axis, tf.float32) + tf.cast(distance, tf.float32), tf.size(axis))


def cutout(image: Any, pad: Any, center: tuple[Any, Any]) -> Any:
    """Fill rows [row - pad, row + pad) and columns [column - pad, column + pad) with `FILL`.

    Args:
        image: uint8 (H, W, 3).
        pad: int32 scalar, half the side of the square in pixels; 0 fills nothing.
        center: (row, column), int32; what lies outside the picture is clipped.
    """

    def span(position: Any, size: Any) -> tuple[Any, Any]:
        return tf.clip_by_value(position - pad, 0, size), tf.clip_by_value(position + pad, 0, size)

    height, width = tf.unstack(tf.shape(image)[:2])
    (top, bottom), (left, right) = span(center[0], height), span(center[1], width)
    hole = tf.fill(tf.stack([bottom - top, right - left, 3]), tf.constant(FILL, tf.uint8))
    band = image[top:bottom]
    band = tf.concat([band[:, :left], hole, band[:, right:]], axis=1)
    return tf.concat([image[:top], band, image[bottom:]], axis=0)
