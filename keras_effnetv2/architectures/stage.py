"""A stage of a network, and the official block strings, which write one in a word."""

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal, NamedTuple

from keras_effnetv2._common.checks import check_choice, check_integer, check_number, make_plain

MAX_INTEGER = 2**16
"""The limit of filters, repeats and sizes, so that a file cannot ask for any amount of memory."""


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
            check_integer(name, getattr(self, name), minimum=1, maximum=MAX_INTEGER)
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

    Examples:
        >>> (stage,) = decode_stages(["r4_k3_s2_e4_i24_o48_c1"])
        >>> stage.conv, stage.repeats, stage.output_filters
        ('fused', 4, 48)
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
    """Write stages as official block strings, the inverse of `decode_stages`.

    Args:
        stages: any number of `Stage`s.

    Returns:
        A list of strings, one for each stage.

    Examples:
        >>> encode_stages([Stage("mbconv", 2, 3, 2, 6, 16, 24, se_ratio=0.25)])
        ['r2_k3_s2_e6_i16_o24_se0.25']
    """
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
