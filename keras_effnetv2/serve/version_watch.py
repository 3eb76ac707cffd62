"""Loads the versions to serve: at the start, and while the server answers with others."""

import gc
import logging
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from keras_effnetv2._common.text import first_line
from keras_effnetv2.serve.loaded_model import ServedModel, newest_version, version_folders
from keras_effnetv2.serve.overlay import Explain
from keras_effnetv2.serve.service import Service, VersionState
from keras_effnetv2.serve.version_policy import VersionPolicy

_log = logging.getLogger(__name__)

Load = Callable[[Path], ServedModel]
"""Loads the version in a folder."""

Heat = Callable[[ServedModel], Explain | None]
"""Returns the function for heat maps, which are those of the newest version."""

Contents = tuple[Path, frozenset[tuple[str, int, int]]]
"""A folder, and the name, time and size of everything in it."""


def contents(folder: Path) -> Contents:
    """Return what is in the folder of a version, without reading the files."""
    found = ((str(path), path.lstat()) for path in folder.rglob("*"))
    return folder, frozenset((name, stat.st_mtime_ns, stat.st_size) for name, stat in found)


def _number(look: Contents) -> int:
    return int(look[0].name)


class VersionWatch:
    """Gives a service the versions in a folder that a policy asks for; used in one thread.

    If a version fails to load, the log and its state say why. It is tried again when its files
    change; so is a version that is served. The last version stays when its folder is removed.

    Args:
        root: a run folder, or an export folder with its versions.
        service: gets the versions.
        policy: which ones to serve. Of the latest, the largest number that can be loaded is served.
        load: loads a version.
        heat: returns the function for heat maps.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        service: Service,
        policy: VersionPolicy,
        load: Load,
        heat: Heat,
    ) -> None:
        self._root, self._service, self._policy = root, service, policy
        self._load, self._heat = load, heat
        self._heated: tuple[ServedModel | None, Explain | None] = None, None
        self._loaded: dict[int, Contents] = {}
        self._failed: set[Contents] = set()
        self._before: list[Contents] | None = None  # None until the start is done

    def start(self) -> None:
        """Load the versions that are there.

        Raises:
            ValueError: there is none, or none can be loaded.
        """
        newest_version(self._root)
        looks = self._look()
        if not looks:
            there = ", ".join(folder.name for folder in version_folders(self._root))
            raise ValueError(
                f"None of the versions to serve is in {self._root}; there are: {there}. Choose "
                "others (--versions, versions=)."
            )
        while not self._service.models and self._wanted(looks):
            self._update(looks, stable=looks)
        if not self._service.models:
            states = self._service.states
            raise ValueError(f"No version can be served. {states[max(states)].error}")
        self._before = looks

    def watch(self, interval: float, ended: threading.Event) -> None:
        """Look for changes every so many seconds, until `ended` is set.

        A version is loaded when its files have not changed between two looks, so half a copy is
        not.
        """
        while not ended.wait(interval):
            try:
                looks = self._look()
            except OSError:  # a folder disappears while it is read, or the disk is away
                continue
            self._update(looks, stable=self._before or ())
            self._before = looks

    def _look(self) -> list[Contents]:
        """Return the versions that may be served, the newest first."""
        numbers = self._policy.numbers
        looks = map(contents, version_folders(self._root))
        return [one for one in looks if numbers is None or _number(one) in numbers]

    def _wanted(self, looks: Sequence[Contents]) -> list[Contents]:
        wanted = [one for one in looks if one not in self._failed]
        return wanted[:1] if self._policy.latest else wanted

    def _update(self, looks: Sequence[Contents], stable: Sequence[Contents]) -> None:
        """Load what is wanted and does not change, and let go of what is not wanted."""
        wanted = self._wanted(looks)
        for one in wanted:
            if one in stable and one != self._loaded.get(_number(one)):
                self._serve(one)
        there = wanted if self._policy.latest else looks
        kept = self._loaded.keys() & set(map(_number, there))
        if gone := kept and self._loaded.keys() - kept:
            for number in gone:
                del self._loaded[number]
            self._switch_to({number: self._service.models[number] for number in kept})
            _log.info("No longer served: version %s", ", ".join(map(str, sorted(gone))))
            gc.collect()  # a loaded version refers to itself

    def _serve(self, look: Contents) -> None:
        """Load a version and serve it, or record why that failed."""
        service, number = self._service, _number(look)
        if number not in service.models:
            service.set_state(number, VersionState("LOADING"))
        try:
            self._switch_to({**service.models, number: self._load(look[0])})
        except Exception as error:  # of any kind: the server goes on
            self._failed.add(look)
            if number not in service.models:
                service.set_state(number, VersionState("END", first_line(error)))
            service.metrics.add_load("error")
            still = f", so {service.versions} still is" if service.models else ""
            _log.error("Version %d cannot be served%s: %s", number, still, first_line(error))
            return
        self._loaded[number] = look
        service.metrics.add_load("ok")
        if self._before is not None:
            _log.info("Version %d is served now", number)

    def _switch_to(self, models: Mapping[int, ServedModel]) -> None:
        newest = models[max(models)]
        if newest is not self._heated[0]:
            try:
                self._heated = newest, self._heat(newest)
            except Exception as error:  # of any kind: a version can be served without them
                _log.error("There are no heat maps: %s", first_line(error))
                self._heated = newest, None
        self._service.switch_to(models, self._heated[1])
