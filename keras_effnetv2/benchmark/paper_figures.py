"""Figures of the paper, to compare with measurements.

Source: M. Tan and Q. V. Le, EfficientNetV2: Smaller Models and Faster Training, ICML 2021
(arXiv 2104.00298), Tables 7 and 11.
"""

from typing import NamedTuple


class PaperRow(NamedTuple):
    """A row of a table; missing values are None."""

    top1: float  # accuracy on ImageNet, percent
    parameters: float  # millions
    flops: float  # billions of multiply-adds, at the evaluation size
    infer_ms: float | None = None  # milliseconds for 16 pictures on a V100 in FP16
    train_hours: float | None = None  # hours on 32 TPU cores
    throughput: int | None = None  # pictures a second on a V100 in FP16, 128 at once


TABLE_7 = {
    "efficientnet-b3": PaperRow(81.5, 12, 1.9, 19, 10),
    "efficientnet-b4": PaperRow(82.9, 19, 4.2, 30, 21),
    "efficientnet-b5": PaperRow(83.7, 30, 10, 60, 43),
    "efficientnet-b6": PaperRow(84.3, 43, 19, 97, 75),
    "efficientnet-b7": PaperRow(84.7, 66, 38, 170, 139),
    "efficientnetv2-s": PaperRow(83.9, 22, 8.8, 24, 7.1),
    "efficientnetv2-m": PaperRow(85.1, 54, 24, 57, 13),
    "efficientnetv2-l": PaperRow(85.7, 120, 53, 98, 24),
    # With pretraining on ImageNet-21k, the others without.
    "efficientnetv2-xl": PaperRow(87.3, 208, 94, None, 45),
}
TABLE_11 = {
    "efficientnet-b1": PaperRow(79.0, 7.8, 0.7, throughput=2675),
    "efficientnetv2-b0": PaperRow(78.7, 7.4, 0.7, throughput=5739),
    "efficientnet-b2": PaperRow(79.8, 9.1, 1.0, throughput=2003),
    "efficientnetv2-b1": PaperRow(79.8, 8.1, 1.2, throughput=3983),
    "efficientnet-b4": PaperRow(82.9, 19, 4.2, throughput=628),
    "efficientnetv2-b3": PaperRow(82.1, 14, 3.0, throughput=1693),
    "efficientnet-b5": PaperRow(83.7, 30, 9.9, throughput=291),
    "efficientnetv2-s": PaperRow(83.6, 24, 8.8, throughput=901),
}
