"""Fetches published weight files: from Keras' cache, a mirror, or the publisher's address.

Nothing is used whose hash is not the published one, and nothing has a file's final name before its
hash is right: what is on its way is FILENAME.part, which the next call goes on with.
"""

import contextlib
import hashlib
import http.client
import os
import re
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BufferedIOBase
from logging import getLogger
from pathlib import Path
from typing import IO, Any
from urllib.parse import urlsplit

from keras_effnetv2.pretrained.registry import PublishedFile, WeightSet

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

MIRROR = "KERAS_EFFNETV2_MIRROR"

_LOG = getLogger("keras_effnetv2")
# Where Keras goes if its folder cannot be written (keras.utils.get_file, Keras 3.15).
_TEMPORARY = "/tmp" if os.path.isdir("/tmp") else tempfile.gettempdir()
_CHUNK = 2**20  # bytes
_LOCK_PAUSE = 0.1  # seconds between two looks at the lock of another process
_PROGRESS_PAUSE = 0.1  # seconds between two updates of the line on the terminal


@dataclass(frozen=True)
class DownloadLimits:
    """What a download may cost.

    Attributes:
        timeout: seconds without an answer, while connecting too, or without a byte, after which
            a connection is given up (15 is what pip allows).
        tries: transfers from one address that may begin; each goes on where the last broke off.
        pause: seconds between two of them.
        max_bytes: size of a file; four times the largest one published (XL of ImageNet-21k).
    """

    timeout: float = 15.0
    tries: int = 5
    pause: float = 1.0
    max_bytes: int = 4 * 10**9


LIMITS = DownloadLimits()


class _Failure(Exception):
    """An address does not give the file; the text says why."""


class _BrokenOff(_Failure):
    """A transfer ended too early; what has come can be gone on with."""


class _Unusable(_Failure):
    """What has come cannot be gone on with."""


def fetch_set(found: WeightSet, *, include_top: bool = True) -> tuple[Path, PublishedFile]:
    """Fetches a published set into the cache.

    Args:
        found: the set.
        include_top: whether the classifier is wanted; otherwise a file without it, which is
            smaller, is the first choice.

    Returns, Raises:
        See `fetch`.
    """
    files: Sequence[PublishedFile] = [file for file in found.files if file.has_top]
    if not include_top:
        files = sorted(found.files, key=lambda file: file.has_top)
    return fetch(files, f"{found.variant}/{found.weights}")


def fetch(
    files: Sequence[PublishedFile], subject: str, *, limits: DownloadLimits = LIMITS
) -> tuple[Path, PublishedFile]:
    """The first of the files that can be had, from the cache or the network.

    Every file lies in the folder `models` of Keras' cache (`KERAS_HOME`, or ~/.keras) under the
    last part of its address, so that what keras.applications fetched is found. If none of them is
    there, each is looked for at the mirror (environment variable `KERAS_EFFNETV2_MIRROR`: an
    http(s) address or a local folder; a folder's file is used where it lies), then at its own
    address. Several processes may do this at once: one downloads, the others wait for it.

    Args:
        files: alternatives that hold the same weights, the first choice first.
        subject: what they hold, for messages, e.g. "efficientnetv2-b0, imagenet".
        limits: of time and size, see `DownloadLimits`.

    Returns:
        The path of a file whose hash is right, and which of `files` it is.

    Raises:
        ConnectionError: none could be had. The text names each address with what happened there,
            and where a file can be put by hand.
        OSError: the cache cannot be written, or the disk is full.
        ValueError: an address without a usable file name, or a mirror that is none.
    """
    folders = _cache_folders()
    for file in files:
        for path in (folder / _file_name(file.url) for folder in folders):
            flaw = _flaw(path, file.hash)
            if flaw is None:
                return path, file
            if os.path.exists(path):
                _LOG.warning("%s is not used but fetched again: %s.", path, flaw)
    failures = []
    for place, file in _places(files):
        try:
            if isinstance(place, Path):
                return _from_folder(place, file), file
            return _to_cache(place, file, folders[-1], subject, limits), file
        except _Failure as failure:
            failures.append(f"{place}: {failure}")
    raise ConnectionError(_none_text(subject, failures, files, folders[-1]))


def cached_path(url: str) -> Path | None:
    """Where the cache has the file of an address; None if it has not. Its hash is not looked at."""
    paths = (folder / _file_name(url) for folder in _cache_folders())
    return next((path for path in paths if path.is_file()), None)


def _none_text(
    subject: str, failures: Sequence[str], files: Sequence[PublishedFile], folder: Path
) -> str:
    tried = "\n".join(f"  {failure}" for failure in failures)
    by_hand = "\n".join(
        f"  {file.url} ({file.hash}) as {folder / _file_name(file.url)}" for file in files
    )
    return (
        f"The weights of {subject} are not in the cache and could not be fetched. Tried:\n{tried}\n"
        f"Way out: download a file elsewhere and put it there by hand:\n{by_hand}\n"
        f"or set the environment variable {MIRROR} to an http(s) address or a folder that has it."
    )


def _cache_folders() -> list[Path]:
    """The folders of Keras' cache where weight files lie; the last one is for writing.

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


def _file_name(url: str) -> str:
    """Last component of an address: "https://host/a/b0.h5?download=1" -> "b0.h5".

    Only what is a plain file name on every system is let through.
    """
    name = urlsplit(url).path.rpartition("/")[2]
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*", name):
        raise ValueError(
            "The address of a weight file must end in a file name of letters, digits and "
            f"'_.+-'. Received: {url!r}"
        )
    return name


def _flaw(path: Path, expected: str) -> str | None:
    """What is wrong with a file; None if it is there and has the expected hash."""
    try:
        with open(path, "rb") as stored:
            return _hash_flaw(_digest(stored, expected), expected)
    except OSError as error:
        return error.strerror or str(error)


def _digest(stored: BufferedIOBase, expected: str) -> Any:
    """Digest of a file, a hashlib object of the algorithm that "algorithm:hex" names."""
    return hashlib.file_digest(stored, expected.partition(":")[0])


def _hash_flaw(digest: Any, expected: str) -> str | None:
    found = f"{digest.name}:{digest.hexdigest()}"
    return None if found == expected else f"its hash is {found} instead of {expected}"


def _places(files: Sequence[PublishedFile]) -> Iterator[tuple[str | Path, PublishedFile]]:
    """Where to look, in this order; a path is a file of a local mirror."""
    mirror = _mirror()
    for file in files if mirror else ():
        name = _file_name(file.url)
        yield (mirror / name if isinstance(mirror, Path) else f"{mirror}/{name}"), file
    for file in files:
        yield file.url, file


def _mirror() -> str | Path | None:
    """The mirror of the environment: an address without slash at its end, or a folder."""
    mirror = os.environ.get(MIRROR, "")
    if re.match("https?://", mirror, re.IGNORECASE):
        return mirror.rstrip("/")
    if re.match("file://", mirror, re.IGNORECASE):
        return Path(urllib.request.url2pathname(urlsplit(mirror).path))
    if "://" in mirror:
        raise ValueError(
            f"The environment variable {MIRROR} must be an http(s) address, a folder, or the "
            f"file:// address of a folder. Received: {mirror!r}"
        )
    return Path(mirror).expanduser() if mirror else None


def _from_folder(path: Path, file: PublishedFile) -> Path:
    flaw = _flaw(path, file.hash)
    if flaw is not None:
        raise _Failure(flaw)
    return path


def _to_cache(
    address: str, file: PublishedFile, folder: Path, subject: str, limits: DownloadLimits
) -> Path:
    """Downloads a file into a folder, unless another process has done so meanwhile.

    Raises:
        _Failure: the address does not give it.
        OSError: the folder cannot be written; nothing else reaches this as one.
    """
    target = folder / _file_name(file.url)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with _locked(target):
            if _flaw(target, file.hash) is not None:
                _say(f"Downloading {subject} from {address} to {target}")
                part = target.with_name(f"{target.name}.part")
                _download(address, part, file.hash, limits)
                os.replace(part, target)
    except OSError as error:
        raise OSError(
            f"{target.name} cannot be written to the folder {folder}: {error.strerror or error}. "
            "Make room there, make it writable, or set the environment variable KERAS_HOME to "
            "another folder."
        ) from error
    return target


@contextlib.contextmanager
def _locked(target: Path) -> Iterator[None]:
    """Waits until no other thread or process is at work on a file, and keeps them off.

    The lock is the system's, so it ends with the process that holds it. Its file stays: whoever
    deletes it takes it from those who wait for it.
    """
    with open(target.with_name(f"{target.name}.lock"), "ab") as lock:
        if not _try_lock(lock):
            _say(f"Waiting for another process or thread that downloads {target}")
            while not _try_lock(lock):
                time.sleep(_LOCK_PAUSE)
        yield


def _try_lock(lock: IO[bytes]) -> bool:
    """Takes a lock that lasts until the file is closed; False if somebody else has it."""
    if sys.platform == "win32":
        try:
            msvcrt.locking(lock.fileno(), msvcrt.LK_NBLCK, 1)
        except PermissionError:
            return False
    else:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


def _download(address: str, part: Path, expected: str, limits: DownloadLimits) -> None:
    """Makes `part` the file of the expected hash; goes on with what is in it.

    What turns out unusable is dropped, and fetched once more from the beginning.
    """
    broken_off, dropped = 0, False
    while True:
        try:
            return _receive(address, part, expected, limits)
        except _BrokenOff:
            broken_off += 1
            if broken_off == limits.tries:
                raise
            time.sleep(limits.pause)
        except _Unusable:
            part.unlink(missing_ok=True)
            if dropped:
                raise
            dropped = True


def _receive(address: str, part: Path, expected: str, limits: DownloadLimits) -> None:
    """One transfer of what `part` lacks, then on the disk for good, with the expected hash."""
    with open(part, "a+b") as stored:
        stored.seek(0)
        digest = _digest(stored, expected)
        # It is all there if a process was killed just before it gave the file its name.
        if _hash_flaw(digest, expected):
            with _open(address, stored.tell(), limits.timeout) as response:
                digest = _append(response, stored, digest, limits.max_bytes)
        stored.flush()
        os.fsync(stored.fileno())
    flaw = _hash_flaw(digest, expected)
    if flaw is not None:
        raise _Unusable(flaw)


def _open(address: str, start: int, timeout: float) -> http.client.HTTPResponse:
    """Asks for a file from byte `start` on; the answer may be all of it (status 200)."""
    request = urllib.request.Request(address)
    if start:
        request.add_header("Range", f"bytes={start}-")
    try:
        return _opener().open(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            reason = f"HTTP {error.code} {' '.join(error.reason.split())}"
        raise (_Unusable if error.code == 416 else _Failure)(reason) from None
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _Failure(str(getattr(error, "reason", error))) from None


def _opener() -> urllib.request.OpenerDirector:
    """Opens http and https, also by way of proxies and redirects; no other kind of address.

    `urllib.request.build_opener` would add file:, ftp: and data:, where a redirect could lead.
    """
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.UnknownHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
    ):
        opener.add_handler(handler())
    return opener


def _append(
    response: http.client.HTTPResponse, stored: BufferedIOBase, digest: Any, max_bytes: int
) -> Any:
    """Writes an answer to the end of what is stored, or in its place if it is all of the file.

    Args:
        response: the answer.
        stored: the file, opened for appending, its position at its end.
        digest: of what is stored, a hashlib object; it is updated.
        max_bytes: size that the file may not exceed.

    Returns:
        The digest of the whole file.
    """
    if response.status != 206:
        stored.seek(0)
        stored.truncate()
        digest = hashlib.new(digest.name)
    size = stored.tell()
    total = None if response.length is None else size + response.length
    if total is not None and total > max_bytes:
        raise _Failure(f"it announces {total:,} bytes, more than the {max_bytes:,} allowed")
    for chunk in _with_progress(_chunks(response), size, total):
        size += len(chunk)
        if size > max_bytes:
            stored.truncate(0)
            raise _Failure(f"it does not end after the {max_bytes:,} bytes allowed")
        digest.update(chunk)
        stored.write(chunk)
    if total is not None and size < total:
        raise _BrokenOff(f"broke off after {size:,} of {total:,} bytes")
    return digest


def _chunks(response: http.client.HTTPResponse) -> Iterator[bytes]:
    """The body of an answer as it comes in."""
    while True:
        try:
            chunk = response.read1(_CHUNK)
        except (OSError, http.client.HTTPException) as error:
            raise _BrokenOff(f"broke off: {error}") from None
        if not chunk:
            return
        yield chunk


def _with_progress(chunks: Iterator[bytes], done: int, total: int | None) -> Iterator[bytes]:
    """Passes the chunks on; on a terminal, one line shows how much has come, in MB."""
    if sys.stderr is None or not sys.stderr.isatty():
        yield from chunks
        return
    of_total = "" if total is None else f" of {total / 1e6:.1f}"
    next_update = 0.0
    try:
        for chunk in chunks:
            yield chunk
            done += len(chunk)
            if time.monotonic() >= next_update:
                next_update = time.monotonic() + _PROGRESS_PAUSE
                print(f"\r{done / 1e6:.1f}{of_total} MB", end="", file=sys.stderr, flush=True)
    finally:
        _say(f"\r{done / 1e6:.1f}{of_total} MB")


def _say(line: str) -> None:
    """Tells the user what takes long; on stderr, as stdout is for results."""
    print(line, file=sys.stderr, flush=True)
