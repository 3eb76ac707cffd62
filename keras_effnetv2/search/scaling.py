"""Scaling a network as the paper does, and how near that comes to the official variants.

The paper (EfficientNetV2, arXiv 2104.00298, section 3.3, "EfficientNetV2 scaling") scales S to M
and L by EfficientNet's compound scaling with two restrictions: pictures of at most 480 pixels at
inference, and more layers in the later stages ("stage 5 and 6"). It gives no coefficients;
`OFFICIAL_STEPS` has those that come nearest to the released networks.
"""

import math
from dataclasses import replace
from itertools import zip_longest
from typing import Any, NamedTuple

from keras_effnetv2.config import ModelConfig

LATE_STAGES = 2  # of S the stages 5 and 6, which the paper deepens
MAX_IMAGE_SIZE = 480  # pixels, at inference


def scale(
    config: ModelConfig,
    *,
    width: float = 1.0,
    depth: float = 1.0,
    resolution: float = 1.0,
    deepen_late_stages: float = 1.0,
    max_image_size: int | None = MAX_IMAGE_SIZE,
) -> ModelConfig:
    """Compound scaling with the paper's two restrictions.

    Filters are rounded to multiples of 8 and layers up, as `ModelConfig.scaled` does. The last two
    stages get `depth * deepen_late_stages`, all others `depth`.

    From S, `deepen_late_stages=1.35` with a depth of 1.1, 1.55 and 1.95 gives the layers of M, L
    and XL, where a seventh stage counts as part of the sixth: all of M and L, and all of XL but
    those of stage 4 (12, officially 16). See `OFFICIAL_STEPS`.

    Args:
        config: what is scaled.
        width: factor of the filters of stem, stages and head.
        depth: factor of the layers.
        resolution: factor of `train_size` and `eval_size`.
        deepen_late_stages: further factor of the layers of the last two stages, at least 1.
        max_image_size: neither size becomes larger than this, pixels; None is no limit. It also
            holds for what is larger already (XL is evaluated at 512 officially).

    Returns:
        A `ModelConfig` of the same name.

    Raises:
        ValueError: a coefficient or the limit is outside its range.
    """
    if not isinstance(config, ModelConfig):
        raise ValueError(
            "`config` must be a ModelConfig; ModelConfig.from_name gives the published ones. "
            f"Received: config={config!r}"
        )
    _check_factor("resolution", resolution, minimum=0.0)
    _check_factor("deepen_late_stages", deepen_late_stages, minimum=1.0)
    if max_image_size is not None:
        _check_pixels(max_image_size)
    scaled = config.scaled(width=width, depth=depth)
    late = tuple(
        replace(stage, repeats=math.ceil(before.repeats * depth * deepen_late_stages))
        for stage, before in zip(
            scaled.stages[-LATE_STAGES:], config.stages[-LATE_STAGES:], strict=True
        )
    )

    def size(pixels: int) -> int:
        enlarged = round(pixels * resolution)
        return enlarged if max_image_size is None else min(enlarged, max_image_size)

    return replace(
        scaled,
        stages=(*scaled.stages[:-LATE_STAGES], *late),
        train_size=size(config.train_size),
        eval_size=size(config.eval_size),
    )


def _check_factor(label: str, value: Any, *, minimum: float) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if not (is_number and math.isfinite(value) and value > 0 and value >= minimum):
        allowed = f"a number of at least {minimum:g}" if minimum else "a positive number"
        raise ValueError(f"`{label}` must be {allowed}. Received: {label}={value!r}")


def _check_pixels(value: Any) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise ValueError(
            "`max_image_size` must be a positive number of pixels, or None for no limit. "
            f"Received: max_image_size={value!r}"
        )


# --- the official variants beside it ------------------------------------------------------------


class ScalingStep(NamedTuple):
    """From one official variant to another: the arguments of `scale` that come nearest.

    Attributes:
        base: name of the variant that is scaled.
        target: name of the variant that it is to become.
        width: see `scale`.
        depth: see `scale`.
        resolution: see `scale`.
        deepen_late_stages: see `scale`.
    """

    base: str
    target: str
    width: float
    depth: float
    resolution: float
    deepen_late_stages: float

    def scaled(self) -> ModelConfig:
        """What `scale` makes of the base."""
        return scale(
            ModelConfig.from_name(self.base),
            width=self.width,
            depth=self.depth,
            resolution=self.resolution,
            deepen_late_stages=self.deepen_late_stages,
        )


# Found by trying multiples of 0.05: first depth and deepening, for the nearest layers (a seventh
# stage counted with the sixth; of several, those with one deepening for M, L and XL), then the
# width with the least sum of squares of log(scaled / official) over parameters and multiply-adds.
# To S that would be 1.35; 1.4 comes second, and 1.4 and 1.8 are EfficientNet-B4's own coefficients:
# they give 272 filters in stage 6 and 1792 in the head, as the paper's Table 4 has them, where the
# released S has 256 and 1280. The resolutions are those of the evaluation (224 to 384 pixels) and,
# for M and L, of the training (300 to 384), whose evaluation meets the limit.
#
# What no rule of this kind gives: the seventh stage of M, L and XL; their head, which stays at
# 1280; widths that grow by another factor in each stage (S to M: 1, 1, 1.25, 1.25, 1.1, 1.19); and
# of XL 16 layers in stage 4 and 512 pixels, above the paper's own limit. From M, which has the
# seventh stage, compound scaling alone comes near to L.
OFFICIAL_STEPS: tuple[ScalingStep, ...] = (
    ScalingStep("efficientnetv2-b0", "efficientnetv2-s", 1.4, 1.8, 1.714, 1.0),
    ScalingStep("efficientnetv2-s", "efficientnetv2-m", 1.2, 1.1, 1.28, 1.35),
    ScalingStep("efficientnetv2-s", "efficientnetv2-l", 1.55, 1.55, 1.28, 1.35),
    ScalingStep("efficientnetv2-s", "efficientnetv2-xl", 1.8, 1.95, 1.28, 1.35),
    ScalingStep("efficientnetv2-m", "efficientnetv2-l", 1.25, 1.3, 1.0, 1.05),
)


class ComparisonRow(NamedTuple):
    """One quantity of two networks; None where one of them has no such stage.

    Attributes:
        quantity: e.g. "stage 5 layers".
        scaled: of the first network.
        official: of the second.
    """

    quantity: str
    scaled: int | None
    official: int | None


def compare(scaled: ModelConfig, official: ModelConfig) -> tuple[ComparisonRow, ...]:
    """Two networks side by side: stages, sizes of pictures, parameters, multiply-adds.

    Both are built, with 1000 classes, which takes seconds and starts Keras.

    Args:
        scaled: what `scale` gave.
        official: what it is held against.

    Returns:
        Rows in the order of the network: stem, layers and filters of every stage, head; then the
        sizes in pixels, the trainable parameters, and the multiply-adds at the evaluation size of
        `official`, the same for both.
    """
    size = official.eval_size
    costs, official_costs = _costs(scaled, size), _costs(official, size)
    rows = [ComparisonRow("stem filters", scaled.stem_filters, official.stem_filters)]
    for number, (mine, theirs) in enumerate(zip_longest(scaled.stages, official.stages), start=1):
        rows += [
            ComparisonRow(
                f"stage {number} {quantity}", getattr(mine, name, None), getattr(theirs, name, None)
            )
            for quantity, name in (("layers", "repeats"), ("filters", "output_filters"))
        ]
    return (
        *rows,
        ComparisonRow("head filters", scaled.head_filters, official.head_filters),
        ComparisonRow("train size", scaled.train_size, official.train_size),
        ComparisonRow("eval size", scaled.eval_size, official.eval_size),
        ComparisonRow("parameters", costs[0], official_costs[0]),
        ComparisonRow(f"multiply-adds at {size}", costs[1], official_costs[1]),
    )


def _costs(config: ModelConfig, image_size: int) -> tuple[int, int]:
    """Trainable parameters and multiply-adds."""
    # Scaling alone starts no Keras.
    from keras_effnetv2.architecture import count_flops
    from keras_effnetv2.model import build_model

    model = build_model(config)
    parameters = sum(math.prod(weight.shape) for weight in model.trainable_weights)
    return parameters, count_flops(model, image_size)
