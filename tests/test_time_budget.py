"""`max_minutes`: whatever the speed, all stages occur, the rate ends, and the time is kept."""

import json
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
from helpers.quick_runs import leave_out_results, small_network

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.runs.history import HistoryFile
from keras_effnetv2.training import fit
from keras_effnetv2.training.assemble import compile_to_train, fit_stages
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.time_budget import TimeBudget, describe_fitted
from keras_effnetv2.training.time_left import TimeLeft

RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=9,
    stages=3,
    batch_size=8,
    image_size=(32, 64),
    randaugment_magnitude=None,
    mixup_alpha=0.0,
    ema_decay=None,
    small_pictures=False,
)
TRACE = 3.0  # seconds


def test_the_stages_of_a_plan_share_fewer_epochs():
    plan = progressive_stages(epochs=10, stages=3, image_size=(32, 64))
    for epochs in (3, 7, 10):
        same = progressive_stages(epochs=epochs, stages=3, image_size=(32, 64))
        assert plan.with_epochs(epochs) == same


class Machine:
    """Trains a small network; time passes as the multiply-adds ask for, and for the trace."""

    def __init__(self, pictures=80):
        source = load_source("digits", "train").subset(range(pictures))
        data = TrainingData(source, validation=load_source("digits").subset(range(16)))
        self.model = small_network()
        self.inputs = load_inputs(self.model, data, RECIPE)
        self.now, self.seconds_a_billion, self.steps = 0.0, 1e4, 0
        step = self.model.train_step

        def timed_step(batch):
            self.now += TRACE if self.steps == 0 else 0.0
            self.now += self.seconds_of_step(batch[0].shape[1])
            self.steps += 1
            return step(batch)

        self.model.train_step = timed_step

    def seconds_of_step(self, size):
        return 8 * count_flops(self.model, size) / 1e9 * self.seconds_a_billion

    def seconds_of_plan(self):
        return sum(
            (stage.end_epoch - stage.start_epoch) * 10 * self.seconds_of_step(stage.image_size)
            for stage in self.inputs.plan
        )

    def train(self, seconds, at_step=None):
        """Return the fitted inputs and the history; `at_step` is called after the planning."""
        budget = TimeBudget(seconds / 60, clock=lambda: self.now)
        compile_to_train(self.model, self.inputs)
        fitted = budget.fitted(self.model, self.inputs, UnreadablePictures(False))
        self.steps = 0
        compile_to_train(self.model, fitted)
        progressive = ProgressiveLearning(partial(fitted.smoothed_dataset, alone=True), fitted.plan)
        timed = TimeLeft(fitted, lambda line: None, clock=lambda: self.now)
        budget.begin(progressive.dataset, timed)
        history = HistoryFile(None, fitted.plan)
        if at_step is not None:
            at_step()
        fit_stages(self.model, fitted, progressive, [history, budget, timed], verbose=0)
        return fitted, history.columns


@pytest.fixture
def machine():
    return Machine()


def assert_complete(history, fitted):
    """All stages, each step of the schedule, and a rate at the end of its cosine."""
    assert sorted(set(history["stage"])) == [1, 2, 3]
    assert history["epoch"] == [*range(1, fitted.plan.epochs + 1)]
    assert history["learning_rate"][-1] == pytest.approx(0, abs=1e-9)
    assert max(history["learning_rate"]) > 0


def test_with_enough_time_nothing_changes(machine):
    fitted, history = machine.train(2 * machine.seconds_of_plan())
    assert fitted == machine.inputs
    assert machine.steps == 9 * 10
    assert_complete(history, fitted)


def test_in_half_of_the_time_there_are_fewer_epochs(machine):
    seconds = 0.6 * machine.seconds_of_plan() + 2 * TRACE
    fitted, history = machine.train(seconds)
    assert 3 < fitted.plan.epochs < 9
    # The estimate knows what a step costs for each parameter, this machine does not.
    assert 0.9 * fitted.plan.epochs * 10 <= machine.steps <= fitted.plan.epochs * 10
    assert_complete(history, fitted)
    assert 0.5 * seconds < machine.now < 1.01 * seconds
    assert describe_fitted(fitted, 9).startswith(
        f"{fitted.plan.epochs} epochs instead of 9, to end in time (--max-minutes, max_minutes=)"
    )


def test_in_less_than_an_epoch_a_stage_there_are_fewer_pictures(machine):
    seconds = 0.15 * machine.seconds_of_plan() + 2 * TRACE
    fitted, history = machine.train(seconds)
    assert fitted.plan.epochs == 3
    assert 8 <= fitted.pictures_per_epoch < 80
    assert f"each with {fitted.pictures_per_epoch} of the 80 pictures" in describe_fitted(fitted, 9)
    assert_complete(history, fitted)
    assert machine.now < 1.01 * seconds


@pytest.mark.parametrize("slower", [1.5, 3.0])
def test_if_steps_get_slower_some_are_left_out_and_the_schedule_still_ends(machine, slower):
    seconds = 0.8 * machine.seconds_of_plan() + 2 * TRACE

    def slow_down():
        machine.seconds_a_billion *= slower

    fitted, history = machine.train(seconds, slow_down)
    assert machine.steps < fitted.plan.epochs * 10
    assert int(machine.model.optimizer.iterations) == fitted.plan.epochs * 10
    assert_complete(history, fitted)
    assert 0.8 * seconds < machine.now < 1.05 * seconds


def test_a_training_without_time_does_a_step_of_each_stage_and_its_resume_too(
    tmp_path, monkeypatch
):
    leave_out_results(monkeypatch)
    digits = load_source("digits", "train").stratified_subset(60)

    def train(name, **options):
        return fit.train(
            *(small_network(), digits, RECIPE, tmp_path / name), scan=False, verbose=2, **options
        )

    def stop(line):
        said.append(line)
        if line.startswith("Stage 3/3"):
            raise ZeroDivisionError("power cut")

    whole = train("whole", max_minutes=1e-6, echo=lambda line: None)
    assert whole.history["stage"] == [1, 2, 3]
    assert whole.history["learning_rate"][-1] == 0
    said = []
    with pytest.raises(ZeroDivisionError):
        train("cut", max_minutes=1e-6, echo=stop)
    assert any(
        line.startswith("3 epochs instead of 9, each with 8 of the 48 pictures, to end in time")
        for line in said
    )
    settings = json.loads((tmp_path / "cut" / "recipe.json").read_text("utf-8"))
    assert settings["recipe"]["epochs"] == 9  # what was asked for, and is to be repeated
    assert [stage["end_epoch"] for stage in settings["stages"]] == [1, 2, 3]
    assert settings["max_pictures_per_epoch"] == 8
    resumed = train("cut", resume=True, echo=lambda line: None)
    assert resumed.history["stage"] == [1, 2, 3]
    for ours, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_a_resumed_training_knows_the_time_that_was_used():
    clock = SimpleNamespace(now=100.0)
    first = TimeBudget(10, clock=lambda: clock.now)
    machine = Machine()
    compile_to_train(machine.model, machine.inputs)
    first.fitted(machine.model, machine.inputs, UnreadablePictures(False))
    clock.now += 240
    notes = json.loads(json.dumps(first.notes()))
    assert notes["seconds_used"] == 240
    clock.now = 5.0  # of another process
    again = TimeBudget(10, notes, clock=lambda: clock.now)
    clock.now += 60
    assert again.seconds_left() == 600 - 240 - 60
    assert again.fitted(None, machine.inputs, UnreadablePictures(False)) == machine.inputs
