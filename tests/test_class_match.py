"""Class folders found in the published lists, and counted where there is no list."""

import pytest
from helpers.picture_files import write_files

from keras_effnetv2.data.class_match import load_source_for, match_classes
from keras_effnetv2.data.sources import available_classes
from keras_effnetv2.pretrained.labels import class_list

IMAGENET = class_list(1000)


@pytest.mark.parametrize(
    ("name", "wordnet_id"),
    [
        ("n01440764", "n01440764"),
        ("n01440764_tench", "n01440764"),
        ("n02085620-Chihuahua", "n02085620"),
        ("n03126707 the machine", "n03126707"),  # "crane" alone could be the bird
        ("tench", "n01440764"),
        ("African elephant", "n02504458"),
        ("African_elephant", "n02504458"),
        ("Cardigan", "n02113186"),  # the dog; the lower case is a jacket
        ("cardigan", "n02963159"),
    ],
)
def test_names_that_are_understood(name, wordnet_id):
    (position,) = match_classes([name], IMAGENET)
    assert IMAGENET[position].wordnet_id == wordnet_id


def test_every_name_that_is_not_shared_is_found():
    names = [label.name for label in IMAGENET]
    single = [name for name in names if names.count(name) == 1]
    assert len(single) == 996
    assert match_classes(single, IMAGENET) == tuple(map(names.index, single))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["tench", "cat", "unicorn"], "2 of 3 classes are not .* 1000 .*: 'cat', 'unicorn'. .*id"),
        (["0"], "'n01440764', 'n01440764_tench' or 'tench'"),
        (["n014407640"], "not among"),
        (["n00004475"], "not among"),  # of ImageNet-21k alone
        (["crane"], "2 classes .* 'crane': n02012849, n03126707. Use the id of the right one"),
        (["tench", "n01440764"], "'tench' and 'n01440764' are one class of the network, n01440764"),
    ],
)
def test_names_that_are_not(names, message):
    with pytest.raises(ValueError, match=message):
        match_classes(names, IMAGENET)


@pytest.mark.parametrize("classes", [1000, 21843])
def test_a_part_of_the_published_classes_in_a_folder(tmp_path, classes):
    files = ("n02504458_elephant/1.png", "n02504458_elephant/2.png", "great white shark/1.png")
    source = load_source_for(write_files(tmp_path, dict.fromkeys(files, b"")), "all", classes)
    names = [label.name for label in class_list(classes)]
    assert source.labels.tolist() == [
        names.index("great_white_shark"),
        *[names.index("African_elephant")] * 2,
    ]
    assert len(source.class_names) == classes
    assert source.class_names[names.index("African_elephant")] == "n02504458_elephant"
    assert source.class_names[names.index("goldfish")] == "n01443537"


def test_one_class_in_a_table_is_enough(tmp_path):
    (tmp_path / "pictures.csv").write_text("path,label\n1.png,goldfish\n")
    source = load_source_for(f"csv:{tmp_path / 'pictures.csv'}", "all", 1000)
    assert source.labels.tolist() == [1]


def test_unlisted_widths_take_as_many_classes_by_name(tmp_path):
    folder = write_files(tmp_path, dict.fromkeys(("tench/1", "cat/1", "cat/2", "ape/1"), b""))
    source = load_source_for(folder, "all", 3)
    assert source.class_names == ("ape", "cat", "tench")
    assert source.labels.tolist() == [0, 1, 1, 2]
    message = r"The network has 4 classes, .* has 3: 'ape', 'cat', 'tench'\. .* exactly as many"
    with pytest.raises(ValueError, match=message):
        load_source_for(folder, "all", 4)


def test_classes_of_all_splits_are_listed_once(tmp_path):
    write_files(tmp_path, dict.fromkeys(("train/a/1", "train/b/1", "val/b/1", "val/c/1"), b""))
    assert available_classes(tmp_path) == ("a", "b", "c")
