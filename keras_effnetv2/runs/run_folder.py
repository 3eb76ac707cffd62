"""The folder of a run: writing its files whole or not at all, and reading a model back from it."""

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.checks import check_class_names
from keras_effnetv2._common.files import SCRATCH, remove, write_text
from keras_effnetv2._common.text import counted
from keras_effnetv2.data.picture_record import PictureRecord
from keras_effnetv2.models.model_file import load_model
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.confusion import read_confusion
from keras_effnetv2.runs.history import read_history
from keras_effnetv2.runs.run_lock import run_lock
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.runs.run_state import (
    RECIPE,
    SAVED_MODEL,
    check_finished,
    check_is_run,
    check_output,
    read_settings,
)

MODEL = "model.keras"
LABELS = "labels.txt"
HISTORY = "history.csv"
PICTURES = "pictures.csv"
CONFUSION = "confusion.csv"
REPORT = "report.html"
TENSORBOARD = "tensorboard"  # if it was asked for
BACKUP = "backup"  # only while training, for `resume`
# In the order of removal: as long as anything is left, RECIPE says that it is a run.
_ALL = (
    *(BACKUP, TENSORBOARD, HISTORY, PICTURES, CONFUSION, MODEL, SAVED_MODEL, LABELS, REPORT),
    RECIPE,
)


@dataclass(frozen=True)
class Run:
    """A finished training, read back by `open_run`."""

    path: Path
    model: keras.Model  # takes pixels 0..255, returns probabilities
    class_names: tuple[str, ...]  # one for each output
    settings: RunSettings  # what `recipe.json` holds
    pictures: PictureRecord  # that it was trained and judged with

    @property
    def recipe(self) -> TrainRecipe:
        """How it was trained."""
        return self.settings.recipe

    @property
    def history(self) -> dict[str, list[float]]:
        """Column of `history.csv` -> one value per epoch."""
        return read_history(self.path / HISTORY)

    @property
    def confusion(self) -> npt.NDArray[np.int64] | None:
        """(classes, classes), how many validation pictures of a class (row) became each other.

        None: a picture may have several classes.
        """
        if self.settings.thresholds is not None:
            return None
        return read_confusion(self.path / CONFUSION, self.class_names)

    @property
    def held_back(self) -> tuple[str, ...]:
        """The names of the validation pictures."""
        return tuple(one.name for one in self.pictures.validation)

    @property
    def image_size(self) -> int:
        """Side of the pictures in evaluation and serving, pixels."""
        return self.settings.image_size

    @property
    def style(self) -> str:
        """How evaluation crops and resizes."""
        return self.settings.recipe.evaluation_style


@contextlib.contextmanager
def hold_output(
    path: Path, *, resume: bool, overwrite: bool, say: Callable[[str], Any], is_writer: bool = True
) -> Iterator[RunSettings | None]:
    """Keep other trainings out of a run folder; give the settings of the run to resume, or None.

    The folder is created if needed, and removed if nothing is in it at the end.

    Args:
        path: of the folder.
        resume: see `check_output`.
        overwrite: see `check_output`.
        say: called with a line if there is no run to resume, or the file system has no locks.
        is_writer: False: another process of the same training holds the folder.

    Raises:
        BlockingIOError: another process trains there.
        OSError: the folder cannot be written. Further errors are those of `check_output`.
    """
    if not is_writer:
        yield check_output(path, resume=resume, overwrite=overwrite) if resume else None
        return
    check_is_run(path)
    is_new = not path.exists()
    with contextlib.ExitStack() as stack:
        try:
            path.mkdir(parents=True, exist_ok=True)
            if is_new:
                stack.callback(_remove_if_empty, path)
            stack.enter_context(run_lock(path, say))
        except BlockingIOError:
            raise
        except OSError as error:
            raise OSError(
                f"Cannot write to {path}: {error.strerror}. Choose a folder that can be written."
            ) from error
        earlier = check_output(path, resume=resume, overwrite=overwrite)
        if resume and earlier is None:
            say(f"There is no run in {path} to resume, so a new one starts.")
        yield earlier


def _remove_if_empty(path: Path) -> None:
    with contextlib.suppress(OSError):
        path.rmdir()


def prepare_output(path: Path, *, keep: bool, needed_bytes: int) -> None:
    """Make room for a run in a folder that is held; remove the run that is there unless `keep`.

    Other files in the folder stay. Nothing is removed if the new run could not be written.

    Raises:
        OSError: the disk has fewer than `needed_bytes` free.
    """
    free = shutil.disk_usage(path).free
    if free < needed_bytes:
        raise OSError(
            f"The disk of {path} has {free / 1e6:,.0f} MB free; the run needs about "
            f"{needed_bytes / 1e6:,.0f} MB. Free some space or choose another output folder."
        )
    if not keep:
        for name in _ALL:
            remove(path / name)
    for leftover in path.glob(f"{SCRATCH}*"):  # of a process that was killed
        remove(leftover)


def write_settings(path: Path, settings: RunSettings) -> None:
    """Write `recipe.json` into the folder of a run."""
    text = json.dumps(settings.to_dict(), indent=2, ensure_ascii=False)
    write_text(path / RECIPE, f"{text}\n")


def open_run(path: str | os.PathLike[str]) -> Run:
    """Open a finished run.

    Args:
        path: its folder.

    Returns:
        A `Run`: `model`, `class_names`, `recipe`, `history`, `held_back` and more.

    Raises:
        ValueError: it is not the folder of a run, or the run is not finished or is damaged.
    """
    path = Path(path)
    settings = read_settings(path)
    check_finished(path)
    try:
        model = load_model(path / MODEL)
        class_names = tuple((path / LABELS).read_text(encoding="utf-8").splitlines())
        check_class_names(class_names)
        pictures = read_pictures(path, settings)
    except (OSError, ValueError) as error:
        raise _damaged(path, str(error)) from None
    if model.output_shape[-1] != len(class_names):
        names = counted(len(class_names), "name")
        classes = counted(model.output_shape[-1], "class", "classes")
        raise _damaged(path, f"{LABELS} has {names}, but the model has {classes}")
    if class_names != settings.class_names:
        raise _damaged(path, f"{LABELS} has other names than {RECIPE}")
    return Run(path, model, class_names, settings, pictures)


def read_pictures(path: Path, settings: RunSettings) -> PictureRecord:
    """Read the pictures of a run.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is not what the run wrote.
    """
    return PictureRecord.read(path / PICTURES, settings.pictures_sha256)


def _damaged(path: Path, reason: str) -> ValueError:
    return ValueError(
        f"The run in {path} is damaged: {reason.rstrip('.')}. Restore the file from a copy, "
        "or train again (--overwrite, overwrite=True)."
    )
