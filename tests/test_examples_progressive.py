"""The examples of progressive learning, at toy size, and networks of the paper's Table 12."""

import runpy
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import leave_out_operations, some_digits, step_eagerly

import keras_effnetv2 as kev2
from keras_effnetv2.training.progressive import scheduled_dropout_layers

ROOT = Path(__file__).parent.parent
PLAN = kev2.progressive_stages(epochs=4, image_size=(128, 224), dropout_rate=(0.1, 0.3))


@pytest.fixture(autouse=True)
def in_scratch_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    step_eagerly(monkeypatch)
    leave_out_operations(monkeypatch)


def run_example(name, *arguments):
    """Runs an example; what it printed is for `capsys`."""
    runpy.run_path(str(ROOT / "examples" / name))["main"](arguments)


def few_layers(include_top, weights, pooling):
    """In place of a ResNet, whose train step takes a minute of CPU time to compile twice."""
    assert (include_top, weights, pooling) == (False, None, "avg")
    images = keras.Input((None, None, 3))
    x = keras.layers.Conv2D(8, 7, strides=2, use_bias=False)(images)
    x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    return keras.Model(images, keras.layers.GlobalAveragePooling2D()(x), name="resnet50")


@pytest.mark.slow  # compiles two stages, as the next example does
@pytest.mark.filterwarnings("error:.shuffle=True")
def test_resnet50(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(keras.applications, "ResNet50", few_layers)
    data = some_digits(tmp_path / "digits", 48)
    sizes = ["--stages", "2", "--image-size", "32", "48", "--batch-size", "16"]
    run_example("progressive_resnet50.py", str(data), "--epochs", "2", *sizes)
    printed = capsys.readouterr().out
    mixing = "mixup 0, cutmix 0"
    for line in (
        f"Stage 1/2, epochs 1-1: size 32, randaugment 5, {mixing}, dropout 0.1, batch 16",
        f"Stage 2/2, epochs 2-2: size 48, randaugment 15, {mixing}, dropout 0.3, batch 16",
    ):
        assert line in printed
    model = keras.models.load_model("resnet50.keras")
    assert model.get_layer("classifier_dropout").rate == 0.3
    assert int(model.optimizer.iterations) == 2 * 3
    assert model.output_shape == (None, 10)


def test_resnet50_takes_pictures_from_0_to_255():
    build_model = runpy.run_path(str(ROOT / "examples/progressive_resnet50.py"))["build_model"]
    model = build_model(10)
    pictures = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
    # What keras.applications trained ResNet50 with: blue first, minus the mean of ImageNet.
    normalised = pictures[..., ::-1] - np.array([103.939, 116.779, 123.68], "float32")
    features = model.get_layer("resnet50")(normalised)
    np.testing.assert_allclose(model(pictures), model.layers[-1](features), rtol=1e-4)


def test_dropout_of_the_papers_efficientnets():
    model = keras.applications.EfficientNetB0(weights=None, classes=10)
    stochastic_depth = {
        layer.name: layer.rate for layer in model.layers if layer.name.endswith("_drop")
    }
    data = tf.data.Dataset.from_tensors(0)
    progressive = kev2.ProgressiveLearning(lambda stage, epoch: data, PLAN)
    progressive.set_model(model)
    progressive.on_epoch_begin(PLAN[3].start_epoch)
    assert model.get_layer("top_dropout").rate == 0.3
    for name, rate in stochastic_depth.items():
        assert model.get_layer(name).rate == rate
    assert len(stochastic_depth) == 9


def test_a_resnet_needs_a_dropout_for_a_schedule():
    backbone = few_layers(include_top=False, weights=None, pooling="avg")
    with pytest.raises(ValueError, match=r"no Dropout layer to set.*dropout_rate=None"):
        scheduled_dropout_layers(backbone, None, PLAN)
    without = kev2.progressive_stages(epochs=4, image_size=(128, 224))
    assert {stage.dropout_rate for stage in without} == {None}
    assert scheduled_dropout_layers(backbone, None, without) == []
    dropout = keras.layers.Dropout(0.1)
    model = keras.Sequential([backbone, dropout, keras.layers.Dense(10)])
    assert scheduled_dropout_layers(model, None, PLAN) == [dropout]


@pytest.mark.slow  # a training
@pytest.mark.filterwarnings("error:.shuffle=True")
def test_from_scratch(monkeypatch, capsys):
    # B0 takes half a minute to trace; this has one block a stage.
    small = kev2.ModelConfig.from_name("efficientnetv2-b0").scaled(width=0.1, depth=0.1)

    def small_network(**arguments):
        return kev2.build_model(small, **arguments)

    monkeypatch.setattr(kev2, "EfficientNetV2B0", small_network)
    sizes = ["--stages", "2", "--image-size", "32", "40", "--batch-size", "360"]
    run_example("progressive_from_scratch.py", "--epochs", "2", *sizes)
    printed = capsys.readouterr().out
    assert "Stage 2/2, epochs 2-2: size 40" in printed
    assert printed.count("4/4") == printed.count("val_accuracy") == 2
