"""The learning rate that the range test suggests, on a loss whose limit is known."""

import keras
import numpy as np
import pytest

import keras_effnetv2 as kev2

pytestmark = pytest.mark.backend

# (w - 1)^2 for every batch; its second derivative is 2, so gradient descent diverges above 2 / 2.
BATCHES = [(np.ones((4, 1), "float32"), np.ones((4, 1), "float32"))] * 3


def line(optimizer, weight=0.0):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(optimizer, "mse")
    model.set_weights([np.full((1, 1), weight, "float32")])
    return model


def test_the_rate_is_a_tenth_of_the_one_before_the_loss_grows():
    model = line(keras.optimizers.SGD(0.5))
    curve = kev2.find_learning_rate(model, BATCHES, lowest=1e-4, highest=100.0, steps=60)
    assert curve.rates[:2] == pytest.approx((1e-4, 1e-4 * 10 ** (6 / 59)))
    assert curve.losses[0] == pytest.approx(1.0, rel=1e-3)
    assert 1 < curve.rates[-1] < 100, "ends early, and not before the limit of stable rates"
    assert 0.03 < curve.suggestion < 1
    assert curve.suggestion * 10 in [pytest.approx(rate) for rate in curve.rates]
    assert model.get_weights()[0] == 0, "the model itself has learned nothing"
    assert float(model.optimizer.learning_rate) == 0.5


def test_a_schedule_and_frozen_layers_are_taken():
    schedule = kev2.WarmupSchedule(0.1, steps_per_epoch=5, warmup_epochs=1, schedule="constant")
    model = line(keras.optimizers.Adam(schedule))
    assert 0 < kev2.find_learning_rate(model, BATCHES, steps=40).suggestion < 0.1
    model.add(keras.layers.Dense(1, use_bias=False, kernel_initializer="zeros"))
    model.layers[0].trainable = False  # with the weight 0, so that the other one has no gradient
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="The loss never fell between the rates 1e-06 and 1"):
        kev2.find_learning_rate(model, BATCHES, steps=10)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"dataset": []}, "no batches"),
        ({"dataset": iter(BATCHES[:2])}, "read more than once"),  # would be read without end
        ({"lowest": 0.0}, "lowest"),
        ({"highest": 1e-7}, "highest"),
        ({"steps": 9}, "steps"),
        ({"model": keras.Sequential()}, r"model\.compile"),
    ],
)
def test_arguments_outside_their_range_are_refused(arguments, words):
    usual = {"model": line("sgd"), "dataset": BATCHES}
    with pytest.raises(ValueError, match=words):
        kev2.find_learning_rate(**usual | arguments)
