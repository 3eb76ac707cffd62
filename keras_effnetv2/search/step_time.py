"""How long a training step of a network takes, measured in turns with a baseline.

A machine that is busy, warm or throttled slows both, so their ratio stays.
"""

from time import perf_counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.timing import time_ratio
from keras_effnetv2.training.inputs import Inputs

# Rounds: quick steps, which noise moves most, get more of them, until so many seconds were timed.
_FEWEST_ROUNDS, _MOST_ROUNDS, _ENOUGH = 5, 25, 2.0
_STEPS = 2  # timed, of a model in each round
# Steps before those: the first of all traces, others find the cache of the other model.
_WARM_UP = 1


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
        (batch,) = inputs.stage_dataset(inputs.plan[-1], 0).take(1)
        # Elements have the static shapes of the training, so that nothing is traced again there.
        self._batch = tf.data.Dataset.from_tensors(batch).repeat()

    def measure(self, model: keras.Model) -> tuple[float, float]:
        """Measure a compiled model, whose weights and optimizer are afterwards what they were.

        Returns:
            The median time of its step, seconds, and the ratio of that to the time of the
            baseline's step beside it: below 1 is faster.
        """
        models = (model, self._baseline)
        states = [one.get_state_tree(value_format="numpy_array") for one in models]
        rounds: list[list[list[float]]] = []
        try:
            while len(rounds) < _FEWEST_ROUNDS or (
                len(rounds) < _MOST_ROUNDS and np.sum(rounds) < _ENOUGH
            ):
                rounds.append([self._steps(one) for one in models])
        finally:
            for one, state in zip(models, states, strict=True):
                one.set_state_tree(state)
        of_model, of_baseline = np.array(rounds).swapaxes(0, 1)
        return float(np.median(of_model)), time_ratio(of_model, of_baseline)

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
