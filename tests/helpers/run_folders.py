"""Run folders for tests of what comes after a training, without one."""

import json
from dataclasses import replace
from pathlib import Path

import tensorflow as tf

from helpers.served_models import NAMES, SIZE, make_model
from keras_effnetv2 import export_saved_model
from keras_effnetv2.runs.run_folder import LABELS, MODEL, SAVED_MODEL, write_settings
from keras_effnetv2.runs.run_settings import RunSettings

GOLDEN = Path(__file__).parents[1] / "golden" / "runs" / "recipe.json"


def recorded_settings(**changes):
    """The settings of a finished run, as an earlier version wrote them, with some changed."""
    return replace(RunSettings.from_dict(json.loads(GOLDEN.read_text("utf-8"))), **changes)


def write_run(folder, style="whole"):
    """Writes what is read of a finished run; returns the model."""
    model = make_model()
    model.save(folder / MODEL)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
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
