"""`train` on two devices of one machine gives what one gives, on the pictures of both."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training.fit import train

# No dropout, whose draws differ by device, no batch norm, whose statistics do, and no clipping,
# which each device does to its part.
RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=2,
    stages=2,
    batch_size=16,
    image_size=(32, 40),
    dropout_rate=None,
    optimizer="sgd",
    learning_rate=0.05,
    gradient_clip=None,
)


def build():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 8, strides=8, activation="relu")(x)
    outputs = keras.layers.Dense(10, activation="softmax")(keras.layers.GlobalMaxPooling2D()(x))
    return keras.Model(inputs, outputs, name="small")


def train_small(output, model, **options):
    source = load_source("digits")
    pictures = source.subset(range(64))
    # Not a multiple of two.
    judged = source.subset(range(64, 101))
    return train(
        model, pictures, RECIPE, output, validation=judged, scan=False, verbose=0, **options
    )


def check_mirrored(folder):
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    alone = train_small(folder / "alone", build())
    with strategy.scope():
        model = build()
    mirrored = train_small(folder / "mirrored", model, strategy=strategy)
    with np.testing.assert_raises_regex(ValueError, r"among the 2 devices.*batch_size=15"):
        train(model, load_source("digits"), replace(RECIPE, batch_size=15), strategy=strategy)
    for one, two in zip(alone.model.get_weights(), mirrored.model.get_weights(), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        mirrored.evaluation.scores, alone.evaluation.scores, rtol=0, atol=1e-5
    )
    assert mirrored.evaluation.scores.shape == (37, 10)
    # 38 are judged while training: the first stands in for the one that is missing.
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(mirrored.history[name], alone.history[name], rtol=1e-4)
    np.testing.assert_allclose(mirrored.history["val_loss"], alone.history["val_loss"], atol=0.05)
    served = [
        tf.saved_model.load(str(folder / run / "saved_model/1")) for run in ("alone", "mirrored")
    ]
    images = tf.random.stateless_uniform((2, 40, 40, 3), (1, 2), 0, 255)
    one, two = (
        model.signatures["serving_default"](images=images)["probabilities"] for model in served
    )
    np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    assert json.loads((folder / "mirrored/recipe.json").read_text())["finished"]


@pytest.mark.slow  # a process of its own, since devices are set up before TensorFlow starts
def test_mirrored(tmp_path):
    code = f"import test_fit_devices as t; t.check_mirrored(t.Path({str(tmp_path)!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_strategy_for_machines_is_refused(tmp_path):
    strategy = tf.distribute.get_strategy()
    with pytest.raises(ValueError, match=r"must be a tf\.distribute\.MirroredStrategy"):
        train_small(tmp_path / "run", build(), strategy=strategy)
    assert not (tmp_path / "run").exists()
