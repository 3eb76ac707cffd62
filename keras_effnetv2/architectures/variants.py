"""The published variants as literal data.

Source of every number: google/automl, efficientnetv2/effnetv2_configs.py (`v2_base_block`,
`v2_s_block` ..., `efficientnetv2_params`, `efficientnetv1_params`). Of Lite: tensorflow/tpu,
models/official/efficientnet/lite/efficientnet_lite_builder.py (`efficientnet_lite_params`,
`efficientnet_lite`); its main.py trains and evaluates at one size.
"""

import os
import re
from collections.abc import Sequence
from typing import Literal, NamedTuple

from keras_effnetv2.architectures.normalization import Normalization

Activation = Literal["swish", "relu6"]
"""The name of an activation, as `keras.activations` has it."""

V1_BLOCKS: Sequence[str] = (
    "r1_k3_s1_e1_i32_o16_se0.25",
    "r2_k3_s2_e6_i16_o24_se0.25",
    "r2_k5_s2_e6_i24_o40_se0.25",
    "r3_k3_s2_e6_i40_o80_se0.25",
    "r3_k5_s1_e6_i80_o112_se0.25",
    "r4_k5_s2_e6_i112_o192_se0.25",
    "r1_k3_s1_e6_i192_o320_se0.25",
)
LITE_BLOCKS: Sequence[str] = (
    "r1_k3_s1_e1_i32_o16",
    "r2_k3_s2_e6_i16_o24",
    "r2_k5_s2_e6_i24_o40",
    "r3_k3_s2_e6_i40_o80",
    "r3_k5_s1_e6_i80_o112",
    "r4_k5_s2_e6_i112_o192",
    "r1_k3_s1_e6_i192_o320",
)
V2_BASE_BLOCKS: Sequence[str] = (
    "r1_k3_s1_e1_i32_o16_c1",
    "r2_k3_s2_e4_i16_o32_c1",
    "r2_k3_s2_e4_i32_o48_c1",
    "r3_k3_s2_e4_i48_o96_se0.25",
    "r5_k3_s1_e6_i96_o112_se0.25",
    "r8_k3_s2_e6_i112_o192_se0.25",
)
V2_S_BLOCKS: Sequence[str] = (
    "r2_k3_s1_e1_i24_o24_c1",
    "r4_k3_s2_e4_i24_o48_c1",
    "r4_k3_s2_e4_i48_o64_c1",
    "r6_k3_s2_e4_i64_o128_se0.25",
    "r9_k3_s1_e6_i128_o160_se0.25",
    "r15_k3_s2_e6_i160_o256_se0.25",
)
V2_M_BLOCKS: Sequence[str] = (
    "r3_k3_s1_e1_i24_o24_c1",
    "r5_k3_s2_e4_i24_o48_c1",
    "r5_k3_s2_e4_i48_o80_c1",
    "r7_k3_s2_e4_i80_o160_se0.25",
    "r14_k3_s1_e6_i160_o176_se0.25",
    "r18_k3_s2_e6_i176_o304_se0.25",
    "r5_k3_s1_e6_i304_o512_se0.25",
)
V2_L_BLOCKS: Sequence[str] = (
    "r4_k3_s1_e1_i32_o32_c1",
    "r7_k3_s2_e4_i32_o64_c1",
    "r7_k3_s2_e4_i64_o96_c1",
    "r10_k3_s2_e4_i96_o192_se0.25",
    "r19_k3_s1_e6_i192_o224_se0.25",
    "r25_k3_s2_e6_i224_o384_se0.25",
    "r7_k3_s1_e6_i384_o640_se0.25",
)
V2_XL_BLOCKS: Sequence[str] = (
    "r4_k3_s1_e1_i32_o32_c1",
    "r8_k3_s2_e4_i32_o64_c1",
    "r8_k3_s2_e4_i64_o96_c1",
    "r16_k3_s2_e4_i96_o192_se0.25",
    "r24_k3_s1_e6_i192_o256_se0.25",
    "r32_k3_s2_e6_i256_o512_se0.25",
    "r8_k3_s1_e6_i512_o640_se0.25",
)


class Variant(NamedTuple):
    """One row: block list and sizes before scaling; other fields as in `ModelConfig`."""

    blocks: Sequence[str]
    width: float
    depth: float
    train_size: int
    eval_size: int
    dropout_rate: float
    randaugment_magnitude: float | None
    mixup_alpha: float
    normalization: Normalization
    min_width_fraction: float | None = None
    activation: Activation = "swish"
    fixed_ends: bool = False


def _lite(width: float, depth: float, size: int, dropout_rate: float) -> Variant:
    return Variant(
        *(LITE_BLOCKS, width, depth, size, size, dropout_rate, None, 0.0, "lite", 0.9),
        activation="relu6",
        fixed_ends=True,
    )


# V1 trains at int(eval size * 0.8) // 16 * 16 (official `train.isize` 0.8).
VARIANTS: dict[str, Variant] = {
    "efficientnetv2-b0": Variant(V2_BASE_BLOCKS, 1.0, 1.0, 192, 224, 0.2, None, 0.0, "imagenet"),
    "efficientnetv2-b1": Variant(V2_BASE_BLOCKS, 1.0, 1.1, 192, 240, 0.2, None, 0.0, "imagenet"),
    "efficientnetv2-b2": Variant(V2_BASE_BLOCKS, 1.1, 1.2, 208, 260, 0.3, None, 0.0, "imagenet"),
    "efficientnetv2-b3": Variant(V2_BASE_BLOCKS, 1.2, 1.4, 240, 300, 0.3, None, 0.0, "imagenet"),
    "efficientnetv2-s": Variant(V2_S_BLOCKS, 1.0, 1.0, 300, 384, 0.2, 10.0, 0.0, "symmetric"),
    "efficientnetv2-m": Variant(V2_M_BLOCKS, 1.0, 1.0, 384, 480, 0.3, 15.0, 0.2, "symmetric"),
    "efficientnetv2-l": Variant(V2_L_BLOCKS, 1.0, 1.0, 384, 480, 0.4, 20.0, 0.5, "symmetric"),
    "efficientnetv2-xl": Variant(V2_XL_BLOCKS, 1.0, 1.0, 384, 512, 0.4, 20.0, 0.5, "symmetric"),
    "efficientnet-b0": Variant(V1_BLOCKS, 1.0, 1.0, 176, 224, 0.2, None, 0.0, "imagenet", 0.9),
    "efficientnet-b1": Variant(V1_BLOCKS, 1.0, 1.1, 192, 240, 0.2, None, 0.0, "imagenet", 0.9),
    "efficientnet-b2": Variant(V1_BLOCKS, 1.1, 1.2, 208, 260, 0.3, None, 0.0, "imagenet", 0.9),
    "efficientnet-b3": Variant(V1_BLOCKS, 1.2, 1.4, 240, 300, 0.3, None, 0.0, "imagenet", 0.9),
    "efficientnet-b4": Variant(V1_BLOCKS, 1.4, 1.8, 304, 380, 0.4, None, 0.0, "imagenet", 0.9),
    "efficientnet-b5": Variant(V1_BLOCKS, 1.6, 2.2, 352, 456, 0.4, None, 0.0, "imagenet", 0.9),
    "efficientnet-b6": Variant(V1_BLOCKS, 1.8, 2.6, 416, 528, 0.5, None, 0.0, "imagenet", 0.9),
    "efficientnet-b7": Variant(V1_BLOCKS, 2.0, 3.1, 480, 600, 0.5, None, 0.0, "imagenet", 0.9),
    "efficientnet-lite0": _lite(1.0, 1.0, 224, 0.2),
    "efficientnet-lite1": _lite(1.0, 1.1, 240, 0.2),
    "efficientnet-lite2": _lite(1.1, 1.2, 260, 0.3),
    "efficientnet-lite3": _lite(1.2, 1.4, 280, 0.3),
    "efficientnet-lite4": _lite(1.4, 1.8, 300, 0.3),
}


def _letters(name: str) -> str:
    return re.sub("[-_]", "", name.lower()).removeprefix("tf")


_SPELLINGS = {_letters(name): name for name in VARIANTS}
for _name in VARIANTS:  # V2 comes first, so that "b0" is its
    _SPELLINGS.setdefault(_name.rpartition("-")[2], _name)


def variant_named(name: object) -> str | None:
    """Return the variant that a name means, e.g. "efficientnetv2-b0" for "EfficientNetV2B0".

    Capitals, hyphens, underscores and "tf_" in front do not count. The last part is enough: "b0" to
    "b3", "s", "m", "l" and "xl" are V2, "b4" to "b7" V1, and "lite0" to "lite4" Lite. None for any
    other name.

    Examples:
        >>> [variant_named(name) for name in ("tf_efficientnetv2_b0", "b7", "resnet50")]
        ['efficientnetv2-b0', 'efficientnet-b7', None]
    """
    return _SPELLINGS.get(_letters(name)) if isinstance(name, str) else None


def variant_unless_path(name: object) -> str | None:
    """Return the variant that a name means; of a file or folder with that name None.

    The full name of a variant is never a path.
    """
    if isinstance(name, str) and name not in VARIANTS and os.path.lexists(name):
        return None
    return variant_named(name)
