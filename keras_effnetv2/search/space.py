"""`SearchSpace`: which networks a search may find, as frozen data.

The paper (EfficientNetV2, arXiv 2104.00298, section 3.3, "NAS search") has a space of stages, like
MnasNet (arXiv 1807.11626). What it says, and what comes from elsewhere if it says nothing:

                    paper                           here
    convolution     {MBConv, Fused-MBConv}          the same
    kernel          {3x3, 5x5}                      the same
    expansion       {1, 4, 6}                       the same
    layers          "number of layers"              {-1, 0, +1} around the backbone's, as MnasNet
                                                    has it, at least 1; any numbers can be given
    widths          the backbone's                  the same, strides, stem and head too
    skip, pooling   no such operations              the same
    squeeze-excite  not said                        in MBConv with the backbone's ratio (Lite:
                                                    none), never in Fused-MBConv, as in every
                                                    published V2 network
    stages          not said                        the backbone's number, each with a layer or more

The number of stages is fixed. So S is not in the space around the paper's backbone, EfficientNet-
B4, which has seven stages, other widths in stem and stages, and fewer layers in the late ones.

Every combination of choices is a different network. A fused block with expansion 1 is a single
k x k convolution, an MBConv block with expansion 1 a depthwise one and a projection; kernel and
expansion matter in all of them. Equal networks are only possible with two stages that could be one,
see `SearchSpace`.
"""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from keras_effnetv2._common.checks import check_number, is_integer
from keras_effnetv2._common.text import counted
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import Stage, encode_stages

Value = str | int
Choose = Callable[[str, tuple[Value, ...]], Any]
"""Picks one of the choices of a named parameter."""

_STAGE_FIELDS = {
    "conv": "conv",
    "kernel": "kernel_size",
    "expand": "expand_ratio",
    "layers": "repeats",
}
_ANY_STAGE = Stage("mbconv", 1, 3, 1, 1, 8, 8)  # to try what a field of a stage takes


@dataclass(frozen=True)
class StageChoices:
    """What may vary in one stage. A single choice fixes it.

    Args:
        conv: "mbconv", "fused" or both.
        kernel: sides of the spatial convolution, odd.
        expand: expansion ratios, at least 1; 1 is a block without expansion.
        layers: numbers of blocks, at least 1.

    Raises:
        ValueError: there is no choice, or one is impossible or appears twice.
    """

    conv: tuple[str, ...]
    kernel: tuple[int, ...]
    expand: tuple[int, ...]
    layers: tuple[int, ...]

    def __post_init__(self) -> None:
        for name, stage_field in _STAGE_FIELDS.items():
            values = getattr(self, name)
            is_tuple = isinstance(values, list | tuple) and len(values) > 0
            if not is_tuple or len(set(map(repr, values))) < len(values):
                raise ValueError(
                    f"StageChoices field `{name}` must be a tuple of one or more choices, each "
                    f"once. Received: {values!r}"
                )
            for value in values:
                try:
                    replace(_ANY_STAGE, **{stage_field: value})
                except ValueError as error:
                    raise ValueError(f"StageChoices field `{name}`: {error}") from None
            object.__setattr__(self, name, tuple(values))


@dataclass(frozen=True)
class SearchSpace:
    """The networks that a search may find: a backbone, and what may vary in each of its stages.

    The backbone fixes the number of stages, strides, widths, stem, head, activation, and the
    settings of its training. Its own convolutions, kernels, expansions and layers are not used.

    Two spaces with the same networks are equal, also after `to_dict` and `from_dict`.

    Args:
        backbone: a `ModelConfig`.
        stages: tuple of `StageChoices`, one for each stage of the backbone.
        se_ratio: squeeze-excite ratio of MBConv stages (see `stage.Stage`); None is no
            squeeze-excite, "backbone" is `ModelConfig.se_ratio`. Fused stages have none.

    Raises:
        ValueError: the stages do not fit the backbone, or a stage of stride 1 has the width of the
            one before it: they would be one stage, and layers could move between them without
            changing the network.
    """

    backbone: ModelConfig
    stages: tuple[StageChoices, ...]
    se_ratio: float | Literal["backbone"] | None = "backbone"

    def __post_init__(self) -> None:
        check_config("backbone", self.backbone)
        if self.se_ratio == "backbone":
            object.__setattr__(self, "se_ratio", self.backbone.se_ratio)
        needed = len(self.backbone.stages)
        is_sequence = isinstance(self.stages, list | tuple)
        if not is_sequence or [type(one) for one in self.stages] != [StageChoices] * needed:
            raise ValueError(
                f"SearchSpace field `stages` must be {needed} StageChoices, one for each stage of "
                f"{self.backbone.name}. Received: {self.stages!r}"
            )
        object.__setattr__(self, "stages", tuple(self.stages))
        check_number("se_ratio", self.se_ratio, above=0, maximum=1, or_none=True)
        for number, stage in enumerate(self.backbone.stages[1:], start=2):
            if stage.strides == 1 and stage.input_filters == stage.output_filters:
                raise ValueError(
                    f"Stages {number - 1} and {number} of {self.backbone.name} both have "
                    f"{stage.output_filters} filters, and the second has the stride 1: with equal "
                    "choices they are one stage. Merge them, or give them different filters."
                )

    @classmethod
    def from_backbone(
        cls,
        backbone: str | ModelConfig = "efficientnetv2-b0",
        *,
        conv: tuple[str, ...] = ("mbconv", "fused"),
        kernel: tuple[int, ...] = (3, 5),
        expand: tuple[int, ...] = (1, 4, 6),
        layer_offsets: Sequence[int] = (-1, 0, 1),
        se_ratio: float | Literal["backbone"] | None = "backbone",
    ) -> "SearchSpace":
        """Return the paper's space around a backbone, with the same choices in every stage.

        `from_backbone("efficientnet-b4")` has the paper's backbone; the default is small enough
        for one machine, with the widths of V2 B0.

        Args:
            backbone: a `ModelConfig`, or the name of a variant.
            conv: "mbconv", "fused" or both.
            kernel: sides of the spatial convolution, odd.
            expand: expansion ratios, at least 1.
            layer_offsets: numbers to add to the backbone's layers in each stage, for instance
                `range(-2, 8)`; choices with less than 1 layer are left out.
            se_ratio: as in `SearchSpace`.

        Raises:
            ValueError: the variant is unknown, or a choice is impossible, see `StageChoices`.
        """
        config = ModelConfig.from_name(backbone) if isinstance(backbone, str) else backbone
        check_config("backbone", config)
        if not isinstance(layer_offsets, Sequence) or not all(map(is_integer, layer_offsets)):
            raise ValueError(
                f"`layer_offsets` must be a sequence of integers. Received: {layer_offsets!r}"
            )
        stages = []
        for number, stage in enumerate(config.stages, start=1):
            layers = tuple(stage.repeats + n for n in layer_offsets if stage.repeats + n >= 1)
            if not layers:
                raise ValueError(
                    f"Stage {number} of {config.name} has "
                    f"{counted(stage.repeats, 'layer')}, and none would be left. Add 0 or a "
                    "positive number to the offsets (--layer-offsets, layer_offsets=). Received: "
                    f"{layer_offsets!r}"
                )
            stages.append(StageChoices(conv, kernel, expand, layers))
        return cls(config, tuple(stages), se_ratio)

    @property
    def parameters(self) -> dict[str, tuple[Value, ...]]:
        """Return the choices of each parameter, in order: "stage1_conv", "stage1_kernel" ..."""
        return {
            parameter_name(number, choice): getattr(stage, choice)
            for number, stage in enumerate(self.stages, start=1)
            for choice in _STAGE_FIELDS
        }

    @property
    def size(self) -> int:
        """Return the number of different networks."""
        return math.prod(len(choices) for choices in self.parameters.values())

    def sample(self, choose: Choose, name: str | None = None) -> ModelConfig:
        """Return one network of the space.

        With Optuna: `space.sample(trial.suggest_categorical)`. At random:
        `space.sample(lambda name, choices: choices[rng.integers(len(choices))])`. From known
        parameters: `space.sample(lambda name, choices: found[name])`.

        Args:
            choose: called as `choose("stage3_kernel", (3, 5))` for every parameter, in the order of
                `parameters`; returns one of the choices.
            name: name of the network; default the backbone's with "-search" after it.

        Returns:
            A `ModelConfig` with the training settings of the backbone.

        Raises:
            ValueError: `choose` returned something else.
        """
        values: dict[str, Any] = {}
        for parameter, choices in self.parameters.items():
            value = choose(parameter, choices)
            if value not in choices:
                raise ValueError(
                    f"`choose` must return one of the choices, for {parameter} one of {choices}. "
                    f"Received: {value!r}"
                )
            values[parameter] = choices[choices.index(value)]  # a NumPy integer becomes an int
        stages = []
        for number, stage in enumerate(self.backbone.stages, start=1):
            chosen: dict[str, Any] = {
                stage_field: values[parameter_name(number, choice)]
                for choice, stage_field in _STAGE_FIELDS.items()
            }
            chosen["se_ratio"] = None if chosen["conv"] == "fused" else self.se_ratio
            stages.append(replace(stage, **chosen))
        return replace(
            self.backbone, name=name or f"{self.backbone.name}-search", stages=tuple(stages)
        )

    def parameters_of(self, config: ModelConfig) -> dict[str, Value]:
        """Return the parameters for which `sample` returns a network: its inverse.

        Only stages, head and activation count, not the name or the training settings.

        Raises:
            ValueError: the network is not in the space; the message shows the nearest one in it.
        """
        check_config("config", config)
        if config.activation != self.backbone.activation:
            raise ValueError(
                f"{config.name} is not in the search space around {self.backbone.name}, whose "
                f"activation is {self.backbone.activation!r}. Received: {config.activation!r}"
            )
        found = {
            parameter_name(number, choice): getattr(stage, stage_field)
            for number, stage in enumerate(config.stages, start=1)
            for choice, stage_field in _STAGE_FIELDS.items()
        }
        nearest = self.sample(
            lambda name, choices: found[name] if found.get(name) in choices else choices[0]
        )
        if network_of(nearest) != network_of(config):
            raise ValueError(
                f"{config.name} is not in the search space around {self.backbone.name}. The "
                f"nearest network there has {', '.join(encode_stages(nearest.stages))} and "
                f"{nearest.head_filters} filters in its head. Received: "
                f"{', '.join(encode_stages(config.stages))} and {config.head_filters}"
            )
        return found

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the inverse of `from_dict`."""
        return {
            "backbone": json.loads(self.backbone.to_json()),
            "stages": [
                {choice: list(getattr(stage, choice)) for choice in _STAGE_FIELDS}
                for stage in self.stages
            ],
            "se_ratio": self.se_ratio,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "SearchSpace":
        """Read the result of `to_dict`, also from JSON.

        Raises:
            ValueError: a field is missing, unknown or outside its range.
        """
        what = "A search space"
        try:
            _check_fields(values, [field.name for field in fields(cls)])
            what = "The backbone of a search space"
            backbone = ModelConfig.from_json(json.dumps(values["backbone"]))
            what, stages = "The stages of a search space", []
            for number, choices in enumerate(values["stages"], start=1):
                what = f"Stage {number} of a search space"
                _check_fields(choices, list(_STAGE_FIELDS))
                stages.append(StageChoices(**choices))
        except (ValueError, TypeError) as error:  # TypeError: a field of a wrong type
            raise ValueError(f"{what}: {error}") from None
        return cls(backbone, tuple(stages), values["se_ratio"])


def network_of(config: ModelConfig) -> tuple[int, tuple[Stage, ...], int, str]:
    """Return stem (with its width in the first stage), stages, head and activation."""
    return config.stem_strides, config.stages, config.head_filters, config.activation


def parameter_name(number: int, choice: str) -> str:
    """Return the name of the parameter of a stage, counted from 1."""
    return f"stage{number}_{choice}"


def check_config(name: str, value: Any) -> None:
    """Raise ValueError unless a value is a `ModelConfig`."""
    if not isinstance(value, ModelConfig):
        raise ValueError(
            f"`{name}` must be a ModelConfig; ModelConfig.from_name gives the published ones. "
            f"Received: {value!r}"
        )


def _check_fields(values: Any, names: Sequence[str]) -> None:
    if not isinstance(values, Mapping) or set(values) != set(names):
        received = sorted(map(str, values)) if isinstance(values, Mapping) else repr(values)
        raise ValueError(
            f"it must be an object with exactly {', '.join(names)}. Received: {received}"
        )
