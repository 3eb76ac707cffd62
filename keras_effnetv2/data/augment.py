"""RandAugment as the official EfficientNetV2 training applies it.

Source of every number and oddity: google/automl, efficientnetv2/autoaugment.py
(`distort_image_with_randaugment`), run on TensorFlow 2.21; method: Cubuk et al. 2019,
arXiv:1909.13719. Pixel values are uint8 before and after each operation. `m` is the magnitude,
int() truncates, and +- marks an operation that draws a sign.

    operation     argument from m                what the official code does, oddities included
    ------------  -----------------------------  ---------------------------------------------------
    AutoContrast  none                           stretch each channel to 0..255; flat: unchanged
    Equalize      none                           Pillow's integer histogram equalisation by channel
    Invert        none                           255 - value
    Rotate        +- m / 10 * 30 degrees         nearest neighbour about ((W-1)/2, (H-1)/2)
    Posterize     int(m / 10 * 4) bits           MORE magnitude keeps MORE bits: m = 20 changes
                                                 nothing; 0 bits (m < 2.5) and over 8 (m >= 22.5,
                                                 the shift wraps) both keep one bit
    Solarize      threshold int(m / 10 * 256)    taken modulo 256: m = 10, 20, 30 and m = 0 invert
                                                 every value, m = 15 those from 128
    Color         factor m / 10 * 1.8 + 0.1      blend from grey; 1 (m = 5) is the identity, and
                                                 above it the effect is exaggerated and clipped
    Contrast      factor as Color                blend from min(255, H * W // 256): the pixel COUNT,
                                                 not the mean grey
    Brightness    factor as Color                blend from black
    Sharpness     factor as Color                blend from 3 x 3 smoothing; its border of one pixel
                                                 stays
    ShearX        +- m / 10 * 0.3                out(x, y) = in(x + level * y, y), about the corner
    ShearY        +- m / 10 * 0.3                out(x, y) = in(x, y + level * x), about the corner
    TranslateX    +- m / 10 * 100 pixels         out(x, y) = in(x + pixels, y), whatever the size
    TranslateY    +- m / 10 * 100 pixels         out(x, y) = in(x, y + pixels), whatever the size
    Cutout        pad int(m / 10 * 40) pixels    a square of side 2 * pad about a uniform centre,
                                                 clipped at the border, whatever the size
    SolarizeAdd   addition int(m / 10 * 110)     added to values below 128, then clipped

Geometry picks the nearest pixel; it and Cutout fill with 128. Blends truncate towards zero. A layer
always applies the operation it drew: the probability the official code draws beside it is unused.
"""

import functools
import math
import numbers
from collections.abc import Callable
from dataclasses import dataclass

import tensorflow as tf

from keras_effnetv2.data import augment_ops as ops

MAX_MAGNITUDE = 30
"""Upper end of the magnitudes the official code has in view (its docstring: [5, 30])."""


@dataclass(frozen=True)
class _Layer:
    """What one application of an operation is told, beside the picture.

    Attributes:
        level: magnitude / 10.
        negate: bool, or a scalar bool tensor; read by the operations that draw a sign.
        center: (row, column) of the Cutout square, int32.
        pixel_scale: multiplies the arguments that are pixels; float64 scalar, 1 is official.
    """

    level: float
    negate: bool | tf.Tensor
    center: tuple[int | tf.Tensor, int | tf.Tensor]
    pixel_scale: tf.Tensor

    @property
    def factor(self) -> float:
        """Blend factor of the four enhancing operations, 0.1 .. 5.5."""
        return self.level * 1.8 + 0.1

    def signed(self, argument: float) -> tf.Tensor:
        """Returns the argument with the drawn sign, float64 as Python would compute it."""
        value = tf.constant(argument, tf.float64)
        return tf.where(self.negate, -value, value)

    @property
    def translation(self) -> tf.Tensor:
        """Pixels of a translation, with the drawn sign; float64."""
        return self.signed(self.level * 100.0) * self.pixel_scale

    @property
    def cutout_pad(self) -> tf.Tensor:
        """Half the side of the Cutout square in pixels, int32."""
        return tf.cast(self.level * 40.0 * self.pixel_scale, tf.int32)


# In the official order, which is also the order of the drawn index.
_OPERATIONS: dict[str, Callable[[tf.Tensor, _Layer], tf.Tensor]] = {
    "AutoContrast": lambda image, layer: ops.auto_contrast(image),
    "Equalize": lambda image, layer: ops.equalize(image),
    "Invert": lambda image, layer: ops.invert(image),
    "Rotate": lambda image, layer: ops.rotate(image, layer.signed(layer.level * 30.0)),
    "Posterize": lambda image, layer: ops.posterize(image, int(layer.level * 4)),
    "Solarize": lambda image, layer: ops.solarize(image, int(layer.level * 256)),
    "Color": lambda image, layer: ops.color(image, layer.factor),
    "Contrast": lambda image, layer: ops.contrast(image, layer.factor),
    "Brightness": lambda image, layer: ops.brightness(image, layer.factor),
    "Sharpness": lambda image, layer: ops.sharpness(image, layer.factor),
    "ShearX": lambda image, layer: ops.shear_x(image, layer.signed(layer.level * 0.3)),
    "ShearY": lambda image, layer: ops.shear_y(image, layer.signed(layer.level * 0.3)),
    "TranslateX": lambda image, layer: ops.translate_x(image, layer.translation),
    "TranslateY": lambda image, layer: ops.translate_y(image, layer.translation),
    "Cutout": lambda image, layer: ops.cutout(image, layer.cutout_pad, layer.center),
    "SolarizeAdd": lambda image, layer: ops.solarize_add(image, int(layer.level * 110)),
}

OPERATION_NAMES = tuple(_OPERATIONS)
"""Names of the sixteen operations, in the official order."""


def _checked_image(image: tf.Tensor) -> tf.Tensor:
    """Returns the image as a tensor of static rank 3, or raises for another dtype or shape."""
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or not image.shape.is_compatible_with([None, None, 3]):
        raise ValueError(
            "RandAugment works on one uint8 image of shape (H, W, 3), values 0..255. "
            f"Received: dtype {image.dtype.name}, shape {image.shape}. Augment single images "
            "before batching and before normalising; tf.cast(..., tf.uint8) floats in 0..255."
        )
    return tf.ensure_shape(image, [None, None, 3])


def is_number(value: object) -> bool:
    """Tells whether a value is a finite number of Python or NumPy; a bool or a tensor is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def _is_integer(value: object) -> bool:
    """Tells whether a value is an integer of Python or NumPy; a bool or a tensor is not."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _checked_magnitude(magnitude: float) -> float:
    """Returns the magnitude as a float, or raises."""
    if not is_number(magnitude) or not 0 <= magnitude <= MAX_MAGNITUDE:
        raise ValueError(
            f"magnitude must be a Python number in [0, {MAX_MAGNITUDE}]. Received: {magnitude!r}. "
            "To train without RandAugment, do not call it (or use num_layers=0)."
        )
    return float(magnitude)


def _check_reference_size(reference_size: int | None) -> None:
    """Raises unless the reference size is None or a positive number of pixels."""
    if reference_size is not None and (not is_number(reference_size) or reference_size <= 0):
        raise ValueError(
            "reference_size must be a positive number of pixels, or None for the official "
            f"behaviour (pixel arguments whatever the picture). Received: {reference_size!r}."
        )


def check_seed(seed: tf.Tensor) -> tf.Tensor:
    """Returns a stateless seed as a tensor, or raises.

    Args:
        seed: integer tensor of shape (2,), as `tf.random.split` and the stateless ops of TensorFlow
            take it.

    Raises:
        ValueError: the seed has another shape or dtype.
    """
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or not seed.shape.is_compatible_with([2]):
        raise ValueError(
            "seed must be two integers, shape (2,), as TensorFlow's stateless ops take it. "
            f"Received: dtype {seed.dtype.name}, shape {seed.shape}. For one number n pass (n, 0)."
        )
    return seed


def _pixel_scale(image: tf.Tensor, reference_size: int | None) -> tf.Tensor:
    """Returns min(H, W) / reference_size, or 1; float64, so that int() truncates as in Python."""
    if reference_size is None:
        return tf.constant(1.0, tf.float64)
    return tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float64) / reference_size


def apply(
    name: str,
    image: tf.Tensor,
    magnitude: float,
    negate: bool = False,
    *,
    center: tuple[int, int] | None = None,
    reference_size: int | None = None,
) -> tf.Tensor:
    """Applies one operation, without chance.

    Args:
        name: one of `OPERATION_NAMES`.
        image: uint8 (H, W, 3), values 0..255.
        magnitude: number in [0, 30]; the table of this module tells what it means.
        negate: the other sign of Rotate, ShearX, ShearY, TranslateX, TranslateY; the eleven
            others have no sign and ignore it.
        center: (row, column) of the Cutout square in pixels; default (H // 2, W // 2). The others
            ignore it.
        reference_size: None for the official 100 (translation) and 40 (Cutout) pixels at magnitude
            10; a size R in pixels multiplies both by min(H, W) / R.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: unknown name, magnitude outside [0, 30], image not uint8 (H, W, 3), or a
            reference size that is not positive.
    """
    if name not in _OPERATIONS:
        raise ValueError(
            f"Unknown RandAugment operation. Allowed: {', '.join(OPERATION_NAMES)}. "
            f"Received: {name!r}."
        )
    level = _checked_magnitude(magnitude) / 10.0
    _check_reference_size(reference_size)
    image = _checked_image(image)
    if center is None:
        height, width = tf.unstack(tf.shape(image)[:2])
        center = (height // 2, width // 2)
    layer = _Layer(level, negate, center, _pixel_scale(image, reference_size))
    return tf.ensure_shape(_OPERATIONS[name](image, layer), image.shape)


class RandAugment:
    """Applies `num_layers` operations drawn at random, all at one magnitude.

    Each layer draws one of the sixteen operations (uniformly, with replacement), a sign and a
    Cutout centre. Runs eagerly, in `tf.function` and in `tf.data.Dataset.map`, and computes only
    what was drawn.

    Example:
        >>> augment = RandAugment(num_layers=2, magnitude=15, seed=0)
        >>> dataset = dataset.map(lambda image, label: (augment(image), label))
    """

    def __init__(
        self,
        num_layers: int = 2,
        magnitude: float = 15,
        seed: int | None = None,
        *,
        reference_size: int | None = None,
    ) -> None:
        """Sets up the augmentation.

        Args:
            num_layers: operations an image goes through; 0 returns it unchanged.
            magnitude: number in [0, 30]; official maxima are 10 (S), 15 (M) and 20 (L).
            seed: integer for draws that differ from call to call and repeat with a new object of
                the same seed; None for fresh ones (from `tf.random`'s global generator, so
                `tf.random.set_seed` holds). Parallel `map` calls share them in any order: pass
                `seed` to the call where the result must not depend on that. Create the object
                outside the function that is traced.
            reference_size: None for the official 100 (translation) and 40 (Cutout) pixels at
                magnitude 10, whatever the picture; a size R in pixels multiplies both by
                min(H, W) / R, so that small pictures are not wiped out.

        Raises:
            ValueError: an argument out of range.
        """
        if not _is_integer(num_layers) or num_layers < 0:
            raise ValueError(
                "num_layers must be an integer >= 0 (0 applies nothing, 2 is official). "
                f"Received: {num_layers!r}."
            )
        if seed is not None and not _is_integer(seed):
            raise ValueError(f"seed must be an integer or None. Received: {seed!r}.")
        _check_reference_size(reference_size)
        self.num_layers = num_layers
        self.magnitude = _checked_magnitude(magnitude)
        self.reference_size = reference_size
        self._generator = None if seed is None else tf.random.Generator.from_seed(seed)

    def __call__(self, image: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Augments one image.

        Args:
            image: uint8 (H, W, 3), values 0..255; H and W may be unknown while tracing.
            seed: integer (2,), a stateless seed: the result depends on image and seed alone. None
                takes the next draw of this object.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ValueError: another dtype or shape, of the image or the seed.
        """
        image = _checked_image(image)
        seed = self._next_seed() if seed is None else check_seed(seed)
        # One draw for everything: an index, a sign, a row and a column for each layer.
        uniforms = tf.random.stateless_uniform([self.num_layers, 4], seed)
        pixel_scale = _pixel_scale(image, self.reference_size)
        height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
        shape = image.shape
        for layer_uniforms in tf.unstack(uniforms, num=self.num_layers):
            index, sign, row, column = tf.unstack(layer_uniforms, num=4)
            layer = _Layer(
                level=self.magnitude / 10.0,
                negate=sign < 0.5,
                center=(tf.cast(row * height, tf.int32), tf.cast(column * width, tf.int32)),
                pixel_scale=pixel_scale,
            )
            branches = [functools.partial(op, image, layer) for op in _OPERATIONS.values()]
            drawn = tf.cast(index * len(branches), tf.int32)
            image = tf.ensure_shape(tf.switch_case(drawn, branches), shape)
        return image

    def _next_seed(self) -> tf.Tensor:
        """Returns a stateless seed, integer (2,): the next of this object."""
        if self._generator is None:
            return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
        return self._generator.make_seeds(1)[:, 0]
