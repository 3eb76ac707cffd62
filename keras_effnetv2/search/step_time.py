"""How long a training step of a network takes, measured in turns with a baseline.

A machine that is busy, warm or throttled slows both, so their ratio stays.
"""

from dataclasses import dataclass
from time import perf_counter
from typing import Any

import keras
import numpy as np

from keras_effnetv2.benchmark.timing import time_ratio
from keras_effnetv2.training.preflight import Inputs

_ROUNDS = 5
_STEPS = 2  # timed, of a model in each round
_WARM_UP = (
    1  # steps before those: the first of all traces, others find the cache of the other model
)


@dataclass(frozen=True)
class StepTime:
    """Time of a training step.

    Attributes:
        seconds: median.
        ratio: over the time of the baseline's step beside it; below 1 is faster.
    """

    seconds: float
    ratio: float


class _Stopwatch(keras.callbacks.Callback):
    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []
        self._start = 0.0

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        self._start = perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        float(logs["loss"])  # waits for a device that works behind our back
        self.seconds.append(perf_counter() - self._start)


class StepTimer:
    """Measures training steps: forward, loss, gradient, update, on a real batch that is kept.

    Args:
        baseline: a compiled model.
        inputs: whose pictures are trained on, at the size and batch size of the last stage.
    """

    def __init__(self, baseline: keras.Model, inputs: Inputs) -> None:
        self._baseline = baseline
        # As elements have the static shapes of the training, nothing is traced again there.
        batch = inputs.stage_dataset(inputs.plan[-1], 0).take(1).cache()
        for _ in batch:  # fills the cache
            pass
        self._batch = batch.repeat()

    def measure(self, model: keras.Model) -> StepTime:
        """Measure a compiled model, whose weights and optimizer are afterwards what they were."""
        models = (model, self._baseline)
        states = [one.get_state_tree(value_format="numpy_array") for one in models]
        seconds = np.empty((len(models), _ROUNDS, _STEPS))
        try:
            for round in range(_ROUNDS):
                for index, one in enumerate(models):
                    seconds[index, round] = self._steps(one)
        finally:
            for one, state in zip(models, states, strict=True):
                one.set_state_tree(state)
        return StepTime(float(np.median(seconds[0])), time_ratio(seconds[0], seconds[1]))

    def _steps(self, model: keras.Model) -> list[float]:
        stopwatch = _Stopwatch()
        model.fit(
            self._batch,
            steps_per_epoch=_WARM_UP + _STEPS,
            callbacks=[stopwatch],
            shuffle=False,
            verbose=0,
        )
        return stopwatch.seconds[_WARM_UP:]
