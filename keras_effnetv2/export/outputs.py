"""Where exports are, and where they go: nothing is overwritten. Found out without TensorFlow."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from keras_effnetv2.export.runtimes import FileFormat

GRAPH_FILE = "saved_model.pb"


def versions(directory: Path) -> list[Path]:
    """Return what has a number as its name in a folder, the largest number first."""
    found = directory.iterdir() if directory.is_dir() else ()
    numbered = [path for path in found if re.fullmatch("[0-9]+", path.name)]
    return sorted(numbered, key=lambda path: int(path.name), reverse=True)


def version_folder(path: Path) -> Path | None:
    """Return the folder of a SavedModel, given that or the folder of its versions; else None.

    Of several versions it is the newest.
    """
    candidates = (path, *versions(path))
    return next((one for one in candidates if (one / GRAPH_FILE).is_file()), None)


def next_version(directory: Path) -> int:
    """Return the number after that of the newest version, 1 where there is none."""
    return 1 + max((int(path.name) for path in versions(directory)), default=0)


def check_new_version(directory: Path, version: int) -> Path:
    """Return the folder of the version; FileExistsError if it exists."""
    target = directory / str(version)
    if target.exists():
        free = next_version(directory)
        raise FileExistsError(
            f"{target} exists, and a version that may be served is not overwritten: "
            f"export with another version (--version {free}, version={free}), or remove the folder "
            "first."
        )
    return target


def new_file(path: Path, file_format: "FileFormat") -> Path:
    """Return the path, if it has the format's ending and nothing would be overwritten."""
    if path.suffix != file_format.suffix:
        raise ValueError(
            f"The path must end in {file_format.suffix}, for example "
            f"{path.with_suffix(file_format.suffix)}. Received: {path}"
        )
    files = [path.with_suffix(suffix) for suffix in file_format.suffixes]
    there = [str(file) for file in (*files, report_file(path)) if file.exists()]
    if there:
        raise FileExistsError(
            f"An export is not overwritten. Choose another path, or remove {', '.join(there)}"
        )
    return path


def report_file(path: Path) -> Path:
    """Return the path of the report beside an exported file."""
    return path.with_name(f"{path.name}.json")
