"""Wiring of the input pipeline: source -> decode -> crop -> RandAugment -> batch -> mix.

What a picture becomes is a pure function of (seed, epoch, its index in the source), so a resumed
training sees what an uninterrupted one would have seen, whatever the number of worker threads.
"""

import functools
from typing import Any

import tensorflow as tf

from keras_effnetv2.data.augment import RandAugment
from keras_effnetv2.data.mixing import mix_batch
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.preprocess import (
    Style,
    decode_for_evaluation,
    decode_image,
    random_crop_resize,
)

RANDAUGMENT_REFERENCE_SIZE = 224  # side for which the official pixel arguments were chosen
# One stream of random numbers for each use; a stream's number enters its seed.
_CROP, _FLIP, _AUGMENT, _MIX = range(4)
_EXAMPLE = [tf.TensorSpec([], dtype) for dtype in (tf.string, tf.int64, tf.int64)]
_RUN = [tf.TensorSpec([], tf.int64)] * 2  # seed, epoch


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
    crop_area: tuple[float, float] = (0.08, 1.0),
    horizontal_flip: bool | None = None,
    randaugment_layers: int = 2,
    scale_randaugment: bool = False,
    style: Style = "whole",
) -> tf.data.Dataset:
    """Batches of pictures and one-hot labels.

    Args:
        source: what `load_source` returned.
        image_size: side of the pictures, pixels.
        batch_size: pictures a batch.
        training: True: every picture once, shuffled, random crop and flip, then what the further
            arguments ask for; the last batch is left out if it is not full (a source smaller than
            one batch makes one smaller batch). False: every picture once, in order.
        randaugment_magnitude: None is off; training only, as all that follows but `style`.
        mixup_alpha: 0 is off.
        cutmix_alpha: 0 is off; both on: each takes half of a batch.
        seed: 0 or more.
        epoch: 0 or more; another epoch has another order and other random draws.
        crop_area: smallest and largest share of a picture that a random crop covers; (1, 1) keeps
            the whole picture.
        horizontal_flip: mirror half of the pictures; None leaves it to the source.
        randaugment_layers: operations applied to each picture.
        scale_randaugment: shrink RandAugment's translations and cut-outs, which are officially
            given in pixels for pictures of about 224, along with smaller pictures.
        style: how evaluation crops and resizes, see `preprocess.resize_for_evaluation`.

    Returns:
        `tf.data.Dataset` of (images (B, image_size, image_size, 3) float32 0..255, labels
        (B, classes) float32).

    Raises:
        ValueError: an argument is outside what is said above.
    """
    if not isinstance(batch_size, int) or isinstance(batch_size, bool) or batch_size < 1:
        raise ValueError(
            f"`batch_size` must be an integer of at least 1. Received: batch_size={batch_size!r}"
        )
    num_classes = len(source.class_names)
    dataset = source.dataset(shuffle=training, seed=seed, epoch=epoch)
    if not training:
        evaluate_one = _evaluation_function(image_size, style, num_classes)
        dataset = _parallel(dataset, evaluate_one)
        return dataset.batch(batch_size).prefetch(tf.data.AUTOTUNE)
    train_one = _training_function(
        image_size,
        num_classes,
        crop_area,
        source.horizontal_flip if horizontal_flip is None else horizontal_flip,
        randaugment_layers,
        randaugment_magnitude,
        RANDAUGMENT_REFERENCE_SIZE if scale_randaugment else None,
    )
    run = tf.constant(seed, tf.int64), tf.constant(epoch, tf.int64)
    batch_size = min(batch_size, source.num_examples)
    dataset = _parallel(dataset, lambda *example: train_one(*example, *run))
    dataset = dataset.batch(batch_size, drop_remainder=True)
    if mixup_alpha or cutmix_alpha:

        def mix(number: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
            return mix_batch(
                *batch,
                mixup_alpha=mixup_alpha,
                cutmix_alpha=cutmix_alpha,
                seed=_seed(*run, number, _MIX),
            )

        dataset = _parallel(dataset.enumerate(), mix)
    return dataset.prefetch(tf.data.AUTOTUNE)


# Tracing these takes a second or more; kept, it is paid once a stage and not once an epoch.
@functools.lru_cache(maxsize=32)
def _evaluation_function(image_size: int, style: Style, num_classes: int) -> Any:
    def evaluate_one(data: Any, label: Any, index: Any) -> tuple[Any, Any]:
        image = decode_for_evaluation(data, image_size, style)
        return image, tf.one_hot(label, num_classes)

    return tf.function(evaluate_one, input_signature=_EXAMPLE, autograph=False)


@functools.lru_cache(maxsize=32)
def _training_function(
    image_size: int,
    num_classes: int,
    crop_area: tuple[float, float],
    horizontal_flip: bool,
    randaugment_layers: int,
    randaugment_magnitude: float | None,
    reference_size: int | None,
) -> Any:
    augment = None
    if randaugment_magnitude is not None:
        augment = RandAugment(
            randaugment_layers, randaugment_magnitude, reference_size=reference_size
        )

    def train_one(data: Any, label: Any, index: Any, seed: Any, epoch: Any) -> tuple[Any, Any]:
        image = random_crop_resize(
            decode_image(data), image_size, _seed(seed, epoch, index, _CROP), area=crop_area
        )
        if horizontal_flip:
            image = tf.image.stateless_random_flip_left_right(
                image, _seed(seed, epoch, index, _FLIP)
            )
        if augment is not None:
            pixels = tf.saturate_cast(tf.round(image), tf.uint8)
            image = augment(pixels, seed=_seed(seed, epoch, index, _AUGMENT))
        return tf.cast(image, tf.float32), tf.one_hot(label, num_classes)

    return tf.function(train_one, input_signature=_EXAMPLE + _RUN, autograph=False)


def _parallel(dataset: tf.data.Dataset, function: Any) -> tf.data.Dataset:
    return dataset.map(function, num_parallel_calls=tf.data.AUTOTUNE, deterministic=True)


def _seed(seed: Any, epoch: Any, index: Any, stream: int) -> Any:
    """(2,) int64, another one for every (seed, epoch, index, stream)."""
    # The stateless generators hash their seed, so neighbouring values are as good as any.
    return tf.stack([seed * 2**8 + stream, epoch * 2**40 + index])
