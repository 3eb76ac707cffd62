"""Learning rate schedules of the official trainings: a linear warm-up, then one of four curves.

Source of `WarmupSchedule`: google/automl, efficientnetv2/utils.py, `WarmupLearningRateSchedule`.
`follow_plan` adapts such a curve to stages with different batch sizes, numbers of steps and sizes.
"""

import math
import operator
from collections.abc import Iterable
from itertools import pairwise
from typing import Any, NamedTuple, get_args

import keras

from keras_effnetv2._common.checks import check_choice, check_number
from keras_effnetv2.recipes.stages import Curve, DecayBy, StagePlan, step_of_epoch, steps_per_epoch


@keras.saving.register_keras_serializable(package="keras_effnetv2")
class WarmupSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """Learning rate at an optimizer step, as in the official code.

    For the first `int(warmup_epochs * steps_per_epoch)` steps the rate is
    `base_learning_rate * step / warmup_steps`, so 0 at step 0. Afterwards it is
    `max(curve, minimum)`, and every curve counts its steps from 0, warm-up included:

    * "exponential": `base * decay_factor ** floor(step / (decay_epochs * steps_per_epoch))`
    * "cosine": `base * (1 + cos(pi * step / total_steps)) / 2`
    * "linear": `base * (1 - step / total_steps)`
    * "constant": `base`

    "cosine" and "linear" stay at their end value after the last step.

    Args:
        base_learning_rate: the highest rate, above 0. Official: batch size / 256 times 0.016
            (ImageNet), 0.008 (ImageNet-21k) or 0.0005 (fine-tuning).
        steps_per_epoch: optimizer steps an epoch, above 0. May be a fraction: the official code
            takes images / batch size.
        warmup_epochs: 0 or more, fractions allowed.
        schedule: "exponential", "cosine", "linear" or "constant".
        total_epochs: length of the training, warm-up included. Needed by "cosine" and "linear",
            unless `total_steps` is given.
        total_steps: the same in steps, if it is not `total_epochs * steps_per_epoch`.
        decay_factor: for "exponential", in (0, 1].
        decay_epochs: for "exponential", above 0: epochs between two drops.
        minimum: lowest rate after the warm-up; 0 or more.

    Raises:
        ValueError: an argument is outside its range, or the length is missing or given twice.
    """

    def __init__(
        self,
        base_learning_rate: float,
        *,
        steps_per_epoch: float,
        warmup_epochs: float,
        schedule: Curve = "exponential",
        total_epochs: float | None = None,
        total_steps: float | None = None,
        decay_factor: float = 0.97,
        decay_epochs: float = 2.4,
        minimum: float = 0.0,
    ) -> None:
        super().__init__()
        check_number("base_learning_rate", base_learning_rate, above=0)
        check_number("steps_per_epoch", steps_per_epoch, above=0)
        check_number("warmup_epochs", warmup_epochs, minimum=0)
        check_choice("schedule", schedule, get_args(Curve))
        check_number("decay_factor", decay_factor, above=0, maximum=1)
        check_number("decay_epochs", decay_epochs, above=0)
        check_number("minimum", minimum, minimum=0)
        check_number("total_epochs", total_epochs, above=0, or_none=True)
        check_number("total_steps", total_steps, above=0, or_none=True)
        lengths = [length for length in (total_epochs, total_steps) if length is not None]
        if len(lengths) == 2 or (not lengths and schedule in ("cosine", "linear")):
            raise ValueError(
                f"schedule={schedule!r} needs its length, as `total_epochs` or as `total_steps`, "
                f"not both. Received: total_epochs={total_epochs!r}, total_steps={total_steps!r}"
            )
        self.base_learning_rate = base_learning_rate
        self.steps_per_epoch = steps_per_epoch
        self.warmup_epochs = warmup_epochs
        self.schedule = schedule
        self.total_steps = total_steps if total_epochs is None else total_epochs * steps_per_epoch
        self.decay_factor = decay_factor
        self.decay_epochs = decay_epochs
        self.minimum = minimum

    def __call__(self, step: Any) -> Any:
        """Return the rate, a float32 scalar, after `step` steps, an integer scalar."""
        step = keras.ops.cast(step, "float32")
        rate = keras.ops.maximum(self._curve(step), self.minimum)
        warmup_steps = int(self.warmup_epochs * self.steps_per_epoch)
        if warmup_steps == 0:
            return rate
        warmup = self.base_learning_rate * (step / warmup_steps)
        return keras.ops.where(step < warmup_steps, warmup, rate)

    def _curve(self, step: Any) -> Any:
        base = self.base_learning_rate
        if self.schedule == "constant":
            return keras.ops.full_like(step, base)
        if self.schedule == "exponential":
            falls = keras.ops.floor(step / (self.decay_epochs * self.steps_per_epoch))
            return base * keras.ops.power(self.decay_factor, falls)
        # In this order, as the official code: a cosine near -1 shows every float32 rounding.
        step = keras.ops.minimum(step, self.total_steps)
        if self.schedule == "linear":
            return base * (1.0 - step / self.total_steps)
        return 0.5 * base * (1.0 + keras.ops.cos(math.pi * step / self.total_steps))

    def get_config(self) -> dict[str, Any]:
        return dict(vars(self))


# --- stages that differ --------------------------------------------------------------------------


class Segment(NamedTuple):
    """Optimizer steps of one stage, from `start_step` of the whole training.

    `steps_per_epoch` of them go as far along the curve as an epoch of the first stage does.
    """

    start_step: int
    steps_per_epoch: float
    batch_size: int


@keras.saving.register_keras_serializable(package="keras_effnetv2")
class StagedSchedule(keras.optimizers.schedules.LearningRateSchedule):
    """A `WarmupSchedule` for a training whose batch or picture size changes from stage to stage.

    The rate at an optimizer step is

        curve(place) * batch size of the stage / batch size of the first stage

    The place on the curve counts in epochs, so a stage with more steps an epoch does not speed up
    the decay or shorten the warm-up, or in pixels (see `follow_plan`). The rate is proportional to
    the batch size, as officially (`lr_base * batch_size / 256`).

    Args:
        curve: the schedule if all stages were like the first one.
        segments: a `Segment`, or its three numbers, for each stage in order.
    """

    def __init__(self, curve: WarmupSchedule, segments: Iterable[tuple[int, float, int]]) -> None:
        super().__init__()
        self.curve = curve
        self.segments = tuple(Segment(*segment) for segment in segments)

    def __call__(self, step: Any) -> Any:
        """Return the rate, a float32 scalar, after `step` steps, an integer scalar."""
        step = keras.ops.cast(step, "float32")
        first = self.segments[0]
        # The place on the curve in steps of the first stage, which leaves that stage's exact.
        place, scale, start = step, 1.0, 0.0
        for before, segment in pairwise(self.segments):
            length = segment.start_step - before.start_step
            start += length * first.steps_per_epoch / before.steps_per_epoch
            pace = first.steps_per_epoch / segment.steps_per_epoch
            has_begun = step >= segment.start_step
            place = keras.ops.where(has_begun, start + (step - segment.start_step) * pace, place)
            scale = keras.ops.where(has_begun, segment.batch_size / first.batch_size, scale)
        return self.curve(place) * scale

    def get_config(self) -> dict[str, Any]:
        return {
            "curve": keras.saving.serialize_keras_object(self.curve),
            "segments": [list(segment) for segment in self.segments],
        }

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "StagedSchedule":
        curve = keras.saving.deserialize_keras_object(config["curve"])
        return cls(curve, config["segments"])


def follow_plan(
    curve: WarmupSchedule, plan: StagePlan, num_examples: int, decay_by: DecayBy = "epochs"
) -> WarmupSchedule | StagedSchedule:
    """Return the schedule for a plan, given the curve for stages like the first one.

    It is `curve` itself if no stage differs from the first one in this, else a `StagedSchedule`.

    Args:
        curve: its length and its decay are those of the epochs of the plan.
        plan: the stages.
        num_examples: training pictures.
        decay_by: "epochs", or "pixels": an epoch goes as far along the curve as its pictures have
            pixels, and the whole training as far as with epochs. So the last stages, which take
            most of the time, still learn. Epochs of the warm-up are those of the first stage.
    """
    sizes = [stage.batch_size for stage in plan]
    pixels = [stage.image_size**2 if decay_by == "pixels" else 1 for stage in plan]
    if len(set(sizes)) == len(set(pixels)) == 1:
        return curve
    strides = [count / pixels[0] for count in pixels]
    lengths = [stage.end_epoch - stage.start_epoch for stage in plan]
    mean = sum(map(operator.mul, strides, lengths)) / plan.epochs
    config = curve.get_config()
    for name in ("total_steps", "decay_epochs"):
        config[name] = config[name] and config[name] * mean
    starts = [step_of_epoch(plan, num_examples, stage.start_epoch) for stage in plan]
    paces = [
        steps_per_epoch(num_examples, size) / stride
        for size, stride in zip(sizes, strides, strict=True)
    ]
    return StagedSchedule(WarmupSchedule(**config), zip(starts, paces, sizes, strict=True))
