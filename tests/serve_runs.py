"""A run folder for tests of the server, without a training."""

import json

from served_models import NAMES, SIZE, make_model

from keras_effnetv2 import export_saved_model
from keras_effnetv2.training.run_folder import LABELS, MODEL, RECIPE, SAVED_MODEL


def write_run(folder):
    """Writes what the server reads of a run: version 10 of its export, and an older one, 9."""
    model = make_model()
    model.save(folder / MODEL)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    settings = {"finished": True, "image_size": SIZE, "recipe": {"evaluation_style": "whole"}}
    (folder / RECIPE).write_text(json.dumps(settings))
    export_saved_model(model, folder / SAVED_MODEL, NAMES, version=10)
    older = folder / SAVED_MODEL / "9"
    older.mkdir()
    (older / "saved_model.pb").write_bytes(b"")
    return folder
