"""RandAugment as in the official EfficientNetV2 training, and its single operations.

The table in `magnitudes.py` says what a magnitude means for each operation, and where the official
results differ from the textbook; the operations are in `operations.py`. Pixel values are uint8
before and after each of them.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer, check_number
from keras_effnetv2.augment import operations as ops
from keras_effnetv2.augment.magnitudes import RANDAUGMENT, AugmentLayer, PixelConstants

MAX_MAGNITUDE = 30  # the official code has [5, 30] in view, says its docstring

# In the official order, which is also the order of the drawn index.
OPERATIONS: dict[str, Callable[[tf.Tensor, AugmentLayer], tf.Tensor]] = {
    "AutoContrast": lambda image, layer: ops.auto_contrast(image),
    "Equalize": lambda image, layer: ops.equalize(image),
    "Invert": lambda image, layer: ops.invert(image),
    "Rotate": lambda image, layer: ops.rotate(image, layer.rotation),
    "Posterize": lambda image, layer: ops.posterize(image, layer.bits),
    "Solarize": lambda image, layer: ops.solarize(image, layer.threshold),
    "Color": lambda image, layer: ops.color(image, layer.factor),
    "Contrast": lambda image, layer: ops.contrast(image, layer.factor, layer.corrected),
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
    """Return an image as a tensor of static rank 3; ValueError unless it is uint8 (H, W, 3)."""
    image = tf.convert_to_tensor(image)
    if image.dtype != tf.uint8 or not image.shape.is_compatible_with([None, None, 3]):
        raise ValueError(
            "Augmentation works on one uint8 image of shape (H, W, 3), values 0..255. "
            f"Received: dtype {image.dtype.name}, shape {image.shape}. Augment single images "
            "before batching and before normalising; tf.cast(..., tf.uint8) floats in 0..255."
        )
    return tf.ensure_shape(image, [None, None, 3])


def check_seed(seed: tf.Tensor) -> tf.Tensor:
    """Return a stateless seed as a tensor; ValueError unless it is integer (2,)."""
    seed = tf.convert_to_tensor(seed)
    if not seed.dtype.is_integer or not seed.shape.is_compatible_with([2]):
        raise ValueError(
            "seed must be two integers, shape (2,), as for TensorFlow's stateless ops. "
            f"Received: dtype {seed.dtype.name}, shape {seed.shape}. For one number n pass (n, 0)."
        )
    return seed


def pixel_scale(image: tf.Tensor, reference_size: int | None) -> tf.Tensor:
    """Return the factor for the official arguments in pixels.

    It is min(H, W) / reference_size, or 1; float64, so int() truncates as in Python.
    """
    if reference_size is None:
        return tf.constant(1.0, tf.float64)
    return tf.cast(tf.reduce_min(tf.shape(image)[:2]), tf.float64) / reference_size


def one_of(
    steps: Sequence[tuple[str, float]], constants: PixelConstants, corrected: bool = False
) -> Callable[..., tf.Tensor]:
    """Return a function that applies one of several operations.

    In a graph it is one node for all calls, so a pipeline holds its operations once: every new
    iterator copies and optimizes them again.

    Args:
        steps: (name, magnitude) of each; the names are those of `OPERATIONS`.
        constants: the arguments in pixels.
        corrected: see `AugmentLayer`.

    Returns:
        Function of tensors: an index, int32 (len(steps) changes nothing); the image; three uniform
        draws from [0, 1), for sign, row and column; and the pixel scale.
    """

    def apply_step(name: str, magnitude: float, image: Any, draws: Any, scale: Any) -> Any:
        sides = tf.cast(tf.shape(image)[:2], tf.float32)
        row, column = tf.unstack(tf.cast(draws[1:] * sides, tf.int32), num=2)
        negate, center = draws[0] < 0.5, (row, column)
        layer = AugmentLayer(magnitude, constants, corrected, negate, center, scale)
        return OPERATIONS[name](image, layer)

    branches: list[Callable[..., Any]] = [functools.partial(apply_step, *step) for step in steps]
    branches.append(lambda image, draws, scale: tf.identity(image))

    def apply_one(index: Any, image: Any, draws: Any, scale: Any) -> Any:
        if tf.executing_eagerly():
            applied = branches[int(index)](image, draws, scale)
        else:
            applied = _one_case(index, branches, (image, draws, scale))
        return tf.ensure_shape(applied, image.shape)

    return apply_one if tf.executing_eagerly() else tf.function(apply_one, autograph=False)


def _one_case(index: Any, branches: Sequence[Callable[..., Any]], given: Sequence[Any]) -> Any:
    """Call one of several functions that return a uint8 tensor.

    As `tf.switch_case`, but it stays one op. TensorFlow replaces that of `tf.switch_case` by the
    nodes of all branches, and visits every one of them for each picture.
    """
    specs = [tf.TensorSpec(one.shape, one.dtype) for one in given]
    functions = [
        tf.function(branch, autograph=False).get_concrete_function(*specs) for branch in branches
    ]
    (result,) = tf.raw_ops.StatelessCase(
        branch_index=index, input=list(given), Tout=[tf.uint8], branches=functions
    )
    return result


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
    """Apply one operation, without randomness.

    Args:
        name: one of `OPERATION_NAMES`.
        image: uint8 (H, W, 3), values 0..255.
        magnitude: number in [0, 30]; the table in `magnitudes` explains it.
        negate: the other sign of Rotate, ShearX, ShearY, TranslateX, TranslateY (and, corrected,
            of Color, Contrast, Brightness, Sharpness); the others ignore it.
        center: (row, column) of the Cutout square in pixels; default (H // 2, W // 2). The others
            ignore it.
        reference_size: None for the official 100 (translation) and 40 (Cutout) pixels at magnitude
            10; a size R in pixels multiplies both by min(H, W) / R.
        corrected: without the quirks of the official code, see `magnitudes`.

    Returns:
        uint8 (H, W, 3).

    Raises:
        ValueError: the name is unknown, the magnitude is outside [0, 30], the image is not uint8
            (H, W, 3), or the reference size is not positive.
    """
    check_choice("name", name, OPERATION_NAMES)
    check_number("magnitude", magnitude, minimum=0, maximum=MAX_MAGNITUDE)
    check_number("reference_size", reference_size, minimum=1, or_none=True)
    image = checked_image(image)
    if center is None:
        height, width = tf.unstack(tf.shape(image)[:2])
        center = (height // 2, width // 2)
    scale = pixel_scale(image, reference_size)
    layer = AugmentLayer(float(magnitude), RANDAUGMENT, corrected, negate, center, scale)
    return tf.ensure_shape(OPERATIONS[name](image, layer), image.shape)


class RandAugment:
    """Apply `num_layers` random operations, all with one magnitude.

    Each layer draws one of the sixteen operations (uniformly, with replacement), a sign and a
    Cutout centre. Runs eagerly, in `tf.function` and in `tf.data.Dataset.map`, and computes only
    what was drawn.

    Example:
        augment = RandAugment(num_layers=2, magnitude=15, seed=0)
        dataset = dataset.map(lambda image, label: (augment(image), label))
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
        """Set up the augmentation.

        Args:
            num_layers: number of operations for an image; 0 returns it unchanged.
            magnitude: number in [0, 30]; official maxima are 10 (S), 15 (M) and 20 (L).
            seed: integer for draws that differ from call to call and repeat for a new object with
                the same seed; None for new ones (from `tf.random`'s global generator, which
                `tf.random.set_seed` controls). Parallel `map` calls use them in any order: pass
                `seed` to the call if the result must not depend on that. Create the object outside
                the traced function.
            reference_size: None for the official 100 (translation) and 40 (Cutout) pixels at
                magnitude 10 for any picture; a size R in pixels multiplies both by
                min(H, W) / R, so small pictures are not wiped out.
            corrected: without the quirks of the official code, see `magnitudes`.

        Raises:
            ValueError: an argument is out of range.
        """
        check_integer("num_layers", num_layers, minimum=0)
        check_number("magnitude", magnitude, minimum=0, maximum=MAX_MAGNITUDE)
        check_integer("seed", seed, or_none=True)
        check_number("reference_size", reference_size, minimum=1, or_none=True)
        self.num_layers = num_layers
        self.magnitude = float(magnitude)
        self.reference_size = reference_size
        self.corrected = corrected
        self._generator = None if seed is None else tf.random.Generator.from_seed(seed)

    def __call__(self, image: tf.Tensor, seed: tf.Tensor | None = None) -> tf.Tensor:
        """Augment one image.

        Args:
            image: uint8 (H, W, 3), values 0..255; H and W may be unknown while tracing.
            seed: integer (2,), a stateless seed: the result depends only on image and seed. None
                uses the next draw of this object.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ValueError: the image or the seed has another dtype or shape.
        """
        image = checked_image(image)
        seed = self._next_seed() if seed is None else check_seed(seed)
        # One draw for everything: an index, a sign, a row and a column for each layer.
        uniforms = tf.random.stateless_uniform([self.num_layers, 4], seed)
        scale = pixel_scale(image, self.reference_size)
        steps = [(name, self.magnitude) for name in OPERATIONS]
        apply_one = one_of(steps, RANDAUGMENT, self.corrected)
        for draws in tf.unstack(uniforms, num=self.num_layers):
            index = tf.cast(draws[0] * len(steps), tf.int32)
            image = apply_one(index, image, draws[1:], scale)
        return image

    def _next_seed(self) -> tf.Tensor:
        """Return the next stateless seed of this object, integer (2,)."""
        if self._generator is None:
            return tf.random.uniform([2], tf.int32.min, tf.int32.max, tf.int32)
        return self._generator.make_seeds(1)[:, 0]
