"""AutoAugment's policy v0: the drawn sub-policies are applied as the official code does."""

import json
import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.augment import randaugment as augment
from keras_effnetv2.augment.autoaugment import POLICY_V0, AutoAugment
from keras_effnetv2.augment.magnitudes import AUTOAUGMENT, AugmentLayer

GOLDEN = pathlib.Path(__file__).parent / "golden" / "randaugment"
IMAGE = np.load(GOLDEN / "ops.npz")["input"]


def test_the_policy_has_the_published_shape():
    """Cubuk et al. 2018, Table 9: 25 sub-policies of two operations each."""
    assert [len(sub_policy) for sub_policy in POLICY_V0] == [2] * 25
    steps = [step for sub_policy in POLICY_V0 for step in sub_policy]
    assert {step.name for step in steps} <= set(
        json.loads((GOLDEN / "levels.json").read_text())["ops"]
    )
    assert all(0 <= step.probability <= 1 and 0 <= step.magnitude <= 10 for step in steps)
    # Sums over the table as it is printed in the official file.
    assert sum(step.magnitude for step in steps) == 240
    assert sum(step.probability for step in steps) == pytest.approx(29.8)


def apply_step(name, magnitude, image, negate=False, scale=1.0):
    scale = tf.constant(scale, tf.float64)
    layer = AugmentLayer(magnitude, AUTOAUGMENT, False, negate, (0, 0), scale)
    return augment.OPERATIONS[name](tf.constant(image), layer).numpy()


@pytest.fixture(scope="module")
def traced():
    specs = [tf.TensorSpec([None, None, 3], tf.uint8), tf.TensorSpec([2], tf.int64)]
    return tf.function(AutoAugment(reference_size=224), input_signature=specs)


def outcomes_of(sub_policy, image):
    """All pictures that a sub-policy can make of one, with the probability of each."""
    possible = {}

    def apply(position, pixels, probability):
        if not probability:
            return
        if position == 2:
            key = pixels.tobytes()
            possible[key] = possible.get(key, 0.0) + probability
            return
        step = sub_policy[position]
        apply(position + 1, pixels, probability * (1 - step.probability))
        for negate in (False, True):
            changed = apply_step(step.name, step.magnitude, pixels, negate, 24 / 224)
            apply(position + 1, changed, probability * step.probability / 2)

    apply(0, image, 1.0)
    return possible


def test_pictures_come_out_as_often_as_the_policy_says(traced):
    image = IMAGE[:24, :24]
    expected = {}
    for sub_policy in POLICY_V0:
        for key, probability in outcomes_of(sub_policy, image).items():
            expected[key] = expected.get(key, 0.0) + probability / len(POLICY_V0)
    assert sum(expected.values()) == pytest.approx(1)

    draws = 2500
    augmented = tf.data.Dataset.range(draws).map(
        lambda number: traced(image, tf.stack([number, 5]))
    )
    counts = dict.fromkeys(expected, 0)
    for output in augmented.as_numpy_iterator():
        counts[output.tobytes()] += 1  # a KeyError is a picture that no sub-policy makes
    for key, probability in expected.items():
        deviation = (draws * probability * (1 - probability)) ** 0.5
        assert abs(counts[key] - draws * probability) < 4.5 * deviation + 1


def test_translation_is_that_of_autoaugment():
    """TranslateY at magnitude 9 moves by 225 pixels, which RandAugment does at 22.5."""
    image = np.random.default_rng(0).integers(0, 256, (300, 20, 3), np.uint8)
    output = apply_step("TranslateY", 9, image)
    np.testing.assert_array_equal(output[:75], image[225:])
    assert (output[75:] == 128).all()


def test_the_same_seed_gives_the_same_picture_and_shapes_may_be_unknown(traced):
    seeds = [(number, 1) for number in range(8)]
    eager = [AutoAugment(reference_size=224)(IMAGE, seed).numpy() for seed in seeds]
    for seed, expected in zip(seeds, eager, strict=True):
        np.testing.assert_array_equal(traced(IMAGE, tf.constant(seed, tf.int64)), expected)
    assert len({output.tobytes() for output in eager}) > 4


def test_bad_arguments_are_named():
    with pytest.raises(ValueError, match="`reference_size` must be a number of at least 1"):
        AutoAugment(reference_size=0)
    with pytest.raises(ValueError, match=r"one uint8 image of shape \(H, W, 3\)"):
        AutoAugment()(IMAGE.astype(np.float32), (0, 0))
    with pytest.raises(ValueError, match="seed must be two integers"):
        AutoAugment()(IMAGE, 3)
