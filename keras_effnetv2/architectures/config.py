"""Architectures as frozen data: `Stage`, `ModelConfig` and the block-string codec.

A `ModelConfig` describes a network exactly: its stages hold the final numbers of filters and
repeats. Compound scaling makes the variants of the paper from the rows of `variants.py`.
"""

import itertools
import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from keras_effnetv2._common.checks import (
    check_choice,
    check_integer,
    check_number,
    did_you_mean,
    from_mapping,
    is_number,
    make_plain,
)
from keras_effnetv2._common.files import parse_json
from keras_effnetv2.architectures.variants import VARIANTS, Normalization, ScaleAndOffset

WIDTH_DIVISOR = 8  # filters are multiples of this (official `depth_divisor`)
# What a file of a config may ask for, before it is built; XL has 208 million weights.
_MAX_INTEGER = 2**16
_MAX_WEIGHTS = 2**31
HEAD_FILTERS = 1280  # before width scaling (official `feature_size`)

# Pixels in 0..255 become `pixels * scale + offset`, a channel at a time (R, G, B).
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALIZATIONS: dict[Normalization, ScaleAndOffset] = {
    "imagenet": (
        tuple(1 / (255 * std) for std in _IMAGENET_STD),
        tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)),
    ),
    "symmetric": ((1 / 128,) * 3, (-1.0,) * 3),
    "inception": ((1 / 127.5,) * 3, (-1.0,) * 3),
}


def scale_and_offset(normalization: Normalization | ScaleAndOffset) -> ScaleAndOffset:
    """Return what the pixels of a `ModelConfig.normalization` are multiplied with, and what added.

    Raises:
        ValueError: it is neither a name nor two times three numbers.
    """
    if isinstance(normalization, str):
        check_choice("normalization", normalization, NORMALIZATIONS)
        return NORMALIZATIONS[normalization]
    given: Any = normalization if isinstance(normalization, list | tuple) else ()
    parts = [tuple(part) if isinstance(part, list | tuple) else () for part in given]
    if len(parts) != 2 or not all(len(part) == 3 and all(map(is_number, part)) for part in parts):
        raise ValueError(
            f"`normalization` must be one of {', '.join(map(repr, NORMALIZATIONS))}, or the scales "
            "and the offsets of pixels 0..255, ((R, G, B), (R, G, B)). "
            f"Received: {normalization!r}"
        )
    return parts[0], parts[1]


@dataclass(frozen=True)
class Stage:
    """A sequence of equal blocks; only the first has the stride and the change of filters.

    Args:
        conv: "fused" (Fused-MBConv) or "mbconv" (MBConv).
        repeats: number of blocks, at least 1.
        kernel_size: side of the spatial convolution, odd.
        strides: strides of the first block, 1 or 2.
        expand_ratio: filters inside a block divided by its input filters, at least 1.
        input_filters: channels of the stage's input.
        output_filters: channels of every block's output.
        se_ratio: squeeze-excite filters divided by the block's *input* filters, in (0, 1];
            None is no squeeze-excite.

    Raises:
        ValueError: a field is outside its range.
    """

    conv: Literal["fused", "mbconv"]
    repeats: int
    kernel_size: int
    strides: int
    expand_ratio: int
    input_filters: int
    output_filters: int
    se_ratio: float | None = None

    def __post_init__(self) -> None:
        make_plain(self)
        check_choice("conv", self.conv, ("fused", "mbconv"))
        for name in ("repeats", "kernel_size", "expand_ratio", "input_filters", "output_filters"):
            check_integer(name, getattr(self, name), minimum=1, maximum=_MAX_INTEGER)
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd. Received: {self.kernel_size!r}")
        check_choice("strides", self.strides, (1, 2))
        check_number("se_ratio", self.se_ratio, above=0, maximum=1, or_none=True)


# --- block strings ------------------------------------------------------------------------------


class _Field(NamedTuple):
    stage_field: str
    pattern: str
    read: Callable[[str], Any]
    required: bool = True


_COUNT = r"[1-9]\d*"
_FIELDS = {  # in the order in which the official lists write them
    "r": _Field("repeats", _COUNT, int),
    "k": _Field("kernel_size", _COUNT, int),
    "s": _Field("strides", r"[12]", int),
    "e": _Field("expand_ratio", _COUNT, int),
    "i": _Field("input_filters", _COUNT, int),
    "o": _Field("output_filters", _COUNT, int),
    "c": _Field("conv", r"[01]", lambda text: "fused" if text == "1" else "mbconv", False),
    "se": _Field("se_ratio", r"\d+(\.\d+)?|\.\d+", float, False),
}


def decode_stages(block_strings: Iterable[str]) -> tuple[Stage, ...]:
    """Read official block strings such as `"r2_k3_s1_e1_i24_o24_c1"`.

    Fields, joined by `_`: `r` repeats, `k` kernel size, `s` stride (1 or 2), `e` expand ratio,
    `i` and `o` input and output filters, `c` convolution (1 fused, 0 or absent MBConv), `se`
    squeeze-excite ratio (absent: none).

    Args:
        block_strings: a list of strings, one for each stage.

    Raises:
        ValueError: a string is malformed; the message names the wrong field.
    """
    if isinstance(block_strings, str):
        raise ValueError(
            "decode_stages takes a list of block strings, one for each stage. "
            f"Received the single string {block_strings!r}; write [{block_strings!r}]."
        )
    return tuple(_decode_stage(text) for text in block_strings)


def _decode_stage(text: str) -> Stage:
    if not isinstance(text, str):
        raise ValueError(f"A block string must be a str. Received: {text!r}")
    values: dict[str, Any] = {}
    for token in text.split("_"):
        key = next((key for key in ("se", *_FIELDS) if token.startswith(key)), None)
        if key is None:
            known = ", ".join(f"{key} ({field.stage_field})" for key, field in _FIELDS.items())
            raise ValueError(
                f"Block string {text!r}: unknown field {token!r}. Known fields: {known}."
            )
        field, value = _FIELDS[key], token.removeprefix(key)
        if field.stage_field in values:
            raise ValueError(f"Block string {text!r}: field `{key}` is given twice.")
        if not re.fullmatch(field.pattern, value, flags=re.ASCII):
            raise ValueError(
                f"Block string {text!r}: field `{key}` ({field.stage_field}) has the value "
                f"{value!r}; it must match {field.pattern}."
            )
        values[field.stage_field] = field.read(value)
    missing = [
        f"`{key}` ({field.stage_field})"
        for key, field in _FIELDS.items()
        if field.required and field.stage_field not in values
    ]
    if missing:
        raise ValueError(f"Block string {text!r}: field {', '.join(missing)} is missing.")
    try:
        return Stage(**({"conv": "mbconv"} | values))
    except ValueError as error:
        raise ValueError(f"Block string {text!r}: {error}") from None


def encode_stages(stages: Iterable[Stage]) -> list[str]:
    """Write stages as official block strings, the inverse of `decode_stages`."""
    return [_encode_stage(stage) for stage in stages]


def _encode_stage(stage: Stage) -> str:
    needed = {key: field.stage_field for key, field in _FIELDS.items() if field.required}
    tokens = [f"{key}{getattr(stage, name)}" for key, name in needed.items()]
    if stage.conv == "fused":
        tokens.append("c1")
    if stage.se_ratio is not None:
        # The shortest decimal that reads back as the same float, without exponent: 0.25, 1.
        tokens.append(f"se{Decimal(repr(stage.se_ratio)).normalize():f}")
    return "_".join(tokens)


# --- model configs ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ModelConfig:
    """A whole network, and its authors' settings for training and evaluation.

    The stages are final: `build_model` builds exactly these. `from_name` returns the published
    variants; any other list of stages is a network, too:
    `ModelConfig("mine", decode_stages(["r1_k3_s1_e1_i16_o16_c1", "r2_k3_s2_e4_i16_o32_c1"]))`.
    The stem (3x3, stride 2) has the first stage's `input_filters`.

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
            deviation), "symmetric" ((x - 128) / 128), "inception" (x / 127.5 - 1), or the scales
            and offsets of the channels of pixels 0..255, ((R, G, B), (R, G, B)).

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
            check_integer(name, getattr(self, name), minimum=1, maximum=_MAX_INTEGER)
        weights = sum(self.kernel_sizes())
        if weights > _MAX_WEIGHTS:
            raise ValueError(
                f"A network may have {_MAX_WEIGHTS:,} weights, and these stages have {weights:,}. "
                "Give fewer filters or repeats."
            )
        check_number("width", self.width, above=0)
        check_number("depth", self.depth, above=0)
        fraction, magnitude = self.min_width_fraction, self.randaugment_magnitude
        check_number("min_width_fraction", fraction, above=0, maximum=1, or_none=True)
        check_number("dropout_rate", self.dropout_rate, minimum=0, below=1)
        check_number("randaugment_magnitude", magnitude, minimum=0, or_none=True)
        check_number("mixup_alpha", self.mixup_alpha, minimum=0)
        scale_and_offset(self.normalization)

    @property
    def stem_filters(self) -> int:
        """Filters of the stem convolution."""
        return self.stages[0].input_filters

    @property
    def num_blocks(self) -> int:
        """Number of blocks over all stages."""
        return sum(stage.repeats for stage in self.stages)

    def kernel_sizes(self) -> list[int]:
        """Return the number of weights of every convolution's kernel, in the order of the layers.

        They tell a network: no two variants have the same.
        """
        sizes = [3 * 3 * 3 * self.stem_filters]
        for stage in self.stages:
            window = stage.kernel_size**2
            filters = stage.input_filters
            for _ in range(stage.repeats):
                expanded = filters * stage.expand_ratio
                is_alone = stage.conv == "fused" and stage.expand_ratio == 1
                if stage.conv == "mbconv":
                    sizes += [filters * expanded] * (stage.expand_ratio > 1) + [window * expanded]
                elif not is_alone:
                    sizes.append(window * filters * expanded)
                if stage.se_ratio is not None:
                    sizes += [expanded * max(1, int(filters * stage.se_ratio))] * 2
                sizes.append((window if is_alone else 1) * expanded * stage.output_filters)
                filters = stage.output_filters
        return [*sizes, filters * self.head_filters]

    @staticmethod
    def variants() -> tuple[str, ...]:
        """Return the names of all published variants, e.g. "efficientnetv2-s"."""
        return tuple(VARIANTS)

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """Return the published variant with this name, e.g. "efficientnetv2-b0" or
        "efficientnet-b4".

        Raises:
            ValueError: there is no such variant; the message lists all.
        """
        row = VARIANTS.get(name) if isinstance(name, str) else None
        if row is None:
            raise ValueError(
                f"Unknown variant.{did_you_mean(name, VARIANTS)} Known: {', '.join(VARIANTS)}. "
                f"Received: name={name!r}"
            )
        values = row._asdict()
        stages = decode_stages(values.pop("blocks"))
        scales = {key: values.pop(key) for key in ("width", "depth")}
        return cls(name, stages, **values).scaled(**scales)

    def scaled(self, *, width: float = 1.0, depth: float = 1.0) -> "ModelConfig":
        """Return the scaled network: filters times `width`, repeats times `depth`.

        Filters are rounded to a multiple of 8 (see `min_width_fraction`), repeats are rounded up,
        as officially (`round_filters`, `round_repeats`).

        Raises:
            ValueError: a coefficient is not a positive finite number.
        """
        check_number("width", width, above=0)
        check_number("depth", depth, above=0)
        return replace(
            self,
            stages=tuple(
                replace(
                    stage,
                    repeats=math.ceil(stage.repeats * depth),
                    input_filters=self._scale_filters(stage.input_filters, width),
                    output_filters=self._scale_filters(stage.output_filters, width),
                )
                for stage in self.stages
            ),
            head_filters=self._scale_filters(self.head_filters, width),
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
        one that becomes MBConv gets the ratio 0.25. All others stay as they are.

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
                stages[index] = replace(stage, conv="mbconv", se_ratio=0.25)
        return replace(self, stages=tuple(stages))

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
        config: ModelConfig = from_mapping(cls, "A model config", values)
        return config
