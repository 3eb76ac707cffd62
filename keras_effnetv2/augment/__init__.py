"""Augmentation in training: RandAugment, AutoAugment, mixup and CutMix."""

from keras_effnetv2.augment.randaugment import OPERATION_NAMES, RandAugment, apply

__all__ = ["OPERATION_NAMES", "RandAugment", "apply"]
