"""How the default of `reduced_decode` was judged: the distance of crops from the ideal picture.

    python benchmarks/reduced_decode.py --data FOLDER_OF_PHOTOS

The ideal is the whole decoded picture, resized with antialias. Mean absolute difference in grey
levels, with the reduced decode and as the official code does it, over the photos of a flat folder
whose shorter side is at least twice the size.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
import tensorflow as tf
from pipeline import open_pictures
from pipeline_report import surroundings

from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.training_crop import decode_random_crop


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


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of JPEG photos")
    parser.add_argument("--image-size", type=int, nargs="+", default=[64, 128])
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source = open_pictures(arguments.data, Path(scratch))
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    for size in arguments.image_size:
        found = distances(source, size)
        print(f"{size} pixels: {found[True]:.2f} grey levels with it, {found[False]:.2f} without")


if __name__ == "__main__":
    main()
