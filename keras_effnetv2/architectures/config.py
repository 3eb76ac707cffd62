"""A network as frozen data: `ModelConfig`.

A `ModelConfig` describes a network exactly: its stages hold the final numbers of filters and
repeats. Compound scaling makes the variants of the paper from the rows of `variants.py`.
"""

import itertools
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import NamedTuple, get_args

from keras_effnetv2._common.checks import (
    check_choice,
    check_integer,
    check_number,
    did_you_mean,
    from_mapping,
    make_plain,
)
from keras_effnetv2._common.files import parse_json
from keras_effnetv2.architectures.normalization import (
    Normalization,
    ScaleAndOffset,
    scale_and_offset,
)
from keras_effnetv2.architectures.stage import MAX_INTEGER, Stage, decode_stages, encode_stages
from keras_effnetv2.architectures.variants import VARIANTS, Activation, variant_named

WIDTH_DIVISOR = 8  # filters are multiples of this (official `depth_divisor`)
HEAD_FILTERS = 1280  # before width scaling (official `feature_size`)
_SMALL_MAP = 4  # pixels a side, of the last map of small pictures
_MAX_WEIGHTS = 2**31  # checked before a network is built; XL has 208 million


class Convolution(NamedTuple):
    """What a convolution costs."""

    weights: int  # of its kernel
    filters: int  # output channels
    strides: int = 1  # in height and width
    # It belongs to squeeze-excite, so it sees one pixel and has a bias; any other has a batch norm.
    is_gate: bool = False


@dataclass(frozen=True)
class ModelConfig:
    """A whole network, and its authors' settings for training and evaluation.

    The stages are final: `build_model` builds exactly these. `from_name` returns the published
    variants; any other list of stages is a network, too:
    `ModelConfig("mine", decode_stages(["r1_k3_s1_e1_i16_o16_c1", "r2_k3_s2_e4_i16_o32_c1"]))`.
    The stem (3x3) has the first stage's `input_filters`.

    Args:
        name: model name, e.g. "efficientnetv2-s".
        stages: tuple of `Stage`; the input filters of each are the output filters of the one
            before.
        head_filters: filters of the last 1x1 convolution.
        width: width coefficient, already applied to `stages` and `head_filters`.
        depth: depth coefficient, already applied to the repeats.
        min_width_fraction: `scaled` never rounds filters below this fraction of the exact value
            (original V1 rule: 0.9); None rounds to the nearest multiple of 8 (V2).
        train_size: largest side of the training pictures, pixels.
        eval_size: side of the evaluation pictures, pixels.
        dropout_rate: dropout before the classifier.
        randaugment_magnitude: magnitude of the last training stage; None for the variants whose
            official recipe uses AutoAugment instead.
        mixup_alpha: mixup (and cutmix) alpha of the last training stage, 0 is off.
        normalization: how training normalised pixels: "imagenet" (mean and standard
            deviation), "symmetric" ((x - 128) / 128), "inception" (x / 127.5 - 1), "lite"
            ((x - 127) / 128), or the scales and offsets of the channels of pixels 0..255,
            ((R, G, B), (R, G, B)).
        activation: of all layers but the classifier: "swish", or "relu6" (EfficientNet-Lite).
        fixed_ends: `scaled` keeps the filters of stem and head, and the repeats of the first and
            the last stage (EfficientNet-Lite).
        stem_strides: strides of the stem: 2, or 1 for small pictures.

    Raises:
        ValueError: a field is outside its range, or neighbouring stages do not fit together.
    """

    name: str
    stages: tuple[Stage, ...]
    head_filters: int = HEAD_FILTERS
    width: float = 1.0
    depth: float = 1.0
    min_width_fraction: float | None = None
    train_size: int = 192
    eval_size: int = 224
    dropout_rate: float = 0.2
    randaugment_magnitude: float | None = None
    mixup_alpha: float = 0.0
    normalization: Normalization | ScaleAndOffset = "symmetric"
    activation: Activation = "swish"
    fixed_ends: bool = False
    stem_strides: int = 2

    def __post_init__(self) -> None:
        make_plain(self)
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_.\-]+", self.name):
            raise ValueError(
                f"`name` must consist of letters, digits, '.', '_' and '-'. Received: {self.name!r}"
            )
        is_sequence = isinstance(self.stages, list | tuple) and len(self.stages) > 0
        if not is_sequence or not all(isinstance(stage, Stage) for stage in self.stages):
            raise ValueError(
                "`stages` must be a tuple of at least one Stage (decode_stages makes it from "
                f"block strings), in JSON a list of block strings. Received: {self.stages!r}"
            )
        for number, (before, after) in enumerate(itertools.pairwise(self.stages), start=2):
            if after.input_filters != before.output_filters:
                raise ValueError(
                    f"Stage {number} has {after.input_filters} input filters, but stage "
                    f"{number - 1} has {before.output_filters} output filters. Make them equal."
                )
        for name in ("head_filters", "train_size", "eval_size"):
            check_integer(name, getattr(self, name), minimum=1, maximum=MAX_INTEGER)
        weights = sum(self.kernel_sizes())
        if weights > _MAX_WEIGHTS:
            raise ValueError(
                f"A network may have at most {_MAX_WEIGHTS:,} weights, but these stages have "
                f"{weights:,}. Give fewer filters or repeats."
            )
        check_choice("stem_strides", self.stem_strides, (1, 2))
        check_number("width", self.width, above=0)
        check_number("depth", self.depth, above=0)
        fraction, magnitude = self.min_width_fraction, self.randaugment_magnitude
        check_number("min_width_fraction", fraction, above=0, maximum=1, or_none=True)
        check_number("dropout_rate", self.dropout_rate, minimum=0, below=1)
        check_number("randaugment_magnitude", magnitude, minimum=0, or_none=True)
        check_number("mixup_alpha", self.mixup_alpha, minimum=0)
        scale_and_offset(self.normalization)
        check_choice("activation", self.activation, get_args(Activation))
        check_choice("fixed_ends", self.fixed_ends, (True, False))

    @property
    def stem_filters(self) -> int:
        """Filters of the stem convolution."""
        return self.stages[0].input_filters

    @property
    def strides(self) -> int:
        """Strides of all layers together: a map of S pixels becomes one of ceil(S / strides)."""
        return self.stem_strides * math.prod(stage.strides for stage in self.stages)

    @property
    def se_ratio(self) -> float | None:
        """Squeeze-excite ratio of the first MBConv stage; 0.25, the official one, without any."""
        return next((stage.se_ratio for stage in self.stages if stage.conv == "mbconv"), 0.25)

    @property
    def num_blocks(self) -> int:
        """Number of blocks over all stages."""
        return sum(stage.repeats for stage in self.stages)

    def convolutions(self) -> Iterator[Convolution]:
        """Yield every convolution, in the order of the layers."""
        yield Convolution(3 * 3 * 3 * self.stem_filters, self.stem_filters, self.stem_strides)
        for stage in self.stages:
            window = stage.kernel_size**2
            filters, output, strides = stage.input_filters, stage.output_filters, stage.strides
            for _ in range(stage.repeats):
                expanded = filters * stage.expand_ratio
                is_alone = stage.conv == "fused" and stage.expand_ratio == 1
                if stage.conv == "mbconv":
                    if stage.expand_ratio > 1:
                        yield Convolution(filters * expanded, expanded)
                    yield Convolution(window * expanded, expanded, strides)
                elif not is_alone:
                    yield Convolution(window * filters * expanded, expanded, strides)
                if stage.se_ratio is not None:
                    reduced = max(1, int(filters * stage.se_ratio))
                    yield Convolution(expanded * reduced, reduced, is_gate=True)
                    yield Convolution(expanded * reduced, expanded, is_gate=True)
                last = (window, strides) if is_alone else (1, 1)
                yield Convolution(last[0] * expanded * output, output, last[1])
                filters, strides = output, 1
        yield Convolution(filters * self.head_filters, self.head_filters)

    def kernel_sizes(self) -> list[int]:
        """Return the number of weights of every convolution's kernel, in the order of the layers.

        They identify a network: no two variants have the same.
        """
        return [convolution.weights for convolution in self.convolutions()]

    @staticmethod
    def variants() -> tuple[str, ...]:
        """Return the names of all published variants, e.g. "efficientnetv2-s"."""
        return tuple(VARIANTS)

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """Return the published variant with this name, e.g. "efficientnetv2-s".

        Other spellings are understood: "EfficientNetV2S", "tf_efficientnetv2_s", "s".

        Raises:
            ValueError: there is no such variant; the message lists all.

        Examples:
            >>> ModelConfig.from_name("EfficientNetV2S").name
            'efficientnetv2-s'
        """
        variant = variant_named(name)
        if variant is None:
            raise ValueError(
                f"Unknown variant.{did_you_mean(name, VARIANTS)} Known: {', '.join(VARIANTS)}. "
                f"Received: name={name!r}"
            )
        values = VARIANTS[variant]._asdict()
        stages = decode_stages(values.pop("blocks"))
        scales = {key: values.pop(key) for key in ("width", "depth")}
        return cls(variant, stages, **values).scaled(**scales)

    def scaled(self, *, width: float = 1.0, depth: float = 1.0) -> "ModelConfig":
        """Return the scaled network: filters times `width`, repeats times `depth`.

        Filters are rounded to a multiple of 8 (see `min_width_fraction`), repeats are rounded up,
        as officially (`round_filters`, `round_repeats`). `fixed_ends` excepts stem, head, and the
        repeats of the first and the last stage.

        Args:
            width: factor of the filters, above 0.
            depth: factor of the repeats, above 0.

        Raises:
            ValueError: a coefficient is not a positive finite number.

        Examples:
            >>> b0 = ModelConfig.from_name("b0")
            >>> [stage.output_filters for stage in b0.stages]
            [16, 32, 48, 96, 112, 192]
            >>> [stage.output_filters for stage in b0.scaled(width=0.5).stages]
            [8, 16, 24, 48, 56, 96]
        """
        check_number("width", width, above=0)
        check_number("depth", depth, above=0)
        width_of_ends = 1 if self.fixed_ends else width
        fixed = (0, len(self.stages) - 1) if self.fixed_ends else ()
        filters = self._scale_filters(self.stem_filters, width_of_ends)
        stages = []
        for index, stage in enumerate(self.stages):
            repeats = math.ceil(stage.repeats * (1 if index in fixed else depth))
            output = self._scale_filters(stage.output_filters, width)
            stages.append(
                replace(stage, repeats=repeats, input_filters=filters, output_filters=output)
            )
            filters = output
        return replace(
            self,
            stages=tuple(stages),
            head_filters=self._scale_filters(self.head_filters, width_of_ends),
            width=self.width * width,
            depth=self.depth * depth,
        )

    def _scale_filters(self, filters: int, width: float) -> int:
        if width == 1:
            return filters
        exact = filters * width
        rounded = int(exact + WIDTH_DIVISOR / 2) // WIDTH_DIVISOR * WIDTH_DIVISOR
        rounded = max(WIDTH_DIVISOR, rounded)
        if self.min_width_fraction is not None and rounded < self.min_width_fraction * exact:
            rounded += WIDTH_DIVISOR
        return rounded

    def with_fused_stages(self, *numbers: int) -> "ModelConfig":
        """Return the network with exactly these stages fused, the others MBConv (paper, Table 3).

        A stage that becomes fused loses its squeeze-excite (like the paper's own fused stages), and
        one that becomes MBConv gets the ratio of the others, or 0.25. All others stay as they are.

        Args:
            *numbers: stage numbers counted from 1; without numbers no stage is fused.

        Raises:
            ValueError: there is no stage with this number.
        """
        allowed = range(1, len(self.stages) + 1)
        wrong = [n for n in numbers if isinstance(n, bool) or n not in allowed]
        if wrong:
            raise ValueError(
                f"{self.name} has stages 1 to {len(self.stages)}. Received: {wrong[0]!r}"
            )
        stages = list(self.stages)
        for index, stage in enumerate(self.stages):
            if index + 1 in numbers and stage.conv == "mbconv":
                stages[index] = replace(stage, conv="fused", se_ratio=None)
            elif index + 1 not in numbers and stage.conv == "fused":
                stages[index] = replace(stage, conv="mbconv", se_ratio=self.se_ratio)
        return replace(self, stages=tuple(stages))

    def for_small_pictures(self, side: int = 32) -> "ModelConfig":
        """Return the network with fewer strides, so that small pictures end in a map of 4 x 4.

        The stem gets the stride 1, then one stage after another from the first. The kernels stay as
        they are, so weights of the network fit. For pictures of 97 pixels or more a published
        variant stays as it is.

        Args:
            side: of the pictures, pixels.

        Raises:
            ValueError: the side is not an integer of at least 1.

        Examples:
            >>> b0 = ModelConfig.from_name("b0")
            >>> b0.strides, b0.for_small_pictures(32).strides
            (32, 8)
        """
        check_integer("side", side, minimum=1)
        config = self
        for index in range(-1, len(self.stages)):
            if math.ceil(side / config.strides) >= _SMALL_MAP:
                break
            if index < 0:
                config = replace(config, stem_strides=1)
                continue
            stages = list(config.stages)
            stages[index] = replace(stages[index], strides=1)
            config = replace(config, stages=tuple(stages))
        return config

    def to_json(self) -> str:
        """Return all fields as JSON (stages as block strings), the inverse of `from_json`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values | {"stages": encode_stages(self.stages)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Read the result of `to_json`.

        Raises:
            ValueError: it is not JSON, or a field is missing, unknown or outside its range.
        """
        try:
            values = parse_json(text)
        except ValueError as error:
            raise ValueError(f"Not a JSON text: {error}") from None
        if isinstance(values, dict) and isinstance(values.get("stages"), list):
            values["stages"] = decode_stages(values["stages"])
        return from_mapping(cls, "A model config", values)
