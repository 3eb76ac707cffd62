"""The contents of a weight file."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from keras_effnetv2.architectures.normalization import Normalization, ScaleAndOffset
from keras_effnetv2.pretrained.timm_config import NOTHING_SAID, Description


class Contents(NamedTuple):
    """The tensors of a weight file, and what it says of itself."""

    source: str  # layout of the file, a key of `layouts.LAYOUTS`
    tensors: Mapping[str, np.ndarray]  # of the network, by their names in the file
    ignored: Mapping[str, str]  # name in the file -> why it is not among the tensors
    # Of layers in front of the network or behind it, by layer and weight: "my_head/kernel".
    others: Mapping[str, np.ndarray] = {}
    # Of pixels, as the file states it; None without one, an error if it cannot be rebuilt.
    stated: Normalization | ScaleAndOffset | ValueError | None = None
    described: Description = NOTHING_SAID  # what the config.json beside the file says
