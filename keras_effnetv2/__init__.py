"""EfficientNetV2 for Keras 3: the official networks, progressive learning, export to serving.

Importing this package does not import Keras or a backend; they are imported when a name is first
used.
"""

import importlib
import os
from typing import TYPE_CHECKING, Any

from keras_effnetv2._version import __version__

# TensorFlow reads these at its first operation. Where it leaves oneDNN off, it would return the
# memory of each large tensor to the system, which then clears every page anew: training steps take
# 0.82 to 0.93 of the time without that. Its limit would be 64 GB.
os.environ.setdefault("TF_CPU_ALLOCATOR_USE_BFC", "true")
os.environ.setdefault("TF_CPU_BFC_MEM_LIMIT_IN_MB", str(2**20))

if TYPE_CHECKING:  # for editors and type checkers, which look here; tests compare it with the table
    from keras_effnetv2 import augment as augment
    from keras_effnetv2.architectures.config import ModelConfig as ModelConfig
    from keras_effnetv2.architectures.stage import (
        Stage as Stage,
        decode_stages as decode_stages,
        encode_stages as encode_stages,
    )
    from keras_effnetv2.augment.autoaugment import AutoAugment as AutoAugment
    from keras_effnetv2.augment.randaugment import RandAugment as RandAugment
    from keras_effnetv2.data.pack import pack as pack
    from keras_effnetv2.data.pipeline import make_dataset as make_dataset
    from keras_effnetv2.data.sources import load_source as load_source
    from keras_effnetv2.data.unreadable import UnreadablePictures as UnreadablePictures
    from keras_effnetv2.evaluation.prediction import (
        Prediction as Prediction,
        predict as predict,
    )
    from keras_effnetv2.export.formats import (
        ExportReport as ExportReport,
        export_model as export_model,
    )
    from keras_effnetv2.export.runtimes import load_exported as load_exported
    from keras_effnetv2.export.saved_model import export_saved_model as export_saved_model
    from keras_effnetv2.models.applications import (
        EfficientNetB0 as EfficientNetB0,
        EfficientNetB1 as EfficientNetB1,
        EfficientNetB2 as EfficientNetB2,
        EfficientNetB3 as EfficientNetB3,
        EfficientNetB4 as EfficientNetB4,
        EfficientNetB5 as EfficientNetB5,
        EfficientNetB6 as EfficientNetB6,
        EfficientNetB7 as EfficientNetB7,
        EfficientNetLite0 as EfficientNetLite0,
        EfficientNetLite1 as EfficientNetLite1,
        EfficientNetLite2 as EfficientNetLite2,
        EfficientNetLite3 as EfficientNetLite3,
        EfficientNetLite4 as EfficientNetLite4,
        EfficientNetV2B0 as EfficientNetV2B0,
        EfficientNetV2B1 as EfficientNetV2B1,
        EfficientNetV2B2 as EfficientNetV2B2,
        EfficientNetV2B3 as EfficientNetV2B3,
        EfficientNetV2L as EfficientNetV2L,
        EfficientNetV2M as EfficientNetV2M,
        EfficientNetV2S as EfficientNetV2S,
        EfficientNetV2XL as EfficientNetV2XL,
        preprocess_input as preprocess_input,
    )
    from keras_effnetv2.models.build import (
        build_model as build_model,
        feature_extractor as feature_extractor,
    )
    from keras_effnetv2.models.folding import fold_batch_norm as fold_batch_norm
    from keras_effnetv2.models.multiply_adds import count_flops as count_flops
    from keras_effnetv2.pretrained.labels import decode_predictions as decode_predictions
    from keras_effnetv2.pretrained.load import load_weights as load_weights
    from keras_effnetv2.pretrained.registry import available_weights as available_weights
    from keras_effnetv2.recipes.ema import EMA as EMA
    from keras_effnetv2.recipes.recipe import TrainRecipe as TrainRecipe
    from keras_effnetv2.recipes.schedule import WarmupSchedule as WarmupSchedule
    from keras_effnetv2.recipes.stages import (
        TrainStage as TrainStage,
        progressive_stages as progressive_stages,
    )
    from keras_effnetv2.runs.run_folder import open_run as open_run
    from keras_effnetv2.search.engine import run_search as run_search
    from keras_effnetv2.search.scaling import scale as scale
    from keras_effnetv2.search.space import (
        SearchSpace as SearchSpace,
        StageChoices as StageChoices,
    )
    from keras_effnetv2.sharing.push import push_to_hub as push_to_hub
    from keras_effnetv2.training.fit import train as train
    from keras_effnetv2.training.progressive import ProgressiveLearning as ProgressiveLearning
    from keras_effnetv2.training.rate_finder import find_learning_rate as find_learning_rate
    from keras_effnetv2.training.transfer import freeze_batch_norm as freeze_batch_norm

_NAMES_OF = {
    "architectures.config": "ModelConfig",
    "architectures.stage": "Stage decode_stages encode_stages",
    "models.build": "build_model feature_extractor",
    "models.applications": (
        "EfficientNetV2B0 EfficientNetV2B1 EfficientNetV2B2 EfficientNetV2B3 "
        "EfficientNetV2S EfficientNetV2M EfficientNetV2L EfficientNetV2XL EfficientNetB0 "
        "EfficientNetB1 EfficientNetB2 EfficientNetB3 EfficientNetB4 EfficientNetB5 "
        "EfficientNetB6 EfficientNetB7 EfficientNetLite0 EfficientNetLite1 EfficientNetLite2 "
        "EfficientNetLite3 EfficientNetLite4 preprocess_input"
    ),
    "models.multiply_adds": "count_flops",
    "pretrained.load": "load_weights",
    "pretrained.registry": "available_weights",
    "pretrained.labels": "decode_predictions",
    "data.sources": "load_source",
    "data.pipeline": "make_dataset",
    "augment.randaugment": "RandAugment",
    "augment.autoaugment": "AutoAugment",
    "data.unreadable": "UnreadablePictures",
    "data.pack": "pack",
    "recipes.stages": "progressive_stages TrainStage",
    "training.progressive": "ProgressiveLearning",
    "recipes.schedule": "WarmupSchedule",
    "recipes.ema": "EMA",
    "recipes.recipe": "TrainRecipe",
    "training.fit": "train",
    "training.rate_finder": "find_learning_rate",
    "training.transfer": "freeze_batch_norm",
    "runs.run_folder": "open_run",
    "evaluation.prediction": "predict Prediction",
    "export.saved_model": "export_saved_model",
    "export.formats": "export_model ExportReport",
    "export.runtimes": "load_exported",
    "models.folding": "fold_batch_norm",
    "search.space": "SearchSpace StageChoices",
    "search.scaling": "scale",
    "search.engine": "run_search",
    "sharing.push": "push_to_hub",
}
_MODULE_OF = {name: module for module, names in _NAMES_OF.items() for name in names.split()}

__all__ = ["__version__", "augment", *_MODULE_OF]


if not TYPE_CHECKING:  # else a type checker would take any name for one of ours

    def __getattr__(name: str) -> Any:
        if name == "augment":
            value = importlib.import_module(f"{__name__}.augment")
        elif name in _MODULE_OF:
            value = getattr(importlib.import_module(f"{__name__}.{_MODULE_OF[name]}"), name)
        else:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted(__all__)
