"""The paper's Table 4 of a network: one row for each stage."""

import math
from typing import NamedTuple

from keras_effnetv2.architectures.config import ModelConfig


class StageRow(NamedTuple):
    """One line of the paper's Table 4."""

    stage: int  # number as in the paper, where the stem is stage 0
    operator: str  # e.g. "Fused-MBConv4, k3x3" or "MBConv6, k3x3, SE0.25"
    stride: int  # of the first layer
    channels: int  # of the output
    layers: int  # number of blocks
    size: tuple[int, int]  # (height, width) of the output, for a size of pictures


def stage_table(config: ModelConfig, image_size: int) -> tuple[StageRow, ...]:
    """Return the paper's Table 4 of a network, for pictures of `image_size` pixels a side."""
    side = math.ceil(image_size / config.stem_strides)
    rows = [StageRow(0, "Conv3x3", config.stem_strides, config.stem_filters, 1, (side, side))]
    for number, stage in enumerate(config.stages, start=1):
        side = math.ceil(side / stage.strides)
        kind = "Fused-MBConv" if stage.conv == "fused" else "MBConv"
        operator = f"{kind}{stage.expand_ratio}, k{stage.kernel_size}x{stage.kernel_size}"
        if stage.se_ratio is not None:
            operator += f", SE{stage.se_ratio:g}"
        shape = (stage.strides, stage.output_filters, stage.repeats, (side, side))
        rows.append(StageRow(number, operator, *shape))
    head = "Conv1x1 & Pooling & FC"
    rows.append(StageRow(len(rows), head, 1, config.head_filters, 1, (side, side)))
    return tuple(rows)
