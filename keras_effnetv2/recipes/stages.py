"""The plan of progressive learning: which picture size and regularisation in which epochs.

Pure data and pure functions; the callback that follows a plan is in `training/progressive.py`.
`progressive_stages` makes a plan from explicit ranges or from one of two presets, which
docs/progressive.md compares: "paper" (EfficientNetV2, Algorithm 1 and Table 6) and "official"
(google/automl, effnetv2_configs.py and main_tf2.py).
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import astuple, dataclass, replace
from functools import partial
from itertools import pairwise
from typing import Any, Literal

from keras_effnetv2._common.checks import (
    check_choice,
    check_integer,
    check_number,
    make_plain,
    plain,
)
from keras_effnetv2._common.text import aligned, counted
from keras_effnetv2.architectures.config import ModelConfig

MIN_IMAGE_SIZE = 8  # pixels
SMALL_PICTURES = 40
"""Pixels: the largest typical side of pictures that count as small."""

_CHECKS: dict[str, Any] = {  # of what varies by stage, called with its name and one value
    "image_size": partial(check_integer, minimum=MIN_IMAGE_SIZE),
    "randaugment_magnitude": partial(check_number, minimum=0, or_none=True),
    "mixup_alpha": partial(check_number, minimum=0),
    "cutmix_alpha": partial(check_number, minimum=0),
    "dropout_rate": partial(check_number, minimum=0, below=1, or_none=True),
    "batch_size": partial(check_integer, minimum=1),
}

# A number (the same in every stage) or (first stage, last stage).
Range = float | tuple[float, float]
FromPreset = Literal["preset"]

# Of the learning rate, see `schedule.WarmupSchedule`.
Curve = Literal["exponential", "cosine", "linear", "constant"]
DecayBy = Literal["epochs", "pixels"]  # see `schedule.follow_plan`


@dataclass(frozen=True)
class TrainStage:
    """One stage of a plan: the settings of the epochs `start_epoch` to `end_epoch - 1`.

    Args:
        index: position in the plan, from 0.
        start_epoch: first epoch of the stage, from 0.
        end_epoch: the epoch after the last one of the stage.
        image_size: side of the square training pictures, pixels, at least 8.
        randaugment_magnitude: 0 or more (official scale: 0..10 spans an operation, larger goes
            beyond); None is off.
        mixup_alpha: parameter of mixup's beta distribution; 0 is off.
        cutmix_alpha: parameter of CutMix's beta distribution; 0 is off.
        dropout_rate: in [0, 1); None leaves the model's rate as it is.
        batch_size: pictures per batch.

    Raises:
        ValueError: a field is outside its range.
    """

    index: int
    start_epoch: int
    end_epoch: int
    image_size: int
    randaugment_magnitude: float | None = None
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    dropout_rate: float | None = None
    batch_size: int = 64

    def __post_init__(self) -> None:
        make_plain(self)
        check_integer("index", self.index, minimum=0)
        check_integer("start_epoch", self.start_epoch, minimum=0)
        check_integer("end_epoch", self.end_epoch, minimum=self.start_epoch + 1)
        for name, check in _CHECKS.items():
            check(name, getattr(self, name))


class StagePlan(tuple[TrainStage, ...]):
    """The stages of a training in order, checked to follow each other; prints as a table.

    Args:
        stages: `TrainStage`s. The first starts at epoch 0, each other one where the one before
            ends.

    Raises:
        ValueError: there are no stages, one is not a `TrainStage`, or there are gaps.
    """

    __slots__ = ()

    def __new__(cls, stages: Iterable[TrainStage]) -> "StagePlan":
        plan = super().__new__(cls, stages)
        if not plan or not all(isinstance(stage, TrainStage) for stage in plan):
            raise ValueError(
                "A plan is one or more `TrainStage`s, as `progressive_stages(...)` makes them. "
                f"Received: {tuple(plan)!r}"
            )
        epoch = 0
        for index, stage in enumerate(plan):
            if stage.index != index or stage.start_epoch != epoch:
                raise ValueError(
                    "Stages must be numbered from 0 and each must start where the one before "
                    f"ends. Expected index={index}, start_epoch={epoch}. Received: {stage}"
                )
            epoch = stage.end_epoch
        return plan

    @property
    def epochs(self) -> int:
        """Return the number of epochs of the whole plan."""
        return self[-1].end_epoch

    def with_epochs(self, epochs: int) -> "StagePlan":
        """Return the same stages over another number of epochs, at least one for each stage."""
        spans = zip(self, pairwise(_starts(epochs, len(self))), strict=True)
        return StagePlan(
            replace(stage, start_epoch=start, end_epoch=end) for stage, (start, end) in spans
        )

    def at(self, epoch: int) -> TrainStage:
        """Return the stage of an epoch, counted from 0.

        Raises:
            ValueError: the plan has no such epoch.
        """
        for stage in self:
            if stage.start_epoch <= epoch < stage.end_epoch:
                return stage
        raise ValueError(f"The plan has the epochs 0 to {self.epochs - 1}. Received: epoch={epoch}")

    def table(self) -> tuple[tuple[str, ...], ...]:
        """Return the plan as rows of words: a header, then a row per stage; all counted from 1."""
        rows: list[tuple[str, ...]] = []
        header = ("stage", "epochs", "size", "randaugment", "mixup", "cutmix", "dropout", "batch")
        for stage in self:
            index, start, end, *numbers, batch_size = astuple(stage)
            words = ["-" if number is None else f"{number:.4g}" for number in numbers]
            rows.append((str(index + 1), f"{start + 1}-{end}", *words, str(batch_size)))
        return (header, *rows)

    def __str__(self) -> str:
        return "\n".join(aligned(self.table()))


# --- presets ------------------------------------------------------------------------------------


# EfficientNetV2 (Tan and Le, 2021), Table 6: (min, max) over the training. It lists mixup only.
_PAPER: dict[str, dict[str, Range]] = {
    variant: {
        "image_size": (128, size),
        "randaugment_magnitude": (5, magnitude),
        "mixup_alpha": (0.0, mixup_alpha),
        "dropout_rate": (0.1, dropout_rate),
    }
    for variant, size, magnitude, mixup_alpha, dropout_rate in (
        ("efficientnetv2-s", 300, 15, 0.0, 0.3),
        ("efficientnetv2-m", 380, 20, 0.2, 0.4),
        ("efficientnetv2-l", 380, 25, 0.4, 0.5),
    )
}

_STRIDES = 32  # of a published variant together
# Sides of the last map in pixels, see `suitable_sizes`.
_SCRATCH_MAP, _PRETRAINED_MAP, _LEAST_MAP = 5, 4, 3

_OFFICIAL_BASE_SIZE = 128  # official `ibase`; the first stage lies one step above it
_OFFICIAL_FIRST_MAGNITUDE = 5.0


def _official_ranges(config: ModelConfig, stages: int) -> dict[str, Range | None]:
    # int(128 + (size - 128) * (i + 1) / M) for i = 0..M-1, written as first and last value.
    step = (config.train_size - _OFFICIAL_BASE_SIZE) / stages
    return {
        "image_size": (_OFFICIAL_BASE_SIZE + step, config.train_size),
        # The variants trained with AutoAugment (b0-b3; V1, which officially has one size) have
        # the magnitude 0 in the official table, so the official rule falls from 5 to 0.
        "randaugment_magnitude": (_OFFICIAL_FIRST_MAGNITUDE, config.randaugment_magnitude or 0.0),
        "mixup_alpha": (0.0, config.mixup_alpha),
        "cutmix_alpha": (0.0, config.mixup_alpha),
        # The official code computes a schedule for it and throws it away.
        "dropout_rate": config.dropout_rate,
    }


def _preset_ranges(
    variant: str | None, preset: str | None, stages: int
) -> Mapping[str, Range | None]:
    """The ranges of a preset; none without a preset and a variant."""
    check_choice("preset", preset, ("paper", "official", None))
    if variant is None:
        if preset is not None:
            raise ValueError(
                f"preset={preset!r} needs a variant, for example "
                f"progressive_stages('efficientnetv2-s', epochs=350, preset={preset!r})."
            )
        return {}
    config = ModelConfig.from_name(variant)  # an unknown name is an error under either preset
    if preset != "paper":
        return _official_ranges(config, stages)
    if config.name not in _PAPER:
        raise ValueError(
            f"preset='paper' has the rows of the paper's Table 6: {', '.join(_PAPER)}. Received: "
            f"variant={variant!r}. Use preset='official', or give explicit ranges without a "
            "variant: progressive_stages(epochs=..., image_size=(128, 300), ...)."
        )
    return _PAPER[config.name]


def suitable_sizes(
    largest: int,
    picture_side: int | None = None,
    *,
    is_pretrained: bool,
    strides: int = _STRIDES,
) -> tuple[int, int]:
    """Return picture sizes of the first and the last stage, for any weights and pictures.

    The last one is `largest` for pretrained weights, and at most 160 pixels for fresh ones, which
    train fast there. But pictures are at most doubled, since more pixels would show no more, down
    to 128 pixels for pretrained weights (their maps are then 4 x 4; on fewer pixels they are not
    themselves) and 96 for fresh ones (3 x 3). The first size is about three fifths of the last one,
    and its maps are 3 x 3 at least.

    Small pictures, of at most 40 pixels, need no more pixels than they have if the network has
    fewer strides: the last size is then their own, so far that maps are within the same limits.

    Args:
        largest: pixels.
        picture_side: typical side of the pictures, pixels; None is large.
        is_pretrained: whether the network starts from trained weights.
        strides: of all layers together.
    """
    is_fitted = strides < _STRIDES and picture_side is not None and picture_side <= SMALL_PICTURES
    step = max(MIN_IMAGE_SIZE, strides) if is_fitted else _STRIDES
    most = largest if is_pretrained else min(largest, _SCRATCH_MAP * step)
    least = step * (_PRETRAINED_MAP if is_pretrained else _LEAST_MAP)
    shown = most
    if picture_side is not None:
        shown = math.ceil(picture_side / step) * step if is_fitted else 2 * picture_side
    last = max(1, min(most, max(least, shown)) // step) * step
    first = max(_LEAST_MAP, round(0.6 * last / step)) * step
    return min(first, last), last


# --- the plan -----------------------------------------------------------------------------------


def progressive_stages(
    variant: str | None = None,
    *,
    epochs: int,
    preset: Literal["paper", "official"] | None = None,
    stages: int = 4,
    image_size: Range | FromPreset = "preset",
    randaugment_magnitude: Range | FromPreset | None = "preset",
    mixup_alpha: Range | FromPreset = "preset",
    cutmix_alpha: Range | FromPreset = "preset",
    dropout_rate: Range | FromPreset | None = "preset",
    batch_size: int | tuple[int, int] = 64,
) -> StagePlan:
    """Return the stages of progressive learning: small pictures and weak regularisation first.

    Every range is a number (the same in all stages) or a pair, and moves linearly:
    `first + (last - first) * i / (stages - 1)` for `i = 0..stages-1` (Algorithm 1 of the paper);
    sizes and batch sizes are rounded down. A single stage takes the last values. Stage `i` starts
    at epoch `int(epochs * i / stages)`, both counted from 0.

    Args:
        variant: a name for `ModelConfig.from_name`, for the preset ranges; None needs an explicit
            `image_size`.
        epochs: of the whole training, at least `stages`.
        preset: "paper" (only s, m, l) or "official" (as the published weights were trained). None
            is "official" if there is a variant.
        stages: number of stages, at least 1. Both presets were published with 4.
        image_size: side of the square pictures, pixels, at least 8; never falling.
        randaugment_magnitude: 0 or more; None is off.
        mixup_alpha: 0 is off.
        cutmix_alpha: 0 is off.
        dropout_rate: in [0, 1); None leaves the model's rate as it is.
        batch_size: pictures per batch.

    A range left at "preset" comes from the preset; without a variant it is off.

    Returns:
        `StagePlan`, a tuple of frozen `TrainStage`s that prints as a table.

    Raises:
        ValueError: the variant or preset is unknown, the preset does not have the variant, there
            are fewer epochs than stages, or a value is outside its range.

    Examples:
        >>> print(progressive_stages("efficientnetv2-s", epochs=350, preset="paper"))
        stage   epochs  size  randaugment  mixup  cutmix  dropout  batch
            1     1-87   128            5      0       0      0.1     64
            2   88-175   185        8.333      0       0   0.1667     64
            3  176-262   242        11.67      0       0   0.2333     64
            4  263-350   300           15      0       0      0.3     64
    """
    check_integer("stages", stages, minimum=1)
    check_integer("epochs", epochs, minimum=1)
    if epochs < stages:
        raise ValueError(
            "`epochs` must be at least `stages`, because every stage needs an epoch. Train longer, "
            f"or in {counted(epochs, 'stage')} at most. Received: epochs={epochs}, stages={stages}"
        )
    given: dict[str, Any] = {
        "image_size": image_size,
        "randaugment_magnitude": randaugment_magnitude,
        "mixup_alpha": mixup_alpha,
        "cutmix_alpha": cutmix_alpha,
        "dropout_rate": dropout_rate,
        "batch_size": batch_size,
    }
    ranges: dict[str, Any] = {**_preset_ranges(variant, preset, stages)}
    given = {name: plain(value) for name, value in given.items() if value != "preset"}
    for name, value in given.items():
        check_range(name, value)
    ranges |= given
    if "image_size" not in ranges:
        raise ValueError(
            "`image_size` is needed without a variant, for example "
            "progressive_stages(epochs=20, image_size=(128, 224)). Received: none"
        )
    return StagePlan(
        TrainStage(
            index,
            start,
            end,
            **{name: _value(name, values, index, stages) for name, values in ranges.items()},
        )
        for index, (start, end) in enumerate(pairwise(_starts(epochs, stages)))
    )


def _starts(epochs: int, stages: int) -> list[int]:
    """The first epoch of every stage, then the epoch after the last one."""
    return [int(epochs * index / stages) for index in range(stages + 1)]


def check_range(name: str, value: Any, *, or_auto: bool = False) -> None:
    """Raise ValueError unless a setting that varies by stage is within its limits.

    Args:
        name: of the setting.
        value: for all stages, or a pair (first stage, last stage).
        or_auto: "auto" is allowed, too; for the message.
    """
    is_pair = isinstance(value, list | tuple)
    try:
        if is_pair and (len(value) != 2 or None in value):
            _CHECKS[name](name, value)  # raises, as it is no number
        for end in value if is_pair else (value,):
            _CHECKS[name](name, end)
    except ValueError as error:
        if not (is_pair or or_auto):
            raise
        allowed = str(error).partition(". Received: ")[0]
        raise ValueError(
            f"{allowed}, or two of these for the first and the last stage, FIRST:LAST (in Python a "
            f"pair){', or auto' * or_auto}. Received: {value!r}"
        ) from None
    if name == "image_size" and is_pair and value[0] > value[1]:
        raise ValueError(
            "`image_size` must be one size or (first stage, last stage), the smaller size first. "
            f"Received: {value!r}"
        )


def _value(name: str, values: Any, index: int, stages: int) -> Any:
    """The value of stage `index`; the end points come out exactly."""
    if isinstance(values, tuple):
        first, last = values
        values = last if index == stages - 1 else first + (last - first) * index / (stages - 1)
    if name not in ("image_size", "batch_size"):
        return values
    return math.floor(round(values, 6))  # floating point may end just below an integer


def steps_per_epoch(num_examples: int, batch_size: int) -> int:
    """Return the optimizer steps of an epoch: its whole batches, at least 1."""
    return max(1, num_examples // batch_size)


def step_of_epoch(plan: StagePlan, num_examples: int, epoch: float) -> int:
    """Return the optimizer steps before an epoch of a plan, fractions allowed, rounded up."""
    steps = sum(
        (min(epoch, stage.end_epoch) - stage.start_epoch)
        * steps_per_epoch(num_examples, stage.batch_size)
        for stage in plan
        if epoch > stage.start_epoch
    )
    return math.ceil(round(steps, 6))  # 0.1 epochs of 30 steps are 3, not 3.0000000000000004
