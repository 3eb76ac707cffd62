"""`max_minutes`: whatever the speed, all stages occur, the rate ends, and the time is kept."""

import json
import re
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.quick_runs import leave_out_results, small_network

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages, step_of_epoch
from keras_effnetv2.training import fit
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.results import evaluate_model
from keras_effnetv2.training.time_budget import TimeBudget, describe_fitted, shortened
from keras_effnetv2.training.time_left import TimeLeft

RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=9,
    stages=3,
    batch_size=8,
    image_size=(32, 64),
    small_pictures=False,
)


def test_the_stages_of_a_plan_share_fewer_epochs():
    plan = progressive_stages(epochs=10, stages=3, image_size=(32, 64))
    for epochs in (3, 7, 10):
        same = progressive_stages(epochs=epochs, stages=3, image_size=(32, 64))
        assert plan.with_epochs(epochs) == same


class Machine:
    """Does the steps of a training in the time that their multiply-adds take, and no more."""

    def __init__(self):
        source = load_source("digits", "train").subset(range(80))
        data = TrainingData(source, validation=load_source("digits").subset(range(16)))
        self.model = small_network()
        self.model.compile(keras.optimizers.SGD())
        self.inputs = load_inputs(self.model, data, RECIPE)
        self.now, self.seconds_a_billion, self.steps = 0.0, 1e4, 0

    def clock(self):
        return self.now

    def seconds_of_plan(self):
        return sum(
            (stage.end_epoch - stage.start_epoch) * 10 * self.seconds_of_step(stage)
            for stage in self.inputs.plan
        )

    def seconds_of_step(self, stage):
        flops = count_flops(self.model, stage.image_size)
        return stage.batch_size * flops / 1e9 * self.seconds_a_billion

    def epoch(self, epoch, inputs, callbacks, dataset):
        stage = inputs.plan.at(epoch)
        dataset.length = inputs.steps_per_epoch(stage)
        for one in callbacks:
            one.on_epoch_begin(epoch)
        batch = 0
        while batch < dataset.length:
            for one in callbacks:
                one.on_train_batch_begin(batch)
            self.now += self.seconds_of_step(stage)
            self.steps += 1
            self.model.optimizer.iterations.assign_add(1)
            for one in callbacks:
                one.on_train_batch_end(batch)
            batch += 1
        for one in callbacks:
            one.on_epoch_end(epoch)

    def timed(self, inputs):
        timed = TimeLeft(inputs, lambda line: None, clock=self.clock)
        timed.set_model(self.model)
        timed.on_train_begin()
        return timed

    def train(self, seconds, slower=1.0):
        """Return the fitted inputs; then the steps are slower than those that were timed."""
        first = self.timed(self.inputs)
        self.epoch(0, self.inputs, [first], SimpleNamespace())
        fitted = shortened(self.inputs, first, seconds)
        self.now, self.steps = 0.0, 0
        self.model.optimizer.iterations.assign(0)
        self.seconds_a_billion *= slower
        budget = TimeBudget(seconds / 60, clock=self.clock)
        budget.follow(fitted)
        timed, dataset = self.timed(fitted), SimpleNamespace()
        budget.set_model(self.model)
        budget.begin(dataset, timed)
        for epoch in range(fitted.plan.epochs):
            self.epoch(epoch, fitted, [budget, timed], dataset)
        # The schedule was gone through to its end, and every stage had steps.
        steps = step_of_epoch(fitted.plan, fitted.pictures_per_epoch, fitted.plan.epochs)
        assert int(self.model.optimizer.iterations) == steps
        assert len(fitted.plan) == 3
        return fitted


@pytest.fixture
def machine():
    return Machine()


def test_with_enough_time_nothing_changes(machine):
    fitted = machine.train(1.5 * machine.seconds_of_plan())
    assert fitted == machine.inputs
    assert machine.steps == 9 * 10


def test_in_half_of_the_time_there_are_fewer_epochs(machine):
    seconds = 0.55 * machine.seconds_of_plan()
    fitted = machine.train(seconds)
    assert 3 < fitted.plan.epochs < 9
    # The estimate knows what a step costs for each parameter, this machine does not.
    assert 0.9 * fitted.plan.epochs * 10 <= machine.steps <= fitted.plan.epochs * 10
    assert 0.6 * seconds < machine.now < 1.01 * seconds
    assert describe_fitted(fitted, 9).startswith(
        f"{fitted.plan.epochs} epochs instead of 9, to end in time (--max-minutes, max_minutes=)"
    )


def test_in_less_than_an_epoch_a_stage_there_are_fewer_pictures(machine):
    seconds = 0.15 * machine.seconds_of_plan()
    fitted = machine.train(seconds)
    assert fitted.plan.epochs == 3
    assert 8 <= fitted.pictures_per_epoch < 80
    assert f"each with {fitted.pictures_per_epoch} of the 80 pictures" in describe_fitted(fitted, 9)
    assert 0.6 * seconds < machine.now < 1.1 * seconds


@pytest.mark.parametrize("slower", [1.5, 3.0])
def test_if_steps_get_slower_some_are_left_out(machine, slower):
    seconds = 0.8 * machine.seconds_of_plan()
    fitted = machine.train(seconds, slower)
    assert machine.steps < fitted.plan.epochs * 10
    assert 0.8 * seconds < machine.now < 1.05 * seconds


def test_a_resumed_training_knows_the_time_that_was_used(machine):
    machine.now = 20.0
    first = TimeBudget(10, clock=machine.clock, began=5.0)  # `train` began before
    first.keep_for_results(4.4, 3.5)  # of docs/benchmarks.md, where the rest took 18 s
    assert first.seconds_left() == pytest.approx(600 - 15 - 18)
    machine.now += 225
    notes = json.loads(json.dumps(first.notes()))
    machine.now = 7.0  # of another process
    again = TimeBudget(10, notes, machine.clock)
    machine.now += 60
    assert again.seconds_left() == pytest.approx(600 - 240 - 60 - 18)
    assert again.notes()["seconds_used"] == 300
    assert again.overrun() is None
    again.ended("the classifier")
    machine.now += 310
    again.on_train_end()
    machine.now += 5
    assert again.overrun() == (
        "took 615 s, 15 s more than --max-minutes (max_minutes=) allows: before it was resumed "
        "240 s, the classifier 60 s, training 310 s, scores and report 5 s"
    )


def test_a_training_that_made_the_classifier_worse_is_not_kept(machine):
    model, inputs = machine.model, machine.inputs
    good = model.get_weights()
    model.layers[-1].kernel.assign(-model.layers[-1].kernel)
    bad = model.get_weights()
    worse, _, is_earlier = evaluate_model(model, inputs)
    assert not is_earlier
    for before, after in ((good, bad), (bad, good)):
        model.set_weights(after)
        better, _, is_earlier = evaluate_model(model, inputs, before)
        assert is_earlier == (before is good)
        assert (better.accuracy, -better.loss) > (worse.accuracy, -worse.loss)
        np.testing.assert_array_equal(model.get_weights()[-2], good[-2])


@pytest.mark.slow  # three trainings
def test_a_training_without_time_does_a_step_of_each_stage_and_its_resume_too(
    tmp_path, monkeypatch
):
    leave_out_results(monkeypatch)
    digits = load_source("digits", "train").stratified_subset(60)
    # A rate that spoils the classifier, which was fitted first and is therefore kept.
    recipe = replace(RECIPE, stages=2, probe="first", learning_rate=8.0, ema_decay=None)

    def train(name, **options):
        return fit.train(
            *(small_network(), digits, recipe, tmp_path / name), scan=False, verbose=2, **options
        )

    def stop(line):
        said.append(line)
        if line.startswith("Stage 2/2"):
            raise ZeroDivisionError("power cut")

    said = []
    whole = train("whole", max_minutes=1e-6, echo=said.append)
    assert re.search(r"^took \d+ s, \d+ s more than --max-minutes .*the classifier \d", said[-1])
    assert re.search("\nkept +the classifier that was fitted first; ", said[-2])
    assert whole.evaluation.loss < whole.history["val_loss"][-1]
    assert whole.history["stage"] == [1, 2]
    assert whole.history["learning_rate"][-1] == 0
    said = []
    with pytest.raises(ZeroDivisionError):
        train("cut", max_minutes=1e-6, echo=stop)
    assert any(
        line.startswith("2 epochs instead of 9, each with 8 of the 48 pictures, to end in time")
        for line in said
    )
    settings = json.loads((tmp_path / "cut" / "recipe.json").read_text("utf-8"))
    assert settings["recipe"]["epochs"] == 9  # what was asked for, and is to be repeated
    assert [stage["end_epoch"] for stage in settings["stages"]] == [1, 2]
    assert settings["max_pictures_per_epoch"] == 8
    resumed = train("cut", resume=True, echo=lambda line: None)
    assert resumed.history["val_loss"] == whole.history["val_loss"]
    for ours, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
