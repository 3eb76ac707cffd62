"""One process trains in a run folder: the lock is held, and what is left of it says nothing."""

import errno
import os
import signal
import subprocess
import sys

import pytest
from helpers.run_folders import recorded_settings

from keras_effnetv2.runs.run_folder import hold_output, write_settings

HOLD = """
import pathlib, sys
from keras_effnetv2.runs.run_lock import run_lock
with run_lock(pathlib.Path(sys.argv[1]), print):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def holder(tmp_path):
    """Another process that holds the lock of the folder until its stdin ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert process.stdout.readline() == b"held\n"
    yield process
    process.kill()
    process.communicate()


def hold(folder, say=lambda line: pytest.fail(line), **options):
    return hold_output(folder, **{"resume": False, "overwrite": False} | options, say=say)


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_another_process_is_named_until_it_ends(tmp_path, holder, options):
    write_settings(tmp_path, recorded_settings(finished=False, result=None))
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}
    for _ in range(2):  # who failed to get it leaves it as it is
        with (
            pytest.raises(
                BlockingIOError, match=rf"\({holder.pid} on .*\) is training in {tmp_path}"
            ),
            hold(tmp_path, **options),
        ):
            pytest.fail("held twice")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    assert (tmp_path / ".lock").exists()
    if options:
        with hold(tmp_path, **options) as earlier:
            assert (earlier is not None) == ("resume" in options)
        assert [path.name for path in tmp_path.iterdir()] == ["recipe.json"]


def test_a_process_that_ends_leaves_nothing(tmp_path, holder):
    holder.communicate()
    assert not list(tmp_path.iterdir())
    with hold(tmp_path):
        pass


def test_the_workers_of_one_training_do_not_lock_each_other_out(tmp_path):
    write_settings(tmp_path, recorded_settings(finished=False, result=None))
    with (
        hold(tmp_path, resume=True) as first,
        hold(tmp_path, resume=True, is_writer=False) as other,
    ):
        assert first == other is not None
    with hold(tmp_path / "new") as first, hold(tmp_path / "new", is_writer=False) as other:
        assert first is other is None


def test_a_folder_that_was_made_for_nothing_is_removed(tmp_path):
    with hold(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
    assert not (tmp_path / "run").exists()
    with hold(tmp_path / "run"):
        (tmp_path / "run" / "recipe.json").touch()
    assert os.listdir(tmp_path / "run") == ["recipe.json"]


def test_a_file_system_without_locks_is_said_and_used(tmp_path, monkeypatch):
    def no_locks(descriptor, operation):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(pytest.importorskip("fcntl"), "flock", no_locks)
    lines = []
    with hold(tmp_path, lines.append), hold(tmp_path, lines.append):
        pass
    assert len(lines) == 2
    assert lines[0].startswith(f"The file system of {tmp_path} has no locks (No locks available)")


def test_a_lock_whose_file_was_removed_meanwhile_is_taken_again(tmp_path, monkeypatch):
    """The file that was opened is no longer the one in the folder: another would get that."""
    fcntl = pytest.importorskip("fcntl")
    flock = fcntl.flock

    def removed_just_before(descriptor, operation):
        monkeypatch.undo()
        (tmp_path / ".lock").unlink()
        flock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", removed_just_before)
    with hold(tmp_path), pytest.raises(BlockingIOError), hold(tmp_path):
        pytest.fail("held twice")
