"""What the fields of a `TrainRecipe` may hold, each by itself.

Importing this module starts neither Keras nor TensorFlow.
"""

from typing import TYPE_CHECKING, Any, Literal, get_args

from keras_effnetv2._common.checks import check_choice, check_integer, check_number, is_number
from keras_effnetv2.images.styles import CROP_STYLES, CUTMIX_STYLES, EVALUATION_STYLES, MIXUP_STYLES
from keras_effnetv2.recipes.stages import MIN_IMAGE_SIZE, Curve, DecayBy, check_range

if TYPE_CHECKING:
    from keras_effnetv2.recipes.recipe import TrainRecipe

BatchNormPolicy = Literal["auto", "train", "freeze"]
"""Whether batch norms are trained; "auto" is the rule of `transfer.resolve_batch_norm`."""

# What a field may hold. What varies by stage is checked by `progressive_stages`.
_SMALLEST = {"epochs": 1, "min_steps": 0, "stages": 1, "randaugment_layers": 1, "seed": 0}
_LIMITS: dict[str, dict[str, Any]] = {
    "learning_rate": {"above": 0},
    "drop_path_rate": {"minimum": 0, "below": 1},
    "warmup_epochs": {"minimum": 0},
    "head_warmup_epochs": {"minimum": 0},
    "unfreeze_epochs": {"minimum": 0},
    "layer_decay": {"above": 0, "maximum": 1},
    "frozen_share": {"minimum": 0, "maximum": 1},
    "weight_decay": {"minimum": 0},
    "label_smoothing": {"minimum": 0, "below": 1},
    "ema_decay": {"above": 0, "below": 1, "or_none": True},
    "gradient_clip": {"above": 0, "or_none": True},
}
CHOICES: dict[str, tuple[Any, ...]] = {
    "progressive": ("paper", "official", None),
    "autoaugment": (True, False, "preset"),
    "mixup_style": MIXUP_STYLES,
    "cutmix_style": CUTMIX_STYLES,
    "crop_style": (*CROP_STYLES, "preset"),
    "reduced_decode": (True, False, "preset"),
    "horizontal_flip": (True, False, None),
    "scale_randaugment": (True, False, "auto"),
    "small_pictures": (True, False, "auto"),
    "optimizer": ("adam", "rmsprop", "sgd"),
    "schedule": get_args(Curve),
    "decay_by": get_args(DecayBy),
    "probe": ("first", "only", None),
    "batch_norm": get_args(BatchNormPolicy),
    "loss": ("auto", "softmax", "sigmoid"),
    "evaluation_style": (*EVALUATION_STYLES, "preset"),
    "precision": ("float32", "mixed_float16", "mixed_bfloat16"),
    "deterministic": (True, False),
}


def check_fields(recipe: "TrainRecipe") -> None:
    """Raise ValueError if a field is outside its range."""
    if not isinstance(recipe.name, str):
        raise ValueError(f"`name` must be a text. Received: {recipe.name!r}")
    for name, smallest in _SMALLEST.items():
        check_integer(name, getattr(recipe, name), minimum=smallest)
    check_integer("max_epochs", recipe.max_epochs, minimum=1, or_none=True)
    for name, limits in _LIMITS.items():
        if (name, value := getattr(recipe, name)) != ("label_smoothing", "auto"):
            check_number(name, value, **limits)
    for name, choices in CHOICES.items():
        check_choice(name, getattr(recipe, name), choices)
    if recipe.evaluation_size is not None:
        check_integer("evaluation_size", recipe.evaluation_size, minimum=MIN_IMAGE_SIZE)
    if recipe.batch_size != "auto":
        check_range("batch_size", recipe.batch_size, or_auto=True)
    if recipe.crop_area is not None and not _is_area(recipe.crop_area):
        raise ValueError(
            "`crop_area` must be two shares, 0 < smallest <= largest <= 1, or None for those "
            f"of the style. Received: {recipe.crop_area!r}"
        )
    if recipe.min_steps and isinstance(recipe.batch_size, tuple):
        raise ValueError(
            "A recipe with `min_steps` needs the same batch size in all stages: give one "
            "number (--batch-size, batch_size=), or set min_steps=0. Received: "
            f"min_steps={recipe.min_steps}, batch_size={recipe.batch_size}"
        )


def _is_area(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(is_number, value))
    return is_pair and 0 < value[0] <= value[1] <= 1
