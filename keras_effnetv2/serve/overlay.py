"""Grad-CAM of picture files, as pictures for the page: what the network saw, and where it looked.

The heat map is of the Keras model that a run keeps; the SavedModel has no gradients. What the
SavedModel refuses (too many pixels, a GIF) is not decoded here either.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2.images.evaluation_crop import prepare_batch
from keras_effnetv2.models.grad_cam import HeatMap, explainer
from keras_effnetv2.runs.run_folder import Run
from keras_effnetv2.serve.batching import Function
from keras_effnetv2.serve.loaded_model import Columns

# From vermilion to a light yellow (Okabe & Ito's, see `report_style.py`): told apart by brightness
# alone, too.
_LOW, _HIGH = (213.0, 94.0, 0.0), (255.0, 240.0, 120.0)
_OPAQUE = 0.85  # of the hottest place, so that the picture is still seen below it


def overlay_function(run: Run, classify: Function) -> Function:
    """Return a function of picture files that explains their classes.

    It takes `image_bytes` string (N,) and `class_name` string (N,), empty for the best class. It
    gives, all string (N,): `class_name`, the class explained; `picture`, a PNG of what the network
    saw; `overlay`, a PNG of the same size whose opacity is the heat; and `error`, why there are
    none, empty where all is well.

    Args:
        run: the run whose export is served.
        classify: the signature `classify_bytes` of that export.
    """
    explain = explainer(run.model)
    numbers = {name.encode("utf-8"): index for index, name in enumerate(run.class_names)}

    def explain_one(file: bytes, name: bytes) -> dict[str, bytes]:
        if name not in numbers:
            reason = b"The model has no class of this name"
            return {"class_name": name, "picture": b"", "overlay": b"", "error": reason}
        pixels = prepare_batch(tf.constant([file]), run.image_size, run.style)[0][0].numpy()
        heat = explain(pixels, numbers[name])
        picture, overlay = _png(pixels.clip(0, 255).round()), _png(_coloured(heat))
        return {"class_name": name, "picture": picture, "overlay": overlay, "error": b""}

    def explain_files(columns: Columns) -> Columns:
        files = columns["image_bytes"]
        answers = classify({"image_bytes": files})
        rows = [
            {"class_name": b"", "picture": b"", "overlay": b"", "error": error}
            if error
            else explain_one(file, asked or classes[0])
            for file, asked, classes, error in zip(
                files, columns["class_name"], answers["classes"], answers["error"], strict=True
            )
        ]
        names = ("class_name", "picture", "overlay", "error")
        return {name: np.array([row[name] for row in rows], dtype=object) for name in names}

    return explain_files


def _coloured(heat: HeatMap) -> npt.NDArray[Any]:
    """Return (H, W, 4) colours 0..255 of a heat map."""
    shade = heat[..., np.newaxis]
    colour = np.array(_LOW) * (1 - shade) + np.array(_HIGH) * shade
    return np.concatenate([colour, 255 * _OPAQUE * shade], axis=-1).round()


def _png(pixels: npt.NDArray[Any]) -> bytes:
    data: bytes = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
    return data
