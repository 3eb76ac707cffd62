"""The short training by which a network of a search is judged."""

import gc
import math
from collections.abc import Callable
from typing import Any

import keras

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.search.step_time import StepTimer
from keras_effnetv2.training.assemble import build_to_train, compile_to_train, fit_stages
from keras_effnetv2.training.footprint import training_shortage
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.progressive import ProgressiveLearning

Watch = Callable[[int, float], None]
"""Is told the epoch, from 1, and the accuracy on the validation pictures, 0 to 1."""


class TrialFailed(Exception):
    """A network could not be judged; the message says why. The search goes on with others."""


class TrialRunner:
    """Builds, times and trains networks, one after the other.

    Args:
        baseline: the network beside whose steps all others are timed.
        inputs: pictures and recipe.
    """

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
            MemoryError: the training would need more main memory than is free.
        """
        if (lacking := training_shortage(model, self._inputs.plan)) is not None:
            raise MemoryError(f"not tried: {lacking}")
        seconds, ratio = self._timer.measure(model)
        parameters = count_trainable(model)
        return {"parameters": parameters, "step_time": ratio, "step_seconds": seconds}

    def train(self, model: keras.Model, watch: Watch) -> float:
        """Train a network that `build` returned by the recipe.

        Args:
            model: the network.
            watch: called after every epoch; what it raises ends the training.

        Returns:
            Accuracy on the validation pictures after the last epoch, 0 to 1, with averaged weights
            where the recipe averages.

        Raises:
            TrialFailed: the loss is not finite.
        """
        progressive = ProgressiveLearning(self._inputs.stage_dataset, self._inputs.plan)
        referee = _Referee(watch)
        fit_stages(model, self._inputs, progressive, [referee], verbose=0)
        return referee.accuracy


class _Referee(keras.callbacks.Callback):
    """Keeps the accuracy of the last epoch, and stops where there is nothing to learn any more."""

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self.accuracy = math.nan
        self._watch = watch

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if not math.isfinite(logs["loss"]):
            raise TrialFailed(f"the loss became {logs['loss']} in epoch {epoch + 1}")
        self.accuracy = float(logs["val_accuracy"])
        self._watch(epoch + 1, self.accuracy)
