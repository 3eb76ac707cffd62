"""`TrainRecipe`: every setting of a training as frozen data, and the named presets.

Source of the official presets: google/automl efficientnetv2 (hparams.py, datasets.py), and the
paper's section 5 and Table 6. Two things differ from the official code and are Keras' own: the
RMSprop (its accumulator starts at zero and its epsilon stands outside the root) and the weight
decay (decoupled: weight -= rate * decay * weight; officially it is a term of the loss).
"""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import keras

from keras_effnetv2.config import ModelConfig
from keras_effnetv2.data.mixing import MIXUP_STYLES
from keras_effnetv2.preprocess import STYLES
from keras_effnetv2.random_crop import CROP_STYLES
from keras_effnetv2.training.schedule import Curve, WarmupSchedule
from keras_effnetv2.training.stages import Range, StagePlan, progressive_stages

LEARNING_RATE_BATCH = 256  # the batch size that `learning_rate` is given for
_RMSPROP = {"rho": 0.9, "momentum": 0.9, "epsilon": 1e-3}  # official hparams.py
_NO_DECAY = ("bias", "gamma", "beta")  # official exclusion from weight decay


class _Rule(NamedTuple):
    """What a field of `TrainRecipe` may hold, in words and as a test."""

    field: str
    allowed: str
    is_valid: Callable[[Any], bool]


@dataclass(frozen=True)
class TrainRecipe:
    """How to train. `TrainRecipe.preset(name)` gives the named ones, `dataclasses.replace` changes.

    Args:
        name: of the preset it comes from.
        epochs: passes over the training pictures.
        batch_size: pictures a step.
        progressive: where a range below is "preset": "paper" or "official" (see
            `training.stages`); None if no range is.
        stages: number of stages of progressive learning; 1 is off.
        image_size: side of the pictures, pixels: a number, or (first stage, last stage).
        randaugment_magnitude: number, range, or None for off.
        randaugment_layers: operations applied to each picture.
        autoaugment: apply AutoAugment's policy v0 in place of RandAugment; "preset": for the
            variants that were trained so (V2 B0-B3, V1).
        mixup_alpha: number or range; 0 is off.
        mixup_style: "official" (a picture keeps at least one half) or "paper".
        cutmix_alpha: number or range; 0 is off.
        dropout_rate: before the classifier: number, range, or None for the variant's.
        drop_path_rate: stochastic depth of the last block.
        crop_style: "v2", "v1" or "finetune", see `random_crop.decode_random_crop`; "preset": what
            the variant was trained with.
        crop_area: smallest and largest share of a picture that a random crop covers; None is the
            style's.
        horizontal_flip: mirror half of the pictures; None leaves it to the source.
        scale_randaugment: see `data.pipeline.make_dataset`.
        optimizer: "adam", "rmsprop" (decay and momentum 0.9, epsilon 0.001) or "sgd" (Nesterov
            momentum 0.9).
        learning_rate: highest rate for a batch of 256; it is scaled with the batch size.
        schedule: "cosine", "exponential" (times 0.97 every 2.4 epochs), "linear" or "constant".
        warmup_epochs: linear warm-up.
        weight_decay: of the kernels; biases and batch norms have none.
        label_smoothing: in [0, 1).
        loss: "softmax" or "sigmoid" cross entropy.
        ema_decay: decay of the weights' average that is evaluated and kept; None is off.
        gradient_clip: largest global norm of the gradients; None is off.
        evaluation_style: how evaluation and serving crop and resize, a name of
            `preprocess.STYLES`; "preset": what goes with the variant's training.
        precision: Keras dtype policy of a model that is built here.
        deterministic: make TensorFlow's GPU kernels repeat themselves bit by bit, at some cost in
            speed (it also reads and augments pictures one by one). On a CPU runs repeat anyway.
        seed: of the split, the order, the augmentation and the weights; 0 or more.

    Raises:
        ValueError: a field is outside its range. (What varies by stage: when `plan` is made.)
    """

    name: str
    epochs: int
    batch_size: int
    learning_rate: float
    progressive: Literal["paper", "official"] | None = None
    stages: int = 4
    image_size: Range | Literal["preset"] = "preset"
    randaugment_magnitude: Range | Literal["preset"] | None = "preset"
    randaugment_layers: int = 2
    autoaugment: bool | Literal["preset"] = False
    mixup_alpha: Range | Literal["preset"] = "preset"
    mixup_style: Literal["official", "paper"] = "official"
    cutmix_alpha: Range | Literal["preset"] = "preset"
    dropout_rate: Range | Literal["preset"] | None = "preset"
    drop_path_rate: float = 0.2
    crop_style: Literal["v2", "v1", "finetune", "preset"] = "v2"
    crop_area: tuple[float, float] | None = None
    horizontal_flip: bool | None = None
    scale_randaugment: bool = False
    optimizer: Literal["adam", "rmsprop", "sgd"] = "rmsprop"
    schedule: Curve = "exponential"
    warmup_epochs: float = 5.0
    weight_decay: float = 1e-5
    label_smoothing: float = 0.1
    loss: Literal["softmax", "sigmoid"] = "softmax"
    ema_decay: float | None = 0.9999
    gradient_clip: float | None = None
    evaluation_style: str = "v2"
    precision: str = "float32"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for field in fields(self):  # JSON and users write pairs as lists, too
            value = getattr(self, field.name)
            if isinstance(value, list):
                object.__setattr__(self, field.name, tuple(value))
        for name, allowed, is_valid in _RULES:
            value = getattr(self, name)
            if not is_valid(value):
                raise ValueError(f"`{name}` must be {allowed}. Received: {name}={value!r}")

    @staticmethod
    def presets() -> tuple[str, ...]:
        """Names that `preset` knows."""
        return tuple(_PRESETS)

    @staticmethod
    def preset(name: str) -> "TrainRecipe":
        """A named recipe.

        - "quickstart": small data from scratch on a laptop: Adam, 32 -> 64 pixels.
        - "finetune": a pretrained network on own pictures, one size, small constant rate.
        - "imagenet-official", "imagenet-paper": 350 epochs, batch 4096, RMSprop, exponential
          decay; the stages of the released code or of the paper's Table 6.
        - "imagenet21k": 60 epochs at 224 pixels, cosine decay, sigmoid loss.

        Raises:
            ValueError: no such preset; the message lists them.
        """
        if name not in _PRESETS:
            raise ValueError(
                f"Unknown preset. Known: {', '.join(_PRESETS)}. Received: name={name!r}"
            )
        return _PRESETS[name]

    def for_variant(self, variant: str | None) -> "TrainRecipe":
        """The recipe with what is "preset" and no range looked up: crops and AutoAugment.

        Args:
            variant: a name of `ModelConfig.variants()`; anything else counts as V2 S to XL.
        """
        # The variants without a magnitude of their own are those with AutoAugment and V1's crops.
        is_v1_style = (
            variant in ModelConfig.variants()
            and ModelConfig.from_name(variant).randaugment_magnitude is None
        )
        style = "v1" if is_v1_style else "v2"
        known: dict[str, Any] = {
            "crop_style": style,
            "evaluation_style": style,
            "autoaugment": is_v1_style,
        }
        recipe = replace(
            self,
            **{name: value for name, value in known.items() if getattr(self, name) == "preset"},
        )
        return replace(recipe, randaugment_magnitude=None) if recipe.autoaugment else recipe

    def plan(self, variant: str | None) -> StagePlan:
        """The stages of this training.

        Args:
            variant: a name of `ModelConfig.variants()`; None for any other model, which needs
                explicit ranges.

        Raises:
            ValueError: see `progressive_stages`.
        """
        known = variant if variant in ModelConfig.variants() else None
        if self.progressive is None and self.image_size == "preset":
            if known is None:
                raise ValueError(
                    "`image_size` must be given for a model that is no published variant, for "
                    "example dataclasses.replace(recipe, image_size=224)."
                )
            sizes: Any = ModelConfig.from_name(known).eval_size // 16 * 16
        else:
            sizes = self.image_size
        return progressive_stages(
            known if self.progressive else None,
            epochs=self.epochs,
            preset=self.progressive if known else None,
            stages=self.stages,
            image_size=sizes,
            randaugment_magnitude=self.randaugment_magnitude,
            mixup_alpha=self.mixup_alpha,
            cutmix_alpha=self.cutmix_alpha,
            dropout_rate=self.dropout_rate,
            batch_size=self.batch_size,
        )

    def learning_rate_schedule(self, steps_per_epoch: float) -> WarmupSchedule:
        """The schedule in optimizer steps."""
        return WarmupSchedule(
            self.learning_rate * self.batch_size / LEARNING_RATE_BATCH,
            steps_per_epoch=steps_per_epoch,
            warmup_epochs=min(self.warmup_epochs, self.epochs / 2),
            schedule=self.schedule,
            total_epochs=self.epochs,
        )

    def make_optimizer(self, steps_per_epoch: float) -> keras.optimizers.Optimizer:
        """The Keras optimizer with its schedule; biases and batch norms without weight decay."""
        options: dict[str, Any] = {
            "learning_rate": self.learning_rate_schedule(steps_per_epoch),
            "weight_decay": self.weight_decay or None,
            "global_clipnorm": self.gradient_clip,
        }
        if self.optimizer == "adam":
            optimizer = keras.optimizers.Adam(**options)
        elif self.optimizer == "sgd":
            optimizer = keras.optimizers.SGD(**options, momentum=0.9, nesterov=True)
        else:
            optimizer = keras.optimizers.RMSprop(**options, **_RMSPROP)
        optimizer.exclude_from_weight_decay(var_names=list(_NO_DECAY))
        return optimizer

    def make_loss(self) -> keras.losses.Loss:
        """The loss on probabilities, with label smoothing."""
        if self.loss == "sigmoid":
            return keras.losses.BinaryCrossentropy(label_smoothing=self.label_smoothing)
        return keras.losses.CategoricalCrossentropy(label_smoothing=self.label_smoothing)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainRecipe":
        """Reads what `to_dict` gave, also after a way through JSON.

        Raises:
            ValueError: a field is missing, unknown or outside its range.
        """
        names = {field.name for field in fields(cls)}
        if set(values) != names:
            raise ValueError(
                f"A recipe has the fields {', '.join(sorted(names))}. Missing: "
                f"{sorted(names - set(values))}, unknown: {sorted(set(values) - names)}."
            )
        return cls(**values)


# --- checks -------------------------------------------------------------------------------------


def _is_int(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_area(value: Any) -> bool:
    is_pair = isinstance(value, tuple) and len(value) == 2 and all(map(_is_number, value))
    return is_pair and 0 < value[0] <= value[1] <= 1


def _count(name: str, minimum: int) -> _Rule:
    allowed = f"an integer of at least {minimum}"
    return _Rule(name, allowed, lambda value: _is_int(value, minimum))


def _at_least_0(name: str) -> _Rule:
    allowed = "a finite number of at least 0"
    return _Rule(name, allowed, lambda value: _is_number(value) and value >= 0)


def _rate(name: str) -> _Rule:
    return _Rule(name, "a number in [0, 1)", lambda value: _is_number(value) and 0 <= value < 1)


def _choice(name: str, *choices: Any) -> _Rule:
    # By identity for True, False and None: 1 and 0 are equal to True and False.
    allowed = f"one of {', '.join(map(repr, choices))}"
    return _Rule(
        name,
        allowed,
        lambda value: any(
            value is choice or (isinstance(choice, str) and value == choice) for choice in choices
        ),
    )


# The settings that are ranges are checked by `progressive_stages`, which knows them.
_RULES = (
    _Rule("name", "a text", lambda value: isinstance(value, str)),
    _count("epochs", 1),
    _count("batch_size", 1),
    _Rule("learning_rate", "a finite number above 0", lambda v: _is_number(v) and v > 0),
    _choice("progressive", "paper", "official", None),
    _count("stages", 1),
    _count("randaugment_layers", 1),
    _rate("drop_path_rate"),
    _choice("autoaugment", True, False, "preset"),
    _choice("mixup_style", *MIXUP_STYLES),
    _choice("crop_style", *CROP_STYLES, "preset"),
    _Rule(
        "crop_area",
        "a pair of shares, 0 < smallest <= largest <= 1, or None for the style's",
        lambda value: value is None or _is_area(value),
    ),
    _choice("horizontal_flip", True, False, None),
    _choice("scale_randaugment", True, False),
    _choice("optimizer", "adam", "rmsprop", "sgd"),
    _choice("schedule", *get_args(Curve)),
    _at_least_0("warmup_epochs"),
    _at_least_0("weight_decay"),
    _rate("label_smoothing"),
    _choice("loss", "softmax", "sigmoid"),
    _Rule(
        "ema_decay",
        "a number in (0, 1), or None for off",
        lambda value: value is None or (_is_number(value) and 0 < value < 1),
    ),
    _Rule(
        "gradient_clip",
        "a finite number above 0, or None for off",
        lambda value: value is None or (_is_number(value) and value > 0),
    ),
    _choice("evaluation_style", *STYLES, "preset"),
    _choice("precision", "float32", "mixed_float16", "mixed_bfloat16"),
    _choice("deterministic", True, False),
    _count("seed", 0),
)


# --- presets ------------------------------------------------------------------------------------

_QUICKSTART = TrainRecipe(
    name="quickstart",
    epochs=20,
    batch_size=32,
    learning_rate=0.008,
    image_size=(32, 64),
    # Both off, as too much for few epochs from scratch (docs/decisions.md).
    randaugment_magnitude=None,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    dropout_rate=(0.1, 0.3),
    drop_path_rate=0.1,
    crop_area=(0.5, 1.0),
    scale_randaugment=True,
    optimizer="adam",
    schedule="cosine",
    warmup_epochs=2.0,
    weight_decay=0.0,
    label_smoothing=0.1,
    ema_decay=0.999,
    gradient_clip=1.0,
    evaluation_style="whole",
)
_FINETUNE = TrainRecipe(
    name="finetune",
    epochs=15,
    batch_size=512,
    learning_rate=0.0005,
    stages=1,
    randaugment_magnitude=None,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    dropout_rate=0.0,  # officially 1e-6, to say off
    crop_style="finetune",
    schedule="constant",
    warmup_epochs=1.0,
    ema_decay=0.9996,
    evaluation_style="finetune",
)
_IMAGENET_OFFICIAL = TrainRecipe(
    name="imagenet-official",
    epochs=350,
    batch_size=4096,
    learning_rate=0.016,
    progressive="official",
    autoaugment="preset",
    crop_style="preset",
    evaluation_style="preset",
)
_IMAGENET21K = TrainRecipe(
    name="imagenet21k",
    epochs=60,
    batch_size=4096,
    learning_rate=0.008,
    stages=1,
    image_size=224,
    randaugment_magnitude=None,
    mixup_alpha=0.0,
    cutmix_alpha=0.0,
    dropout_rate=0.0,  # officially 1e-6, to say off
    drop_path_rate=0.0,
    schedule="cosine",
    warmup_epochs=1.0,
    label_smoothing=0.0,
    loss="sigmoid",
)
_PRESETS = {
    recipe.name: recipe
    for recipe in (
        _QUICKSTART,
        _FINETUNE,
        _IMAGENET_OFFICIAL,
        replace(
            _IMAGENET_OFFICIAL, name="imagenet-paper", progressive="paper", mixup_style="paper"
        ),
        _IMAGENET21K,
    )
}
