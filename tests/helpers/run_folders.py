"""Run folders for tests of what comes after a training, without one."""

from dataclasses import replace

import tensorflow as tf

from helpers.served_models import NAMES, SIZE, make_model
from keras_effnetv2 import TrainRecipe, export_saved_model
from keras_effnetv2.data.picture_record import PictureRecord
from keras_effnetv2.runs.run_folder import LABELS, MODEL, PICTURES, SAVED_MODEL, write_settings
from keras_effnetv2.runs.run_settings import Limits, RecordedPictures, RunSettings

NO_PICTURES = PictureRecord((), ())


def recorded_settings(**changes):
    """The settings of a finished run of the digits, with some changed."""
    recipe, plan = replace(
        TrainRecipe.preset("quickstart"),
        **{"epochs": 2, "stages": 2, "image_size": (32, 40), "batch_size": 32},
        batch_norm="train",
    ).resolve("efficientnetv2-b0")
    settings = RunSettings(
        finished=True,
        model="efficientnetv2-b0",
        architecture=None,
        weights=None,
        is_pretrained=False,
        training=RecordedPictures("digits", "train", 100),
        validation=RecordedPictures("digits", "validation", 359),
        validation_fraction=None,
        max_train_examples=100,
        class_names=tuple("0123456789"),
        recipe=recipe,
        stages=tuple(plan),
        limits=Limits(),
        max_pictures_per_epoch=None,
        image_size=40,
        thresholds=None,
        pictures_sha256=NO_PICTURES.fingerprint,
        result={"validation_accuracy": 0.1, "validation_loss": 2.3, "seconds": 46.5},
    )
    return replace(settings, **changes)


def write_run(folder, style="whole"):
    """Writes what is read of a finished run; returns the model."""
    model = make_model()
    model.save(folder / MODEL)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    NO_PICTURES.write(folder / PICTURES)
    settings = recorded_settings(
        model="tiny", weights="imagenet", image_size=SIZE, class_names=tuple(NAMES)
    )
    recipe = replace(settings.recipe, evaluation_style=style)
    training = replace(settings.training, spec="photos")
    write_settings(folder, replace(settings, recipe=recipe, training=training))
    return model


def write_export(folder):
    """Writes an export of version 10, and an older one, 9; returns the folder."""
    _write_versions(make_model(), folder)
    return folder


def write_served_run(folder):
    """Writes a run with the versions of `write_export`; returns the folder."""
    _write_versions(write_run(folder), folder / SAVED_MODEL)
    return folder


def write_stuck_export(folder):
    """Writes version 10 of a model that never ends with the file "stuck"; returns the folder."""

    @tf.function(input_signature=[tf.TensorSpec([None], tf.string, "image_bytes")])
    def classify(image_bytes):
        is_stuck = tf.reduce_any(tf.equal(image_bytes, "stuck"))
        (zero,) = tf.while_loop(lambda n: is_stuck & (n >= 0), lambda n: (n * 0,), [0])
        return {"error": tf.fill(tf.shape(image_bytes) + zero, "")}

    module = tf.Module()
    tf.saved_model.save(module, str(folder / "10"), signatures={"classify_bytes": classify})
    return folder


def _write_versions(model, folder):
    export_saved_model(model, folder, NAMES, version=10)
    older = folder / "9"
    older.mkdir()
    (older / "saved_model.pb").write_bytes(b"")
