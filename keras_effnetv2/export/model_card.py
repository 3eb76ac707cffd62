"""`model_card.json`: what an exported model is, for programs that deploy, check or list models."""

import dataclasses
import datetime
import json
from collections.abc import Mapping
from pathlib import Path

import keras
import tensorflow as tf

from keras_effnetv2._common.files import file_sha256
from keras_effnetv2._version import __version__
from keras_effnetv2.export.metadata import LABELS_ASSET, MODEL_CARD, Metadata
from keras_effnetv2.export.signatures import PictureInput


def write_model_card(
    folder: Path,
    model: Mapping[str, str | int | None],
    pictures: PictureInput,
    metadata: Metadata,
    accuracy: Mapping[str, str | float | None],
    top_k: int,
) -> None:
    """Write the card of a SavedModel into its folder, when all other files are there.

    `model` identifies the model (name, variant, weights, number of parameters); `accuracy` replaces
    the default entries of that section.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    hashes = {path.relative_to(folder).as_posix(): file_sha256(path) for path in files}
    classes = (folder / LABELS_ASSET).read_text("utf-8").count("\n")
    card = {
        "format_version": 1,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "model": dict(model),
        "classes": {
            "count": classes,
            "labels": LABELS_ASSET,
            "labels_sha256": hashes[LABELS_ASSET],
        },
        "top_k": top_k,
        "preprocessing": {
            **dataclasses.asdict(pictures),
            "pixel_range": metadata.pixel_range,
            "normalization": "inside the model",
        },
        "scores": {
            "activation": metadata.activation,
            # What divides logits to calibrate them, and below what no class may be shown; what is
            # served is without either. None where they were not fitted.
            "temperature": metadata.temperature,
            "none_below": metadata.none_below,
            "thresholds": metadata.thresholds,  # multi-label: of each class, above it it is named
        },
        # How what is served differs from the Keras model, in probabilities on photographs.
        "accuracy": {
            "batch_norm_folded": False,
            "not_folded_because": None,  # the reason, if that was asked for and is not possible
            "folding_max_difference": 0.0,
            # Of the Keras model by its rounding, where folding moves more than the limit.
            "rounding_max_difference": None,
            "weights_dtype": "float32",  # of stored kernels; vectors stay as they are
            "weights_max_difference": 0.0,
            **accuracy,
        },
        "versions": {
            "keras_effnetv2": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
        },
        "files": hashes,
    }
    (folder / MODEL_CARD).write_text(json.dumps(card, indent=2) + "\n", encoding="utf-8")
