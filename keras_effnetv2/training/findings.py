"""Warnings and notes about a training before its first step, each one line with a way out.

A warning means that the result will most likely be worse than it could be; a note is good to know.
What cannot work at all is an earlier error: `TrainingData.load`, `preflight.check_model`,
`inputs.load_inputs`, and for a disk that is too small `run_folder.prepare_output`.
"""

import math
import warnings
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.text import counted, some
from keras_effnetv2.models.graph import (
    all_layers,
    ending_of,
    graph_nodes,
    is_open,
    limit_of_two_activations,
    traced_layers,
)
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import SMALL_PICTURES, StagePlan, step_of_epoch
from keras_effnetv2.training.footprint import Machine, training_shortage
from keras_effnetv2.training.inputs import Inputs, typical_side
from keras_effnetv2.training.picture_findings import (
    earlier_run_findings,
    label_findings,
    picture_findings,
    same_picture_findings,
)
from keras_effnetv2.training.transfer import batch_norms, has_learned

# Pictures below which training a batch norm costs accuracy: see `transfer.SMALL_BATCH`.
MIN_BATCH_NORM_BATCH = 16
# Share of its first values that a moving statistic may have left when the training ends.
_MAX_INITIAL_SHARE = 0.05
# What reaches the first weights for black and for white: raw pixels lie 255 apart, normalised ones
# 1 to 5 (255 if only the mean is taken off, which is a normalisation too, as of ResNet in Caffe),
# with zero between them or not far off; of raw ones black is hardly below zero.
_RAW_WHITE = 16.0
_RAW_BLACK = 0.1
_FLAT = 0.1
_MAX_OFFSET = 2.0
# A last map with fewer pixels a side does not fill a kernel; the published variants have as many
# for pictures of so many pixels.
_LEAST_MAP = 3
_ENOUGH_PIXELS = 96
# How far the middle of the values, against their range, may sink after the mean was taken off.
_MAX_SHIFT = 0.25


def look_for_findings(
    model: keras.Model, inputs: Inputs, machine: Machine, weights: str | None = None
) -> Iterator[str]:
    """Yield all findings about a training, each as "warning: ..." or "note: ...".

    `preflight.check_model` has accepted the model, and its batch norms are already frozen if
    wanted. It was built with the `weights`, see `build_model`.
    """
    learned, plan = has_learned(model), inputs.plan
    training, validation = inputs.training, inputs.validation
    yield from label_findings(training, validation, inputs.recipe)
    yield from picture_findings(training)
    yield from map_findings(model, inputs)
    yield from same_picture_findings(training, validation)
    yield from earlier_run_findings(weights, training, validation)
    yield from input_range_findings(model, plan, learned)
    yield from activation_findings(model, inputs.recipe)
    yield from batch_norm_findings(model, inputs, learned)
    yield from step_findings(inputs)
    yield from precision_findings(model, inputs.recipe, machine)
    yield from file_findings(model)
    yield from memory_findings(model, plan, machine)


# --- the model ----------------------------------------------------------------------------------


def input_range_findings(model: keras.Model, plan: StagePlan, learned: bool) -> Iterator[str]:
    """Find a model that does not normalise pixels 0..255, or does so twice.

    Black and white pictures show what reaches the first layer with weights. For a model that has
    `learned`, a finding is a warning.
    """
    size = plan[0].image_size
    pictures = np.zeros((2, size, size, 3), "float32")
    pictures[1] = 255.0
    steps = _up_to_first_weights(model, pictures)
    if not steps:
        return
    reached = steps[-1]
    black, white = reached.reshape(2, -1).astype("float64")
    swing = np.abs(white - black)
    most = swing.argmax()
    low, high = float(reached.min()), float(reached.max())
    level = "warning" if learned else "note"
    if high > _RAW_WHITE and low > -_RAW_BLACK * high:
        yield (
            f"{level}: The pictures are 0..255, and {low:.3g}..{high:.3g} reach the first weights "
            f"of {model.name!r}, which most networks want within -3..3. Build it with "
            "include_preprocessing=True, or put what its preprocess_input does in front."
        )
    elif (
        swing[most] < _FLAT
        or abs(black[most] + white[most]) / 2 > _MAX_OFFSET * swing[most]
        or any(
            step.min() < -_RAW_WHITE
            and step.max() > _RAW_WHITE
            and _middle(step) - _middle(reached) > _MAX_SHIFT
            for step in steps
        )
    ):
        yield (
            f"{level}: The pictures are 0..255, but black becomes {black[most]:.4g} and white "
            f"{white[most]:.4g} where they reach the first weights of {model.name!r}: are they "
            "normalised twice? Take out the Rescaling or preprocess_input in front, or build the "
            "network with include_preprocessing=False."
        )


def _middle(values: np.ndarray) -> float:
    """The middle of the values as a share of their range: 0 if they lie around zero."""
    low, high = float(values.min()), float(values.max())
    return (low + high) / 2 / (high - low)


def _up_to_first_weights(model: keras.Model, pictures: Any) -> list[np.ndarray]:
    """What each layer gets, up to the first one with weights.

    Nothing if a layer normalises there, or is opaque.
    """
    tensors = []
    for node in graph_nodes(model):
        layer = node.operation
        tensors.append(node.input_tensors[0])
        if not _has_own_weights(layer):
            continue
        if "Normalization" in type(layer).__name__:
            return []
        front = keras.Model(model.inputs[0], tensors)
        steps = keras.tree.flatten(front.predict_on_batch(pictures))  # a list of one comes bare
        if not isinstance(layer, keras.Model):
            return steps
        inner = _up_to_first_weights(layer, steps[-1]) if is_open(layer) else []
        return inner and [*steps, *inner]
    return []


def _has_own_weights(layer: Any) -> bool:
    """Whether a layer, or one inside of it, has weights that are not a normalisation's numbers."""
    if not isinstance(layer, keras.layers.Layer):  # an operation of keras.ops
        return False
    if not isinstance(layer, keras.Model):
        return bool(layer.weights) and not isinstance(layer, keras.layers.Normalization)
    return any(map(_has_own_weights, all_layers(layer)))


def map_findings(model: keras.Model, inputs: Inputs) -> Iterator[str]:
    """Find photographs too small for the network: outer weights of its last kernels see nothing."""
    size = min(inputs.evaluation_size, *(stage.image_size for stage in inputs.plan))
    if size >= _ENOUGH_PIXELS:
        return
    sides = [
        min(outputs[0].shape[1:3])
        for layer, _, outputs in traced_layers(model, (1, size, size, 3))
        if max(getattr(layer, "kernel_size", (1,))) > 1
    ]
    side = sides[-1] if sides else _LEAST_MAP
    pixels = typical_side(inputs.training) if side < _LEAST_MAP else None
    if pixels is not None and pixels > SMALL_PICTURES:
        yield (
            f"warning: At {size} pixels the last map of {model.name!r} is {side} x {side}, too few "
            f"to learn its kernels from. Use pictures of {_ENOUGH_PIXELS} pixels or more from the "
            "first stage on (--image-size, image_size=)."
        )


def activation_findings(model: keras.Model, recipe: TrainRecipe) -> Iterator[str]:
    """Find probabilities that are squashed twice, or cut off.

    `preflight.check_model` has found that the model ends as the recipe's loss needs.
    """
    limit = limit_of_two_activations(model.outputs[0])
    if limit is not None:
        yield (
            f"warning: {model.name!r} puts probabilities through a second activation, so none of "
            f"them can be above {limit:.3f}. Take one of the two out, for example "
            "activation='softmax' of the last Dense or the Softmax behind it."
        )
    elif recipe.loss == "sigmoid" and ending_of(model.outputs[0]).lowest == 0:
        yield (
            f"warning: {model.name!r} ends in an activation that is exactly 0 below some number, "
            "as hard_sigmoid is, and learns nothing there. Use activation='sigmoid'."
        )


def batch_norm_findings(model: keras.Model, inputs: Inputs, learned: bool) -> Iterator[str]:
    """Find batch norms that train on too few pictures or steps, or are frozen too early."""
    every = batch_norms(model)
    layers = [layer for layer in every if layer.trainable]
    if not layers:
        if every and not learned:
            yield (
                "warning: The batch norms are frozen, but have learned nothing yet, so they "
                "normalise nothing. Load weights (--weights, weights=), or train them "
                '(batch_norm="train" of the recipe).'
            )
        return
    batch = inputs.smallest_batch_norm_batch()
    if batch < MIN_BATCH_NORM_BATCH:
        yield (
            f"warning: The batch norms train on batches of {counted(batch, 'picture')}; below "
            f"{MIN_BATCH_NORM_BATCH} their statistics are so noisy that accuracy suffers. Use "
            "larger batches (--batch-size, batch_size=), or start from pretrained weights "
            '(--weights, weights=) with batch_norm="freeze" in the recipe.'
        )
    steps = step_of_epoch(inputs.plan, inputs.training.num_examples, inputs.plan.epochs)
    momentum = max(layer.momentum for layer in layers)
    left = momentum**steps
    if not learned and left > _MAX_INITIAL_SHARE:
        enough = math.log(_MAX_INITIAL_SHARE) / math.log(momentum) / steps * inputs.plan.epochs
        yield (
            f"warning: After the {counted(steps, 'step')} of this training the batch norms' "
            f"averages will still be {left:.0%} of their initial values, so evaluation will be "
            f"far worse than training. Train {math.ceil(enough)} epochs (--epochs, epochs=), use "
            f"smaller batches, of {MIN_BATCH_NORM_BATCH} pictures at least (--batch-size, "
            "batch_size=), or start from pretrained weights (--weights, weights=)."
        )


def precision_findings(model: keras.Model, recipe: TrainRecipe, machine: Machine) -> Iterator[str]:
    """Find half precision that was not asked for, is not scaled or slow, or ends the model."""
    types = {layer.compute_dtype for layer in all_layers(model)} & {"float16", "bfloat16"}
    policy = model.dtype_policy.name
    if recipe.precision not in ("float32", policy):
        yield (
            f"note: The recipe's precision {recipe.precision!r} is only for models that `train` "
            f"builds; {model.name!r} has {policy!r}. Call keras.config.set_dtype_policy"
            f"({recipe.precision!r}) before building it."
        )
    if "float16" in types and policy != "mixed_float16":
        yield (
            f"warning: {model.name!r} computes in float16, but its policy is {policy!r}, so Keras "
            "does not scale the loss and small gradients become 0. Build all of it after "
            "keras.config.set_dtype_policy('mixed_float16')."
        )
    if model.outputs[0].dtype in ("float16", "bfloat16"):
        yield (
            f"warning: {model.name!r} ends in {model.outputs[0].dtype}, too coarse for a loss. "
            "Build its last layer with dtype='float32'."
        )
    if types and not machine.has_accelerator:
        yield (
            f"warning: There is no GPU, and most CPUs compute {', '.join(sorted(types))} slower "
            "than float32. Set precision='float32' in the recipe."
        )


def file_findings(model: keras.Model) -> Iterator[str]:
    """Find layers that Keras would not read back from the run's `model.keras`."""
    layers = [layer for layer in all_layers(model) if not isinstance(layer, keras.Model)]
    if lost := some([layer.name for layer in layers if not _can_be_read_back(layer)]):
        yield (
            f"warning: Keras will not be able to open model.keras because of these layers: {lost}. "
            "Use activations of Keras ('softmax', not tf.nn.softmax) and keras.ops in place of "
            "Lambda; register layers of your own (keras.saving.register_keras_serializable)."
        )


def _can_be_read_back(layer: keras.layers.Layer) -> bool:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Keras on lambdas, which it then refuses
            config = keras.saving.serialize_keras_object(layer)
            # Without the shapes it builds no weights.
            keras.saving.deserialize_keras_object(config | {"build_config": None})
    except (NotImplementedError, OSError, TypeError, ValueError):
        return False
    return True


# --- the recipe and the machine -----------------------------------------------------------------


def step_findings(inputs: Inputs) -> Iterator[str]:
    """Find a batch that is larger than the data, unless it is that of the preset "probe"."""
    pictures = inputs.training.num_examples
    batch = max(stage.batch_size for stage in inputs.plan)
    is_ours = inputs.is_probe and batch == PRESETS["probe"]["batch_size"]
    if pictures < batch and not is_ours:
        yield (
            f"warning: The {pictures:,} training pictures do not fill one batch of {batch:,}. An "
            "epoch is one smaller step, with the learning rate for a full one. Use smaller batches "
            "(--batch-size, batch_size=)."
        )


def memory_findings(model: keras.Model, plan: StagePlan, machine: Machine) -> Iterator[str]:
    """Find too little main memory for the largest stage."""
    if (lacking := training_shortage(model, plan, machine)) is not None:
        yield (
            f"warning: A train step {lacking}. Use smaller batches (--batch-size, batch_size=) or "
            "pictures (--image-size, image_size=), or the system may end the training."
        )
