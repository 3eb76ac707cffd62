"""`history.csv`: a row an epoch, written as training goes, carried on when a run is resumed."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import keras

from keras_effnetv2.training.run_folder import write_text
from keras_effnetv2.training.stages import StagePlan

_FIRST = ("epoch", "stage", "image_size", "batch_size", "learning_rate", "seconds")


class HistoryFile(keras.callbacks.Callback):
    """Keeps the table of a run's epochs, in memory and in a file.

    Columns: epoch (from 1), stage (from 1), image_size (pixels), batch_size, learning_rate (after
    the epoch), seconds, then what Keras logs.

    Args:
        path: the CSV file; rewritten whole after every epoch.
        plan: the stages of the training.
        resume: keep the rows that are there for the epochs before the first one of this `fit`.

    Attributes:
        columns: column -> one value an epoch.
    """

    def __init__(self, path: Path, plan: StagePlan, *, resume: bool) -> None:
        super().__init__()
        self._path = path
        self._plan = plan
        self._rows = read_history(path) if resume and path.exists() else []
        self._started = 0.0

    @property
    def columns(self) -> dict[str, list[float]]:
        names = list(dict.fromkeys(name for row in self._rows for name in row))
        return {name: [row.get(name, math.nan) for row in self._rows] for name in names}

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._rows = [row for row in self._rows if row["epoch"] <= epoch]
        self._started = time.monotonic()

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        stage = self._plan.at(epoch)
        rate = keras.ops.convert_to_numpy(self.model.optimizer.learning_rate)
        values = (
            epoch + 1,
            stage.index + 1,
            stage.image_size,
            stage.batch_size,
            float(rate),
            round(time.monotonic() - self._started, 3),
        )
        logged = {name: float(value) for name, value in (logs or {}).items()}
        self._rows.append(dict(zip(_FIRST, values, strict=True)) | logged)
        write_text(self._path, _to_csv(self.columns))


def _to_csv(columns: dict[str, list[float]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*columns.values(), strict=True))
    return text.getvalue()


def read_history(path: Path) -> list[dict[str, float]]:
    """Reads the rows of a `history.csv`.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {name: float(value) for name, value in row.items()} for row in csv.DictReader(file)
            ]
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
