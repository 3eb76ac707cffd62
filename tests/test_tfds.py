"""tfds:NAME with small data sets that are prepared in a temporary folder, without network."""

import io
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from helpers.picture_files import png
from PIL import Image

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.tfds import MAX_ENCODED_BYTES

tfds = pytest.importorskip("tensorflow_datasets")

# Not in alphabetical order: the data set's own order has to stay.
CLASS_NAMES = ("red", "green", "blue")


class KevColours(tfds.core.GeneratorBasedBuilder):
    """Twenty training pictures and six test pictures, each with its number in the red channel."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        features = {
            "picture": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
            "kind": tfds.features.ClassLabel(names=list(CLASS_NAMES)),
        }
        return tfds.core.DatasetInfo(builder=self, features=tfds.features.FeaturesDict(features))

    def _split_generators(self, dl_manager):
        return {"train": self._generate_examples(20), "test": self._generate_examples(6)}

    def _generate_examples(self, count):
        for index in range(count):
            yield index, {"picture": io.BytesIO(png(index)), "kind": index % 3}


class KevWords(KevColours):
    """A set without pictures."""

    def _info(self):
        features = tfds.features.FeaturesDict({"text": tfds.features.Text()})
        return tfds.core.DatasetInfo(builder=self, features=features)

    def _generate_examples(self, count):
        yield 0, {"text": "word"}


class KevHeldBack(KevColours):
    """A set whose publisher keeps the labels of its pictures."""

    def _generate_examples(self, count):
        yield 0, {"picture": io.BytesIO(png(0)), "kind": -1}


class KevUndivided(KevColours):
    """A set whose only split has a name of its own."""

    def _split_generators(self, dl_manager):
        return {"everything": self._generate_examples(3)}


class KevUnreachable(KevColours):
    """A set whose pictures cannot be fetched."""

    def _split_generators(self, dl_manager):
        raise ConnectionError("no route to host")


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tfds")
    for builder in (KevColours, KevWords, KevHeldBack, KevUndivided):
        builder(data_dir=str(folder)).download_and_prepare()
    return str(folder)


@pytest.fixture
def data_dir(prepared, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", prepared)
    return prepared


def test_given_split_has_the_encoded_bytes_of_the_set(data_dir):
    source = load_source("tfds:kev_colours:1.0.0", "test")
    assert source.class_names == CLASS_NAMES
    examples = list(source.dataset().as_numpy_iterator())
    assert source.num_examples == len(examples) == 6
    assert {data for data, _, _ in examples} == {png(index) for index in range(6)}
    for data, label, _ in examples:
        assert label == np.asarray(Image.open(io.BytesIO(data)))[0, 0, 0] % 3
    assert source.names[5] == "kev_colours:1.0.0/test/000005"


def test_large_splits_are_read_from_their_files(data_dir, tmp_path, monkeypatch):
    in_memory = load_source("tfds:kev_colours", "all")
    folder = shutil.copytree(Path(data_dir, "kev_colours"), tmp_path / "kev_colours")
    (described,) = folder.rglob("dataset_info.json")
    info = json.loads(described.read_text())
    for split in info["splits"]:
        split["numBytes"] = str(MAX_ENCODED_BYTES + 1)  # which it is said to have
    described.write_text(json.dumps(info))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    source = load_source("tfds:kev_colours", "all")
    assert source.class_names == CLASS_NAMES
    examples = list(source.dataset().as_numpy_iterator())
    assert examples == list(in_memory.dataset().as_numpy_iterator())
    assert source.names[0] == "kev_colours-train.tfrecord-00000-of-00001#0"


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        ("kev_words", ValueError, r"expected one feature Image, found 0.* text \(Text\)"),
        ("kev_held_back", ValueError, "'train' has pictures without a label"),
        ("kev_undivided", ValueError, r"none of the splits train, .* It has: everything"),
        ("kev_no_such_set", ValueError, r"cannot open 'kev_no_such_set': .*not found"),
        ("kev_colours:9.9.9", ValueError, r"cannot open 'kev_colours:9.9.9'"),
        ("kev_unreachable", FileNotFoundError, r"not prepared in .*ConnectionError: no route"),
    ],
)
def test_sets_that_do_not_work_give_one_clear_line(data_dir, name, kind, message):
    with pytest.raises(kind, match=message) as error:
        load_source(f"tfds:{name}", "all")
    assert "\n" not in str(error.value)


def test_missing_package_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", None)
    with pytest.raises(ImportError, match=r'pip install "keras-effnetv2\[datasets\]"'):
        load_source("tfds:kev_colours")
