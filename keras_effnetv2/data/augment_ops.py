"""The sixteen RandAugment operations on one picture; `augment.py` chooses among them.

Every function takes a uint8 (H, W, 3) tensor, H and W >= 1 and possibly unknown while tracing, and
returns the same shape and dtype. The arguments are already degrees, bits, pixels and factors; how a
magnitude becomes one of them, and where these operations differ from their textbook namesakes, is
the table in `augment.py`.

Two rules hold throughout, because they are what the official results contain: floats are truncated
towards zero when they become uint8, and arithmetic is float32 in the order written.

The point operations (invert, posterize, solarize, solarize_add, contrast, brightness,
auto_contrast, equalize) map a value to a value, given the picture's statistics.
"""

import math

import tensorflow as tf

FILL = 128
"""Grey that fills what a geometric operation uncovers and what Cutout removes, 0..255."""

SOLARIZE_ADD_THRESHOLD = 128
"""Values below it are brightened by SolarizeAdd."""

_VALUES = 256  # distinct values of a uint8
_BITS = 8


def _to_uint8(values: tf.Tensor) -> tf.Tensor:
    """Clips float values to 0..255 and truncates them towards zero."""
    return tf.cast(tf.clip_by_value(values, 0.0, 255.0), tf.uint8)


def _blend(degenerate: tf.Tensor, image: tf.Tensor, factor: float) -> tf.Tensor:
    """Moves from `degenerate` (factor 0) through `image` (factor 1) and beyond, then clips."""
    degenerate = tf.cast(degenerate, tf.float32)
    return _to_uint8(degenerate + factor * (tf.cast(image, tf.float32) - degenerate))


# ---- point operations --------------------------------------------------------------------------


def invert(image: tf.Tensor) -> tf.Tensor:
    """Returns 255 - value."""
    return 255 - image


def posterize(image: tf.Tensor, bits: int) -> tf.Tensor:
    """Keeps the upper `bits` bits of each value.

    The shift 8 - bits is a uint8, so it wraps below zero, and TensorFlow limits it to 7: bits <= 0
    and bits > 8 all keep one bit.
    """
    shift = min((_BITS - bits) % _VALUES, _BITS - 1)
    return tf.bitwise.bitwise_and(image, tf.constant((0xFF << shift) & 0xFF, tf.uint8))


def solarize(image: tf.Tensor, threshold: int) -> tf.Tensor:
    """Inverts the values at or above `threshold`, which meets uint8 values and so wraps at 256."""
    return tf.where(image < tf.constant(threshold % _VALUES, tf.uint8), image, 255 - image)


def solarize_add(image: tf.Tensor, addition: int) -> tf.Tensor:
    """Adds `addition` to the values below `SOLARIZE_ADD_THRESHOLD` and clips to 0..255."""
    added = tf.clip_by_value(tf.cast(image, tf.int32) + addition, 0, 255)
    return tf.where(image < SOLARIZE_ADD_THRESHOLD, tf.cast(added, tf.uint8), image)


def brightness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with black."""
    return _blend(tf.zeros([], tf.uint8), image, factor)


def contrast(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with one grey for the whole picture: min(255, H * W // 256), not its mean grey."""
    pixels = tf.reduce_prod(tf.shape(image)[:2])
    return _blend(tf.minimum(pixels // _VALUES, 255), image, factor)


def auto_contrast(image: tf.Tensor) -> tf.Tensor:
    """Stretches each channel to 0..255; a flat channel stays as it is."""
    low = tf.cast(tf.reduce_min(image, axis=[0, 1]), tf.float32)
    high = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.float32)
    scale = 255.0 / tf.maximum(high - low, 1.0)
    stretched = _to_uint8(tf.cast(image, tf.float32) * scale + -low * scale)
    return tf.where(high > low, stretched, image)


def equalize(image: tf.Tensor) -> tf.Tensor:
    """Flattens the histogram of each channel with Pillow's integer arithmetic.

    A channel whose pixels, the brightest value aside, number fewer than 255 stays as it is.
    """
    # Channel c counts in bins 256 * c ... 256 * c + 255: one histogram and one lookup for all.
    bins = tf.cast(image, tf.int32) + tf.constant([0, _VALUES, 2 * _VALUES])
    counts = tf.math.bincount(tf.reshape(bins, [-1]), minlength=3 * _VALUES, maxlength=3 * _VALUES)
    counts = tf.reshape(counts, [3, _VALUES])
    brightest = tf.cast(tf.reduce_max(image, axis=[0, 1]), tf.int32)
    step = (tf.reduce_sum(counts, axis=1) - tf.gather(counts, brightest, batch_dims=1)) // 255
    step = step[:, tf.newaxis]
    below = tf.cumsum(counts, axis=1, exclusive=True)
    # The official table is shifted by one: its first entry is 0, without the rounding term.
    flattened = tf.where(
        tf.range(_VALUES) > 0, (below + step // 2) // tf.maximum(step, 1), tf.zeros_like(below)
    )
    table = tf.where(step > 0, tf.minimum(flattened, 255), tf.range(_VALUES))
    return tf.gather(tf.reshape(tf.cast(table, tf.uint8), [-1]), bins)


# ---- colour and neighbourhood ------------------------------------------------------------------


def color(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the grey version of the picture (ITU-R BT.601 luma)."""
    return _blend(tf.image.rgb_to_grayscale(image), image, factor)


def sharpness(image: tf.Tensor, factor: float) -> tf.Tensor:
    """Blends with the picture smoothed by ((1, 1, 1), (1, 5, 1), (1, 1, 1)) / 13.

    The border of one pixel is not smoothed, so a picture under 3 x 3 comes back unchanged. The nine
    products are added one after the other, row by row: a convolution op leaves order and fused
    multiply-adds to the machine, and each rounding can become a whole unit when truncated.
    """
    height, width = tf.shape(image)[0], tf.shape(image)[1]
    values = tf.cast(image, tf.float32)
    neighbours = tf.pad(values * (1.0 / 13.0), [[1, 1], [1, 1], [0, 0]])
    smooth = tf.zeros_like(values)
    for row in range(3):
        for column in range(3):
            if row == column == 1:
                smooth += values * (5.0 / 13.0)
            else:
                smooth += neighbours[row : row + height, column : column + width]
    rows, columns = tf.range(height)[:, tf.newaxis], tf.range(width)
    inner = (rows > 0) & (rows < height - 1) & (columns > 0) & (columns < width - 1)
    degenerate = tf.where(inner[..., tf.newaxis], _to_uint8(smooth), image)
    return _blend(degenerate, image, factor)


# ---- geometry ----------------------------------------------------------------------------------


def _transform(image: tf.Tensor, matrix: tuple[tuple, tuple]) -> tf.Tensor:
    """Fetches each output pixel (x, y) from the nearest input pixel, `FILL` outside.

    Args:
        image: uint8 (H, W, 3).
        matrix: ((a, b, c), (d, e, f)), float32: the input point is (a x + b y + c, d x + e y + f).
    """
    projective = tf.stack([*matrix[0], *matrix[1], 0.0, 0.0])
    output = tf.raw_ops.ImageProjectiveTransformV3(
        images=image[tf.newaxis],
        transforms=projective[tf.newaxis],
        output_shape=tf.shape(image)[:2],
        fill_value=float(FILL),
        interpolation="NEAREST",
        fill_mode="CONSTANT",
    )
    return output[0]


def rotate(image: tf.Tensor, degrees: tf.Tensor) -> tf.Tensor:
    """Rotates about the centre ((W - 1) / 2, (H - 1) / 2); `degrees` is a float64 scalar."""
    radians = tf.cast(degrees * (math.pi / 180.0), tf.float32)
    cosine, sine = tf.cos(radians), tf.sin(radians)
    bottom = tf.cast(tf.shape(image)[0], tf.float32) - 1.0
    right = tf.cast(tf.shape(image)[1], tf.float32) - 1.0
    shift_x = (right - (cosine * right - sine * bottom)) / 2.0
    shift_y = (bottom - (sine * right + cosine * bottom)) / 2.0
    return _transform(image, ((cosine, -sine, shift_x), (sine, cosine, shift_y)))


def shear_x(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Shears along x about the top left corner: out(x, y) = in(x + level * y, y)."""
    return _transform(image, ((1.0, tf.cast(level, tf.float32), 0.0), (0.0, 1.0, 0.0)))


def shear_y(image: tf.Tensor, level: tf.Tensor) -> tf.Tensor:
    """Shears along y about the top left corner: out(x, y) = in(x, y + level * x)."""
    return _transform(image, ((1.0, 0.0, 0.0), (tf.cast(level, tf.float32), 1.0, 0.0)))


def translate_x(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Moves the picture to the left by `pixels`: out(x, y) = in(x + pixels, y)."""
    return _transform(image, ((1.0, 0.0, tf.cast(pixels, tf.float32)), (0.0, 1.0, 0.0)))


def translate_y(image: tf.Tensor, pixels: tf.Tensor) -> tf.Tensor:
    """Moves the picture up by `pixels`: out(x, y) = in(x, y + pixels)."""
    return _transform(image, ((1.0, 0.0, 0.0), (0.0, 1.0, tf.cast(pixels, tf.float32))))


def cutout(image: tf.Tensor, pad: tf.Tensor, center: tuple[tf.Tensor, tf.Tensor]) -> tf.Tensor:
    """Fills rows [row - pad, row + pad) and columns [column - pad, column + pad) with `FILL`.

    Args:
        image: uint8 (H, W, 3).
        pad: int32 scalar, half the side of the square in pixels; 0 fills nothing.
        center: (row, column), int32; what lies outside the picture is clipped.
    """
    rows = tf.range(tf.shape(image)[0])[:, tf.newaxis]
    columns = tf.range(tf.shape(image)[1])
    in_rows = (rows >= center[0] - pad) & (rows < center[0] + pad)
    in_columns = (columns >= center[1] - pad) & (columns < center[1] + pad)
    square = (in_rows & in_columns)[..., tf.newaxis]
    return tf.where(square, tf.constant(FILL, tf.uint8), image)
