"""Small classifiers, pictures and examples for tests of what is served."""

from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2.serve.loaded_model import ServedModel

GOLDEN = Path(__file__).parents[1] / "golden" / "preprocessing"
COLOUR = (GOLDEN / "synthetic_colour.jpg").read_bytes()
GRAY = (GOLDEN / "synthetic_gray.jpg").read_bytes()
NAMES = ["ash", "birch tree", "Küstentanne", "oak, red", "pine", "yew"]
SIZE = 24


def make_model(activation="softmax", classes=6, size=SIZE, policy="float32", ending=(), width=8):
    """Return a small classifier of stock layers, with a scale that makes the classes differ."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Rescaling(1 / 128, -1),
        keras.layers.Conv2D(width, 3, strides=2, dtype=policy),
        keras.layers.BatchNormalization(
            beta_initializer="random_normal",
            moving_mean_initializer="random_normal",
            moving_variance_initializer=keras.initializers.RandomUniform(0.5, 1.5),
            dtype=policy,
        ),
        keras.layers.Activation("silu", dtype=policy),
        keras.layers.GlobalAveragePooling2D(dtype=policy),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(
            classes, activation, dtype=policy, kernel_initializer=keras.initializers.RandomNormal()
        ),
        *ending,
    ]
    return keras.Sequential([keras.Input((size, size, 3)), *layers])


class Forgetful(keras.layers.Layer):
    """Adds a number that its configuration lacks, so that copies of it add nothing."""

    number = 0.0

    def call(self, inputs):
        return inputs + self.number


def make_forgetful_model(size=SIZE):
    """Return a model that no copy computes alike."""
    *body, dense = make_model(size=size).layers
    forgetful = Forgetful()
    forgetful.number = 0.3
    return keras.Sequential([keras.Input((size, size, 3)), *body, forgetful, dense])


def pixels(count, size=SIZE):
    return np.random.default_rng(5).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def example(file=None, feature="image/encoded"):
    """Return a serialised `tf.Example` that holds a file, or none."""
    values = [] if file is None else [file]
    bytes_list = tf.train.BytesList(value=values)
    features = tf.train.Features(feature={feature: tf.train.Feature(bytes_list=bytes_list)})
    return tf.train.Example(features=features).SerializeToString()


def echoing_model(version=10):
    """Return a served model without a network: the class of a file is its base64 text."""

    def classify(image_bytes):
        return {
            "classes": tf.io.encode_base64(image_bytes, pad=True)[:, tf.newaxis],
            "scores": tf.ones([len(image_bytes), 1]),
            "error": tf.where(tf.strings.length(image_bytes) == 0, "the file is empty", ""),
        }

    classify.structured_input_signature = ((), {"image_bytes": tf.TensorSpec([None], tf.string)})
    return ServedModel(Path(str(version)), version, {"classify_bytes": classify}, {}, None)


def chaotic():
    """Return a model like untrained networks: the last digit of a large number decides."""
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, kernel_initializer=keras.initializers.GlorotUniform(1))(inputs)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.BatchNormalization()(x))
    x = keras.layers.Rescaling(1e6)(x)
    return keras.Model(inputs, keras.layers.Dense(4, "softmax")(keras.ops.sin(x)))
