"""Folders of small pictures, and a run that tells their three colours apart."""

from dataclasses import replace
from zlib import crc32

import keras
import numpy as np
import tensorflow as tf

from helpers.run_folders import recorded_settings
from keras_effnetv2 import load_source
from keras_effnetv2.data.picture_record import PictureRecord
from keras_effnetv2.runs.run_folder import LABELS, MODEL, PICTURES, write_settings
from keras_effnetv2.runs.run_settings import RecordedPictures

COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}


def write_picture(path, colour, size=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(crc32(bytes(path))).integers(0, 30, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def write_photos(folder, count=12):
    for name, colour in COLOURS.items():
        for number in range(count):
            write_picture(folder / name / f"{number}.png", colour)
    return folder


def write_colour_run(folder, trained_on):
    """Write a finished run whose network names the strongest of the three channels."""
    dense = keras.layers.Dense(3, "softmax", use_bias=False)
    layers = [keras.layers.Rescaling(1 / 255), keras.layers.GlobalAveragePooling2D(), dense]
    model = keras.Sequential([keras.Input((None, None, 3)), *layers])
    dense.set_weights([4 * np.eye(3, dtype=np.float32)[::-1]])  # blue, green, red
    folder.mkdir(parents=True)
    model.save(folder / MODEL)
    (folder / LABELS).write_text("blue\ngreen\nred\n", encoding="utf-8")
    settings = recorded_settings(image_size=32, class_names=("blue", "green", "red"))
    splits = [load_source(trained_on, split) for split in ("train", "validation")]
    training, validation = map(RecordedPictures.of, splits)
    settings = replace(settings, training=training, validation=validation, max_train_examples=None)
    record = PictureRecord.of(*splits, settings.recipe.seed)
    record.write(folder / PICTURES)
    write_settings(folder, replace(settings, pictures_sha256=record.fingerprint))
    return folder
