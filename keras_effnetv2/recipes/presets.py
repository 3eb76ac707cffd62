"""The settings of the named recipes, for `TrainRecipe.preset`; omitted fields have their defaults.

Official figures are those of google/automl efficientnetv2: hparams.py (`base_config`), datasets.py
(`ImageNet`, `ImageNet21k`, `ImagenetFt` and its children for CIFAR-10/100, Cars and Flowers).
"""

from typing import Any

_Settings = dict[str, Any]

_NO_MIXING: _Settings = {"randaugment_magnitude": None, "mixup_alpha": 0.0, "cutmix_alpha": 0.0}

_QUICKSTART: _Settings = {
    "epochs": 20,
    "batch_size": 32,
    "learning_rate": 0.008,
    "image_size": "auto",
    "small_pictures": "auto",
    "stages": 4,
    # Off, as too much for few epochs from scratch (docs/decisions.md).
    **_NO_MIXING,
    "dropout_rate": (0.1, 0.3),
    "drop_path_rate": 0.1,
    "crop_area": (0.5, 1.0),
    "cutmix_style": "paper",
    "optimizer": "adam",
    "schedule": "cosine",
    "decay_by": "pixels",
    "warmup_epochs": 2.0,
    "weight_decay": 0.0,
    "ema_decay": 0.999,
    "gradient_clip": 1.0,
    "evaluation_style": "whole",
}

# The paper trains each network of its search for about 10 epochs, on smaller pictures (section
# 3.3). One size, as each would be traced; no average, which lags behind in few epochs.
_SEARCH: _Settings = {
    **_QUICKSTART,
    "epochs": 10,
    "batch_size": 64,
    "image_size": 64,
    "small_pictures": False,
    "stages": 1,
    "dropout_rate": 0.1,
    "warmup_epochs": 1.0,
    "ema_decay": None,
}

_FINETUNE_OFFICIAL: _Settings = {
    "epochs": 15,
    "min_steps": 10_000,
    "batch_size": 512,
    "learning_rate": 0.0005,
    "stages": 1,
    **_NO_MIXING,
    "scale_randaugment": False,
    "dropout_rate": 0.0,  # officially 1e-6, to say off
    "crop_style": "finetune",
    "schedule": "constant",
    "warmup_epochs": 1.0,
    "ema_decay": 0.9996,
    "evaluation_style": "finetune",
}

# EfficientNetV2 (Tan and Le, 2021), section 5.3: batch 512, rate 0.001 with cosine decay, 10,000
# steps, no weight decay. Its rate is that of batch 512, ours that of batch 256. It says nothing of
# picture size, warm-up, average, label smoothing, dropout and stochastic depth, which are the
# released code's here; its "simple cutout" has no size either and is left out.
_FINETUNE_PAPER: _Settings = {
    **_FINETUNE_OFFICIAL,
    "epochs": 1,
    "schedule": "cosine",
    "weight_decay": 0.0,
}

# For hundreds to some thousands of pictures on a laptop (docs/benchmarks.md). Fewer pictures get
# more epochs, up to a limit: 500 epochs of 50 photos were no better than 150. Frozen batch norms
# keep the statistics of the weights; with them and the first blocks frozen a step on a CPU takes
# two fifths of the time.
_FINETUNE: _Settings = {
    "epochs": 8,
    "min_steps": 2_000,
    "max_epochs": 200,
    "batch_size": 16,
    "learning_rate": 0.0048,
    "image_size": "auto",
    "stages": 3,
    **_NO_MIXING,
    "randaugment_magnitude": (5.0, 10.0),
    "dropout_rate": 0.2,
    "drop_path_rate": 0.0,
    "crop_area": (0.6, 1.0),
    "cutmix_style": "paper",
    "optimizer": "adam",
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "probe": "first",
    "batch_norm": "freeze",
    "frozen_share": 0.2,
    "weight_decay": 1e-3,
    "ema_decay": 0.99,
    "evaluation_style": "whole",
}

# On features of 3,068 photos more or faster steps learn them by heart: the loss of others is then
# higher (docs/benchmarks.md).
_PROBE: _Settings = {
    "epochs": 20,
    "min_steps": 400,
    "batch_size": 64,
    "learning_rate": 0.004,
    "image_size": "auto",
    "stages": 1,
    **_NO_MIXING,
    "dropout_rate": None,
    "drop_path_rate": 0.0,
    "optimizer": "adam",
    "schedule": "cosine",
    "warmup_epochs": 0.0,
    "probe": "only",
    "batch_norm": "freeze",
    "weight_decay": 0.0,
    "ema_decay": None,
    "evaluation_style": "whole",
}

_IMAGENET_OFFICIAL: _Settings = {
    "epochs": 350,
    "batch_size": 4096,
    "learning_rate": 0.016,
    "progressive": "official",
    "autoaugment": "preset",
    "scale_randaugment": False,
    "crop_style": "preset",
    "evaluation_style": "preset",
}

_IMAGENET21K: _Settings = {
    "epochs": 60,
    "batch_size": 4096,
    "learning_rate": 0.008,
    "stages": 1,
    "image_size": 224,
    **_NO_MIXING,
    "scale_randaugment": False,
    "dropout_rate": 0.0,  # officially 1e-6, to say off
    "drop_path_rate": 0.0,
    "schedule": "cosine",
    "warmup_epochs": 1.0,
    "label_smoothing": 0.0,
    # The published heads are used with a sigmoid. The released configuration names no loss, which
    # means softmax over labels divided by their number.
    "loss": "sigmoid",
}

PRESETS: dict[str, _Settings] = {
    "quickstart": _QUICKSTART,
    "finetune": _FINETUNE,
    "probe": _PROBE,
    "finetune-official": _FINETUNE_OFFICIAL,
    "finetune-paper": _FINETUNE_PAPER,
    "imagenet-official": _IMAGENET_OFFICIAL,
    "imagenet-paper": {
        **_IMAGENET_OFFICIAL,
        "progressive": "paper",
        "mixup_style": "paper",
        "cutmix_style": "paper",
    },
    "imagenet21k": _IMAGENET21K,
    "search": _SEARCH,
}
"""Name -> fields of a `TrainRecipe`."""

FROM_SCRATCH = ("quickstart", "imagenet-official", "imagenet-paper", "imagenet21k", "search")
"""The presets that start from random weights, unless others are asked for."""
