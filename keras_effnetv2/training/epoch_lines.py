"""`EpochLines`: a bar for every epoch, and a line after it."""

import contextlib
import time
from collections.abc import Callable
from typing import Any

import keras

from keras_effnetv2._common.progress import progress_bar


class EpochLines(keras.callbacks.Callback):
    """Shows the progress of epochs and of their validations; says the results of each.

    Put it after the callbacks whose work belongs to the epoch.

    Args:
        length: returns the batches of the epoch that is open; None or less than 1 if unknown.
        say: called with each line.
    """

    def __init__(self, length: Callable[[], int | None], say: Callable[[str], Any]) -> None:
        super().__init__()
        self._length, self._say = length, say
        self._bars = contextlib.ExitStack()

    def close(self) -> None:
        """Remove the bar of an epoch that broke off."""
        self._bars.close()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._began = time.monotonic()
        self._name = f"epoch {epoch + 1}/{self.params['epochs']}"
        self._show = self._open(self._name, " steps")

    def _open(self, label: str, unit: str) -> Callable[[int, int | None], None]:
        self.close()
        return self._bars.enter_context(progress_bar(label, unit))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._show(batch + 1, self._length())

    def on_test_begin(self, logs: Any = None) -> None:
        self._show = self._open(f"{self._name}, validating", " batches")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._show(batch + 1, None)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.close()
        seconds = time.monotonic() - self._began
        figures = "".join(f", {name} {value:.4f}" for name, value in (logs or {}).items())
        self._say(f"{self._name}{figures}, {seconds:.0f} s")
