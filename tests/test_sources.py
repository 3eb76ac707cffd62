"""load_source and ImageSource: folders, splits, class names, digits, order, subsets, workers."""

import io
import os
import re
import shutil
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
from helpers.picture_files import png, write_files
from PIL import Image
from sklearn.datasets import load_digits

from keras_effnetv2.data.pack import pack
from keras_effnetv2.data.sources import ImageSource, load_source
from keras_effnetv2.data.training_data import TrainingData


def make_tree(root: Path, *files: str | bytes) -> None:
    """Write files whose content is their own path; an entry that ends in / is a folder."""
    names = list(map(os.fsdecode, files))
    for name in names:
        os.makedirs(root / (name if name.endswith("/") else os.path.dirname(name)), exist_ok=True)
    write_files(root, {name: os.fsencode(name) for name in names if not name.endswith("/")})


def numbered(folder: str, count: int) -> list[str]:
    return [f"{folder}/{index:03d}.jpg" for index in range(count)]


def contents(source: ImageSource, **order) -> list[bytes]:
    return [data for data, _, _ in source.dataset(**order).as_numpy_iterator()]


def relative_names(source: ImageSource, root: Path) -> list[str]:
    return [os.path.relpath(name, root) for name in source.names]


# Folders


def test_flat_folder_reads_every_visible_file_at_any_depth(tmp_path):
    make_tree(
        tmp_path,
        *("dog/b.jpg", "dog/a b'\".jpg", "cat/deep/er/no_extension", "cat/new\nline.txt"),
        *("cat/.hidden.jpg", "cat/.git/x.jpg", "cat/Thumbs.db", "cat/desktop.ini", "cat/.DS_Store"),
        *(".cache/x.jpg", "README.md"),
    )
    source = load_source(tmp_path, "all")
    assert source.class_names == ("cat", "dog")
    assert relative_names(source, tmp_path) == [
        *("cat/deep/er/no_extension", "cat/new\nline.txt", "dog/a b'\".jpg", "dog/b.jpg"),
    ]
    assert source.labels.tolist() == [0, 0, 1, 1]
    assert source.labels.dtype == np.int64
    assert source.class_counts().tolist() == [2, 2]
    assert source.horizontal_flip
    # Each file holds its own path: the bytes belong to the name beside them.
    assert [data.decode() for data in contents(source)] == relative_names(source, tmp_path)


def test_bytes_that_are_not_utf8(tmp_path):
    make_tree(tmp_path, b"caf\xe9/\xff.jpg", b"tea/x.jpg")
    source = load_source(str(tmp_path), "all")
    assert source.class_names == ("caf\\xe9", "tea")
    assert source.names[0].endswith("caf\\xe9/\\xff.jpg")
    assert contents(source) == [b"caf\xe9/\xff.jpg", b"tea/x.jpg"]
    make_tree(tmp_path, b"caf\\xe9/1.jpg")  # looks alike as text
    with pytest.raises(ValueError, match="same name when written as text"):
        load_source(tmp_path, "all")


def test_relative_folder_is_read_after_the_working_directory_changed(tmp_path, monkeypatch):
    make_tree(tmp_path, "photos/a/1.jpg", "photos/b/2.jpg", "other/")
    monkeypatch.chdir(tmp_path)
    source = load_source("photos", "all")
    monkeypatch.chdir("other")
    assert source.names == ("photos/a/1.jpg", "photos/b/2.jpg")
    assert contents(source) == [b"photos/a/1.jpg", b"photos/b/2.jpg"]


def test_links_are_followed(tmp_path):
    make_tree(tmp_path, "elsewhere/1.jpg", "elsewhere/in/2.jpg", "photos/b/3.jpg")
    (tmp_path / "photos/a").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "photos/b/again").symlink_to(tmp_path / "elsewhere/in")
    source = load_source(tmp_path / "photos", "all")
    assert relative_names(source, tmp_path / "photos") == [
        *("a/1.jpg", "a/in/2.jpg", "b/3.jpg", "b/again/2.jpg"),
    ]
    (tmp_path / "photos/c").symlink_to(tmp_path / "gone")  # is no silent loss
    with pytest.raises(ValueError, match="lead nowhere: 'c'"):
        load_source(tmp_path / "photos", "all")


@pytest.mark.parametrize("target", ["photos", "photos/a", "photos/a/deep/loop"])
def test_link_loop_is_reported_by_its_name(tmp_path, target):
    make_tree(tmp_path, "photos/a/deep/1.jpg", "photos/b/2.jpg")
    (tmp_path / "photos/a/deep/loop").symlink_to(tmp_path / target)
    with pytest.raises(ValueError, match=r"link '.*/photos/a/deep/loop' leads"):
        load_source(tmp_path / "photos", "all")


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["only.txt"], "has no class folders"),
        (["1.jpg", "2.jpg"], "but no class folders: '1.jpg', '2.jpg'.*give the folder above"),
        (["train/a/1.jpg", "val/1.jpg"], "val' holds pictures next to the class folders"),
        (["a/1.jpg"], "only one class: 'a'"),
        (["train/pets/a/1", "train/pets/b/1"], "one class: 'pets'.* folders in it are"),
        (["train/images/1.jpg"], "only one class: 'images'"),
        (["train/images/1.jpg", "train/labels/1.txt"], "folders 'images', 'labels', as data for "),
        (["JPEGImages/1.jpg", "Annotations/1.xml"], "folders 'Annotations', 'JPEGImages', as data"),
        (["images/train/1.jpg", "labels/train/1.txt"], "'images', 'labels', as data for"),
        (["train/img/1.jpg", "train/masks/1.png", "val/img/1.jpg"], "'img', 'masks', as data for"),
        (["a/1.jpg", "b/", "c/.x"], "without a picture in .*: 'b', 'c'"),
        (
            ["a/1.jpg", "b/1.jpg", "lost.PNG", "notes.txt"],
            "pictures next to the class folders: 'lost.PNG'",
        ),
        (["a/1.jpg", "b/1.jpg", "1.HEIF", "2.dng", "3.jxl"], ": '1.HEIF', '2.dng', '3.jxl'"),
        (["train/a/1.jpg", "train/b/1.jpg", "lost.jpeg"], "next to the split folders: 'lost.jpeg'"),
        (["train/a/1.jpg", "train/b/1.jpg", "train/lost.gif"], "next to the class folders"),
        (
            ["train/a/1.jpg", "val/a/1.jpg", "valid/a/1.jpg"],
            "two folders for the validation split: 'val' and 'valid'",
        ),
        (["train/1.jpg", "test/1.jpg"], "folders of splits, 'test', 'train', but not all have"),
        (["Learn/a/1", "Learn/b/1", "Check/a/1", "Check/b/1"], "'Check', 'Learn' .*: 'a', 'b'"),
        (["cat/train/1", "cat/val/1", "dog/1.jpg"], "splits in the folder 'cat': .*/train/cat'"),
        (["zip/Train/a/1", "zip/Test/a/1"], "splits in the folder 'zip': 'Test', .*give .*/zip'"),
        (["train/a/1.jpg", "train/b/1.jpg", "extra/c/1.jpg"], "'extra' is not the name of a split"),
        (["train/a/1.jpg", "train/b/1.jpg", "test/c/1.jpg"], "'test' that 'train' does not .*'c'"),
    ],
)
def test_folder_errors(tmp_path, files, message):
    make_tree(tmp_path, *files)
    with pytest.raises(ValueError, match=message):
        load_source(tmp_path, "all")


def test_specs_that_are_nothing(tmp_path):
    file = tmp_path / "table.csv"
    file.touch()
    for spec, message in (
        (f"{tmp_path}/gone", r"no folder '.*gone'"),
        (f"csv:{tmp_path}/gone.csv", r"no file '.*gone.csv'"),
        (f"tfrecord:{tmp_path}/*.tfrecord", r"No file is called '.*/\*\.tfrecord'"),
        (f"tfrecord:{tmp_path}", "has no TFRecord files"),
    ):
        with pytest.raises(FileNotFoundError, match=message):
            load_source(spec)
    for spec, message in (
        (file, r"not a folder.* 'csv:.*table.csv'"),
        (f"csv:{tmp_path}", r"is a folder.* leave out 'csv:'"),
        ("zip:pictures", r"kind of source 'zip:'.*'csv:FILE', 'tfds:NAME'"),
        ("csv:", "does not name any data"),
        ("tfrecord:", "does not name any data"),
        ("a\0b", "cannot have a NUL"),
        ("tfrecord:a\0b", "cannot have a NUL"),
    ):
        with pytest.raises(ValueError, match=message):
            load_source(spec)
    with pytest.raises(ValueError, match=r"one of 'train', 'validation', 'test', 'all'.*'valid'"):
        load_source("digits", "valid")


# Splits


SPLITS_IN_THE_WILD = [  # for training, for test
    *(("Training", "Testing"), ("Training", "Test"), ("TRAIN", "TEST"), ("seg_train", "seg_test")),
    *(("train_images", "test_images"), ("train2017", "test2017"), ("trainset", "testset")),
    *(("training_set", "test_set"), ("TrainData", "TestData"), ("train-data", "hold-out")),
    *(("flowers102_train", "flowers102_test"), ("seg_train/seg_train", "seg_test/seg_test")),
    *(("asl_train/asl_train", "asl_test/asl_test"), ("Images Train", "Images Holdout")),
]


@pytest.mark.parametrize(("training", "test"), SPLITS_IN_THE_WILD)
def test_names_of_splits_in_the_wild(tmp_path, training, test):
    skipped = (
        *("__MACOSX/train/a/._1.jpg", "lost+found/", "@eaDir/1.jpg", ".ipynb_checkpoints/1.jpg"),
        *("$RECYCLE.BIN/a/1.jpg", "System Volume Information/x", "Thumbs.db"),
        *(f"{training}/a/@eaDir/1.jpg", f"{training}/lost+found/1.jpg"),
    )
    make_tree(tmp_path, *numbered(f"{training}/a", 2), f"{training}/b/1.jpg", f"{test}/b/1.jpg")
    make_tree(tmp_path, *skipped)
    source, judged = load_source(tmp_path, "all"), load_source(tmp_path, "test")
    assert source.class_names == judged.class_names == ("a", "b")
    assert contents(judged) == [f"{test}/b/1.jpg".encode()]
    assert source.class_counts().tolist() == [2, 2]
    assert not source.notes


@pytest.mark.parametrize(
    "name",
    [
        *("validation", "valid", "val_images", "ValSet", "validation_set", "dev", "eval"),
        *("dev-data", "Evaluation", "valset", "val 2"),
    ],
)
def test_names_of_validation_splits(tmp_path, name):
    make_tree(tmp_path, "train/a/1.jpg", "train/b/1.jpg", f"{name}/a/1.jpg")
    assert contents(load_source(tmp_path, "validation")) == [f"{name}/a/1.jpg".encode()]


@pytest.mark.parametrize(
    ("files", "classes"),
    [
        (["bullet_train/1/a", "steam_train/1/a"], ("bullet_train", "steam_train")),
        (["test_tube/a", "train_station/b", "valve/c"], ("test_tube", "train_station", "valve")),
        (["valid/a", "invalid/b"], ("invalid", "valid")),
        # Every class of Tiny ImageNet has a folder of this name.
        (["cat/images/a", "dog/images/b"], ("cat", "dog")),
        (["cat/1.jpg", "cat/old/2", "cat/new/3", "dog/1.jpg", "dog/old/2"], ("cat", "dog")),
        (
            [f"bird {n:02d}/{sex}/1" for n in range(12) for sex in ("male", "female")],
            tuple(f"bird {n:02d}" for n in range(12)),
        ),
    ],
)
def test_classes_that_are_no_splits(tmp_path, files, classes):
    make_tree(tmp_path, *files)
    source = load_source(tmp_path, "all")
    assert source.class_names == classes
    assert source.num_examples == len(files)


@pytest.mark.parametrize(
    "folder",
    [
        *("Test", "seg_pred/seg_pred", "unlabeled", "test/images", "test/unknown", "test/test"),
        *("test/test/JPEGImages", "test/unlabelled", "test/no_label", "test/image_files_01"),
    ],
)
def test_pictures_without_labels_are_not_used(tmp_path, folder):
    make_tree(tmp_path, "train/a/1.jpg", "train/b/2.jpg", f"{folder}/3.jpg")
    source, place = load_source(tmp_path, "all"), tmp_path / folder.split("/")[0]
    assert contents(source) == [b"train/a/1.jpg", b"train/b/2.jpg"]
    said = f"note: '{place}' has no class folders, so its pictures are not used."
    assert source.notes == (said,)
    with pytest.raises(ValueError, match=r"no split 'test'. It has: train, validation, all"):
        load_source(tmp_path, "test")


def test_folders_of_pictures_without_labels_may_be_divided(tmp_path):
    make_tree(tmp_path, "train/a/1.jpg", "train/b/2.jpg", "unlabeled/a/3.jpg", "unlabeled/c/4.jpg")
    source = load_source(tmp_path, "all")
    assert contents(source) == [b"train/a/1.jpg", b"train/b/2.jpg"]
    (note,) = source.notes
    assert note.endswith(
        "unlabeled' is named as pictures without labels, so its pictures are not used."
    )


def test_classes_one_folder_deeper(tmp_path):
    make_tree(tmp_path, "train/images/cat/1.jpg", "train/images/dog/2.jpg", "test/data/dog/3.jpg")
    make_tree(tmp_path, "train/readme.txt", "val/cat/4.jpg")
    found = [load_source(tmp_path, split) for split in ("train", "validation", "test")]
    assert [source.labels.tolist() for source in found] == [[0, 1], [0], [1]]
    assert all(source.class_names == ("cat", "dog") for source in found)
    assert not found[0].notes


def test_a_class_may_be_called_unknown(tmp_path):
    make_tree(tmp_path, "train/a/1.jpg", "train/unknown/2.jpg", "test/unknown/3.jpg")
    assert contents(load_source(tmp_path, "test")) == [b"test/unknown/3.jpg"]
    make_tree(tmp_path, "alone/test/unknown/4.jpg")  # nothing says which classes there are
    named = load_source(tmp_path / "alone", "test", class_names=["a", "unknown"])
    assert named.labels.tolist() == [1]


def test_notes_are_said_before_a_training_and_when_packing(tmp_path, caplog):
    parts = ("train/a", "train/A", "test")
    write_files(tmp_path / "in", {f"{part}/{n}.png": png(n) for part in parts for n in range(2)})
    data, lines = TrainingData(str(tmp_path / "in"), validation_fraction=0.5, scan=False), []
    data.prepare(data.load(0), lines.append)
    assert [line.split("'")[0] for line in lines[:2]] == [
        *("note: ", "warning: These are several classes, but look like one: "),
    ]
    assert pack(tmp_path / "in", tmp_path / "packed").num_examples("train") == 4
    assert [record.getMessage() for record in caplog.records] == lines[:2]


@pytest.mark.parametrize("name", ["val", "valid", "validation", "Val"])
def test_split_folder(tmp_path, name):
    make_tree(
        tmp_path,
        *("train/a/1.jpg", "train/b/2.jpg", "train/c/3.jpg", f"{name}/b/4.jpg", "test/a/5.jpg"),
        *("test/c/6.jpg", "annotations/a.xml"),
    )
    found = {split: load_source(tmp_path, split) for split in ("train", "validation", "test")}
    assert {split: contents(source) for split, source in found.items()} == {
        "train": [b"train/a/1.jpg", b"train/b/2.jpg", b"train/c/3.jpg"],
        "validation": [f"{name}/b/4.jpg".encode()],
        "test": [b"test/a/5.jpg", b"test/c/6.jpg"],
    }
    assert all(source.class_names == ("a", "b", "c") for source in found.values())
    assert [source.labels.tolist() for source in found.values()] == [[0, 1, 2], [1], [0, 2]]
    everything = load_source(tmp_path, "all")
    assert contents(everything) == [*chain.from_iterable(map(contents, found.values()))]
    assert everything.labels.tolist() == [0, 1, 2, 1, 0, 2]
    with pytest.raises(ValueError, match="validation pictures of its own"):
        load_source(tmp_path, "train", validation_fraction=0.5)


def test_train_is_a_class_where_pictures_lie_right_in_it(tmp_path):
    make_tree(tmp_path, "train/1.jpg", "plane/2.jpg")
    assert load_source(tmp_path, "all").class_names == ("plane", "train")


@pytest.mark.parametrize(
    ("prefix", "fraction", "held_back"),
    [("", None, [4, 2]), ("train/", None, [2, 1]), ("", 0.5, [10, 5]), ("train/", 0.25, [5, 3])],
)
def test_validation_is_carved_stratified_disjoint_and_complete(
    tmp_path, prefix, fraction, held_back
):
    # 20 and 10 pictures; 0.2 of one pile and 0.1 of a train folder unless said otherwise. A
    # quarter of 30 is 7.5, rounded to 8; 5 + 2.5 leaves the eighth to the class with the rest.
    files = [*numbered(f"{prefix}a", 20), *numbered(f"{prefix}b", 10)]
    make_tree(tmp_path, *files, *([f"{prefix}../test/a/1.jpg"] if prefix else []))
    train, validation, same, other = (
        load_source(tmp_path, split, validation_fraction=fraction, seed=seed)
        for split, seed in (("train", 3), ("validation", 3), ("validation", 3), ("validation", 4))
    )
    assert validation.class_counts().tolist() == held_back
    assert train.class_counts().tolist() == [20 - held_back[0], 10 - held_back[1]]
    assert sorted(contents(train) + contents(validation)) == sorted(map(str.encode, files))
    assert same.names == validation.names
    assert other.names != validation.names
    # Another order of the names is another order of the labels, not other pictures.
    turned = load_source(
        tmp_path, "validation", class_names=["b", "a"], validation_fraction=fraction, seed=3
    )
    assert turned.names == validation.names
    assert turned.labels.tolist() == [1 - label for label in validation.labels]


def test_missing_split_names_those_there_are(tmp_path):
    make_tree(tmp_path / "flat", "a/1.jpg", "b/1.jpg")
    make_tree(tmp_path / "divided", "train/a/1.jpg", "train/b/1.jpg")
    make_tree(tmp_path / "tests", "test/a/1.jpg", "test/b/1.jpg")
    for name, split, there in (
        ("flat", "test", "train, validation, all"),
        ("divided", "test", "train, validation, all"),
        ("tests", "train", "test, all"),
    ):
        with pytest.raises(ValueError, match=f"has no split '{split}'. It has: {there}"):
            load_source(tmp_path / name, split)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [({"validation_fraction": wrong}, "between 0 and 1") for wrong in (0, 1, 1.5, np.nan, True)]
    + [({"seed": wrong}, "`seed` must be an integer of at least 0") for wrong in (-1, 0.5, True)]
    + [
        ({"class_names": wrong}, "class_names must be")
        for wrong in ("cat", [], ["cat", "dog", "cat"], [1, 2])
    ],
)
def test_arguments_that_cannot_be(arguments, message):
    with pytest.raises(ValueError, match=message):
        load_source("digits", **arguments)


@pytest.mark.parametrize(("fraction", "limit"), [(0.1, 0.230770), (0.9, 0.769230)])
def test_every_class_stands_on_both_sides_or_the_limit_is_said(tmp_path, fraction, limit):
    # 3 classes, 13 pictures: 3 / 13 = 0.2307692... and 10 / 13 = 0.7692307..., rounded inwards.
    make_tree(tmp_path, *numbered("a", 9), *numbered("b", 2), *numbered("c", 2))
    with pytest.raises(ValueError, match=r"must be 0\.23077 to 0\.76923 here"):
        load_source(tmp_path, validation_fraction=fraction)
    for split in ("train", "validation"):
        source = load_source(tmp_path, split, validation_fraction=limit)
        assert source.class_counts().min() >= 1
    make_tree(tmp_path, "d/1.jpg", "e/1.jpg")
    with pytest.raises(ValueError, match=r"Classes with only one picture .*'d', 'e'"):
        load_source(tmp_path, validation_fraction=limit)


# Class names


def test_class_names_of_a_run(tmp_path):
    make_tree(tmp_path, "cat/1.jpg", "dog/2.jpg", "dog/3.jpg")
    source = load_source(tmp_path, "all", class_names=("dog", "emu", "cat"))
    assert source.class_names == ("dog", "emu", "cat")
    assert source.labels.tolist() == [2, 0, 0]
    assert source.class_counts().tolist() == [2, 0, 1]
    with pytest.raises(ValueError, match=r"classes .*\n  'dog': .*dog/2.jpg, .*dog/3.jpg") as error:
        load_source(tmp_path, "all", class_names=("cat", "emu"))
    assert "'cat': " not in str(error.value)
    shutil.rmtree(tmp_path / "dog")  # one class is enough to evaluate
    assert load_source(tmp_path, "all", class_names=["cat", "dog"]).labels.tolist() == [0]


def test_class_names_are_compared_in_nfc(tmp_path):
    # "é" as one character and as two: macOS writes the second.
    make_tree(tmp_path, "train/caf\u00e9/1.jpg", "train/cafe\u0301/2.jpg", "train/tea/3.jpg")
    make_tree(tmp_path, "test/cafe\u0301/4.jpg")
    train, test = (load_source(tmp_path, split) for split in ("all", "test"))
    assert train.class_names == test.class_names == ("caf\u00e9", "tea")
    assert sorted(zip(contents(train), train.labels.tolist(), strict=True))[-1][1] == 1
    assert train.class_counts().tolist() == [3, 1]
    named = load_source(tmp_path, "test", class_names=["tea", "cafe\u0301"])
    assert (named.labels.tolist(), named.class_names) == ([1], ("tea", "caf\u00e9"))
    assert not named.notes
    with pytest.raises(ValueError, match="repeated"):
        load_source(tmp_path, "test", class_names=["cafe\u0301", "caf\u00e9", "tea"])


@pytest.mark.parametrize(
    ("first", "second"),
    [
        *(("cat", "Cat"), ("cat", "cat "), ("a b", "a\xa0b"), ("0", "0.0"), ("1", "01")),
        *(
            ("ss", "\xdf"),
            ("\u2764", "\u2764\ufe0f"),
            ("cat", "ca\u034ft"),
            ("\xe9", "e\u034f\u0301"),
        ),
        *(("t-shirt", "t\u2013shirt"), ("ice cream", "ice_cream"), ("ice-cream", "ice - Cream")),
        ("-1", "\u22121.0"),
    ],
)
def test_names_that_look_like_one_class_are_said(tmp_path, first, second):
    make_tree(tmp_path, f"{first}/1.jpg", f"{second}/2.jpg", "other/3.jpg")
    source = load_source(tmp_path, "all")
    (note,) = source.notes
    assert note.startswith("warning: ")
    assert {repr(first), repr(second)} <= set(note.split(": ")[2].split(". If")[0].split(" and "))
    assert source.subset([0]).notes == source.notes
    hint = re.escape(f"{second!r} (is it {first!r}?): {tmp_path}/{second}/2.jpg")
    with pytest.raises(ValueError, match=hint):
        load_source(tmp_path, "all", class_names=[first, "other"])


def test_names_that_do_not_look_like_one_class(tmp_path):
    names = ("11", "1_1", "-1", "1", "A", "A-", "A+", "t-shirt", "tshirt", "1_", "nan", "inf")
    make_tree(tmp_path, *(f"{name}/1.jpg" for name in names))
    assert not load_source(tmp_path, "all").notes


# Digits, order, subsets


def test_digits_are_the_pictures_of_scikit_learn():
    source = load_source("digits", "all")
    digits = load_digits()
    assert source.num_examples == 1797
    assert source.class_names == tuple("0123456789")
    assert source.labels.tolist() == digits.target.tolist()
    assert not source.horizontal_flip
    data, label, index = next(iter(source.subset([1234]).dataset().as_numpy_iterator()))
    picture = np.asarray(Image.open(io.BytesIO(data)))
    # 0..16 becomes 0..255: an exact round trip says that no level is lost.
    np.testing.assert_array_equal(np.round(picture / 255 * 16), digits.images[1234])
    assert picture.max() == 255
    assert (label, index) == (digits.target[1234], 0)


def test_shuffle_is_a_full_permutation_of_seed_and_epoch():
    source = load_source("digits", "validation")
    in_order = list(source.dataset().as_numpy_iterator())
    assert [index for _, _, index in in_order] == list(range(359))  # 0.2 * 1797 = 359.4
    orders = [
        source.order(shuffle=True, seed=seed, epoch=epoch).tolist()
        for seed, epoch in ((0, 0), (0, 1), (1, 0), (0, 1))
    ]
    assert all(sorted(order) == list(range(359)) for order in orders)
    assert len(set(map(tuple, orders))) == 3
    assert orders[1] == orders[3]
    dataset = source.dataset(shuffle=True, epoch=1)
    assert list(dataset.as_numpy_iterator()) == [in_order[index] for index in orders[1]]
    assert dataset.cardinality() == 359
    assert [spec.dtype.name for spec in dataset.element_spec] == ["string", "int64", "int64"]
    assert all(spec.shape == () for spec in dataset.element_spec)
    with pytest.raises(ValueError, match=r"`epoch` must be an integer of at least 0.*-1"):
        source.dataset(shuffle=True, epoch=-1)


def test_subset_of_a_subset_keeps_bytes_labels_and_names_together():
    source = load_source("digits", "all").subset(range(10))
    part = source.subset([9, 5, 7]).subset(np.array([2, 0]))
    assert part.names == (source.names[7], source.names[9])
    assert part.labels.tolist() == source.labels[[7, 9]].tolist()
    everything = contents(source)
    assert contents(part) == [everything[7], everything[9]]
    for wrong in ([], [10], [-1], [0.5], [[1]]):
        with pytest.raises(ValueError, match=r"[Ss]ubset"):
            source.subset(wrong)


def test_stratified_subset(tmp_path):
    make_tree(tmp_path, *numbered("a", 60), *numbered("b", 30), *numbered("c", 2))
    source = load_source(tmp_path, "all")
    # 20 / 92 of 60, 30, 2 are 13.04, 6.52, 0.43: floors, at least one each, make 20.
    part = source.stratified_subset(20, seed=1)
    assert part.class_counts().tolist() == [13, 6, 1]
    assert len(set(part.names)) == 20
    assert part.names == source.stratified_subset(20, seed=1).names
    assert part.names != source.stratified_subset(20, seed=2).names
    assert source.stratified_subset(3).class_counts().tolist() == [1, 1, 1]
    assert source.stratified_subset(92).names == source.names
    for wrong in (2, 93, 20.5):
        with pytest.raises(ValueError, match=rf"can have 3 .* to 92 pictures .*Received: {wrong}"):
            source.stratified_subset(wrong)


# Parts for several workers


@pytest.fixture(scope="module")
def in_memory():
    return load_source("digits", "all").stratified_subset(101)


@pytest.fixture(scope="module")
def in_records(in_memory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "digits"
    pack(in_memory, folder, shards=3)
    return load_source(f"tfrecord:{folder}", "all")


@pytest.fixture(params=["in_memory", "in_records"])
def source(request, small_windows):
    return request.getfixturevalue(request.param)


def test_parts_in_order_are_disjoint_and_complete(source):
    for count in (1, 2, 3, 7, 102):
        parts = [source.order(shard=(index, count)).tolist() for index in range(count)]
        assert sorted(chain.from_iterable(parts)) == list(range(101))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(found == sorted(found) for found in parts)


def test_shuffled_parts_are_disjoint_and_equally_long(source):
    for count in (1, 2, 3, 7):
        parts = [
            source.order(shuffle=True, epoch=2, shard=(index, count)).tolist()
            for index in range(count)
        ]
        assert [len(found) for found in parts] == [101 // count] * count
        assert len(set(chain.from_iterable(parts))) == 101 // count * count
        last = {"shuffle": True, "shard": (count - 1, count)}
        assert source.order(epoch=2, **last).tolist() == parts[-1]
        assert source.order(epoch=3, **last).tolist() != parts[-1]
    with pytest.raises(ValueError, match="101 pictures are too few for 102 workers"):
        source.dataset(shuffle=True, shard=(0, 102))


def test_pictures_are_read_in_this_order(source, in_memory):
    order = source.order(shuffle=True, epoch=1, shard=(1, 3)).tolist()
    read = list(source.dataset(shuffle=True, epoch=1, shard=(1, 3)).as_numpy_iterator())
    assert [index for _, _, index in read] == order
    data = contents(in_memory)
    assert [data for data, _, _ in read] == [data[index] for index in order]
    assert [label for _, label, _ in read] == in_memory.labels[order].tolist()


def test_balanced_draws_have_every_class_equally_often(source):
    """Of the ten classes one has 2 pictures, one 5 and the others 10: 87, and 8 or 9 of each."""
    kept = [np.flatnonzero(source.labels == c)[: {0: 2, 1: 5}.get(c, 10)] for c in range(10)]
    uneven = source.subset(np.concatenate(kept))
    count = uneven.num_examples
    drawn = {"shuffle": True, "balanced": True, "epoch": 4}
    order = uneven.order(**drawn)
    positions, times = order % count, order // count
    assert len(set(order.tolist())) == len(order) == count
    shares = np.bincount(uneven.labels[positions])
    assert sorted(shares.tolist()) == [8] * 3 + [9] * 7
    # None comes for the second time before all of its class have come.
    for c in range(10):
        own = uneven.labels[positions] == c
        each = np.bincount(positions[own], minlength=count)[uneven.labels == c]
        assert each.max() - each.min() <= 1
        assert times[own].max() == each.max() - 1
    assert uneven.order(**drawn).tolist() == order.tolist()
    assert uneven.order(**drawn, seed=1).tolist() != order.tolist()
    parts = [uneven.order(**drawn, shard=(index, 2)) for index in range(2)]
    assert [len(part) for part in parts] == [43, 43]
    assert len(set(np.concatenate(parts).tolist()) & set(order.tolist())) == 86
    read = list(uneven.in_order(order).as_numpy_iterator())
    assert [number for _, _, number in read] == order.tolist()
    everything = contents(uneven)
    assert [data for data, _, _ in read] == [everything[position] for position in positions]
    assert [label for _, label, _ in read] == uneven.labels[positions].tolist()


def test_workers_see_together_the_batches_of_one_process(in_memory):
    alone = in_memory.order(shuffle=True, seed=1)
    parts = [in_memory.order(shuffle=True, seed=1, shard=(index, 4)) for index in range(4)]
    for batch in range(101 // 20):
        together = {index for found in parts for index in found[5 * batch : 5 * batch + 5]}
        assert together == set(alone[20 * batch : 20 * batch + 20])


def test_each_worker_reads_its_own_stretch_of_the_records(in_records):
    rows = in_records.rows
    parts = [in_records.store.order(np.sort(rows), None, (index, 4)) for index in range(4)]
    assert all((np.diff(found) == 1).all() for found in parts)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0.5, 2), (True, 2)])
def test_parts_that_are_none(in_memory, shard):
    with pytest.raises(ValueError, match="shard"):
        in_memory.dataset(shard=shard)
