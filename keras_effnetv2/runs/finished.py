"""Whether a run is finished: quick to find out, without Keras."""

from pathlib import Path

from keras_effnetv2._common.files import read_json

RECIPE = "recipe.json"


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
