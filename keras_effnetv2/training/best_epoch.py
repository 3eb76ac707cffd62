"""`BestEpoch`: ends a training that gets no better, and leaves the weights of its best epoch."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.text import counted
from keras_effnetv2.recipes.stages import StagePlan
from keras_effnetv2.runs.history import HistoryFile, best_epoch


class BestEpoch(keras.callbacks.Callback):
    """Keeps the weights of the best epoch of the last stage, and ends `fit` with them.

    They are those in the model at the end of the epoch, which were judged. Put this callback after
    `EMA` and the history, and before the callbacks that save the state.

    Args:
        patience: epochs of the last stage without a better one that end `fit`; None does nothing.
        plan: the stages.
        history: of the epochs so far.
        kept: the weights that were kept when the training stopped.
    """

    def __init__(
        self,
        patience: int | None,
        plan: StagePlan,
        history: HistoryFile,
        kept: Sequence[np.ndarray] = (),
    ) -> None:
        super().__init__()
        self._patience, self._plan, self._history = patience, plan, history
        self.kept = kept  # of the best epoch; none before the last stage

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        best = best_epoch(self._history.columns, self._plan)
        if best is None or self._patience is None:
            return
        if best == epoch:
            self.kept = self.model.get_weights()
        if epoch - best >= self._patience:
            self.model.stop_training = True

    def on_train_end(self, logs: Any = None) -> None:
        if self.kept:
            self.model.set_weights(self.kept)


def describe_patience(patience: int, plan: StagePlan) -> str:
    """Return a line about what a patience means for the stages of a training."""
    last = plan[-1]
    epochs = last.end_epoch - last.start_epoch
    where = f"epochs {last.start_epoch + 1}-{last.end_epoch}"
    if epochs <= patience:
        return (
            f"patience: all epochs are trained, because only those of the last stage count, "
            f"which has {counted(epochs, 'epoch')} ({where}); the best of them is kept"
        )
    return (
        f"patience: the best epoch of the last stage ({where}) is kept; the training ends "
        f"after {counted(patience, 'epoch')} without improvement"
    )
