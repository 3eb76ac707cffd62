"""RandAugment as the official EfficientNetV2 training applies it, and its single operations.

What a magnitude means to each operation, and where the official results leave the textbook, is the
table in `augment_levels.py`; the operations are in `augment_ops.py`. Pixel values are uint8 before
and after each of them.
"""

import functools
import math
import numbers
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import tensorflow as tf

from keras_effnetv2.augment import magnitudes as levels
from keras_effnetv2.augment import operations as ops

MAX_MAGNITUDE = 30
"""Upper end of the magnitudes the official code has in view (its docstring: [5, 30])."""


@dataclass(frozen=True)
class Layer:
    """What one application of an operation is told, beside the picture.

    Attributes:
        magnitude: number in [0, `MAX_MAGNITUDE`].
        constants: the arguments that are pixels.
        corrected: take out the quirks of the official code.
        negate: bool, or a scalar bool tensor; read by the operations that draw a sign.
        center: (row, column) of the Cutout square, int32.
        pixel_scale: multiplies the arguments that are pixels; float64 scalar, 1 is official.
    """

    magnitude: float
    constants: levels.PixelConstants
    corrected: bool
    negate: bool | tf.Tensor
    center: tuple[int | tf.Tensor, int | tf.Tensor]
    pixel_scale: tf.Tensor

    def signed(self, argument: float) -> tf.Tensor:
        """Returns the argument with the drawn sign, float64 as Python would compute it."""
        value = tf.constant(argument, tf.float64)
        return tf.where(self.negate, -value, value)

    @property
    def rotation(self) -> tf.Tensor:
        """Degrees with the drawn sign; float64."""
        return self.signed(levels.rotation(self.magnitude))

    @property
    def shear(self) -> tf.Tensor:
        """Pixels sideways a pixel along, with the drawn sign; float64."""
        return self.signed(levels.shear(self.magnitude))

    @property
    def translation(self) -> tf.Tensor:
        """Pixels with the drawn sign; float64."""
        return self.signed(levels.translation(self.magnitude, self.constants)) * self.pixel_scale

    @property
    def cutout_pad(self) -> tf.Tensor:
        """Half the side of the Cutout square in pixels, int32."""
        pad = levels.cutout_pad(self.magnitude, self.constants)
        return tf.cast(pad * self.pixel_scale, tf.int32)

    @property
    def factor(self) -> float | tf.Tensor:
        """Blend factor of the four enhancing operations."""
        if not self.corrected:
            return levels.enhance_factor(self.magnitude)
        step = self.signed(levels.enhance_step(self.magnitude))
        return tf.cast(tf.maximum(1.0 + step, 0.0), tf.float32)

    @property
    def bits(self) -> int:
        """Bits that Posterize keeps."""
        return levels.posterize_bits(self.magnitude, self.corrected)

    @property
    def threshold(self) -> int:
        """Lowest value that Solarize inverts."""
        return levels.solarize_threshold(self.magnitude, self.corrected)

    @property
    def addition(self) -> int:
        """What SolarizeAdd adds."""
        return levels.solarize_addition(self.magnitude)


def _contrast(image: tf.Tensor, layer: Layer) -> tf.Tensor:
    operation = ops.contrast_about_mean if layer.corrected else ops.contrast
    return operation(image, layer.factor)


# In the official order, which is also the order of the drawn index.
OPERATIONS: dict[str, Callable[[tf.Tensor, Layer], tf.Tensor]] = {
    "AutoContrast": lambda image, layer: ops.auto_contrast(image),
    "Equalize": lambda image, layer: ops.equalize(image),
    "Invert": lambda image, layer: ops.invert(image),
    "Rotate": lambda image, layer: ops.rotate(image, layer.rotation),
    "Posterize": lambda image, layer: ops.posterize(image, layer.bits),
    "Solarize": lambda image, layer: ops.solarize(image, layer.threshold),
    "Color": lambda image, layer: ops.color(image, layer.factor),
    "Contrast": _contrast,
    "Brightness": lambda image, layer: ops.brightness(image, layer.factor),
    "Sharpness": lambda image, layer: ops.sharpness(image, layer.factor),
    "ShearX": lambda image, layer: ops.shear_x(image, layer.shear),
    "ShearY": lambda image, layer: ops.shear_y(image, layer.shear),
    "TranslateX": lambda image, layer: ops.translate_x(image, layer.translation),
    "TranslateY": lambda image, layer: ops.translate_y(image, layer.translation),
    "Cutout": lambda image, layer: ops.cutout(image, layer.cutout_pad, layer.center),
    "SolarizeAdd": lambda image, layer: ops.solarize_add(image, layer.addition),
}

OPERATION_NAMES = tuple(OPERATIONS)
"""Names of the sixteen operations, in the official order."""


def checked_image(image: tf.Tensor) -> tf.Tensor:
    """Returns an image as a tensor of static rank 3.

    Args:
        image: uint8 (H, W, 3), values 0..255.

    Raises:
        ValueError: another dtype or shape.
    """
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or not image.shape.is_compatible_with([None, None, 3]):
        raise ValueError(
            "Augmentation works on one uint8 image of shape (H, W, 3), values 0..255. "
            f"Received: dtype {image.dtype.name}, shape {image.shape}. Augment single images "
            "before batching and before normalising; tf.cast(..., tf.uint8) floats in 0..255."
        )
    return tf.ensure_shape(image, [None, None, 3])


def is_number(value: object) -> bool:
    """Tells whether a value is a finite number of Python or NumPy; a bool or a tensor is not."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: object) -> bool:
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


def check_reference_size(reference_size: int | None) -> None:
    """Raises ValueError unless `reference_size` is None or a positive number of pixels."""
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


def pixel_scale(image: tf.Tensor, reference_size: int | None) -> tf.Tensor:
    """Returns what multiplies the arguments that are pixels, of a policy's official ones.

    Args:
        image: (H, W, 3).
        reference_size: pixels, or None for the official arguments.

    Returns:
        min(H, W) / reference_size, or 1; float64, so that int() truncates as in Python.
    """
    if reference_size is None:
        return tf.constant(1.0, tf.float64)
    return tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float64) / reference_size


def drawn_center(
    image: tf.Tensor, row: tf.Tensor, column: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Returns a pixel (row, column), int32.

    Args:
        image: (H, W, 3).
        row: uniform draw in [0, 1).
        column: the same.
    """
    height, width = tf.unstack(tf.cast(tf.shape(image)[:2], tf.float32))
    return tf.cast(row * height, tf.int32), tf.cast(column * width, tf.int32)


def one_of(
    steps: Sequence[tuple[str, float]], constants: levels.PixelConstants, corrected: bool = False
) -> Callable[..., tf.Tensor]:
    """Returns a function that applies one of several operations.

    In a graph it is one node wherever it is called, so that a pipeline holds its operations once:
    every new iterator copies and optimizes them anew.

    Args:
        steps: (name, magnitude) of each; the names are those of `OPERATIONS`.
        constants: the arguments that are pixels.
        corrected: see `Layer`.

    Returns:
        Function of (index, image, negate, row, column, pixel scale), all tensors: an int32, what
        the operations take, and what `Layer` holds. An index of len(steps) changes nothing.
    """

    def apply_one(
        index: tf.Tensor,
        image: tf.Tensor,
        negate: tf.Tensor,
        row: tf.Tensor,
        column: tf.Tensor,
        scale: tf.Tensor,
    ) -> tf.Tensor:
        def apply_step(name: str, magnitude: float) -> tf.Tensor:
            layer = Layer(magnitude, constants, corrected, negate, (row, column), scale)
            return out_of_line(OPERATIONS[name], image, layer)

        branches = [functools.partial(apply_step, *step) for step in steps]
        applied = tf.switch_case(index, [*branches, functools.partial(tf.identity, image)])
        return tf.ensure_shape(applied, image.shape)

    return apply_one if tf.executing_eagerly() else tf.function(apply_one, autograph=False)


def out_of_line(
    operation: Callable[[tf.Tensor, Layer], tf.Tensor], image: tf.Tensor, layer: Layer
) -> tf.Tensor:
    """Applies an operation, in a graph as a function of its own.

    Otherwise the nodes of all branches that were not drawn would be visited for nothing.

    Args:
        operation: one of `OPERATIONS`.
        image: uint8 (H, W, 3).
        layer: what it is told.
    """
    if tf.executing_eagerly():
        return operation(image, layer)
    attributes = {"_noinline": True}
    function = functools.partial(operation, image, layer)
    return tf.function(function, autograph=False, experimental_attributes=attributes)()


def apply(
    name: str,
    image: tf.Tensor,
    magnitude: float,
    negate: bool = False,
    *,
    center: tuple[int, int] | None = None,
    reference_size: int | None = None,
    corrected: bool = False,
) -> tf.Tensor:
    """Applies one operation, without chance.

    Args:
        name: one of `OPERATION_NAMES`.
        image: uint8 (H, W, 3), values 0..255.
        magnitude: number in [0, 30]; the table of `augment_levels` tells what it means.
        negate: the other sign of Rotate, ShearX, ShearY, TranslateX, TranslateY (and, corrected,
            of Color, Contrast, Brightness, Sharpness); the others ignore it.
        center: (row, column) of the Cutout square in pixels; default (H // 2, W // 2). The others
            ignore it.
        reference_size: None for the official 100 (translation) and 40 (Cutout) pixels at magnitude
            10; a size R in pixels multiplies both by min(H, W) / R.
        corrected: without the quirks of the official code, see `augment_levels`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: unknown name, magnitude outside [0, 30], image not uint8 (H, W, 3), or a
            reference size that is not positive.
    """
    if name not in OPERATIONS:
        raise ValueError(
            f"Unknown RandAugment operation. Allowed: {', '.join(OPERATION_NAMES)}. "
            f"Received: {name!r}."
        )
    magnitude = _checked_magnitude(magnitude)
    check_reference_size(reference_size)
    image = checked_image(image)
    if center is None:
        height, width = tf.unstack(tf.shape(image)[:2])
        center = (height // 2, width // 2)
    scale = pixel_scale(image, reference_size)
    layer = Layer(magnitude, levels.RANDAUGMENT, corrected, negate, center, scale)
    return tf.ensure_shape(OPERATIONS[name](image, layer), image.shape)


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
        corrected: bool = False,
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
            corrected: without the quirks of the official code, see `augment_levels`.

        Raises:
            ValueError: an argument out of range.
        """
        if not is_integer(num_layers) or num_layers < 0:
            raise ValueError(
                "num_layers must be an integer >= 0 (0 applies nothing, 2 is official). "
                f"Received: {num_layers!r}."
            )
        if seed is not None and not is_integer(seed):
            raise ValueError(f"seed must be an integer or None. Received: {seed!r}.")
        check_reference_size(reference_size)
        self.num_layers = num_layers
        self.magnitude = _checked_magnitude(magnitude)
        self.reference_size = reference_size
        self.corrected = corrected
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
        image = checked_image(image)
        seed = self._next_seed() if seed is None else check_seed(seed)
        # One draw for everything: an index, a sign, a row and a column for each layer.
        uniforms = tf.random.stateless_uniform([self.num_layers, 4], seed)
        scale = pixel_scale(image, self.reference_size)
        steps = [(name, self.magnitude) for name in OPERATIONS]
        apply_one = one_of(steps, levels.RANDAUGMENT, self.corrected)
        for layer_uniforms in tf.unstack(uniforms, num=self.num_layers):
            index, sign, row, column = tf.unstack(layer_uniforms, num=4)
            drawn = tf.cast(index * len(steps), tf.int32)
            center = drawn_center(image, row, column)
            image = apply_one(drawn, image, sign < 0.5, *center, scale)
        return image

    def _next_seed(self) -> tf.Tensor:
        """Returns a stateless seed, integer (2,): the next of this object."""
        if self._generator is None:
            return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
        return self._generator.make_seeds(1)[:, 0]
