"""Run folders for tests of what comes after a training, without one."""

import json

from helpers.served_models import NAMES, SIZE, make_model
from keras_effnetv2 import export_saved_model
from keras_effnetv2.runs.run_folder import LABELS, MODEL, RECIPE, SAVED_MODEL


def write_run(folder, style="whole"):
    """Writes what is read of a finished run; returns the model."""
    model = make_model()
    model.save(folder / MODEL)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    settings = {
        "finished": True,
        "model": "tiny",
        "weights": "imagenet",
        "training": {"spec": "photos"},
        "image_size": SIZE,
        "recipe": {"evaluation_style": style},
    }
    (folder / RECIPE).write_text(json.dumps(settings))
    return model


def write_export(folder):
    """Writes an export of version 10, and an older one, 9; returns the folder."""
    _write_versions(make_model(), folder)
    return folder


def write_served_run(folder):
    """Writes a run with the versions of `write_export`; returns the folder."""
    _write_versions(write_run(folder), folder / SAVED_MODEL)
    return folder


def _write_versions(model, folder):
    export_saved_model(model, folder, NAMES, version=10)
    older = folder / "9"
    older.mkdir()
    (older / "saved_model.pb").write_bytes(b"")
