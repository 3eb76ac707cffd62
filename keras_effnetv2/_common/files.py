"""Files that are written whole, or cannot be read; JSON from anywhere; SHA-256."""

import contextlib
import hashlib
import json
import os
import platform
import re
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

_MAX_JSON = 2**24  # bytes

MAX_PICTURE_BYTES = 2**28
"""The most bytes of a picture file; reading takes up to twice as much memory, on every core.

JPEG and PNG files of 100 million pixels, the most that are decoded, stay below.
"""

SCRATCH = ".writing-"  # how the names of files and folders begin that are not whole yet


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Give a path beside `path` to write to, with the same ending; remove it at the end.

    What processes of this machine left there that were killed is removed, too.
    """
    mark = f"{SCRATCH}{platform.node()}-"  # a number says nothing of processes elsewhere
    left = re.compile(rf"{re.escape(mark)}(\d+)-{re.escape(path.name)}(\.old)?")
    with contextlib.suppress(OSError):  # writing says better what is wrong with the folder
        for other in path.parent.iterdir():
            if (match := left.fullmatch(other.name)) and not _is_running(int(match[1])):
                remove(other)
    scratch = path.with_name(f"{mark}{os.getpid()}-{path.name}")
    try:
        yield scratch
    finally:
        remove(scratch)


def _is_running(pid: int) -> bool:
    """Return whether another process of this machine has this number."""
    if pid == os.getpid():
        return False
    if os.name != "posix":
        return True  # not to be found out without a package
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # of another user
        pass
    return True


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path next to `path` to write to, with the same ending; move it there at the end.

    It may be a file or a folder. Whatever happens, `path` has either the old content or the
    complete new one; for a file that includes a full disk and a power cut.
    """
    with scratch_beside(path) as scratch:
        try:
            yield scratch
        except OSError as error:
            if error.errno is not None and error.filename is None:  # of a write to an open file
                error.filename = str(path)
            raise
        if scratch.is_dir():
            _replace_folder(scratch, path)
        else:
            _sync(scratch)  # else the name could be on the disk before the content
            os.replace(scratch, path)
        if os.name == "posix":  # elsewhere a folder cannot be opened
            _sync(path.parent)


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


def reserve(path: Path, size: int) -> None:
    """Raise OSError if a file of so many bytes cannot be written, before a library tries it.

    The disk may be full, or the size of a file limited. HDF5 ends the process where a write fails.
    """
    with open(path, "wb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)


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


def check_regular(path: str | os.PathLike[str]) -> None:
    """Raise ValueError for what is there and is no file or folder, but may give bytes for ever."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device, a pipe or a socket; give a regular file.")


def read_json(path: str | os.PathLike[str], max_bytes: int = _MAX_JSON) -> Any:
    """Read a JSON file; errors are those of `parse_json`, without the name of the file.

    Raises:
        OSError: it cannot be read.
    """
    check_regular(path)
    with open(path, "rb") as file:
        text = file.read(max_bytes + 1)
    return parse_json(text, max_bytes)


def parse_json(text: str | bytes, max_bytes: int = _MAX_JSON) -> Any:
    """Parse JSON; ValueError also for NaN, infinity, endless nesting, and too many bytes."""
    if len(text) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it has {name}, which is no number")


def file_trouble(path: str | bytes | os.PathLike[str]) -> str:
    """Return why a path is no file to read, if so; reading a pipe would wait for ever."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return "a folder, not a picture"
        if not stat.S_ISREG(mode):
            return "not a regular file"
        with open(path, "rb"):  # Python says it in fewer words than TensorFlow
            return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def picture_file_trouble(path: str | bytes | os.PathLike[str]) -> str:
    """Return why a path is no file to read as a picture, if so; nothing of it is read."""
    trouble = file_trouble(path)
    if not trouble and (size := os.path.getsize(path)) > MAX_PICTURE_BYTES:
        return f"{size:,} bytes are too many for a picture: at most {MAX_PICTURE_BYTES:,} are read"
    return trouble
