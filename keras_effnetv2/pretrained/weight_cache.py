"""The folder of Keras' cache where weight files lie, and whether a file is what it should be.

A file in the cache is hashed once: NAME.checked beside it says what was seen.
"""

import contextlib
import hashlib
import os
import re
import tempfile
from pathlib import Path
from urllib.parse import urlsplit

from keras_effnetv2._common.files import write_text

# Where Keras goes if its folder cannot be written (keras.utils.get_file, Keras 3.15).
_TEMPORARY = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()


def cache_folders() -> list[Path]:
    """Return the folders of Keras' cache where weight files lie; the last one is for writing.

    They are those of `keras.utils.get_file` (Keras 3.15), which does not look into a folder that
    it cannot write; files that an administrator has put there are found here.
    """
    user = os.path.expanduser("~")
    default = os.path.join(user if os.access(user, os.W_OK) else _TEMPORARY, ".keras")
    home = os.path.expanduser(os.environ.get("KERAS_HOME", default))
    with contextlib.suppress(OSError):  # an import of Keras does the same
        os.makedirs(home, exist_ok=True)
    homes = [home] if os.access(home, os.W_OK) else [home, os.path.join(_TEMPORARY, ".keras")]
    return [Path(home, "models") for home in homes]


def file_name_of(url: str) -> str:
    """Return the file an address ends in, "https://host/a/b0.h5?download=1" -> "b0.h5"."""
    name = urlsplit(url).path.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise ValueError(
            "The address of a weight file must end in a file name of letters, digits and "
            f"'_.+-'. Received: {url!r}"
        )
    return name


def flaw_of(path: Path, expected: str) -> str | None:
    """Return what is wrong with a file; None if it is there and has the hash "algorithm:hex"."""
    algorithm = expected.partition(":")[0]
    try:
        with path.open("rb") as file:
            found = f"{algorithm}:{hashlib.file_digest(file, algorithm).hexdigest()}"
    except OSError as error:
        return error.strerror or str(error)
    return None if found == expected else f"its hash is {found} instead of {expected}"


def flaw_in_cache(path: Path, expected: str) -> str | None:
    """Do `flaw_of` for a file in the cache, which is hashed only if it has changed since."""
    checked = path.with_name(f"{path.name}.checked")
    with contextlib.suppress(OSError, UnicodeDecodeError):
        seen = f"{expected} {path.stat().st_size} {path.stat().st_mtime_ns}"
        if checked.is_file() and checked.read_text("utf-8") == seen:
            return None
    flaw = flaw_of(path, expected)
    if flaw is None:
        with contextlib.suppress(OSError):  # a cache that cannot be written is hashed each time
            write_text(checked, seen)
    return flaw
