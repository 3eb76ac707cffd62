"""ProgressiveLearning: what the model really sees at every stage, in every mode of `fit`.

The model under test puts a Dropout on ones, so the share of zeros in its output is the dropout rate
in force. The labels carry the epoch and the picture size that the batch was made for, and a layer
notes the shape it is traced with.
"""

import gc
import subprocess
import sys
import weakref
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.stages import TrainStage, progressive_stages

UNITS = 4000  # zeros among them: standard error of the rate below 0.003 for 8 pictures
RATE_TOLERANCE = 0.02
EXAMPLES = 16
ON_TENSORFLOW = keras.backend.backend() == "tensorflow"
only_tensorflow = pytest.mark.skipif(
    not ON_TENSORFLOW, reason="a feature of the TensorFlow trainer"
)

# Three stages of 1, 1 and 2 epochs: sizes 32, 40, 48; rates 0.1, 0.35, 0.6; batches of 8, 6, 4, so
# 2, 3 (the last one smaller), 4 steps.
EPOCHS = 4
STAGES = progressive_stages(
    epochs=EPOCHS, stages=3, image_size=(32, 48), dropout_rate=(0.1, 0.6), batch_size=(8, 4)
)
SIZES = [32, 40, 48, 48]
STEPS = [2, 3, 4, 4]


def make_dataset(stage: TrainStage, epoch: int) -> tf.data.Dataset:
    images = np.ones((EXAMPLES, stage.image_size, stage.image_size, 3), "float32")
    labels = np.full((EXAMPLES, 2), [epoch, stage.image_size], "float32")
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(stage.batch_size)


class TraceShape(keras.layers.Layer):
    """Notes the shape of its input each time it is called with training=True."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def call(self, x, training=False):
        if training:
            self.seen.append(tuple(x.shape))
        return x


def epoch_label(y, outputs):
    return keras.ops.mean(y[:, 0])


def size_label(y, outputs):
    return keras.ops.mean(y[:, 1])


def zeros(y, outputs):
    return keras.ops.mean(keras.ops.cast(outputs[:, 1:] == 0, "float32"))


def build_model(nested=False, dropout=None, rate=0.5, compile_args=None):
    dropout = dropout or keras.layers.Dropout(rate, seed=0, name="classifier_dropout")
    inputs = keras.Input((None, None, 3))
    x = TraceShape()(inputs)
    x = keras.layers.GlobalAveragePooling2D()(x)
    # Stochastic depth, as the package's networks have it: never touched by the stages.
    depth = keras.layers.Dropout(0.25, noise_shape=(None, 1), seed=1, name="stochastic_depth")
    learned = keras.layers.Dense(1, name="learned")(depth(x))
    ones = keras.ops.ones_like(keras.ops.repeat(learned, UNITS, axis=-1))
    if nested:
        block_input = keras.Input((UNITS,))
        block = keras.Model(block_input, dropout(block_input), name="block")
        ones = block(ones)
    else:
        ones = dropout(ones)
    outputs = keras.layers.Concatenate(dtype="float32")([learned, ones])
    model = keras.Model(inputs, outputs)
    model.compile(
        optimizer=keras.optimizers.SGD(0.01, momentum=0.9),
        loss=lambda y, outputs: keras.ops.square(outputs[:, 0] - 1.0),
        metrics=[epoch_label, size_label, zeros],
        **(compile_args or {}),
    )
    return model


class Log(keras.callbacks.Callback):
    """What every epoch did: `logs`, steps, shapes traced, optimizer steps at the end."""

    def __init__(self):
        super().__init__()
        self.epochs = {}
        self.steps = 0

    def on_epoch_begin(self, epoch, logs=None):
        self.steps = 0
        self.traced = len(shape_layer(self.model).seen)

    def on_train_batch_end(self, batch, logs=None):
        self.steps = batch + 1

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[epoch] = {
            **{name: float(value) for name, value in logs.items()},
            "steps": self.steps,
            "shapes": shape_layer(self.model).seen[self.traced :],
            "iterations": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
        }


def shape_layer(model):
    return next(layer for layer in model.layers if isinstance(layer, TraceShape))


def train(model, progressive, callbacks=(), **fit_args):
    log = Log()
    fit_args = {"epochs": progressive.epochs, "verbose": 0, **fit_args}
    model.fit(progressive.dataset, callbacks=[progressive, *callbacks, log], **fit_args)
    return log.epochs


def check_epoch(epoch, log):
    """The epoch had its own batches only, and its stage's dropout rate was in force."""
    assert log["epoch_label"] == epoch
    assert log["size_label"] == SIZES[epoch]
    assert log["zeros"] == pytest.approx(STAGES.at(epoch).dropout_rate, abs=RATE_TOLERANCE)


@pytest.mark.backend
def test_every_stage_is_what_the_plan_says(recwarn):
    model = build_model(nested=True)
    log = train(model, ProgressiveLearning(make_dataset, STAGES))
    assert list(log) == list(range(EPOCHS))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == STEPS[epoch]
        assert row["iterations"] == sum(STEPS[: epoch + 1])
        first = epoch == STAGES.at(epoch).start_epoch
        size = SIZES[epoch]
        # Torch traces nothing and calls the layer at every step.
        traced = first or keras.backend.backend() == "torch"
        assert {shape[1:] for shape in row["shapes"]} == ({(size, size, 3)} if traced else set())
    layers = {layer.name: layer for layer in model._flatten_layers()}
    assert layers["classifier_dropout"].rate == pytest.approx(0.6)  # the last stage's
    assert layers["stochastic_depth"].rate == 0.25
    assert not model.stop_training
    assert not [warning for warning in recwarn if "ran out of data" in str(warning.message)]


@only_tensorflow
def test_one_trace_a_stage_and_a_second_fit():
    # A new model is traced twice by Keras itself: the first trace makes the metrics' variables.
    model = build_model()
    for first in (2, 1):
        log = train(model, ProgressiveLearning(make_dataset, STAGES))
        assert [len(log[epoch]["shapes"]) for epoch in range(EPOCHS)] == [first, 1, 1, 0]
        for epoch, row in log.items():
            check_epoch(epoch, row)


@only_tensorflow
@pytest.mark.parametrize(
    "compile_args",
    [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
def test_modes_of_execution(compile_args):
    model = build_model(compile_args=compile_args)
    log = train(model, ProgressiveLearning(make_dataset, STAGES), epochs=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)
    assert log[1]["iterations"] == sum(STEPS[:2])


@pytest.mark.backend
@pytest.mark.parametrize("repeat", [False, True])
def test_steps_per_epoch(repeat):
    # Keras keeps one iterator for all epochs here; 2 of 2, 3 or 4 batches do not divide evenly.
    def dataset(stage, epoch):
        data = make_dataset(stage, epoch)
        return data.repeat() if repeat else data

    log = train(build_model(), ProgressiveLearning(dataset, STAGES), steps_per_epoch=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == 2
        assert row["iterations"] == 2 * (epoch + 1)


@pytest.mark.backend
def test_unknown_lengths_are_not_cut():
    def dataset(stage, epoch):
        return make_dataset(stage, epoch).filter(lambda images, labels: True)

    log = train(build_model(), ProgressiveLearning(dataset, STAGES))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == STEPS[epoch]
    assert log[3]["iterations"] == sum(STEPS)


@pytest.mark.backend
def test_initial_epoch_and_validation():
    validation = make_dataset(TrainStage(0, 0, 1, image_size=56), -1)
    log = train(
        build_model(),
        ProgressiveLearning(make_dataset, STAGES),
        initial_epoch=2,
        validation_data=validation,
    )
    assert list(log) == [2, 3]
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["val_size_label"] == 56
        assert row["val_zeros"] == 0
        assert row["steps"] == STEPS[epoch]


@pytest.mark.backend
@pytest.mark.parametrize("crash", [1, 3])
def test_resume_after_a_crash(tmp_path, crash):
    class Crash(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

        def on_train_batch_end(self, batch, logs=None):
            if self.epoch == crash:
                raise KeyboardInterrupt

    def backup():
        return keras.callbacks.BackupAndRestore(tmp_path / "backup")

    progressive = ProgressiveLearning(make_dataset, STAGES)
    with pytest.raises(KeyboardInterrupt):
        train(build_model(), progressive, [backup(), Crash()])
    log = train(build_model(), progressive, [backup()])
    assert list(log) == list(range(crash, EPOCHS))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["iterations"] == sum(STEPS[: epoch + 1])


@pytest.mark.backend
def test_other_callbacks_can_stop_training():
    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == STEPS[1]:  # the batch at which the epoch ends anyhow
                self.model.stop_training = True

    log = train(build_model(), ProgressiveLearning(make_dataset, STAGES), [StopAt()])
    assert list(log) == [0, 1]


def check_mirrored_strategy():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = build_model()
    for fit_args, steps in (({}, STEPS), ({"steps_per_epoch": 2, "epochs": 2}, [2, 2])):
        log = train(model, ProgressiveLearning(make_dataset, STAGES), **fit_args)
        assert [row["steps"] for row in log.values()] == steps
        for epoch, row in log.items():
            check_epoch(epoch, row)


@only_tensorflow
def test_mirrored_strategy():
    # Two CPU devices must be set up before TensorFlow starts, hence a process of its own.
    code = "import test_progressive; test_progressive.check_mirrored_strategy()"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.compute_dtype == "bfloat16"
    log = train(model, ProgressiveLearning(make_dataset, STAGES), epochs=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)


@pytest.mark.backend
def test_optimizer_state_runs_on():
    """The weights equal those of a training over the same batches without any callback."""
    model, plain = build_model(), build_model()
    plain.set_weights(model.get_weights())
    model.get_layer("stochastic_depth").rate = plain.get_layer("stochastic_depth").rate = 0.0
    train(model, ProgressiveLearning(make_dataset, STAGES))
    for epoch in range(EPOCHS):
        plain.fit(make_dataset(STAGES.at(epoch), epoch), verbose=0)
    for ours, expected in zip(model.optimizer.variables, plain.optimizer.variables, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-6)
    for ours, expected in zip(model.trainable_variables, plain.trainable_variables, strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-5)


@only_tensorflow  # JAX reads one dataset more, to build the model
def test_old_data_is_freed():
    stages = progressive_stages(epochs=12, stages=12, image_size=(32, 43))
    made = []
    alive = []

    def dataset(stage, epoch):
        alive.append(sum(reference() is not None for reference in made))
        data = make_dataset(stage, epoch)
        made.append(weakref.ref(data))
        return data

    model = no_dropout_model()
    progressive = ProgressiveLearning(dataset, stages)
    model.fit(progressive.dataset, epochs=12, callbacks=[progressive], verbose=0)
    assert len(made) == 12
    assert max(alive) == 0
    gc.collect()
    assert [reference() for reference in made] == [None] * 12


def test_look_ahead_gets_the_next_epochs_batch():
    # A JAX trainer on an accelerator reads one batch more than it has steps.
    progressive = ProgressiveLearning(make_dataset, STAGES)
    progressive.dataset.start(None, 2)
    progressive.dataset.open(1)
    batches = iter(progressive.dataset)
    assert [int(next(batches)[1][0, 0]) for _ in range(3)] == [1, 1, 2]
    progressive.dataset.open(2)  # `on_epoch_begin`: already open, nothing is lost
    assert [int(next(batches)[1][0, 0]) for _ in range(2)] == [2, 3]
    progressive.dataset.open(3)
    assert [int(labels[0, 0]) for _, labels in batches] == [3]


@pytest.mark.parametrize(
    ("layer", "scheduled"),
    [
        (lambda: keras.layers.Dropout(0.5), True),
        (lambda: keras.layers.SpatialDropout1D(0.5), True),
        (lambda: keras.layers.Dropout(0.5, noise_shape=(None, 1, 1)), False),
        (lambda: keras.layers.GaussianDropout(0.5), False),
        (lambda: keras.layers.Dropout(0.0), False),
    ],
    ids=["dropout", "spatial", "noise_shape", "gaussian", "built_with_rate_0"],
)
def test_which_layers_are_scheduled(layer, scheduled):
    layer = layer()
    model = keras.Sequential([keras.Input((4, 3)), layer, keras.layers.Dropout(0.5, name="other")])
    progressive = ProgressiveLearning(make_dataset, STAGES)
    progressive.set_model(model)
    before = layer.rate
    progressive.on_epoch_begin(2)
    assert model.get_layer("other").rate == pytest.approx(0.6)
    assert layer.rate == (pytest.approx(0.6) if scheduled else before)


def test_named_layers_only():
    progressive = ProgressiveLearning(make_dataset, STAGES, dropout_layers=["stochastic_depth"])
    model = build_model()
    progressive.set_model(model)
    progressive.on_epoch_begin(0)
    assert model.get_layer("stochastic_depth").rate == pytest.approx(0.1)
    assert model.get_layer("classifier_dropout").rate == 0.5


def test_a_rate_of_none_leaves_the_model_alone():
    stages = progressive_stages(epochs=1, stages=1, image_size=32)
    log = train(build_model(rate=0.45), ProgressiveLearning(make_dataset, stages))
    assert log[0]["zeros"] == pytest.approx(0.45, abs=RATE_TOLERANCE)


def test_what_is_printed(capsys):
    model = build_model()
    progressive = ProgressiveLearning(make_dataset, STAGES, verbose=1)
    progressive.set_model(model)
    for epoch in range(EPOCHS):
        progressive.on_epoch_begin(epoch)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    epochs = ("1-1", "2-2", "3-4")
    assert lines == [
        f"Stage {i + 1}/3, epochs {epochs[i]}: size {32 + 8 * i}, randaugment off, "
        f"mixup 0, cutmix 0, dropout {0.1 + 0.25 * i:.4g}, batch {8 - 2 * i}"
        for i in range(3)
    ]
    train(model, ProgressiveLearning(make_dataset, STAGES), verbose=2, epochs=1)
    assert "4/4" in capsys.readouterr().out  # the bar's total is the longest epoch of the plan


def no_dropout_model():
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    model.add(keras.layers.Dense(2))
    model.compile("sgd", "mse")
    return model


def test_a_schedule_without_a_layer_is_an_error():
    progressive = ProgressiveLearning(make_dataset, STAGES)
    with pytest.raises(ValueError, match="no Dropout layer to set"):
        no_dropout_model().fit(
            progressive.dataset, epochs=EPOCHS, callbacks=[progressive], verbose=0
        )
    constant = progressive_stages(epochs=2, stages=2, image_size=(32, 40), dropout_rate=0.3)
    progressive = ProgressiveLearning(make_dataset, constant)
    no_dropout_model().fit(progressive.dataset, epochs=2, callbacks=[progressive], verbose=0)


def test_errors():
    model = build_model()
    with pytest.raises(ValueError, match="one or more `TrainStage`s"):
        ProgressiveLearning(make_dataset, [])
    with pytest.raises(ValueError, match="The plan has 4 epochs"):
        train(model, ProgressiveLearning(make_dataset, STAGES), epochs=5)
    with pytest.raises(ValueError, match=r"have a `rate`.*classifier_dropout.*Received: top_drop"):
        train(model, ProgressiveLearning(make_dataset, STAGES, dropout_layers=["top_drop"]))
    with pytest.raises(TypeError, match=r"must return a tf\.data\.Dataset"):
        train(model, ProgressiveLearning(lambda stage, epoch: [1], STAGES))
    with pytest.raises(ValueError, match="at least one batch"):
        train(model, ProgressiveLearning(lambda s, e: make_dataset(s, e).take(0), STAGES))
    with pytest.raises(ValueError, match="pass `steps_per_epoch`"):
        train(model, ProgressiveLearning(lambda s, e: make_dataset(s, e).repeat(), STAGES))
    progressive = ProgressiveLearning(make_dataset, STAGES)
    with pytest.raises(ValueError, match="reads other data"):
        model.fit(make_dataset(STAGES[0], 0), callbacks=[progressive], verbose=0)
    with pytest.raises(NotImplementedError, match="can only be given to `fit`"):
        ProgressiveLearning(make_dataset, STAGES).dataset.map(lambda x, y: x)


def test_dataset_without_its_callback_is_an_error():
    progressive = ProgressiveLearning(lambda s, e: make_dataset(s, e).repeat(), STAGES)
    with pytest.raises(RuntimeError, match=r"callbacks=\[progressive\]"):
        build_model().fit(progressive.dataset, epochs=EPOCHS, verbose=0)
