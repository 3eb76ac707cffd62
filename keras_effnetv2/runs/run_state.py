"""What a folder holds: nothing, a run, a finished run. Quick to find out, without Keras."""

from pathlib import Path

from keras_effnetv2._common.files import SCRATCH, read_json
from keras_effnetv2.runs.run_lock import LOCK
from keras_effnetv2.runs.run_settings import RunSettings

RECIPE = "recipe.json"
SAVED_MODEL = "saved_model"
PREVIEW = "preview.html"  # what `preview.py` writes beside a run, or where one is to be


def check_finished(path: Path) -> None:
    """Raise ValueError for the folder of a run that is not finished.

    A missing or damaged file is an error of the code that opens the run.
    """
    try:
        is_finished = read_json(path / RECIPE)["finished"]
    except (OSError, ValueError, LookupError, TypeError):
        return
    if is_finished is False:
        raise ValueError(
            f"The run in {path} is not finished. Resume it: keras-effnetv2 train ... --output "
            f"{path} --resume"
        )


def read_settings(path: Path) -> RunSettings:
    """Read `recipe.json`; ValueError if it is missing, damaged or not that of a run."""
    try:
        values = read_json(path / RECIPE)
    except FileNotFoundError:
        raise ValueError(
            f"{path} is not the folder of a run: it has no {RECIPE}. `keras-effnetv2 train` "
            "makes such a folder."
        ) from None
    except (OSError, ValueError) as error:
        raise ValueError(
            f"{path / RECIPE} cannot be read: {error}. Restore it from a copy, or choose another "
            "folder."
        ) from None
    try:
        return RunSettings.from_dict(values)
    except ValueError as error:
        raise ValueError(
            f"{path / RECIPE} is not that of a run: {error}. Choose another folder."
        ) from None


def check_output(path: Path, *, resume: bool, overwrite: bool) -> RunSettings | None:
    """Return the settings of the run to resume, None for a new run; change nothing.

    Raises:
        FileExistsError: something is there and neither was asked for, or it is not a run.
        ValueError: both were asked for, the run to resume is finished, or its settings are damaged.
    """
    if resume and overwrite:
        raise ValueError(
            "Resume the run (--resume, resume=True) or replace it (--overwrite, overwrite=True), "
            "not both."
        )
    # Read before anything else: only what is surely a run is resumed or replaced.
    settings = read_settings(path) if check_is_run(path) else None
    if settings is None or overwrite:
        return None
    if not resume:
        raise FileExistsError(
            f"{path} already holds a run. Choose another output folder, continue it "
            "(--resume, resume=True) or replace it (--overwrite, overwrite=True)."
        )
    if settings.finished:
        raise ValueError(
            f"{path} holds a finished run, so there is nothing to resume. Replace it "
            "(--overwrite, overwrite=True) or choose another output folder."
        )
    return settings


def check_is_run(path: Path) -> bool:
    """Return whether a run is there, or nothing that counts; FileExistsError for anything else."""
    if (path / RECIPE).is_file():
        return True
    # A preview may be written before the run; a run that broke off at once may leave the others.
    if not path.exists() or (
        path.is_dir()
        and all(
            file.name in (PREVIEW, LOCK) or file.name.startswith(SCRATCH) for file in path.iterdir()
        )
    ):
        return False
    raise FileExistsError(
        f"{path} exists and is not the folder of a run (it has no {RECIPE}). "
        "Choose another output folder."
    )
