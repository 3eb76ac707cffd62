"""What `train` settles before its first step: the arguments, the pictures, the stages, the batches.

`preview.py` settles it in the same way, so that what it shows is what training would read.
"""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import is_published
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.scan import BadPicturesError, drop_bad, find_bad_pictures
from keras_effnetv2.data.sources import IN_MEMORY, ImageSource, load_source
from keras_effnetv2.data.splits import carve_validation
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.models.graph import last_activation
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import StagePlan, TrainStage
from keras_effnetv2.training.progressive import scheduled_dropout_layers, without_auto_sharding
from keras_effnetv2.training.workers import ALONE, Workers

MAX_SCANNED = 50_000
"""Pictures that are decoded before a training begins; more would take minutes."""


@dataclass(frozen=True)
class Inputs:
    """What a training reads, and in which stages.

    Attributes:
        training: the pictures that are trained on.
        validation: those that it is judged by; the same class names in the same order.
        recipe: how they are cropped, augmented and mixed.
        plan: the stages.
        unreadable: what becomes of training pictures that can no longer be read.
        workers: this process and its part of each batch.
    """

    training: ImageSource
    validation: ImageSource
    recipe: TrainRecipe
    plan: StagePlan
    unreadable: UnreadablePictures
    workers: Workers = ALONE

    def stage_dataset(self, stage: TrainStage, epoch: int) -> tf.data.Dataset:
        """The training batches of an epoch, or this worker's part of each."""
        return make_dataset(
            self.training,
            image_size=stage.image_size,
            batch_size=self.workers.local_batch_size(stage.batch_size),
            training=True,
            randaugment_magnitude=stage.randaugment_magnitude,
            mixup_alpha=stage.mixup_alpha,
            cutmix_alpha=stage.cutmix_alpha,
            seed=self.recipe.seed,
            epoch=epoch,
            crop_style=self.recipe.crop_style,
            crop_area=self.recipe.crop_area,
            reduced_decode=self.recipe.reduced_decode is True,
            horizontal_flip=self.recipe.horizontal_flip,
            randaugment_layers=self.recipe.randaugment_layers,
            scale_randaugment=self.recipe.scale_randaugment,
            autoaugment=self.recipe.autoaugment is True,
            mixup_style=self.recipe.mixup_style,
            shard=self.workers.shard,
            unreadable=self.unreadable,
        )

    def cached(self, place: str | os.PathLike[str]) -> "Inputs":
        """The same pictures, kept where they are quicker to read: see `ImageSource.cached`.

        Args:
            place: "memory", or a folder, which gets one folder for training and one for validation.
        """
        places = (
            [place, place]
            if place == IN_MEMORY
            else [Path(place, s) for s in ("train", "validation")]
        )
        return replace(
            self,
            training=self.training.cached(places[0]),
            validation=self.validation.cached(places[1]),
        )

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Positions in `training`, (N,) int64, in the order that an epoch has the pictures."""
        return self.training.order(shuffle=True, seed=self.recipe.seed, epoch=epoch)

    def smallest_batch_norm_batch(self) -> int:
        """The fewest pictures that share a batch norm's statistics in any stage."""
        return min(self.workers.batch_norm_batch(stage.batch_size) for stage in self.plan)

    def validation_dataset(self) -> tf.data.Dataset:
        """The validation batches, or this worker's part of each, at the size of the last stage.

        Devices have equal parts: with several, the first pictures may stand in for missing ones.
        """
        workers, count = self.workers, self.validation.num_examples
        filled = np.resize(np.arange(count), -(-count // workers.devices) * workers.devices)
        dataset = make_dataset(
            self.validation.subset(filled[workers.index :: workers.count]),
            image_size=self.plan[-1].image_size,
            batch_size=workers.local_batch_size(self.plan[-1].batch_size),
            training=False,
            style=self.recipe.evaluation_style,
        )
        return without_auto_sharding(dataset)


def check_arguments(model_or_variant: Any, recipe: Any, weights: str | None = None) -> None:
    """Says of `train`'s arguments what can be said before any data is touched.

    Raises:
        ValueError: no recipe, an unknown variant, or weights for a model that is built already.
    """
    if not isinstance(recipe, TrainRecipe):
        raise ValueError(
            "`recipe` must be a TrainRecipe, for example TrainRecipe.preset('finetune'). "
            f"Received: recipe={recipe!r}"
        )
    if not isinstance(model_or_variant, keras.Model):
        config_of(model_or_variant)  # an unknown name raises
    elif weights is not None:
        raise ValueError(
            "`weights` goes with a variant; load them into the model instead. "
            f"Received: weights={weights!r} and the model {model_or_variant.name!r}"
        )


def config_of(config_or_variant: ModelConfig | str) -> ModelConfig:
    """The architecture that is given itself or by the name of a variant.

    Raises:
        ValueError: an unknown variant; the message lists all.
    """
    if isinstance(config_or_variant, ModelConfig):
        return config_or_variant
    return ModelConfig.from_name(config_or_variant)


def architecture_to_record(model_or_variant: keras.Model | ModelConfig | str) -> Any:
    """The fields of a network that is no published variant; None where its name says it all.

    Also None for a model that is given, of which only the layers are known.
    """
    if not isinstance(model_or_variant, ModelConfig) or is_published(model_or_variant):
        return None
    return json.loads(model_or_variant.to_json())


def describe_source(source: ImageSource) -> dict[str, Any]:
    """What is recorded of the pictures of a training, as plain data."""
    # A path may hold bytes that are no UTF-8; neither a terminal nor a text file takes those.
    spec = source.spec.encode("utf-8", "backslashreplace").decode("utf-8")
    return {"spec": spec, "split": source.split, "pictures": source.num_examples}


def load_inputs(
    model_or_variant: keras.Model | ModelConfig | str,
    source: ImageSource | str | os.PathLike[str],
    recipe: TrainRecipe,
    validation: ImageSource | None,
    validation_fraction: float | None,
    max_train_examples: int | None,
    skip_bad: bool,
    workers: Workers = ALONE,
) -> Inputs:
    """The pictures and the stages of a training; the arguments are those of `train`.

    Raises:
        ValueError: arguments that contradict each other or do not fit the data or the devices.
        Further errors are those of `load_source`.
    """
    training, validation = _load_pictures(source, recipe, validation, validation_fraction)
    if training.class_names != validation.class_names:
        raise ValueError(
            "Training and validation pictures must have the same class names in the same order; "
            "load the validation pictures with class_names=training.class_names."
        )
    broken = [name for name in training.class_names if name.splitlines() != [name]]
    if broken:
        raise ValueError(
            "A class name must be one line that is not empty, because labels.txt holds one a "
            f"line. Rename these: {broken}"
        )
    if max_train_examples is not None:
        training = training.stratified_subset(max_train_examples, recipe.seed)
    name = model_or_variant if isinstance(model_or_variant, str) else model_or_variant.name
    recipe = recipe.for_variant(name).for_data(training.num_examples)
    plan = recipe.plan(name)
    for stage in plan:
        workers.local_batch_size(stage.batch_size)  # raises where the devices cannot share it
    return Inputs(training, validation, recipe, plan, UnreadablePictures(skip_bad), workers)


def _load_pictures(
    source: ImageSource | str | os.PathLike[str],
    recipe: TrainRecipe,
    validation: ImageSource | None,
    validation_fraction: float | None,
) -> tuple[ImageSource, ImageSource]:
    """The training and the validation pictures."""
    if not isinstance(source, ImageSource):
        if validation is not None:
            raise ValueError(
                "`validation` goes with an ImageSource; of a folder, a table or a data set the "
                f"validation split is used. Received: source={source!r} and a validation source"
            )
        options: dict[str, Any] = {"validation_fraction": validation_fraction, "seed": recipe.seed}
        training = load_source(source, "train", **options)
        validation = load_source(source, "validation", **options)
    elif validation is not None and validation_fraction is not None:
        raise ValueError(
            "Give the validation pictures or the fraction to carve, not both. Received: "
            f"validation={validation!r}, validation_fraction={validation_fraction!r}"
        )
    elif validation is None:
        fraction = 0.2 if validation_fraction is None else validation_fraction
        held = carve_validation(source.labels, source.class_names, fraction, recipe.seed)
        rest = np.setdiff1d(np.arange(source.num_examples), held)
        training, validation = source.subset(rest), source.subset(held)
    else:
        training = source
    if not isinstance(validation, ImageSource):
        raise ValueError(
            "`validation` must be an ImageSource, as load_source(...) makes it. "
            f"Received: validation={validation!r}"
        )
    return training, validation


def without_bad_pictures(inputs: Inputs, scan: bool | None, say: Callable[[str], Any]) -> Inputs:
    """Reads every picture; the inputs without the unreadable ones.

    Args:
        inputs: what is to be read; its `unreadable` says whether pictures may be left out.
        scan: None: not where there are more than `MAX_SCANNED` pictures.
        say: called with each line of what is done and left out.

    Raises:
        BadPicturesError: there are unreadable pictures, and none may be left out.
        ValueError: a class would be left without a picture.
    """
    sources = (inputs.training, inputs.validation)
    total = sum(source.num_examples for source in sources)
    if scan is False or (scan is None and total > MAX_SCANNED):
        say(f"The {total:,} pictures are not checked beforehand, but each as it is read.")
        return inputs
    found = []
    for source in sources:
        say(f"Checking {source.num_examples:,} {source.split} pictures ...")
        found.append(find_bad_pictures(source))
    if any(found) and not inputs.unreadable.skip:
        raise BadPicturesError([picture for bad in found for picture in bad])
    kept = []
    for source, bad in zip(sources, found, strict=True):
        for picture in bad:
            say(f"  left out: {picture.name!r}: {picture.reason}")
        if bad:
            say(f"{len(bad):,} of {source.num_examples:,} {source.split} pictures are left out.")
        kept.append(drop_bad(source, bad) if bad else source)
    return replace(inputs, training=kept[0], validation=kept[1])


def check_model(model: keras.Model, inputs: Inputs) -> None:
    """Raises ValueError unless the model is a classifier that fits the pictures and the recipe."""
    classes, recipe, plan = len(inputs.training.class_names), inputs.recipe, inputs.plan
    outputs = getattr(model, "outputs", None)  # a subclassed model has none
    if not outputs or len(outputs) != 1 or len(model.inputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "`train` needs a functional or Sequential classifier, built, with one input "
            "(N, height, width, 3) and one output (N, classes). "
            f"Received: {model.name!r} with outputs {outputs}"
        )
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"The model {model.name!r} has {model.output_shape[-1]} classes, the pictures have "
            f"{classes}. Build it with classes={classes}."
        )
    scheduled_dropout_layers(model, None, plan)  # raises where the plan has rates, the model none
    sizes = [stage.image_size for stage in plan]
    shape = tuple(model.input_shape)
    if len(shape) != 4 or any(side not in (None, size) for size in sizes for side in shape[1:3]):
        raise ValueError(
            f"The model {model.name!r} takes {shape}, the stages have pictures of {sizes} pixels. "
            "Build it with input_shape=(None, None, 3), or train with one size, the model's."
        )
    activation = last_activation(outputs[0])
    if activation != recipe.loss:
        raise ValueError(
            f"The recipe's loss wants a model that ends with a {recipe.loss}: build it with "
            f"classifier_activation={recipe.loss!r}. Received: {model.name!r} ending with "
            f"{activation}"
        )
