"""A learning rate for a model and its data, from one short training in which the rate grows.

The range test of Smith, "Cyclical Learning Rates for Training Neural Networks", arXiv 1506.01186,
section 3.3.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import chain, islice, repeat
from typing import Any

import keras

from keras_effnetv2._common.checks import check_integer, check_number

SMOOTHING = 0.9
"""Share of the losses before in the smoothed loss, so about ten batches count."""

DIVERGED = 4.0
"""The test ends where the smoothed loss is this many times the lowest one."""

LEAST_FALL = 0.01
"""Share of the first loss; with less no rate has had an effect."""

BELOW_LOWEST = 10.0
"""At the lowest loss the rate is about to be too high; a usual choice is a tenth of it."""


@dataclass(frozen=True)
class LearningRateCurve:
    """What `find_learning_rate` saw.

    Attributes:
        suggestion: a tenth of the rate at the lowest smoothed loss.
        rates: the rate of each step, rising; ends early where the loss grew out of bounds.
        losses: the smoothed loss of each step, as many as `rates`.
    """

    suggestion: float
    rates: tuple[float, ...]
    losses: tuple[float, ...]


def find_learning_rate(
    model: keras.Model,
    dataset: Iterable[Any],
    *,
    lowest: float = 1e-6,
    highest: float = 1.0,
    steps: int = 100,
) -> LearningRateCurve:
    """Try rising learning rates on a copy of a model; the model itself stays as it is.

    The rate grows by the same factor from step to step. The test ends early when the loss is four
    times the lowest one, or not finite. The suggestion is for the batch size of `dataset`;
    `--learning-rate` and `TrainRecipe.learning_rate` are rates for 256 pictures, so multiply it by
    256 / batch size for them.

    Args:
        model: compiled, functional or sequential; frozen layers stay frozen.
        dataset: batches as for `fit`: (images, labels) or (images, labels, sample weights), of
            `make_dataset` or any other iterable that can be read more than once.
        lowest: rate of the first step, above 0.
        highest: rate of the last step, above `lowest`.
        steps: of the test, at least 10; `dataset` is read again if it has fewer batches.

    Returns:
        The suggestion and the curve.

    Raises:
        ValueError: the model is not compiled, `dataset` is empty or can be read only once, an
            argument is outside its range, or the loss never fell by 1%.
    """
    check_number("lowest", lowest, above=0)
    check_number("highest", highest, above=lowest)
    check_integer("steps", steps, minimum=10)
    if not model.compiled:
        raise ValueError("`model` has no optimizer and no loss. Call `model.compile(...)` first.")
    if (batches := iter(dataset)) is dataset:
        raise ValueError(
            "`dataset` must be something that can be read more than once, such as a list of "
            f"batches or a tf.data.Dataset. Received: {dataset!r}"
        )
    if next(batches, None) is None:
        raise ValueError("`dataset` has no batches.")
    copy = trial_copy(model, lowest, highest, steps)
    factor = (highest / lowest) ** (1 / (steps - 1))
    rates: list[float] = []
    losses: list[float] = []
    average = 0.0
    for step, batch in enumerate(islice(chain.from_iterable(repeat(dataset)), steps)):
        copy.reset_metrics()  # they would be means over all steps
        images, labels, weights = keras.utils.unpack_x_y_sample_weight(batch)
        loss = float(copy.train_on_batch(images, labels, weights, return_dict=True)["loss"])
        average = SMOOTHING * average + (1 - SMOOTHING) * loss
        smoothed = average / (1 - SMOOTHING ** (step + 1))
        if not smoothed <= DIVERGED * min(losses, default=math.inf):  # also where it is not finite
            break
        rates.append(lowest * factor**step)
        losses.append(smoothed)
    if not losses or min(losses) > (1 - LEAST_FALL) * losses[0]:
        end = rates[-1] if rates else lowest
        raise ValueError(
            f"The loss never fell between the rates {lowest:g} and {end:g}. Give other limits, or "
            "check that labels and pixels (0..255) are right."
        )
    best = losses.index(min(losses))
    return LearningRateCurve(rates[best] / BELOW_LOWEST, tuple(rates), tuple(losses))


def trial_copy(model: keras.Model, lowest: float, highest: float, steps: int) -> keras.Model:
    """Return a compiled copy of a model, whose rate grows from step to step."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    optimizer = model.optimizer
    optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # `compile` scales losses again
    rate = keras.optimizers.schedules.ExponentialDecay(lowest, steps - 1, highest / lowest)
    settings = optimizer.get_config() | {
        "learning_rate": keras.optimizers.schedules.serialize(rate)
    }
    copy.compile(type(optimizer).from_config(settings), model.loss, jit_compile=model.jit_compile)
    return copy
