"""PyTorch Image Models (`timm`), .safetensors of its tf_efficientnet* nets: names and reader.

The nets without `tf_` have the same names of tensors, but pad symmetrically as PyTorch does and
have another epsilon in their batch norms: they are recognised as far as that can be and refused.
"""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from safetensors import SafetensorError, safe_open

from keras_effnetv2.pretrained.places import CLASSIFIER, Place, layer_names, weight_names

if TYPE_CHECKING:
    import keras

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
# in the cache of the Hugging Face hub it follows after "models--timm--". Groups: `tf_`, the name.
_ARCHITECTURE = re.compile(
    r"(?:models--timm--)?(tf_)?((?:gc_)?efficientnet(?:_b\d|v2_rw_[tsm]|v2_(?:s|m|l|xl)))"
    r"(?![A-Za-z0-9])"
)
_MAX_CONFIG = 2**20  # bytes; timm's have one or two thousand
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


def read_timm(path: str | os.PathLike[str]) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a .safetensors file of a tf_efficientnet* net.

    Returns:
        Tensors by their names, in PyTorch's order of axes, and the names left out with the reason.

    Raises:
        ValueError: the file is damaged, or of a net that pads as PyTorch does.
    """
    tensors: dict[str, np.ndarray] = {}
    ignored: dict[str, str] = {}
    try:
        with safe_open(path, "numpy") as file:
            names = list(file.keys())
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in names}
            reason = _torch_padding(Path(path), file.metadata() or {}, shapes)
            if reason is not None:
                raise ValueError(f"{reason}. {_WRONG_PADDING}")
            for name in names:
                if name.endswith(".num_batches_tracked"):
                    ignored[name] = "step counter of a batch norm"
                else:
                    tensors[name] = file.get_tensor(name)
    except (SafetensorError, OSError, ValueError, AttributeError) as error:
        # AttributeError: a type that NumPy does not have
        raise ValueError(f"{os.fspath(path)} cannot be read as weights of timm: {error}") from None
    return tensors, ignored


def _torch_padding(
    path: Path, metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]
) -> str | None:
    """Return why the net of a file is one with PyTorch's padding; None if nothing says so."""
    if any(name.startswith("features.0.0.") for name in shapes):
        return "it is a net of torchvision"
    head = shapes.get("conv_head.weight", ())[:2][::-1]
    if head in _RW_HEADS:
        return f"it is {_RW_HEADS[head]}"
    # efficientnet_b0 and tf_efficientnet_b0 have the same tensors: only names tell them apart.
    for text in [*_beside(path), *metadata.values(), *reversed(path.absolute().parts)]:
        match = _ARCHITECTURE.match(text)
        if match:
            return None if match.group(1) else f"its name says that it is {match.group(2)}"
    return None


def _beside(path: Path) -> list[str]:
    """Return the architecture that the config.json beside a file of the Hugging Face hub says."""
    try:
        with open(path.with_name("config.json"), "rb") as file:
            return [str(json.loads(file.read(_MAX_CONFIG))["architecture"])]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        return []
