"""What exports are judged with: differences, agreement, the float64 copy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.served_models import make_model, pixels

from keras_effnetv2.export.check import (
    answers_of,
    batches_of,
    beyond_rounding,
    in_dtype,
    largest_difference,
    top1_agreement,
)


def test_differences_and_agreement_of_all_pictures():
    pictures = pixels(19)
    batches = batches_of(pictures)
    assert [len(batch) for batch in batches] == [8, 8, 3]
    one = answers_of(lambda images: tf.reduce_mean(images, [1, 2]) / 255, batches)
    np.testing.assert_allclose(one, pictures.mean((1, 2)) / 255, rtol=1e-5)
    other = one.copy()
    other[-1] = [1, 0.5, 0.25]
    other[0] += 1e-3
    assert largest_difference(one, one) == 0
    assert largest_difference(one, other) == pytest.approx(np.abs(one[-1] - other[-1]).max())
    assert np.isnan(largest_difference(one, other * np.nan))
    assert top1_agreement(one, one[:, ::-1]) == (one.argmax(1) == 1).mean()
    assert top1_agreement(np.array([[0.4], [0.6]]), np.array([[0.1], [0.2]])) == 0.5


def test_a_float64_copy_has_the_values_and_nothing_of_the_original():
    half = keras.Sequential([keras.Input((24, 24, 3)), make_model(policy="mixed_bfloat16")])
    copy = in_dtype(half, "float64")
    assert {layer.compute_dtype for layer in copy.layers[1].layers} == {"float64"}
    np.testing.assert_allclose(
        copy(pixels(2), training=False), make_model()(pixels(2), training=False), atol=1e-6
    )
    rounding, reason = beyond_rounding(0.3, half, [pixels(2)])
    assert 1e-4 < rounding < 0.07
    assert reason.startswith("0.3. The limit is 0.0001, or 4 times")
    assert beyond_rounding(rounding, half, [pixels(2)]) == (rounding, "")
    assert beyond_rounding(1e-5, half, [pixels(2)]) == (None, "")
    copy.set_weights([0 * weight for weight in copy.get_weights()])
    assert any(np.any(weight) for weight in half.get_weights())
