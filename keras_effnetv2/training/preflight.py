"""Checks of a training's arguments and of its model, before any picture is read."""

import inspect
import json
from collections.abc import Callable, Mapping
from typing import Any

import keras

from keras_effnetv2._common.checks import check_names, check_tensorboard
from keras_effnetv2._common.text import counted, first_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import is_published
from keras_effnetv2.data.class_balance import ClassWeights
from keras_effnetv2.models.graph import last_activation
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.recipe_file import FIELDS, changed
from keras_effnetv2.runs.run_settings import Limits, RunSettings
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.probe import last_dense
from keras_effnetv2.training.progressive import scheduled_dropout_layers
from keras_effnetv2.training.workers import Workers


def check_arguments(
    model_or_variant: Any,
    recipe: Any,
    changes: Mapping[str, Any],
    weights: str | None = None,
    callbacks: Any = (),
    tensorboard: bool = False,
) -> None:
    """Raise ValueError for arguments of `train` that are wrong with any data.

    Raises:
        ImportError: a package is missing that was asked for.
    """
    if tensorboard:
        check_tensorboard("TensorBoard")
    if not isinstance(recipe, TrainRecipe | None):
        raise ValueError(
            "`recipe` must be a TrainRecipe, for example TrainRecipe.preset('finetune'). "
            f"Received: recipe={recipe!r}"
        )
    changed(recipe or TrainRecipe.preset("finetune"), changes)  # a wrong value raises
    is_list = isinstance(callbacks, list | tuple)
    if not is_list or not all(isinstance(one, keras.callbacks.Callback) for one in callbacks):
        raise ValueError(
            "`callbacks` must be a list of Keras callbacks, that is of objects such as "
            f"keras.callbacks.CSVLogger('log.csv'). Received: callbacks={callbacks!r}"
        )
    if any(isinstance(one, keras.callbacks.BackupAndRestore) for one in callbacks):
        raise ValueError(
            "`callbacks` must not contain BackupAndRestore: `train` saves the whole state itself, "
            "and continues from it with resume=True."
        )
    if not isinstance(model_or_variant, keras.Model):
        config_of(model_or_variant)  # an unknown name raises
    elif recipe is not None and recipe.small_pictures is True:
        raise ValueError(
            "`small_pictures` of the recipe changes the strides of a variant or a ModelConfig, but "
            f"the model {model_or_variant.name!r} is already built. Build it from "
            "ModelConfig.for_small_pictures() and set small_pictures=False."
        )
    elif weights not in (None, "auto"):
        raise ValueError(
            "`weights` goes with a variant; load them into the model instead. "
            f"Received: weights={weights!r} and the model {model_or_variant.name!r}"
        )


def recipe_changes(
    train: Callable[..., Any],
    fields: Mapping[str, Any],
    epochs: int | None,
    class_weights: ClassWeights,
    balanced: bool | None,
) -> dict[str, Any]:
    """Return what arguments of `train` change in its recipe; of the last three None is nothing.

    Raises:
        ValueError: `fields` has names that are no fields.
    """
    check_names("`train`", fields, [*inspect.signature(train).parameters, *FIELDS])
    given = {"epochs": epochs, "class_weights": class_weights, "balanced": balanced}
    return {name: value for name, value in given.items() if value is not None} | {**fields}


def settled_limits(limits: Limits, earlier: RunSettings | None, workers: Workers) -> Limits:
    """Return the limits of a training, by default those of the run that it resumes.

    Raises:
        ValueError: they do not go with several processes.
    """
    limits = limits if earlier is None else limits.resuming(earlier.limits)
    if limits.max_minutes is not None and workers.count > 1:
        raise ValueError(
            "`max_minutes` does not go with several processes, because their clocks differ. Choose "
            f"a number of epochs instead (--epochs, epochs=). Received: {limits.max_minutes:g} and "
            f"{workers.count} processes"
        )
    return limits


def config_of(config_or_variant: ModelConfig | str) -> ModelConfig:
    """Return a config that is given itself or by the name of a variant."""
    if isinstance(config_or_variant, ModelConfig):
        return config_or_variant
    return ModelConfig.from_name(config_or_variant)


def architecture_to_record(model_or_variant: keras.Model | ModelConfig | str) -> Any:
    """Return the fields of a `ModelConfig` that is not a published variant, else None."""
    if not isinstance(model_or_variant, ModelConfig) or is_published(model_or_variant):
        return None
    return json.loads(model_or_variant.to_json())


def check_model(model: keras.Model, inputs: Inputs) -> None:
    """Raise ValueError unless the model is a classifier that fits the pictures and the recipe."""
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
            f"The pictures have {counted(classes, 'class', 'classes')}, and each needs its own "
            f"output. Build the model with classes={classes}. "
            f"Received: {model.name!r} with {counted(model.output_shape[-1], 'output')}"
        )
    sizes = [*dict.fromkeys(stage.image_size for stage in plan)]
    if inputs.evaluation_size not in sizes:
        sizes.append(inputs.evaluation_size)
    shape = tuple(model.input_shape)
    if len(shape) == 4 and shape[-1] != 3:
        raise ValueError(
            f"The model {model.name!r} takes {shape}, but all pictures, gray ones too, are "
            "(N, height, width, 3). Build it with input_shape=(None, None, 3), or convert them "
            "inside the model, for example with keras.ops.image.rgb_to_grayscale."
        )
    if len(shape) != 4 or any(side not in (None, size) for size in sizes for side in shape[1:3]):
        raise ValueError(
            f"The model {model.name!r} takes {shape}, but the stages and the evaluation "
            f"have pictures of {sizes} pixels. Build it with input_shape=(None, None, 3), or train "
            "at the model's size: set stages=1 and image_size to its side (pictures are square)."
        )
    scheduled_dropout_layers(model, None, plan)  # raises where the plan has rates, the model none
    if recipe.probe is not None:
        last_dense(model)
    try:
        model.compute_output_spec(keras.KerasTensor((1, min(sizes), min(sizes), 3)))
    except ValueError as error:
        raise ValueError(
            f"{model.name!r} cannot work with pictures of {min(sizes)} pixels: "
            f"{first_line(error)} Use larger pictures (--image-size, image_size=)."
        ) from None
    activation = last_activation(outputs[0])
    if activation != recipe.loss:
        raise ValueError(
            f"The recipe's loss needs a model that ends with a {recipe.loss}. Build it with "
            f"classifier_activation={recipe.loss!r}. Received: {model.name!r} ending with "
            f"{activation}"
        )
