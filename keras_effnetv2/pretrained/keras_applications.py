"""The .h5 files of keras.applications: names as a function of position."""

import re
from collections.abc import Collection

import keras

from keras_effnetv2.pretrained.legacy_h5 import legacy_names
from keras_effnetv2.pretrained.places import Place

LAYER_PATTERN = r"block\d+[a-z{|}~]+_"


def keras_applications_names(model: keras.Model, stored: Collection[str]) -> dict[str, str]:
    """Name in a file of keras.applications of every weight of a model.

    Our layers are called after its V2 nets. Different are the depthwise layers of its V1 nets
    (`dwconv`), and block 27 and later of a stage, where it goes on from "z" to "{" and we to "aa".

    Args:
        model: a model of `build_model`.
        stored: the names in the file, which tell how it spells them.

    Returns:
        Our weight path (e.g. "block1a_project_conv/kernel") -> name in the file
        ("block1a_project_conv/kernel:0").
    """
    is_v1 = any("_dwconv/" in name for name in stored)
    beyond_z = any(re.match(r"block\d+[{|}~]", name) for name in stored)

    def layer(place: Place) -> str:
        if place.kind == "outside":
            return place.layer
        block = place.layer.removesuffix(place.role)
        if beyond_z:
            block = f"block{place.stage + 1}{chr(ord('a') + place.repeat)}_"
        return block + ("dwconv" if is_v1 and place.role == "dwconv2" else place.role)

    return legacy_names(model, layer, stored)
