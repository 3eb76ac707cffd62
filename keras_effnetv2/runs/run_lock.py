"""The lock of a run folder: one process trains there; however it ends, the lock is free again."""

import contextlib
import errno
import os
import platform
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

LOCK = ".lock"
"""Name of the file in the folder. A dead process may have left it, so its presence says nothing."""

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)
_BEHIND = 2**20  # the byte that Windows locks; what is before it can still be read


@contextlib.contextmanager
def run_lock(folder: Path, say: Callable[[str], Any]) -> Iterator[None]:
    """Hold the lock of a run folder.

    Args:
        folder: must exist.
        say: called with a line where the file system has no locks; then nothing is held.

    Raises:
        BlockingIOError: another process has it, or this one in another call.
        OSError: the folder cannot be written.
    """
    path = folder / LOCK
    descriptor = _open_locked(path, say)
    try:
        yield
    finally:
        with contextlib.suppress(OSError):  # Windows keeps a file that is open
            path.unlink()
        os.close(descriptor)


def _open_locked(path: Path, say: Callable[[str], Any]) -> int:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            _take(descriptor)
        except OSError as error:
            if error.errno in _HELD:
                holder = os.read(descriptor, 200).decode("utf-8", "replace") or "just started"
                os.close(descriptor)
                raise BlockingIOError(
                    f"Another process ({holder}) is training in {path.parent}. Wait until it ends, "
                    "or choose another output folder."
                ) from None
            say(
                f"The file system of {path.parent} has no locks ({error.strerror}). Make sure that "
                "no other process writes there."
            )
            return descriptor
        with contextlib.suppress(FileNotFoundError):
            # Its last holder may have removed the file after it was opened here.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                os.truncate(descriptor, 0)
                os.write(descriptor, f"{os.getpid()} on {platform.node()}".encode())
                return descriptor
        os.close(descriptor)


def _take(descriptor: int) -> None:
    """Lock a file until it is closed; OSError if that cannot be done at once."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _BEHIND, os.SEEK_SET)
        try:
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        finally:
            os.lseek(descriptor, 0, os.SEEK_SET)
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
