"""EMA against the official six-step example, and through `fit`, evaluation and resumption."""

import copy

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle

from keras_effnetv2.recipes.ema import EMA

OPTIMIZER = oracle.training("optimizer")
EXAMPLE = OPTIMIZER["rmsprop_example"]
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(not ON_TENSORFLOW, reason="needs the TensorFlow trainer")


def values(variables):
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


def state(model):
    """Name -> value of everything that is to be averaged."""
    variables = [
        variable
        for layer in model.layers
        for variable in layer.variables
        if variable.name in ("kernel", "bias", "gamma", "beta", "moving_mean", "moving_variance")
    ]
    return dict(zip([variable.path for variable in variables], values(variables), strict=True))


def build_model(dropout=0.5, **compile_args):
    keras.utils.set_random_seed(0)
    layers = [
        keras.Input((4,)),
        keras.layers.Dense(3, name="first"),
        keras.layers.BatchNormalization(momentum=0.5, name="norm"),
        keras.layers.Dropout(dropout, seed=3, name="drop"),
        keras.layers.Dense(1, name="last"),
    ]
    model = keras.Sequential(layers, name="net")
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "mse", **compile_args)
    return model


def data(batches=5, scale=1.0):
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batches * 8, 4)).astype("float32") * scale
    targets = images.sum(axis=1, keepdims=True)
    return tf.data.Dataset.from_tensor_slices((images, targets)).batch(8)


class Reference(keras.callbacks.Callback):
    """The formula in float64, on the weights after each batch."""

    def __init__(self, decay, ramp=True):
        super().__init__()
        self.decay, self.ramp, self.step, self.average = decay, ramp, 0, None

    def on_train_begin(self, logs=None):
        self.average = {k: v.astype("float64") for k, v in state(self.model).items()}

    def on_train_batch_end(self, batch, logs=None):
        self.step += 1
        d = min(self.decay, (1 + self.step) / (10 + self.step)) if self.ramp else self.decay
        for name, value in state(self.model).items():
            self.average[name] -= (1 - d) * (self.average[name] - value)


def assert_close(found, expected, rtol=1e-5, atol=1e-6):
    assert found.keys() == expected.keys()
    for name in expected:
        assert np.isfinite(expected[name]).all()
        np.testing.assert_allclose(found[name], expected[name], rtol=rtol, atol=atol, err_msg=name)


@pytest.mark.backend
def test_official_example():
    weight = np.array(EXAMPLE["initial"]["w"], "float32").reshape(6, 1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    model.layers[0].kernel.assign(weight)
    ema = EMA(decay=OPTIMIZER["ema"]["decay"])
    ema.set_model(model)
    for step in EXAMPLE["steps"]:
        model.layers[0].kernel.assign(np.array(step["w"], "float32").reshape(6, 1))
        model.optimizer.iterations.assign(step["global_step_after"])
        ema.on_train_batch_end(0)
        ema.swap()
        found = model.layers[0].kernel.numpy().ravel()
        ema.swap()
        np.testing.assert_allclose(found, step["ema"], rtol=1e-5, atol=2e-7)


@pytest.mark.backend
@pytest.mark.parametrize(
    ("decay", "ramp", "eagerly"), [(0.9999, True, False), (0.3, True, True), (0.9, False, True)]
)
def test_fit_leaves_the_averages(decay, ramp, eagerly):
    model = build_model(run_eagerly=eagerly)
    reference = Reference(decay, ramp)
    model.fit(data(3), epochs=2, callbacks=[EMA(decay, ramp=ramp), reference], verbose=0)
    assert_close(state(model), reference.average)
    assert "net/norm/moving_variance" in reference.average
    assert not hasattr(model.optimizer, "weight_averages")


@pytest.mark.backend
def test_validation_sees_the_averages_and_training_does_not():
    held_out = data(2, scale=2.0)
    model, plain, other = (build_model(run_eagerly=True) for _ in range(3))
    reference = Reference(0.9999)
    losses = []

    class Evaluate(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            for layer in other.layers:
                for variable in layer.variables:
                    if variable.path in reference.average:
                        variable.assign(reference.average[variable.path])
            losses.append((logs["val_loss"], other.evaluate(held_out, verbose=0)))

    callbacks = [EMA(), reference, Evaluate()]
    options = {"epochs": 2, "validation_data": held_out, "verbose": 0}
    history = model.fit(data(), callbacks=callbacks, **options).history
    for found, expected in losses:
        assert found == pytest.approx(expected, rel=1e-4)
    unaveraged = plain.fit(data(), **options).history
    assert history["loss"] == pytest.approx(unaveraged["loss"], rel=1e-5)
    assert history["val_loss"] != pytest.approx(unaveraged["val_loss"], rel=1e-2)
    # Seeds are not averaged.
    ours, expected = (m.get_layer("drop").seed_generator.state for m in (model, plain))
    np.testing.assert_array_equal(*values([ours, expected]))


@pytest.mark.backend
@pytest.mark.parametrize("validation_freq", [None, 2])
def test_every_callback_sees_the_averages_at_the_end_of_an_epoch(validation_freq):
    class Look(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.ends, self.begins = [], []

        def on_epoch_begin(self, epoch, logs=None):
            self.begins.append(state(self.model))

        def on_epoch_end(self, epoch, logs=None):
            self.ends.append((state(self.model), copy.deepcopy(reference.average)))

    model = build_model(run_eagerly=True)
    reference, before, after = Reference(0.9), Look(), Look()
    validation = {}
    if validation_freq is not None:
        validation = {"validation_data": data(1), "validation_freq": validation_freq}
    callbacks = [before, EMA(0.9), after, reference]
    model.fit(data(3), epochs=3, callbacks=callbacks, verbose=0, **validation)
    for look in (before, after):
        for found, average in look.ends:
            assert_close(found, average)
    raw = []

    class Raw(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 2:
                raw.append(state(self.model))

    build_model(run_eagerly=True).fit(data(3), epochs=3, callbacks=[Raw()], verbose=0)
    for found, expected in zip(before.begins[1:] + after.begins[1:], raw[:2] * 2, strict=True):
        assert_close(found, expected)


@pytest.mark.backend
@pytest.mark.parametrize("order", [1, -1])
def test_the_best_epoch_is_kept_as_it_was_judged(tmp_path, order):
    # Other answers are right than in training, so the last epochs are not the best.
    held_out = data(2).map(lambda image, target: (image, 0.3 * target))
    path = tmp_path / "best.keras"
    model = build_model(dropout=0.0, run_eagerly=True)
    keepers = [
        keras.callbacks.EarlyStopping(patience=2, restore_best_weights=True),
        keras.callbacks.ModelCheckpoint(path, save_best_only=True),
    ]
    callbacks = [EMA(0.9), *keepers][::order]
    history = model.fit(
        data(), epochs=9, validation_data=held_out, callbacks=callbacks, verbose=0
    ).history["val_loss"]
    assert min(history) < history[-1]
    for kept in (model, keras.models.load_model(path)):
        assert kept.evaluate(held_out, verbose=0) == pytest.approx(min(history), rel=1e-5)


@pytest.mark.backend
def test_without_swapping_on_epochs_callbacks_see_the_raw_weights():
    ends = []
    model, plain = build_model(run_eagerly=True), build_model(run_eagerly=True)
    look = keras.callbacks.LambdaCallback(on_epoch_end=lambda *_: ends.append(state(model)))
    options = {"validation_data": data(1), "verbose": 0}
    model.fit(data(3), callbacks=[EMA(0.9, swap_on_epoch=False), look], **options)
    plain.fit(data(3), **options)
    assert_close(ends[0], state(plain))
    assert max(abs(state(model)["net/last/kernel"] - ends[0]["net/last/kernel"])) > 1e-3


@pytest.mark.backend
def test_resume(tmp_path):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                raise KeyboardInterrupt

    def fit(model, *callbacks):
        return model.fit(data(1), epochs=2, validation_data=data(1), callbacks=callbacks, verbose=0)

    # Without dropout: Keras does not restore the state of its seeds.
    whole = build_model(dropout=0.0, run_eagerly=True)
    fit(whole, EMA())
    for order in (1, -1):  # of the callbacks

        def callbacks(order=order):
            backup = keras.callbacks.BackupAndRestore(tmp_path / f"backup{order}")
            return [backup, EMA()][::order]

        with pytest.raises(KeyboardInterrupt):
            fit(build_model(dropout=0.0, run_eagerly=True), *callbacks(), Crash())
        resumed = build_model(dropout=0.0, run_eagerly=True)
        resumed.set_weights([np.zeros_like(value) for value in resumed.get_weights()])
        assert fit(resumed, *callbacks()).epoch == [1]
        assert_close(state(resumed), state(whole), rtol=1e-4)


@pytest.mark.backend
@pytest.mark.parametrize("reset", [False, True])
def test_a_fit_after_an_interrupted_one_starts_from_the_raw_weights(reset):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            raise KeyboardInterrupt

    def weights_at_start(again):
        model, found = build_model(run_eagerly=True), {}
        first, ema = state(model), EMA(0.9)
        look = keras.callbacks.LambdaCallback(on_train_begin=lambda _: found.update(state(model)))
        with pytest.raises(KeyboardInterrupt):
            model.fit(data(2), callbacks=[ema, Stop()], verbose=0)
        averages = state(model)
        if reset:
            model.set_weights(build_model().get_weights())
        model.fit(data(1), callbacks=[ema if again else EMA(0.9), look], verbose=0)
        assert not hasattr(model.optimizer, "weight_averages")
        return first, averages, found

    plain = build_model(run_eagerly=True)
    plain.fit(data(2), verbose=0)
    for again in (True, False):  # the same EMA
        first, averages, found = weights_at_start(again)
        assert abs(averages["net/last/kernel"] - found["net/last/kernel"]).max() > 1e-3
        assert_close(found, first if reset else state(plain))


def test_a_fit_takes_one_ema():
    model = build_model(run_eagerly=True)
    with pytest.raises(ValueError, match=r"one EMA.*decay=\[0\.\d+, 0\.\d+\]"):
        model.fit(data(1), callbacks=[EMA(0.9), EMA(0.99)], verbose=0)
    model.fit(data(1), callbacks=[EMA(0.9)], verbose=0)


def test_backup_without_averages_is_refused(tmp_path):
    build_model().save_weights(tmp_path / "latest.weights.h5")
    backup = keras.callbacks.BackupAndRestore(tmp_path)
    with pytest.raises(ValueError, match="weight_averages"):
        build_model().fit(data(), callbacks=[backup, EMA()], verbose=0)


@only_tensorflow
def test_steps_per_execution_counts_every_step():
    model = build_model(steps_per_execution=5)
    start = state(model)
    raw = {}

    class Raw(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            raw.update(state(self.model))

    model.fit(data(), callbacks=[EMA(0.5, ramp=False), Raw()], verbose=0)
    expected = {name: raw[name] + 0.5**5 * (start[name] - raw[name]) for name in raw}
    assert_close(state(model), expected)


def check_two_devices(strategy):
    """Called by a test of `test_fit_devices`, in a process with two devices."""
    with strategy.scope():
        model = build_model(jit_compile=False)
    reference = Reference(0.9999)
    callbacks = [EMA(), reference]
    model.fit(data(), validation_data=data(), callbacks=callbacks, verbose=0)
    assert_close(state(model), reference.average)


def test_decay_out_of_range():
    for decay in (0.0, 1.0, -0.1, 2):
        with pytest.raises(ValueError, match="`decay` must be a number above 0 and below 1"):
            EMA(decay)


@only_tensorflow  # JAX builds the model before the callbacks start
def test_model_must_be_built():
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match="Build and compile the model before"):
        model.fit(data(), callbacks=[EMA()], verbose=0)
