"""The .h5 files of leondgarse/keras_efficientnet_v2: names as a function of position."""

from collections.abc import Collection

import keras

from keras_effnetv2.pretrained.legacy_h5 import legacy_names
from keras_effnetv2.pretrained.places import Place

LAYER_PATTERN = r"stack_\d+_block\d+_"
_OUTSIDE_BLOCKS = {
    "stem_conv": "stem_conv",
    "stem_bn": "stem_bn",
    "top_conv": "post_conv",
    "top_bn": "post_bn",
    "predictions": "predictions",
}
_IN_BLOCKS = {
    "expand_conv": "sortcut_conv",
    "expand_bn": "sortcut_bn",
    "dwconv2": "MB_dw_",
    "bn": "MB_dw_bn",
    "se_reduce": "se_1_conv",
    "se_expand": "se_2_conv",
    "project_conv": "MB_pw_conv",
    "project_bn": "MB_pw_bn",
}
_IN_FUSED_BLOCKS_WITHOUT_EXPANSION = {"project_conv": "fu_conv", "project_bn": "fu_bn"}


def leondgarse_names(model: keras.Model, stored: Collection[str]) -> dict[str, str]:
    """Name in a file of leondgarse of every weight of a model.

    Args:
        model: a model of `build_model`.
        stored: the names in the file, which tell how it spells them.

    Returns:
        Our weight path (e.g. "block1a_project_conv/kernel") -> name in the file
        ("stack_0_block0_fu_conv/kernel:0").
    """
    return legacy_names(model, _layer, stored)


def _layer(place: Place) -> str:
    if place.kind == "outside":
        return _OUTSIDE_BLOCKS[place.role]
    special = _IN_FUSED_BLOCKS_WITHOUT_EXPANSION if place.kind == "fused_1" else {}
    role = special.get(place.role, _IN_BLOCKS[place.role])
    return f"stack_{place.stage}_block{place.repeat}_{role}"
