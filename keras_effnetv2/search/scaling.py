"""Scaling a network as the paper does.

The paper (EfficientNetV2, arXiv 2104.00298, section 3.3, "EfficientNetV2 scaling") scales S to M
and L by EfficientNet's compound scaling with two restrictions: pictures of at most 480 pixels at
inference, and more layers in the later stages ("stage 5 and 6"). It gives no coefficients;
`benchmarks/paper/scaling.py` has those that come closest to the released networks.
"""

import math
from dataclasses import replace

from keras_effnetv2._common.checks import check_integer, check_number
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.search.space import check_config

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
    """Scale a network by compound scaling with the paper's two restrictions.

    Filters are rounded to multiples of 8 and layers up, as `ModelConfig.scaled` does. The last two
    stages get `depth * deepen_late_stages`, all others `depth`. With
    `fixed_ends` the first and the last stage keep theirs.

    From S, `deepen_late_stages=1.35` with a depth of 1.1, 1.55 and 1.95 gives the layers of M, L
    and XL except stage 4 of XL; `python -m benchmarks.paper scaling` compares them.

    Args:
        config: the network to scale.
        width: factor of the filters of stem, stages and head.
        depth: factor of the layers.
        resolution: factor of `train_size` and `eval_size`.
        deepen_late_stages: further factor of the layers of the last two stages, at least 1.
        max_image_size: largest value of both sizes, pixels; None is no limit. It also reduces
            sizes that are already larger (XL is officially evaluated at 512).

    Returns:
        A `ModelConfig` of the same name.

    Raises:
        ValueError: a coefficient or the limit is outside its range.

    Examples:
        >>> s = ModelConfig.from_name("s")
        >>> [stage.repeats for stage in scale(s, depth=1.1, deepen_late_stages=1.35).stages]
        [3, 5, 5, 7, 14, 23]
    """
    check_config("config", config)
    check_number("resolution", resolution, above=0)
    check_number("deepen_late_stages", deepen_late_stages, minimum=1)
    check_integer("max_image_size", max_image_size, minimum=1, or_none=True)
    scaled = config.scaled(width=width, depth=depth)
    deepened = config.scaled(width=width, depth=depth * deepen_late_stages)
    limit = math.inf if max_image_size is None else max_image_size
    train_size, eval_size = (
        int(min(round(pixels * resolution), limit))
        for pixels in (config.train_size, config.eval_size)
    )
    return replace(
        scaled,
        stages=(*scaled.stages[:-LATE_STAGES], *deepened.stages[-LATE_STAGES:]),
        train_size=train_size,
        eval_size=eval_size,
    )
