"""What exports are judged with: the drawn pictures, the difference, the float64 copy."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.served_models import make_model, pixels

from keras_effnetv2.export.check import check_pictures, in_dtype, largest_difference


@pytest.mark.parametrize("size", [1, 7, 32])
def test_pictures_are_in_range_and_the_same_every_time(size):
    pictures = check_pictures(size).numpy()
    assert (pictures.shape, pictures.dtype) == ((8, size, size, 3), np.float32)
    assert pictures.min() == 0
    assert pictures.max() == 255
    np.testing.assert_array_equal(pictures, check_pictures(size))


def test_pictures_differ_in_what_they_hold():
    pictures = check_pictures(32).numpy()
    assert len(np.unique(pictures.reshape(8, -1), axis=0)) == 8
    black, white, pixel_board, large_board, ramp, noise, dark, patches = pictures
    assert (black.max(), white.min()) == (0, 255)
    for board, step in ((pixel_board, 1), (large_board, 8)):
        np.testing.assert_array_equal(board[step:], 255 - board[:-step])
    np.testing.assert_allclose(np.diff(ramp[:, 0, 0]), 255 / 31, rtol=1e-4)
    assert dark.mean() < 64 < noise.mean()
    # Neighbours in patches are alike, those in noise are not.
    assert np.abs(np.diff(patches, axis=0)).mean() < 0.3 * np.abs(np.diff(noise, axis=0)).mean()


def test_the_largest_difference_of_all_pictures():
    pictures = check_pictures(8)

    def off_for_the_last(images):
        return tf.reduce_sum(images, [1, 2]) + tf.cast(
            tf.reduce_all(images == pictures[-1], [1, 2, 3]), tf.float32
        )[:, tf.newaxis] * [0.0, -64.0, 32.0]

    def exact(images):
        return tf.reduce_sum(images, [1, 2])

    assert largest_difference(exact, exact, 8) == 0
    assert largest_difference(exact, off_for_the_last, 8) == pytest.approx(64, abs=0.1)
    assert np.isnan(largest_difference(exact, lambda images: exact(images) * np.nan, 8))


def test_a_float64_copy_has_the_values_and_nothing_of_the_original():
    half = keras.Sequential([keras.Input((24, 24, 3)), make_model(policy="mixed_bfloat16")])
    copy = in_dtype(half, "float64")
    assert {layer.compute_dtype for layer in copy.layers[1].layers} == {"float64"}
    np.testing.assert_allclose(
        copy(pixels(2), training=False), make_model()(pixels(2), training=False), atol=1e-6
    )
    copy.set_weights([0 * weight for weight in copy.get_weights()])
    assert any(np.any(weight) for weight in half.get_weights())
