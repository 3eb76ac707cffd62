"""EfficientNetV2 for Keras 3: the official networks, progressive learning, export to serving.

Importing this package imports neither Keras nor a backend; a name brings what it needs when it
is first used.
"""

import importlib
from typing import Any

from keras_effnetv2._version import __version__

_MODULE_OF = {
    "ModelConfig": "config",
    "Stage": "config",
    "decode_stages": "config",
    "encode_stages": "config",
    "build_model": "model",
    "feature_extractor": "model",
    "EfficientNetV2B0": "applications",
    "EfficientNetV2B1": "applications",
    "EfficientNetV2B2": "applications",
    "EfficientNetV2B3": "applications",
    "EfficientNetV2S": "applications",
    "EfficientNetV2M": "applications",
    "EfficientNetV2L": "applications",
    "EfficientNetV2XL": "applications",
    "EfficientNetB0": "applications",
    "EfficientNetB1": "applications",
    "EfficientNetB2": "applications",
    "EfficientNetB3": "applications",
    "EfficientNetB4": "applications",
    "EfficientNetB5": "applications",
    "EfficientNetB6": "applications",
    "EfficientNetB7": "applications",
    "preprocess_input": "applications",
    "count_flops": "architecture",
    "load_weights": "pretrained.load",
    "available_weights": "pretrained.registry",
    "decode_predictions": "labels",
    "load_source": "data.sources",
    "make_dataset": "data.pipeline",
    "RandAugment": "data.augment",
    "AutoAugment": "data.autoaugment",
    "UnreadablePictures": "data.unreadable",
    "pack": "data.pack",
    "progressive_stages": "training.stages",
    "TrainStage": "training.stages",
    "ProgressiveLearning": "training.progressive",
    "WarmupSchedule": "training.schedule",
    "EMA": "training.ema",
    "TrainRecipe": "training.recipe",
    "train": "training.fit",
    "export_saved_model": "export",
    "export_model": "formats",
    "ExportReport": "formats",
    "load_exported": "runtimes",
    "fold_batch_norm": "folding",
    "SearchSpace": "search.space",
    "StageChoices": "search.space",
    "scale": "search.scaling",
    "run_search": "search.engine",
}
_SUBMODULES = {"augment": "data.augment"}

__all__ = ["__version__", "augment", *_MODULE_OF]


def __getattr__(name: str) -> Any:
    if name in _SUBMODULES:
        value = importlib.import_module(f"{__name__}.{_SUBMODULES[name]}")
    elif name in _MODULE_OF:
        value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
