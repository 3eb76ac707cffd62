"""ProgressiveLearning on TensorFlow's own kernels: one trace of the train step for all stages."""

import copy
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers.progressive_probe import (
    SIZES,
    STAGES,
    STEPS,
    build_model,
    check_epoch,
    make_dataset,
    only_tensorflow,
    train,
)

from keras_effnetv2.training.progressive import ProgressiveLearning

pytestmark = only_tensorflow


def judged_by_stage():
    """Stages, with the validation pictures of each; those of the last one are larger."""

    def validation(size):
        return make_dataset(replace(STAGES[0], image_size=size), 0)

    return ProgressiveLearning(make_dataset, STAGES, make_validation=validation, evaluation_size=60)


def check_validation(log):
    sizes = (*SIZES[:3], 60, 60)
    assert [row["val_pixels"] for row in log.values()] == [sizes[epoch] ** 2 for epoch in log]


def shapes_of(log):
    return [row["shapes"] for row in log.values()]


@pytest.mark.parametrize("steps", [1, 2], ids=["step_by_step", "two_steps_in_one"])
def test_one_trace_serves_all_stages_and_the_validation(steps):
    model = build_model(jit_compile=False, steps_per_execution=steps, nested=True)
    validated = []
    tested = model.test_step
    model.test_step = lambda data: validated.append(data) or tested(data)
    progressive = judged_by_stage()
    log = train(model, progressive, validation_data=progressive.validation)
    assert shapes_of(log) == [[(None, None, None, 3)], [], [], [], []]
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["iterations"] == sum(STEPS[: epoch + 1])
    assert len(validated) == 1
    check_validation(log)


@pytest.mark.slow  # XLA compiles twice
def test_with_xla_one_trace_a_stage():
    progressive = judged_by_stage()
    model = build_model(jit_compile=True)
    log = train(model, progressive, validation_data=progressive.validation, initial_epoch=2)
    check_validation(log)
    assert shapes_of(log) == [[(None, 48, 48, 3)], [(None, 56, 56, 3)], []]
    for epoch, row in log.items():
        check_epoch(epoch, row)


class Sizes(keras.layers.Layer):
    """Passes pictures on, and notes their sides where they are known; may insist on that."""

    def __init__(self, is_strict=False):
        super().__init__()
        self.seen, self.is_strict = [], is_strict

    def call(self, x):
        self.seen.append(x.shape[1])
        return x[:, : x.shape[1] // 2] if self.is_strict else x

    def compute_output_shape(self, shape):
        return shape


def network(*first, dropouts=(), dtype="float32"):
    """A regression that every drop of a Dropout has an influence on."""
    last = [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(32), *dropouts]
    layers = [keras.Input((None, None, 3)), *first, *last, keras.layers.Dense(2, dtype=dtype)]
    return keras.Sequential(layers)


def fit(model, stages=STAGES, callbacks=(), **options):
    model.compile(keras.optimizers.SGD(0.001), "mse", **{"jit_compile": False, **options})
    progressive = ProgressiveLearning(make_dataset, stages)
    epochs = progressive.epochs
    history = model.fit(
        progressive.dataset,
        epochs=epochs,
        shuffle=False,
        callbacks=[progressive, *callbacks],
        verbose=0,
    )
    assert len(history.history["loss"]) == epochs
    assert model.optimizer.iterations == (sum(STEPS) if stages is STAGES else epochs * 2)
    return model


def dropouts(seed=1):
    return [keras.layers.Dropout(0.5, seed=seed), keras.layers.Dropout(0.4, (None, 1), seed=2)]


def test_the_rate_that_is_read_drops_what_a_constant_one_drops():
    shared, constant = network(dropouts=dropouts()), network(dropouts=dropouts())
    constant.set_weights(shared.get_weights())
    fit(shared)
    fit(constant, run_eagerly=True)
    for one, other in zip(shared.get_weights(), constant.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)
    other = network(dropouts=dropouts(seed=3))
    assert not np.allclose(fit(other).get_weights()[0], shared.get_weights()[0], rtol=1e-3)


def test_outside_of_the_steps_the_layer_is_a_plain_one(tmp_path):
    class Look(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.rates = []

        def on_epoch_end(self, epoch, logs=None):
            layer = self.model.layers[2]
            path = tmp_path / "model.keras"
            self.model.save(path)
            copies = (
                keras.models.load_model(path).layers[2],
                keras.models.clone_model(self.model).layers[2],
                copy.deepcopy(self.model).layers[2],
            )
            assert {type(one) for one in (layer, *copies)} == {keras.layers.Dropout}
            assert "call" not in vars(layer)
            rates = [layer.rate, layer.get_config()["rate"], *(one.rate for one in copies)]
            assert {type(rate) for rate in rates} == {float}
            (rate,) = set(rates)
            self.rates.append(rate)

    look = Look()
    model = fit(network(dropouts=dropouts()), callbacks=[look])
    assert look.rates == pytest.approx([0.1, 0.3, 0.5, 0.7, 0.7])
    assert model.layers[2].rate == pytest.approx(0.7)


def test_a_train_function_that_a_callback_makes_is_replaced():
    class Again(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:
                self.model.make_train_function(force=True)

    log = train(
        build_model(jit_compile=False), ProgressiveLearning(make_dataset, STAGES), [Again()]
    )
    assert [len(row["shapes"]) for row in log.values()] == [1, 1, 0, 0, 0]
    for epoch, row in log.items():
        check_epoch(epoch, row)


def test_models_with_a_loss_or_a_call_of_their_own_are_left_to_keras():
    """Their variables are made in the first step, as in a plain `fit`."""

    class WithLoss(keras.Model):
        def compute_loss(self, x, y, y_pred, sample_weight=None, training=True):
            self.aux = getattr(self, "aux", None) or keras.layers.Dense(1)
            loss = super().compute_loss(x, y, y_pred, sample_weight)
            return loss + keras.ops.mean(keras.ops.square(self.aux(y_pred)))

    class Doubled(keras.Model):
        def call(self, x, training=None):
            result = super().call(x, training=training)
            return result, 2 * result

    def twice(stage, epoch):
        return make_dataset(stage, epoch).map(lambda images, labels: (images, (labels, labels)))

    for kind, loss, data in ((WithLoss, "mse", make_dataset), (Doubled, ["mse", "mae"], twice)):
        plain = network(dropouts=dropouts())
        model = kind(plain.inputs, plain.outputs)
        model.compile("adam", loss, jit_compile=False)
        progressive = ProgressiveLearning(data, STAGES)
        model.fit(progressive.dataset, epochs=2, shuffle=False, callbacks=[progressive], verbose=0)
        assert model.optimizer.iterations == sum(STEPS[:2])


def test_a_model_that_needs_sizes_is_traced_at_every_stage():
    sizes = Sizes(is_strict=True)
    fit(network(sizes, dropouts=dropouts()))
    assert sizes.seen == [None, 32, 40, 48, 56]  # the first trace fails


def test_layers_with_other_ways_to_drop_are_traced_at_every_stage():
    sizes = Sizes()
    names = keras.layers.Reshape((1, 32)), keras.layers.SpatialDropout1D(0.5)
    fit(network(sizes, dropouts=[*names, keras.layers.Flatten()]))
    assert sizes.seen == [32, 40, 48, 56]


@pytest.mark.parametrize("is_fixed", [False, True])
def test_one_trace_with_layers_of_fixed_size(is_fixed):
    """Pictures of all sizes that the model resizes, and pictures of the size that it takes."""
    sizes = Sizes()
    inputs = keras.Input((32, 32, 3) if is_fixed else (None, None, 3))
    x = sizes(inputs)
    x = keras.layers.Flatten()(keras.layers.Resizing(16, 16)(x) if not is_fixed else x)
    model = keras.Model(inputs, keras.layers.Dense(2)(keras.layers.Dropout(0.5)(x)))
    plan = [replace(stage, image_size=32, batch_size=8) for stage in STAGES]
    fit(model, plan if is_fixed else STAGES)
    assert sizes.seen == [32 if is_fixed else None]


def test_pictures_that_a_model_cannot_take_are_an_error():
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.Dropout(0.5)(keras.layers.GlobalAveragePooling2D()(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match=r"expected shape=\(None, 32, 32, 3\)"):
        fit(model)
