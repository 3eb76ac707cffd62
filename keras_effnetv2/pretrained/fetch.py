"""Fetch published weight files: from a Python package, Keras' cache, a mirror, or their address.

A file is used only if its hash is the published one, and gets its final name only after that check.
"""

import os
import re
import threading
import urllib.request
from collections.abc import Iterator, Sequence
from logging import getLogger
from pathlib import Path
from urllib.parse import urlsplit

from keras_effnetv2._common.files import installed_file, written_whole
from keras_effnetv2._common.progress import Progress, never_silent, progress_bar
from keras_effnetv2._common.text import install_hint
from keras_effnetv2.pretrained.registry import PublishedFile, WeightSet
from keras_effnetv2.pretrained.weight_cache import cache_folders, flaw_in_cache, flaw_of

MIRROR = "KERAS_EFFNETV2_MIRROR"
MAX_BYTES = 4 * 10**9  # of a file; four times the largest one published (XL of ImageNet-21k)

_LOG = getLogger("keras_effnetv2")
_CHUNK = 2**20  # bytes
TIMEOUT = 15  # seconds without an answer or a byte, as of pip
_ONE_AT_A_TIME = threading.Lock()  # of the threads of a process; processes do not disturb another


class _Failure(Exception):
    """An address does not provide the file; the message says why."""


def local_path(file: PublishedFile) -> Path | None:
    """Return where a file is on this machine, right or not; None if it is not."""
    packaged = installed_file(file.package) if file.package else None
    paths = [packaged, *(folder / file.name for folder in cache_folders())]
    return next((path for path in paths if path is not None and path.is_file()), None)


def fetch_set(
    found: WeightSet, *, include_top: bool = True, online: bool = True
) -> tuple[Path, PublishedFile]:
    """Fetch a file of a set.

    With `include_top=False` a file without classifier, which is smaller, is preferred.
    """
    files = sorted(found.files, key=lambda file: file.has_top)
    if include_top:
        files = [file for file in files if file.has_top]
    return fetch(files, f"{found.variant}/{found.weights}", online=online)


def fetch(
    files: Sequence[PublishedFile], subject: str, *, online: bool = True
) -> tuple[Path, PublishedFile]:
    """Return the first available file, from its Python package, the cache or the network.

    The cache is the folder `models` in Keras' cache (`KERAS_HOME`, or ~/.keras). A file has the
    last part of its address as its name, so files that keras.applications downloaded are found. If
    none is in the cache, each is searched at the mirror (environment variable
    `KERAS_EFFNETV2_MIRROR`: an http(s) address or a local folder; a file in the folder is used
    directly and hashed each time, since nothing is written there), then at its own address, unless
    it is in a package. Several processes may do this at once.

    Args:
        files: alternatives with the same weights, the preferred one first.
        subject: the name of the weights, for messages, e.g. "efficientnetv2-b0/imagenet".
        online: whether to search at http(s) addresses, too.

    Returns:
        The path of a file with the right hash, and which of `files` it is.

    Raises:
        ConnectionError: no file is available. The message says what happened at each address, and
            where to put a file by hand.
        ImportError: the file is in a package that is not installed, and nowhere else.
        OSError: the cache cannot be written, or the disk is full.
        ValueError: an address has no usable file name, the mirror is not a valid place, or a
            package is installed that has another file.
    """
    folders = cache_folders()
    for file in files:
        if file.package and (packaged := installed_file(file.package)) is not None:
            if (flaw := flaw_of(packaged, file.hash)) is not None:
                raise ValueError(
                    f"{packaged} is not the published file of {subject}: {flaw}. Uninstall its "
                    f"package, and install the version at {file.url}"
                )
            return packaged, file
        for path in (folder / file.name for folder in folders):
            flaw = flaw_in_cache(path, file.hash)
            if flaw is None:
                return path, file
            if path.exists():
                _LOG.warning("%s is not used and will be downloaded again: %s.", path, flaw)
    failures = []
    for place, file in _places(files):
        if not (online or isinstance(place, Path)):
            continue
        try:
            if isinstance(place, Path):
                _check(place, file.hash)
                return place, file
            return _to_cache(place, file, folders[-1], subject), file
        except _Failure as failure:
            failures.append(f"{place}: {failure}")
    package = next((file.package for file in files if file.package is not None), None)
    if package is not None:
        raise ImportError(
            f"The weights of {subject} are in the Python package "
            f"{package.partition('/')[0].replace('_', '-')}, which is not installed, and not in "
            f"the cache {folders[-1]} or at a mirror. {install_hint('lite')}"
        )
    tried = "\n".join(f"  {failure}" for failure in failures)
    by_hand = "\n".join(
        f"  {file.url} ({file.hash}) as {folders[-1] / file.name}" for file in files
    )
    raise ConnectionError(
        f"The weights of {subject} are not in the cache and could not be downloaded.\n"
        f"Tried:\n{tried}\nDownload a file on another machine and put it there by "
        f"hand:\n{by_hand}\nor set the environment variable {MIRROR} to an http(s) address or a "
        "folder that has it."
    )


def _check(path: Path, expected: str) -> None:
    flaw = flaw_of(path, expected)
    if flaw is not None:
        raise _Failure(flaw)


def _places(files: Sequence[PublishedFile]) -> Iterator[tuple[str | Path, PublishedFile]]:
    """Yield the places to search, in order; a path is a file of a local mirror."""
    mirror = os.environ.get(MIRROR, "")
    scheme = mirror.partition("://")[0].lower() if "://" in mirror else ""
    if scheme not in ("", "http", "https", "file"):
        raise ValueError(
            f"The environment variable {MIRROR} must be an http(s) address, a folder, or the "
            f"file:// address of a folder. Received: {mirror!r}"
        )
    for file in files if mirror else ():
        name = file.name
        if scheme == "file":
            yield Path(urllib.request.url2pathname(urlsplit(mirror).path)) / name, file
        elif scheme:
            yield f"{mirror.rstrip('/')}/{name}", file
        else:
            yield Path(mirror).expanduser() / name, file
    yield from ((file.url, file) for file in files if file.package is None)


class _Meter:
    """The progress bar for pooch; it stops a transfer that is too long."""

    def __init__(self, show: Progress) -> None:
        self.total, self._done, self._show = 0, 0, show

    def update(self, amount: int) -> None:
        self._done += amount
        if max(self._done - _CHUNK, self.total) > MAX_BYTES:  # the last chunk may be shorter
            raise _Failure(f"it is larger than the {MAX_BYTES:,} bytes allowed")
        self._show(self._done, self.total or None)

    def reset(self) -> None:
        self._done = 0

    def close(self) -> None:
        """Do nothing: the code that opened the bar closes it."""


def _to_cache(address: str, file: PublishedFile, folder: Path, subject: str) -> Path:
    """Download a file into a folder; an interrupted transfer is tried once more."""
    import requests  # which pooch downloads with

    target = folder / file.name
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _ONE_AT_A_TIME:
            if flaw_in_cache(target, file.hash) is None:  # another thread was faster
                return target
            try:
                _download(address, target, file.hash, subject)
            except requests.exceptions.ChunkedEncodingError:
                _download(address, target, file.hash, subject)
    except requests.RequestException as error:
        raise _Failure(failure_reason(error)) from None
    except OSError as error:
        raise OSError(
            f"{target.name} cannot be written to the folder {folder}: {error.strerror or error}. "
            "Free some space there, make it writable, or set the environment variable KERAS_HOME "
            "to another folder."
        ) from error
    return target


def failure_reason(error: Exception) -> str:
    """Return what happened, without the names that requests and urllib3 have for a connection."""
    cause = error.args[0] if error.args else error
    return re.sub(r"^(\w+\(host=[^)]*\)|<[^>]*>): ", "", str(getattr(cause, "reason", cause)))


def _download(address: str, target: Path, expected: str, subject: str) -> None:
    import pooch

    with (
        never_silent("downloading"),
        progress_bar(f"downloading {subject}", unit="B", scale=True) as show,
        written_whole(target) as scratch,
    ):
        download = pooch.HTTPDownloader(_Meter(show), chunk_size=_CHUNK, timeout=TIMEOUT)
        download(address, str(scratch), None)
        _check(scratch, expected)
