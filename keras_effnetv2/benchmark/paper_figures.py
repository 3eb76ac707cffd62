"""Figures of the paper, to stand beside what is measured here.

Source: M. Tan and Q. V. Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021
(arXiv 2104.00298), Tables 7 and 11.
"""

from typing import NamedTuple


class Table7(NamedTuple):
    """A row of Table 7, ImageNet; of XL with pretraining on ImageNet-21k, of the others without.

    Attributes:
        top1: accuracy, percent.
        parameters: millions.
        flops: billions of multiply-adds, at the size of evaluation.
        infer_ms: milliseconds for 16 pictures on a V100 in FP16; None where the paper has none.
        train_hours: on 32 TPU cores.
    """

    top1: float
    parameters: float
    flops: float
    infer_ms: float | None
    train_hours: float


class Table11(NamedTuple):
    """A row of Table 11, small networks.

    Attributes:
        top1: accuracy on ImageNet, percent.
        parameters: millions.
        flops: billions of multiply-adds.
        throughput: pictures a second on a V100 in FP16, 128 at once.
    """

    top1: float
    parameters: float
    flops: float
    throughput: int


TABLE_7 = {
    "efficientnet-b3": Table7(81.5, 12, 1.9, 19, 10),
    "efficientnet-b4": Table7(82.9, 19, 4.2, 30, 21),
    "efficientnet-b5": Table7(83.7, 30, 10, 60, 43),
    "efficientnet-b6": Table7(84.3, 43, 19, 97, 75),
    "efficientnet-b7": Table7(84.7, 66, 38, 170, 139),
    "efficientnetv2-s": Table7(83.9, 22, 8.8, 24, 7.1),
    "efficientnetv2-m": Table7(85.1, 54, 24, 57, 13),
    "efficientnetv2-l": Table7(85.7, 120, 53, 98, 24),
    "efficientnetv2-xl": Table7(87.3, 208, 94, None, 45),
}
TABLE_11 = {
    "efficientnet-b1": Table11(79.0, 7.8, 0.7, 2675),
    "efficientnetv2-b0": Table11(78.7, 7.4, 0.7, 5739),
    "efficientnet-b2": Table11(79.8, 9.1, 1.0, 2003),
    "efficientnetv2-b1": Table11(79.8, 8.1, 1.2, 3983),
    "efficientnet-b4": Table11(82.9, 19, 4.2, 628),
    "efficientnetv2-b3": Table11(82.1, 14, 3.0, 1693),
    "efficientnet-b5": Table11(83.7, 30, 9.9, 291),
    "efficientnetv2-s": Table11(83.6, 24, 8.8, 901),
}
