"""Write files whole, find out why one cannot be read, read JSON, compute SHA-256."""

import contextlib
import hashlib
import importlib.util
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

SCRATCH = ".writing-"  # the beginning of the names of unfinished files and folders


@contextlib.contextmanager
def scratch_beside(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, with the same ending; remove it at the end.

    Paths that killed processes of this machine left there are removed, too. If one was killed while
    it replaced the folder `path`, the old folder is put back.
    """
    mark = f"{SCRATCH}{platform.node()}-"  # a process number belongs to one machine
    left = re.compile(rf"{re.escape(mark)}(\d+)-{re.escape(path.name)}(\.old)?")
    with contextlib.suppress(OSError):  # writing gives the better error
        for other in path.parent.iterdir():
            if (match := left.fullmatch(other.name)) and not _is_running(int(match[1])):
                if match[2] and not os.path.lexists(path):
                    os.replace(other, path)
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
        return True  # Python cannot tell
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # a process of another user
        pass
    return True


@contextlib.contextmanager
def written_whole(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to, with the same ending; move it there at the end.

    It may be a file or a folder. Whatever happens, `path` has either the old content or the
    complete new one; for a file that includes a full disk and a power cut. A folder is missing for
    the moment between two renames; if the process ends just then, the next call for this path puts
    the old folder back.
    """
    with scratch_beside(path) as scratch:
        try:
            yield scratch
        except OSError as error:
            if error.errno is not None and error.filename is None:  # a write to an open file
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
    """Raise OSError if the disk or a limit on file sizes has no room for a file of `size` bytes.

    Call it before HDF5 writes the file, because a failed write there may end the process.
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
    """Raise ValueError for a device, a pipe or a socket, from which reading might never end."""
    path = Path(path)
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise ValueError(f"{path} is a device, a pipe or a socket; give a regular file.")


def read_json(path: str | os.PathLike[str], max_bytes: int = _MAX_JSON) -> Any:
    """Read a JSON file.

    Raises:
        OSError: it cannot be read.
        ValueError: as for `parse_json`; the message does not name the file.
    """
    check_regular(path)
    with open(path, "rb") as file:
        text = file.read(max_bytes + 1)
    return parse_json(text, max_bytes)


def parse_json(text: str | bytes, max_bytes: int = _MAX_JSON) -> Any:
    """Parse JSON; raise ValueError also for NaN, infinity, deep nesting, and too many bytes."""
    if len(text) > max_bytes:
        raise ValueError(f"it has more than {max_bytes:,} bytes")
    try:
        return json.loads(text, parse_constant=_refuse_constant)
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a JSON number")


def file_trouble(path: str | bytes | os.PathLike[str]) -> str:
    """Return why a path is not a file that can be read, or ""."""
    try:
        mode = os.stat(path).st_mode
        if stat.S_ISDIR(mode):
            return "a folder, not a file"
        if not stat.S_ISREG(mode):
            return "not a regular file"
        with open(path, "rb"):  # for an error in fewer words than those of TensorFlow
            return ""
    except OSError as error:
        return f"cannot be read: {error.strerror}"


def installed_file(name: str) -> Path | None:
    """Return the path of a package's file, without importing the package.

    None if the package is not installed. `name` is "PACKAGE/FILE".
    """
    package, _, file = name.partition("/")
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return Path(folders[0], file) if folders else None
