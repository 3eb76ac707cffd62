"""What an export says about its classes and pictures."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_effnetv2._common.files import read_json
from keras_effnetv2.images.styles import Style
from keras_effnetv2.pretrained.registry import CentralCrop


@dataclass(frozen=True)
class Metadata:
    """What a file says about itself; None where it says nothing.

    Attributes:
        class_names: one for each output.
        image_size: side of the pictures, pixels.
        style: how they become squares, see `evaluation_crop.resize_for_evaluation`.
    """

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None
    style: Style | None = None


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Return what an ONNX, OpenVINO or LiteRT file or the folder of a SavedModel says about itself.

    Raises:
        ValueError: the card of a SavedModel is damaged.
    """
    path = Path(path)
    return _of_saved_model(path) if path.is_dir() else Metadata()


def _of_saved_model(folder: Path) -> Metadata:
    from keras_effnetv2.export.model_card import LABELS_ASSET, MODEL_CARD

    if not (folder / MODEL_CARD).is_file():  # of another program
        return Metadata()
    try:
        names = (folder / LABELS_ASSET).read_text("utf-8").splitlines()
        pictures = read_json(folder / MODEL_CARD)["preprocessing"]
        style = pictures["style"]
        style = style if isinstance(style, str) else CentralCrop(*style)
        return Metadata(tuple(names), pictures["image_size"], style)
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise ValueError(f"{folder / MODEL_CARD} is damaged: {error!r}") from None
