"""`train` on pictures that fail after the scan, that are not scanned, or that are cached."""

import json
import logging
import os

import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import leave_out_results, small_network
from test_fit import ONE_EPOCH

from keras_effnetv2.data import training_data
from keras_effnetv2.data.scan import BadPicturesError
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.training import fit


@pytest.fixture(autouse=True)
def without_results(monkeypatch):
    """Export and report are judged elsewhere, and take seconds."""
    leave_out_results(monkeypatch)


@pytest.fixture
def pictures(tmp_path):
    """Ten classes of eight pictures each."""
    random = np.random.default_rng(0)
    for name in "0123456789":
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(8):
            picture = random.integers(0, 256, (16, 16, 3), np.uint8)
            (folder / f"{number}.png").write_bytes(tf.io.encode_png(picture).numpy())
    return load_source(tmp_path / "photos", "all")


def train(pictures, folder, **options):
    held_back = pictures.subset(range(0, 80, 8))
    rest = pictures.subset([index for index in range(80) if index % 8])
    return fit.train(small_network(), rest, ONE_EPOCH, folder, validation=held_back, **options)


def test_a_picture_that_fails_after_the_scan_is_an_error_in_two_lines(
    pictures, monkeypatch, tmp_path
):
    monkeypatch.setattr(training_data, "find_bad_pictures", lambda source: ())
    os.truncate(pictures.file_paths()[12], 40)
    with pytest.raises(BadPicturesError, match="1 picture cannot be used") as error:
        train(pictures, tmp_path / "run", verbose=0)
    assert [bad.name for bad in error.value.bad] == [pictures.names[12]]
    assert error.value.bad[0].reason == "corrupt or truncated PNG"
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["finished"] is False


def test_it_may_be_left_out_and_is_recorded(pictures, caplog, capsys, tmp_path):
    os.truncate(pictures.file_paths()[12], 40)
    with caplog.at_level(logging.WARNING, logger="keras_effnetv2"):
        train(pictures, tmp_path / "run", scan=False, skip_bad=True, verbose=2)
    printed = capsys.readouterr().out
    assert "The 80 pictures are not checked beforehand" in printed
    assert "left out, because they became unreadable: 1 of 70 pictures" in printed
    assert pictures.names[12] in caplog.text
    settings = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert settings["left_out_while_training"] == [pictures.names[12]]
    assert settings["finished"] is True


def test_large_sets_are_not_scanned_unless_asked(pictures, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(training_data, "MAX_SCANNED", 79)
    os.truncate(pictures.file_paths()[12], 40)
    with pytest.raises(BadPicturesError):
        train(pictures, tmp_path / "asked", scan=True, verbose=0)
    assert not (tmp_path / "asked").exists()
    with pytest.raises(BadPicturesError):
        train(pictures, tmp_path / "run", verbose=2)
    assert "not checked beforehand" in capsys.readouterr().out


def test_cached_pictures_train_the_same_weights(pictures, tmp_path):
    def weights(name, cache):
        run = train(pictures, tmp_path / name, cache=cache, scan=False, verbose=0)
        return run.model.get_weights()

    folder = tmp_path / "cache"
    plain, in_memory = weights("plain", None), weights("memory", "memory")
    packed, again = weights("packed", folder), weights("again", folder)
    assert sorted(path.name for path in folder.iterdir()) == ["train", "validation"]
    # Packed pictures come in another order than others.
    for one, other in zip([*plain, *packed], [*in_memory, *again], strict=True):
        np.testing.assert_array_equal(one, other)
