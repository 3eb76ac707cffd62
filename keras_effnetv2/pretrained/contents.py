"""The contents of a weight file."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_effnetv2.architectures.normalization import Normalization, ScaleAndOffset
from keras_effnetv2.pretrained.timm_config import NOTHING_SAID, Description


class Contents(NamedTuple):
    """The tensors of a weight file, and what it says of itself.

    Attributes:
        source: layout of the file, a key of `layouts.LAYOUTS`.
        tensors: name in the file -> array, of the network.
        ignored: name in the file -> why it is not among the tensors.
        others: layer and weight, e.g. "my_head/kernel" -> array, of layers in front of the network
            or behind it.
        stated: normalisation of pixels that the file states; None without one, an error if it
            cannot be rebuilt.
        described: what the config.json beside the file says.
    """

    source: str
    tensors: Mapping[str, np.ndarray]
    ignored: Mapping[str, str]
    others: Mapping[str, np.ndarray] = {}
    stated: Normalization | ScaleAndOffset | ValueError | None = None
    described: Description = NOTHING_SAID
