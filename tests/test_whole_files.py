"""Files that are written whole or not at all. Power cuts: see tests/test_snapshots.py."""

import os

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
