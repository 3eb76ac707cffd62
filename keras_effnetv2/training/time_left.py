"""`TimeLeft`: says how long a training will still take, soon after it began."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_effnetv2._common.text import roughly
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.stages import StagePlan
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
        only_measure: end `fit` once enough steps have been timed.
        clock: returns seconds.

    Attributes:
        seconds_to_start: of the first step, which traces.
    """

    def __init__(
        self,
        inputs: Inputs,
        echo: Callable[[str], Any],
        *,
        only_measure: bool = False,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        super().__init__()
        self._inputs, self._plan = inputs, inputs.plan
        self._echo, self._clock = echo, clock
        self._only_measure = only_measure
        self._seconds_of_work: float | None = None
        self.seconds_to_start = 0.0

    @property
    def is_known(self) -> bool:
        """Whether a step has been timed."""
        return self._seconds_of_work is not None

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
        self._between_epochs = 0.0
        self._is_traced = self._was_said = self._was_first = False

    def _step_work(self, index: int) -> float:
        stage = self._plan[index]
        return stage.batch_size * stage.image_size**2 * self._of_pixel + self._of_weights

    def seconds_of(self, index: int) -> tuple[float, float]:
        """Return the seconds of a step of a stage, and of what is beside the steps of an epoch."""
        is_last = index == len(self._plan) - 1
        size = self._inputs.evaluation_size if is_last else self._plan[index].image_size
        judged = self._inputs.validation.num_examples * size**2 * self._of_pixel
        assert self._seconds_of_work is not None
        step, validation = (
            work * self._seconds_of_work
            for work in (self._step_work(index), self._forward * judged)
        )
        return step, validation + self._between_epochs

    def seconds_left(self, plan: StagePlan, epoch: int = 0) -> tuple[float, float]:
        """Return the seconds that steps will take from an epoch on, and what is beside them.

        The plan may have other numbers of epochs than that of the training.
        """
        in_steps = beside = 0.0
        for stage in plan:
            epochs = max(0, stage.end_epoch - max(epoch, stage.start_epoch))
            step, between = self.seconds_of(stage.index)
            in_steps += epochs * self._inputs.steps_per_epoch(stage) * step
            beside += epochs * between
        return in_steps, beside

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._stage = self._plan.at(epoch)
        self._epoch = epoch
        if (
            self._was_first
            and self.is_known
            and (epoch == self._stage.start_epoch or not self._was_said)
        ):
            self._say()
        self._samples: list[float] = []
        self._steps = 0
        self._epoch_began = self._clock()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._step_began = self._clock()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._steps += 1
        seconds = self._clock() - self._step_began
        if not self._is_traced:
            self._is_traced = True  # by this first step, so that its time says nothing
            self.seconds_to_start = seconds
            return
        self._samples.append(seconds)
        index = self._stage.index
        self._seconds_of_work = statistics.median(self._samples) / self._step_work(index)
        if len(self._samples) != _SAMPLES:
            return
        if self._only_measure:
            self.model.stop_training = True
        elif self._inputs.steps_per_epoch(self._stage) >= _FEW_STEPS and not self._was_said:
            self._say()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self._was_first and self.is_known:
            self._between_epochs = 0.0
            step, validation = self.seconds_of(self._stage.index)
            known = self._steps * step + validation
            self._between_epochs = max(0.0, self._clock() - self._epoch_began - known)
        self._was_first = True  # which traces
        if self._only_measure and self.is_known:
            self.model.stop_training = True

    def _say(self) -> None:
        self._was_said = True
        seconds = sum(self.seconds_left(self._plan, self._epoch))
        self._echo(f"about {roughly(seconds)} to go")
