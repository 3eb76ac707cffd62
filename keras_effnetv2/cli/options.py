"""Options of several commands, and checks of their values that do not need TensorFlow."""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from keras_effnetv2._common.checks import check_choice, check_integer, check_number
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.cli.command import OptionGroup, argument, flag, option
from keras_effnetv2.data.class_balance import ClassWeights, check_weighted_names
from keras_effnetv2.data.spec import kind_of
from keras_effnetv2.evaluation.named_network import is_export, network_path
from keras_effnetv2.pretrained.hub_name import check_hub_name, is_hub_name
from keras_effnetv2.pretrained.registry import find_weight_set, published
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.recipe_file import (
    OFF,
    WrittenRecipe,
    changed,
    field_value,
    parse_settings,
    read_recipe,
)
from keras_effnetv2.runs.run_state import check_finished, read_settings

_KINDS = (
    "a folder of class folders (or of train/, validation/, test/ with class folders in them), "
    "csv:FILE (columns path,label[,split]; a label may be a;b), tfds:NAME, "
    "tfrecord:PATTERN[?image=KEY&label=KEY] (or a folder from the command pack), or digits (built "
    "in)"
)
_JUDGED = (
    f"Labelled pictures: {_KINDS}. For a variant, classes are named by WordNet id (n01440764, "
    "n01440764_tench) or by name (tench); some of its classes are enough."
)

DATA = option("SPEC", f"Labelled pictures: {_KINDS}.", ...)
DATA_IF_ANY = option("SPEC", f"Labelled pictures: {_KINDS}.")
DATA_TO_JUDGE = option("SPEC", _JUDGED, ...)
DATA_TO_JUDGE_IF_ANY = option("SPEC", _JUDGED)
JSON = flag("--json", "Print JSON.")
NETWORK = argument(
    "RUN_OR_FILE_OR_VARIANT",
    "A run folder, a .keras file, a variant such as efficientnetv2-s, or hf://OWNER/NAME of the "
    "Hugging Face hub.",
)
NETWORK_OR_EXPORT = argument(
    "RUN_OR_EXPORT_OR_VARIANT",
    "A run folder, a .keras file, an export (.onnx, .xml of OpenVINO, .tflite, a SavedModel folder "
    "or the folder of its versions), a variant such as efficientnetv2-s, or hf://OWNER/NAME of the "
    "Hugging Face hub.",
)
MULTI_LABEL = option(
    None,
    "A picture may have several classes or none. [default: only if csv:FILE has a label such as "
    "a;b]",
)
SKIP_BAD = flag("--skip-bad", "Leave out pictures that cannot be read.")
WEIGHTS_TO_JUDGE = option(
    "NAME_OR_PATH",
    "Weights of a variant: a published set or hf://OWNER/NAME, which are downloaded, or a weight "
    "file. [default: imagenet]",
)
Split = Literal["train", "validation", "test", "all"]


def read_network(name: str, option: str = "--model") -> ModelConfig:
    """Return the network of a variant's name or of a JSON file; errors begin with the option."""
    try:
        return read_config(name)
    except ValueError as error:
        raise ValueError(f"{option}: {error}") from None


def check_weights(config: ModelConfig, weights: str | None) -> None:
    """Raise an error for weights that are not published for a variant, a repository or a file."""
    if weights is None or weights in published(config.name):
        return
    if is_hub_name(weights):
        check_hub_name(weights)
        return
    try:
        find_weight_set(config.name, weights)
    except ValueError as error:
        raise ValueError(f"--weights: {error}") from None


def check_network(
    name: str, weights: str | None, protocol: str | None = None, *, exports: bool = False
) -> None:
    """Raise ValueError if there is no such network, or options do not go with it.

    With `exports` it may be an export.
    """
    path, is_repository = network_path(name, exports=exports), is_hub_name(name)
    if path is not None and path.is_dir() and not is_export(path):
        read_settings(path)
        check_finished(path)
    if path is None and not is_repository:
        check_weights(ModelConfig.from_name(name), weights or "imagenet")
        return
    for given, value in (("--weights", weights), ("--protocol", protocol)):
        if value is not None and not (is_repository and given == "--protocol"):
            raise ValueError(
                f"{given} is for a variant only; {name!r} has its own. Known variants: "
                + ", ".join(ModelConfig.variants())
            )


def check_data(
    spec: str | None,
    option: str = "--data",
    *,
    to_train: bool = False,
    class_weights: ClassWeights = None,
    multi_label: bool | None = None,
) -> None:
    """Raise an error for an unknown kind, or a folder or table that is not there or has no classes.

    Other data and the pictures are checked by the code that reads them.

    Args:
        spec: the data, see `load_source`; None is none.
        option: its name.
        to_train: also refuse a single class.
        class_weights: with `to_train`, also refuse weights of classes that are not there.
        multi_label: see `load_source`.
    """
    spec = spec or "digits"
    kind, place = kind_of(spec)
    if kind not in ("folder", "csv"):
        return
    if not os.path.lexists(place):
        raise FileNotFoundError(
            f"{option}: There is no {'file' if kind == 'csv' else 'folder'} {place!r} (looked for "
            f"{os.path.abspath(place)!r}). Expected {_KINDS}."
        )
    from keras_effnetv2.data.csv_file import open_csv
    from keras_effnetv2.data.folder import open_folder
    from keras_effnetv2.data.names import own_class_names

    catalog = open_csv(place, multi_label) if kind == "csv" else open_folder(place)
    if to_train:
        check_weighted_names(class_weights, own_class_names(spec, catalog))


def check_run(path: Path, allowed: str) -> None:
    """Raise ValueError, which says what is allowed, unless RUN is a folder, not of half a run."""
    if not path.is_dir():
        raise ValueError(f"There is no folder {str(path)!r}. RUN must be {allowed}.")
    check_finished(path)


@dataclass(frozen=True)
class DataOptions(OptionGroup):
    """Which pictures to train with, and how to read them."""

    section = "Pictures"

    validation_fraction: float | None = option(
        "SHARE",
        "Share of the pictures to hold back for validation, if the data has no validation split. "
        "[default: 0.2, or 0.1 of a train folder]",
    )
    multi_label: bool | None = MULTI_LABEL
    max_train_examples: int | None = option(
        "N", "Train on N pictures, the same share of each class."
    )
    skip_bad: bool = SKIP_BAD
    scan: bool | None = option(
        None,
        "Decode every picture before training starts, to find damaged ones. [default: scan up to "
        "50,000 pictures]",
    )
    cache: str | None = option(
        "memory|DIR",
        "Keep a copy of the encoded pictures in memory, or packed in DIR on a faster disk.",
    )

    def check(self, data: str, class_weights: ClassWeights = None) -> None:
        """Raise an error for a number that is wrong with any pictures, or as `check_data` does."""
        check_number(
            "validation_fraction", self.validation_fraction, above=0, below=1, or_none=True
        )
        check_integer("max_train_examples", self.max_train_examples, minimum=1, or_none=True)
        check_data(data, to_train=True, multi_label=self.multi_label, class_weights=class_weights)


@dataclass(frozen=True)
class JudgingOptions(OptionGroup):
    """How a network is judged."""

    protocol: Literal["official", "timm", "keras"] | None = option(
        None,
        "How to crop and resize the pictures for a variant: official, as its authors do; timm, as "
        "PyTorch Image Models does; keras, the whole picture, as image_dataset_from_directory "
        "does. [default: what the config.json beside the weights says, or else official]",
    )
    batch_size: int = option("N", "Pictures per step.", 64)
    skip_bad: bool = SKIP_BAD

    def check(self) -> None:
        """Raise ValueError for a batch size below 1."""
        check_integer("batch_size", self.batch_size, minimum=1)


_RANGE = "FIRST:LAST"


@dataclass(frozen=True)
class RecipeOptions(OptionGroup):
    """A recipe, and changes to it; None changes nothing."""

    section = "Recipe"
    usual = "finetune"  # the preset whose values the help page shows

    preset: str | None = option(
        "NAME",
        "Recipe to start from: quickstart, finetune, probe, finetune-official, finetune-paper, "
        "imagenet-official, imagenet-paper, imagenet21k or search. [default: search in a search; "
        "finetune with trained weights, else quickstart]",
    )
    recipe: Path | None = option(
        "FILE",
        "Start from a recipe file: the recipe.json of a run, or JSON or TOML with fields such as "
        'epochs = 5, perhaps with preset = "finetune".',
    )
    set: list[str] = option(
        "FIELD=VALUE",
        "Change any field of the recipe, for example --set optimizer=sgd --set crop_area=0.5:1. "
        "Write a value as in JSON, or as in the options below. An unknown field is an error, which "
        "lists all fields.",
        [],
    )
    epochs: int | None = option("N", "Passes over the training pictures.")
    batch_size: str | None = option(
        _RANGE,
        "Global batch size of the first and the last stage, or one number; auto: in each stage the "
        "largest that fits into memory.",
    )
    image_size: str | None = option(
        _RANGE,
        "Size of the pictures in the first and the last stage, in pixels, or one number.",
    )
    small_pictures: bool | None = option(
        None,
        "Give the network fewer strides, so that small pictures end in a map of 4 x 4. [default: "
        "from scratch, for a variant at the sizes that suit pictures of at most 40 pixels]",
    )
    evaluation_size: int | None = option(
        "PIXELS",
        "Size of the pictures in evaluation and serving. [default: that of the last stage; for "
        "pretrained weights without --image-size up to what they are published for]",
    )
    stages: int | None = option("N", "Stages of progressive learning; 1 turns it off.")
    crop_area: str | None = option(
        "SMALLEST:LARGEST", "Share of a picture that a random crop covers."
    )
    randaugment_magnitude: str | None = option(
        _RANGE, "Magnitude of RandAugment, for example 5:10, or off."
    )
    autoaugment: bool | None = option(
        None,
        "Use AutoAugment (policy v0) instead of RandAugment, as the authors did for b0 to b3.",
    )
    mixup_alpha: str | None = option(
        _RANGE, "Strength of MixUp, for example 0:0.2; 0 turns it off."
    )
    cutmix_alpha: str | None = option(_RANGE, "Strength of CutMix; 0 turns it off.")
    class_weights: str | None = option(
        "WEIGHTS",
        "Weights of the classes in the loss: balanced (all classes count the same), weights by "
        "name (coat=2,dress=0.5; 1 for all others), a JSON file of such weights, or off.",
    )
    balanced: bool | None = option(
        None, "Draw every class equally often, in epochs of the same length. [default: no]"
    )
    dropout_rate: str | None = option(_RANGE, "Dropout rate before the classifier.")
    learning_rate: float | None = option(
        "RATE", "Peak learning rate for a batch of 256; it scales with the batch size."
    )
    seed: int | None = option(
        "N", "Seed of the split, the order, the augmentation and the weights."
    )

    def note(self, name: str) -> str:
        """Return the preset's value for an option, as it is typed."""
        settings = PRESETS[self.usual]
        return f"  [{self.usual}: {_typed(settings[name])}]" if name in settings else ""

    def load(self, network: str, default: str = "search") -> TrainRecipe | None:
        """Return the recipe that is asked for, changed by the options; None without one.

        Args:
            network: its name; a recipe that it cannot be trained with is an error.
            default: the preset for checking the options if no recipe is asked for.

        Raises:
            FileNotFoundError: --recipe is missing.
            ValueError: --preset is unknown, --recipe is no recipe, or a value is not allowed.
        """
        asked, _ = self._read()
        with self._located():
            recipe = self.changed(asked or TrainRecipe.preset(default))
            recipe.resolve(network)
        return recipe if asked else None

    def _read(self) -> WrittenRecipe:
        """Return the recipe that is asked for, and what --recipe changes in it or another."""
        check_choice("--preset", self.preset, (None, *PRESETS))
        preset = TrainRecipe.preset(self.preset) if self.preset else None
        if self.recipe is None:
            return WrittenRecipe(preset, {})
        if not self.recipe.is_file():
            raise FileNotFoundError(f"--recipe: There is no file {str(self.recipe)!r}.")
        try:
            base, changes = read_recipe(self.recipe)
        except (OSError, ValueError) as error:
            raise ValueError(f"--recipe: {self.recipe} is not a recipe: {error}") from None
        if base is not None and preset is not None:
            raise ValueError(
                "--preset and --recipe each give a whole recipe. Choose one of them. Received: "
                f"--preset {self.preset} --recipe {self.recipe}"
            )
        return WrittenRecipe(base or preset, changes)

    def changed(self, recipe: TrainRecipe) -> TrainRecipe:
        """Return a recipe with the values of --recipe, --set and the other options."""
        typed, given = parse_settings(self.set), self._given()
        if both := [name for name in given if name in typed]:
            name = f"--{both[0].replace('_', '-')}"
            raise ValueError(f"{name} and --set {both[0]} are the same. Choose one of them.")
        return changed(recipe, self._read().changes, {**typed, **given})

    def _given(self) -> dict[str, Any]:
        return {
            name: field_value(name, value) if isinstance(value, str) else value
            for name, value in vars(self).items()
            if name not in ("preset", "recipe", "set") and value is not None
        }

    @contextlib.contextmanager
    def _located(self) -> Iterator[None]:
        """Let an error about a field begin with where it was given."""
        try:
            yield
        except ValueError as error:
            _, field, text = re.split(r"^(?:`(\w+)`)?", str(error), maxsplit=1)
            if field in self._given() or field is None:
                raise  # a field is named as its option later
            if field in parse_settings(self.set):
                raise ValueError(f"--set {field}{text}") from None
            if field in self._read().changes:
                raise ValueError(f"--recipe: {self.recipe}: {error}") from None
            raise


def _typed(value: Any) -> str:
    """Return a value of a recipe as it is typed, e.g. "32:64"."""
    values = value if isinstance(value, tuple) else (value,)
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "yes" if value else "no"
    return OFF if value is None else ":".join(f"{one:g}" for one in values)
