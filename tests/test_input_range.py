"""The normalisation of pixels that a weight file states is the one that is used."""

import json
import logging
import os
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers import oracle, source_files

import keras_effnetv2 as kev2
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.open_weights import open_weights

layers = keras.layers
# One block: what is in front of the blocks is the subject.
SMALL = replace(source_files.SMALL, stages=source_files.SMALL.stages[:1])
LOGITS = {"classifier_activation": None, "drop_path_rate": 0.0}
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
MEAN, STD = np.array([120.0, 110.0, 100.0]), np.array([60.0, 50.0, 40.0])


@pytest.fixture(scope="module")
def bare():
    """A network that takes normalised pixels."""
    model = build_model(SMALL, classes=7, include_preprocessing=False, **LOGITS)
    rng = np.random.default_rng(3)
    for weight in model.weights:
        value = rng.standard_normal(weight.shape) * 0.3
        weight.assign(np.abs(value) + 0.5 if "variance" in weight.name else value)
    return model


def adapted():
    layer = layers.Normalization()
    layer.build((None, None, None, 3))
    layer.adapt((np.array([[-1.0], [1.0]]) * STD + MEAN).reshape(2, 1, 1, 3).astype("float32"))
    return [layer]


FRONTS = {
    "mean and variance": lambda: [layers.Normalization(mean=MEAN, variance=STD**2)],
    "adapted": adapted,
    "two steps": lambda: [
        layers.Rescaling(1 / 255),
        layers.Normalization(mean=MEAN / 255, variance=(STD / 255) ** 2),
    ],
    "three steps": lambda: [
        layers.Rescaling(2.0, 3.0),
        layers.RandomFlip(),
        layers.Rescaling(0.5, -1.5),
        layers.Rescaling(list(1 / STD), list(-MEAN / STD)),
    ],
    "inverse": lambda: [
        layers.Normalization(mean=-MEAN / STD, variance=STD**-2.0, invert=True),
    ],
    "nested": lambda: [
        keras.Sequential([layers.Rescaling(1 / STD), layers.Rescaling(1.0, -MEAN / STD)])
    ],
}


def with_front(bare, front):
    """The network behind some layers, not nested."""
    inputs = keras.Input((None, None, 3))
    x = inputs
    for layer in front:
        x = layer(x)
    model = build_model(SMALL, classes=7, include_preprocessing=False, input_tensor=x, **LOGITS)
    model.layers[-1].set_weights(bare.layers[-1].get_weights())
    for layer in bare.layers:
        model.get_layer(layer.name).set_weights(layer.get_weights()) if layer.weights else None
    return model


@pytest.mark.parametrize(
    ("front", "suffix"),
    [*((front, ".keras") for front in FRONTS), ("adapted", ".h5"), ("nested", ".h5")],
)
def test_any_scale_and_offset_a_channel_in_front_of_the_network(front, suffix, bare, tmp_path):
    saved = with_front(bare, FRONTS[front]())
    saved.save(tmp_path / f"net{suffix}")
    expected = oracle.numpy(bare((PIXELS - MEAN) / STD))
    np.testing.assert_allclose(
        oracle.numpy(saved(PIXELS, training=False)), expected, rtol=0, atol=1e-3
    )
    model = build_model(SMALL, weights=tmp_path / f"net{suffix}", **LOGITS)
    np.testing.assert_allclose(oracle.numpy(model(PIXELS)), expected, rtol=0, atol=1e-3)


@pytest.mark.parametrize(
    ("scale", "offset", "name"),
    [
        (1 / 128, -1.0, "symmetric"),
        (1 / 127.5, -1, "inception"),
        (1 / 255, 0.0, ((1 / 255,) * 3, (0.0,) * 3)),
    ],
)
def test_what_has_a_name_gets_it(scale, offset, name, bare, tmp_path):
    with_front(bare, [layers.Rescaling(scale, offset)]).save(tmp_path / "net.keras")
    assert open_weights(tmp_path / "net.keras", SMALL).normalization == name


def test_own_files_keep_the_range_they_were_built_with(bare, tmp_path, caplog):
    config = kev2.ModelConfig("own", SMALL.stages, SMALL.head_filters, normalization="symmetric")
    build_model(config, classes=7).save(tmp_path / "net.keras")
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        opened = open_weights(tmp_path / "net.keras", SMALL)
    assert (SMALL.normalization, opened.normalization) == ("imagenet", "symmetric")
    assert not caplog.records
    bare.save(tmp_path / "bare.keras")  # normalises nothing, so that it says nothing
    assert open_weights(tmp_path / "bare.keras", SMALL).normalization == "imagenet"


def test_what_cannot_be_rebuilt_is_one_error_with_a_way_out(bare, tmp_path):
    path = tmp_path / "net.keras"
    with_front(bare, [layers.Rescaling(1 / 255), layers.UnitNormalization()]).save(path)
    with pytest.raises(ValueError, match=r"net\.keras says.*'unit_normalization.*load_weights"):
        build_model(SMALL, weights=path)
    model = build_model(SMALL, classes=7, include_preprocessing=False, **LOGITS)
    assert load_weights(model, path).warnings == ()
    np.testing.assert_array_equal(model(PIXELS), bare(PIXELS))


def test_another_range_of_the_model_is_told(bare, tmp_path, caplog):
    with_front(bare, [layers.Rescaling(1 / 127.5, -1)]).save(tmp_path / "net.keras")
    model = build_model(SMALL, classes=7)
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        (warning,) = load_weights(model, tmp_path / "net.keras").warnings
    assert "'imagenet' instead of 'inception'" in warning
    assert warning in caplog.text
    same = build_model(SMALL, weights=tmp_path / "net.keras")
    assert load_weights(same, tmp_path / "net.keras").warnings == ()


@pytest.mark.parametrize("front", FRONTS)
def test_another_range_of_any_layers_in_front_is_told(front, bare, tmp_path):
    build_model(SMALL, classes=7).save(tmp_path / "net.keras")
    (warning,) = load_weights(with_front(bare, FRONTS[front]()), tmp_path / "net.keras").warnings
    assert "instead of 'imagenet'" in warning


def test_own_layers_that_cannot_be_described_are_no_obstacle(bare, tmp_path):
    class Half(layers.Layer):
        def __init__(self, function):
            super().__init__()
            self.function = function

        def call(self, x):
            return self.function(x)

    bare.save(tmp_path / "net.keras")
    model = with_front(bare, [Half(lambda x: x / 2)])
    assert load_weights(model, tmp_path / "net.keras").warnings == ()


# --- PyTorch Image Models -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def of_timm(bare, tmp_path_factory):
    folder, tensors = tmp_path_factory.mktemp("timm"), source_files.values_for(bare)
    return source_files.write(
        "timm", folder / "model", tensors, source_files.layers_for("timm", bare)
    )


@pytest.fixture
def timm_folder(of_timm):
    def write(folder, config):
        folder.mkdir(exist_ok=True)
        text = config if isinstance(config, str) else json.dumps(config)
        (folder / "config.json").write_text(text)
        return shutil.copy(of_timm, folder / of_timm.name)

    return write


CONFIG = {"architecture": "tf_efficientnetv2_b0", "num_classes": 7}
HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (CONFIG | {"pretrained_cfg": HALF}, "inception"),
        (CONFIG | HALF, "inception"),
        (CONFIG | {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}, "imagenet"),
        (CONFIG | {"mean": 0.0, "std": 1.0}, ((1 / 255,) * 3, (0.0,) * 3)),
        (CONFIG | HALF | {"pretrained_cfg": {"mean": [0] * 3, "std": [1, 1, 0.5]}}, None),
        (CONFIG, "imagenet"),
    ],
)
def test_the_config_of_timm(config, expected, timm_folder, tmp_path):
    path = timm_folder(tmp_path / "net", config)
    expected = expected or ((1 / 255, 1 / 255, 2 / 255), (0.0, 0.0, 0.0))
    for given in (path, path.parent, str(path.parent)):
        opened = open_weights(given, SMALL)
        assert (opened.path, opened.normalization) == (path, expected)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ("[" * 9_999, "nested too deeply"),
        ('{"mean": NaN}', "NaN is not a JSON number"),
        ("{", "cannot be read: Expecting"),
        pytest.param(" " * (2**24 + 1), "more than 16,777,216 bytes", id="long"),
        (HALF | {"std": [0.5, 0, 0.5]}, "must be three numbers"),
        (HALF | {"std": [0.5, -1, 0.5]}, "must be three numbers"),
        (HALF | {"std": [1e-320, 1, 1]}, "must be three numbers"),
        (HALF | {"std": [10**400, 1, 1]}, "must be three numbers"),
        (HALF | {"std": "x"}, "must be three numbers"),
        (HALF | {"std": {}}, "must be three numbers"),
        (HALF | {"std": None}, "must be three numbers"),
        (HALF | {"mean": [[0.5], [0.5, 0.5]]}, "must be three numbers"),
        ({"mean": [0.5, 0.5]}, "must be three numbers"),
    ],
)
def test_a_config_that_is_none(config, words, timm_folder, tmp_path):
    path = timm_folder(tmp_path / "net", config)
    with pytest.raises(ValueError, match=rf"config\.json.*{words}.*Correct it or remove it"):
        open_weights(path, SMALL)


def test_a_config_that_is_a_pipe(timm_folder, tmp_path):
    path = timm_folder(tmp_path, "{}")
    os.unlink(tmp_path / "config.json")
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="is a device, a pipe or a socket"):
        open_weights(path, SMALL)


def test_a_net_without_a_name_is_warned_of(timm_folder, tmp_path, caplog):
    named = timm_folder(tmp_path / "a", CONFIG)
    bare = timm_folder(tmp_path / "b", "{}")
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        open_weights(named)
        assert "which net it is" not in caplog.text
        open_weights(bare)
    assert "neither a config.json beside it nor a name says which net it is" in caplog.text
    assert "pad differently" in caplog.text


def test_a_config_with_numbers_of_its_own_round_trips():
    numbers = ((0.01, 0.02, 0.03), (-1.0, 0.0, 1.0))
    config = kev2.ModelConfig("own", SMALL.stages, normalization=numbers)
    assert kev2.ModelConfig.from_json(config.to_json()) == config
    expected = PIXELS * np.float32(numbers[0]) + np.float32(numbers[1])
    layer = build_model(config).get_layer("pixel_normalization")
    np.testing.assert_allclose(layer(PIXELS), expected, rtol=1e-5)
    for wrong in (((1, 2), (1, 2)), "x", ((1, 2, 3),), ((1, 2, np.inf), (0, 0, 0)), 3):
        with pytest.raises(ValueError, match="`normalization` must be"):
            kev2.ModelConfig("own", SMALL.stages, normalization=wrong)
