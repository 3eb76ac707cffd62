"""Files and folders that are written whole or not at all, and the SHA-256 of a file."""

import contextlib
import hashlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

SCRATCH = ".writing-"  # how the names of files and folders begin that are not whole yet


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to, with the same ending; move it there at the end.

    It may be a file or a folder. Whatever happens, `path` has either the old content or the
    complete new one; for a file that includes a full disk and a power cut.
    """
    scratch = path.with_name(f"{SCRATCH}{os.getpid()}-{path.name}")
    try:
        yield scratch
        if scratch.is_dir():
            _replace_folder(scratch, path)
        else:
            _sync(scratch)  # else the name could be on the disk before the content
            os.replace(scratch, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)
    finally:
        remove(scratch)


def _replace_folder(scratch: Path, path: Path) -> None:
    old = scratch.with_name(f"{scratch.name}.old")
    if os.path.lexists(path):
        os.replace(path, old)
    try:
        os.replace(scratch, path)
    except OSError:
        if os.path.lexists(old):
            os.replace(old, path)
        raise
    remove(old)


def _sync(path: Path) -> None:
    """Wait until a file or the names in a folder are on the disk."""
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_text(path: Path, text: str) -> None:
    """Write a text file, UTF-8, whole or not at all."""
    with written_whole(path) as scratch:
        scratch.write_text(text, encoding="utf-8", newline="\n")


def remove(path: Path) -> None:
    """Remove a file or a whole folder, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file, hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
