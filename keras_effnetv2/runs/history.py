"""`history.csv`, the table of a run: written during training, continued by `resume`."""

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.files import write_text
from keras_effnetv2.recipes.stages import StagePlan


class HistoryFile(keras.callbacks.Callback):
    """Keeps the table of a run's epochs, in memory and in a file.

    Columns: epoch (from 1), stage (from 1), image_size (pixels), batch_size, learning_rate (after
    the epoch), seconds, then what Keras logs.

    Args:
        path: the CSV file, written whole after every epoch. None if another process writes it.
        plan: the stages of the training.
        state: what `state()` returned when the training stopped. The file may be ahead of it.
    """

    def __init__(
        self, path: Path | None, plan: StagePlan, *, state: Mapping[str, Any] | None = None
    ) -> None:
        super().__init__()
        self._path = path
        self._plan = plan
        self._rows: list[dict[str, float]] = [] if state is None else list(state["rows"])
        self._seconds_before = 0.0 if state is None else float(state["seconds"])
        self._started: float | None = None

    def state(self) -> dict[str, Any]:
        """Return the rows, and the seconds of the current epoch; data for JSON."""
        return {"rows": self._rows, "seconds": self._seconds()}

    def _seconds(self) -> float:
        if self._started is None:
            return self._seconds_before
        return round(self._seconds_before + time.monotonic() - self._started, 3)

    @property
    def columns(self) -> dict[str, list[float]]:
        """Column -> one value per epoch, NaN where an epoch has none."""
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        return {name: [row.get(name, math.nan) for row in self._rows] for name in names}

    def on_train_begin(self, logs: Any = None) -> None:
        if self._rows:  # the file may have been lost, or be an epoch ahead
            self._write()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        stage = self._plan.at(epoch)
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        row = {
            "epoch": epoch + 1,
            "stage": stage.index + 1,
            "image_size": stage.image_size,
            "batch_size": stage.batch_size,
            "learning_rate": float(rate),
            "seconds": self._seconds(),
        }
        self._rows.append(row | {name: float(value) for name, value in (logs or {}).items()})
        self._started = None
        self._seconds_before = 0.0
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            text = io.StringIO()
            writer = csv.writer(text, lineterminator="\n")
            writer.writerow(self.columns)
            writer.writerows(zip(*self.columns.values(), strict=True))
            write_text(self._path, text.getvalue())


def best_epoch(history: Mapping[str, Sequence[float]], plan: StagePlan) -> int | None:
    """Return the epoch, from 0, of the last stage that was judged best; None before that stage.

    It has the highest validation accuracy (multi-label: `pr_auc`), and of those the lowest
    validation loss; of equal ones it is the first. Earlier stages are not
    compared: their pictures are smaller, and so are those that they are judged with.

    Args:
        history: column -> one value per epoch, as in `history.csv`.
        plan: the stages.
    """
    judged = history.get("val_pr_auc") or history.get("val_accuracy", ())
    scores = np.stack([judged, -np.array(history.get("val_loss", ()))])
    scores = np.nan_to_num(scores, nan=-np.inf)
    epochs = range(plan[-1].start_epoch, scores.shape[1])
    return max(epochs, key=lambda epoch: tuple(scores[:, epoch]), default=None)


def read_history(path: Path) -> dict[str, list[float]]:
    """Read the table of a run: column -> one value per epoch; ValueError if that cannot be done."""
    try:
        with path.open(encoding="utf-8", newline="") as file:
            names, *rows = csv.reader(file)
        columns = zip(*rows, strict=True) if rows else ([] for _ in names)
        return {name: [*map(float, one)] for name, one in zip(names, columns, strict=True)}
    except (OSError, ValueError, csv.Error) as error:
        raise ValueError(
            f"{path} cannot be read: {error}. Put a copy in its place, or train again."
        ) from None
