"""Architectures as frozen data: `Stage`, `ModelConfig` and the block-string codec.

A `ModelConfig` says exactly what is built: its stages hold the final numbers of filters and
repeats. The variants of the paper are made from the rows of `variants.py` by compound scaling.
"""

import json
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields, replace
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from keras_effnetv2.architectures.variants import V1_BLOCKS, VARIANTS, Normalization

WIDTH_DIVISOR = 8  # filters are multiples of this (official `depth_divisor`)
HEAD_FILTERS = 1280  # before width scaling (official `feature_size`)

# Pixels in 0..255 become `pixels * scale + offset`, a channel at a time (R, G, B).
_IMAGENET_MEAN = (0.485, 0.456, 0.406)
_IMAGENET_STD = (0.229, 0.224, 0.225)
NORMALIZATIONS: dict[Normalization, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "imagenet": (
        tuple(1 / (255 * std) for std in _IMAGENET_STD),
        tuple(-mean / std for mean, std in zip(_IMAGENET_MEAN, _IMAGENET_STD, strict=True)),
    ),
    "symmetric": ((1 / 128,) * 3, (-1.0,) * 3),
    "inception": ((1 / 127.5,) * 3, (-1.0,) * 3),
}


@dataclass(frozen=True)
class Stage:
    """A run of equal blocks; the first one takes the stride and the change of filters.

    Args:
        conv: "fused" (Fused-MBConv) or "mbconv" (MBConv).
        repeats: number of blocks, at least 1.
        kernel_size: side of the spatial convolution, odd.
        strides: 1 or 2, of the first block.
        expand_ratio: filters inside a block over its input filters, at least 1.
        input_filters: channels that come in.
        output_filters: channels of every block's output.
        se_ratio: squeeze-excite filters over the block's *input* filters, in (0, 1];
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
        if self.conv not in ("fused", "mbconv"):
            raise ValueError(
                f"Stage field `conv` must be 'fused' or 'mbconv'. Received: conv={self.conv!r}"
            )
        for name in ("repeats", "kernel_size", "expand_ratio", "input_filters", "output_filters"):
            _check_positive_int(name, getattr(self, name), owner="Stage")
        if self.kernel_size % 2 == 0:
            raise ValueError(
                f"Stage field `kernel_size` must be odd. Received: kernel_size={self.kernel_size}"
            )
        if self.strides not in (1, 2):
            raise ValueError(
                f"Stage field `strides` must be 1 or 2. Received: strides={self.strides!r}"
            )
        if self.se_ratio is not None and not (is_number(self.se_ratio) and 0 < self.se_ratio <= 1):
            raise ValueError(
                "Stage field `se_ratio` must be in (0, 1], or None for no squeeze-excite. "
                f"Received: se_ratio={self.se_ratio!r}"
            )


def is_number(value: Any) -> bool:
    """Whether a value is a finite int or float; a bool is none."""
    is_real = isinstance(value, int | float) and not isinstance(value, bool)
    return is_real and math.isfinite(value)


def _check_positive_int(name: str, value: Any, *, owner: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(
            f"{owner} field `{name}` must be an integer of at least 1. Received: {name}={value!r}"
        )


# --- block strings ------------------------------------------------------------------------------


class _Field(NamedTuple):
    key: str
    stage_field: str
    pattern: str
    required: bool


# In the order in which the official lists write them.
_BLOCK_STRING_FIELDS = (
    _Field("r", "repeats", r"[1-9]\d*", True),
    _Field("k", "kernel_size", r"[1-9]\d*", True),
    _Field("s", "strides", r"[12]", True),
    _Field("e", "expand_ratio", r"[1-9]\d*", True),
    _Field("i", "input_filters", r"[1-9]\d*", True),
    _Field("o", "output_filters", r"[1-9]\d*", True),
    _Field("c", "conv", r"[01]", False),
    _Field("se", "se_ratio", r"\d+(\.\d+)?|\.\d+", False),
)
_FIELD_OF_KEY = {field.key: field for field in _BLOCK_STRING_FIELDS}
_KEYS_LONGEST_FIRST = sorted(_FIELD_OF_KEY, key=len, reverse=True)  # "se0.25" is not s


def decode_stages(block_strings: Iterable[str]) -> tuple[Stage, ...]:
    """Reads official block strings such as `"r2_k3_s1_e1_i24_o24_c1"`.

    Fields, joined by `_`: `r` repeats, `k` kernel size, `s` stride (1 or 2), `e` expand ratio,
    `i` and `o` input and output filters, `c` convolution (1 fused, 0 or absent MBConv), `se`
    squeeze-excite ratio (absent: none).

    Args:
        block_strings: a list of strings, one a stage.

    Returns:
        A tuple of `Stage`; `encode_stages` gives the strings back.

    Raises:
        ValueError: a string is malformed; the message names the field that is wrong.
    """
    if isinstance(block_strings, str):
        raise ValueError(
            "decode_stages takes a list of block strings, one a stage. "
            f"Received the single string {block_strings!r}; write [{block_strings!r}]."
        )
    return tuple(_decode_stage(text) for text in block_strings)


def _decode_stage(text: str) -> Stage:
    if not isinstance(text, str):
        raise ValueError(f"A block string must be a str. Received: {text!r}")
    values: dict[str, str] = {}
    for token in text.split("_"):
        key = next((key for key in _KEYS_LONGEST_FIRST if token.startswith(key)), None)
        if key is None:
            known = ", ".join(f"{f.key} ({f.stage_field})" for f in _BLOCK_STRING_FIELDS)
            raise ValueError(
                f"Block string {text!r}: unknown field {token!r}. Known fields: {known}."
            )
        field, value = _FIELD_OF_KEY[key], token.removeprefix(key)
        if key in values:
            raise ValueError(f"Block string {text!r}: field `{key}` is given twice.")
        if not re.fullmatch(field.pattern, value, flags=re.ASCII):
            raise ValueError(
                f"Block string {text!r}: field `{key}` ({field.stage_field}) has the value "
                f"{value!r}; it must match {field.pattern}."
            )
        values[key] = value
    missing = [f.key for f in _BLOCK_STRING_FIELDS if f.required and f.key not in values]
    if missing:
        names = ", ".join(f"`{key}` ({_FIELD_OF_KEY[key].stage_field})" for key in missing)
        raise ValueError(f"Block string {text!r}: field {names} is missing.")
    try:
        return Stage(
            conv="fused" if values.get("c") == "1" else "mbconv",
            repeats=int(values["r"]),
            kernel_size=int(values["k"]),
            strides=int(values["s"]),
            expand_ratio=int(values["e"]),
            input_filters=int(values["i"]),
            output_filters=int(values["o"]),
            se_ratio=float(values["se"]) if "se" in values else None,
        )
    except ValueError as error:
        raise ValueError(f"Block string {text!r}: {error}") from None


def encode_stages(stages: Iterable[Stage]) -> list[str]:
    """Writes stages as official block strings, the inverse of `decode_stages`.

    Args:
        stages: `Stage`s.

    Returns:
        A list of strings such as `"r3_k3_s2_e4_i48_o96_se0.25"`.
    """
    return [_encode_stage(stage) for stage in stages]


def _encode_stage(stage: Stage) -> str:
    text = (
        f"r{stage.repeats}_k{stage.kernel_size}_s{stage.strides}_e{stage.expand_ratio}"
        f"_i{stage.input_filters}_o{stage.output_filters}"
    )
    if stage.conv == "fused":
        text += "_c1"
    if stage.se_ratio is not None:
        # The shortest decimal that reads back as the same float, without exponent: 0.25, 1.
        text += f"_se{Decimal(repr(stage.se_ratio)).normalize():f}"
    return text


# --- model configs ------------------------------------------------------------------------------

_OPTIONAL_NUMBERS = ("min_width_fraction", "randaugment_magnitude")
_CONFIG_NUMBERS: tuple[tuple[str, Callable[[float], bool], str], ...] = (
    ("width", lambda value: value > 0, "a positive number"),
    ("depth", lambda value: value > 0, "a positive number"),
    ("min_width_fraction", lambda value: 0 < value <= 1, "in (0, 1], or None"),
    ("dropout_rate", lambda value: 0 <= value < 1, "in [0, 1)"),
    ("randaugment_magnitude", lambda value: value >= 0, "a number of at least 0, or None"),
    ("mixup_alpha", lambda value: value >= 0, "a number of at least 0"),
)


@dataclass(frozen=True)
class ModelConfig:
    """A whole network, and the settings its authors train and evaluate it with.

    The stages are final: what stands here is what `build_model` builds. `from_name` gives the
    published variants; any other list of stages is a network too:
    `ModelConfig("mine", decode_stages(["r1_k3_s1_e1_i16_o16_c1", "r2_k3_s2_e4_i16_o32_c1"]))`.
    The stem (3x3, stride 2) has the first stage's `input_filters`.

    Args:
        name: model name, e.g. "efficientnetv2-s".
        stages: tuple of `Stage`; each takes the filters the one before puts out.
        head_filters: filters of the last 1x1 convolution.
        width: width coefficient that is already in `stages` and `head_filters`.
        depth: depth coefficient that is already in the repeats.
        min_width_fraction: rounding of filters in `scaled` never goes below this fraction of the
            exact value (original V1 rule: 0.9); None rounds to the nearest multiple of 8 (V2).
        train_size: largest side of the training pictures, pixels.
        eval_size: side of the evaluation pictures, pixels.
        dropout_rate: dropout before the classifier.
        randaugment_magnitude: magnitude of the last training stage; None for the variants whose
            official recipe uses AutoAugment instead.
        mixup_alpha: mixup (and cutmix) alpha of the last training stage, 0 is off.
        normalization: what the network's training fed it: "imagenet" (mean and standard
            deviation) or "symmetric" ((x - 128) / 128).

    Raises:
        ValueError: a field is outside its range, or neighbouring stages do not fit.
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
    normalization: Normalization = "symmetric"

    def __post_init__(self) -> None:
        if not isinstance(self.name, str) or not re.fullmatch(r"[A-Za-z0-9_.\-]+", self.name):
            raise ValueError(
                "ModelConfig field `name` must consist of letters, digits, '.', '_' and '-'. "
                f"Received: name={self.name!r}"
            )
        if (
            not isinstance(self.stages, list | tuple)
            or not self.stages
            or not all(isinstance(stage, Stage) for stage in self.stages)
        ):
            raise ValueError(
                "ModelConfig field `stages` must be a tuple of at least one Stage "
                f"(decode_stages makes it from block strings). Received: stages={self.stages!r}"
            )
        object.__setattr__(self, "stages", tuple(self.stages))
        for number, (before, after) in enumerate(
            zip(self.stages, self.stages[1:], strict=False), start=2
        ):
            if after.input_filters != before.output_filters:
                raise ValueError(
                    f"Stage {number} takes {after.input_filters} filters but stage {number - 1} "
                    f"puts out {before.output_filters}; make them equal."
                )
        for name in ("head_filters", "train_size", "eval_size"):
            _check_positive_int(name, getattr(self, name), owner="ModelConfig")
        for name, is_within, allowed in _CONFIG_NUMBERS:
            value = getattr(self, name)
            if value is None and name in _OPTIONAL_NUMBERS:
                continue
            if not (is_number(value) and is_within(value)):
                raise ValueError(
                    f"ModelConfig field `{name}` must be {allowed}. Received: {name}={value!r}"
                )
        if not isinstance(self.normalization, str) or self.normalization not in NORMALIZATIONS:
            raise ValueError(
                f"ModelConfig field `normalization` must be one of {sorted(NORMALIZATIONS)}. "
                f"Received: normalization={self.normalization!r}"
            )

    @property
    def stem_filters(self) -> int:
        """Filters of the stem convolution."""
        return self.stages[0].input_filters

    @property
    def num_blocks(self) -> int:
        """Number of blocks over all stages."""
        return sum(stage.repeats for stage in self.stages)

    @staticmethod
    def variants() -> tuple[str, ...]:
        """Names that `from_name` knows, e.g. "efficientnetv2-s"."""
        return tuple(VARIANTS)

    @classmethod
    def from_name(cls, name: str) -> "ModelConfig":
        """The published variant of that name, e.g. "efficientnetv2-b0" or "efficientnet-b4".

        Raises:
            ValueError: no such variant; the message lists all.
        """
        row = VARIANTS.get(name) if isinstance(name, str) else None
        if row is None:
            raise ValueError(
                f"Unknown variant. Known: {', '.join(VARIANTS)}. Received: name={name!r}"
            )
        base = cls(
            name=name,
            stages=decode_stages(row.blocks),
            min_width_fraction=0.9 if row.blocks is V1_BLOCKS else None,
            train_size=row.train_size,
            eval_size=row.eval_size,
            dropout_rate=row.dropout,
            randaugment_magnitude=row.randaugment,
            mixup_alpha=row.mixup,
            normalization=row.normalization,
        )
        return base.scaled(width=row.width, depth=row.depth)

    def scaled(self, *, width: float = 1.0, depth: float = 1.0) -> "ModelConfig":
        """Compound scaling: filters times `width`, repeats times `depth`.

        Filters are rounded to a multiple of 8 (see `min_width_fraction`), repeats are rounded up,
        as officially (`round_filters`, `round_repeats`).

        Raises:
            ValueError: a coefficient is not a positive finite number.
        """
        for label, value in (("width", width), ("depth", depth)):
            if not (is_number(value) and value > 0):
                raise ValueError(
                    f"`{label}` must be a positive number. Received: {label}={value!r}"
                )
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
        rounded = max(
            WIDTH_DIVISOR, int(exact + WIDTH_DIVISOR / 2) // WIDTH_DIVISOR * WIDTH_DIVISOR
        )
        if self.min_width_fraction is not None and rounded < self.min_width_fraction * exact:
            rounded += WIDTH_DIVISOR
        return rounded

    def with_fused_stages(self, *numbers: int) -> "ModelConfig":
        """The same network with exactly these stages fused and all others MBConv (paper, Table 3).

        A stage that becomes fused loses its squeeze-excite (as the paper's own fused stages have
        none), one that becomes MBConv gets ratio 0.25; a stage that already is what is asked for
        stays as it is.

        Args:
            *numbers: stage numbers counted from 1; none at all: no stage is fused.

        Raises:
            ValueError: there is no stage of that number.
        """
        allowed = range(1, len(self.stages) + 1)
        wrong = [n for n in numbers if isinstance(n, bool) or n not in allowed]
        if wrong:
            raise ValueError(
                f"{self.name} has stages 1 to {len(self.stages)}. Received: {wrong[0]!r}"
            )
        stages = []
        for number, stage in enumerate(self.stages, start=1):
            conv: Literal["fused", "mbconv"] = "fused" if number in numbers else "mbconv"
            if stage.conv != conv:
                stage = replace(stage, conv=conv, se_ratio=None if conv == "fused" else 0.25)
            stages.append(stage)
        return replace(self, stages=tuple(stages))

    def to_json(self) -> str:
        """JSON text of every field (stages as block strings), the inverse of `from_json`."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return json.dumps(values | {"stages": encode_stages(self.stages)}, indent=2)

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """Reads what `to_json` wrote.

        Raises:
            ValueError: not JSON, or a field is missing, unknown or outside its range.
        """
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"Not a JSON text: {error}") from None
        known = {field.name for field in fields(cls)}
        if not isinstance(values, dict) or not {"name", "stages"} <= set(values) <= known:
            raise ValueError(
                f"A model config is a JSON object with `name`, `stages` and any of "
                f"{', '.join(sorted(known - {'name', 'stages'}))}. "
                f"Received: {sorted(values) if isinstance(values, dict) else values!r}"
            )
        if not isinstance(values["stages"], list):
            raise ValueError(
                "`stages` of a model config is a list of block strings. "
                f"Received: {values['stages']!r}"
            )
        return cls(**values | {"stages": decode_stages(values["stages"])})
