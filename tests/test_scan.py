"""find_bad_pictures, drop_bad and the error that lists what was found."""

import io
import os
import struct
import zlib

import numpy as np
import pytest
from helpers.picture_files import write_files
from PIL import Image

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.unreadable import BadPicture, BadPicturesError, drop_bad, find_bad_pictures


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
        "b/folder.jpg": "a folder, not a picture",
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


def test_source_in_memory_and_a_csv_without_files(tmp_path):
    assert find_bad_pictures(load_source("digits", "all").stratified_subset(50)) == ()
    (tmp_path / "table.csv").write_text("path,label\n1,a\n2,b\n")
    bad = find_bad_pictures(load_source(f"csv:{tmp_path / 'table.csv'}", "all"))
    assert [picture.index for picture in bad] == [0, 1]


def test_class_that_would_become_empty(tmp_path):
    write_files(tmp_path, {**GOOD, "c/1.jpg": b"", "c/2.jpg": b"", "d/1.jpg": b""})
    source = load_source(tmp_path, "all")
    bad = find_bad_pictures(source)
    with pytest.raises(ValueError, match=r"3 bad pictures .* none left of 'c', 'd'"):
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
    assert lines[22].endswith("--skip-bad.")
    assert len(str(BadPicturesError(bad[:1])).splitlines()) == 3
