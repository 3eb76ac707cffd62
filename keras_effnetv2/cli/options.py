"""Options of several commands, and the checks of their values that need no TensorFlow."""

import json
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from typer import Argument, BadParameter, Option

from keras_effnetv2._common.checks import check_choice, did_you_mean
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.command import OptionGroup
from keras_effnetv2.pretrained.registry import published
from keras_effnetv2.recipes.presets import PRESETS

if TYPE_CHECKING:
    from keras_effnetv2.recipes.recipe import TrainRecipe

_KINDS = (
    "a folder of class folders (or of train/, validation/, test/ with class folders in them), "
    "csv:FILE (columns path,label[,split]), tfds:NAME, tfrecord:PATTERN (or a folder that the "
    "command pack wrote), or digits (built in)"
)
_DATA = f"Labelled pictures: {_KINDS}."
_CLASSES = (
    "The classes of a variant are named by WordNet id (n01440764, n01440764_tench) or by name "
    "(tench); some of them are enough."
)

Data = Annotated[str, Option(metavar="SPEC", help=_DATA)]
DataIfAny = Annotated[str | None, Option(metavar="SPEC", help=_DATA)]
DataToJudge = Annotated[str, Option(metavar="SPEC", help=f"{_DATA} {_CLASSES}")]
DataToJudgeIfAny = Annotated[str | None, Option(metavar="SPEC", help=f"{_DATA} {_CLASSES}")]
Json = Annotated[bool, Option("--json", help="Print JSON.")]
RunOrVariant = Annotated[
    str,
    Argument(metavar="RUN_OR_VARIANT", help="A run folder, or a variant such as efficientnetv2-s."),
]
SkipBad = Annotated[bool, Option("--skip-bad", help="Leave out pictures that cannot be read.")]
Split = Literal["train", "validation", "test", "all"]


def known_variant(name: str) -> str:
    """Return the name of a variant; anything else is wrong usage."""
    variants = ModelConfig.variants()
    if name not in variants:
        raise BadParameter(
            f"{name!r} is not one of {', '.join(variants)}.{did_you_mean(name, variants)}"
        )
    return name


# --- pictures -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class DataOptions(OptionGroup):
    """Which of the pictures a network is trained with, and how they are read.

    Pictures:
      --validation-fraction SHARE: Share of the pictures to hold back for validation, if none are
        given.  [default: 0.2, or 0.1 of a train folder]
      --max-train-examples N: Train on N pictures, the same share of each class.
      --skip-bad: Leave out pictures that cannot be read.
      --scan/--no-scan: Decode every picture before training starts, to find those that are
        damaged.  [default: scan up to 50,000 pictures]
      --cache memory|DIR: Keep the encoded pictures in memory, or packed in DIR on a faster disk.
    """

    validation_fraction: float | None = None
    max_train_examples: int | None = None
    skip_bad: bool = False
    scan: bool | None = None
    cache: str | None = None


@dataclass(frozen=True)
class JudgingOptions(OptionGroup):
    """How a network is judged.

    Options:
      --protocol: How the pictures are cropped and resized for a variant: official, as its authors
        do; timm, as PyTorch Image Models does; keras, the whole picture, as
        image_dataset_from_directory does.  [default: official]
      --batch-size N: Pictures per step.
    """

    protocol: Literal["official", "timm", "keras"] | None = None
    batch_size: int = 64
    skip_bad: SkipBad = False


def check_data(spec: str | None, option: str = "--data") -> None:
    """Raise FileNotFoundError for a folder or a table that is not there.

    What is in it is checked where it is read.
    """
    kind, _, path = (spec or "digits").rpartition(":")
    if kind not in ("", "csv") or path == "digits" or os.path.lexists(os.path.expanduser(path)):
        return
    raise FileNotFoundError(
        f"{option}: There is no {'file' if kind else 'folder'} {path!r} (looked for "
        f"{os.path.abspath(path)!r}). Expected {_KINDS}."
    )


def check_run(path: Path) -> None:
    """Raise ValueError unless there is a folder that could be a run."""
    if not path.is_dir():
        raise ValueError(f"RUN must be the folder of a run. There is no folder {str(path)!r}.")


def check_weights(config: ModelConfig, weights: str | None) -> None:
    """Raise ValueError for weights that are neither published for a variant nor there as a file."""
    known = published(config.name)
    if weights is None or weights in known:
        return
    # A checkpoint may be named by the common beginning of its files.
    if not any(map(os.path.exists, (weights, f"{weights}.index"))):
        raise ValueError(
            "--weights must be the path of a weight file, or a set that is published for "
            f"{config.name} ({', '.join(map(repr, known)) or 'none is'})."
            f"{did_you_mean(weights, known)} Received: {weights!r}"
        )


# --- recipe -------------------------------------------------------------------------------------

_OFF = "off"  # as an option; in a recipe None, which here is an option that is not given


def _range_of(kind: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser of one number, or of two with a colon between them."""

    def parse(text: str) -> Any:
        try:
            values = tuple(kind(part) for part in text.split(":"))
        except ValueError:
            values = ()
        if not 1 <= len(values) <= 2:
            raise BadParameter(
                f"expected a number or FIRST:LAST, for example 32:64. Received: {text!r}"
            )
        return values if len(values) == 2 else values[0]

    return parse


def _range_or_off(text: str) -> Any:
    return text if text == _OFF else _range_of(float)(text)


_Range = Annotated[Any, Option(parser=_range_of(float), metavar="FIRST:LAST")]
_WholeRange = Annotated[Any, Option(parser=_range_of(int), metavar="FIRST:LAST")]
_RangeOrOff = Annotated[Any, Option(parser=_range_or_off, metavar="FIRST:LAST")]


@dataclass(frozen=True)
class RecipeOptions(OptionGroup):
    """A recipe, and what is changed of it; None is not changed.

    Recipe:
      --preset NAME: Recipe to start from: quickstart, finetune, finetune-official,
        finetune-paper, imagenet-official, imagenet-paper, imagenet21k or search.
      --recipe FILE: The recipe.json of a run, to start from instead of a preset.
      --epochs N: Passes over the training pictures.
      --batch-size: Global batch size of the first and the last stage, or one number.
      --image-size: Size of the pictures in the first and the last stage in pixels, or one number.
      --stages N: Stages of progressive learning; 1 turns it off.
      --crop-area SMALLEST:LARGEST: Share of a picture that a random crop covers.
      --randaugment-magnitude: Magnitude of RandAugment, for example 5:10, or off.
      --autoaugment: Use AutoAugment (policy v0) in place of RandAugment, as the authors did for b0
        to b3.
      --mixup-alpha: Strength of MixUp, for example 0:0.2; 0 turns it off.
      --cutmix-alpha: Strength of CutMix; 0 turns it off.
      --dropout-rate: Dropout rate before the classifier.
      --learning-rate RATE: Peak learning rate for a batch of 256; it scales with the batch size.
      --seed N: Seed of the split, the order, the augmentation and the weights.
    """

    preset: str
    recipe: Path | None = None
    epochs: int | None = None
    batch_size: _WholeRange = None
    image_size: _WholeRange = None
    stages: int | None = None
    crop_area: _Range = None
    randaugment_magnitude: _RangeOrOff = None
    autoaugment: bool = False
    mixup_alpha: _Range = None
    cutmix_alpha: _Range = None
    dropout_rate: _Range = None
    learning_rate: float | None = None
    seed: int | None = None

    def shown_defaults(self) -> dict[str, str]:
        """Return what the preset has for each option, as it is typed."""
        preset = PRESETS[self.preset]
        names = [name for name in vars(self) if name in preset]
        return {name: f"{self.preset}: {_typed(preset[name])}" for name in names}

    def check(self) -> None:
        """Raise ValueError for an unknown preset, FileNotFoundError for a missing file."""
        if self.recipe is None:
            check_choice("--preset", self.preset, PRESETS)
        elif not self.recipe.is_file():
            raise FileNotFoundError(f"--recipe: There is no file {str(self.recipe)!r}.")

    def load(self) -> "TrainRecipe":
        """Return the preset or the recipe of the file, changed by the options that were given."""
        from keras_effnetv2.recipes.recipe import TrainRecipe

        changes: dict[str, Any] = {
            name: None if value == _OFF else value
            for name, value in vars(self).items()
            if name not in ("preset", "recipe") and value is not None and value is not False
        }
        if self.recipe is None:
            return replace(TrainRecipe.preset(self.preset), **changes)
        try:
            recipe = dict(json.loads(self.recipe.read_text(encoding="utf-8"))["recipe"])
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"--recipe: {self.recipe} is not the recipe.json of a run: {error!r}"
            ) from None
        return replace(TrainRecipe.from_dict(recipe), **changes)


def _typed(value: Any) -> str:
    """Return a value of a recipe as it is typed, e.g. "32:64"."""
    values = value if isinstance(value, tuple) else (value,)
    return _OFF if value is None else ":".join(f"{one:g}" for one in values)
