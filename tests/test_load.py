"""Strict loading of official checkpoints and of Keras' own files."""

import logging
import shutil
import tarfile

import numpy as np
import oracle
import pytest
import tensorflow as tf
from test_model import TINY

from keras_effnetv2 import EfficientNetV2B0
from keras_effnetv2.model import build_model
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.official import official_names

VARIANTS = ("training", "published", "ema-only", "raw-only")
AVERAGE = "/ExponentialMovingAverage"
SOFT = {"classes": 7, "drop_path_rate": 0.0}


def values_for(model, tag=""):
    """Official name -> a value drawn from the name alone."""
    shapes = {f"{layer.name}/{w.name}": w.shape for layer in model.layers for w in layer.weights}
    return {
        theirs: np.abs(oracle.rng_for(theirs + tag).standard_normal(shapes[ours])).astype("float32")
        for ours, theirs in official_names(model).items()
    }


def write_checkpoint(folder, tensors, prefix="model"):
    """A name-based checkpoint as the official trainer writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    return folder


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
    return build_model(TINY, **SOFT)


@pytest.fixture
def model():
    return build_model(TINY, **SOFT)


def assert_holds(model, expected):
    weights = {f"{layer.name}/{w.name}": w for layer in model.layers for w in layer.weights}
    for ours, theirs in official_names(model).items():
        np.testing.assert_array_equal(weights[ours].numpy(), expected[theirs], err_msg=ours)


@pytest.mark.parametrize("variant", VARIANTS)
def test_averages_are_preferred_in_every_kind_of_checkpoint(variant, source, model, tmp_path):
    folder = write_checkpoint(tmp_path / "ckpt", checkpoint_tensors(source, variant))
    report = load_weights(model, folder)
    assert_holds(model, values_for(source))
    assert (report.source, report.loaded) == ("official", len(model.weights))
    assert report.ignored["global_step"] == "step counter"
    assert len(set(report.ignored.values())) == {"training": 3, "published": 2}.get(variant, 1)


def test_prefix_and_archive(source, tmp_path):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "published"))
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as tar:
        tar.add(folder, "net")
    for path in (folder / "model", tmp_path / "net.tgz", str(tmp_path / "net.tgz")):
        model = build_model(TINY, **SOFT)
        load_weights(model, path)
        assert_holds(model, values_for(source))


def test_an_archive_cannot_write_outside_its_folder(source, model, tmp_path):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "raw-only"))
    with tarfile.open(tmp_path / "net.tgz", "w:gz") as tar:
        for file in folder.iterdir():
            tar.add(file, f"../../{file.name}")
    shutil.rmtree(folder)
    load_weights(model, tmp_path / "net.tgz")
    assert_holds(model, values_for(source))
    assert [p.name for p in tmp_path.iterdir()] == ["net.tgz"]


def test_without_top_the_classifier_is_left_out(source, tmp_path):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "published"))
    headless = build_model(TINY, include_top=False, pooling="avg", weights=str(folder))
    assert_holds(headless, values_for(source))
    report = load_weights(headless, folder)
    assert {n for n, why in report.ignored.items() if "no top" in why} == {
        "head/dense/bias",
        "head/dense/kernel",
    }


def test_classes_come_from_the_file(source, tmp_path):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "published"))
    assert build_model(TINY, weights=str(folder)).output.shape[-1] == 7


def test_other_classes_start_a_fresh_head_and_say_so(source, tmp_path, caplog):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "published"))
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        model = build_model(TINY, weights=str(folder), classes=3)
    assert len(caplog.records) == 1
    assert "7 classes, not 3" in caplog.records[0].getMessage()
    expected = values_for(source) | {
        "head/dense/kernel": model.layers[-1].kernel.numpy(),
        "head/dense/bias": np.zeros(3),
    }
    assert_holds(model, expected)


def damaged(tensors):
    """One of each fault, and what the error must say of it."""
    name = "efficientnetv2-b0/"
    del tensors[f"{name}stem/conv2d/kernel"]
    tensors[f"{name}blocks_1/conv2d/kernel"] = np.zeros((3, 3, 8, 31), "float32")
    tensors[f"{name}blocks_2/tpu_batch_normalization/beta"][0] = np.nan
    tensors[f"{name}blocks_99/conv2d/kernel"] = np.zeros((1, 1, 2, 2), "float32")
    return [
        "missing: stem/conv2d/kernel (our stem_conv/kernel, shape (3, 3, 3, 8))",
        "shape: blocks_1/conv2d/kernel is (3, 3, 8, 31), our block2a_expand_conv/kernel is "
        "(3, 3, 8, 32)",
        "not finite: blocks_2/tpu_batch_normalization/beta (our block2b_expand_bn/beta)",
        "extra: blocks_99/conv2d/kernel, shape (1, 1, 2, 2)",
        "4 problem(s)",
        "nothing was loaded",
    ]


def test_every_offender_is_listed_and_nothing_is_loaded(source, model, tmp_path):
    tensors = checkpoint_tensors(source, "raw-only")
    expected = damaged(tensors)
    folder = write_checkpoint(tmp_path / "net", tensors)
    before = model.get_weights()
    with pytest.raises(ValueError, match="does not fit") as error:
        load_weights(model, folder)
    for line in expected:
        assert line in str(error.value)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_official_logits_from_a_training_checkpoint(tmp_path):
    variant = "efficientnetv2-b0"
    golden = oracle.filled(variant)
    tensors = {"global_step": np.int64(1)}
    weights = {f"{layer.name}/{w.name}": w for layer in golden.layers for w in layer.weights}
    for ours, theirs in official_names(golden).items():
        tensors[f"{variant}/{theirs}{AVERAGE}"] = weights[ours].numpy()
        tensors[f"{variant}/{theirs}"] = oracle.fill(
            f"{variant}/{theirs}", weights[ours].shape, "#raw"
        )
    folder = write_checkpoint(tmp_path / variant, tensors)
    model = EfficientNetV2B0(
        weights=str(folder), classifier_activation=None, include_preprocessing=False
    )
    expected = np.load(oracle.GOLDEN / "models" / f"{variant}.npz")["logits_96x96"]
    logits = model(oracle.model_input(variant, 96, 96)).numpy()
    np.testing.assert_allclose(logits, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("name", ["w.weights.h5", "w.keras"])
def test_own_files_round_trip_with_optimizer_and_other_preprocessing(name, source, tmp_path):
    source.compile("adam", "categorical_crossentropy")
    source.fit(np.zeros((2, 32, 32, 3)), np.eye(7)[:2], verbose=0)
    (source.save_weights if name.endswith("h5") else source.save)(tmp_path / name)
    model = build_model(
        TINY, weights=str(tmp_path / name), include_preprocessing=False, dropout_rate=0
    )
    for old, new in zip(source.weights, model.weights, strict=True):
        np.testing.assert_array_equal(old.numpy(), new.numpy())
    assert len(load_weights(model, tmp_path / name).ignored) > 0


def test_own_file_of_another_net_is_refused(model, tmp_path):
    other = build_model(TINY.with_fused_stages(1, 2, 3), **SOFT)
    other.save_weights(tmp_path / "other.weights.h5")
    with pytest.raises(ValueError, match=r"w.* does not fit the model"):
        load_weights(model, tmp_path / "other.weights.h5")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: (p / "x.weights.h5").write_bytes(b"no"), "cannot be read as a Keras weight"),
        (lambda p: (p / "x.keras").write_bytes(b"PK"), "cannot be read as a Keras weight"),
        (lambda p: (p / "x.tgz").write_bytes(b"no"), "cannot be read as an archive"),
        (lambda p: (p / "x").mkdir(), "A weight file is"),
        (lambda p: (p / "x.pt").write_bytes(b""), "A weight file is"),
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


def test_a_truncated_checkpoint(source, model, tmp_path):
    folder = write_checkpoint(tmp_path / "net", checkpoint_tensors(source, "raw-only"))
    data = next(folder.glob("*.data*"))
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(ValueError, match="cannot be read as a checkpoint"):
        load_weights(model, folder)


def test_unknown_source(model):
    with pytest.raises(ValueError, match="`source` must be 'auto' or one of"):
        load_weights(model, "x.weights.h5", source="pickle")
