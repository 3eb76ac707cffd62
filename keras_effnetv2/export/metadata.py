"""What an exported file says about its classes and pictures. Read without TensorFlow."""

import os
from dataclasses import dataclass

from keras_effnetv2.images.styles import Style


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
    """Return what an ONNX, OpenVINO or LiteRT file says about itself."""
    return Metadata()
