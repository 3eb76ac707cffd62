"""The names of the ways to make a picture square, in training and in evaluation."""

from keras_effnetv2.pretrained.registry import CentralCrop

CROP_STYLES = ("v2", "v1", "finetune")
"""How training crops and resizes, see `training_crop.decode_random_crop`."""

EVALUATION_STYLES = ("whole", *CROP_STYLES)
"""How evaluation crops and resizes, see `evaluation_crop.resize_for_evaluation`."""

Style = str | CentralCrop
"""One of `EVALUATION_STYLES`, or the evaluation of PyTorch Image Models."""
