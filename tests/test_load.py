"""Strict loading: official checkpoints, Keras' own files, and what does not fit."""

import hashlib
import logging
import shutil
import tarfile

import h5py
import keras
import numpy as np
import pytest
from helpers import oracle, source_files
from helpers.source_files import AVERAGE, SMALL, assert_holds, values_for, write_checkpoint

from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.official import official_names
from keras_effnetv2.training.interruption import StopSignals
from keras_effnetv2.training.snapshots import Saving, Snapshots

pytestmark = pytest.mark.usefixtures("checkpoints_in_this_process")

VARIANTS = ("training", "published", "ema-only", "raw-only")
SOFT = {"classes": 7, "drop_path_rate": 0.0}


def checkpoint_tensors(model, variant, name="efficientnetv2-b0"):
    tensors = {"global_step": np.int64(3)}
    for theirs, value in values_for(model).items():
        if variant != "ema-only":
            raw = value if variant in ("raw-only", "published") else value + 1
            tensors[f"{name}/{theirs}"] = raw
        if variant != "raw-only":
            tensors[f"{name}/{theirs}{AVERAGE}"] = value
        if variant == "training" and "moving" not in theirs:
            tensors[f"{name}/{theirs}/RMSProp"] = value * 2
            tensors[f"{name}/{theirs}/RMSProp_1"] = value * 3
    return tensors


@pytest.fixture(scope="module")
def source():
    return build_model(SMALL, **SOFT)


@pytest.fixture(scope="module")
def network():
    return build_model(SMALL, **SOFT)


@pytest.fixture
def model(network):
    return source_files.reset(network)


@pytest.fixture
def folder(source, tmp_path):
    """A checkpoint of `source`."""
    return write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "published"))


@pytest.mark.parametrize("variant", VARIANTS)
def test_averages_are_preferred_in_every_kind_of_checkpoint(variant, source, model, tmp_path):
    folder = write_checkpoint(tmp_path / "ckpt", checkpoint_tensors(source, variant))
    report = load_weights(model, folder)
    assert_holds(model, values_for(source))
    assert (report.source, report.loaded) == ("official", len(model.weights))
    assert report.ignored["global_step"] == "step counter"
    assert len(set(report.ignored.values())) == {"training": 3, "published": 2}.get(variant, 1)


def test_prefix_and_archive(source, model, folder, tmp_path, caplog):
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as tar:
        tar.add(folder, "net")
    shutil.copy(tmp_path / "net.tgz", tmp_path / "named-otherwise")
    sha256 = hashlib.sha256((tmp_path / "net.tgz").read_bytes()).hexdigest()
    for path in (folder / "model", tmp_path / "named-otherwise", str(tmp_path / "net.tgz")):
        caplog.clear()
        load_weights(source_files.reset(model), path)
        assert_holds(model, values_for(source))
        # An archive has no published hash, so its own is shown.
        assert (f"sha256:{sha256}" in caplog.text) == (path != folder / "model")


def test_other_classes_start_a_fresh_head_and_say_so(source, folder, caplog):
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        model = build_model(SMALL, weights=str(folder), classes=3)
        assert build_model(SMALL, weights=str(folder)).output.shape[-1] == 7
    assert len(caplog.records) == 1
    text = caplog.records[0].getMessage()
    assert text.startswith(f"classifier: new, for 3 classes (that of {folder}")
    assert text.endswith("has 7); all other weights are loaded")
    expected = values_for(source) | {
        "head/dense/kernel": model.layers[-1].kernel.numpy(),
        "head/dense/bias": np.zeros(3),
    }
    assert_holds(model, expected)


# --- strictness ---------------------------------------------------------------------------------


@pytest.fixture(params=source_files.SOURCES)
def kind(request, source):
    """A source: its name, and a function from an official name to its name there."""
    layers = source_files.layers_for(request.param, source)

    def theirs(name):
        if request.param == "official":
            return name
        if request.param in source_files.OF_PYTORCH:
            layer, _, weight = name.rpartition("/")
            return f"{layers[layer]}.{source_files.TIMM_WEIGHTS[weight]}"
        return source_files.in_h5(layers, name)

    return request.param, layers, theirs


def assert_refused(model, path, *lines):
    """Loading fails with an error that has all the lines, and the model stays as it is."""
    before = [oracle.numpy(weight) for weight in model.weights]
    with pytest.raises(ValueError, match="Nothing was loaded") as error:
        load_weights(model, path)
    for line in lines:
        assert line in str(error.value)
    for old, new in zip(before, model.weights, strict=True):
        np.testing.assert_array_equal(old, oracle.numpy(new))


def test_every_kind_of_offender_is_listed_with_both_names(kind, source, model, tmp_path):
    name, layers, theirs = kind
    tensors = values_for(source)
    del tensors["stem/conv2d/kernel"]
    tensors["blocks_1/conv2d/kernel"] = np.zeros((3, 3, 8, 31), "float32")
    tensors["blocks_2/tpu_batch_normalization/beta"][0] = np.nan
    tensors["blocks_3/tpu_batch_normalization/gamma"][1] = np.inf
    tensors["head/conv2d/kernel"] = tensors["head/conv2d/kernel"].astype("int32")
    tensors["extra/conv2d/kernel"] = np.zeros((1, 1, 2, 2), "float32")
    extra = {"official": "extra/conv2d", "leondgarse": "stack_9_block9_x"}.get(name, "block9z_x")
    path = source_files.write(name, tmp_path / "net", tensors, layers | {"extra/conv2d": extra})
    is_of_pytorch = name in source_files.OF_PYTORCH
    there = "(31, 8, 3, 3)" if is_of_pytorch else "(3, 3, 8, 31)"
    ending = "/kernel" if name == "official" else ".weight" if is_of_pytorch else "/kernel:0"
    assert_refused(
        model,
        path,
        "6 problem(s)",
        f"missing: {theirs('stem/conv2d/kernel')} (our stem_conv/kernel, shape (3, 3, 3, 8))",
        f"shape: {theirs('blocks_1/conv2d/kernel')} is {there}, our block2a_expand_conv/kernel is "
        "(3, 3, 8, 32)",
        f"not finite: {theirs('blocks_2/tpu_batch_normalization/beta')} "
        "(our block2b_expand_bn/beta)",
        f"not finite: {theirs('blocks_3/tpu_batch_normalization/gamma')} (our block3a_expand_bn",
        f"not floating-point: {theirs('head/conv2d/kernel')} is int32 (our top_conv/kernel)",
        f"extra: {extra}{ending}, shape",
    )


def test_ten_offenders_are_listed_some_of_each_kind_and_the_others_counted(source, model, tmp_path):
    tensors = {f"net/{name}": np.append(v, v) for name, v in values_for(source).items()}
    for name in list(tensors)[-20:]:
        tensors[f"net/more/{name}"] = tensors.pop(name)
    with pytest.raises(ValueError, match="Nothing was loaded") as error:
        load_weights(model, write_checkpoint(tmp_path / "net", tensors))
    first, *lines, last, _ = str(error.value).splitlines()
    assert len(official_names(model)) == 74
    assert "94 problem(s)" in first
    kinds = [line.split()[0] for line in lines]
    assert {kind: kinds.count(kind) for kind in kinds} == {"shape:": 4, "missing:": 3, "extra:": 3}
    assert last == "  and 84 more (shape 54, missing 20, extra 20 in all)"


def test_a_number_too_large_for_the_model_is_not_finite(source, model, tmp_path):
    tensors = {name: value.astype("float64") for name, value in values_for(source).items()}
    tensors["stem/conv2d/kernel"][0, 0, 0, 0] = 1e300
    path = source_files.write("official", tmp_path / "net", tensors, None)
    assert_refused(model, path, "1 problem(s)", "not finite: stem/conv2d/kernel")


def test_a_layer_that_is_not_of_build_model_is_an_error(model, folder):
    longer = keras.Model(model.input, keras.layers.Dense(2, name="mine")(model.output))
    assert_refused(longer, folder, "2 problem(s)", "unknown: our mine/kernel, shape (7, 2)")


# --- logits and own files -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras", "after-0-epochs.safetensors"])
def test_own_files_round_trip_with_optimizer_and_other_preprocessing(name, source, tmp_path):
    source.compile("adam", "categorical_crossentropy")
    source.optimizer.build(source.trainable_variables)
    if name.endswith("safetensors"):  # a snapshot of a training
        snapshots = Snapshots(Saving(tmp_path), None, dict, StopSignals(tmp_path))
        snapshots.set_model(source)
        snapshots.on_train_begin()
        snapshots.close()
    else:
        (source.save_weights if name.endswith("h5") else source.save)(tmp_path / name)
    model = build_model(
        SMALL, weights=str(tmp_path / name), include_preprocessing=False, dropout_rate=0
    )
    for old, new in zip(source.weights, model.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    report = load_weights(model, tmp_path / name)
    assert report.source == "keras"
    assert set(report.ignored.values()) <= {"optimizer state", "state of the training"}
    assert len(report.ignored) >= len(source.optimizer.variables)


def test_state_of_random_generators_is_ignored(model, tmp_path):
    model.save_weights(tmp_path / "w.weights.h5")
    with h5py.File(tmp_path / "w.weights.h5", "a") as file:
        file["layers/dropout/seed_generator/vars/0"] = np.zeros(2, "uint32")
    reasons = load_weights(model, tmp_path / "w.weights.h5").ignored
    assert reasons == {"layers/dropout/seed_generator/vars/0": "random generator state"}


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "x.weights.h5").write_bytes(b"no"), "cannot be read as a Keras weight"),
        (lambda p: (p / "x.keras").write_bytes(b"PK"), "cannot be read as a Keras weight"),
        (lambda p: (p / "x.safetensors").write_bytes(b"{}"), "cannot be read as a state dict"),
        (lambda p: (p / "x.h5").write_bytes(b"no"), "A weight file is .* begins with b'no'"),
        (lambda p: h5py.File(p / "x.h5", "w").close(), "not an EfficientNet"),
        (lambda p: (p / "x.tgz").write_bytes(b"no"), "cannot be read as an archive"),
        (lambda p: (p / "x").mkdir(), "A weight file is"),
        (lambda p: (p / "x.npz").write_bytes(b""), "A weight file is"),
    ],
)
def test_files_that_are_no_weights(make, message, model, tmp_path):
    make(tmp_path)
    (path,) = tmp_path.iterdir()
    with pytest.raises(ValueError, match=message):
        load_weights(model, path)


def test_two_checkpoints_in_one_folder_are_ambiguous(source, model, tmp_path):
    tensors = checkpoint_tensors(source, "raw-only")
    write_checkpoint(tmp_path / "net", tensors)
    write_checkpoint(tmp_path / "net", tensors, prefix="model.ckpt-9")
    with pytest.raises(ValueError, match="exactly one checkpoint"):
        load_weights(model, tmp_path / "net")
    load_weights(model, tmp_path / "net" / "model.ckpt-9")
    assert_holds(model, values_for(source))


def test_a_truncated_checkpoint(model, folder):
    data = next(folder.glob("*.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_weights(model, folder)


def test_unknown_source(model):
    with pytest.raises(ValueError, match="`source` must be one of 'auto'"):
        load_weights(model, "x.weights.h5", source="pickle")
