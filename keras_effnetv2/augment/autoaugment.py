"""AutoAugment's policy v0, with which the official code trained EfficientNetV2 B0-B3 and V1.

Source: google/automl, efficientnetv2/autoaugment.py (`policy_v0`), run on TensorFlow 2.21; method:
Cubuk et al. 2018, arXiv:1805.09501, Table 9 (ImageNet). The operations are RandAugment's, quirks
included (`magnitudes.py`), but with larger translations.
"""

from typing import NamedTuple

import tensorflow as tf

from keras_effnetv2._common.checks import check_number
from keras_effnetv2.augment.magnitudes import AUTOAUGMENT, WITHOUT_MAGNITUDE
from keras_effnetv2.augment.randaugment import (
    check_seed,
    checked_image,
    one_of,
    pixel_scale,
)


class PolicyStep(NamedTuple):
    """One half of a sub-policy: an operation, its probability, its magnitude 0..10."""

    name: str
    probability: float
    magnitude: float


POLICY_V0: tuple[tuple[PolicyStep, PolicyStep], ...] = tuple(
    (PolicyStep(*first), PolicyStep(*second))
    for first, second in (
        (("Equalize", 0.8, 1), ("ShearY", 0.8, 4)),
        (("Color", 0.4, 9), ("Equalize", 0.6, 3)),
        (("Color", 0.4, 1), ("Rotate", 0.6, 8)),
        (("Solarize", 0.8, 3), ("Equalize", 0.4, 7)),
        (("Solarize", 0.4, 2), ("Solarize", 0.6, 2)),
        (("Color", 0.2, 0), ("Equalize", 0.8, 8)),
        (("Equalize", 0.4, 8), ("SolarizeAdd", 0.8, 3)),
        (("ShearX", 0.2, 9), ("Rotate", 0.6, 8)),
        (("Color", 0.6, 1), ("Equalize", 1.0, 2)),
        (("Invert", 0.4, 9), ("Rotate", 0.6, 0)),
        (("Equalize", 1.0, 9), ("ShearY", 0.6, 3)),
        (("Color", 0.4, 7), ("Equalize", 0.6, 0)),
        (("Posterize", 0.4, 6), ("AutoContrast", 0.4, 7)),
        (("Solarize", 0.6, 8), ("Color", 0.6, 9)),
        (("Solarize", 0.2, 4), ("Rotate", 0.8, 9)),
        (("Rotate", 1.0, 7), ("TranslateY", 0.8, 9)),
        (("ShearX", 0.0, 0), ("Solarize", 0.8, 4)),
        (("ShearY", 0.8, 0), ("Color", 0.6, 4)),
        (("Color", 1.0, 0), ("Rotate", 0.6, 2)),
        (("Equalize", 0.8, 4), ("Equalize", 0.0, 8)),
        (("Equalize", 1.0, 4), ("AutoContrast", 0.6, 2)),
        (("ShearY", 0.4, 7), ("SolarizeAdd", 0.6, 7)),
        (("Posterize", 0.8, 2), ("Solarize", 0.6, 10)),
        (("Solarize", 0.6, 8), ("Equalize", 0.6, 1)),
        (("Color", 0.8, 6), ("Rotate", 0.4, 5)),
    )
)
"""The 25 sub-policies in the official order; each picture gets one of them."""


def _what_it_does(step: PolicyStep) -> tuple[str, float]:
    return step.name, 0 if step.name in WITHOUT_MAGNITUDE else step.magnitude


_STEPS = list(dict.fromkeys(_what_it_does(step) for steps in POLICY_V0 for step in steps))


class AutoAugment:
    """Apply a random sub-policy of `POLICY_V0`: two operations, each with its probability.

    Runs eagerly, in `tf.function` and in `tf.data.Dataset.map`, and computes only what was drawn.

    Example:
        augment = AutoAugment()
        dataset = dataset.enumerate().map(lambda number, image: augment(image, (0, number)))
    """

    def __init__(self, *, reference_size: int | None = None) -> None:
        """Set up the augmentation.

        Args:
            reference_size: None for the official 250 pixels of translation at magnitude 10 for any
                picture; a size R in pixels multiplies them by min(H, W) / R.

        Raises:
            ValueError: the reference size is not positive.
        """
        check_number("reference_size", reference_size, minimum=1, or_none=True)
        self.reference_size = reference_size

    def __call__(self, image: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
        """Augment one image.

        Args:
            image: uint8 (H, W, 3), values 0..255; H and W may be unknown while tracing.
            seed: integer (2,), a stateless seed: the result depends only on image and seed.

        Returns:
            uint8 (H, W, 3).

        Raises:
            ValueError: the image or the seed has another dtype or shape.
        """
        image = checked_image(image)
        # A sub-policy, then whether to apply, a sign, a row and a column for each of its halves.
        uniforms = tf.random.stateless_uniform([1 + 2 * 4], check_seed(seed))
        drawn = tf.cast(uniforms[0] * len(POLICY_V0), tf.int32)
        scale = pixel_scale(image, self.reference_size)
        apply_one = one_of(_STEPS, AUTOAUGMENT)
        for half, draws in enumerate(tf.split(uniforms[1:], 2)):
            steps = [sub_policy[half] for sub_policy in POLICY_V0]
            is_applied = draws[0] < tf.gather([step.probability for step in steps], drawn)
            index = tf.gather([_STEPS.index(_what_it_does(step)) for step in steps], drawn)
            index = tf.where(is_applied, index, len(_STEPS))
            image = apply_one(index, image, draws[1:], scale)
        return image
