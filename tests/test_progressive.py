"""ProgressiveLearning: what the model really sees at every stage, whatever `fit` is given.

Other files: test_progressive_state.py (what crosses the boundaries), test_progressive_data.py (what
the package's own input pipeline delivers), test_fit_devices.py (several devices). Where tracing is
no subject, steps are eager.
"""

import functools
from dataclasses import replace

import keras
import pytest
import tensorflow as tf
from helpers.progressive_probe import (
    EPOCHS,
    RATE_TOLERANCE,
    SIZES,
    STAGES,
    STEPS,
    build_model,
    check_epoch,
    make_dataset,
    no_dropout_model,
    only_tensorflow,
    train,
)

from keras_effnetv2.models.graph import all_layers
from keras_effnetv2.recipes.stages import TrainStage, progressive_stages
from keras_effnetv2.training.epoch_dataset import EpochsInOne
from keras_effnetv2.training.progressive import ProgressiveLearning


def eager_model(**compile_args):
    return build_model(run_eagerly=True, **compile_args)


@pytest.mark.backend
def test_every_stage_is_what_the_plan_says(recwarn):
    # TensorFlow's one trace has tests in test_shared_trace.py.
    model = build_model(nested=True, run_eagerly=keras.backend.backend() == "tensorflow")
    log = train(model, ProgressiveLearning(make_dataset, STAGES))
    assert list(log) == list(range(EPOCHS))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == len(row["after_batch"]) == STEPS[epoch]
        assert row["iterations"] == sum(STEPS[: epoch + 1])
        first = epoch == STAGES.at(epoch).start_epoch
        size = SIZES[epoch]
        # Torch traces nothing and calls the layer at every step.
        traced = first or keras.backend.backend() == "torch"
        if keras.backend.backend() != "tensorflow":
            assert {seen[1:] for seen in row["shapes"]} == ({(size, size, 3)} if traced else set())
    layers = {layer.name: layer for layer in all_layers(model)}
    assert layers["classifier_dropout"].rate == pytest.approx(0.7)  # the last stage's
    assert layers["stochastic_depth"].rate == 0.25
    assert not model.stop_training
    assert not [warning for warning in recwarn if "ran out of data" in str(warning.message)]


@pytest.mark.slow  # XLA compiles five times
@only_tensorflow
def test_one_trace_a_stage_with_xla_and_a_second_fit_with_every_dimension_static():
    def static(stage, epoch):
        return make_dataset(stage, epoch).unbatch().batch(stage.batch_size, drop_remainder=True)

    model = build_model(jit_compile=True)
    log = train(model, ProgressiveLearning(make_dataset, STAGES[:2]))
    # All but the batch is static; the last batch may be smaller, so that cannot be.
    assert [row["shapes"] for row in log.values()] == [[(None, 32, 32, 3)], [(None, 40, 40, 3)]]
    unchanged = [replace(stage, dropout_rate=None) for stage in STAGES[:2]]
    fit_args = {"steps_per_epoch": 2, "validation_data": make_dataset(STAGES[0], 0)}
    log = train(model, ProgressiveLearning(static, unchanged), **fit_args)
    assert [row["shapes"] for row in log.values()] == [[(8, 32, 32, 3)], [(6, 40, 40, 3)]]


@only_tensorflow
def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("classifier_dropout").compute_dtype == "float16"
    log = train(model, ProgressiveLearning(make_dataset, STAGES), epochs=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == STEPS[epoch]


@only_tensorflow
@pytest.mark.parametrize("repeat", [False, True])
def test_steps_per_epoch(repeat):
    # Keras keeps one iterator for all epochs here; 2 of 2, 3 or 4 batches do not divide evenly.
    def dataset(stage, epoch):
        data = make_dataset(stage, epoch)
        return data.repeat() if repeat else data

    log = train(eager_model(), ProgressiveLearning(dataset, STAGES), steps_per_epoch=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == 2
        assert row["iterations"] == 2 * (epoch + 1)


@only_tensorflow
def test_unknown_lengths_are_not_cut():
    def dataset(stage, epoch):
        return make_dataset(stage, epoch).filter(lambda images, labels: True)

    log = train(eager_model(), ProgressiveLearning(dataset, STAGES))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == STEPS[epoch]
    assert log[EPOCHS - 1]["iterations"] == sum(STEPS)


@only_tensorflow
def test_initial_epoch_and_validation():
    validation = make_dataset(TrainStage(0, 0, 1, image_size=56), -1)
    log = train(
        eager_model(),
        ProgressiveLearning(make_dataset, STAGES),
        initial_epoch=2,
        validation_data=validation,
    )
    assert list(log) == [2, 3, 4]
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["val_size_label"] == 56
        assert row["val_zeros"] == 0
        assert row["steps"] == STEPS[epoch]


@only_tensorflow
@pytest.mark.parametrize("crash", [1, 4])  # at the start of a stage and inside one
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
        train(eager_model(), progressive, [backup(), Crash()])
    log = train(eager_model(), progressive, [backup()])
    assert list(log) == list(range(crash, EPOCHS))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["iterations"] == sum(STEPS[: epoch + 1])


@only_tensorflow
def test_other_callbacks_can_stop_training():
    class StopAt(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch + 1 == STEPS[1]:  # the batch at which the epoch ends anyhow
                self.model.stop_training = True

    log = train(eager_model(), ProgressiveLearning(make_dataset, STAGES), [StopAt()])
    assert list(log) == [0, 1]


def test_look_ahead_gets_the_next_epochs_batch():
    # A JAX trainer on an accelerator reads one batch more than it has steps.
    progressive = ProgressiveLearning(make_dataset, STAGES)
    progressive.dataset.start(None, 2, 0)
    progressive.dataset.open(1)
    batches = iter(progressive.dataset)
    assert [int(next(batches)[1][0, 0]) for _ in range(3)] == [1, 1, 2]
    progressive.dataset.open(2)  # `on_epoch_begin`: already open, nothing is lost
    assert [int(next(batches)[1][0, 0]) for _ in range(2)] == [2, 3]
    progressive.dataset.open(3)
    assert [int(labels[0, 0]) for _, labels in batches] == [3, 4, 4]


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
    assert model.get_layer("other").rate == pytest.approx(0.5)
    assert layer.rate == (pytest.approx(0.5) if scheduled else before)


def test_named_layers_only():
    progressive = ProgressiveLearning(make_dataset, STAGES, dropout_layers=["stochastic_depth"])
    model = eager_model()
    progressive.set_model(model)
    progressive.on_epoch_begin(0)
    assert model.get_layer("stochastic_depth").rate == pytest.approx(0.1)
    assert model.get_layer("classifier_dropout").rate == 0.5


def test_a_rate_of_none_leaves_the_model_alone():
    stages = progressive_stages(epochs=1, stages=1, image_size=32)
    log = train(eager_model(rate=0.45), ProgressiveLearning(make_dataset, stages))
    assert log[0]["zeros"] == pytest.approx(0.45, abs=RATE_TOLERANCE)


def test_what_is_printed(capsys):
    model = eager_model()
    progressive = ProgressiveLearning(make_dataset, STAGES, verbose=1)
    progressive.set_model(model)
    for epoch in range(EPOCHS):
        progressive.on_epoch_begin(epoch)
    lines = [line for line in capsys.readouterr().out.splitlines() if line]
    epochs = ("1-1", "2-2", "3-3", "4-5")
    assert lines == [
        f"Stage {i + 1}/4, epochs {epochs[i]}: size {32 + 8 * i}, randaugment off, "
        f"mixup 0, cutmix 0, dropout {0.1 + 0.2 * i:.4g}, batch {8 - 2 * i}"
        for i in range(4)
    ]
    train(model, ProgressiveLearning(make_dataset, STAGES), verbose=2, epochs=1)
    assert "8/8" in capsys.readouterr().out  # the bar's total is the longest epoch of the plan


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
    model = eager_model()
    with pytest.raises(ValueError, match="one or more `TrainStage`s"):
        ProgressiveLearning(make_dataset, [])
    with pytest.raises(ValueError, match="The plan has 5 epochs"):
        train(model, ProgressiveLearning(make_dataset, STAGES), epochs=6)
    with pytest.raises(ValueError, match=r"have a `rate`.*classifier_dropout.*Received: top_drop"):
        train(model, ProgressiveLearning(make_dataset, STAGES, dropout_layers=["top_drop"]))
    with pytest.raises(TypeError, match=r"must return a tf\.data\.Dataset"):
        train(model, ProgressiveLearning(lambda stage, epoch: [1], STAGES))
    with pytest.raises(ValueError, match="at least one batch"):
        train(model, ProgressiveLearning(lambda s, e: make_dataset(s, e).take(0), STAGES))
    with pytest.raises(ValueError, match="Pass `steps_per_epoch`"):
        train(model, ProgressiveLearning(lambda s, e: make_dataset(s, e).repeat(), STAGES))
    progressive = ProgressiveLearning(make_dataset, STAGES)
    with pytest.raises(ValueError, match="does not read the data"):
        model.fit(make_dataset(STAGES[0], 0), callbacks=[progressive], verbose=0)
    with pytest.raises(NotImplementedError, match="can only be given to `fit`"):
        ProgressiveLearning(make_dataset, STAGES).dataset.map(lambda x, y: x)


def epochs_in_one(stage, epoch):
    batches = [make_dataset(stage, number) for number in range(epoch, stage.end_epoch)]
    return EpochsInOne(functools.reduce(tf.data.Dataset.concatenate, batches), len(batches))


@only_tensorflow
@pytest.mark.parametrize("skip", [0, 3])
def test_one_pipeline_for_the_epochs_of_a_stage(skip):
    made = []

    def dataset(stage, epoch):
        made.append(epoch)
        return epochs_in_one(stage, epoch)

    progressive = ProgressiveLearning(dataset, STAGES, skip_batches=skip)
    log = train(eager_model(), progressive, initial_epoch=3 if skip else 0)
    assert made == ([3] if skip else [0, 1, 2, 3])
    steps = [*STEPS[:3], STEPS[3] - skip, STEPS[4]]
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == steps[epoch]
    assert list(log) == list(range(3 if skip else 0, EPOCHS))
    log = train(eager_model(), ProgressiveLearning(dataset, STAGES), steps_per_epoch=2)
    for epoch, row in log.items():
        check_epoch(epoch, row)


def test_a_look_ahead_does_not_take_from_the_next_epoch():
    epochs = ProgressiveLearning(epochs_in_one, STAGES).dataset
    epochs.start(None, None, 0)
    for epoch in (3, 4):
        epochs.open(epoch)
        labels = [int(labels[0, 0]) for _, labels in epochs]
        assert labels == [epoch] * STEPS[epoch]
        epochs.is_at_end = True  # as the callback finds


@only_tensorflow
def test_batches_that_cannot_be_skipped():
    data = make_dataset(STAGES[0], 0)  # two batches
    distributed = tf.distribute.MirroredStrategy(["CPU:0"]).experimental_distribute_dataset(data)
    for dataset, count, error, message in (
        *((data, n, ValueError, f"skip_batches={n}, epoch=0 with 2 batches") for n in (-1, 2, 3)),
        (distributed, 1, TypeError, r"With `skip_batches`.*must return a tf\.data\.Dataset"),
    ):
        progressive = ProgressiveLearning(lambda s, e, d=dataset: d, STAGES, skip_batches=count)
        with pytest.raises(error, match=message):
            train(eager_model(), progressive)


def test_dataset_without_its_callback_is_an_error():
    progressive = ProgressiveLearning(lambda s, e: make_dataset(s, e).repeat(), STAGES)
    with pytest.raises(RuntimeError, match=r"callbacks=\[progressive\]"):
        eager_model().fit(progressive.dataset, epochs=EPOCHS, verbose=0)
