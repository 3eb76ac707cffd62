"""Names in .h5 files of the Keras 2 layout, from keras.applications and leondgarse.

Each has its own layer names. Two more things differ by writer: TensorFlow's Keras ends names with
":0" and uses `depthwise_kernel` where Keras 3 uses `kernel`.
"""

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

from keras_effnetv2.pretrained.places import CLASSIFIER, Place, weight_names

if TYPE_CHECKING:
    import keras

_LEONDGARSE = {
    "stem_conv": "stem_conv",
    "stem_bn": "stem_bn",
    "top_conv": "post_conv",
    "top_bn": "post_bn",
    CLASSIFIER: CLASSIFIER,
    "expand_conv": "sortcut_conv",
    "expand_bn": "sortcut_bn",
    "dwconv2": "MB_dw_",
    "bn": "MB_dw_bn",
    "se_reduce": "se_1_conv",
    "se_expand": "se_2_conv",
    "project_conv": "MB_pw_conv",
    "project_bn": "MB_pw_bn",
}
_LEONDGARSE_WITHOUT_EXPANSION = {"project_conv": "fu_conv", "project_bn": "fu_bn"}  # if fused


def keras_applications_names(model: "keras.Model", stored: Collection[str]) -> dict[str, str]:
    """Return our weight path -> the name in a file of keras.applications.

    Our layers have the names of its V2 nets. The depthwise layers of its V1 nets (`dwconv`) differ.
    The `stored` names, those in the file, show its spelling.
    """
    is_v1 = any("_dwconv/" in name for name in stored)

    def layer(place: Place) -> str:
        return place.layer.removesuffix("2" if is_v1 and place.role == "dwconv2" else "")

    return _names(model, layer, stored)


def leondgarse_names(model: "keras.Model", stored: Collection[str]) -> dict[str, str]:
    """Return our weight path -> the name in a file of leondgarse/keras_efficientnet_v2."""

    def layer(place: Place) -> str:
        if place.kind == "outside":
            return _LEONDGARSE[place.role]
        special = _LEONDGARSE_WITHOUT_EXPANSION if place.kind == "fused_1" else {}
        role = special.get(place.role, _LEONDGARSE[place.role])
        return f"stack_{place.stage}_block{place.repeat}_{role}"

    return _names(model, layer, stored)


def _names(
    model: "keras.Model", layer: Callable[[Place], str], stored: Collection[str]
) -> dict[str, str]:
    """Return the name table in the spelling of a file, from the layer names of a source."""
    end = ":0" if any(name.endswith(":0") for name in stored) else ""
    long = any("/depthwise_kernel" in name for name in stored)

    def theirs(place: Place, weight: str) -> str:
        if long and (place.role, weight) == ("dwconv2", "kernel"):
            weight = "depthwise_kernel"
        return f"{layer(place)}/{weight}{end}"

    return weight_names(model, theirs)
