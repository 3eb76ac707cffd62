"""Files that are written whole or not at all. Power cuts: see tests/test_snapshots.py."""

import os
import subprocess
import sys

import pytest

from keras_effnetv2._common.files import written_whole


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "model.keras"
    path.write_text("old")

    def write_half():
        with written_whole(path) as scratch:
            assert scratch.suffix == ".keras"
            scratch.write_text("ne")
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        write_half()
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["model.keras"]
    with written_whole(path) as scratch:
        scratch.write_text("new")
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["model.keras"]


LEAVE = """
import pathlib, sys
from keras_effnetv2._common.files import written_whole
with written_whole(pathlib.Path(sys.argv[1])) as scratch:
    scratch.mkdir()
    (scratch / "half").touch()
    print(scratch.name, flush=True)
    sys.stdin.read()
"""


def test_what_a_killed_process_left_is_removed_by_the_next_and_not_before(tmp_path):
    path = tmp_path / "packed"
    process = subprocess.Popen(
        [sys.executable, "-c", LEAVE, path],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    left = process.stdout.readline().strip()

    def write(name):
        with written_whole(tmp_path / name) as scratch:
            scratch.touch()
        return sorted(os.listdir(tmp_path))

    assert write("packed") == sorted([left, "packed"])  # that process is running
    process.kill()
    process.communicate()
    assert left in write("other")
    assert write("packed") == ["other", "packed"]


REPLACE = """
import os, pathlib, signal, sys
from keras_effnetv2._common.files import written_whole
rename, path, renames = os.replace, pathlib.Path(sys.argv[1]), int(sys.argv[2])
def replace(old, new):
    global renames
    if not renames:
        os.kill(os.getpid(), signal.SIGKILL)
    renames -= 1
    rename(old, new)
os.replace = replace
with written_whole(path) as scratch:
    scratch.mkdir()
    (scratch / "new").touch()
"""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_folder_is_whole_after_a_kill_at_any_rename(tmp_path, renames):
    path = tmp_path / "packed"
    path.mkdir()
    (path / "old").touch()
    subprocess.run([sys.executable, "-c", REPLACE, path, str(renames)])

    with pytest.raises(RuntimeError, match="changed its mind"), written_whole(path):
        raise RuntimeError("changed its mind")
    assert os.listdir(tmp_path) == ["packed"]
    assert os.listdir(path) == ["new" if renames == 2 else "old"]


def test_a_folder_that_cannot_be_put_in_place_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "packed"
    path.mkdir()
    (path / "old").touch()
    replace = os.replace

    def fail_for_the_new(source, target):
        if target == path and "new" in os.listdir(source):
            raise OSError(5, "Input/output error")
        replace(source, target)

    def write():
        with written_whole(path) as scratch:
            scratch.mkdir()
            (scratch / "new").touch()

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", fail_for_the_new)
        with pytest.raises(OSError, match="Input/output"):
            write()
    assert os.listdir(tmp_path) == ["packed"]
    assert os.listdir(path) == ["old"]
    write()
    assert os.listdir(tmp_path) == ["packed"]
    assert os.listdir(path) == ["new"]
