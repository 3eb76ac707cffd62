"""The pictures that `predict` is given: files, folders, patterns, addresses, standard input.

Importing this module starts neither Keras nor TensorFlow.
"""

import glob
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from keras_effnetv2._common.text import first_line, without_passwords
from keras_effnetv2._version import __version__
from keras_effnetv2.images.picture_file import MAX_PICTURE_BYTES, picture_file_trouble
from keras_effnetv2.pretrained.fetch import TIMEOUT, failure_reason

STANDARD_INPUT = "-"
MAX_DOWNLOAD = 2**26
"""The most bytes of a picture at an address."""

DOWNLOAD_SECONDS = 60
"""The longest time for a download."""

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)
_TYPES_OF_ANYTHING = ("", "application/octet-stream", "binary/octet-stream")
_PIECE = 2**16  # bytes


def picture_names(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> list[str]:
    """Return one name per picture, in the order that is given.

    A folder becomes the picture files below it, a pattern the files that match it, both in the
    order of their names. If there are none, it stays, and `picture_trouble` says so.
    """
    names = [given] if isinstance(given, str | os.PathLike) else given
    return [name for one in names for name in _expanded(os.fspath(one))]


def _expanded(name: str) -> Iterator[str]:
    paths = [name]
    if not _is_address(name) and name != STANDARD_INPUT and not os.path.lexists(name):
        pattern = os.path.expanduser(name)
        paths = sorted(glob.glob(pattern, recursive=True)) or [name]
        if "**" in pattern:  # which finds what is in the folders, too
            paths = [path for path in paths if not os.path.isdir(path)] or [name]
    for path in paths:
        inside: list[str] = []
        if os.path.isdir(path):
            from keras_effnetv2.data.folder import picture_files

            inside = picture_files(path)
        yield from inside or [path]


def _is_address(name: str) -> bool:
    return _ADDRESS.match(name) is not None and not os.path.lexists(name)


def picture_trouble(name: str) -> str:
    """Return why there is no picture to read, or "". Nothing is opened or downloaded."""
    if name == STANDARD_INPUT or name.lower().startswith(("http://", "https://")):
        return ""
    if _is_address(name):
        return "an address must begin with http:// or https://"
    if os.path.isdir(name):
        return "a folder without picture files (.jpg, .png, ...)"
    if not os.path.lexists(name) and re.search(r"[*?[]", name):
        return "no file matches this pattern"
    return picture_file_trouble(name)


def shown_name(name: str) -> str:
    """Return a name as it is shown: an address without its password."""
    return without_passwords(name) if _is_address(name) else name


def read_picture(name: str) -> tuple[bytes, str]:
    """Return the bytes of a picture, and "" or why they cannot be had."""
    if trouble := picture_trouble(name):
        return b"", trouble
    if name == STANDARD_INPUT:
        data = sys.stdin.buffer.read(MAX_PICTURE_BYTES + 1)
        return data, f"more than {MAX_PICTURE_BYTES:,} bytes" * (len(data) > MAX_PICTURE_BYTES)
    if _is_address(name):
        return _download(name)
    try:
        return Path(name).read_bytes(), ""
    except OSError as error:  # since `picture_trouble` looked
        return b"", f"cannot be read: {error.strerror}"


def _download(address: str) -> tuple[bytes, str]:
    import requests
    import urllib3

    agent = {"User-Agent": f"keras-effnetv2/{__version__}"}  # some servers refuse that of requests
    data, end = bytearray(), time.monotonic() + DOWNLOAD_SECONDS
    try:
        with requests.get(address, stream=True, timeout=TIMEOUT, headers=agent) as answer:
            kind = answer.headers.get("Content-Type", "").partition(";")[0].strip().lower()
            if not answer.ok:
                return b"", f"the server answers {answer.status_code} {answer.reason}"
            if not kind.startswith("image/") and kind not in _TYPES_OF_ANYTHING:
                return b"", f"the server sends no picture, but {kind}"
            while piece := answer.raw.read1(_PIECE, decode_content=True):
                data += piece
                if len(data) > MAX_DOWNLOAD:
                    return b"", f"more than {MAX_DOWNLOAD:,} bytes, the limit for a download"
                if time.monotonic() > end:
                    return b"", f"the download takes more than {DOWNLOAD_SECONDS} seconds"
    except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
        return b"", f"cannot be downloaded: {failure_reason(error) or first_line(error)}"
    return bytes(data), ""
