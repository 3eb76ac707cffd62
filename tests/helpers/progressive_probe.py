"""A plan of four stages, its data and a model that shows what a training step really gets.

The pictures are ones, so their sum is the number of pixels. The labels carry the epoch and the
picture size that the batch was made for. A Dropout stands on ones, so the share of zeros behind it
is the rate in force and the largest value its scale. All of it is measured inside the train step,
as metrics, and noted after every batch. A layer notes the shapes it is traced with.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.recipes.stages import TrainStage, progressive_stages

UNITS = 4000  # zeros among them: standard error of the rate below 0.004 for 4 pictures
RATE_TOLERANCE = 0.02
EXAMPLES = 16

# Four stages of 1, 1, 1 and 2 epochs: sizes 32, 40, 48, 56; rates 0.1, 0.3, 0.5, 0.7; batches of 8,
# 6, 4, 2, so 2, 3 (the last one smaller), 4, 8 steps.
EPOCHS = 5
STAGES = progressive_stages(
    epochs=EPOCHS, stages=4, image_size=(32, 56), dropout_rate=(0.1, 0.7), batch_size=(8, 2)
)
SIZES = [32, 40, 48, 56, 56]
RATES = [0.1, 0.3, 0.5, 0.7, 0.7]
STEPS = [2, 3, 4, 8, 8]

only_tensorflow = pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="a feature of the TensorFlow trainer"
)


def make_dataset(stage: TrainStage, epoch: int) -> tf.data.Dataset:
    images = np.ones((EXAMPLES, stage.image_size, stage.image_size, 3), "float32")
    labels = np.full((EXAMPLES, 2), [epoch, stage.image_size], "float32")
    return tf.data.Dataset.from_tensor_slices((images, labels)).batch(stage.batch_size)


class Probe(keras.layers.Layer):
    """The number of pixels of each picture, (B, 1) float32; notes the shapes traced in training."""

    def __init__(self):
        super().__init__(dtype="float32")
        self.seen = []

    def call(self, x, training=False):
        if training:
            self.seen.append(tuple(x.shape))
        return keras.ops.sum(x, axis=(1, 2, 3))[:, None] / 3


def epoch_label(y, outputs):
    return keras.ops.mean(y[:, 0])


def size_label(y, outputs):
    return keras.ops.mean(y[:, 1])


def pixels(y, outputs):
    return keras.ops.mean(outputs[:, 1])


def zeros(y, outputs):
    return keras.ops.mean(keras.ops.cast(outputs[:, 2:] == 0, "float32"))


def scale(y, outputs):
    return keras.ops.max(outputs[:, 2:])


def build_model(nested=False, rate=0.5, **compile_args):
    """Outputs (B, 2 + UNITS): what a Dense learned, the pixels, ones behind a Dropout."""
    dropout = keras.layers.Dropout(rate, seed=0, name="classifier_dropout")
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    # Stochastic depth, as the package's networks have it: never touched by the stages.
    depth = keras.layers.Dropout(0.25, noise_shape=(None, 1), seed=1, name="stochastic_depth")
    learned = keras.layers.Dense(1, name="learned")(depth(x))
    ones = keras.ops.ones_like(keras.ops.repeat(learned, UNITS, axis=-1))
    if nested:
        block_input = keras.Input((UNITS,))
        block = keras.Model(block_input, dropout(block_input), name="block")
        ones = block(ones)
    else:
        ones = dropout(ones)
    outputs = keras.layers.Concatenate(dtype="float32")([learned, Probe()(inputs), ones])
    model = keras.Model(inputs, outputs)
    defaults = {
        "optimizer": keras.optimizers.SGD(0.01, momentum=0.9),
        "loss": lambda y, outputs: keras.ops.square(outputs[:, 0] - 1.0),
        "metrics": [epoch_label, size_label, pixels, zeros, scale],
    }
    model.compile(**{**defaults, **compile_args})
    return model


def no_dropout_model():
    model = keras.Sequential([keras.Input((None, None, 3)), keras.layers.GlobalMaxPooling2D()])
    model.add(keras.layers.Dense(2))
    model.compile("sgd", "mse")
    return model


def shapes_seen(model):
    return next(layer for layer in model.layers if isinstance(layer, Probe)).seen


class Log(keras.callbacks.Callback):
    """What every epoch did: its metrics, those after each batch, shapes traced, counts of steps."""

    def __init__(self):
        super().__init__()
        self.epochs = {}

    def on_epoch_begin(self, epoch, logs=None):
        self.steps = 0
        self.after_batch = []
        self.traced = len(shapes_seen(self.model))

    def on_train_batch_end(self, batch, logs=None):
        self.steps = batch + 1
        self.after_batch.append({name: float(value) for name, value in logs.items()})

    def on_epoch_end(self, epoch, logs=None):
        self.epochs[epoch] = {
            **{name: float(value) for name, value in logs.items()},
            "steps": self.steps,
            "after_batch": self.after_batch,
            "shapes": shapes_seen(self.model)[self.traced :],
            "iterations": int(keras.ops.convert_to_numpy(self.model.optimizer.iterations)),
        }


def train(model, progressive, callbacks=(), **fit_args):
    log = Log()
    fit_args = {"epochs": progressive.epochs, "verbose": 0, **fit_args}
    model.fit(progressive.dataset, callbacks=[progressive, *callbacks, log], **fit_args)
    return log.epochs


def check_epoch(epoch, row):
    """Each batch was of this epoch and its stage's size, and the stage's dropout was in force.

    Metrics are means over the batches so far: constant from the first batch on, so no batch of
    another stage was among them.
    """
    for batch in row["after_batch"]:
        assert batch["epoch_label"] == epoch
        assert batch["size_label"] == SIZES[epoch]
        assert batch["pixels"] == SIZES[epoch] ** 2
        assert batch["scale"] == pytest.approx(1 / (1 - RATES[epoch]), rel=0.01)
    assert row["zeros"] == pytest.approx(RATES[epoch], abs=RATE_TOLERANCE)
