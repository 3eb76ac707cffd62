"""`TrainRecipe`: every setting of a training as frozen data; presets: `recipe_presets.py`.

"rmsprop" is the official optimizer step for step, weight decay and clipping included. With "adam"
and "sgd", which officially are not used, both are Keras' own: the decay is decoupled (weight -=
rate * decay * weight), and only the global norm of the gradients is clipped.
"""

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, fields, replace
from typing import Any, Literal, NamedTuple, get_args

import keras

from keras_effnetv2.architectures.config import ModelConfig, is_number
from keras_effnetv2.augment.mixing import MIXUP_STYLES
from keras_effnetv2.images.evaluation_crop import STYLES
from keras_effnetv2.images.training_crop import CROP_STYLES
from keras_effnetv2.recipes.optimizers import (
    SGD,
    Adam,
    RMSprop,
    VariableRate,
    variable_depths,
    variable_rates,
)
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.schedule import (
    Curve,
    WarmupSchedule,
    follow_plan,
    step_of_epoch,
    steps_per_epoch,
)
from keras_effnetv2.recipes.stages import Range, StagePlan, progressive_stages

BatchNormPolicy = Literal["auto", "train", "freeze"]
"""Whether batch norms are trained; "auto" is the rule of `transfer.resolve_batch_norm`."""

LEARNING_RATE_BATCH = 256  # the batch size that `learning_rate` is given for


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
        batch_size: pictures a step: a number, or (first stage, last stage).
        min_steps: optimizer steps to train at least, with more epochs where the pictures are few,
            see `for_data`; officially 10,000 for fine-tuning. Needs one batch size.
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
        reduced_decode: average what a crop is larger than its picture, see
            `random_crop.decode_random_crop`; "preset": where evaluation ("whole") averages, too.
        horizontal_flip: mirror half of the pictures; None leaves it to the source.
        scale_randaugment: see `data.pipeline.make_dataset`.
        optimizer: "rmsprop" (the official one: decay and momentum 0.9, epsilon 0.001), "adam" or
            "sgd" (Nesterov momentum 0.9).
        learning_rate: highest rate for a batch of 256; it is scaled with the batch size, stage by
            stage.
        schedule: "cosine", "exponential" (times 0.97 every 2.4 epochs), "linear" or "constant".
        warmup_epochs: linear warm-up of the rate.
        head_warmup_epochs: epochs in which only the classifier learns, so that its first gradients
            do not disturb pretrained weights.
        unfreeze_epochs: epochs after these over which the blocks start to learn one after another,
            last first, the stem at the end. 0: all at once.
        layer_decay: in (0, 1]: factor of the rate from each block to the one before it, counted
            from the classifier (see `optimizers.variable_depths`); 1 is off.
        batch_norm: "train", "freeze" (mean, variance, scale and offset stay), or "auto": frozen
            when weights are loaded and the batch is below 32.
        weight_decay: of the kernels; biases and batch norms have none.
        label_smoothing: in [0, 1).
        loss: "softmax" or "sigmoid" cross entropy.
        ema_decay: decay of the weights' average that is evaluated and kept; None is off.
        gradient_clip: largest global norm of the gradients ("rmsprop": and of each one before, as
            officially); None is off.
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
    batch_size: int | tuple[int, int]
    learning_rate: float
    min_steps: int = 0
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
    reduced_decode: bool | Literal["preset"] = "preset"
    horizontal_flip: bool | None = None
    scale_randaugment: bool = False
    optimizer: Literal["adam", "rmsprop", "sgd"] = "rmsprop"
    schedule: Curve = "exponential"
    warmup_epochs: float = 5.0
    head_warmup_epochs: float = 0.0
    unfreeze_epochs: float = 0.0
    layer_decay: float = 1.0
    batch_norm: BatchNormPolicy = "auto"
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
        if self.min_steps and isinstance(self.batch_size, tuple):
            raise ValueError(
                "`min_steps` needs one batch size, for its epochs to be counted; set min_steps=0 "
                f"or one number. Received: min_steps={self.min_steps}, batch_size="
                f"{self.batch_size}"
            )

    @staticmethod
    def presets() -> tuple[str, ...]:
        """Names that `preset` knows."""
        return tuple(PRESETS)

    @staticmethod
    def preset(name: str) -> "TrainRecipe":
        """A named recipe.

        - "quickstart": small data from scratch on a laptop: Adam, 32 -> 64 pixels.
        - "finetune": a pretrained network on own pictures, on a laptop: batch 32, mild random
          crops, an epoch for the classifier alone, cosine decay.
        - "finetune-official": the released code's for CIFAR-10/100, Cars, Flowers and ImageNet:
          batch 512, constant rate, at least 10,000 steps.
        - "finetune-paper": those of the paper's section 5.3: batch 512, rate 0.001 with cosine
          decay, 10,000 steps (up to whole epochs), no weight decay. It says nothing of picture
          size, warm-up, average, label smoothing, dropout and stochastic depth, which are the
          released code's here; its "simple cutout" has no size either and is left out.
        - "imagenet-official", "imagenet-paper": 350 epochs, batch 4096, RMSprop, exponential
          decay; the stages of the released code or of the paper's Table 6.
        - "imagenet21k": 60 epochs at 224 pixels, cosine decay, sigmoid loss.
        - "search": 10 epochs at 64 pixels, to compare networks in `run_search`.

        Raises:
            ValueError: no such preset; the message lists them.
        """
        if name not in PRESETS:
            raise ValueError(
                f"Unknown preset. Known: {', '.join(PRESETS)}. Received: name={name!r}"
            )
        return TrainRecipe.from_dict({"name": name, **PRESETS[name]})

    def for_variant(self, variant: str | None) -> "TrainRecipe":
        """The recipe with what is "preset" and no range looked up: crops, decode, AutoAugment.

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
        if recipe.reduced_decode == "preset":
            recipe = replace(recipe, reduced_decode=recipe.evaluation_style == "whole")
        return replace(recipe, randaugment_magnitude=None) if recipe.autoaugment else recipe

    def for_data(self, num_examples: int) -> "TrainRecipe":
        """The recipe with `min_steps` turned into `epochs`, whichever of the two is longer.

        Args:
            num_examples: training pictures.
        """
        if isinstance(self.batch_size, tuple) or not self.min_steps:
            return self
        needed = math.ceil(self.min_steps / steps_per_epoch(num_examples, self.batch_size))
        return replace(self, epochs=max(self.epochs, needed), min_steps=0)

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
                    "example dataclasses.replace(recipe, image_size=224) or --image-size 224."
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
        """The schedule in optimizer steps of the first stage, for its batch size."""
        batch_size = self.batch_size
        if isinstance(batch_size, tuple):
            batch_size = batch_size[0 if self.stages > 1 else 1]  # a single stage has the last
        return WarmupSchedule(
            self.learning_rate * batch_size / LEARNING_RATE_BATCH,
            steps_per_epoch=steps_per_epoch,
            # A short run warms up for half of it at most.
            warmup_epochs=min(self.warmup_epochs, self.epochs / 2),
            schedule=self.schedule,
            total_epochs=self.epochs,
        )

    def make_optimizer(
        self, plan: StagePlan, num_examples: int, model: keras.Model
    ) -> keras.optimizers.Optimizer:
        """The optimizer with its schedule, weight decay and a learning rate for every variable.

        Args:
            plan: the stages, as `plan` gives them.
            num_examples: training pictures.
            model: what is to be trained. Layers that are to be frozen must be so already.

        Raises:
            ValueError: rates by depth are asked for, and the model's variables have none, see
                `optimizers.variable_depths`.
        """
        steps = steps_per_epoch(num_examples, plan[0].batch_size)
        schedule = follow_plan(self.learning_rate_schedule(steps), plan, num_examples)
        decay = self.weight_decay or None
        optimizer: Adam | SGD | RMSprop
        if self.optimizer == "adam":
            optimizer = Adam(schedule, weight_decay=decay, global_clipnorm=self.gradient_clip)
        elif self.optimizer == "sgd":
            optimizer = SGD(
                schedule,
                momentum=0.9,
                nesterov=True,
                weight_decay=decay,
                global_clipnorm=self.gradient_clip,
            )
        else:
            optimizer = RMSprop(schedule, weight_decay=decay, clipnorm=self.gradient_clip)
        optimizer.set_variable_rates(self._variable_rates(plan, num_examples, model))
        return optimizer

    def _variable_rates(
        self, plan: StagePlan, num_examples: int, model: keras.Model
    ) -> tuple[VariableRate, ...]:
        """A rate for each of `model.trainable_variables`; none if all have the same."""
        waiting = self.head_warmup_epochs + self.unfreeze_epochs
        if not waiting and self.layer_decay == 1:
            return ()
        # A short run lets the network wait for half of it at most.
        share = min(1.0, plan.epochs / 2 / waiting) if waiting else 1.0
        head = step_of_epoch(plan, num_examples, share * self.head_warmup_epochs)
        return variable_rates(
            variable_depths(model),
            layer_decay=self.layer_decay,
            head_warmup_steps=head,
            unfreeze_steps=step_of_epoch(plan, num_examples, share * waiting) - head,
        )

    def make_loss(self) -> keras.losses.Loss:
        """The loss on probabilities, with label smoothing, averaged over the pictures.

        "softmax": the targets are labels * (1 - s) + s / classes. "sigmoid": they are
        labels * (1 - s) + s / 2, and the loss is averaged over the classes, too; both as the
        official code has it (main.py, `tf.losses.softmax_cross_entropy` and
        `sigmoid_cross_entropy`). A sum over the classes is what it calls "custom".
        """
        if self.loss == "sigmoid":
            return keras.losses.BinaryCrossentropy(label_smoothing=self.label_smoothing)
        return keras.losses.CategoricalCrossentropy(label_smoothing=self.label_smoothing)

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainRecipe":
        """Reads what `to_dict` gave, also after a way through JSON.

        A field that is missing gets its default, so that recipes of older versions can be read.

        Raises:
            ValueError: a field is unknown, outside its range, or missing and without default.
        """
        needed = {field.name for field in fields(cls) if field.default is MISSING}
        known = {field.name for field in fields(cls)}
        if not needed <= set(values) <= known:
            raise ValueError(
                f"A recipe has the fields {', '.join(sorted(known))}. Missing: "
                f"{sorted(needed - set(values))}, unknown: {sorted(set(values) - known)}."
            )
        return cls(**values)


# --- checks -------------------------------------------------------------------------------------


def _is_int(value: Any, minimum: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= minimum


def _is_pair(value: Any) -> bool:
    return isinstance(value, tuple) and len(value) == 2


def _is_area(value: Any) -> bool:
    return _is_pair(value) and all(map(is_number, value)) and 0 < value[0] <= value[1] <= 1


def _count(name: str, minimum: int) -> _Rule:
    allowed = f"an integer of at least {minimum}"
    return _Rule(name, allowed, lambda value: _is_int(value, minimum))


def _at_least_0(name: str) -> _Rule:
    allowed = "a finite number of at least 0"
    return _Rule(name, allowed, lambda value: is_number(value) and value >= 0)


def _rate(name: str) -> _Rule:
    return _Rule(name, "a number in [0, 1)", lambda value: is_number(value) and 0 <= value < 1)


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
    _Rule(
        "batch_size",
        "an integer of at least 1, or a pair of them (first stage, last stage)",
        lambda value: all(_is_int(size, 1) for size in (value if _is_pair(value) else (value,))),
    ),
    _count("min_steps", 0),
    _Rule("learning_rate", "a finite number above 0", lambda v: is_number(v) and v > 0),
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
    _choice("reduced_decode", True, False, "preset"),
    _choice("horizontal_flip", True, False, None),
    _choice("scale_randaugment", True, False),
    _choice("optimizer", "adam", "rmsprop", "sgd"),
    _choice("schedule", *get_args(Curve)),
    _at_least_0("warmup_epochs"),
    _at_least_0("head_warmup_epochs"),
    _at_least_0("unfreeze_epochs"),
    _Rule("layer_decay", "a number in (0, 1]", lambda v: is_number(v) and 0 < v <= 1),
    _choice("batch_norm", "auto", "train", "freeze"),
    _at_least_0("weight_decay"),
    _rate("label_smoothing"),
    _choice("loss", "softmax", "sigmoid"),
    _Rule(
        "ema_decay",
        "a number in (0, 1), or None for off",
        lambda value: value is None or (is_number(value) and 0 < value < 1),
    ),
    _Rule(
        "gradient_clip",
        "a finite number above 0, or None for off",
        lambda value: value is None or (is_number(value) and value > 0),
    ),
    _choice("evaluation_style", *STYLES, "preset"),
    _choice("precision", "float32", "mixed_float16", "mixed_bfloat16"),
    _choice("deterministic", True, False),
    _count("seed", 0),
)
