"""What an export says of itself: its classes, how pictures are prepared, how sure its scores are.

Each format has its own place for it. All of it is JSON there, under `KEY` or in a file; beside it
are names that other programs look for. Reading starts neither Keras nor TensorFlow.
"""

import json
import os
import re
import xml.etree.ElementTree as ElementTree
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from keras_effnetv2._common.checks import (
    check_choice,
    check_class_names,
    check_integer,
    check_number,
    check_thresholds,
)
from keras_effnetv2._common.files import parse_json, read_json
from keras_effnetv2._common.text import first_line, printable
from keras_effnetv2.export.converters import optional_module
from keras_effnetv2.export.outputs import version_folder
from keras_effnetv2.images.styles import EVALUATION_STYLES, Style
from keras_effnetv2.pretrained.registry import CentralCrop

MODEL_CARD = "model_card.json"
"""The card of a SavedModel, inside the folder of a version."""

LABELS_ASSET = "assets/labels.txt"
"""Where TensorFlow puts what `signatures.label_table` writes, in the same folder."""

KEY = "keras_effnetv2"
"""Where an ONNX, OpenVINO or `.keras` file holds the metadata of this package."""

PIXEL_RANGE = (0, 255)
"""Of the pictures that exports take."""

_MAX_BYTES = 2**24  # of JSON; a file of 21,843 class names has less than one million
_LABELS, _METADATA = "labels.txt", "metadata.json"  # in the zip archive at the end of a LiteRT file
_KERAS_MEMBER = f"{KEY}.json"  # of a .keras archive, whose metadata.json is that of Keras


@dataclass(frozen=True, kw_only=True)
class Metadata:
    """What an exported network needs to be used as it was judged; None where it does not say."""

    class_names: tuple[str, ...] | None = None
    image_size: int | None = None  # height and width of its pictures, pixels
    style: Style | None = None  # see `evaluation_crop.resize_for_evaluation`
    pixel_range: tuple[int, int] | None = None  # the network normalises pixels itself
    activation: str | None = None  # "softmax" or "sigmoid"
    # What logits are divided by to calibrate the scores. The network computes them without it.
    temperature: float | None = None
    # A picture whose highest score, without temperature, is lower may show no class; 0..1.
    none_below: float | None = None
    # Multi-label: the score of each class, 0..1, from which on it is named.
    thresholds: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        check_class_names(self.class_names or ())
        check_integer("image_size", self.image_size, minimum=1, or_none=True)
        if self.style is not None and not isinstance(self.style, CentralCrop):
            check_choice("style", self.style, EVALUATION_STYLES)
        check_choice("pixel_range", self.pixel_range, (None, PIXEL_RANGE))
        check_choice("activation", self.activation, (None, "softmax", "sigmoid"))
        check_number("temperature", self.temperature, above=0, or_none=True)
        check_number("none_below", self.none_below, minimum=0, maximum=1, or_none=True)
        check_thresholds(self.thresholds, len(self.class_names or ()))

    @classmethod
    def from_dict(cls, values: Any) -> "Metadata":
        """Read what JSON made of `asdict`; fields of a later version are left out."""
        known = {one.name for one in fields(cls)}
        given = {name: value for name, value in values.items() if name in known}
        if isinstance(given.get("style"), list):
            given["style"] = CentralCrop(*given["style"])
        for name in ("class_names", "pixel_range", "thresholds"):
            if given.get(name) is not None:
                given[name] = tuple(given[name])
        return cls(**given)


def write_metadata(path: Path, metadata: Metadata) -> None:
    """Add metadata to an ONNX, OpenVINO, LiteRT or `.keras` file that has none."""
    write, _ = _PLACES[path.suffix]
    write(path, metadata.class_names or (), json.dumps(asdict(metadata)))


def read_metadata(path: str | os.PathLike[str]) -> Metadata:
    """Return what an export says of itself; a file of another program says nothing.

    Args:
        path: a file that `export_model` wrote (`.onnx`, `.xml`, `.tflite`), the `model.keras` of
            a run, or what `export_saved_model` wrote: the folder of a version, or of versions,
            whose newest is read.

    Raises:
        ValueError: it is no export, or is damaged.
        FileNotFoundError: there is no such file.
        ImportError: an ONNX file needs the package onnx.
    """
    path = Path(path)
    folder = version_folder(path)
    if folder is None and path.suffix not in _PLACES:
        raise ValueError(
            f"An export is the folder of a SavedModel or ends in {', '.join(_PLACES)}. "
            f"Received: {str(path)!r}"
        )
    if folder is None and not path.is_file():
        raise FileNotFoundError(f"There is no exported file {path}")
    try:
        return Metadata.from_dict(_of_file(path) if folder is None else _of_saved_model(folder))
    except (AttributeError, LookupError, TypeError, ValueError) as error:
        raise ValueError(
            f"{path} does not say clearly what its classes and its pictures are "
            f"({first_line(error)}). Export the network again."
        ) from None


def _of_saved_model(folder: Path) -> dict[str, Any]:
    if not (folder / MODEL_CARD).is_file():
        return {}
    try:
        card = read_json(folder / MODEL_CARD)
        names = (folder / LABELS_ASSET).read_text("utf-8").splitlines()
    except OSError as error:
        raise ValueError(f"{error.filename}: {error.strerror}") from None
    return {"class_names": names, **card["preprocessing"], **card["scores"]}


def _of_file(path: Path) -> Any:
    try:
        _, read = _PLACES[path.suffix]
        text = read(path)
    except (ImportError, MemoryError):
        raise
    except Exception as error:  # each format has its own for a damaged file
        raise ValueError(first_line(error)) from None
    return {} if text is None else parse_json(text, _MAX_BYTES)


def _write_onnx(path: Path, class_names: Sequence[str], text: str) -> None:
    onnx = optional_module("onnx")
    model = onnx.load(path)
    # https://onnx.ai/onnx/repo-docs/MetadataProps.html; "names" is that of Ultralytics.
    properties = {
        KEY: text,
        "Image.BitmapPixelFormat": "Rgb8",
        "Image.NominalPixelRange": "NominalRange_0_255",
        "names": str(dict(enumerate(class_names))),
    }
    onnx.helper.set_model_props(model, properties)
    onnx.save(model, path)


def _read_onnx(path: Path) -> str | None:
    model = optional_module("onnx").load(path, load_external_data=False)
    return {one.key: one.value for one in model.metadata_props}.get(KEY)


def _write_openvino(path: Path, class_names: Sequence[str], text: str) -> None:
    tree = ElementTree.parse(path)
    root = tree.getroot()
    info = _child(root, "rt_info")
    _child(_child(info, KEY), "metadata").set("value", text)
    # Read by OpenVINO's Model API and DL Streamer, which divide the labels at spaces.
    labels = " ".join(re.sub(r"\s", "_", printable(name)) for name in class_names)
    model_info = {"model_type": "Classification", "labels": labels}
    for name, value in model_info.items():
        _child(_child(info, "model_info"), name).set("value", value)
    tree.write(path, "utf-8", xml_declaration=True)


def _child(element: ElementTree.Element, name: str) -> ElementTree.Element:
    found = element.find(name)
    return ElementTree.SubElement(element, name) if found is None else found


def _read_openvino(path: Path) -> str | None:
    found = ElementTree.parse(path).find(f"rt_info/{KEY}/metadata")
    return None if found is None else found.attrib["value"]


def _write_litert(path: Path, class_names: Sequence[str], text: str) -> None:
    # A zip archive after the model, as LiteRT's own metadata has its associated files.
    labels = "".join(f"{name}\n" for name in class_names)
    _add_members(path, {_LABELS: labels, _METADATA: text})


def _read_litert(path: Path) -> bytes | None:
    return _read_member(path, _METADATA) if zipfile.is_zipfile(path) else None


def _write_keras(path: Path, class_names: Sequence[str], text: str) -> None:
    _add_members(path, {_KERAS_MEMBER: text})


def _read_keras(path: Path) -> bytes | None:
    return _read_member(path, _KERAS_MEMBER)


def _add_members(path: Path, contents: Mapping[str, str]) -> None:
    with zipfile.ZipFile(path, "a") as archive:
        for name, content in contents.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without the time


def _read_member(path: Path, name: str) -> bytes | None:
    with zipfile.ZipFile(path) as archive:
        if name not in archive.namelist():
            return None
        with archive.open(name) as file:
            return file.read(_MAX_BYTES + 1)


_PLACES: Mapping[str, tuple[Any, Any]] = {
    ".onnx": (_write_onnx, _read_onnx),
    ".xml": (_write_openvino, _read_openvino),
    ".tflite": (_write_litert, _read_litert),
    ".keras": (_write_keras, _read_keras),
}
