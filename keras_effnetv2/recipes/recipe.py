"""`TrainRecipe`: every setting of a training as frozen data; presets: `presets.py`.

"rmsprop" is the official optimizer step for step, weight decay and clipping included. "adam"
and "sgd", which are not official, have decay and clipping from Keras: the decay is decoupled
(weight -= rate * decay * weight), and only the global norm of the gradients is clipped.

Importing this module starts neither Keras nor TensorFlow.
"""

import math
import os
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from keras_effnetv2._common.checks import (
    check_choice,
    from_mapping,
    make_plain,
)
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_named
from keras_effnetv2.data.class_balance import ClassWeights, check_class_balance
from keras_effnetv2.recipes.field_checks import BatchNormPolicy, check_fields
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.stages import (
    SMALL_PICTURES,
    Curve,
    DecayBy,
    FromPreset,
    Range,
    StagePlan,
    progressive_stages,
    step_of_epoch,
    steps_per_epoch,
    suitable_sizes,
)

if TYPE_CHECKING:
    import keras

    from keras_effnetv2.recipes.optimizers import VariableRate
    from keras_effnetv2.recipes.schedule import WarmupSchedule

_USUAL_STRIDES = 32
_USUAL_SIZE = 224  # pixels, of a network that is not a published variant
_LABEL_SMOOTHING = 0.1  # officially, in hparams.py


@dataclass(frozen=True)
class TrainRecipe:
    """How to train. Start from `TrainRecipe.preset(name)` and change it with `dataclasses.replace`.

    Args:
        name: name of its preset.
        epochs: passes over the training pictures; more if `min_steps` asks for them.
        batch_size: pictures per step: a number, (first stage, last stage), or "auto": in each stage
            what fits into memory (`training.batch_sizes`), with the epochs of the preset's size.
        min_steps: smallest number of optimizer steps, reached with more epochs if there are few
            pictures (`probe="only"`: with more passes in each), see `resolve`; officially 10,000
            for fine-tuning. Needs one batch size.
        max_epochs: most epochs that `min_steps` makes of few pictures; None is no limit.
        progressive: what "preset" means in a range below: "paper" or "official" (see
            `recipes.stages`); None if no range is "preset".
        stages: number of stages of progressive learning, or as many as there are epochs, if those
            are fewer; 1 is off.
        image_size: side of the pictures, pixels: a number, or (first stage, last stage); "auto":
            what suits weights and pictures (`stages.suitable_sizes`), at most seven eighths of the
            evaluation size, or all of it for `probe="only"`.
        small_pictures: give the network fewer strides if the last stage's pictures need them
            (`ModelConfig.for_small_pictures`); "auto": if a variant is given by its name and starts
            from random weights, the size is "auto", and most pictures have 40 pixels or fewer.
        randaugment_magnitude: number, range, or None for off.
        randaugment_layers: operations applied to each picture.
        autoaugment: apply AutoAugment's policy v0 instead of RandAugment; "preset": for the
            variants that were trained with it (V2 B0-B3, V1).
        mixup_alpha: number or range; 0 is off.
        mixup_style: "official" (a picture keeps at least one half) or "paper".
        cutmix_alpha: number or range; 0 is off.
        cutmix_style: "official" (one share for all labels of a batch) or "paper".
        class_weights: "balanced", {class name: weight}, or None, see `data.pipeline.make_dataset`.
        balanced: draw every class equally often, see `data.pipeline.make_dataset`. Where features
            are computed once (`probe`), pictures get weights to the same effect.
        dropout_rate: before the classifier: number, range, or None for the variant's.
        drop_path_rate: stochastic depth of the last block.
        crop_style: "v2", "v1" or "finetune", see `training_crop.decode_random_crop`; "preset": what
            the variant was trained with.
        crop_area: smallest and largest share of a picture that a random crop covers; None is that
            of the style.
        reduced_decode: average pixels if a crop is larger than the result, see
            `training_crop.decode_random_crop`; "preset": if evaluation ("whole") averages, too.
        horizontal_flip: mirror half of the pictures; None leaves it to the source.
        scale_randaugment: see `data.pipeline.make_dataset`.
        optimizer: "rmsprop" (the official one: decay and momentum 0.9, epsilon 0.001), "adam" or
            "sgd" (Nesterov momentum 0.9).
        learning_rate: highest rate for a batch of 256; it scales with the batch size of each
            stage.
        schedule: "cosine", "exponential" (times 0.97 every 2.4 epochs), "linear" or "constant".
        decay_by: how far an epoch moves along the schedule: each the same ("epochs"), or in
            proportion to the "pixels" of its pictures, so that stages with large ones still learn.
        warmup_epochs: linear warm-up of the rate, at most half of the epochs.
        probe: fit the classifier to features that are computed once: "first", before the training,
            or "only", instead of it (a linear probe); None is off.
        head_warmup_epochs: epochs in which only the classifier learns, so its first gradients do
            not disturb pretrained weights.
        unfreeze_epochs: epochs after these in which the blocks start to learn one after another,
            the last block first and the stem at the end. 0: all at once.
        layer_decay: in (0, 1]: factor of the rate from each block to the one before it, counted
            from the classifier (see `optimizers.variable_depths`); 1 is off.
        batch_norm: "train", "freeze" (mean, variance, scale and offset stay), or "auto": frozen
            when weights are loaded and the batch is below 32.
        frozen_share: share of the network, 0..1, that stays as its pretrained weights are, counted
            in blocks from the input (`transfer.freeze_first_blocks`); 0 is off.
        weight_decay: decay of the kernels; biases and batch norms have none.
        label_smoothing: in [0, 1). "auto": 0.1; 0 for pictures that may have several classes
            (multi-label).
        loss: "softmax" or "sigmoid" cross entropy. "auto": sigmoid for pictures that may have
            several classes (multi-label), else softmax.
        ema_decay: decay of the averaged weights, which are evaluated and kept; None is off.
        gradient_clip: largest global norm of the gradients ("rmsprop": first also of each single
            one, as officially); None is off.
        evaluation_size: side of the pictures in evaluation and serving, at least 8 pixels; None:
            that of the last stage, or with `image_size="auto"` and pretrained weights what suits
            them, at most the variant's evaluation size.
        evaluation_style: how evaluation and serving crop and resize, a name of
            `images.styles.EVALUATION_STYLES`; "preset": the style that fits the variant's training.
        precision: Keras dtype policy of a model that is built here.
        deterministic: make TensorFlow's GPU kernels repeat results bit by bit. This is slower (it
            also reads and augments pictures one by one). On a CPU runs repeat anyway.
        seed: seed of the split, the order, the augmentation and the weights; 0 or more.

    Raises:
        ValueError: a field is outside its range. (Settings by stage are checked in `resolve`.)
    """

    name: str
    epochs: int
    batch_size: int | tuple[int, int] | Literal["auto"]
    learning_rate: float
    min_steps: int = 0
    max_epochs: int | None = None
    progressive: Literal["paper", "official"] | None = None
    stages: int = 4
    image_size: Range | FromPreset | Literal["auto"] = "preset"
    small_pictures: bool | Literal["auto"] = False
    randaugment_magnitude: Range | FromPreset | None = "preset"
    randaugment_layers: int = 2
    autoaugment: bool | FromPreset = False
    mixup_alpha: Range | FromPreset = "preset"
    mixup_style: Literal["official", "paper"] = "official"
    cutmix_alpha: Range | FromPreset = "preset"
    cutmix_style: Literal["official", "paper"] = "official"
    class_weights: ClassWeights = None
    balanced: bool = False
    dropout_rate: Range | FromPreset | None = "preset"
    drop_path_rate: float = 0.2
    crop_style: Literal["v2", "v1", "finetune", "preset"] = "v2"
    crop_area: tuple[float, float] | None = None
    reduced_decode: bool | FromPreset = "preset"
    horizontal_flip: bool | None = None
    scale_randaugment: bool | Literal["auto"] = "auto"
    optimizer: Literal["adam", "rmsprop", "sgd"] = "rmsprop"
    schedule: Curve = "exponential"
    decay_by: DecayBy = "epochs"
    warmup_epochs: float = 5.0
    probe: Literal["first", "only"] | None = None
    head_warmup_epochs: float = 0.0
    unfreeze_epochs: float = 0.0
    layer_decay: float = 1.0
    batch_norm: BatchNormPolicy = "auto"
    frozen_share: float = 0.0
    weight_decay: float = 1e-5
    label_smoothing: float | Literal["auto"] = "auto"
    loss: Literal["auto", "softmax", "sigmoid"] = "auto"
    ema_decay: float | None = 0.9999
    gradient_clip: float | None = None
    evaluation_size: int | None = None
    evaluation_style: str = "v2"
    precision: Literal["float32", "mixed_float16", "mixed_bfloat16"] = "float32"
    deterministic: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        make_plain(self)  # JSON and users write pairs as lists, too
        check_fields(self)
        weights = check_class_balance(self.class_weights, self.balanced)
        object.__setattr__(self, "class_weights", weights)

    @staticmethod
    def preset(name: str) -> "TrainRecipe":
        """Return a named recipe.

        - "quickstart": small data from scratch on a laptop: Adam, at most 160 pixels.
        - "finetune": a pretrained network on your own pictures, on a laptop: the classifier first,
          frozen batch norms, Adam, three stages of growing pictures and augmentation.
        - "probe": a linear probe: only the classifier learns, on features of pretrained weights.
        - "finetune-official": as in the released code for CIFAR-10/100, Cars, Flowers and ImageNet:
          batch 512, constant rate, at least 10,000 steps.
        - "finetune-paper": the same with the numbers of the paper's section 5.3:
          rate 0.001 with cosine decay, 10,000 steps (rounded up to epochs), no weight decay.
        - "imagenet-official", "imagenet-paper": 350 epochs, batch 4096, RMSprop, exponential
          decay; the stages of the released code or of the paper's Table 6.
        - "imagenet21k": 60 epochs at 224 pixels, cosine decay, sigmoid loss.
        - "search": 10 epochs at 64 pixels, to compare networks in `run_search`.

        Raises:
            ValueError: no such preset; the message lists them.
        """
        check_choice("name", name, PRESETS)
        return TrainRecipe.from_dict({"name": name, **PRESETS[name]})

    @staticmethod
    def from_file(path: str | os.PathLike[str], preset: str = "finetune") -> "TrainRecipe":
        """Return the recipe of a file, see `recipe_file.recipe_from_file`."""
        from keras_effnetv2.recipes.recipe_file import recipe_from_file

        return recipe_from_file(path, preset)

    def resolve(
        self,
        variant: str | None = None,
        num_examples: int | None = None,
        *,
        picture_side: int | None = None,
        is_pretrained: bool = False,
        strides: int | None = None,
        multi_label: bool = False,
    ) -> "ResolvedRecipe":
        """Return the recipe and the stages of a training, with values in place of "preset".

        Ranges stay "preset" in the recipe; the stages hold their values.

        Args:
            variant: a name for `ModelConfig.from_name`. Anything else counts as V2 S to XL, and
                needs an explicit `image_size`.
            num_examples: number of training pictures, to turn `min_steps` into `epochs` if that is
                longer. None leaves both as they are.
            picture_side: typical side of the pictures, pixels, for the size "auto"; None is large.
            is_pretrained: whether the network starts from trained weights, for the size "auto".
            strides: of the network's layers together, for the size "auto"; None is those of the
                variant, which may get fewer (`small_pictures`).
            multi_label: whether a picture may have several classes, for "auto" as loss and label
                smoothing.

        Raises:
            ValueError: see `progressive_stages`; or the loss cannot be "softmax".
        """
        name = variant_named(variant)
        config = None if name is None else ModelConfig.from_name(name)
        # The variants without a magnitude of their own are those with AutoAugment and V1's crops.
        is_v1_style = config is not None and config.randaugment_magnitude is None
        known = {
            **dict.fromkeys(("crop_style", "evaluation_style"), "v1" if is_v1_style else "v2"),
            "autoaugment": is_v1_style,
            "reduced_decode": self.evaluation_style == "whole",
        }
        changes = self._loss_and_smoothing(multi_label) | {
            name: value for name, value in known.items() if getattr(self, name) == "preset"
        }
        if changes.get("autoaugment", self.autoaugment):
            changes["randaugment_magnitude"] = None
        if self.min_steps and num_examples and self.probe != "only":
            changes |= {"epochs": self._epochs_for(num_examples), "min_steps": 0}
        # Fewer epochs than stages: with fewer stages the first and the last keep their values.
        changes["stages"] = min(self.stages, changes.get("epochs", self.epochs))
        size, is_small = self.image_size, (picture_side or math.inf) <= SMALL_PICTURES
        if self.small_pictures == "auto":
            is_fitted = is_small and not is_pretrained and strides is None and config is not None
            changes["small_pictures"] = is_fitted and size == "auto"
        if config is not None and changes.get("small_pictures", self.small_pictures):
            strides = config.for_small_pictures().strides
        if size == "auto":
            largest = _USUAL_SIZE if config is None else config.eval_size
            largest = min(largest, self.evaluation_size or largest)
            suited = partial(
                suitable_sizes,
                picture_side=picture_side,
                is_pretrained=is_pretrained,
                strides=strides or _USUAL_STRIDES,
            )
            size, evaluated = suited(largest), suited(largest)[1]
            if self.probe != "only":
                size = suited(largest * 7 // 8)  # random crops show things larger than evaluation
            if self.evaluation_size is None and size[1] != evaluated:
                changes["evaluation_size"] = evaluated
            changes["image_size"] = size
        recipe = replace(self, **changes)
        if size == "preset" and config is None:
            raise ValueError(
                "`image_size` must be given for a model that is not a published variant, for "
                "example --image-size 224, dataclasses.replace(recipe, image_size=224)."
            )
        if size == "preset" and config is not None and self.progressive is None:
            size = config.eval_size // 16 * 16
        preset = None if config is None else self.progressive
        varying = ("randaugment_magnitude", "mixup_alpha", "cutmix_alpha", "dropout_rate")
        plan = progressive_stages(
            config.name if config is not None and preset else None,
            epochs=recipe.epochs,
            preset=preset,
            stages=recipe.stages,
            image_size=size,
            batch_size=self._batch_size,
            **{name: getattr(recipe, name) for name in varying},
        )
        return ResolvedRecipe(recipe, plan)

    def _epochs_for(self, num_examples: int) -> int:
        """Return the epochs that make `min_steps`, or as many as are allowed."""
        needed = math.ceil(self.min_steps / steps_per_epoch(num_examples, self._batch_size))
        return max(self.epochs, min(needed, self.max_epochs or needed))

    def _loss_and_smoothing(self, multi_label: bool) -> dict[str, Any]:
        if multi_label and self.loss == "softmax":
            raise ValueError(
                "A softmax gives each picture one class, and these may have several or none "
                "(multi-label). Set the loss of the recipe to 'auto' or 'sigmoid', or take each "
                "label as one class (--no-multi-label, multi_label=False)."
            )
        loss: str = self.loss
        if loss == "auto":
            loss = "sigmoid" if multi_label else "softmax"
        smoothing = self.label_smoothing
        if smoothing == "auto":
            smoothing = 0.0 if multi_label else _LABEL_SMOOTHING
        return {"loss": loss, "label_smoothing": smoothing}

    @property
    def _batch_size(self) -> Any:  # in place of "auto" that of the preset
        is_auto = self.batch_size == "auto"
        return PRESETS.get(self.name, {}).get("batch_size", 64) if is_auto else self.batch_size

    def learning_rate_schedule(self, steps_per_epoch: float) -> "WarmupSchedule":
        """Return the schedule in optimizer steps of the first stage, for its batch size."""
        from keras_effnetv2.recipes.schedule import WarmupSchedule

        batch_size = self._batch_size
        if isinstance(batch_size, tuple):
            batch_size = batch_size[0 if self.stages > 1 else 1]  # a single stage has the last
        return WarmupSchedule(
            self.learning_rate * batch_size / 256,
            steps_per_epoch=steps_per_epoch,
            # A short run warms up for half of it at most.
            warmup_epochs=min(self.warmup_epochs, self.epochs / 2),
            schedule=self.schedule,
            total_epochs=self.epochs,
        )

    def make_optimizer(
        self, plan: StagePlan, num_examples: int, model: "keras.Model"
    ) -> "keras.optimizers.Optimizer":
        """Return the optimizer with its schedule, weight decay and a rate for every variable.

        Args:
            plan: the stages, as `resolve` gives them, or the same with fewer epochs.
            num_examples: training pictures of an epoch.
            model: the model to train, with its layers already frozen if wanted.

        Raises:
            ValueError: the recipe has rates by depth, but the model's variables have no depths, see
                `optimizers.variable_depths`.
        """
        from keras_effnetv2.recipes.optimizers import SGD, Adam, RMSprop
        from keras_effnetv2.recipes.schedule import follow_plan

        batch_size = plan[0].batch_size
        planned = replace(self, epochs=plan.epochs, stages=len(plan), batch_size=batch_size)
        curve = planned.learning_rate_schedule(steps_per_epoch(num_examples, batch_size))
        schedule = follow_plan(curve, plan, num_examples, self.decay_by)
        decay, clip = self.weight_decay or None, self.gradient_clip
        keras_options: dict[str, Any] = {"weight_decay": decay, "global_clipnorm": clip}
        optimizer: Adam | SGD | RMSprop
        if self.optimizer == "adam":
            optimizer = Adam(schedule, **keras_options)
        elif self.optimizer == "sgd":
            optimizer = SGD(schedule, momentum=0.9, nesterov=True, **keras_options)
        else:
            optimizer = RMSprop(schedule, weight_decay=decay, clipnorm=clip)
        optimizer.set_variable_rates(self._variable_rates(plan, num_examples, model))
        return optimizer

    def _variable_rates(
        self, plan: StagePlan, num_examples: int, model: "keras.Model"
    ) -> "tuple[VariableRate, ...]":
        """The rates of `model.trainable_variables`; empty if all have the same."""
        from keras_effnetv2.recipes.optimizers import variable_depths, variable_rates

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

    def make_loss(self) -> "keras.losses.Loss":
        """Return the loss on probabilities, averaged over the pictures, without label smoothing.

        "sigmoid" is averaged over the classes, too. A sum over the classes is what the official
        code (main.py) calls "custom".
        """
        import keras

        if self.loss == "sigmoid":
            return keras.losses.BinaryCrossentropy()
        return keras.losses.CategoricalCrossentropy()

    def smooth_labels(self, labels: Any) -> Any:
        """Return labels (N, classes) as training has them, in place of smoothing in the loss.

        So the loss of validation, whose labels are not smoothed, is that of the final evaluation.
        "softmax": labels * (1 - s) + s / classes. "sigmoid": labels * (1 - s) + s / 2. Both as the
        official code has it (main.py, `tf.losses.softmax_cross_entropy` and
        `sigmoid_cross_entropy`).
        """
        smoothing = _LABEL_SMOOTHING if self.label_smoothing == "auto" else self.label_smoothing
        share = 2 if self.loss == "sigmoid" else labels.shape[-1]
        return labels * (1 - smoothing) + smoothing / share

    def to_dict(self) -> dict[str, Any]:
        """Return plain data for JSON, the inverse of `from_dict`."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "TrainRecipe":
        """Read the result of `to_dict`, also from JSON.

        A missing field gets its default.

        Raises:
            ValueError: a field is unknown or outside its range, or a field without default is
                missing.
        """
        return from_mapping(cls, "A recipe", values)


class ResolvedRecipe(NamedTuple):
    """A recipe in which only ranges are "preset", and the stages made from them."""

    recipe: TrainRecipe
    plan: StagePlan
