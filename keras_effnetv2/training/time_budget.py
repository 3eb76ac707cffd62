"""A training that ends in time, with all its stages and a learning rate that reaches its end."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.progress import working
from keras_effnetv2._common.text import counted
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.recipes.stages import TrainStage, step_of_epoch
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.training.assemble import compile_to_train, fit_stages
from keras_effnetv2.training.epoch_dataset import EpochDataset
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.time_left import TimeLeft

# Of the time that is left; what a plan leaves is for steps that turn out slower than those timed.
_PLANNED_SHARE = 0.95
# What comes after a training, in times of its first step or of its first features, which trace, and
# of one validation: scores, export and report. (docs/benchmarks.md: 18 s for 341 photos, 4.4 s to
# trace and 3.5 s for a validation; first features take 1.7 s there.)
_STARTS_OF_STEPS, _STARTS_OF_FEATURES, _VALIDATIONS = 2.5, 6.0, 2.0


class TimeBudget(keras.callbacks.Callback):
    """Keeps a training within its time: where that gets short, steps are left out.

    The steps that there is no time for are spread over all that are left. Each step that is done
    moves the optimizer's count of steps on by more than one, so schedules, unfreezing and averages
    go through their whole course, and every stage has its share. While there is enough time, this
    changes nothing. Put it before the callbacks that save the state.

    Args:
        minutes: of `train`, from its beginning to the written run folder.
        notes: what `notes()` returned when the training stopped.
        clock: returns seconds.
        began: what it returned when `train` began; None is now.

    Attributes:
        before: the weights of the classifier that was fitted first, if the training after it was
            shortened; they are kept if they are better.
    """

    def __init__(
        self,
        minutes: float,
        notes: Mapping[str, Any] | None = None,
        clock: Callable[[], float] = time.monotonic,
        began: float | None = None,
    ) -> None:
        super().__init__()
        notes = notes or {}
        self._clock, self._began = clock, clock() if began is None else began
        self._seconds, self._used = 60 * minutes, notes.get("seconds_used", 0.0)
        self._for_results = notes.get("seconds_for_results", 0.0)
        self._parts = {
            "before it was resumed": self._used,
            "preparation": self._clock() - self._began,
        }
        self.before: Sequence[np.ndarray] = ()

    def _seconds_used(self) -> float:
        return float(self._used + self._clock() - self._began)

    def seconds_left(self) -> float:
        """Return the seconds that are left until the results are made; negative if none are."""
        return self._seconds - self._for_results - self._seconds_used()

    def notes(self) -> dict[str, Any]:
        """Return what a resumed training has to know; data for JSON."""
        return {
            "seconds_used": self._seconds_used(),
            "seconds_for_results": self._for_results,
            "arrays_before": len(self.before),
        }

    def ended(self, part: str) -> None:
        """Note that a part of the training has ended, for `overrun`."""
        self._parts[part] = self._seconds_used() - sum(self._parts.values())

    def overrun(self) -> str | None:
        """Return a line about a limit that was passed, and what took the time; None if it was not.

        What took less than a second is left out.
        """
        used = self._seconds_used()
        late = round(used - self._seconds)
        if late < 1:
            return None
        parts = {**self._parts, "scores and report": used - sum(self._parts.values())}
        took = ", ".join(f"{name} {s:.0f} s" for name, s in parts.items() if s >= 1)
        return f"took {used:.0f} s, {late} s more than --max-minutes (max_minutes=) allows: {took}"

    def keep_for_results(
        self, to_start: float, of_validation: float, *, of_features: bool = False
    ) -> None:
        """Keep seconds for what comes after the training.

        Args:
            to_start: seconds of the first step, or `of_features` of the first features.
            of_validation: seconds of a validation.
            of_features: see `to_start`.
        """
        starts = _STARTS_OF_FEATURES if of_features else _STARTS_OF_STEPS
        self._for_results = starts * to_start + _VALIDATIONS * of_validation

    def fitted(self, model: keras.Model, inputs: Inputs, unreadable: UnreadablePictures) -> Inputs:
        """Return the inputs with fewer epochs, or fewer pictures in each, if time asks for it.

        A few steps of the compiled model are timed; then it has its weights back, and has to be
        compiled again.
        """
        timed = _timed(model, inputs, unreadable, self._clock)
        if not timed.is_known:
            return inputs
        _, of_validation = timed.seconds_of(len(inputs.plan) - 1)
        self.keep_for_results(timed.seconds_to_start, of_validation)
        if inputs.recipe.probe == "first":  # may be judged, too
            self._for_results += of_validation
        seconds = _PLANNED_SHARE * (self.seconds_left() - timed.seconds_to_start)
        return shortened(inputs, timed, seconds)

    def follow(self, inputs: Inputs) -> None:
        """Take the inputs that are trained with, or whose batches were halved."""
        self._inputs = inputs

    def begin(self, dataset: EpochDataset, timed: TimeLeft) -> None:
        """Take the data that is read, of one epoch at a time, and the clock of its steps."""
        self._dataset: Any = dataset
        self._timed = timed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        inputs = self._inputs
        self._epoch, self._pace = epoch, 1.0
        self._place = float(keras.ops.convert_to_numpy(self.model.optimizer.iterations))
        self._end = step_of_epoch(inputs.plan, inputs.pictures_per_epoch, epoch + 1)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._place += self._pace
        if self._pace != 1:
            self.model.optimizer.iterations.assign(round(self._place))
        left = self._end - self._place
        if left <= 0 or not self._timed.is_known:
            return
        self._pace = self._steps_for_one(left)
        if self._pace >= left and self._dataset.length > batch + 2:
            self._pace = left
            self._dataset.length = batch + 2  # the next one is the last

    def on_train_end(self, logs: Any = None) -> None:
        self.ended("training")

    def _steps_for_one(self, left: float) -> float:
        """How many steps of the plan the next one stands for; `left` are in this epoch."""
        plan = self._inputs.plan
        stage = plan.at(self._epoch)
        step, _ = self._timed.seconds_of(stage.index)
        in_steps, beside = self._timed.seconds_left(plan, self._epoch)
        in_steps -= (self._inputs.steps_per_epoch(stage) - left) * step
        available = self.seconds_left() - beside
        return max(1.0, in_steps / available) if available > 0 else max(1.0, left)


@working("timing a few steps")
def fit_to_time(
    model: keras.Model,
    inputs: Inputs,
    settings: RunSettings,
    budget: TimeBudget,
    unreadable: UnreadablePictures,
    folder: Path,
    say: Callable[[str], Any],
) -> tuple[Inputs, RunSettings]:
    """Return inputs and settings for which there is time, and record the settings.

    If that is shorter, the budget keeps the weights of a classifier that was fitted first.
    """
    fitted = budget.fitted(model, inputs, unreadable)
    compile_to_train(model, fitted)
    if fitted.plan == inputs.plan and fitted.max_pictures_per_epoch is None:
        return inputs, settings
    say(describe_fitted(fitted, inputs.plan.epochs))
    if inputs.recipe.probe == "first":
        budget.before = model.get_weights()
    settings = replace(
        settings,
        stages=tuple(fitted.plan),
        max_pictures_per_epoch=fitted.max_pictures_per_epoch,
    )
    run_folder.write_settings(folder, settings)
    return fitted, settings


def _timed(
    model: keras.Model,
    inputs: Inputs,
    unreadable: UnreadablePictures,
    clock: Callable[[], float],
) -> TimeLeft:
    """Time a few steps of a training; give the model its weights back."""
    before = [(one, keras.ops.convert_to_numpy(one).copy()) for one in model.variables]

    def first_epochs(stage: TrainStage, epoch: int) -> Any:
        return inputs.smoothed_dataset(stage, epoch, unreadable, alone=True)

    timed = TimeLeft(inputs, lambda line: None, only_measure=True, clock=clock)
    progressive = ProgressiveLearning(first_epochs, inputs.plan)
    fit_stages(model, inputs, progressive, [timed], verbose=0)
    for variable, value in before:
        variable.assign(value)
    return timed


def shortened(inputs: Inputs, timed: TimeLeft, seconds: float) -> Inputs:
    """Return the inputs with as many epochs as there is time for, one for each stage at least.

    If these still take too long, an epoch has fewer pictures.
    """
    stages = len(inputs.plan)
    for epochs in range(inputs.plan.epochs, stages - 1, -1):
        plan = inputs.plan.with_epochs(epochs)
        in_steps, beside = timed.seconds_left(plan)
        if in_steps + beside <= seconds:
            return replace(inputs, plan=plan)
    share = max(0.0, seconds - beside) / in_steps
    # Of the largest batch at least one.
    least = max(stage.batch_size for stage in plan)
    count = max(least, int(share * inputs.training.num_examples))
    return replace(inputs, plan=plan, max_pictures_per_epoch=count)


def describe_fitted(fitted: Inputs, epochs: int) -> str:
    """Return what time has changed of a plan that had `epochs`, and the new plan."""
    pictures = ""
    if fitted.max_pictures_per_epoch is not None:
        shown, count = fitted.pictures_per_epoch, fitted.training.num_examples
        pictures = f", each with {shown:,} of the {count:,} pictures"
    return (
        f"{counted(fitted.plan.epochs, 'epoch')} instead of {epochs:,}{pictures}, to end in time "
        f"(--max-minutes, max_minutes=)\n\n{fitted.plan}\n"
    )
