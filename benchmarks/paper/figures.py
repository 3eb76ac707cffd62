"""Tables 2, 3 and 10 of the paper; 7 and 11 are in `keras_effnetv2.benchmark.paper_figures`.

Source: M. Tan and Q. V. Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021
(arXiv 2104.00298). Tests hold of them what can be computed here: parameters, multiply-adds, and the
ratios that the paper prints beside them.
"""

from typing import NamedTuple


class Table2(NamedTuple):
    """A row of Table 2, EfficientNet-B6 trained at one picture size.

    Attributes:
        top1: accuracy on ImageNet, percent.
        tpu: pictures a second of a TPUv3 core in training, by batch size; None did not fit in
            memory.
        v100: the same of a V100.
    """

    top1: float
    tpu: dict[int, int | None]
    v100: dict[int, int | None]


class Table3(NamedTuple):
    """A row of Table 3, EfficientNet-B4 with Fused-MBConv in place of MBConv in some stages.

    Attributes:
        parameters: millions.
        flops: billions of multiply-adds, at 380 pixels.
        top1: accuracy on ImageNet, percent.
        tpu: pictures a second of a TPUv3 core in training.
        v100: the same of a V100.
    """

    parameters: float
    flops: float
    top1: float
    tpu: int
    v100: int


class Table10(NamedTuple):
    """A row of Table 10, networks trained in the same way: progressively, with the same settings.

    Attributes:
        top1: accuracy on ImageNet, percent.
        parameters: millions.
        flops: billions of multiply-adds, at the size of evaluation.
        train_hours: on 32 TPU cores.
        infer_ms: milliseconds for 16 pictures on a V100 in FP16.
    """

    top1: float
    parameters: float
    flops: float
    train_hours: float
    infer_ms: float


TABLE_2 = {  # by pixels
    512: Table2(84.3, tpu={32: 42, 128: None}, v100={12: 29, 24: None}),
    380: Table2(84.6, tpu={32: 76, 128: 93}, v100={12: 37, 24: 52}),
}
TABLE_3 = {  # by the stages that are fused
    (): Table3(19.3, 4.5, 82.8, 262, 155),
    (1, 2, 3): Table3(20.0, 7.5, 83.1, 362, 216),
    (1, 2, 3, 4, 5): Table3(43.4, 21.3, 83.1, 327, 223),
    (1, 2, 3, 4, 5, 6, 7): Table3(132.0, 34.4, 81.7, 254, 206),
}
TABLE_10 = {
    "efficientnet-b7": Table10(85.0, 66, 38, 54, 170),
    "efficientnetv2-m": Table10(85.1, 55, 24, 13, 57),
}
