"""What the config.json beside weights says of them, in the form of PyTorch Image Models (`timm`).

This package writes the same form, and under the key `OWN` what timm has no words for.
"""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from keras_effnetv2._common.checks import (
    check_choice,
    check_class_names,
    check_integer,
    check_number,
    check_thresholds,
)
from keras_effnetv2._common.files import read_json
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import (
    Normalization,
    ScaleAndOffset,
    scale_and_offset,
)
from keras_effnetv2.pretrained.input_range import stated_by_timm
from keras_effnetv2.pretrained.labels import class_list, has_class_list
from keras_effnetv2.pretrained.registry import CROP_MODES, INTERPOLATIONS, CentralCrop

CONFIG = "config.json"
REPOSITORY_FILES = ("model.safetensors", "pytorch_model.bin", "model.keras")
"""Files with the weights of a repository, the preferred one first."""

OWN = "keras_effnetv2"
"""The key of what only this package reads: `network`, `image_size`, `style` and so on."""

# A part of a path that begins with the name of an architecture, as files and folders of timm do;
# in the cache of the Hugging Face hub it follows after "models--timm--". Group: the name of a net
# that pads as PyTorch does.
ARCHITECTURE = re.compile(
    r"(?:models--timm--)?(?:tf_efficientnet|"
    r"((?:gc_)?efficientnet(?:_(?:b|lite)\d|v2_rw_[tsm]|v2_(?:s|m|l|xl)))(?![A-Za-z0-9]))"
)
WRONG_PADDING = (
    "It pads symmetrically, as PyTorch does, and its batch norms have another epsilon (timm: "
    "1e-5): in a network of this package, which pads as TensorFlow does and has 1e-3, its weights "
    "would give wrong results without a word. Use the tf_efficientnet* nets of timm; if it is one, "
    "give its file or folder that name"
)
_SIZES = (8, 1024)  # pixels; the largest in timm is 800
_MOST_CLASSES = 2**17
_LONGEST_NAME = 1000
_DEFAULT_CROP = 0.875  # of timm (timm/data/constants.py)


class Description(NamedTuple):
    """What a config.json says of the weights beside it. All is None where it says nothing."""

    architecture: str | None = None  # timm's name of the network
    # With the normalisation and the evaluation size of the weights; None if it is not one of ours.
    config: ModelConfig | None = None
    classes: int | None = None  # width of the classifier
    normalization: Normalization | ScaleAndOffset | None = None  # of pixels
    class_names: tuple[str, ...] | None = None  # one for each output
    image_size: int | None = None  # side of the pictures in evaluation, pixels
    style: str | CentralCrop | None = None  # how evaluation makes pictures square
    activation: str | None = None  # that the classifier was trained with
    thresholds: tuple[float, ...] | None = None  # scores from which on each class is named


NOTHING_SAID = Description()


def timm_architecture(variant: str) -> str:
    """Return timm's name of a published variant, e.g. "tf_efficientnetv2_s"."""
    return f"tf_{variant.replace('-', '_')}"


def to_timm(described: Description, crop: CentralCrop) -> dict[str, Any]:
    """Return the content of a config.json, the inverse of `read_description`.

    Nothing may be missing, but `architecture` if timm does not have the network. `crop` is
    evaluation as timm does it, for timm alone.
    """
    config, classes = described.config, described.classes
    assert config is not None
    scale, offset = map(np.asarray, scale_and_offset(config.normalization))
    size = [3, crop.size, crop.size]
    return {
        "architecture": described.architecture,
        "num_classes": classes,
        "num_features": config.head_filters,
        "global_pool": "avg",
        "label_names": described.class_names,
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": size,
            "fixed_input_size": False,
            "interpolation": crop.interpolation,
            "crop_pct": crop.fraction,
            "crop_mode": crop.mode,
            "mean": (-offset / (255 * scale)).round(9).tolist(),
            "std": (1 / (255 * scale)).round(9).tolist(),
            "num_classes": classes,
            "pool_size": [-(-side // config.strides) for side in size[1:]],
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
        OWN: {
            "network": None if described.architecture else json.loads(config.to_json()),
            "image_size": described.image_size,
            "style": described.style,
            "activation": described.activation,
            **({} if described.thresholds is None else {"thresholds": described.thresholds}),
        },
    }


def describe_beside(path: Path) -> Description:
    """Return what the config.json beside a file says; nothing if there is none.

    Raises:
        ValueError: it cannot be read or is not as timm writes it.
    """
    config = path.with_name(CONFIG)
    try:
        return read_description(config) if os.path.lexists(config) else NOTHING_SAID
    except ValueError as error:
        raise ValueError(f"{config}: {error}. Correct it or remove it.") from None


def read_description(path: Path) -> Description:
    """Read a config.json; errors do not name it."""
    try:
        values = read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"it cannot be read: {error}") from None
    outer = values if isinstance(values, dict) else {}
    nested = outer.get("pretrained_cfg")  # newer ones have most of it there
    said = {**outer, **(nested if isinstance(nested, dict) else {})}
    own = said.get(OWN)
    own = own if isinstance(own, dict) else {}
    architecture = said.get("architecture")
    normalization = stated_by_timm(said)
    config = _network(architecture, own.get("network"))
    classes = outer.get("num_classes", said.get("num_classes"))
    check_integer("num_classes", classes, minimum=1, maximum=_MOST_CLASSES, or_none=True)
    crop = _crop(said)
    size, style = own.get("image_size"), own.get("style")
    if size is None or not isinstance(style, str):
        size, style = (None, None) if crop is None else (crop.size, crop)
    check_integer("image_size", size, minimum=_SIZES[0], maximum=_SIZES[1], or_none=True)
    if config is not None:
        changed = normalization or config.normalization, size or config.eval_size
        config = replace(config, normalization=changed[0], eval_size=changed[1])
    activation = own.get("activation")
    check_choice("activation", activation, (None, "softmax", "sigmoid"))
    thresholds = own.get("thresholds")
    thresholds = tuple(thresholds) if isinstance(thresholds, list) else None
    check_thresholds(thresholds, classes or 0)
    return Description(
        architecture if isinstance(architecture, str) else None,
        *(
            config,
            classes,
            normalization,
            _class_names(outer.get("label_names") or said.get("label_names")),
            size,
            style,
            activation,
            thresholds,
        ),
    )


def _network(architecture: Any, own: Any) -> ModelConfig | None:
    if isinstance(own, dict):
        return ModelConfig.from_json(json.dumps(own))
    variants = {timm_architecture(name): name for name in ModelConfig.variants()}
    found = variants.get(architecture) if isinstance(architecture, str) else None
    return None if found is None else ModelConfig.from_name(found)


def _crop(said: Mapping[str, Any]) -> CentralCrop | None:
    """Return how timm evaluates; None if the size of the pictures is not given."""
    shape = said.get("test_input_size") or said.get("input_size")
    if shape is None:
        return None
    if not isinstance(shape, list) or len(shape) != 3 or shape[0] != 3 or shape[1] != shape[2]:
        raise ValueError(f"its input_size must be [3, SIZE, SIZE]. Received: {str(shape)[:80]}")
    check_integer("input_size", shape[1], minimum=_SIZES[0], maximum=_SIZES[1])
    fraction = said.get("test_crop_pct") or said.get("crop_pct") or _DEFAULT_CROP
    check_number("crop_pct", fraction, above=0, maximum=1)
    mode = said.get("crop_mode") or "center"
    check_choice("crop_mode", mode, CROP_MODES)
    interpolation = said.get("interpolation") or "bicubic"
    check_choice("interpolation", interpolation, INTERPOLATIONS)
    return CentralCrop(shape[1], float(fraction), mode, interpolation)


def _class_names(names: Any) -> tuple[str, ...] | None:
    """Return the names of the classes; None without names, or with those of a published list."""
    if isinstance(names, dict):  # number of the class -> name
        names = [names.get(str(index)) for index in range(len(names))]
    if not names:
        return None
    if not isinstance(names, list):
        raise ValueError(f"its label_names must be a list of names. Received: {str(names)[:80]}")
    check_class_names(names)
    if max(map(len, names)) > _LONGEST_NAME:
        raise ValueError(f"a name in its label_names has more than {_LONGEST_NAME} characters")
    known = class_list(len(names)) if has_class_list(len(names)) else ()
    is_published = any(names == [label[part] for label in known] for part in (0, 1))
    return None if is_published else tuple(names)
