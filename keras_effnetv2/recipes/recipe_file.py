"""Recipes as people write them: a file in JSON or TOML, and values in words.

Importing this module starts neither Keras nor TensorFlow.
"""

import contextlib
import os
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, NamedTuple

from keras_effnetv2._common.checks import check_choice, check_names
from keras_effnetv2._common.files import check_regular, parse_json, read_json
from keras_effnetv2.recipes.field_checks import CHOICES
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.recipe import TrainRecipe

OFF = "off"

FIELDS = tuple(one.name for one in fields(TrainRecipe))
# Arguments of `train` that people look for in a recipe.
_OPTIONS = ("max_minutes", "max_train_examples", "multi_label", "patience", "skip_bad", "weights")
_WORDS = {
    **dict.fromkeys(("true", "on", "yes"), True),
    **dict.fromkeys(("false", "no"), False),
    **dict.fromkeys(("null", "none")),
}
_VALUES_OF_OFF: dict[str, Any] = {
    **dict.fromkeys(
        (
            "progressive",
            "randaugment_magnitude",
            "class_weights",
            "ema_decay",
            "gradient_clip",
            "probe",
        )
    ),
    **dict.fromkeys(("mixup_alpha", "cutmix_alpha", "dropout_rate", "drop_path_rate"), 0.0),
    **dict.fromkeys(("label_smoothing", "weight_decay", "frozen_share"), 0.0),
    **dict.fromkeys(("min_steps", "warmup_epochs", "head_warmup_epochs", "unfreeze_epochs"), 0),
    **dict.fromkeys(("stages", "layer_decay"), 1),
    "balanced": False,
    **{name: False for name, choices in CHOICES.items() if False in choices},
}


class WrittenRecipe(NamedTuple):
    """What a recipe file holds."""

    base: TrainRecipe | None  # that it starts from, or that it is; None if it only has changes
    changes: dict[str, Any]  # field -> value


def recipe_from_file(path: str | os.PathLike[str], preset: str = "finetune") -> TrainRecipe:
    """Return the recipe of a file, JSON or TOML.

    Args:
        path: the file, see `read_recipe`.
        preset: name of the recipe that is changed if the file names none.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no recipe; the message says where and why.
    """
    try:
        base, changes = read_recipe(path)
        return changed(base or TrainRecipe.preset(preset), changes)
    except ValueError as error:
        raise ValueError(f"{path} is not a recipe: {error}") from None


def read_recipe(path: str | os.PathLike[str]) -> WrittenRecipe:
    """Read a recipe file: TOML if its name ends in .toml, else JSON.

    It is the recipe.json of a run, or has fields of a `TrainRecipe` (`epochs = 5`), as a whole
    recipe with its `name`, or to change the one that `preset = "finetune"` names; without either
    they change the recipe that is used otherwise. Texts may be what `field_value` understands.

    Raises:
        OSError: it cannot be read.
        ValueError: it is no recipe; the message says what is wrong, and does not name the file.
    """
    values = _read_toml(path) if Path(path).suffix.lower() == ".toml" else read_json(path)
    if isinstance(values, Mapping) and "recipe" in values:
        return WrittenRecipe(TrainRecipe.from_dict(values["recipe"]), {})
    if not isinstance(values, Mapping):
        raise ValueError(f"it must have names and values. Received: {values!r}")
    _check_fields("It", values, ("preset", *FIELDS))
    written = {
        name: field_value(name, value) if isinstance(value, str) else value
        for name, value in values.items()
    }
    if "preset" in values:
        check_choice("preset", values["preset"], PRESETS)
        del written["preset"]
        return WrittenRecipe(TrainRecipe.preset(values["preset"]), written)
    if "name" in values:
        return WrittenRecipe(TrainRecipe.from_dict(written), {})
    return WrittenRecipe(None, written)


def _read_toml(path: str | os.PathLike[str]) -> Any:
    check_regular(path)
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8-sig"))
    except RecursionError:
        raise ValueError("its brackets are nested too deeply") from None


def parse_settings(words: list[str]) -> dict[str, Any]:
    """Return the fields and values of words such as "epochs=5"; the last one of a field counts.

    Raises:
        ValueError: a word is no FIELD=VALUE, or there is no such field.
    """
    values: dict[str, Any] = {}
    for word in words:
        name, equals, text = word.partition("=")
        name = name.strip().replace("-", "_")
        if not equals:
            raise ValueError(
                f"--set needs FIELD=VALUE, for example optimizer=adam. Received: {word!r}"
            )
        _check_fields("--set", [name], FIELDS)
        values[name] = field_value(name, text)
    return values


def _check_fields(what: str, names: Iterable[str], known: Iterable[str]) -> None:
    for name in sorted(set(_OPTIONS) & set(names)):
        raise ValueError(
            f"{what} takes fields of the recipe. {name} is not a field, but an option of train: "
            f"--{name.replace('_', '-')} ({name}=)."
        )
    check_names(what, names, known)


def field_value(name: str, text: str) -> Any:
    """Return the value of a field from a text; what is not understood stays a text.

    Args:
        name: the field; it decides what "off" is.
        text: a value of JSON (`5`, `true`, `null`, `[0.6, 1.0]`, `"adam"`), the words `adam`, `on`
            and `none` without quotes, or two numbers, FIRST:LAST. For `class_weights` also
            `coat=2,dress=0.5` or the name of a JSON file.

    Raises:
        ValueError: there is no such file, or it is not JSON.
    """
    if name == "name":  # a text, even one such as 2024
        return text
    word = text.strip().lower()
    if word == OFF and name in _VALUES_OF_OFF:
        return _VALUES_OF_OFF[name]
    if word in _WORDS:
        return _WORDS[word]
    if name == "class_weights" and word.endswith(".json"):
        return _weights_file(text.strip())
    for read in (parse_json, _numbers, *([_weights] if name == "class_weights" else [])):
        with contextlib.suppress(ValueError):
            return read(text)
    return text


def _weights_file(path: str) -> Any:
    try:
        return read_json(path)
    except (OSError, ValueError) as error:
        raise ValueError(f"`class_weights`: {path!r} cannot be read: {error}") from None


def _weights(text: str) -> dict[str, float]:
    pairs = [part.rpartition("=") for part in text.split(",")]
    weights = {name.strip(): _number(weight) for name, _, weight in pairs}
    if len(weights) < len(pairs) or "" in weights:
        raise ValueError("a class has two weights, or a weight has no class")
    return weights


def _numbers(text: str) -> Any:
    values = tuple(map(_number, text.split(":")))
    return values if len(values) > 1 else values[0]


def _number(text: str) -> float:
    try:
        return int(text)
    except ValueError:
        return float(text)


def changed(recipe: TrainRecipe, *layers: Mapping[str, Any]) -> TrainRecipe:
    """Return a recipe with other values; a later layer goes before an earlier one.

    Where a layer has `epochs` without `min_steps`, that is 0, because it would train longer.
    """
    changes: dict[str, Any] = {}
    for layer in layers:
        changes |= {"min_steps": 0, **layer} if "epochs" in layer else layer
    return replace(recipe, **changes)
