"""The allowed unpacked size of a packed file, and a reader that stops there."""

import os
import zipfile
import zlib
from typing import IO

GZIP = b"\x1f\x8b"
"""The first bytes of a gzip file."""

ZIP_DAMAGE = (OSError, LookupError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error)
"""What `zipfile` raises for a damaged or encrypted archive."""

# The numbers of trained weights hardly pack (measured: gzip, to 0.92 of their size); bombs pack by
# up to a thousand. Below the second figure even a network of zeros is let pass: it fits everywhere,
# and is more than a training checkpoint of efficientnetv2-b0 (four copies of 7.2 million float32).
_MAX_EXPANSION = 20
_ALWAYS_ALLOWED = 2**28  # bytes


def unpacked_limit(path: str | os.PathLike[str]) -> int:
    """Return the most bytes that a packed file may unpack to."""
    return max(_ALWAYS_ALLOWED, _MAX_EXPANSION * os.path.getsize(path))


class BoundedReader:
    """A binary stream that raises an error once more than `limit` bytes were read."""

    def __init__(self, stream: IO[bytes], limit: int) -> None:
        self._stream = stream
        self._limit = limit
        self._left = limit

    def read(self, size: int = -1) -> bytes:
        """Return the next bytes; ValueError beyond the limit."""
        allowed = self._left + 1
        data = self._stream.read(allowed if size < 0 else min(size, allowed))
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(
                f"it unpacks to more than {self._limit:,} bytes, far more than weights need"
            )
        return data
