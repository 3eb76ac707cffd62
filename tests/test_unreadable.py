"""Pictures that become unreadable while training: named, counted, skipped with their label."""

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.picture_files import png, write_files

from keras_effnetv2 import load_source, make_dataset, pack
from keras_effnetv2.data.unreadable import UnreadablePictures

SETTINGS = {"image_size": 8, "batch_size": 5, "crop_style": "finetune"}


@pytest.fixture
def source(tmp_path):
    """60 pictures; class a is black, class b is white, so that a picture tells its label."""
    for name, value in (("a", 0), ("b", 255)):
        picture = png(value, side=8)
        write_files(tmp_path / name, {f"{number:02d}.png": picture for number in range(30)})
    return load_source(tmp_path, "all")


def spoil(source, index, how):
    path = source.file_paths()[index]
    if how == "deleted":
        os.remove(path)
    else:
        os.truncate(path, 40 if how == "truncated" else 0)


def check_labels(dataset):
    """Return the number of pictures; every one of them must have its own label."""
    count = 0
    for images, labels in dataset.as_numpy_iterator():
        np.testing.assert_array_equal(images[:, 0, 0, 0] > 127, labels[:, 1] == 1)
        count += len(images)
    return count


@pytest.mark.parametrize("training", [True, False])
def test_the_first_one_is_an_error_that_names_it(source, training):
    dataset = make_dataset(source, training=training, **SETTINGS)
    order = source.order(shuffle=training)
    # The first, one in the middle, the last.
    for place, how in ((0, "truncated"), (31, "deleted"), (59, "emptied")):
        index = int(order[place])
        path = Path(source.names[index])
        kept = path.read_bytes()
        spoil(source, index, how)
        with pytest.raises(tf.errors.InvalidArgumentError, match=str(path)):
            check_labels(dataset)
        path.write_bytes(kept)
    assert check_labels(dataset) == 60


@pytest.mark.parametrize("batch_size", [5, 7])
def test_skipped_ones_are_counted_named_once_and_replaced(source, batch_size, caplog):
    policy = UnreadablePictures(skip=True)
    settings = {**SETTINGS, "batch_size": batch_size, "unreadable": policy}
    bad = {3, 29, 30, 59, int(source.order(shuffle=True)[-1])}
    for index in bad:
        spoil(source, index, "truncated" if index % 2 else "deleted")
    with caplog.at_level(logging.WARNING, logger="keras_effnetv2"):
        for epoch in range(2):
            dataset = make_dataset(source, training=True, epoch=epoch, **settings)
            batches = 60 // batch_size
            assert int(dataset.cardinality()) == batches
            assert check_labels(dataset) == batches * batch_size
    seen = set(policy.found)
    # With batches of seven the last four of an epoch are left out whether they are good or bad.
    assert seen == bad if batch_size == 5 else seen <= bad
    assert {bad.name for bad in policy.found.values()} == {source.names[index] for index in seen}
    named = [record.getMessage() for record in caplog.records]
    assert len(named) == len(seen)
    for index in seen:
        reason = "corrupt or truncated PNG" if index % 2 else "No such file"
        (message,) = [text for text in named if source.names[index] in text]
        assert reason in message


def test_too_many_are_an_error_though_they_may_be_skipped(source):
    for index in range(11):
        spoil(source, index, "deleted")
    policy = UnreadablePictures(skip=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be used"):
        check_labels(make_dataset(source, training=True, unreadable=policy, **SETTINGS))
    assert policy.is_exhausted


def test_a_skipped_picture_changes_no_other(source):
    """The others keep their crops and draws, which belong to their place in the source."""
    settings = {**SETTINGS, "batch_size": 1, "training": True, "randaugment_magnitude": 9}
    whole = [image for image, _ in make_dataset(source, **settings).as_numpy_iterator()]
    spoil(source, int(source.order(shuffle=True)[20]), "deleted")
    policy = UnreadablePictures(skip=True)
    dataset = make_dataset(source, unreadable=policy, **settings)
    left = [image for image, _ in dataset.as_numpy_iterator()]
    np.testing.assert_array_equal(left[:59], whole[:20] + whole[21:])
    np.testing.assert_array_equal(left[59], whole[0])  # in the place of the one left out


def test_records_that_are_damaged_are_named(source, tmp_path):
    pack(source, tmp_path / "packed", shards=2)
    packed = load_source(f"tfrecord:{tmp_path / 'packed'}", "all")
    shard = sorted((tmp_path / "packed").glob("*.tfrecord"))[0]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 0xFF
    shard.write_bytes(content)
    with pytest.raises(tf.errors.InvalidArgumentError, match=shard.name):
        check_labels(make_dataset(packed, training=True, **SETTINGS))
    policy = UnreadablePictures(skip=True)
    assert check_labels(make_dataset(packed, training=True, unreadable=policy, **SETTINGS)) == 60
    assert len(policy.found) == 1
