"""`TimeLeft`: says how long a training will still take, soon after it began."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.stages import steps_per_epoch
from keras_effnetv2.training.inputs import Inputs

# What a step costs for each parameter (optimizer, averages), in multiply-adds of a forward pass of
# one picture: from Adam steps of B0 at 32 to 96 pixels on a CPU.
_WORK_OF_PARAMETER = 70
# What validation takes of a step for a picture: its forward pass. With batch norms and first blocks
# frozen a step takes two fifths of the time of a whole one.
_SHARE_OF_FORWARD, _SHARE_OF_FORWARD_IF_FROZEN = 1 / 3, 5 / 6
_SAMPLES = 5  # steps that are timed
# Of shorter epochs the first is waited for, as what comes between them counts, too.
_FEW_STEPS = 20


class TimeLeft(keras.callbacks.Callback):
    """Says how long the training will take, after its first steps and when a stage begins.

    It times steps and epochs that run anyway. Steps of other stages take time by their
    multiply-adds; what is between epochs takes the same time in each.

    Args:
        inputs: of the training.
        echo: called with each line.
        has_bar: a progress bar stands in the line in which steps are timed.
        clock: returns seconds.
    """

    def __init__(
        self,
        inputs: Inputs,
        echo: Callable[[str], Any],
        *,
        has_bar: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._inputs, self._plan = inputs, inputs.plan
        self._echo, self._has_bar, self._clock = echo, has_bar, clock

    def on_train_begin(self, logs: Any = None) -> None:
        size = self._plan[0].image_size
        try:
            of_pixel = count_flops(self.model, size) / size**2
        except ValueError:  # a layer of unknown cost
            of_pixel = float(self.model.count_params())
        self._of_pixel = of_pixel
        is_frozen = not all(layer.trainable for layer in self.model.layers)
        self._forward = _SHARE_OF_FORWARD_IF_FROZEN if is_frozen else _SHARE_OF_FORWARD
        self._of_weights = _WORK_OF_PARAMETER * self.model.count_params()
        self._seconds_of_work: float | None = None
        self._between_epochs = 0.0
        self._is_traced = self._was_said = self._was_first = False

    def _steps(self, index: int) -> int:
        return steps_per_epoch(self._inputs.training.num_examples, self._plan[index].batch_size)

    def _step_work(self, index: int) -> float:
        stage = self._plan[index]
        return stage.batch_size * stage.image_size**2 * self._of_pixel + self._of_weights

    def _epoch_work(self, index: int) -> float:
        is_last = index == len(self._plan) - 1
        size = self._inputs.evaluation_size if is_last else self._plan[index].image_size
        judged = self._inputs.validation.num_examples * size**2 * self._of_pixel
        return self._steps(index) * self._step_work(index) + self._forward * judged

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._stage = self._plan.at(epoch)
        self._epoch = epoch
        is_known = self._was_first and self._seconds_of_work is not None
        if is_known and (epoch == self._stage.start_epoch or not self._was_said):
            self._say()
        self._samples: list[float] = []
        self._epoch_began = self._clock()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step_began = self._clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self._is_traced:
            self._is_traced = True  # by this first step, so that its time says nothing
            return
        self._samples.append(self._clock() - self._step_began)
        index = self._stage.index
        self._seconds_of_work = statistics.median(self._samples) / self._step_work(index)
        is_enough = len(self._samples) == _SAMPLES and self._steps(index) >= _FEW_STEPS
        if is_enough and not self._was_said:
            self._say("\n" if self._has_bar else "")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._was_first and self._seconds_of_work is not None:
            in_steps = self._epoch_work(self._stage.index) * self._seconds_of_work
            self._between_epochs = max(0.0, self._clock() - self._epoch_began - in_steps)
        self._was_first = True  # which traces

    def _say(self, before: str = "") -> None:
        self._was_said = True
        assert self._seconds_of_work is not None
        seconds = sum(
            (stage.end_epoch - max(self._epoch, stage.start_epoch))
            * (self._epoch_work(stage.index) * self._seconds_of_work + self._between_epochs)
            for stage in self._plan[self._stage.index :]
        )
        self._echo(f"{before}about {_in_words(seconds)} to go")


def _in_words(seconds: float) -> str:
    """Return a time with the precision of a rough estimate, e.g. "12 minutes"."""
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(10, round(seconds, -1)):.0f} seconds"
