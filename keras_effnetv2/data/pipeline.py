"""Wiring of the input pipeline: source -> decode and crop -> flip -> augment -> batch -> mix.

What happens to a picture is a pure function of (seed, epoch, its index in the source), and of how
often it has come before in an epoch of balanced draws. So a resumed training sees the same pictures
as an uninterrupted one, with any number of worker threads.

Memory: a batch of B pictures of side S takes 12 B S^2 bytes (float32), and there are at most 15:
one in use, two waiting, two while the next is filled, five for each of two being mixed. Each core
adds a decoded picture and its crop (3 bytes a pixel), ten pictures of 12 S^2 bytes and the freed
memory that malloc keeps (64 MiB). The source needs its labels and paths, or 320 MiB of records, or
all pictures if they are cached in memory.
`benchmarks/pipeline.py --memory` compares this with what is measured.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer, check_number
from keras_effnetv2.augment.autoaugment import AutoAugment
from keras_effnetv2.augment.mixing import mix_batch
from keras_effnetv2.augment.operations import to_uint8
from keras_effnetv2.augment.randaugment import RandAugment
from keras_effnetv2.data.catalog import Shard
from keras_effnetv2.data.class_balance import (
    ClassWeights,
    check_class_balance,
    check_one_class,
    weights_by_class,
)
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import UnreadablePictures, batch_readable
from keras_effnetv2.images.decode import WHITE, Colour, rgb
from keras_effnetv2.images.evaluation_crop import decode_for_evaluation
from keras_effnetv2.images.styles import CUTMIX_STYLES, MIXUP_STYLES, Style
from keras_effnetv2.images.training_crop import crop_area, decode_random_crop

SCALE_RANDAUGMENT = (True, False, "auto")
RANDAUGMENT_REFERENCE_SIZE = 224  # side for which the official pixel arguments were chosen
_PREFETCH = 2  # batches: one is not enough where batches take turns at taking long
_MIXED_AT_ONCE = 2  # batches
# One stream of random numbers for each use; a stream's number enters its seed.
_CROP, _FLIP, _AUGMENT, _MIX = range(4)


@dataclass(frozen=True)
class InputSpec:
    """The steps of a picture on its way into a batch.

    The fields are arguments of `make_dataset`, which explains them; its `style` is
    `evaluation_style` here. A value out of range is a ValueError.
    """

    image_size: int
    crop_style: str = "v2"
    crop_area: tuple[float, float] | None = None
    reduced_decode: bool = True
    horizontal_flip: bool | None = None
    randaugment_magnitude: float | None = None
    randaugment_layers: int = 2
    randaugment_corrected: bool = False
    scale_randaugment: bool | Literal["auto"] = "auto"
    autoaugment: bool = False
    mixup_alpha: float = 0.0
    cutmix_alpha: float = 0.0
    mixup_style: str = "official"
    cutmix_style: str = "official"
    class_weights: ClassWeights = None
    balanced: bool = False
    evaluation_style: Style = "whole"
    exif: bool = True
    background: Colour = WHITE

    def __post_init__(self) -> None:
        check_integer("image_size", self.image_size, minimum=1)
        crop_area(self.crop_style, self.crop_area)  # raises
        rgb(self.background)  # raises
        check_number("mixup_alpha", self.mixup_alpha, minimum=0)
        check_number("cutmix_alpha", self.cutmix_alpha, minimum=0)
        check_choice("mixup_style", self.mixup_style, MIXUP_STYLES)
        check_choice("cutmix_style", self.cutmix_style, CUTMIX_STYLES)
        check_class_balance(self.class_weights, self.balanced)  # raises
        check_choice("scale_randaugment", self.scale_randaugment, SCALE_RANDAUGMENT)
        if self.autoaugment and self.randaugment_magnitude is not None:
            raise ValueError(
                "RandAugment and AutoAugment do not go together. Turn RandAugment off "
                "(--randaugment-magnitude off, randaugment_magnitude=None). Received: "
                f"autoaugment=True and randaugment_magnitude={self.randaugment_magnitude!r}"
            )
        self.augmentation()  # raises

    @property
    def reference_size(self) -> int | None:
        """Side that the arguments in pixels are scaled from; None: they are not scaled."""
        is_small = self.image_size < RANDAUGMENT_REFERENCE_SIZE
        scale = is_small if self.scale_randaugment == "auto" else self.scale_randaugment
        return RANDAUGMENT_REFERENCE_SIZE if scale else None

    def augmentation(self) -> Callable[[Any, Any], Any] | None:
        """Return the function of (image uint8, seed) that augments; None without augmentation."""
        if self.autoaugment:
            return AutoAugment(reference_size=self.reference_size)
        if self.randaugment_magnitude is None:
            return None
        return RandAugment(
            self.randaugment_layers,
            self.randaugment_magnitude,
            reference_size=self.reference_size,
            corrected=self.randaugment_corrected,
        )

    def dataset(
        self,
        source: ImageSource,
        *,
        batch_size: int,
        training: bool,
        seed: int = 0,
        epoch: int = 0,
        shard: Shard = None,
        unreadable: UnreadablePictures | None = None,
        epochs: int = 1,
        augmented: bool = True,
    ) -> tf.data.Dataset:
        """Return the same as `make_dataset`, with its arguments and errors.

        Training pictures that are not `augmented` are those of evaluation, in the order of `epoch`.
        With several `epochs` the batches of those that follow `epoch` come after its own, each the
        same as alone. One pipeline reads them all, which takes a tenth of the time of a new one.
        """
        check_integer("batch_size", batch_size, minimum=1)
        check_one_class(source, self.class_weights, self.balanced)
        policy = UnreadablePictures() if unreadable is None else unreadable
        order_of_epoch = functools.partial(
            source.order, shuffle=training, seed=seed, shard=shard, balanced=self.balanced
        )
        order = order_of_epoch(epoch=epoch)
        if not training or not augmented:
            return self._evaluation_batches(source, order, batch_size, policy)
        count, batch_size = len(order), min(batch_size, len(order))
        flip = source.horizontal_flip if self.horizontal_flip is None else self.horizontal_flip
        # Without what is done to whole batches: stages that differ in it share the trace.
        alone: Any = {"mixup_alpha": 0.0, "cutmix_alpha": 0.0, "class_weights": None}
        picture = replace(self, horizontal_flip=flip, balanced=False, **alone)
        train_one = _training_function(picture, len(source.class_names))
        weights = None
        if self.class_weights is not None:
            weights = weights_by_class(self.class_weights, source)

        def order_of(number: np.int64) -> np.ndarray:
            if number > epoch and policy.error is not None:
                return np.zeros(0, np.int64)  # nobody reads on after an error
            return order_of_epoch(epoch=int(number))

        def read(number: Any) -> tf.data.Dataset:
            run = tf.constant(seed, tf.int64), number
            order = tf.ensure_shape(tf.numpy_function(order_of, [number], tf.int64), [None])
            pictures = source.in_order(order, lambda *example: train_one(*example, *run))
            batches = batch_readable(
                pictures, source, order, count, batch_size, policy, training=True
            )

            def mix(number: Any, batch: tuple[Any, Any]) -> tuple[Any, ...]:
                images, labels = batch
                mixed = mix_batch(
                    tf.cast(images, tf.float32),
                    labels,
                    mixup_alpha=self.mixup_alpha,
                    cutmix_alpha=self.cutmix_alpha,
                    seed=_seed(*run, number, _MIX),
                    mixup_style=self.mixup_style,
                    cutmix_style=self.cutmix_style,
                )
                if weights is None:
                    return mixed
                # Of a mixed label too: the mean of the weights in the shares of the classes.
                return *mixed, tf.linalg.matvec(mixed[1], weights)

            return batches.enumerate().map(
                mix, num_parallel_calls=_MIXED_AT_ONCE, deterministic=True
            )

        batches = tf.data.Dataset.range(epoch, epoch + epochs).flat_map(read)
        total = tf.data.experimental.assert_cardinality(count // batch_size * epochs)
        return _untuned(batches.apply(total).prefetch(_PREFETCH))

    def _evaluation_batches(
        self, source: ImageSource, order: np.ndarray, batch_size: int, policy: UnreadablePictures
    ) -> tf.data.Dataset:
        function = _evaluation_function(
            self.image_size,
            self.evaluation_style,
            self.exif,
            self.background,
            len(source.class_names),
        )
        pictures = source.in_order(order, function)
        batches = batch_readable(
            pictures, source, order, len(order), batch_size, policy, training=False
        )
        return _untuned(batches.prefetch(_PREFETCH))


def _untuned(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset without the thread that tunes it, for which every number is given.

    The end of an iterator waits for that thread, which may sleep for many seconds: TensorFlow
    (2.21) wakes it before it says that it is to end.
    """
    options = tf.data.Options()
    options.autotune.enabled = False
    return dataset.with_options(options)


def make_dataset(
    source: ImageSource,
    *,
    image_size: int,
    batch_size: int,
    training: bool,
    randaugment_magnitude: float | None = None,
    mixup_alpha: float = 0.0,
    cutmix_alpha: float = 0.0,
    seed: int = 0,
    epoch: int = 0,
    crop_style: str = "v2",
    crop_area: tuple[float, float] | None = None,
    reduced_decode: bool = True,
    horizontal_flip: bool | None = None,
    randaugment_layers: int = 2,
    randaugment_corrected: bool = False,
    scale_randaugment: bool | Literal["auto"] = "auto",
    autoaugment: bool = False,
    mixup_style: str = "official",
    cutmix_style: str = "official",
    class_weights: ClassWeights = None,
    balanced: bool = False,
    style: Style = "whole",
    exif: bool = True,
    background: Colour = WHITE,
    shard: Shard = None,
    unreadable: UnreadablePictures | None = None,
) -> tf.data.Dataset:
    """Return batches of pictures and one-hot labels, with `class_weights` also of weights.

    Multi-label: multi-hot labels.

    Args:
        source: what `load_source` returned.
        image_size: side of the pictures, pixels.
        batch_size: pictures in a batch.
        training: True: every picture once, shuffled, with random crop and flip and the
            augmentation below; a last batch that is not full is left out (a source smaller than
            one batch gives one smaller batch). False: every picture once, in order.
        randaugment_magnitude: None is off. This argument and the following ones are for training
            only, except `style`, `exif`, `background`, `shard` and `unreadable`.
        mixup_alpha: 0 is off.
        cutmix_alpha: 0 is off. If mixup is on, too, each takes half of a batch.
        seed: 0 or more.
        epoch: 0 or more; another epoch has another order and other random draws.
        crop_style: "v2", "v1" or "finetune", see `training_crop.decode_random_crop`.
        crop_area: smallest and largest share of a picture that a random crop covers; (1, 1) keeps
            the whole picture; None is the share of the style.
        reduced_decode: decode at a smaller scale where a crop allows it; False is official.
        horizontal_flip: mirror half of the pictures; None leaves it to the source.
        randaugment_layers: operations applied to each picture.
        randaugment_corrected: without the quirks of the official code, see `augment.magnitudes`.
        scale_randaugment: scale the translations and cut-outs of RandAugment and AutoAugment with
            the pictures; "auto": where these are smaller than the 224 pixels the official numbers
            suit; False is official (at 32 pixels a translation by 100 leaves nothing).
        autoaugment: apply AutoAugment's policy v0, as for V2 B0-B3, instead of RandAugment.
        mixup_style: "official" or "paper", see `images.styles.MIXUP_STYLES`.
        cutmix_style: "paper": a label's share is that of its pixels; "official": all labels of a
            batch have the mean share of its boxes.
        class_weights: what a picture weighs in the loss: "balanced", N / (classes * pictures of its
            class), so that all classes weigh the same and a picture 1 on average; or {class name:
            weight above 0}, 1 for classes without a name. The weight of a mixed picture is mixed as
            its label is.
        balanced: draw every class equally often: an epoch is as long as otherwise, but leaves out
            pictures of large classes, and those of small ones come several times, each time cropped
            and augmented anew. Not with class weights "balanced".
        style: how evaluation crops and resizes, see `evaluation_crop.resize_for_evaluation`.
        exif: turn pictures as their EXIF orientation says; the official code does not.
        background: what shows through transparent pixels: a gray level, or (red, green, blue).
        shard: (index, count): the part of one of several workers, see `ImageSource.dataset`;
            `batch_size` is then the worker's.
        unreadable: what to do with a picture that cannot be read. None: an error that names it.

    Returns:
        `tf.data.Dataset` of (images (B, image_size, image_size, 3) float32 0..255, labels
        (B, classes) float32), and for training with `class_weights` of (images, labels, weights
        (B,) float32), as `fit` takes them.

    Raises:
        ValueError: an argument is outside its range.
        tf.errors.InvalidArgumentError: a picture cannot be read, while it is iterated.
    """
    spec = InputSpec(
        image_size=image_size,
        crop_style=crop_style,
        crop_area=crop_area,
        reduced_decode=reduced_decode,
        horizontal_flip=horizontal_flip,
        randaugment_magnitude=randaugment_magnitude,
        randaugment_layers=randaugment_layers,
        randaugment_corrected=randaugment_corrected,
        scale_randaugment=scale_randaugment,
        autoaugment=autoaugment,
        mixup_alpha=mixup_alpha,
        cutmix_alpha=cutmix_alpha,
        mixup_style=mixup_style,
        cutmix_style=cutmix_style,
        class_weights=class_weights,
        balanced=balanced,
        evaluation_style=style,
        exif=exif,
        background=background,
    )
    return spec.dataset(
        source,
        batch_size=batch_size,
        training=training,
        seed=seed,
        epoch=epoch,
        shard=shard,
        unreadable=unreadable,
    )


# Tracing these takes a second or more; kept, it is paid once a stage and not once an epoch.
@functools.lru_cache(maxsize=32)
def _evaluation_function(
    image_size: int, style: Style, exif: bool, background: Colour, num_classes: int
) -> Any:
    def evaluate_one(data: Any, label: Any, index: Any) -> tuple[Any, Any]:
        image = decode_for_evaluation(data, image_size, style, exif=exif, background=background)
        return image, _hot(label, num_classes)

    return tf.function(evaluate_one, autograph=False)


@functools.lru_cache(maxsize=32)
def _training_function(spec: InputSpec, num_classes: int) -> Any:
    augment = spec.augmentation()

    def train_one(data: Any, label: Any, index: Any, seed: Any, epoch: Any) -> tuple[Any, Any]:
        image = decode_random_crop(
            data,
            spec.image_size,
            _seed(seed, epoch, index, _CROP),
            style=spec.crop_style,
            area=spec.crop_area,
            reduced_decode=spec.reduced_decode,
            exif=spec.exif,
            background=spec.background,
        )
        if augment is not None:
            # As officially: grey levels are cut off, not rounded.
            image = to_uint8(image)
        if spec.horizontal_flip:
            image = tf.image.stateless_random_flip_left_right(
                image, _seed(seed, epoch, index, _FLIP)
            )
        if augment is not None:
            image = augment(image, _seed(seed, epoch, index, _AUGMENT))
        return image, _hot(label, num_classes)

    return tf.function(train_one, autograph=False)


def _hot(label: Any, num_classes: int) -> Any:
    """Return what the network is to answer, (classes,) float32, for a label of an `ImageSource`."""
    return tf.cast(label, tf.float32) if label.shape.rank else tf.one_hot(label, num_classes)


def _seed(seed: Any, epoch: Any, index: Any, stream: int) -> Any:
    """Return (2,) int64, another one for every (seed, epoch, index, stream)."""
    # The stateless generators hash their seed, so neighbouring values are as good as any.
    return tf.stack([seed * 2**8 + stream, epoch * 2**40 + index])
