"""What a run keeps of every epoch: a row in `history.csv`, and the state to go on from.

Both are written as training goes and carried on when a run is resumed. The callbacks belong into
`fit` in this order, history first: a run that is killed between the two repeats that epoch, and
its row is replaced.
"""

import csv
import io
import math
import re
import time
from pathlib import Path
from typing import Any

import keras

from keras_effnetv2.training.run_folder import write_text, written_whole
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
    """

    def __init__(self, path: Path, plan: StagePlan, *, resume: bool) -> None:
        super().__init__()
        self._path = path
        self._plan = plan
        self._rows = read_history(path) if resume and path.exists() else []
        self._started = 0.0

    @property
    def columns(self) -> dict[str, list[float]]:
        """Column -> one value an epoch, NaN where an epoch has none."""
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


class Backup(keras.callbacks.Callback):
    """Saves the state of the training after every epoch, and restores it when training begins.

    The epoch is in the file's name and the file before it goes only when the new one is whole, so
    however the process dies, only the epoch that runs is lost. (Keras' `BackupAndRestore` writes
    over its only file, and the number of the epoch into a second one.)

    Args:
        folder: where the state is kept.

    Attributes:
        epochs_done: finished epochs of the state that is there, for `fit(initial_epoch=...)`.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self._folder = folder
        found = [path for path in folder.glob("*") if _BACKUP_NAME.fullmatch(path.name)]
        self._latest = max(found, key=_epochs_done, default=None)
        self.epochs_done = 0 if self._latest is None else _epochs_done(self._latest)

    def on_train_begin(self, logs: Any = None) -> None:
        if self._latest is not None:
            self.model.load_weights(self._latest)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._folder.mkdir(exist_ok=True)
        path = self._folder / f"{epoch + 1}.weights.h5"
        with written_whole(path) as scratch:
            self.model.save_weights(scratch)
        if self._latest is not None:
            self._latest.unlink(missing_ok=True)
        self._latest = path


_BACKUP_NAME = re.compile(r"(\d+)\.weights\.h5")


def _epochs_done(path: Path) -> int:
    return int(path.name.partition(".")[0])
