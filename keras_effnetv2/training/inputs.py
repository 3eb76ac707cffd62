"""`Inputs`: what a training reads, in which stages, and the batches made of it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.text import counted
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.class_balance import check_one_class, check_weighted_names
from keras_effnetv2.data.pipeline import InputSpec
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.images.headers import picture_extent
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import StagePlan, TrainStage, steps_per_epoch
from keras_effnetv2.training.epoch_dataset import EpochsInOne, without_auto_sharding
from keras_effnetv2.training.workers import ALONE, Workers

_SMALL_SIDE = 32  # pixels, that `ModelConfig.for_small_pictures` is for
_KEPT_VALIDATION_BYTES = 256 * 1024**2


@dataclass(frozen=True)
class Inputs:
    """What a training reads, and in which stages."""

    data: TrainingData  # which pictures, and how they are read
    training: ImageSource
    validation: ImageSource  # with the same class names in the same order
    recipe: TrainRecipe  # nothing of it "preset" but ranges
    plan: StagePlan
    workers: Workers = ALONE  # this process and its part of each batch
    max_pictures_per_epoch: int | None = None  # for which there is time; None: all

    def prepared(self, say: Callable[[str], Any]) -> "Inputs":
        """Return the same inputs after `TrainingData.prepare` has read the pictures."""
        training, validation = self.data.prepare((self.training, self.validation), say)
        return replace(self, training=training, validation=validation)

    def stage_dataset(
        self,
        stage: TrainStage,
        epoch: int,
        unreadable: UnreadablePictures | None = None,
        epochs: int = 1,
    ) -> tf.data.Dataset:
        """Return the training batches of epochs from `epoch` on, or this worker's part of each.

        `unreadable` notes the pictures that cannot be read. A probe sees those of evaluation.
        """
        spec = self.evaluation_spec() if self.is_probe else self.input_spec(stage)
        return spec.dataset(
            self.training,
            batch_size=self.workers.local_batch_size(stage.batch_size),
            training=True,
            seed=self.recipe.seed,
            epoch=epoch,
            shard=self.workers.shard,
            unreadable=unreadable or UnreadablePictures(self.data.skip_bad),
            epochs=epochs,
            augmented=not self.is_probe,
        )

    def smoothed_dataset(
        self,
        stage: TrainStage,
        epoch: int,
        unreadable: UnreadablePictures | None = None,
        *,
        alone: bool = False,
    ) -> EpochsInOne:
        """Return the batches of an epoch and, unless it is `alone`, of those after it in its stage.

        Their labels are smoothed, as the loss takes them.
        """
        epochs = 1 if alone else stage.end_epoch - epoch
        batches = self.stage_dataset(stage, epoch, unreadable, epochs)
        if alone:
            batches = batches.take(self.steps_per_epoch(stage))
        smoothed = batches.map(
            lambda images, labels, *weights: (images, self.recipe.smooth_labels(labels), *weights)
        )
        return EpochsInOne(smoothed, epochs)

    def input_spec(self, stage: TrainStage) -> InputSpec:
        """Return the steps of a training picture in a stage."""
        recipe = self.recipe
        return InputSpec(
            image_size=stage.image_size,
            crop_style=recipe.crop_style,
            crop_area=recipe.crop_area,
            reduced_decode=recipe.reduced_decode is True,
            horizontal_flip=recipe.horizontal_flip,
            randaugment_magnitude=stage.randaugment_magnitude,
            randaugment_layers=recipe.randaugment_layers,
            scale_randaugment=recipe.scale_randaugment,
            autoaugment=recipe.autoaugment is True,
            mixup_alpha=stage.mixup_alpha,
            cutmix_alpha=stage.cutmix_alpha,
            mixup_style=recipe.mixup_style,
            cutmix_style=recipe.cutmix_style,
            class_weights=recipe.class_weights,
            balanced=recipe.balanced,
            evaluation_style=recipe.evaluation_style,
        )

    def network(self, given: keras.Model | ModelConfig | str) -> keras.Model | ModelConfig | str:
        """Return the network that is given, for small pictures with fewer strides."""
        if not self.recipe.small_pictures or isinstance(given, keras.Model):
            return given
        config = ModelConfig.from_name(given) if isinstance(given, str) else given
        # Of pictures below 32 pixels the last map is smaller than theirs: they show less.
        return config.for_small_pictures(max(_SMALL_SIDE, self.plan[-1].image_size))

    @property
    def is_probe(self) -> bool:
        """Whether the classifier is all that learns."""
        return self.recipe.probe == "only"

    @property
    def pictures_per_epoch(self) -> int:
        """Training pictures of an epoch."""
        return self.max_pictures_per_epoch or self.training.num_examples

    def steps_per_epoch(self, stage: TrainStage) -> int:
        """Return the optimizer steps of an epoch of a stage."""
        return steps_per_epoch(self.pictures_per_epoch, stage.batch_size)

    @property
    def evaluation_size(self) -> int:
        """Side of the pictures that the network is evaluated and served with, pixels."""
        return self.recipe.evaluation_size or self.plan[-1].image_size

    def evaluation_spec(self) -> InputSpec:
        """Return the steps of a picture that the network is evaluated with."""
        return replace(self.input_spec(self.plan[-1]), image_size=self.evaluation_size)

    def epoch_order(self, epoch: int) -> np.ndarray:
        """Return positions in `training`, (N,) int64, in the order of an epoch."""
        seed, balanced = self.recipe.seed, self.recipe.balanced
        order = self.training.order(shuffle=True, seed=seed, epoch=epoch, balanced=balanced)
        return order % self.training.num_examples

    def smallest_batch_norm_batch(self) -> int:
        """Return the fewest pictures that share a batch norm's statistics in any stage."""
        return min(self.workers.batch_norm_batch(stage.batch_size) for stage in self.plan)

    def validation_dataset(self, image_size: int | None = None) -> tf.data.Dataset:
        """Return the validation batches, or this worker's part of each.

        Pictures that take at most 256 MiB (float32) are decoded here, once, and kept; more are
        decoded at every validation, and so are those for several devices. Devices have equal
        parts: the first pictures may fill up the last batch.

        Args:
            image_size: side of the pictures, pixels; None is the size of evaluation.
        """
        workers, count = self.workers, self.validation.num_examples
        filled = np.resize(np.arange(count), -(-count // workers.devices) * workers.devices)
        own = filled[workers.index :: workers.count]
        batch_size = workers.local_batch_size(self.plan[-1].batch_size)
        spec = self.evaluation_spec()
        if image_size is not None:
            spec = replace(spec, image_size=image_size)
        # Not with several: TensorFlow would give the last batch of a plain `batch` to the first.
        is_small = (
            workers.devices == 1 and len(own) * 12 * spec.image_size**2 <= _KEPT_VALIDATION_BYTES
        )
        with tf.device("CPU:0"):
            dataset = spec.dataset(
                self.validation.subset(own),
                batch_size=len(own) if is_small else batch_size,
                training=False,
            )
            if is_small:
                kept = dataset.get_single_element()
                dataset = tf.data.Dataset.from_tensor_slices(kept).batch(batch_size)
        return without_auto_sharding(dataset)


def load_inputs(
    model_or_variant: keras.Model | ModelConfig | str,
    data: TrainingData,
    recipe: TrainRecipe,
    workers: Workers = ALONE,
    say: Callable[[str], Any] = lambda line: None,
    *,
    is_pretrained: bool = False,
) -> Inputs:
    """Find the pictures and plan the stages of a training; only a few pictures are read.

    The name of the network decides what "preset" means in the recipe, a sample of the pictures and
    `is_pretrained` what "auto" means. `say` is called with a line if there are more epochs or fewer
    stages than in the recipe.

    Raises:
        ValueError: the recipe does not fit the data, the model or the devices.
        Further errors are those of `TrainingData.load`.
    """
    training, validation = data.load(recipe.seed)
    check_one_class(training, recipe.class_weights, recipe.balanced)
    check_weighted_names(recipe.class_weights, training.class_names)
    name = model_or_variant if isinstance(model_or_variant, str) else model_or_variant.name
    asked = recipe
    if not isinstance(model_or_variant, str) and recipe.small_pictures == "auto":
        recipe = replace(recipe, small_pictures=False)  # a network is taken as it is given
    recipe, plan = recipe.resolve(
        name,
        training.num_examples,
        picture_side=typical_side(training) if recipe.image_size == "auto" else None,
        is_pretrained=is_pretrained,
        strides=model_or_variant.strides if isinstance(model_or_variant, ModelConfig) else None,
        multi_label=training.multi_label,
    )
    if training.multi_label and asked.loss == "auto":
        say("loss: sigmoid, because a picture may have several classes or none (multi-label)")
    if recipe.epochs > asked.epochs:
        say(
            f"{recipe.epochs:,} epochs instead of {asked.epochs}, because there are few pictures; "
            "--epochs (epochs=) chooses another number"
        )
    if len(plan) < asked.stages:
        say(f"{counted(len(plan), 'stage')} instead of {asked.stages}: every stage needs an epoch.")
    if recipe.batch_size == "auto" and workers.count > 1:
        raise ValueError(
            "Several processes need one batch size that they agree on. Give a number "
            '(--batch-size, batch_size=). Received: "auto"'
        )
    for stage in plan if recipe.batch_size != "auto" else ():
        workers.local_batch_size(stage.batch_size)  # raises where the devices cannot share it
    inputs = Inputs(data, training, validation, recipe, plan, workers)
    network = inputs.network(model_or_variant)
    if recipe.small_pictures and isinstance(network, ModelConfig):
        size = plan[-1].image_size
        side = math.ceil(size / network.strides)
        say(
            f"small pictures: {network.name} has strides of {network.strides} in all, so that "
            f"{size} pixels end in a map of {side} x {side}; --no-small-pictures "
            "(small_pictures=False) keeps its own strides"
        )
    return inputs


def typical_side(source: ImageSource) -> int | None:
    """Return the median side of a sample, pixels: of a square of as many; None if none is read."""
    extents = source.in_order(source.sample(), lambda data, label, index: picture_extent(data))
    areas = [math.prod(extent) for extent in extents.ignore_errors().as_numpy_iterator()]
    return math.isqrt(int(np.median(areas))) if any(areas) else None
