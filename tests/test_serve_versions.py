"""New versions that appear while a server runs, and those that cannot be loaded."""

import logging
import shutil
import weakref
from dataclasses import replace

import pytest
from helpers.served_models import echoing_model

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.service import ServerLimits, Service
from keras_effnetv2.serve.version_policy import VersionPolicy
from keras_effnetv2.serve.version_watch import VersionWatch


def nothing():
    """What happens between two looks at a folder that rests."""


class Versions:
    """A folder of versions; one is broken unless its text is "good".

    Attributes:
        service: serves them.
        during: states of the versions each time one was loaded.
    """

    def __init__(self, root):
        self.root = root
        self.during = []
        self.write(1)

    def start(self, which="latest"):
        self.service = Service("trees", ServerLimits())
        policy = VersionPolicy.parse(which)
        self.watcher = VersionWatch(
            *(self.root, self.service, policy, self.load),
            heat=lambda model: f"heat of {model.version}",
        )
        self.watcher.start()
        self.during.clear()
        return self

    def write(self, version, text="good"):
        (self.root / str(version)).mkdir(exist_ok=True)
        (self.root / str(version) / "saved_model.pb").write_text(text)

    def load(self, folder):
        self.during.append(self.states())
        if (folder / "saved_model.pb").read_text() != "good":
            raise ValueError(f"The model in {folder} cannot be loaded: damaged\nand more")
        return replace(echoing_model(int(folder.name)), folder=folder)

    def states(self):
        known = self.service.known_states("trees", None, None)
        return [(version, state.state) for version, state in known.items()]

    def watch(self, *events):
        """Watch while things happen, each between two looks."""
        events = list(events)

        class Ended:
            def wait(self, seconds):
                if events:
                    events.pop(0)()
                    return False
                return True

        self.watcher.watch(0.0, Ended())


@pytest.fixture
def versions(tmp_path):
    return Versions(tmp_path).start()


def test_the_old_version_is_served_until_the_new_one_is_loaded(versions):
    versions.watch(lambda: versions.write(2), nothing, nothing)
    assert versions.during == [[(2, "LOADING"), (1, "AVAILABLE")]]
    assert versions.states() == [(2, "AVAILABLE"), (1, "END")]
    assert versions.service.model.version == 2
    metrics = versions.service.metrics.text()
    assert b'keras_effnetv2_model_version{model="trees"} 2.0' in metrics
    assert b'keras_effnetv2_version_loads_total{outcome="ok"} 2.0' in metrics


def test_a_version_that_still_changes_is_left_alone(versions):
    growing = [lambda n=n: versions.write(2, "g" * n) for n in range(5)]
    versions.watch(*growing)
    assert versions.during == []
    versions.watch(*growing, lambda: versions.write(2), nothing)
    assert versions.states() == [(2, "AVAILABLE"), (1, "END")]
    assert len(versions.during) == 1


def test_a_broken_version_leaves_the_old_one_until_it_is_mended(versions, caplog):
    caplog.set_level(logging.INFO, "keras_effnetv2.serve")
    versions.watch(
        *(lambda: versions.write(3, "bad"), nothing, nothing),
        # Not the largest number, but the largest that can be loaded.
        *(lambda: versions.write(2), nothing, nothing),
        *(lambda: versions.write(3), nothing, nothing),
    )
    reason = f"The model in {versions.root / '3'} cannot be loaded: damaged"
    assert versions.during == [
        [(3, "LOADING"), (1, "AVAILABLE")],
        [(3, "END"), (2, "LOADING"), (1, "AVAILABLE")],
        [(3, "LOADING"), (2, "AVAILABLE"), (1, "END")],
    ]
    assert versions.states() == [(3, "AVAILABLE"), (2, "END"), (1, "END")]
    assert [record.getMessage() for record in caplog.records] == [
        f"Version 3 cannot be served, so version 1 still is: {reason}",
        "Version 2 is served now",
        "No longer served: version 1",
        "Version 3 is served now",
        "No longer served: version 2",
    ]


def test_the_reason_why_a_version_is_broken_is_in_its_status(versions):
    versions.watch((versions.root / "7").mkdir, nothing, nothing)
    (state,) = versions.service.known_states("trees", "7", None).values()
    assert state.state == "END"
    assert "No such file" in state.error
    assert b'loads_total{outcome="error"} 1.0' in versions.service.metrics.text()


def test_a_version_that_is_removed_gives_way_to_the_one_before(versions):
    versions.watch(
        *(lambda: versions.write(2), nothing),
        *(lambda: shutil.rmtree(versions.root / "2"), nothing),
        # None is left: the last one is served on.
        *(lambda: shutil.rmtree(versions.root / "1"), nothing, lambda: versions.write("2.5")),
    )
    assert versions.states() == [(2, "END"), (1, "AVAILABLE")]
    assert len(versions.during) == 2


def test_a_version_is_loaded_again_when_its_files_change(versions):
    versions.watch(lambda: (versions.root / "1" / "index").write_text("x"), nothing, nothing)
    assert versions.during == [[(1, "AVAILABLE")]]
    assert versions.states() == [(1, "AVAILABLE")]


def test_the_newest_that_can_be_loaded_is_served_from_the_start(tmp_path, caplog):
    versions = Versions(tmp_path)
    versions.write(2)
    versions.write(3, "bad")
    versions.start()
    assert versions.states() == [(3, "END"), (2, "AVAILABLE")]
    reason = f"The model in {tmp_path / '3'} cannot be loaded: damaged"
    assert versions.service.states[3].error == reason
    assert [one.getMessage() for one in caplog.records] == [f"Version 3 cannot be served: {reason}"]
    versions.write(2, "bad")
    versions.write(1, "bad")
    with pytest.raises(ValueError, match=f"No version can be served. {reason}"):
        versions.start()


def test_all_versions_are_served_and_let_go_when_their_folders_are_removed(tmp_path):
    versions = Versions(tmp_path)
    versions.write(2)
    versions.write(3, "bad")
    versions.start("all")
    service = versions.service
    assert versions.states() == [(3, "END"), (2, "AVAILABLE"), (1, "AVAILABLE")]
    assert [service.servable("trees", one, None).version for one in ("1", "2", None)] == [1, 2, 2]
    released = weakref.ref(service.models[2])
    versions.watch(lambda: shutil.rmtree(tmp_path / "2"), lambda: versions.write(3), nothing)
    assert versions.states() == [(3, "AVAILABLE"), (2, "END"), (1, "AVAILABLE")]
    assert released() is None
    assert service.versions == "versions 3, 1"
    with pytest.raises(RequestError, match=r"This server has 'trees', versions 3, 1\. R"):
        service.servable("trees", "2", None)
    versions.watch(lambda: shutil.rmtree(tmp_path / "3"), nothing)
    assert (service.versions, service._grad_cam) == ("version 1", "heat of 1")


def test_chosen_versions_are_served(tmp_path):
    versions = Versions(tmp_path)
    for number in (2, 3):
        versions.write(number)
    assert versions.start("1,2,9").service.versions == "versions 2, 1"
    with pytest.raises(ValueError, match=r"None of the versions .* there are: 3, 2, 1\. Choose"):
        versions.start("9")
    for text in ("newest", "1,", "", "-1", "1 2"):
        with pytest.raises(ValueError, match=r"latest, all, or numbers such as 1,3\. Received: "):
            VersionPolicy.parse(text)
