"""State dicts of the tf_efficientnet* nets of PyTorch Image Models (`timm`): names and padding.

The nets without `tf_` have the same names of tensors, but pad symmetrically as PyTorch does and
have another epsilon in their batch norms: they are recognised as far as that can be and refused.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from keras_effnetv2.pretrained.places import CLASSIFIER, Place, layer_names, own_name, weight_names
from keras_effnetv2.pretrained.timm_config import ARCHITECTURE, WRONG_PADDING, Description

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
WEIGHTS = {
    "kernel": "weight",
    "bias": "bias",
    "gamma": "weight",
    "beta": "bias",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
"""Our name of a weight -> PyTorch's."""

# Filters before and after the last convolution, of nets that timm has with PyTorch's padding only
# (timm/models/efficientnet.py, `_gen_efficientnetv2_s`).
_RW_HEADS = {
    (208, 1024): "efficientnetv2_rw_t",
    (272, 1792): "efficientnetv2_rw_s",
    (328, 2152): "efficientnetv2_rw_m",
}


def timm_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path ("stem_conv/kernel") -> timm's ("conv_stem.weight")."""
    return weight_names(model, _name)


def _name(place: Place, weight: str) -> str:
    block = "" if place.kind == "outside" else f"blocks.{place.stage}.{place.repeat}."
    return f"{block}{_LAYERS[place.kind][place.role]}.{WEIGHTS[weight]}"


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


def timm_state_dict(model: "keras.Model") -> dict[str, np.ndarray]:
    """Return the state dict that timm has of a model of `build_model`, in its order.

    Raises:
        ValueError: the model has weights that are not of such a network.
    """
    import keras

    tensors: dict[str, np.ndarray] = {}
    names = timm_names(model)
    for layer in model.layers:
        for weight in layer.weights:
            ours = f"{own_name(layer.name)}/{weight.name}"
            if ours not in names:
                raise ValueError(
                    f"The weights of {layer.name!r} have no place in a network of this package, so "
                    f"{model.name!r} cannot be written in the layout of PyTorch Image Models."
                )
            value = keras.ops.convert_to_numpy(weight)
            axes = timm_axes(ours)
            if axes is not None:
                value = value.transpose(np.argsort(axes))
            tensors[names[ours]] = np.ascontiguousarray(value)
            if weight.name == "moving_variance":  # PyTorch counts the steps of a batch norm
                counter = names[ours].replace("running_var", "num_batches_tracked")
                tensors[counter] = np.zeros((), np.int64)
    return tensors


def check_padding(
    path: Path,
    described: Description,
    metadata: Iterable[str],
    tensors: Mapping[str, np.ndarray],
) -> bool:
    """Refuse a net with PyTorch's padding; return whether anything names a tf_ net."""
    reason = None
    if any(name.startswith("features.0.0.") for name in tensors):
        reason = "it is a net of torchvision"
    head = tensors["conv_head.weight"].shape[:2][::-1] if "conv_head.weight" in tensors else ()
    if head in _RW_HEADS:
        reason = f"it is {_RW_HEADS[head]}"
    # efficientnet_b0 and tf_efficientnet_b0 have the same tensors: only names tell them apart.
    texts = [str(described.architecture), *metadata, *reversed(path.absolute().parts)]
    match = next(filter(None, map(ARCHITECTURE.match, texts)), None)
    if match and match.group(1):
        reason = reason or f"its name says that it is {match.group(1)}"
    if reason is not None:
        raise ValueError(f"{reason}. {WRONG_PADDING}")
    return match is not None or described.config is not None
