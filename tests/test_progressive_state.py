"""ProgressiveLearning: what a training carries from stage to stage, and what it lets go of."""

import gc
import weakref

import keras
import numpy as np
import pytest
from helpers.progressive_probe import (
    EPOCHS,
    STAGES,
    STEPS,
    build_model,
    make_dataset,
    no_dropout_model,
    only_tensorflow,
    train,
)

from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.recipes.schedule import WarmupSchedule
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.training.progressive import ProgressiveLearning


def state_of(model):
    """Copies of all there is to carry over: weights and seeds, optimizer, averages."""
    averages = model.optimizer.weight_averages
    variables = {
        "model": model.variables,
        "optimizer": model.optimizer.variables,
        "averages": [*averages.values, averages.step],
    }
    return {
        part: [np.array(keras.ops.convert_to_numpy(variable)) for variable in group]
        for part, group in variables.items()
    }


class Boundaries(keras.callbacks.Callback):
    """Notes the state at the end of every epoch and right before the first step of the next."""

    def __init__(self):
        super().__init__()
        self.before, self.after = {}, {}

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0:
            self.before[self.epoch] = state_of(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_epoch_end(self, epoch, logs=None):
        self.after[epoch] = state_of(self.model)


@only_tensorflow
@pytest.mark.parametrize("fit_args", [{}, {"steps_per_epoch": 2}], ids=str)
def test_state_crosses_every_boundary_bit_by_bit(fit_args):
    rate = WarmupSchedule(0.01, steps_per_epoch=4, warmup_epochs=1)
    optimizer = keras.optimizers.RMSprop(rate, rho=0.9, momentum=0.9)
    model = build_model(optimizer=optimizer, run_eagerly=True)
    boundaries = Boundaries()
    train(
        model,
        ProgressiveLearning(make_dataset, STAGES),
        [EMA(0.99, swap_on_epoch=False), boundaries],
        **fit_args,
    )
    for epoch in range(EPOCHS):
        after = boundaries.after[epoch]
        done = sum(STEPS[: epoch + 1]) if not fit_args else 2 * (epoch + 1)
        assert after["optimizer"][0] == after["averages"][-1] == done  # both count the steps
        if epoch == 0:  # the slots are made in the first step
            continue
        last = boundaries.after[epoch - 1]
        for part, variables in boundaries.before[epoch].items():
            for ours, expected in zip(variables, last[part], strict=True):
                assert ours.dtype == expected.dtype
                np.testing.assert_array_equal(ours, expected, err_msg=f"{part}, {epoch=}")
            # All of it moves in every epoch: nothing above compares two constants.
            for new, old in zip(after[part], last[part], strict=True):
                assert not np.array_equal(new, old), f"{part}, {epoch=}: {new}"


@only_tensorflow
def test_learning_rate_runs_on_over_the_stages():
    """A bias with the gradient 1 under plain SGD: its steps are the learning rates in force."""

    class Bias(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.values = [0.0]

        def on_train_batch_end(self, batch, logs=None):
            bias = self.model.get_layer("learned").bias
            self.values.append(float(keras.ops.convert_to_numpy(bias)[0]))

    rate = WarmupSchedule(
        0.1, steps_per_epoch=4, warmup_epochs=1, decay_epochs=1.5, decay_factor=0.5
    )
    model = build_model(
        optimizer=keras.optimizers.SGD(rate),
        loss=lambda y, outputs: outputs[:, 0],
        run_eagerly=True,
    )
    bias = Bias()
    train(model, ProgressiveLearning(make_dataset, STAGES), [bias])
    steps = range(sum(STEPS))
    expected = [0.1 * step / 4 if step < 4 else 0.1 * 0.5 ** (step // 6) for step in steps]
    np.testing.assert_allclose(-np.diff(bias.values), expected, atol=1e-6)


@only_tensorflow
def test_weights_are_those_of_a_plain_training():
    """They equal those of a training over the same batches without any callback, bit by bit."""
    model, plain = build_model(), build_model()
    plain.set_weights(model.get_weights())
    model.get_layer("stochastic_depth").rate = plain.get_layer("stochastic_depth").rate = 0.0
    train(model, ProgressiveLearning(make_dataset, STAGES))
    for epoch in range(EPOCHS):
        plain.fit(make_dataset(STAGES.at(epoch), epoch), verbose=0)
    for ours, expected in zip(
        [*model.optimizer.variables, *model.trainable_variables],
        [*plain.optimizer.variables, *plain.trainable_variables],
        strict=True,
    ):
        np.testing.assert_array_equal(
            keras.ops.convert_to_numpy(ours), keras.ops.convert_to_numpy(expected)
        )


@only_tensorflow  # JAX reads one dataset more, to build the model
def test_old_datasets_are_freed():
    made, alive = [], []

    def dataset(stage, epoch):
        alive.append(sum(reference() is not None for reference in made))
        data = make_dataset(stage, epoch)
        made.append(weakref.ref(data))
        return data

    progressive = ProgressiveLearning(
        dataset, progressive_stages(epochs=6, stages=6, image_size=64)
    )
    model = no_dropout_model()
    model.run_eagerly = True
    model.fit(progressive.dataset, epochs=6, callbacks=[progressive], verbose=0)
    gc.collect()
    assert alive == [0] * 6
    assert [reference() for reference in made] == [None] * 6
