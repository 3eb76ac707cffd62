"""`patience`: the best epoch of the last stage is kept, as it was judged, also by a resumed run."""

import contextlib
import json
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers.quick_runs import leave_out_results, small_network

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.runs.history import HistoryFile, best_epoch
from keras_effnetv2.training import fit
from keras_effnetv2.training.best_epoch import BestEpoch, describe_patience
from keras_effnetv2.training.interruption import StopSignals
from keras_effnetv2.training.snapshots import Saving, Snapshots, latest_snapshot

PLAN = progressive_stages(epochs=10, stages=2, image_size=(32, 48))
RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=6,
    stages=2,
    batch_size=16,
    image_size=(32, 40),
    learning_rate=0.2,
    small_pictures=False,
)


@pytest.mark.parametrize(
    ("accuracies", "losses", "best"),
    [
        ([], [], None),
        ([0.9] * 5, [0.1] * 5, None),  # of the first stage
        ([0.9] * 5 + [0.2], [0.1] * 6, 5),
        ([0.9] * 5 + [0.2, 0.3, 0.1], [0.1] * 5 + [1.0, 2.0, 0.5], 6),
        ([0.0] * 5 + [0.3, 0.3, 0.3], [0.1] * 5 + [1.0, 0.9, 0.9], 6),  # the lowest loss, first
        ([0.0] * 5 + [math.nan, 0.3], [0.1] * 5 + [math.nan, math.nan], 6),
    ],
)
def test_the_best_epoch_is_that_of_the_last_stage(accuracies, losses, best):
    assert best_epoch({"val_accuracy": accuracies, "val_loss": losses}, PLAN) == best


def test_what_patience_means_is_said():
    assert describe_patience(3, PLAN) == (
        "patience: the best epoch of the last stage (epochs 6-10) is kept; the training ends after "
        "3 epochs without improvement"
    )
    assert "only those of the last stage count, which has 5 epochs" in describe_patience(5, PLAN)


class Worse(keras.callbacks.Callback):
    """Spoils the classifier from an epoch on; remembers what callbacks see."""

    def __init__(self, stop=None, first=6):
        super().__init__()
        self.stop, self.first, self.seen, self.last = stop, first, {}, None

    def on_epoch_begin(self, epoch, logs=None):
        if epoch == self.stop:
            raise ZeroDivisionError("power cut")
        if epoch >= self.first:
            kernel = self.model.layers[-1].kernel
            kernel.assign(-3 * kernel)

    def on_epoch_end(self, epoch, logs=None):
        self.seen[epoch] = self.model.get_weights()

    def on_train_end(self, logs=None):
        self.last = self.model.get_weights()


def assert_same(ours, theirs):
    for one, other in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(one, other)


def fit_dense(folder, callback, resumed=None):
    """Fits a dense layer as `train` fits a network; returns it with its history."""
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(2, activation="softmax")(inputs))
    metrics = [keras.metrics.CategoricalAccuracy("accuracy")]
    loss = "categorical_crossentropy"
    model.compile(keras.optimizers.Adam(0.1), loss, metrics=metrics, run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    plan = progressive_stages(epochs=8, stages=2, image_size=32)
    state, kept = (None, ()) if resumed is None else (resumed.notes, resumed.kept_weights())
    history = HistoryFile(None, plan, state=state)
    best = BestEpoch(1, plan, history, kept)
    snapshots = Snapshots(
        *(Saving(folder), resumed, history.state, StopSignals(folder)), kept=lambda: best.kept
    )
    x = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
    y = np.eye(2)[(x.sum(axis=1) > 0).astype(int)]
    with contextlib.closing(snapshots):
        model.fit(
            *(x, y),
            batch_size=8,
            shuffle=False,
            epochs=8,
            initial_epoch=0 if resumed is None else resumed.epochs,
            validation_data=(x, y),
            callbacks=[EMA(0.5), history, best, callback, snapshots],
            verbose=0,
        )
    return model, history.columns


def test_the_averaged_weights_of_the_best_epoch_are_kept_over_a_power_cut(tmp_path):
    callback = Worse()
    model, history = fit_dense(tmp_path / "whole", callback)
    # Six epochs in which the loss falls, two in which the classifier is spoiled.
    assert history["epoch"] == [1, 2, 3, 4, 5, 6, 7]
    assert history["val_loss"][5] < history["val_loss"][4] < history["val_loss"][6]
    assert_same(model.get_weights(), callback.seen[5])
    assert_same(callback.last, callback.seen[5])
    for stop in (5, 6):  # before and after the best epoch
        with pytest.raises(ZeroDivisionError):
            fit_dense(tmp_path / f"cut-{stop}", Worse(stop))
        resumed = latest_snapshot(tmp_path / f"cut-{stop}", pytest.fail)
        assert len(resumed.kept_weights()) == 2
        again, rows = fit_dense(tmp_path / f"cut-{stop}", Worse(), resumed)
        assert rows["val_loss"] == history["val_loss"]
        assert_same(again.get_weights(), model.get_weights())


@pytest.mark.slow  # four trainings
def test_the_weights_that_were_judged_best_are_kept_also_by_a_resumed_run(tmp_path, monkeypatch):
    leave_out_results(monkeypatch)
    digits = load_source("digits", "train").stratified_subset(60)

    def train(name, callback, **options):
        options = {"scan": False, "verbose": 0} | options
        callback.first, folder = 4, tmp_path / name
        return fit.train(small_network(), digits, RECIPE, folder, callbacks=[callback], **options)

    callback = Worse()
    whole = train("whole", callback, patience=1)
    history = whole.history
    best = best_epoch(history, RECIPE.resolve("small").plan)
    assert history["epoch"] == [*range(1, best + 3)]  # one more, which is not better
    assert best == 3  # the first of the last stage, whose third is not trained
    assert len(callback.seen) == best + 2
    # The very weights: averaged ones, with which the epoch was judged.
    assert_same(whole.model.get_weights(), callback.seen[best])
    assert_same(callback.last, callback.seen[best])
    assert whole.evaluation.accuracy == pytest.approx(history["val_accuracy"][best])
    assert whole.evaluation.loss == pytest.approx(history["val_loss"][best], rel=1e-5)
    settings = json.loads((whole.output / "recipe.json").read_text("utf-8"))
    assert settings["limits"] == {"patience": 1, "max_minutes": None}

    with pytest.raises(ZeroDivisionError):
        train("cut", Worse(stop=best + 1), patience=1)
    with pytest.raises(ValueError, match=r"Changed: limits\.patience: was 1, is 2$"):
        train("cut", Worse(), resume=True, patience=2)
    (tmp_path / "cut" / "model.keras").mkdir()  # no file can take its place
    with pytest.raises(OSError, match=r"model\.keras"):
        train("cut", Worse(), resume=True)  # ends the training, knowing its patience
    (tmp_path / "cut" / "model.keras").rmdir()
    callback, said = Worse(), []
    resumed = train("cut", callback, resume=True, verbose=2, echo=said.append)
    assert callback.seen == {}  # nothing was left to train
    assert f"the weights of epoch {best + 1}, the best of the last stage" in said[-1]
    assert resumed.history["val_loss"] == history["val_loss"]
    assert_same(resumed.model.get_weights(), whole.model.get_weights())


@pytest.mark.slow  # a probe
def test_a_probe_keeps_its_best_epoch(tmp_path, monkeypatch):
    leave_out_results(monkeypatch)
    digits = load_source("digits", "train").stratified_subset(60)
    probe = replace(TrainRecipe.preset("probe"), epochs=20, min_steps=0, image_size=32)
    # With a rate that moves nothing, the first epoch is the best.
    recipe = replace(probe, batch_size=16, learning_rate=1e-30, warmup_epochs=0.0)
    options = {"patience": 3, "scan": False, "verbose": 0}
    result = fit.train(small_network(), digits, recipe, tmp_path / "run", **options)
    assert result.history["epoch"] == [1, 2, 3, 4]
