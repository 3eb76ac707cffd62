"""Grad-CAM of picture files, as pictures for the page: what the network saw, and where it looked.

The heat map comes from the Keras model of a run; the SavedModel has no gradients. Files that the
SavedModel refuses (too many pixels, a GIF) are not decoded here either.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2.images.evaluation_crop import prepare_batch
from keras_effnetv2.models.grad_cam import HeatMap, explainer
from keras_effnetv2.runs.run_folder import Run
from keras_effnetv2.serve.batching import Function
from keras_effnetv2.serve.errors import RequestError

# From vermilion to a light yellow (Okabe & Ito's, see `report/style.py`): told apart by brightness
# alone, too.
_LOW, _HIGH = (213.0, 94.0, 0.0), (255.0, 240.0, 120.0)
_OPAQUE = 0.85  # of the hottest place, so that the picture is still seen below it


class Overlay(NamedTuple):
    """An explained picture.

    Attributes:
        class_name: the explained class.
        picture: a PNG of what the network saw.
        overlay: a PNG of the same size; its opacity is the heat.
    """

    class_name: str
    picture: bytes
    overlay: bytes


Explain = Callable[[bytes, str], Overlay]
"""Takes a picture file and a class, "" for the best; RequestError if either is invalid."""


def overlay_function(run: Run, classify: Function) -> Explain:
    """Return a function that explains files with a run; `classify` calls its export."""
    explain = explainer(run.model)

    def explain_file(file: bytes, class_name: str) -> Overlay:
        answer = classify({"image_bytes": np.array([file], dtype=object)})
        if error := answer["error"][0]:
            raise RequestError(400, error.decode("utf-8", "replace"))
        name = class_name or answer["classes"][0][0].decode("utf-8")
        if name not in run.class_names:
            raise RequestError(400, "The model has no class with this name")
        pixels = prepare_batch(tf.constant([file]), run.image_size, run.style)[0][0].numpy()
        heat = explain(pixels, list(run.class_names).index(name))
        return Overlay(name, _png(pixels.clip(0, 255).round()), _png(_coloured(heat)))

    return explain_file


def _coloured(heat: HeatMap) -> npt.NDArray[Any]:
    """Return (H, W, 4) colours 0..255 of a heat map."""
    shade = heat[..., np.newaxis]
    colour = np.array(_LOW) * (1 - shade) + np.array(_HIGH) * shade
    return np.concatenate([colour, 255 * _OPAQUE * shade], axis=-1).round()


def _png(pixels: npt.NDArray[Any]) -> bytes:
    data: bytes = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
    return data
