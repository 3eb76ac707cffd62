"""pack, the folder that it writes, caches on top of it, and the command line."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.picture_files import png, write_files

from keras_effnetv2.cli.main import main
from keras_effnetv2.data.catalog import MemoryStore
from keras_effnetv2.data.pack import pack
from keras_effnetv2.data.packed import verify_pack
from keras_effnetv2.data.sources import ImageSource, load_source
from keras_effnetv2.data.unreadable import BadPicturesError, find_bad_pictures


def write_photos(root: Path, splits: dict[str, int]) -> Path:
    """Two classes; every picture has its own bytes."""
    names = [
        Path(split, label, f"{number:02d}.png")
        for split, count in splits.items()
        for label in ("cat", "dog")
        for number in range(count)
    ]
    return write_files(root, {name: png(value) for value, name in enumerate(names)})


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"), {"train": 20, "val": 3})


@pytest.fixture(scope="module")
def packed_once(photos, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "packed"
    pack(photos, folder, shards=3)
    return folder


@pytest.fixture
def unchecked(monkeypatch):
    """Good pictures need no decoding, which takes most of the time of a small pack."""
    monkeypatch.setattr("keras_effnetv2.data.pack.find_bad_pictures", lambda *_, **__: ())


@pytest.fixture
def packed(packed_once, tmp_path):
    """A copy that a test may damage."""
    return Path(shutil.copytree(packed_once, tmp_path / "packed"))


def examples(source: ImageSource, **order) -> list[tuple]:
    return list(source.dataset(**order).as_numpy_iterator())


def test_packed_splits_have_the_same_pictures_labels_and_positions(photos, packed_once):
    assert {path.name for path in packed_once.iterdir()} == {
        "index.json",
        "index.npz",
        *(f"{split}-0000{k}-of-00003.tfrecord" for split in ("train", "validation") for k in "012"),
    }
    for split, count in (("train", 40), ("validation", 6), ("all", 46)):
        original = load_source(photos, split)
        source = load_source(f"tfrecord:{packed_once}", split)
        assert source.num_examples == count
        assert source.class_names == original.class_names
        assert source.labels.tolist() == original.labels.tolist()
    assert examples(source) == examples(original)
    assert find_bad_pictures(source) == ()
    train = load_source(f"tfrecord:{packed_once}")
    # Training pictures are stored shuffled: the first file of three has both classes.
    first_file = np.argsort(train.rows)[:13]
    assert set(train.labels[first_file]) == {0, 1}
    name = train.names[25]
    assert name.startswith("train-0000")
    assert name.endswith(" (train/dog/05.png)")


def test_a_pile_is_divided_as_before(tmp_path, unchecked):
    digits = load_source("digits", "all").stratified_subset(60)
    result = pack(digits, tmp_path / "pile")
    assert result.num_examples("all") == 60
    assert (tmp_path / "pile/all-00000-of-00001.tfrecord").is_file()
    source = load_source(f"tfrecord:{tmp_path}/pile", "all")
    assert not source.horizontal_flip
    assert source.class_names == tuple("0123456789")
    assert examples(source) == examples(digits)
    for split, part in zip(("train", "validation"), digits.carve(0.25, seed=3), strict=True):
        carved = load_source(f"tfrecord:{tmp_path}/pile", split, validation_fraction=0.25, seed=3)
        assert [name.split("(")[1] for name in carved.names] == [f"{x})" for x in part.names]


def test_records_are_readable_by_the_official_code(packed_once):
    keys = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/format": tf.io.FixedLenFeature([], tf.string),
        "image/filename": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
        "image/class/text": tf.io.FixedLenFeature([], tf.string),
    }
    found = {}
    for path in sorted(packed_once.glob("train-*")):
        for record in tf.data.TFRecordDataset(str(path)):
            parsed = tf.io.parse_single_example(record, keys)
            name = parsed.pop("image/filename").numpy().decode()
            found[name] = tuple(parsed[key].numpy() for key in keys if key in parsed)
    assert len(found) == 40
    # Labels from 1 on: the official reader takes 1 away.
    assert found["train/cat/00.png"] == (png(0), b"PNG", 1, b"cat")
    assert found["train/dog/19.png"] == (png(39), b"PNG", 2, b"dog")
    (packed_once / "index.json").rename(packed_once / "index.away")
    try:
        foreign = load_source(f"tfrecord:{packed_once}", "validation")
    finally:
        (packed_once / "index.away").rename(packed_once / "index.json")
    assert foreign.class_names == ("cat", "dog")
    assert examples(foreign) == examples(load_source(f"tfrecord:{packed_once}", "validation"))


def test_the_same_pictures_give_the_same_bytes(photos, tmp_path, unchecked):
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        pack(photos, tmp_path / name, split="train", seed=seed)
    first, same, other = (
        {path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in "abc"
    )
    assert first == same
    assert first["train-00000-of-00001.tfrecord"] != other["train-00000-of-00001.tfrecord"]


def test_shards_by_size(tmp_path, unchecked):
    noise = np.random.default_rng(0).bytes(300_000)  # no picture, which nobody looks at here
    write_files(tmp_path / "photos", {f"{n % 2}/{n}.png": noise for n in range(12)})
    result = pack(tmp_path / "photos", tmp_path / "packed", shard_bytes=10**6)
    # 12 files of 300 kB are 3.6 MB, the next whole number of shards is 4.
    assert [shard.examples for shard in result.splits["all"]] == [3] * 4


# What must not happen


def test_bad_pictures_are_refused_or_left_out(tmp_path):
    write_photos(tmp_path / "photos", {"": 4})
    (tmp_path / "photos/cat/01.png").write_bytes(b"no picture")
    with pytest.raises(BadPicturesError, match=r"cat/01\.png': not a JPEG"):
        pack(tmp_path / "photos", tmp_path / "packed")
    assert sorted(os.listdir(tmp_path)) == ["photos"]
    told, states = [], []
    result = pack(
        tmp_path / "photos",
        tmp_path / "packed",
        skip_bad=True,
        left_out=told.append,
        progress=lambda *state: states.append(state),
    )
    assert result.num_examples("all") == 7
    assert [picture.index for picture in told] == [1]
    assert states[-1] == ("packing", 7, 7)
    assert ("checking", 8, 8) in states


def test_interrupted_pack_leaves_nothing(photos, tmp_path, unchecked):
    def stop(what, done, total):
        if what == "packing" and done == 10:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(photos, tmp_path / "packed", progress=stop)
    assert os.listdir(tmp_path) == []


def test_overwrite_replaces_packs_alone(photos, tmp_path, unchecked):
    pack(photos, tmp_path / "packed", split="validation")
    with pytest.raises(FileExistsError, match=r"packed folder already.*--overwrite"):
        pack(photos, tmp_path / "packed")
    pack(photos, tmp_path / "packed", split="train", overwrite=True)
    assert load_source(f"tfrecord:{tmp_path / 'packed'}", "all").num_examples == 40
    assert sorted(os.listdir(tmp_path)) == ["packed"]
    (tmp_path / "mine").mkdir()
    pack(photos, tmp_path / "mine")  # empty
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes/a.txt").touch()
    with pytest.raises(FileExistsError, match="is not a packed folder, so it was left alone"):
        pack(photos, tmp_path / "notes", overwrite=True)


class LargePictures(MemoryStore):
    """Pictures that say that each of them has a petabyte."""

    def sizes(self, rows):
        return np.full(len(rows), 10**15)


def test_arguments_that_cannot_be(photos, tmp_path, unchecked):
    digits = load_source("digits", "validation")
    for arguments, message in (
        ({"shards": 0}, "`shards` must be an integer of at least 1"),
        ({"shards": 41}, "40 pictures of 'train' cannot be divided into 41 shards"),
        ({"shard_bytes": 5}, "at least 1000000. Received: 5"),
        ({"seed": -1}, "`seed` must be"),
        ({"split": "test"}, "no split 'test'"),
    ):
        with pytest.raises(ValueError, match=message):
            pack(photos, tmp_path / "packed", **arguments)
    with pytest.raises(ValueError, match="already is the split 'validation'"):
        pack(digits, tmp_path / "packed", split="train")
    large = replace(digits, store=LargePictures(digits.store.values, digits.store.named))
    with pytest.raises(
        OSError, match=r"has [\d,]+ MB free; packing needs about 359,000,000,000 MB"
    ):
        pack(large, tmp_path / "packed")
    assert os.listdir(tmp_path) == []


def test_damaged_folders_are_refused_when_they_are_opened(packed):
    shard = packed / "train-00001-of-00003.tfrecord"
    index = packed / "index.json"
    described = json.loads(index.read_text())

    def refuses(message, text=None, error=ValueError):
        if text is not None:
            index.write_text(text if isinstance(text, str) else json.dumps(text))
        with pytest.raises(error, match=message):
            load_source(f"tfrecord:{packed}")

    def changed(**shard_values):
        train = [described["splits"]["train"][0] | shard_values]
        return described | {"splits": {"train": train}}

    refuses("version 2, but this program reads version 1", described | {"version": 2})
    refuses("not an index that", {"some": "json"})
    refuses("cannot be read as JSON: Expecting", "{")
    refuses("is damaged: KeyError: 'splits'", {"format": described["format"], "version": 1})
    refuses("'../x.*' is not a file name of the split 'train'", changed(name="../x.tfrecord"))
    refuses("is not a file name", changed(name="/etc/train-00000-of-00001.tfrecord"))
    refuses("is not a file name", changed(name="validation-00000-of-00003.tfrecord"))
    refuses("not positive whole numbers", changed(examples=-1))
    refuses("do not fit index.json", changed(examples=1))
    refuses("class_names has a name twice", described | {"class_names": ["cat", "cat"]})
    index.write_text(json.dumps(described))
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1])
    refuses(rf"{shard.name} has {len(whole) - 1:,} bytes instead of {len(whole):,}")
    shard.unlink()
    refuses(f"{shard.name} is missing.*pack again")
    shard.write_bytes(whole)
    arrays = bytearray((packed / "index.npz").read_bytes())
    arrays[200] ^= 1
    (packed / "index.npz").write_bytes(arrays)
    refuses("its checksum is not the one")
    (packed / "index.npz").unlink()
    refuses("index.npz is missing")


def test_a_flipped_byte_is_found_by_reading_and_by_verifying(packed):
    assert verify_pack(packed).num_examples("train") == 40
    shard = packed / "train-00001-of-00003.tfrecord"
    data = bytearray(shard.read_bytes())
    data[-30] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ValueError, match=f"1 of 6 shards in .*: {shard.name}. Copy them again"):
        verify_pack(packed)
    (bad,) = find_bad_pictures(load_source(f"tfrecord:{packed}"))
    assert f"{shard.name}#12 (" in bad.name
    assert bad.reason.startswith(f"cannot be read: record 12 of {shard} (at byte ")
    assert bad.reason.endswith("since it was opened")


# Caches


def test_cached_sources_are_the_same_pictures(photos, tmp_path):
    source = load_source(photos).subset([30, 2, 2, 17, 39])
    for place in ("memory", tmp_path / "cache"):
        cached = source.cached(place)
        assert examples(cached) == examples(source)
        assert cached.file_paths() is None
        assert (cached.spec, cached.split) == (source.spec, source.split)
        assert len(cached.subset([4, 0]).cached("memory").names) == 2
    assert [name.split("(")[1] for name in source.cached(tmp_path / "cache").names] == [
        f"{path})" for path in source.names
    ]


def test_cache_on_disk_is_used_again_and_only_for_the_very_same(tmp_path):
    photos = write_photos(tmp_path / "photos", {"": 5})
    source = load_source(photos, "all")
    before = examples(source.cached(tmp_path / "cache"))
    written = [path.stat() for path in sorted((tmp_path / "cache").iterdir())]
    assert examples(load_source(photos, "all").cached(tmp_path / "cache")) == before
    found = [path.stat() for path in sorted((tmp_path / "cache").iterdir())]
    assert [(one.st_ino, one.st_mtime_ns) for one in found] == [
        (one.st_ino, one.st_mtime_ns) for one in written
    ]
    for other in (
        source.subset([0, 1]),
        replace(source, labels=1 - source.labels),
        load_source(photos, "all", class_names=["dog", "cat"]),
        replace(source, split="train"),
    ):
        with pytest.raises(ValueError, match="is not a cache of"):
            other.cached(tmp_path / "cache")
    os.utime(photos / "cat/00.png", ns=(0, 0))
    with pytest.raises(ValueError, match="the files have changed since"):
        source.cached(tmp_path / "cache")
    with pytest.raises(FileExistsError, match="is not a packed folder"):
        source.cached(photos)
    # A source in memory has no times: its contents count.
    digits = load_source("digits").subset([0, 1])
    digits.cached(tmp_path / "digits")
    assert examples(digits.cached(tmp_path / "digits")) == examples(digits)
    with pytest.raises(ValueError, match="is not a cache of 'digits'"):
        digits.subset([1, 0]).cached(tmp_path / "digits")


@pytest.mark.parametrize("place", ["cache", "memory"])
def test_a_picture_that_vanished_is_named_and_leaves_no_cache(tmp_path, monkeypatch, place):
    monkeypatch.chdir(tmp_path)
    photos = write_photos(tmp_path / "photos", {"": 3})
    source = load_source(photos, "all")
    (photos / "dog/01.png").unlink()
    (photos / "dog/01.png").mkdir()
    with pytest.raises(ValueError, match=r"dog/01.png.* (cannot be read|Is a directory)"):
        source.cached(place)
    assert os.listdir(tmp_path) == ["photos"]


# The command line


def test_command(photos, tmp_path, capsys, unchecked):
    words = ["pack", "--data", str(photos), "--output", str(tmp_path / "packed"), "--shards", "2"]
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "train             40 pictures      2 shards" in out
    assert f"--data tfrecord:{tmp_path / 'packed'}" in out
    assert main(words) == 1
    assert "--overwrite" in capsys.readouterr().err
    assert main([*words, "--overwrite", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["splits"]["validation"]["pictures"] == 6
    assert main(["pack", "--verify", str(tmp_path / "packed")]) == 0
    assert "all checksums are right" in capsys.readouterr().out
    assert main(["pack", "--verify", str(photos)]) == 1
    assert "has no index.json" in capsys.readouterr().err
    assert main(["pack", "--data", str(photos)]) == 1
    assert "--output is missing" in capsys.readouterr().err
