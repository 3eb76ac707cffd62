"""What a folder holds: nothing, a run, a finished run. Quick to find out, without Keras."""

from pathlib import Path

from keras_effnetv2._common.files import SCRATCH, read_json
from keras_effnetv2.runs.run_lock import LOCK

RECIPE = "recipe.json"
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


def holds_run(path: Path, *, resume: bool, overwrite: bool) -> bool:
    """Return whether a run is in an output folder: to be resumed, or replaced.

    Raises:
        FileExistsError: a run is there and neither was asked for, or something else is there.
        ValueError: both were asked for.
    """
    if resume and overwrite:
        raise ValueError(
            "Resume the run (--resume, resume=True) or replace it (--overwrite, overwrite=True), "
            "not both."
        )
    if not check_is_run(path):
        return False
    if not resume and not overwrite:
        raise FileExistsError(
            f"{path} already holds a run. Choose another output folder, go on with it "
            "(--resume, resume=True) or replace it (--overwrite, overwrite=True)."
        )
    return True


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
