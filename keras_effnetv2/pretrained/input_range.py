"""The normalisation of pixels that a file or a model states."""

import re
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from keras_effnetv2.architectures.normalization import NORMALIZATIONS, Normalization, ScaleAndOffset
from keras_effnetv2.pretrained.places import FIRST_LAYER, PIXELS, own_name

Layers = Sequence[tuple[str, Mapping[str, Any]]]
"""Class and settings of each layer in front of a network, in the order of the model."""

# Layers that leave pixels as they are when the network is used.
_KEEPS_PIXELS = re.compile(
    r"InputLayer|ZeroPadding2D|Resizing|CenterCrop|Cropping2D|Random\w*|RandAugment|AugMix|MixUp|"
    r"CutMix|AutoContrast|Gaussian(Noise|Dropout)|\w*Dropout\w*|Identity|Cast"
)
_HAS_WEIGHTS = re.compile(r"\w*Conv\w*|Dense|BatchNormalization")
_EPSILON = 1e-7  # smallest deviation in a `Normalization`, as of Keras
_WRONG = (LookupError, TypeError, AttributeError, ValueError, OverflowError)


def layers_in_front(description: Mapping[str, Any]) -> Layers:
    """Return the layers in front of the network's first one, from the JSON of a Keras model.

    Nested models are opened. Without the network the result is empty.
    """
    found: list[tuple[str, Mapping[str, Any]]] = []
    waiting = deque([description])
    try:
        while waiting:
            layer = waiting.popleft()
            kind, config = str(layer["class_name"]), layer.get("config") or {}
            inner = config if isinstance(config, list) else config.get("layers")
            if isinstance(inner, list):  # a model
                waiting.extendleft(reversed(inner))
            elif own_name(str(config.get("name"))) == FIRST_LAYER:
                return found
            else:
                found.append((kind, config))
    except _WRONG:
        raise ValueError("its description of the model is not one that Keras writes") from None
    return []


def stated_by_layers(
    layers: Layers, arrays: Mapping[str, np.ndarray]
) -> Normalization | ScaleAndOffset | None:
    """Return what the layers in front of a network do to pixels; None if they do nothing.

    Args:
        layers: layers in front of the network. Those before another layer with weights belong to
            that one and are left out.
        arrays: layer and weight, e.g. "normalization/mean", with or without ":0" -> array.

    Raises:
        ValueError: they do more than scale and shift each channel.
    """
    scale, offset = np.ones(3), np.zeros(3)
    is_stated = False
    for index in reversed(range(len(layers))):
        kind, config = layers[index]
        if _KEEPS_PIXELS.fullmatch(kind):
            continue
        try:
            factor, shift = _factor_and_shift(kind, config, arrays)
        except _WRONG:
            if any(_HAS_WEIGHTS.fullmatch(earlier) for earlier, _ in layers[: index + 1]):
                break
            raise ValueError(
                f"its layer {str(config.get('name'))!r} ({kind}) changes the pixels in a way that "
                "cannot be rebuilt. Build the model with weights=None and "
                "include_preprocessing=False, load the file with load_weights, and normalise the "
                "pixels as that layer does"
            ) from None
        scale, offset = factor * scale, shift * scale + offset
        is_stated = True
        if own_name(str(config.get("name"))) == PIXELS:
            break  # ours takes pixels 0..255, from the layers in front of it
    return _named(scale, offset) if is_stated else None


def _factor_and_shift(
    kind: str, config: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> tuple[np.ndarray, np.ndarray]:
    """Return the scale and the offset of a layer, one number per channel each."""
    if kind == "Rescaling":
        return _per_channel(config["scale"]), _per_channel(config.get("offset", 0))
    if kind != "Normalization":
        raise ValueError
    name = config["name"]

    def values(what: str) -> np.ndarray:
        given = config.get(what)
        if given is None:
            given = arrays.get(f"{name}/{what}", arrays.get(f"{name}/{what}:0"))
        return _per_channel(given)

    with np.errstate(invalid="ignore"):  # a negative variance; then the numbers are not finite
        mean, deviation = values("mean"), np.maximum(np.sqrt(values("variance")), _EPSILON)
    return (deviation, mean) if config.get("invert") else (1 / deviation, -mean / deviation)


def stated_by_timm(config: Mapping[str, Any]) -> Normalization | ScaleAndOffset | None:
    """Return the normalisation in a config.json of PyTorch Image Models; None without one.

    Raises:
        ValueError: its `mean` or `std` is not one number per channel.
    """
    if config.get("mean") is None and config.get("std") is None:
        return None
    try:
        mean, deviation = _per_channel(config["mean"]), _per_channel(config["std"])
        if not (deviation > 0).all():
            raise ValueError
        with np.errstate(over="ignore"):
            return _named(1 / (255 * deviation), -mean / deviation)
    except _WRONG:
        raise ValueError(
            "its mean and std must be three numbers each, of pixels 0..1, and std above 0. "
            f"Received: mean={config.get('mean')!r}, std={config.get('std')!r}"[:400]
        ) from None


def _per_channel(value: Any) -> np.ndarray:
    """Return three numbers from JSON of one number, or of one per channel in any shape."""
    if isinstance(value, dict):  # a tuple or an array, as Keras writes them
        value = value["items"] if "items" in value else value["config"]["value"]
    numbers = np.asarray(value, np.float64).ravel()
    if numbers.size not in (1, 3) or not np.isfinite(numbers).all():
        raise ValueError
    return np.broadcast_to(numbers, 3)


def _named(scale: np.ndarray, offset: np.ndarray) -> Normalization | ScaleAndOffset:
    """Return a normalisation by its name, or as numbers if it has none."""
    if not (np.isfinite(scale).all() and np.isfinite(offset).all()):
        raise ValueError("its normalisation of pixels has numbers that are not finite")
    for name, known in NORMALIZATIONS.items():
        if np.allclose((scale, offset), known, rtol=1e-4, atol=0):
            return name
    return tuple(scale.tolist()), tuple(offset.tolist())
