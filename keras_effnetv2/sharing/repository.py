"""The files of a run for a repository: model, weights, config.json, class names and model card.

Nothing else of the run goes there: no pictures, names of pictures or paths.
"""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path

import keras
from safetensors.numpy import save_file

from keras_effnetv2._common.files import write_text
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import is_published, published_forms
from keras_effnetv2.images.evaluation_crop import nearest_crop
from keras_effnetv2.pretrained.load import normalization_of
from keras_effnetv2.pretrained.timm import timm_state_dict
from keras_effnetv2.pretrained.timm_config import (
    CONFIG,
    REPOSITORY_FILES,
    Description,
    timm_architecture,
    to_timm,
)
from keras_effnetv2.runs.run_folder import LABELS, MODEL, Run
from keras_effnetv2.sharing.card import CARD, model_card

SAFETENSORS = REPOSITORY_FILES[0]


def write_repository(run: Run, folder: Path, repository: str) -> list[Path]:
    """Write the files of a repository OWNER/NAME into an empty folder, and return them.

    Raises:
        ValueError: the network is not one of this package.
    """
    described = describe(run)
    tensors = timm_state_dict(run.model)
    save_file(tensors, folder / SAFETENSORS, metadata={"format": "pt"})
    config = to_timm(described, nearest_crop(run.image_size, run.style))
    write_text(folder / CONFIG, json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    for name in (MODEL, LABELS):
        shutil.copyfile(run.path / name, folder / name)
    write_text(folder / CARD, model_card(run, described, repository))
    return sorted(folder.iterdir())


def describe(run: Run) -> Description:
    """Return what the config.json of a run says.

    Raises:
        ValueError: the network is not one of this package.
    """
    variant, config = _network(run)
    normalization = normalization_of(run.model)
    if normalization is None:
        raise ValueError(
            f"The model of {run.path} does not say how it normalises pixels, so others could not "
            "use its weights. Train a network of this package: a variant, or a JSON file of one."
        )
    return Description(
        architecture=None if variant is None else timm_architecture(variant),
        config=replace(config, normalization=normalization),
        classes=len(run.class_names),
        class_names=run.class_names,
        image_size=run.image_size,
        style=run.style,
        activation=run.recipe.loss,
        thresholds=run.settings.thresholds,
    )


def _network(run: Run) -> tuple[str | None, ModelConfig]:
    """Return the published variant that a run's network is, if any, and its config."""
    recorded = run.settings.architecture
    own = None if recorded is None else ModelConfig.from_json(json.dumps(recorded))
    convolutions = _convolutions(run.model)
    for variant in ModelConfig.variants():
        for config in published_forms(variant):
            if own is None:
                is_same = (
                    sorted((one.weights, one.strides) for one in config.convolutions())
                    == convolutions
                )
            else:
                parts = ("stem_strides", "stages", "head_filters", "activation")
                is_same = all(getattr(own, part) == getattr(config, part) for part in parts)
            if is_same:
                return variant if is_published(config) else None, own or config
    if own is None:
        raise ValueError(
            f"{run.settings.model!r}, the network of {run.path}, is not one of this package, and "
            "only those can be shared: a variant, or one that was trained from its JSON file."
        )
    return None, own


def _convolutions(model: keras.Model) -> list[tuple[int, int]]:
    """Return the sizes of the kernels and the strides of all convolutions, sorted."""
    return sorted(
        (math.prod(weight.shape), getattr(layer, "strides", (1,))[0])
        for layer in model.layers
        for weight in layer.weights
        if len(weight.shape) == 4
    )
