"""Whether the reduced decode costs accuracy: small networks trained with it and without, by turns.

    python benchmarks/reduced_decode_accuracy.py --data cifar10/ --seeds 3

`--data` is a folder with `train/` and `test/`, of JPEG photos of at least twice the size of what
is trained on (CIFAR-10's 32 pixels, trained on 12: of crops of 24 pixels and more every second
pixel is skipped officially, and averaged by the reduced decode). The network is a small
convolutional one, because EfficientNetV2 has nothing left of 12 pixels. The scores are those of
the test pictures resized with antialias ("whole", what one's own photos get) and without, as
officially ("finetune": both take the whole picture).
"""

import argparse

import keras
import numpy as np
from pipeline_report import surroundings

import keras_effnetv2 as kev2
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource

STYLES = ("whole", "finetune")
WIDTHS = (32, 64, 128)


def build(classes: int, seed: int) -> keras.Model:
    """A convolutional network for pictures of any size from 8 pixels on."""
    keras.utils.set_random_seed(seed)
    inputs = keras.Input((None, None, 3))
    x = keras.layers.Rescaling(1 / 128, offset=-1)(inputs)
    for width in WIDTHS:
        for strides in (1, 2):
            x = keras.layers.Conv2D(width, 3, strides, padding="same", use_bias=False)(x)
            x = keras.layers.BatchNormalization()(x)
            x = keras.layers.Activation("silu")(x)
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def train(
    source: ImageSource, reduced: bool, options: argparse.Namespace, seed: int
) -> keras.Model:
    """A network trained with the reduced decode or without; all else is equal."""
    model = build(len(source.class_names), seed)
    steps = options.epochs * (source.num_examples // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.002, steps)
    model.compile(keras.optimizers.Adam(rate), "categorical_crossentropy", jit_compile=False)
    for epoch in range(options.epochs):
        batches = make_dataset(
            source,
            image_size=options.image_size,
            batch_size=options.batch_size,
            training=True,
            seed=seed,
            epoch=epoch,
            crop_area=(0.25, 1.0),
            reduced_decode=reduced,
        )
        model.fit(batches, verbose=0)
    return model


def accuracies(model: keras.Model, test: ImageSource, image_size: int) -> list[float]:
    """The accuracy in percent with each of `STYLES`."""
    found = []
    for style in STYLES:
        batches = make_dataset(
            test, image_size=image_size, batch_size=500, training=False, style=style
        )
        scores = model.predict(batches, verbose=0)
        found.append(100 * float(np.mean(scores.argmax(axis=1) == test.labels)))
    return found


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--pictures", type=int, default=10_000, help="to train on")
    parser.add_argument("--image-size", type=int, default=12)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    training = kev2.load_source(options.data, "train").stratified_subset(options.pictures, 0)
    training = training.cached("memory")
    test = kev2.load_source(options.data, "test").cached("memory")
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    found = {True: [], False: []}
    for seed in range(options.seeds):
        for reduced, rows in found.items():
            rows.append(
                accuracies(train(training, reduced, options, seed), test, options.image_size)
            )
            scores = ", ".join(f"{s} {v:.2f}%" for s, v in zip(STYLES, rows[-1], strict=True))
            print(f"seed {seed}, reduced decode {'on' if reduced else 'off'}: {scores}", flush=True)
    for style, values in zip(STYLES, np.subtract(found[True], found[False]).T, strict=True):
        print(
            f"{style}: on minus off {values.mean():+.2f} points, "
            f"standard deviation of a pair {values.std(ddof=1):.2f}"
        )


if __name__ == "__main__":
    main()
