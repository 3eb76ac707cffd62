"""Options of all commands that train: which pictures, by which recipe."""

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from keras_effnetv2.recipes.presets import PRESETS

if TYPE_CHECKING:
    from keras_effnetv2.recipes.recipe import TrainRecipe

DATA_HELP = (
    "a folder of class folders (or of train/, validation/, test/ with class folders in them), "
    "csv:FILE (columns path,label[,split]), tfds:NAME, tfrecord:PATTERN (or a folder that the "
    "command pack wrote), or digits (built in)"
)


def add_data_options(parser: argparse.ArgumentParser, *, required: bool) -> None:
    """Adds the options that choose pictures and how they are read.

    Args:
        parser: of the command.
        required: whether --data must be given.
    """
    add = parser.add_argument
    add("--data", required=required, metavar="SPEC", help=DATA_HELP)
    add(
        "--validation-fraction",
        type=float,
        metavar="F",
        help="share to hold back where no validation pictures are given "
        "(default: 0.2, or 0.1 of a train folder)",
    )
    add("--max-train-examples", type=int, metavar="N", help="train on a stratified part of N")
    add("--skip-bad", action="store_true", help="leave out pictures that cannot be read")
    add(
        "--scan",
        action=argparse.BooleanOptionalAction,
        help="decode every picture before the training (default: unless there are over 50,000)",
    )
    add(
        "--cache",
        metavar="memory|DIR",
        help="keep the encoded pictures in memory, or packed in DIR on a quicker disk",
    )


def add_recipe_options(parser: argparse._ActionsContainer, preset: str) -> None:
    """Adds the options that choose a recipe and change it; one that is not given is not set.

    Args:
        parser: of the command.
        preset: the default.
    """
    add = parser.add_argument
    default = partial(_in_preset, preset)
    add("--preset", default=preset, help="recipe that the options below change")
    add("--recipe", type=Path, metavar="FILE", help="recipe.json of a run, instead of a preset")
    unset: dict[str, Any] = {"default": argparse.SUPPRESS}
    add("--epochs", type=int, help=f"default: the recipe's {default('epochs')}", **unset)
    add(
        "--batch-size",
        type=_whole_range,
        metavar="FIRST:LAST",
        **unset,
        help=f"of the first and the last stage, or one number {default('batch_size')}",
    )
    add(
        "--image-size",
        type=_whole_range,
        metavar="FIRST:LAST",
        **unset,
        help=f"pixels of the first and the last stage, or one number {default('image_size')}",
    )
    add(
        "--stages",
        type=int,
        help=f"stages of progressive learning; 1 is off {default('stages')}",
        **unset,
    )
    add(
        "--crop-area",
        type=_range,
        metavar="SMALLEST:LARGEST",
        **unset,
        help="smallest and largest share of a picture that a random crop covers "
        f"{default('crop_area')}",
    )
    add(
        "--randaugment-magnitude",
        type=_range_or_off,
        metavar="FIRST:LAST",
        **unset,
        help=f"RandAugment, for example 5:10, or off {default('randaugment_magnitude')}",
    )
    add(
        "--autoaugment",
        action="store_true",
        **unset,
        help="AutoAugment's policy v0 in place of RandAugment, as officially for b0-b3",
    )
    add(
        "--mixup-alpha",
        type=_range,
        metavar="FIRST:LAST",
        **unset,
        help=f"mixup, for example 0:0.2; 0 is off {default('mixup_alpha')}",
    )
    add("--cutmix-alpha", type=_range, metavar="FIRST:LAST", help="CutMix, 0 is off", **unset)
    add(
        "--dropout-rate",
        type=_range,
        metavar="FIRST:LAST",
        **unset,
        help=f"dropout before the classifier {default('dropout_rate')}",
    )
    add("--learning-rate", type=float, help="highest rate, for a batch of 256", **unset)
    add("--seed", type=int, help="of split, order, augmentation and weights", **unset)


def _in_preset(preset: str, field: str) -> str:
    """What a recipe has, as it is typed: "(quickstart: 32:64)"."""
    value = PRESETS[preset][field]
    values = value if isinstance(value, tuple) else (value,)
    text = "off" if value is None else ":".join(f"{one:g}" for one in values)
    return f"({preset}: {text})"


def recipe_of(arguments: argparse.Namespace) -> "TrainRecipe":
    """The preset or file, changed by the options that were given."""
    from dataclasses import fields, replace

    from keras_effnetv2.recipes.recipe import TrainRecipe

    if arguments.recipe is None:
        recipe = TrainRecipe.preset(arguments.preset)
    else:
        recipe = TrainRecipe.from_dict(_read_recipe(arguments.recipe))
    names = {field.name for field in fields(TrainRecipe)}
    return replace(recipe, **{k: v for k, v in vars(arguments).items() if k in names})


def _read_recipe(path: Path) -> dict[str, Any]:
    try:
        recipe = json.loads(path.read_text(encoding="utf-8"))["recipe"]
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is not the recipe.json of a run: {error!r}") from None
    return recipe


def _range(text: str) -> float | tuple[float, float]:
    return _parse_range(text, float)


def _whole_range(text: str) -> int | tuple[int, int]:
    return _parse_range(text, int)


def _range_or_off(text: str) -> float | tuple[float, float] | None:
    return None if text == "off" else _range(text)


def _parse_range(text: str, kind: Callable[[str], Any]) -> Any:
    try:
        values = tuple(kind(part) for part in text.split(":"))
    except ValueError:
        values = ()
    if not 1 <= len(values) <= 2:
        raise argparse.ArgumentTypeError(
            f"expected a number or FIRST:LAST, for example 32:64, got {text!r}"
        )
    return values if len(values) == 2 else values[0]
