"""Recipes in files and in words."""

import json
from dataclasses import replace

import pytest
from helpers.command_line import command

from keras_effnetv2.cli.main import parse
from keras_effnetv2.cli.options import RecipeOptions
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.recipe_file import changed, field_value, parse_settings

FINETUNE = TrainRecipe.preset("finetune")
TRAIN = ("train", "--data", "digits", "--output", "x")


def options(*words):
    """The options of a command `train` that are about its recipe."""
    values = parse([*TRAIN, *map(str, words)]).params
    return RecipeOptions(**{name: values[name] for name in vars(RecipeOptions(None))})


@pytest.mark.parametrize(
    ("field", "text", "value"),
    [
        ("epochs", "5", 5),
        ("learning_rate", "1e-3", 0.001),
        ("learning_rate", ".5", 0.5),
        ("image_size", "32:64", (32, 64)),
        ("crop_area", "[0.6, 1]", [0.6, 1]),
        ("optimizer", "adam", "adam"),
        ("optimizer", '"adam"', "adam"),
        ("image_size", "auto", "auto"),
        ("deterministic", "true", True),
        ("deterministic", "on", True),
        ("dropout_rate", "null", None),
        ("dropout_rate", "off", 0.0),
        ("mixup_alpha", "off", 0.0),
        ("randaugment_magnitude", "off", None),
        ("ema_decay", "off", None),
        ("horizontal_flip", "off", False),
        ("horizontal_flip", "none", None),
        ("autoaugment", "off", False),
        ("stages", "off", 1),
        ("learning_rate", "off", "off"),
    ],
)
def test_values_are_typed_as_in_json_or_as_options_have_them(field, text, value):
    assert field_value(field, text) == value
    assert type(field_value(field, text)) is type(value)


EVERY_FIELD = {
    "name": ("2024", "2024"),
    "epochs": ("5", 5),
    "batch_size": ("32:16", (32, 16)),
    "learning_rate": ("1e-3", 0.001),
    "min_steps": ("0", 0),
    "max_epochs": ("30", 30),
    "progressive": ("off", None),
    "stages": ("2", 2),
    "image_size": ("64:96", (64, 96)),
    "small_pictures": ("auto", "auto"),
    "randaugment_magnitude": ("5:10", (5, 10)),
    "randaugment_layers": ("3", 3),
    "autoaugment": ("preset", "preset"),
    "mixup_alpha": ("0:0.2", (0, 0.2)),
    "mixup_style": ("paper", "paper"),
    "cutmix_alpha": ("off", 0.0),
    "cutmix_style": ("paper", "paper"),
    "class_weights": ("coat=2, t-shirt=0.5", {"coat": 2.0, "t-shirt": 0.5}),
    "balanced": ("true", True),
    "dropout_rate": ("0.1:0.3", (0.1, 0.3)),
    "drop_path_rate": ("off", 0.0),
    "crop_style": ("v1", "v1"),
    "crop_area": ("0.5:1", (0.5, 1)),
    "reduced_decode": ("off", False),
    "horizontal_flip": ("none", None),
    "scale_randaugment": ("on", True),
    "optimizer": ("sgd", "sgd"),
    "schedule": ("linear", "linear"),
    "decay_by": ("pixels", "pixels"),
    "warmup_epochs": ("0.5", 0.5),
    "probe": ("off", None),
    "head_warmup_epochs": ("1", 1),
    "unfreeze_epochs": ("2", 2),
    "layer_decay": ("0.9", 0.9),
    "batch_norm": ("train", "train"),
    "frozen_share": ("0.5", 0.5),
    "weight_decay": ("1e-5", 1e-5),
    "label_smoothing": ("off", 0.0),
    "loss": ("sigmoid", "sigmoid"),
    "ema_decay": ("off", None),
    "gradient_clip": ("1", 1),
    "evaluation_size": ("128", 128),
    "evaluation_style": ("whole", "whole"),
    "precision": ("mixed_bfloat16", "mixed_bfloat16"),
    "deterministic": ("yes", True),
    "seed": ("7", 7),
}


def test_set_takes_every_field_in_the_spelling_of_its_option(tmp_path):
    words = {f"{name}={text}": value for name, (text, value) in EVERY_FIELD.items()}
    recipe = changed(FINETUNE, parse_settings([*words]))
    assert recipe == TrainRecipe(**{name: value for name, (_, value) in EVERY_FIELD.items()})
    own = {name: EVERY_FIELD[name] for name in vars(RecipeOptions(None)) if name in EVERY_FIELD}
    flags = {name for name, (text, value) in own.items() if isinstance(value, bool)}
    typed = [f"--{name.replace('_', '-')}" for name in flags]
    for name in own.keys() - flags - {"small_pictures", "autoaugment"}:
        typed += [f"--{name.replace('_', '-')}", own[name][0]]
    given = options(*typed).changed(FINETUNE)
    for name in own.keys() - {"small_pictures", "autoaugment"}:  # those are only on or off there
        assert getattr(given, name) == own[name][1], name
    (path := tmp_path / "weights.json").write_text('{"a,b": 2}')
    assert field_value("class_weights", str(path)) == {"a,b": 2}


def test_set_changes_any_field_and_epochs_stay_as_given():
    words = ("--preset", "finetune", "--set", "epochs=5", "--set", "optimizer=sgd")
    words += ("--set", "batch-size=16:32", "--set", "ema_decay=off", "--seed", "7")
    expected = replace(
        FINETUNE,
        epochs=5,
        min_steps=0,
        optimizer="sgd",
        batch_size=(16, 32),
        ema_decay=None,
        seed=7,
    )
    assert options(*words).load("efficientnetv2-b0") == expected
    assert options("--set", "epochs=5", "--set", "min_steps=100").changed(FINETUNE).min_steps == 100


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("mine.toml", 'preset = "finetune"\nepochs = 5\nimage_size = [64, 96]\nema_decay = "off"'),
        ("mine.json", '{"preset": "finetune", "epochs": 5, "image_size": "64:96"}'),
        ("plain.toml", "epochs = 5\nimage_size = [64, 96]"),
    ],
)
def test_a_file_changes_the_recipe_that_it_names_or_another(name, text, tmp_path):
    path = tmp_path / name
    path.write_text(text)
    average = None if "ema" in text else FINETUNE.ema_decay
    expected = replace(
        FINETUNE, epochs=5, min_steps=0, image_size=(64, 96), ema_decay=average, seed=3
    )
    assert TrainRecipe.from_file(path) == replace(expected, seed=0)
    given = options("--recipe", path, "--seed", 3)
    is_plain = "preset" not in text
    assert given.load("efficientnetv2-b0") == (None if is_plain else expected)
    assert given.changed(FINETUNE) == expected
    preset = options("--recipe", path, "--preset", "finetune", "--seed", 3)
    if is_plain:
        assert preset.load("efficientnetv2-b0") == expected


@pytest.mark.parametrize("outer", [lambda values: values, lambda values: {"recipe": values}])
def test_a_whole_recipe_and_that_of_a_run_are_read_as_they_are(outer, tmp_path):
    recipe = replace(FINETUNE, seed=3)
    (tmp_path / "recipe.json").write_text(json.dumps(outer(recipe.to_dict())))
    assert TrainRecipe.from_file(tmp_path / "recipe.json") == recipe
    assert options("--recipe", tmp_path / "recipe.json").load("efficientnetv2-b0") == recipe


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epoch = 5", 'unknown names. Did you mean "epochs"?'),
        ("lr = 0.1\nbatchsize = 8", 'Did you mean "learning_rate"? Did you mean "batch_size"?'),
        ('preset = "finetun"', 'Did you mean "finetune"?'),
        ("stages = 3\nepochs = five", "line 2"),
        ("[finetune]\nepochs = 5", "unknown names"),
        ("epochs = 0", "`epochs` must be an integer of at least 1. Received: 0"),
        ("patience = 3", "not a field, but an option of train: --patience (patience=)."),
    ],
)
def test_a_wrong_file_is_one_error_that_names_it(text, expected, tmp_path, capsys):
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"mine\.toml is not a recipe: ") as error:
        TrainRecipe.from_file(path)
    assert expected in str(error.value)
    code, _, err = command(capsys, *TRAIN, "--recipe", path)
    assert code == 1
    assert err.startswith(f"error: --recipe: {path}")
    assert expected in err


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("--set", "epoch=5"), 'error: --set has unknown names. Did you mean "epochs"?'),
        (("--set", "lr=5"), 'Did you mean "learning_rate"?'),
        (("--set", "epochs"), "error: --set needs FIELD=VALUE"),
        (("--set", "warmup_epochs=-1"), "error: --set warmup_epochs must be a number of at least"),
        (("--set", "image_size=7"), "error: --set image_size must be an integer of at least 8"),
        (("--set", "seed=x"), "error: --set seed must be an integer of at least 0. Received: 'x'"),
        (("--set", "seed=1", "--seed", "2"), "--seed and --set seed are the same"),
        (("--image-size", "32:x"), "error: --image-size must be an integer of at least 8"),
        (("--image-size", "1:2:3"), "error: --image-size must be an integer of at least 8, or two"),
        (
            ("--set", "batch_size=[16,32,64]"),
            "--set batch_size must be an integer of at least 1, or two of these for the first and "
            "the last stage, FIRST:LAST (in Python a pair), or auto. Received: (16, 32, 64)",
        ),
        (("--set", 'image_size=[64,"a"]'), "(in Python a pair). Received: (64, 'a')"),
        (("--set", "max-minutes=3"), "an option of train: --max-minutes (max_minutes=)."),
    ],
)
def test_a_wrong_value_is_one_error_in_the_words_of_the_command_line(words, expected, capsys):
    code, out, err = command(capsys, *TRAIN, *words)
    assert (code, out) == (1, "")
    assert expected in err
