"""PyTorch Image Models (`timm`), .safetensors of its tf_efficientnet* nets: names and reader.

The nets without `tf_` have the same names of tensors, but pad symmetrically as PyTorch does and
have another epsilon in their batch norms: they are recognised as far as that can be and refused.
"""

import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from safetensors import SafetensorError, safe_open

from keras_effnetv2._common.files import read_json
from keras_effnetv2.pretrained.contents import Contents
from keras_effnetv2.pretrained.input_range import stated_by_timm
from keras_effnetv2.pretrained.places import CLASSIFIER, Place, layer_names, weight_names

if TYPE_CHECKING:
    import keras

_LOG = logging.getLogger("keras_effnetv2")
_LAYERS = layer_names(
    outside="conv_stem bn1 conv_head bn2 classifier",
    fused_1="conv bn1",
    fused="conv_exp bn1 conv_pwl bn2",
    mbconv_1="conv_dw bn1 conv_pw bn2",
    mbconv="conv_pw bn1 conv_dw bn2 conv_pwl bn3",
    squeeze_excite="se.conv_reduce se.conv_expand",
)
_WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
# Filters before and after the last convolution, of nets that timm has with PyTorch's padding only
# (timm/models/efficientnet.py, `_gen_efficientnetv2_s`).
_RW_HEADS = {
    (208, 1024): "efficientnetv2_rw_t",
    (272, 1792): "efficientnetv2_rw_s",
    (328, 2152): "efficientnetv2_rw_m",
}
# A part of a path that begins with the name of an architecture, as files and folders of timm do;
# in the cache of the Hugging Face hub it follows after "models--timm--". Group: the name of a net
# that pads as PyTorch does.
_ARCHITECTURE = re.compile(
    r"(?:models--timm--)?(?:tf_efficientnet|"
    r"((?:gc_)?efficientnet(?:_b\d|v2_rw_[tsm]|v2_(?:s|m|l|xl)))(?![A-Za-z0-9]))"
)
# The name of a tensor that every network has once.
_ONCE = "conv_stem.weight"
_CONFIG = "config.json"
_WRONG_PADDING = (
    "It pads symmetrically, as PyTorch does, and its batch norms have another epsilon (timm: "
    "1e-5): in a network of this package, which pads as TensorFlow does and has 1e-3, its weights "
    "would give wrong results without a word. Use the tf_efficientnet* nets of timm; if it is one, "
    "give its file or folder that name"
)


def timm_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path ("stem_conv/kernel") -> timm's ("conv_stem.weight")."""
    return weight_names(model, _name)


def _name(place: Place, weight: str) -> str:
    block = "" if place.kind == "outside" else f"blocks.{place.stage}.{place.repeat}."
    return f"{block}{_LAYERS[place.kind][place.role]}.{_WEIGHTS[weight]}"


def timm_axes(ours: str) -> tuple[int, ...] | None:
    """Return the axes of timm's tensor of a weight path in our order; None leaves them.

    (out, in, H, W) becomes (H, W, in, out), of a depthwise kernel (C, 1, H, W) becomes
    (H, W, C, 1), and (out, in) becomes (in, out).
    """
    layer, _, weight = ours.partition("/")
    if weight != "kernel":
        return None
    if layer == CLASSIFIER:
        return (1, 0)
    return (2, 3, 0, 1) if layer.endswith("dwconv2") else (2, 3, 1, 0)


def read_timm(path: Path) -> Contents:
    """Read a .safetensors file of a tf_efficientnet* net, and the config.json beside it.

    Returns:
        The contents; the tensors have PyTorch's order of axes.

    Raises:
        ValueError: a file is damaged, or of a net that pads as PyTorch does.
    """
    tensors: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    config = _config_beside(path)
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            prefix = _prefix(names)
            shapes = {
                name.removeprefix(prefix): tuple(file.get_slice(name).get_shape()) for name in names
            }
            is_named = _check_padding(path, config, file.metadata() or {}, shapes)
            for name in names:
                if name.endswith(".num_batches_tracked"):
                    ignored[name] = "step counter of a batch norm"
                else:
                    tensors[name.removeprefix(prefix)] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        # AttributeError: a type that NumPy does not have
        raise ValueError(f"{os.fspath(path)} cannot be read as weights of timm: {error}") from None
    if not is_named:
        _LOG.warning(
            f"{path}: neither a config.json beside it nor a name says which net it is. It is taken "
            "for a tf_efficientnet* net. The nets without tf_ have the same tensors and pad in "
            "another way: their weights give wrong results here."
        )
    try:
        return Contents("timm", tensors, ignored, stated=stated_by_timm(config))
    except ValueError as error:
        raise ValueError(f"{path.with_name(_CONFIG)}: {error}. Correct it or remove it.") from None


def _prefix(names: list[str]) -> str:
    """Return the prefix of all names that a wrapper of the network, e.g. DataParallel, added."""
    prefixes = [name.removesuffix(_ONCE) for name in names if name.endswith(_ONCE)]
    if len(prefixes) > 1:
        raise ValueError(
            f"it holds several networks, under {', '.join(map(repr, sorted(prefixes)[:5]))}; keep "
            "the tensors of one"
        )
    prefix = prefixes[0] if prefixes else ""
    return prefix if prefix.endswith(".") and all(n.startswith(prefix) for n in names) else ""


def _check_padding(
    path: Path,
    config: Mapping[str, Any],
    metadata: Mapping[str, str],
    shapes: Mapping[str, tuple[int, ...]],
) -> bool:
    """Refuse a net with PyTorch's padding; return whether anything names a tf_ net."""
    reason = None
    if any(name.startswith("features.0.0.") for name in shapes):
        reason = "it is a net of torchvision"
    head = shapes.get("conv_head.weight", ())[:2][::-1]
    if head in _RW_HEADS:
        reason = f"it is {_RW_HEADS[head]}"
    # efficientnet_b0 and tf_efficientnet_b0 have the same tensors: only names tell them apart.
    said = str(config.get("architecture"))
    texts = [said, *metadata.values(), *reversed(path.absolute().parts)]
    match = next(filter(None, map(_ARCHITECTURE.match, texts)), None)
    if match and match.group(1):
        reason = reason or f"its name says that it is {match.group(1)}"
    if reason is not None:
        raise ValueError(f"{reason}. {_WRONG_PADDING}")
    return match is not None


def _config_beside(path: Path) -> dict[str, Any]:
    """Return the config.json beside a file of the Hugging Face hub; empty if there is none.

    Newer ones have most of it in `pretrained_cfg`, which is opened.
    """
    config = path.with_name(_CONFIG)
    if not os.path.lexists(config):
        return {}
    try:
        values = read_json(config)
    except (OSError, ValueError) as error:
        raise ValueError(f"{config} cannot be read: {error}. Correct it or remove it.") from None
    outer = values if isinstance(values, dict) else {}
    nested = outer.get("pretrained_cfg")
    return {**outer, **(nested if isinstance(nested, dict) else {})}
