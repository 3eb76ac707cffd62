"""Makes tests of `train` quick: the smallest networks, few pictures, no export, no report."""

from dataclasses import replace

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.augment import randaugment
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.training import fit, results

_BLOCKS = ("r1_k3_s2_e4_i8_o8_c1", "r1_k3_s2_e4_i8_o16_se0.25")


def two_blocks():
    """EfficientNetV2-B0 with a fused block and a plain one, which is traced in seconds."""
    full = ModelConfig.from_name("efficientnetv2-b0")
    return replace(full, stages=decode_stages(_BLOCKS), head_filters=32)


class EagerModel(keras.Model):
    """Steps without tracing; calls what `at` has for a step, counted from 1, before it is done."""

    def compile(self, *args, **options):
        super().compile(*args, **options, run_eagerly=True)
        self.steps_begun = 0

    def train_step(self, data):
        self.steps_begun += 1
        getattr(self, "at", {}).get(self.steps_begun, lambda: None)()
        return super().train_step(data)


def small_network(
    classes=10, *, activation="softmax", dropout=0.2, size=None, norm=True, eager=True
):
    """The smallest network with a batch norm, a dropout and a squeeze of the picture."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 255)(inputs)
    x = keras.layers.Conv2D(8, 8, strides=8, use_bias=not norm)(x)
    x = keras.layers.BatchNormalization()(x) if norm else x
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.ReLU()(x))
    x = keras.layers.Dropout(dropout)(x) if dropout is not None else x
    outputs = keras.layers.Dense(classes, activation=activation, name="predictions")(x)
    return (EagerModel if eager else keras.Model)(inputs, outputs, name="small")


def step_eagerly(patch):
    """No model traces its steps; `patch` is a `pytest.MonkeyPatch`."""
    patch.setattr(keras.Model, "run_eagerly", property(lambda model: True, lambda model, _: None))


def leave_out_rewriting():
    """TensorFlow rewrites no graphs for speed, as in most test files (tests/conftest.py)."""
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def leave_out_operations(patch):
    """No augmentation: its operations take seconds to trace; `patch` is a `pytest.MonkeyPatch`."""
    same = dict.fromkeys(randaugment.OPERATIONS, lambda image, layer: tf.identity(image))
    patch.setattr(randaugment, "OPERATIONS", same)


def leave_out_results(patch):
    """No export, no report, and no findings, for which a sample of the pictures is decoded; `patch`
    is a `pytest.MonkeyPatch`."""
    patch.setattr(fit, "look_for_findings", lambda *known: ())
    patch.setattr(results, "export_saved_model", lambda *args, **options: None)
    leave_out_report(patch)


def leave_out_report(patch):
    """No report; `patch` is a `pytest.MonkeyPatch`."""
    patch.setattr(results, "gather_report", lambda *contents: None)
    patch.setattr(results, "render_run", lambda report: "")


def some_digits(folder, count):
    """A folder of class folders with the first `count` digits of each split."""
    for split in ("train", "validation"):
        digits = load_source("digits", split)
        for data, label, index in digits.dataset().take(count):
            target = folder / split / digits.class_names[int(label)]
            target.mkdir(parents=True, exist_ok=True)
            (target / f"{int(index)}.png").write_bytes(data.numpy())
    return folder


def dark_and_light(folder, count):
    """A folder of two classes of `count` noisy pictures each."""
    rng = np.random.default_rng(0)
    for name, brightness in (("dark", 40), ("light", 200)):
        (folder / name).mkdir(parents=True)
        for index in range(count):
            pixels = (rng.integers(0, 55, (28, 30, 3)) + brightness).astype("uint8")
            (folder / name / f"{index}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    return folder
