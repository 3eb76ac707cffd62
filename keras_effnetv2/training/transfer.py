"""What stays as it is while a pretrained network learns something new: batch norms, first blocks.

A batch norm that trains normalises by the mean and variance of its batch. With few pictures these
are noisy, and their averages replace the statistics that the weights were trained with. A frozen
one is a fixed scale and offset. `benchmarks/transfer.py` compares the two.
"""

import contextlib
from collections.abc import Callable
from dataclasses import replace
from itertools import chain
from typing import Any, Literal

import keras

from keras_effnetv2._common.text import counted
from keras_effnetv2.models.graph import all_layers
from keras_effnetv2.recipes.field_checks import BatchNormPolicy
from keras_effnetv2.recipes.optimizers import layer_groups
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.training.inputs import Inputs

SMALL_BATCH = 32
"""Pictures; in smaller batches the statistics are worse than those of the weights.

Wu and He (Group Normalization, arXiv 1803.08494, table 2): ResNet-50 on ImageNet has a validation
error of 23.6% with 32 pictures a device, 23.7% with 16, 24.8% with 8, 27.3% with 4, 34.7% with 2.
At 16 `benchmarks/transfer.py` sees no difference beyond its noise; frozen is the safe side.
"""


def resolve_batch_norm(
    policy: BatchNormPolicy, smallest_batch: int, is_pretrained: bool
) -> tuple[Literal["train", "freeze"], str]:
    """Decide whether the batch norms are trained or frozen, and say why, in one line.

    "auto" freezes them if the network is pretrained and a batch is smaller than `SMALL_BATCH`.
    """
    if policy != "auto":
        return policy, "the recipe says so"
    if not is_pretrained:
        return "train", "the network has no statistics yet"
    batches = f"batches of {counted(smallest_batch, 'picture')}"
    if smallest_batch >= SMALL_BATCH:
        return "train", f"{batches} (at least {SMALL_BATCH}) have good enough statistics"
    noisier = "have noisier statistics than the pretrained weights"
    return "freeze", f"{batches} (fewer than {SMALL_BATCH}) {noisier}"


def batch_norms(model: keras.Model) -> list[Any]:
    """Return every `BatchNormalization` of a model, nested models included."""
    return [
        layer for layer in all_layers(model) if isinstance(layer, keras.layers.BatchNormalization)
    ]


def has_learned(model: keras.Model) -> bool:
    """Return whether a model has seen pictures, in this process or earlier.

    A fresh batch norm has the moving mean 0. In a model without batch norms fresh biases are 0.
    """
    fresh = [layer.moving_mean for layer in batch_norms(model)]
    fresh = fresh or [one for one in model.weights if one.name in ("bias", "beta")]
    return any(bool(keras.ops.any(one != 0)) for one in fresh)


def freeze_batch_norm(model: keras.Model) -> int:
    """Keep every batch norm of a model, nested models included, as it is while the rest trains.

    Each gets `trainable = False`. In Keras it then normalises by its moving statistics in training,
    too, and statistics, gamma and beta keep their values. Call this before `compile`, and again
    after setting `trainable` of the model or of a part with batch norms, because that also sets it
    in every layer inside.

    Args:
        model: any built model.

    Returns:
        The number of batch norms.
    """
    layers = batch_norms(model)
    for layer in layers:
        layer.trainable = False
    return len(layers)


def freeze_first_blocks(model: keras.Model, share: float) -> int:
    """Keep the first blocks of a model as they are while the rest trains.

    They see edges and textures, which all photographs have in common, and their maps are large: a
    step without their gradients is much faster. Each layer gets `trainable = False`; call this
    before `compile`.

    Args:
        model: any built model.
        share: 0..1, of the groups of `optimizers.layer_groups` (stem, blocks, head, classifier);
            rounded, and the classifier always learns.

    Returns:
        The number of frozen groups.
    """
    groups = layer_groups(model)
    frozen = groups[: min(round(share * len(groups)), len(groups) - 1)]
    for layer in chain.from_iterable(frozen):
        layer.trainable = False
    return len(frozen)


def freeze(
    model: keras.Model,
    inputs: Inputs,
    is_pretrained: bool,
    earlier: RunSettings | None,
    frozen: contextlib.ExitStack,
    say: Callable[[str], Any],
) -> Inputs:
    """Freeze batch norms and first blocks if wanted; return inputs with a recipe that records it.

    Closing `frozen` gives back to every layer the `trainable` that it had. A resumed run keeps its
    first decisions.
    """
    for layer in all_layers(model):  # closed the other way: a model before the layers in it
        frozen.callback(setattr, layer, "trainable", layer.trainable)
    policy = inputs.recipe.batch_norm
    if policy == "auto" and earlier is not None:
        policy = earlier.recipe.batch_norm
    smallest_batch = inputs.smallest_batch_norm_batch()
    settled, reason = resolve_batch_norm(policy, smallest_batch, is_pretrained)
    if settled == "freeze":
        freeze_batch_norm(model)
    if is_pretrained and batch_norms(model):
        say(f"batch norms {'frozen' if settled == 'freeze' else 'trained'}: {reason}")
    share = inputs.recipe.frozen_share if is_pretrained else 0.0
    if blocks := freeze_first_blocks(model, share):
        say(f"first blocks frozen: {blocks} with the stem; the recipe says so")
    recipe = replace(inputs.recipe, batch_norm=settled, frozen_share=share)
    return replace(inputs, recipe=recipe)
