"""tfrecord:PATTERN: records from other tools, their labels and splits, and files that are damaged.

The key layouts are those of google/automl `efficientnetv2/datasets.py` (official ImageNet records)
and of TensorFlow Datasets' writer, written here with TensorFlow's own classes.
"""

import gzip
import logging
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.data import tfrecord
from keras_effnetv2.data.sources import ImageSource, load_source
from keras_effnetv2.data.unreadable import find_bad_pictures

PNG = b"a picture"


def example(**features: bytes | int | float | list) -> bytes:
    """One record; a double underscore stands for the slash in its keys."""
    made = tf.train.Example()
    for key, value in features.items():
        values = value if isinstance(value, list) else [value]
        kind = {bytes: "bytes_list", int: "int64_list", float: "float_list"}[type(values[0])]
        getattr(made.features.feature[key.replace("__", "/")], kind).value.extend(values)
    return made.SerializeToString()


def official(number: int, label: int, **more) -> bytes:
    return example(image__encoded=b"picture %03d" % number, image__class__label=label, **more)


def plain(number: int, label: int) -> bytes:
    return example(image=b"picture %03d" % number, label=label)


def write(path: Path, examples: list[bytes]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in examples:
            writer.write(record)
    return path


def numbers(source: ImageSource, **order) -> list[int]:
    """The numbers of the pictures, each checked against its label and its index."""
    found = []
    for data, label, index in source.dataset(**order).as_numpy_iterator():
        assert label == source.labels[index]
        found.append(int(data.split()[1]))
    return found


def test_official_keys_with_synsets(tmp_path):
    names = {1: b"n01440764", 2: b"n01443537", 3: b"n01484850"}
    for shard in range(2):
        numbered = [(10 * shard + k, 1 + (shard + k) % 3) for k in range(4)]
        write(
            tmp_path / f"train-{shard:05d}-of-00002",
            [
                official(n, label, image__class__synset=names[label], image__class__text=b"fish")
                for n, label in numbered
            ],
        )
    source = load_source(f"tfrecord:{tmp_path}/train-*", "all")
    assert source.class_names == ("n01440764", "n01443537", "n01484850")
    assert source.labels.tolist() == [0, 1, 2, 0, 1, 2, 0, 1]
    assert numbers(source) == [0, 1, 2, 3, 10, 11, 12, 13]
    assert source.names[5] == "train-00001-of-00002#1"
    assert source.horizontal_flip


def test_text_names_a_class_where_there_is_no_synset_and_two_classes_may_share_it(tmp_path):
    # As "crane" in ImageNet, a bird and a machine.
    texts = [b"crane", b"crane", b"heron"]
    path = write(
        tmp_path / "a.tfrecord",
        [official(n, n + 1, image__class__text=text) for n, text in enumerate(texts)],
    )
    source = load_source(f"tfrecord:{path}", "all")
    assert source.class_names == ("crane (1)", "crane (2)", "heron")


@pytest.mark.parametrize(
    ("make", "labels", "class_names", "positions"),
    [
        # 1..1000 and no 0, as the official ImageNet files; a class may have no picture here.
        (official, [1, 4, 2], ("1", "2", "3", "4"), [0, 3, 1]),
        (official, [0, 2, 1], ("0", "1", "2"), [0, 2, 1]),
        (plain, [1, 2, 1], ("0", "1", "2"), [1, 2, 1]),
    ],
)
def test_labels_without_names(tmp_path, caplog, make, labels, class_names, positions):
    path = write(tmp_path / "a.record", [make(n, label) for n, label in enumerate(labels)])
    with caplog.at_level(logging.INFO, "keras_effnetv2"):
        source = load_source(f"tfrecord:{path}", "all")
    assert source.class_names == class_names
    assert source.labels.tolist() == positions
    assert ("labels count from 1" in caplog.text) == (class_names[0] == "1")


def test_names_that_tensorflow_datasets_writes_beside_its_files(tmp_path):
    write(tmp_path / "set-train.tfrecord-00000-of-00001", [plain(n, n % 3) for n in range(30)])
    (tmp_path / "label.labels.txt").write_text("red\ngreen\nblue\nblack\n")
    (tmp_path / "features.json").write_text("{}")
    source = load_source(f"tfrecord:{tmp_path}")
    assert source.class_names == ("red", "green", "blue", "black")
    assert source.class_counts().tolist() == [9, 9, 9, 0]  # a tenth of the train split is held back
    held = load_source(f"tfrecord:{tmp_path}", "validation")
    assert sorted([*source.rows, *held.rows]) == list(range(30))


@pytest.mark.parametrize(
    "files",
    [
        ["train-00000-of-00002", "train-00001-of-00002", "validation-00000-of-00001"],
        ["x-train.tfrecord-00000-of-00001", "y_train.tfrec", "val.tfrecord"],
        ["train/1.tfrecord", "train/2.tfrecord", "valid/1.tfrecord"],
    ],
)
def test_splits_of_a_folder(tmp_path, files):
    for shard, file in enumerate(files):
        write(tmp_path / file, [plain(10 * shard + n, n % 2) for n in range(2)])
    (tmp_path / "README.md").touch()
    everything = load_source(f"tfrecord:{tmp_path}", "all")
    assert numbers(everything) == [0, 1, 10, 11, 20, 21]
    for split, own in (("train", slice(0, 4)), ("validation", slice(4, 6))):
        assert load_source(f"tfrecord:{tmp_path}", split).names == everything.names[own]
    with pytest.raises(ValueError, match=r"no split 'test'. It has: train, validation, all"):
        load_source(f"tfrecord:{tmp_path}", "test")


def test_files_of_a_folder_that_do_not_fit_together(tmp_path):
    write(tmp_path / "train-00000-of-00003", [plain(0, 0), plain(1, 1)])
    write(tmp_path / "train-00002-of-00003", [plain(2, 0)])
    with pytest.raises(ValueError, match=r"2 of the 3 files 'train'; missing: '00001'.*train-\*'"):
        load_source(f"tfrecord:{tmp_path}")
    assert load_source(f"tfrecord:{tmp_path}/train-*", "all").num_examples == 3
    write(tmp_path / "train-00001-of-00003", [])  # a file may be empty where there are others
    assert load_source(f"tfrecord:{tmp_path}", "all").num_examples == 3
    write(tmp_path / "extra.tfrecord", [plain(3, 0)])
    with pytest.raises(ValueError, match=r"files named by split, and others .* 'extra.tfrecord'"):
        load_source(f"tfrecord:{tmp_path}")


def many(folder: Path) -> ImageSource:
    """100 pictures in 4 files, sorted by class as no good set is."""
    for shard in range(4):
        write(folder / f"{shard}.tfrecord", [plain(n, n // 50) for n in range(shard, 100, 4)])
    return load_source(f"tfrecord:{folder}/*", "all")


@pytest.fixture(scope="module")
def hundred(tmp_path_factory):
    return many(tmp_path_factory.mktemp("hundred"))


def test_order_is_a_function_of_seed_and_epoch_and_complete(hundred, tmp_path, small_windows):
    in_order = [n for shard in range(4) for n in range(shard, 100, 4)]
    assert numbers(hundred) == in_order
    draws = ((0, 0), (0, 1), (1, 0))
    orders = [hundred.order(shuffle=True, seed=seed, epoch=epoch).tolist() for seed, epoch in draws]
    assert all(sorted(order) == list(range(100)) for order in orders)
    assert len(set(map(tuple, [range(100), *orders]))) == 4
    tf.random.set_seed(5)  # must not enter
    shuffled = many(tmp_path).dataset(shuffle=True, epoch=1)
    assert shuffled.cardinality() == 100
    assert [index for _, _, index in shuffled.as_numpy_iterator()] == orders[1]
    # 32 pictures from at most 4 blocks of 8 and the two that the edges cut; so not of one file.
    rows = hundred.rows[orders[0]]
    for start in range(0, 100, 32):
        window = np.sort(rows[start : start + 32])
        assert np.count_nonzero(np.diff(window) != 1) <= 6
    assert len({row // 25 for row in rows[:32]}) > 1


def test_the_order_of_a_seed_stays_as_it_was(hundred, small_windows):
    """A run goes on with the pictures it has not seen, also after an update of this package."""
    assert hundred.order(shuffle=True, seed=1, epoch=2, shard=(1, 3)).tolist() == [
        *(39, 31, 44, 99, 33, 36, 96, 29, 42, 72, 34, 38, 47, 98, 27, 37, 28),
        *(76, 26, 30, 46, 73, 25, 74, 45, 43, 24, 41, 35, 32, 97, 75, 77),
    ]


def test_subsets_in_any_order_are_the_same_pictures(hundred, small_windows):
    everything = [n for shard in range(4) for n in range(shard, 100, 4)]
    chosen = [99, 3, 3, 50, 0, 51, 52, 7]
    assert numbers(hundred.subset(chosen)) == [everything[index] for index in chosen]
    part = hundred.stratified_subset(20, seed=1)
    assert part.class_counts().tolist() == [10, 10]
    assert sorted(numbers(part, shuffle=True)) == sorted(everything[row] for row in part.rows)


# Damage


def test_a_flipped_byte_names_file_record_and_byte_and_spares_the_others(tmp_path, small_windows):
    source = many(tmp_path)
    path = tmp_path / "2.tfrecord"
    size = source.store.lengths[50]  # all records here are equally long
    with open(path, "r+b") as file:
        file.seek(int(3 * size + 20))
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    with pytest.raises(tf.errors.OpError, match=rf"record 3 of {path} \(at byte {3 * size}\)"):
        numbers(source)
    bad = find_bad_pictures(source)
    # These pictures are no pictures; of one alone the bytes cannot be had.
    assert len(bad) == 100
    (damaged,) = [picture for picture in bad if "cannot be read" in picture.reason]
    assert (damaged.index, damaged.name) == (53, "2.tfrecord#3")
    rest = source.subset(np.delete(np.arange(100), damaged.index))
    assert len(numbers(rest)) == 99
    with pytest.raises(ValueError, match=rf"{path}' is damaged.*record 3 at byte {3 * size}"):
        load_source(f"tfrecord:{tmp_path}/*", "all")


def masked_crc(data: bytes) -> bytes:
    """CRC-32C, turned as record_writer.h has it, so that data may hold the CRC of others."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = (crc >> 1) ^ (0x82F63B78 if crc & 1 else 0)
    crc ^= 0xFFFFFFFF
    return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


@pytest.mark.parametrize("length", [0, 49, 51, 10**6, 2**40, 2**63 - 1, 2**64 - 16])
def test_a_length_that_lies_though_its_checksum_is_right(tmp_path, length):
    """TensorFlow asks for that much memory; for a terabyte it ends the process."""
    path = write(tmp_path / "x.tfrecord", [plain(number, 1) for number in range(3)])
    content = bytearray(path.read_bytes())
    begin = len(content) // 3
    assert content[begin + 8 : begin + 12] == masked_crc(content[begin : begin + 8])
    assert int.from_bytes(content[begin : begin + 8], "little") == begin - 16 != length
    content[begin : begin + 8] = struct.pack("<Q", length)
    content[begin + 8 : begin + 12] = masked_crc(content[begin : begin + 8])
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"x.tfrecord' is damaged.*record 1 at byte {begin} "):
        load_source(f"tfrecord:{path}", "all")


def test_a_file_that_was_removed_fails_when_it_is_reached(tmp_path, small_windows):
    source = many(tmp_path)
    (tmp_path / "1.tfrecord").unlink()
    with pytest.raises(tf.errors.OpError, match=r"1\.tfrecord \(at byte 0\) .* removed"):
        numbers(source)


def test_files_that_are_no_records(tmp_path):
    def stored(*examples: bytes) -> bytes:
        return write(tmp_path / "x", list(examples)).read_bytes()

    whole = stored(*(plain(n, n) for n in range(5)))
    size = len(whole) // 5
    bad = {
        "cut": (whole[:-5], f"record 4 at byte {4 * size}"),
        "gz": (gzip.compress(whole), "is compressed with gzip"),
        "empty": (b"", "is empty"),
        "text": (b"no records here, but text", "record 0 at byte 0"),
        "words": (stored(b"\xff\xff"), "not tf.train.Example"),
        "float": (stored(example(image=PNG, label=0.5)), "'label' is not one int64"),
        "two": (stored(example(image=PNG, label=[1, 2])), "'label' is not one int64"),
        "late": (stored(plain(0, 0), example(image=PNG)), "a record without the key 'label'"),
        "blank": (
            stored(plain(0, 0), example(image=b"", label=1)),
            "a record without 'image'",
        ),
        "keys": (
            stored(example(pixels=PNG, kind=1)),
            "expected 'image/encoded' and 'image/class/label' or 'image' and 'label'.*'kind', 'pix",
        ),
    }
    for name, (data, message) in bad.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(ValueError, match=message) as error:
            load_source(f"tfrecord:{tmp_path / name}", "all")
        assert str(tmp_path / name) in str(error.value)
    # Among good files the bad one is named.
    for name in ("cut", "float", "late"):
        write(tmp_path / "among/a", [plain(0, 0), plain(1, 1)])
        (tmp_path / "among/b").write_bytes(bad[name][0])
        write(tmp_path / "among/c", [plain(2, 0)])
        with pytest.raises(ValueError, match="among/b'"):
            load_source(f"tfrecord:{tmp_path}/among/*", "all")


@pytest.mark.parametrize(
    ("examples", "message"),
    [
        ([plain(0, -1), plain(1, 1)], r"without a label: 'label' is -1 in 1 of 2"),
        ([plain(0, 0), plain(1, 10**9)], "has the label 1000000000"),
        (
            [official(0, 1, image__class__text=b"a"), official(1, 1, image__class__text=b"b")],
            "Label 1 has several names: 'a', 'b'",
        ),
        ([plain(0, 0), plain(1, 0)], "only one class"),
    ],
)
def test_labels_that_are_none(tmp_path, examples, message):
    path = write(tmp_path / "a", examples)
    with pytest.raises(ValueError, match=message):
        load_source(f"tfrecord:{path}", "all")


def test_a_large_set_says_that_it_is_read_and_is_read_once(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(tfrecord, "TELL_FROM", 1)
    spec = f"tfrecord:{tmp_path}/*"
    for count in (20, 21):
        write(tmp_path / "a.tfrecord", [plain(n, n % 2) for n in range(count)])
        caplog.clear()
        train, held = (load_source(spec, split) for split in ("train", "validation"))
        assert train.num_examples + held.num_examples == count
        assert [record.getMessage()[:42] for record in caplog.records] == [
            "Reading each record of 1 TFRecord files (0"
        ]


def test_keys_that_are_given(tmp_path):
    names = [b"cat", b"dog"] * 2
    records = [
        example(picture=b"picture %03d" % n, class_text=name, **{"class": n % 2})
        for n, name in enumerate(names)
    ]
    path = write(tmp_path / "train.tfrecord", records)
    with pytest.raises(ValueError, match=r"It has: 'class', .*'tfrecord:PATTERN\?image=KEY&label"):
        load_source(f"tfrecord:{path}")
    for place in (path, tmp_path, f"{tmp_path}/*?tfrecord"):
        source = load_source(f"tfrecord:{place}?image=picture&label=class", "all")
        assert (source.class_names, numbers(source)) == (("0", "1"), [0, 1, 2, 3])
    named = load_source(f"tfrecord:{path}?image=picture&label=class&name=class_text", "all")
    assert (named.class_names, named.labels.tolist()) == (("cat", "dog"), [0, 1, 0, 1])
    with pytest.raises(ValueError, match=r"without the key 'photo'. It has: 'class', "):
        load_source(f"tfrecord:{path}?image=photo&label=class")
    with pytest.raises(ValueError, match=r"Keys are given as .*Received: '\?image=picture'"):
        load_source(f"tfrecord:{path}?image=picture")


def test_names_of_classes_are_compared_in_nfc(tmp_path):
    texts = ["caf\u00e9", "cafe\u0301", "tea"]  # the same word twice, for one label
    path = write(
        tmp_path / "a.tfrecord",
        [official(n, 1 + n // 2, image__class__text=text.encode()) for n, text in enumerate(texts)],
    )
    assert load_source(f"tfrecord:{path}", "all").class_names == ("caf\u00e9", "tea")
