"""Building a model with the name of a published set: what is fetched, and what it becomes."""

import hashlib
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers import oracle
from helpers.source_files import SMALL

from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained import registry
from keras_effnetv2.pretrained.open_weights import open_weights
from keras_effnetv2.pretrained.registry import PublishedFile, WeightSet

TINY = replace(SMALL, name="tiny")
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 64, 48, 3)).astype("float32")
PUBLISHED_CLASSES = 21843


def md5(path):
    return f"md5:{hashlib.md5(path.read_bytes()).hexdigest()}"


@pytest.fixture
def publish(tmp_path, monkeypatch):
    """Publishes weights of TINY as its set "imagenet21k", in a mirror folder; returns the model."""

    def make():
        model = build_model(TINY, classes=PUBLISHED_CLASSES, include_preprocessing=False)
        rng = np.random.default_rng(1)
        for weight in model.weights:
            weight.assign(weight + 0.05 * np.abs(rng.standard_normal(weight.shape)))
        mirror = tmp_path / "mirror"
        mirror.mkdir()
        headless = keras.Model(model.input, model.get_layer("avg_pool").output)
        files = []
        for net, name in ((model, "tiny.weights.h5"), (headless, "tiny_notop.weights.h5")):
            net.save_weights(mirror / name)
            url = f"http://localhost:9/{name}"
            files.append(PublishedFile("keras", url, md5(mirror / name), net is model))
        found = WeightSet(
            *("tiny", "imagenet21k", PUBLISHED_CLASSES, "symmetric", "v2", 64, None, None),
            files=tuple(files),
            archive="http://localhost:9/tiny-21k.tgz",
        )
        monkeypatch.setitem(registry.WEIGHT_SETS, ("tiny", "imagenet21k"), found)
        monkeypatch.setenv("KERAS_EFFNETV2_MIRROR", str(mirror))
        monkeypatch.setenv("KERAS_HOME", str(tmp_path / "home"))
        return model, mirror

    return make


def run(model, pixels):
    return oracle.numpy(model(pixels))


def test_a_set_brings_its_normalisation_classes_and_activation(publish):
    raw, _ = publish()
    model = build_model(TINY, weights="imagenet21k")
    assert model.output_shape == (None, PUBLISHED_CLASSES)
    assert model.get_layer("predictions").activation.__name__ == "sigmoid"
    logits = keras.Model(raw.input, raw.get_layer("avg_pool").output)(PIXELS / 128 - 1)
    kernel, bias = (oracle.numpy(weight) for weight in raw.get_layer("predictions").weights)
    expected = 1 / (1 + np.exp(-(oracle.numpy(logits) @ kernel + bias)))
    np.testing.assert_allclose(run(model, PIXELS), expected, rtol=0, atol=1e-5)


def test_weights_are_opened_once_and_used_as_often_as_one_likes(publish):
    raw, mirror = publish()
    weights = open_weights("tiny/imagenet21k", TINY)
    assert (weights.set.weights, weights.classes) == ("imagenet21k", PUBLISHED_CLASSES)
    assert (weights.normalization, weights.activation) == ("symmetric", "sigmoid")
    assert (weights.path, weights.source) == (mirror / "tiny.weights.h5", "keras")
    for classes in (None, 7):
        model = build_model(TINY, weights=weights, classes=classes)
        kernel = oracle.numpy(model.get_layer("top_conv").kernel)
        np.testing.assert_array_equal(kernel, oracle.numpy(raw.get_layer("top_conv").kernel))
    with pytest.raises(ValueError, match=r"is tiny/imagenet21k.*Received: efficientnetv2-b0"):
        open_weights("tiny/imagenet21k", "efficientnetv2-b0")


def test_other_classes_start_a_fresh_head_on_the_smaller_file_and_say_so(publish, caplog):
    raw, mirror = publish()
    (mirror / "tiny.weights.h5").unlink()  # not needed
    model = build_model(TINY, weights="imagenet21k", classes=7)
    assert model.output_shape == (None, 7)
    assert model.get_layer("predictions").activation.__name__ == "softmax"
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert "classifier: new, for 7 classes" in caplog.text
    assert model.get_layer("pixel_normalization").scale == 1 / 128
    kernel = oracle.numpy(model.get_layer("top_conv").kernel)
    np.testing.assert_array_equal(kernel, oracle.numpy(raw.get_layer("top_conv").kernel))


def test_the_top_needs_the_file_that_has_it(publish):
    _, mirror = publish()
    (mirror / "tiny.weights.h5").unlink()
    with pytest.raises(ConnectionError, match=r"of tiny/imagenet21k are not in the cache"):
        build_model(TINY, weights="imagenet21k")


def test_bad_arguments_are_found_before_anything_is_fetched(publish):
    _, mirror = publish()
    shutil.rmtree(mirror)  # so that fetching would be a ConnectionError
    for bad in (
        {"classes": 0},
        {"classifier_activation": "swoosh"},
        {"include_top": False, "pooling": "sum"},
        {"input_shape": (1, 1, 3)},
        {"input_shape": (64, 64, 1)},
        {"dropout_rate": 1.0},
    ):
        with pytest.raises(ValueError, match=r"Received|received"):
            build_model(TINY, weights="imagenet21k", **bad)
