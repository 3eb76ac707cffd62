"""The names of the ways to make a picture square, in training and in evaluation, and to mix two."""

from keras_effnetv2.pretrained.registry import CentralCrop

CROP_STYLES = ("v2", "v1", "finetune")
"""How training crops and resizes, see `training_crop.decode_random_crop`."""

EVALUATION_STYLES = ("whole", *CROP_STYLES)
"""How evaluation crops and resizes, see `evaluation_crop.resize_for_evaluation`."""

MIXUP_STYLES = ("official", "paper")
"""A picture keeps at least one half of itself, or any share, see `augment.mixing`."""

CUTMIX_STYLES = ("official", "paper")
"""Labels take the mean area of all boxes, or of their own, see `augment.mixing`."""

Style = str | CentralCrop
"""One of `EVALUATION_STYLES`, or the evaluation of PyTorch Image Models."""
