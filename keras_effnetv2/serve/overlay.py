"""Grad-CAM of picture files for the page, to be laid over them: where the network looked.

The heat map comes from the Keras model of a run; the SavedModel has no gradients. Files that the
SavedModel refuses (too many pixels, a GIF) are not decoded here either.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import matplotlib
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation, seen_window
from keras_effnetv2.models.grad_cam import HeatMap, explainer
from keras_effnetv2.runs.run_folder import Run
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.loaded_model import Function, file_columns

_MAX_EDGE = 512  # pixels; a heat map is smooth, and the page stretches it over the picture


class Overlay(NamedTuple):
    """The explanation of a class in a picture."""

    class_name: str
    # A PNG to be laid over the whole picture, of its shape, at most `_MAX_EDGE` pixels wide and
    # high; transparent where the network does not look or see.
    overlay: bytes


Explain = Callable[[bytes, str], Overlay]
"""Takes a picture file and a class, "" for the best; RequestError if either is invalid."""


def overlay_function(run: Run, classify: Function) -> Explain:
    """Return a function that explains files with a run; `classify` calls its export."""
    explain = explainer(run.model)

    def explain_file(file: bytes, class_name: str) -> Overlay:
        answer = classify(file_columns([file]))
        if error := answer["error"][0]:
            raise RequestError(400, error.decode("utf-8", "replace"))
        name = class_name or answer["classes"][0][0].decode("utf-8")
        if name not in run.class_names:
            raise RequestError(400, "The model has no class with this name")
        picture = decode_image(tf.constant(file))
        pixels = resize_for_evaluation(picture, run.image_size, run.style)
        heat = explain(pixels.numpy(), list(run.class_names).index(name))
        height, width, _ = picture.shape
        window = seen_window(height, width, run.image_size, run.style)
        return Overlay(name, _png(_coloured(_placed(heat, (height, width), window))))

    return explain_file


def _placed(
    heat: HeatMap, extent: tuple[int, int], window: tuple[int, int, int, int]
) -> npt.NDArray[np.float32]:
    """Return the heat map of a part of a picture as one of the whole, reduced to `_MAX_EDGE`."""
    scale = min(1.0, _MAX_EDGE / max(extent))
    rows, columns = (
        slice(math.floor(begin * scale), math.ceil((begin + length) * scale))
        for begin, length in zip(window[:2], window[2:], strict=True)
    )
    placed = np.zeros([math.ceil(side * scale) for side in extent], np.float32)
    part = placed[rows, columns]
    part[...] = tf.image.resize(heat[..., np.newaxis], part.shape)[..., 0]
    return placed


def _coloured(heat: npt.NDArray[np.float32]) -> npt.NDArray[Any]:
    """Return (H, W, 4) colours 0..255 of a heat map, the hotter the brighter.

    They are seen on light, dark and colourful photographs, also by readers who do not see red or
    green. A third of the highest heat is opaque already; below, the colour fades out.
    """
    colours = matplotlib.colormaps["plasma"](heat)
    colours[..., 3] = np.minimum(3 * heat, 1)
    return (255 * colours).round()


def _png(pixels: npt.NDArray[Any]) -> bytes:
    data: bytes = tf.io.encode_png(pixels.astype(np.uint8)).numpy()
    return data
