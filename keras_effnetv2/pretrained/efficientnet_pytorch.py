"""Names in state dicts of lukemelas/EfficientNet-PyTorch, which pads as TensorFlow does.

It has the nets of V1; the released files of EfficientNet-Lite have the same names.
"""

from typing import TYPE_CHECKING

from keras_effnetv2.pretrained.places import Place, layer_names, weight_names
from keras_effnetv2.pretrained.timm import WEIGHTS

if TYPE_CHECKING:
    import keras

_LAYERS = layer_names(
    outside="_conv_stem _bn0 _conv_head _bn1 _fc",
    fused_1="_project_conv _bn2",  # it has no fused blocks
    fused="_expand_conv _bn0 _project_conv _bn2",
    mbconv_1="_depthwise_conv _bn1 _project_conv _bn2",
    mbconv="_expand_conv _bn0 _depthwise_conv _bn1 _project_conv _bn2",
    squeeze_excite="_se_reduce _se_expand",
)


def efficientnet_pytorch_names(model: "keras.Model") -> dict[str, str]:
    """Return our weight path ("stem_conv/kernel") -> name there ("_conv_stem.weight")."""
    return weight_names(model, _name)


def _name(place: Place, weight: str) -> str:
    block = "" if place.kind == "outside" else f"_blocks.{place.block}."
    return f"{block}{_LAYERS[place.kind][place.role]}.{WEIGHTS[weight]}"
