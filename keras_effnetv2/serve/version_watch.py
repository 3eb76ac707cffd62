"""Loads new versions of the served model while the server answers with the old one."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

from keras_effnetv2._common.text import first_line
from keras_effnetv2.serve.loaded_model import ServedModel, version_folders
from keras_effnetv2.serve.overlay import Explain
from keras_effnetv2.serve.service import Service, VersionState

_log = logging.getLogger(__name__)

Load = Callable[[Path], tuple[ServedModel, Explain | None]]
"""Loads the version in a folder, and the function for its heat maps."""

Contents = tuple[Path, frozenset[tuple[str, int, int]]]
"""A folder, and the name, time and size of everything in it."""


def contents(folder: Path) -> Contents:
    """Return what is in the folder of a version, without reading the files."""
    found = ((str(path), path.lstat()) for path in folder.rglob("*"))
    return folder, frozenset((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def watch_versions(
    root: str | os.PathLike[str],
    service: Service,
    load: Load,
    served: Contents,
    *,
    interval: float,
    ended: threading.Event,
) -> None:
    """Serve the version with the largest number, as TensorFlow Serving does, until `ended` is set.

    A version is loaded when its files have not changed between two looks, so half a copy is not. If
    it fails to load, the one before stays, and the log says why; it is tried again when its files
    change. So is the served version. If its folder is removed, the next smaller one is served.

    Args:
        root: a run folder, or an export folder with its versions.
        service: gets the new version.
        load: loads a version.
        served: contents of the version that is served.
        interval: seconds between two looks.
        ended: ends the watch.
    """
    failed: set[Contents] = set()
    before = None
    while not ended.wait(interval):
        try:
            looks = map(contents, version_folders(root))
            newest = next((look for look in looks if look not in failed), None)
        except OSError:  # a folder disappears while it is read, or the disk is away
            continue
        if newest is not None and newest == before and newest != served:
            if _loads(service, load, newest[0]):
                served = newest
            else:
                failed.add(newest)
        before = newest


def _loads(service: Service, load: Load, folder: Path) -> bool:
    """Load a version and serve it; return whether that worked."""
    version, former = int(folder.name), service.model.version
    if version != former:
        service.set_state(version, VersionState("LOADING"))
    try:
        service.switch_to(*load(folder))
    except Exception as error:  # of any kind: the server goes on
        if version != former:
            service.set_state(version, VersionState("END", first_line(error)))
        service.metrics.add_load("error")
        text = "Version %d cannot be served, so version %d still is: %s"
        _log.error(text, version, former, first_line(error))
        return False
    service.metrics.add_load("ok")
    _log.info("Version %d is served now, after version %d", version, former)
    return True
