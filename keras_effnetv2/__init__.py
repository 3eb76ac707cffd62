"""EfficientNetV2 for Keras 3: the official networks, progressive learning, export to serving.

Importing this package imports neither Keras nor a backend; a name brings what it needs when it
is first used.
"""

import importlib
from typing import Any

from keras_effnetv2._version import __version__

_MODULE_OF = {
    "ModelConfig": "architectures.config",
    "Stage": "architectures.config",
    "decode_stages": "architectures.config",
    "encode_stages": "architectures.config",
    "build_model": "models.build",
    "feature_extractor": "models.build",
    "EfficientNetV2B0": "models.applications",
    "EfficientNetV2B1": "models.applications",
    "EfficientNetV2B2": "models.applications",
    "EfficientNetV2B3": "models.applications",
    "EfficientNetV2S": "models.applications",
    "EfficientNetV2M": "models.applications",
    "EfficientNetV2L": "models.applications",
    "EfficientNetV2XL": "models.applications",
    "EfficientNetB0": "models.applications",
    "EfficientNetB1": "models.applications",
    "EfficientNetB2": "models.applications",
    "EfficientNetB3": "models.applications",
    "EfficientNetB4": "models.applications",
    "EfficientNetB5": "models.applications",
    "EfficientNetB6": "models.applications",
    "EfficientNetB7": "models.applications",
    "preprocess_input": "models.applications",
    "count_flops": "models.graph",
    "load_weights": "pretrained.load",
    "available_weights": "pretrained.registry",
    "decode_predictions": "pretrained.labels",
    "load_source": "data.sources",
    "make_dataset": "data.pipeline",
    "RandAugment": "augment.randaugment",
    "AutoAugment": "augment.autoaugment",
    "UnreadablePictures": "data.unreadable",
    "pack": "data.pack",
    "progressive_stages": "recipes.stages",
    "TrainStage": "recipes.stages",
    "ProgressiveLearning": "training.progressive",
    "WarmupSchedule": "recipes.schedule",
    "EMA": "recipes.ema",
    "TrainRecipe": "recipes.recipe",
    "train": "training.fit",
    "export_saved_model": "export.saved_model",
    "export_model": "export.formats",
    "ExportReport": "export.formats",
    "load_exported": "export.runtimes",
    "fold_batch_norm": "models.folding",
    "SearchSpace": "search.space",
    "StageChoices": "search.space",
    "scale": "search.scaling",
    "run_search": "search.engine",
}
_SUBMODULES = {"augment": "augment"}

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
