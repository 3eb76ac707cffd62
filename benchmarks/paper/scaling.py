"""The paper's scaling: how near `scale` comes to the official variants, and what differs."""

from collections.abc import Sequence
from typing import NamedTuple

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.benchmark.comparison_report import markdown_table
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.search.scaling import MAX_IMAGE_SIZE, scale


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
OFFICIAL_STEPS: tuple[ScalingStep, ...] = (
    ScalingStep("efficientnetv2-b0", "efficientnetv2-s", 1.4, 1.8, 1.714, 1.0),
    ScalingStep("efficientnetv2-s", "efficientnetv2-m", 1.2, 1.1, 1.28, 1.35),
    ScalingStep("efficientnetv2-s", "efficientnetv2-l", 1.55, 1.55, 1.28, 1.35),
    ScalingStep("efficientnetv2-s", "efficientnetv2-xl", 1.8, 1.95, 1.28, 1.35),
    ScalingStep("efficientnetv2-m", "efficientnetv2-l", 1.25, 1.3, 1.0, 1.05),
)

WHAT_DIFFERS = (
    "What compound scaling cannot give: the seventh stage of M, L and XL; their head, which stays "
    "at 1280; widths that grow by another factor in each stage (S to M: 1, 1, 1.25, 1.25, 1.1, "
    f"1.19); and of XL 16 layers in stage 4 and 512 pixels, above the paper's own limit of "
    f"{MAX_IMAGE_SIZE}. The paper's Table 4 has 272 filters in stage 6 of S and 1792 in its head, "
    "as B4's coefficients give them; the released S has 256 and 1280."
)


def scaling_table(steps: Sequence[ScalingStep] = OFFICIAL_STEPS) -> str:
    """Return a Markdown table: what `scale` makes of official variants, above the larger ones.

    Every network is built, with 1000 classes, which takes a minute on a CPU for all `steps`.
    """
    header = (
        "network",
        "layers of each stage",
        "filters of each stage",
        "stem, head",
        "pixels: training, evaluation",
        "parameters, M",
        "multiply-adds, B",
    )
    rows = []
    for step in steps:
        official = ModelConfig.from_name(step.target)
        label = (
            f"{step.base} scaled: width {step.width:g}, depth {step.depth:g} (last two stages "
            f"{step.depth * step.deepen_late_stages:.3g}), resolution {step.resolution:g}"
        )
        rows.append(describe(label, step.scaled(), official.eval_size))
        rows.append(describe(step.target, official, official.eval_size))
    return markdown_table(header, rows)


def describe(label: str, config: ModelConfig, flops_size: int) -> tuple[str, ...]:
    """Return a row of `scaling_table`.

    Args:
        label: what the network is called.
        config: the network.
        flops_size: pixels at which its multiply-adds are counted.
    """
    model = build_model(config)
    parameters = count_trainable(model)
    return (
        label,
        ", ".join(str(stage.repeats) for stage in config.stages),
        ", ".join(str(stage.output_filters) for stage in config.stages),
        f"{config.stem_filters}, {config.head_filters}",
        f"{config.train_size}, {config.eval_size}",
        f"{parameters / 1e6:.2f}",
        f"{count_flops(model, flops_size) / 1e9:.2f} at {flops_size} px",
    )
