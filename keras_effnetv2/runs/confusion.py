"""`confusion.csv`, the mistakes of a run: how often each class was taken for each other one."""

import csv
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.files import write_text

_COLUMNS = ("truth", "predicted", "pictures")


def write_confusion(
    path: Path, class_names: Sequence[str], confusion: npt.NDArray[np.int64]
) -> None:
    """Write the counts of int64 (classes, classes), truth x prediction; zeros are left out."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for truth, predicted in np.argwhere(confusion).tolist():
        count = int(confusion[truth, predicted])
        writer.writerow((class_names[truth], class_names[predicted], count))
    write_text(path, text.getvalue())


def read_confusion(path: Path, class_names: Sequence[str]) -> npt.NDArray[np.int64]:
    """Read what `write_confusion` wrote.

    Raises:
        ValueError: it cannot be read, or is not what was written for these classes.
    """
    position = {name: index for index, name in enumerate(class_names)}
    confusion = np.zeros((len(class_names), len(class_names)), np.int64)
    try:
        header, *rows = csv.reader(io.StringIO(path.read_text("utf-8"), newline=""))
        for truth, predicted, count in rows:
            confusion[position[truth], position[predicted]] += int(count)
    except (OSError, ValueError, LookupError) as error:
        raise ValueError(f"{path.name} is not what the run wrote: {error}") from None
    if tuple(header) != _COLUMNS:
        raise ValueError(f"{path.name} does not have the columns {', '.join(_COLUMNS)}")
    return confusion
