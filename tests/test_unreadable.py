"""Pictures that cannot be used: found by a scan, or named, counted and skipped while training."""

import io
import logging
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.picture_files import png, write_files
from PIL import Image

from keras_effnetv2 import load_source, make_dataset
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import (
    BadPicture,
    BadPicturesError,
    UnreadablePictures,
    drop_bad,
    find_bad_pictures,
)


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def png_header(height: int, width: int) -> bytes:
    """A valid PNG header and no pixels: decoding it would need height * width * 3 bytes."""
    header = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
    return b"\x89PNG\r\n\x1a\n" + chunk


GOOD = {
    "a/1.jpg": encoded("jpeg"),
    "a/2.png": encoded("png"),
    "b/3": encoded("webp"),
    "b/4.jpg": encoded("bmp"),  # the extension lies, the content counts
    "b/5.gif": encoded("gif"),
}
BAD = {
    "a/cut.jpg": (encoded("jpeg")[:-200], "corrupt or truncated JPEG"),
    "a/cut.png": (encoded("png")[:-200], "corrupt or truncated PNG"),
    "a/empty.jpg": (b"", "the file is empty"),
    "b/big.png": (png_header(30_000, 30_000), "30000 x 30000 pixels"),
    "b/text.jpg": (b"no picture at all", "not a JPEG, PNG"),
}


def test_every_kind_of_bad_picture_is_found_in_order(tmp_path):
    write_files(tmp_path, GOOD | {name: data for name, (data, _) in BAD.items()})
    (tmp_path / "b/dangling.jpg").symlink_to(tmp_path / "gone")
    (tmp_path / "b/folder.jpg").mkdir()
    os.mkfifo(tmp_path / "b/pipe.jpg")
    expected = {name: reason for name, (_, reason) in BAD.items()} | {
        "b/dangling.jpg": "cannot be read: No such file or directory",
        "b/folder.jpg": "a folder, not a file",
        "b/pipe.jpg": "not a regular file",
    }
    source = load_source(tmp_path, "all")
    calls = []
    bad = find_bad_pictures(source, progress=lambda done, total: calls.append((done, total)))
    assert [os.path.relpath(picture.name, tmp_path) for picture in bad] == sorted(expected)
    for picture, name in zip(bad, sorted(expected), strict=True):
        assert picture.reason.startswith(expected[name])
        assert source.names[picture.index] == picture.name
    assert [done for done, _ in calls] == sorted(done for done, _ in calls)
    assert calls[-1] == (13, 13)
    assert {total for _, total in calls} == {13}

    kept = drop_bad(source, bad)
    assert {os.path.relpath(name, tmp_path) for name in kept.names} == set(GOOD)
    assert find_bad_pictures(kept) == ()


@pytest.mark.parametrize("scan", [True, False])
def test_what_is_no_file_of_a_picture_is_never_opened(tmp_path, scan):
    """A pipe would stop the training; a file with a hole takes no room on the disk, but memory."""
    write_files(tmp_path, GOOD | {"a/hole.jpg": GOOD["a/1.jpg"]})
    os.truncate(tmp_path / "a/hole.jpg", 6 * 10**9)
    (tmp_path / "b/endless.jpg").symlink_to("/dev/zero")
    os.mkfifo(tmp_path / "b/pipe.jpg")
    source = load_source(tmp_path, "all")
    data = TrainingData(source, validation=source, scan=scan)
    with pytest.raises(BadPicturesError) as caught:
        data.prepare(data.load(0), lambda line: None)
    reasons = {Path(picture.name).name: picture.reason for picture in caught.value.bad}
    assert reasons == {
        "hole.jpg": (
            "6,000,000,000 bytes are too many for a picture: at most 268,435,456 are read"
        ),
        "endless.jpg": "not a regular file",
        "pipe.jpg": "not a regular file",
    }
    data = TrainingData(source, validation=source, scan=scan, skip_bad=True)
    training, _ = data.prepare(data.load(0), lambda line: None)
    assert {os.path.relpath(name, tmp_path) for name in training.names} == set(GOOD)


def test_source_in_memory_and_a_csv_without_files(tmp_path):
    assert find_bad_pictures(load_source("digits", "all").stratified_subset(50)) == ()
    (tmp_path / "table.csv").write_text("path,label\n1,a\n2,b\n")
    bad = find_bad_pictures(load_source(f"csv:{tmp_path / 'table.csv'}", "all"))
    assert [picture.index for picture in bad] == [0, 1]


def test_class_that_would_become_empty(tmp_path):
    write_files(tmp_path, {**GOOD, "c/1.jpg": b"", "c/2.jpg": b"", "d/1.jpg": b""})
    source = load_source(tmp_path, "all")
    bad = find_bad_pictures(source)
    with pytest.raises(ValueError, match=r"3 bad pictures .* has no pictures of 'c', 'd'"):
        drop_bad(source, bad)
    # A class of the run that had no picture to begin with is no reason to stop.
    other = load_source(tmp_path, "all", class_names=["a", "b", "c", "d", "e"]).subset(range(5))
    assert drop_bad(other, []).names == other.names


def test_error_lists_twenty_and_the_way_out():
    bad = [BadPicture(index, f"a/{index:02d}\n.jpg", "the file is empty") for index in range(23)]
    error = BadPicturesError(bad)
    assert error.bad == tuple(bad)
    lines = str(error).splitlines()
    assert lines[0] == "23 pictures cannot be used:"
    assert lines[1:21] == [f"  'a/{index:02d}\\n.jpg': the file is empty" for index in range(20)]
    assert lines[21] == "  and 3 more"
    assert lines[22].endswith("(--skip-bad, skip_bad=True).")
    assert len(str(BadPicturesError(bad[:1])).splitlines()) == 3


# While training or judging

SETTINGS = {"image_size": 8, "batch_size": 5, "crop_style": "finetune"}


@pytest.fixture
def source(tmp_path):
    """60 pictures; class a is black, class b is white, so that a picture tells its label."""
    for name, value in (("a", 0), ("b", 255)):
        picture = png(value, side=8)
        write_files(tmp_path / name, {f"{number:02d}.png": picture for number in range(30)})
    return load_source(tmp_path, "all")


REASONS = {
    "truncated": "corrupt or truncated PNG",
    "deleted": "No such file",
    "replaced": "not a JPEG, PNG, BMP, GIF or WebP picture",
}


def spoil(source, index, how):
    path = source.file_paths()[index]
    if how == "deleted":
        os.remove(path)
    elif how == "replaced":
        Path(os.fsdecode(path)).write_bytes(b"no picture at all")
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


@pytest.mark.parametrize("skip", [True, False])
def test_reading_ends_with_the_error(source, skip):
    """Threads that read on call Python, and may do so when the process ends: then it hangs."""
    for index in range(40):
        spoil(source, index, "deleted")
    policy = UnreadablePictures(skip)
    batches = iter(make_dataset(source, training=True, unreadable=policy, **SETTINGS))
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be used"):
        list(batches)
    found = list(policy.error.bad)
    with pytest.raises(tf.errors.FailedPreconditionError, match="expected to contain 12 elements"):
        list(batches)  # the end, which is too early
    assert list(policy.found.values()) == found


@pytest.mark.parametrize("batch_size", [5, pytest.param(7, marks=pytest.mark.slow)])
def test_skipped_ones_are_counted_named_once_and_replaced(source, batch_size, caplog):
    policy = UnreadablePictures(skip=True)
    settings = {**SETTINGS, "batch_size": batch_size, "unreadable": policy}
    bad = {3, 29, 30, 59, int(source.order(shuffle=True)[-1])}
    how = {index: "truncated" if index % 2 else "deleted" for index in bad} | {3: "replaced"}
    for index in bad:
        spoil(source, index, how[index])
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
        reason = REASONS[how[index]]
        (message,) = [text for text in named if source.names[index] in text]
        assert reason in message


def test_too_many_are_an_error_though_they_may_be_skipped(source):
    for index in range(11):
        spoil(source, index, "deleted")
    policy = UnreadablePictures(skip=True)
    with pytest.raises(tf.errors.InvalidArgumentError, match="cannot be used"):
        check_labels(make_dataset(source, training=True, unreadable=policy, **SETTINGS))
    assert len(policy.error.bad) == 11


def test_a_skipped_picture_changes_no_other(source):
    """The others keep their crops and draws, which belong to their place in the source."""
    rng = np.random.default_rng(0)
    for path in source.file_paths():  # noise shows every crop and flip
        pixels = rng.integers(0, 256, (8, 8, 3), np.uint8)
        Path(os.fsdecode(path)).write_bytes(tf.io.encode_png(pixels).numpy())
    settings = {**SETTINGS, "batch_size": 1, "training": True}
    whole = [image for image, _ in make_dataset(source, **settings).as_numpy_iterator()]
    spoil(source, int(source.order(shuffle=True)[20]), "deleted")
    policy = UnreadablePictures(skip=True)
    dataset = make_dataset(source, unreadable=policy, **settings)
    left = [image for image, _ in dataset.as_numpy_iterator()]
    np.testing.assert_array_equal(left[:59], whole[:20] + whole[21:])
    np.testing.assert_array_equal(left[59], whole[0])  # in the place of the one left out
