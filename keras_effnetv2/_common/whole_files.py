"""Files that are written whole or not at all."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

SCRATCH = ".writing-"  # how the names of files begin that are not whole yet


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Gives a path beside `path` to write to, with the same ending; moves it there if all is well.

    So `path` holds the old file or the whole new one, whatever happens, a full disk and a power
    cut included.
    """
    scratch = path.with_name(f"{SCRATCH}{path.name}")
    try:
        yield scratch
        _sync(scratch)  # else the name could be on the disk before the content
        os.replace(scratch, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)
    finally:
        scratch.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    """Waits until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Writes a text file, UTF-8, whole or not at all."""
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")
