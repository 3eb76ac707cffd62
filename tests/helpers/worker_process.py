"""One worker of a training: a process of its own, for test_workers.py.

    KERAS_BACKEND=jax python -m helpers.worker_process OUTPUT COUNT INDEX PORT EPOCHS

With COUNT 1 it trains alone. The rates are low, since other orders of adding up are equal up to
rounding only, and training makes small differences larger.
"""

import sys
from dataclasses import replace

import keras

import keras_effnetv2 as kev2
from keras_effnetv2.training.fit import train
from keras_effnetv2.training.workers import connect

RECIPE = replace(
    kev2.TrainRecipe.preset("quickstart"),
    epochs=2,
    stages=2,
    batch_size=16,
    image_size=(32, 40),
    dropout_rate=None,
    optimizer="sgd",
    learning_rate=0.01,
)


def build() -> keras.Model:
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-1)(inputs)
    x = keras.layers.Conv2D(8, 3, strides=2)(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.ReLU()(x))
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(x), name="small")


def main(output: str, count: int, index: int, port: int, epochs: int) -> None:
    if count > 1:
        connect(f"127.0.0.1:{port}", count, index)
    keras.utils.set_random_seed(0)
    source = kev2.load_source("digits")
    train(
        build(),
        source.subset(range(128)),
        replace(RECIPE, epochs=epochs),
        output,
        validation=source.subset(range(128, 161)),  # an odd number
        scan=False,
        verbose=2,
    )


if __name__ == "__main__":
    main(sys.argv[1], *map(int, sys.argv[2:]))
