"""Does decoding JPEGs at a reduced scale cost accuracy? How the default was judged.

    python benchmarks/reduced_decode.py --data FOLDER_OF_PHOTOS

Two questions, on a flat folder of photos that are larger than the crops:

1. How far is a crop from the ideal one, that of the whole decoded picture with antialias? Mean
   absolute difference in grey levels, with the reduced decode and as the official code does it.
2. Every photo is a class of its own. A small network learns them from random crops with or without
   the reduced decode, then names each from its official evaluation crop, which is decoded whole.
   A loss from training on reduced pictures and meeting whole ones would show here.
"""

import argparse
import csv
import tempfile
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf
from pipeline_report import surroundings

from keras_effnetv2 import load_source, make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.decode import decode_image
from keras_effnetv2.random_crop import decode_random_crop


def photo_classes(folder: Path) -> ImageSource:
    """The photos of a folder, each a class of its own."""
    paths = sorted(path for path in folder.iterdir() if path.is_file())
    with tempfile.TemporaryDirectory() as scratch:
        table = Path(scratch, "photos.csv")
        with open(table, "w", newline="", encoding="utf-8") as file:
            rows = csv.writer(file)
            rows.writerow(("path", "label"))
            rows.writerows((path.absolute(), f"{number:04d}") for number, path in enumerate(paths))
        return load_source(f"csv:{table}", "all")


def distances(source: ImageSource, size: int) -> dict[bool, float]:
    """{whether reduced: mean absolute difference to the antialiased crop, grey levels}."""
    totals = {True: [], False: []}
    for data, _, index in source.dataset():
        if min(tf.io.extract_jpeg_shape(data)[:2]) < 2 * size:
            continue
        whole = tf.cast(decode_image(data), tf.float32)
        ideal = tf.image.resize(whole, [size, size], antialias=True)
        for reduced, found in totals.items():
            image = decode_random_crop(
                data, size, (index, 0), area=(1.0, 1.0), reduced_decode=reduced
            )
            found.append(float(tf.reduce_mean(tf.abs(image - ideal))))
    return {reduced: float(np.mean(found)) for reduced, found in totals.items()}


def build(size: int, classes: int) -> keras.Model:
    """Five strided convolutions, wide enough to tell some hundred photos apart."""
    inputs = keras.Input((size, size, 3))
    x = keras.layers.Rescaling(1 / 127.5, -1)(inputs)
    for filters in (24, 48, 96, 128):
        x = keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False)(x)
        x = keras.layers.ReLU()(keras.layers.BatchNormalization()(x))
    x = keras.layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, keras.layers.Dense(classes, activation="softmax")(x))


def recognition(source: ImageSource, size: int, epochs: int, seed: int, reduced: bool) -> float:
    """Share of the photos that are named right after training on random crops."""
    keras.utils.set_random_seed(seed)
    settings = {"image_size": size, "batch_size": 50}
    model = build(size, source.num_examples)
    steps = source.num_examples // settings["batch_size"]
    schedule = keras.optimizers.schedules.CosineDecay(3e-3, steps * epochs)
    model.compile(keras.optimizers.Adam(schedule), "categorical_crossentropy", metrics=["accuracy"])
    for epoch in range(epochs):
        data = make_dataset(
            source,
            training=True,
            reduced_decode=reduced,
            crop_area=(0.25, 1.0),
            seed=seed,
            epoch=epoch,
            **settings,
        )
        model.fit(data, verbose=0)
    judged = make_dataset(source, training=False, style="v2", **settings)
    return model.evaluate(judged, verbose=0)[1]


def main() -> None:
    """Measures and prints a Markdown section."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="flat folder of JPEG photos")
    parser.add_argument("--image-size", type=int, nargs="+", default=[64, 128])
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    source = photo_classes(arguments.data)
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    for size in arguments.image_size:
        found = distances(source, size)
        print(f"{size} px: distance to the antialiased picture {found[True]:.2f} grey levels with")
        print(f"the reduced decode, {found[False]:.2f} without")
    size = arguments.image_size[0]
    for seed in range(arguments.seeds):
        right = {
            reduced: recognition(source, size, arguments.epochs, seed, reduced)
            for reduced in (True, False)
        }
        print(f"{size} px, seed {seed}: {right[True]:.1%} with, {right[False]:.1%} without")


if __name__ == "__main__":
    main()
