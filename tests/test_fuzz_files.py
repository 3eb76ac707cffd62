"""Damaged weight files of every source: a load that is whole, or one clean error.

A changed number inside a tensor is a number all the same: without a hash of the file nobody can
tell (the registry's files have one, and TensorFlow's checkpoints a checksum a tensor). So of a load
that goes well only this is asked: every weight was set, to finite values.
"""

import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from helpers import source_files
from hypothesis import given, settings, strategies as st

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained import checkpoint
from keras_effnetv2.pretrained.load import load_weights

# 1,800 files are read; with fewer a source the parts of a file that matter would hardly be met.
pytestmark = pytest.mark.slow

MICRO = ModelConfig(
    "micro", decode_stages(["r1_k3_s1_e1_i4_o4_c1", "r1_k3_s2_e2_i4_o4_se0.5"]), head_filters=4
)
UNTOUCHED = 7.5  # in every weight before a load; no weight of the files has this value

# Where a change goes: near the beginning and the end, where formats keep what they need to be read,
# or anywhere.
_PLACES = st.one_of(st.integers(0, 300), st.integers(-300, -1), st.floats(0, 1, exclude_max=True))
_CHANGES = st.one_of(
    st.tuples(st.just("set"), _PLACES, st.binary(min_size=1, max_size=1)),
    st.tuples(
        st.just("set"),
        _PLACES,
        st.sampled_from([b"\0" * 8, b"\xff" * 8, b"\xff" * 7 + b"\x7f", b"\x01\0\0\0\0\0\0\0"]),
    ),
    st.tuples(st.just("flip"), _PLACES, st.integers(0, 7)),
    st.tuples(st.just("insert"), _PLACES, st.binary(min_size=1, max_size=9)),
    st.tuples(st.just("delete"), _PLACES, st.integers(1, 40)),
    st.tuples(st.just("cut"), _PLACES, st.none()),
    st.tuples(st.just("copy"), _PLACES, _PLACES),
)
_CHANGE_LISTS = st.lists(_CHANGES, min_size=1, max_size=4)


def fuzz(examples):
    """Runs a test with that many lists of changes, the same ones every time."""

    def decorate(test):
        fixed = settings(max_examples=examples, derandomize=True, deadline=None, database=None)
        return fixed(given(changes=_CHANGE_LISTS)(test))

    return decorate


def changed(data, changes):
    data = bytearray(data)
    for kind, place, detail in changes:
        at = position(data, place)
        if kind == "set":
            data[at : at + len(detail)] = detail
        elif kind == "flip" and data:
            data[at] ^= 1 << detail
        elif kind == "insert":
            data[at:at] = detail
        elif kind == "delete":
            del data[at : at + detail]
        elif kind == "cut":
            del data[at:]
        elif kind == "copy":
            start = position(data, detail)
            data[at : at + 16] = data[start : start + 16]
    return bytes(data)


def position(data, place):
    if isinstance(place, float):
        return int(place * len(data))
    return max(0, min(place % len(data), len(data) - 1)) if data else 0


class Subject:
    """A small model, and a whole file of every source for it."""

    def __init__(self, folder):
        self.folder = folder
        self.model = build_model(MICRO, classes=3)
        self.untouched = False
        self.files = source_files.write_all(folder, self.model)
        self.files["official tgz"] = folder / "net.tgz"
        with tarfile.open(self.files["official tgz"], "w:gz") as tar:
            tar.add(self.files["official"], "net")

    def reset(self, value):
        for weight in self.model.weights:
            weight.assign(np.full(weight.shape, value, "float32"))

    def check(self, path):
        """Loads a file, and asserts that the model then is as the module says."""
        if not self.untouched:
            self.reset(UNTOUCHED)
        try:
            load_weights(self.model, path)
            self.untouched = False
        except ValueError:  # and nothing else
            self.untouched = True
        for weight in self.model.weights:
            value = weight.numpy()
            if not self.untouched:
                assert np.all(np.isfinite(value))
                assert not np.all(value == UNTOUCHED), weight.path
            else:
                np.testing.assert_array_equal(value, UNTOUCHED, err_msg=weight.path)
        return not self.untouched


class Reader:
    """In place of `read_in_child`: a process that reads on, until a checkpoint ends it."""

    READ_ON = """
import sys
from keras_effnetv2.pretrained.checkpoint import read_with_tensorflow
for line in sys.stdin:
    try:
        read_with_tensorflow(*line.rstrip("\\n").split("\\t"))
        print("read", flush=True)
    except ValueError:
        print("refused", flush=True)
"""

    def __init__(self):
        self.process = None

    def __call__(self, prefix, target):
        if self.process is None:
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
            self.process = subprocess.Popen([sys.executable, "-c", self.READ_ON], **pipes)
        print(prefix, target, sep="\t", file=self.process.stdin, flush=True)
        answer = self.process.stdout.readline()
        if not answer:
            self.end()
        if answer != "read\n":
            raise ValueError("refused, or a crash")

    def end(self):
        if self.process is not None:
            self.process.communicate()
            self.process = None


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    reader = Reader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(checkpoint, "read_in_child", reader)
        yield Subject(tmp_path_factory.mktemp("files"))
    reader.end()


def test_whole_files_load(subject):
    for path in subject.files.values():
        assert subject.check(path)


def damage(subject, source, changes):
    whole = subject.files[source]
    path = subject.folder / f"damaged{''.join(whole.suffixes)}"
    path.write_bytes(changed(whole.read_bytes(), changes))
    subject.check(path)


KINDS = [
    "timm",
    "efficientnet-pytorch",
    "old form",
    "keras-applications",
    "leondgarse",
    "keras",
    "weights.h5",
]


@pytest.mark.parametrize("source", KINDS)
@fuzz(250)
def test_damaged_files(source, changes, subject):
    damage(subject, source, changes)


@fuzz(60)
def test_damaged_archives_of_checkpoints(changes, subject):
    damage(subject, "official tgz", changes)


@pytest.mark.parametrize("part", ["index", "data-00000-of-00001"])
@fuzz(40)
def test_damaged_checkpoints(part, changes, subject):
    folder = subject.folder / "damaged"
    shutil.copytree(subject.files["official"], folder, dirs_exist_ok=True)
    path = folder / f"model.{part}"
    path.write_bytes(changed(path.read_bytes(), changes))
    subject.check(folder)
