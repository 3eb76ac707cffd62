"""The short training that judges a network of a search, and the time of its step."""

import gc
import math
from collections.abc import Callable
from time import perf_counter
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.timing import time_ratio
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.training.assemble import build_to_train, compile_to_train, fit_stages
from keras_effnetv2.training.footprint import training_shortage
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.progressive import ProgressiveLearning

Watch = Callable[[int, float], None]
"""Called with the epoch, from 1, and the accuracy on the validation pictures, 0 to 1."""

# Rounds: quick steps, which noise moves most, get more of them, until so many seconds were timed.
_FEWEST_ROUNDS, _MOST_ROUNDS, ENOUGH_SECONDS = 5, 25, 2.0
_STEPS = 2  # timed, of a model in each round
# Steps before those: the first of all traces, others find the cache of the other model.
_WARM_UP = 1


class TrialFailed(Exception):
    """A network could not be judged; the message says why. The search goes on with others."""


class TrialRunner:
    """Builds, times and trains networks, one after another; times are compared with a baseline."""

    def __init__(self, baseline: ModelConfig, inputs: Inputs) -> None:
        self._inputs = inputs
        self._timer = StepTimer(self.build(baseline), inputs)

    def build(self, config: ModelConfig) -> keras.Model:
        """Build and compile a network; the same seed gives the same weights."""
        gc.collect()  # the network before it may be large, and hold itself in cycles
        keras.utils.set_random_seed(self._inputs.recipe.seed)
        model = build_to_train(config, self._inputs)
        compile_to_train(model, self._inputs)
        return model

    def cost(self, model: keras.Model) -> dict[str, Any]:
        """Return "parameters", "step_time" and "step_seconds", see `TrialRecord`.

        Raises:
            MemoryError: the training needs more main memory than is free.
        """
        if (lacking := training_shortage(model, self._inputs.plan)) is not None:
            raise MemoryError(f"not tried: {lacking}")
        seconds, ratio = self._timer.measure(model)
        parameters = count_trainable(model)
        return {"parameters": parameters, "step_time": ratio, "step_seconds": seconds}

    def train(self, model: keras.Model, watch: Watch) -> float:
        """Train a network from `build` with the recipe; exceptions of `watch` end the training.

        Returns:
            Accuracy on the validation pictures after the last epoch, 0 to 1, with averaged weights
            if the recipe averages.

        Raises:
            TrialFailed: the loss is not finite.
        """
        inputs = self._inputs
        progressive = ProgressiveLearning(
            inputs.smoothed_dataset,
            inputs.plan,
            make_validation=inputs.validation_dataset,
            evaluation_size=inputs.evaluation_size,
        )
        referee = _Referee(watch)
        fit_stages(model, inputs, progressive, [referee], verbose=0)
        return referee.accuracy


class _Referee(keras.callbacks.Callback):
    """Keeps the accuracy of the last epoch, and stops if there is nothing left to learn."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.accuracy = math.nan
        self._watch = watch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not math.isfinite(logs["loss"]):
            raise TrialFailed(f"the loss became {logs['loss']} in epoch {epoch + 1}")
        self.accuracy = float(logs["val_accuracy"])
        self._watch(epoch + 1, self.accuracy)


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
    """Measures training steps, alternating with those of a baseline, always on the same real batch.

    A machine that is busy, warm or throttled slows both, so their ratio stays the same. The models
    are compiled; the batch has the sizes of the last stage.
    """

    def __init__(self, baseline: keras.Model, inputs: Inputs) -> None:
        self._baseline = baseline
        (batch,) = inputs.stage_dataset(inputs.plan[-1], 0).take(1)
        # Elements have the static shapes of the training, so that nothing is traced again there.
        self._batch = tf.data.Dataset.from_tensors(batch).repeat()

    def measure(self, model: keras.Model) -> tuple[float, float]:
        """Measure a compiled model; its weights and optimizer are unchanged afterwards.

        Returns:
            The median time of its step, seconds, and the ratio of that to the baseline's: below 1
            is faster.
        """
        models = (model, self._baseline)
        states = [one.get_state_tree(value_format="numpy_array") for one in models]
        rounds: list[list[list[float]]] = []
        try:
            while len(rounds) < _FEWEST_ROUNDS or (
                len(rounds) < _MOST_ROUNDS and np.sum(rounds) < ENOUGH_SECONDS
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
