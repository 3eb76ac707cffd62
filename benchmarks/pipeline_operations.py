"""Microseconds of processor time that each step of an input pipeline takes for one picture.

A step is a `tf.data` transformation of elements that lie in memory, in one thread. What it takes
merely to hand the elements on is taken off. All steps run in turns, each with one iterator from the
first round to the last: to start one takes longer than many pictures do.
"""

import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import tensorflow as tf
from pipeline_peers import (
    MAGNITUDES,
    RANDAUGMENT_LAYERS,
    crop,
    decode,
    file_paths,
    flip,
)
from pipeline_report import Table

import keras_effnetv2 as kev2
from keras_effnetv2.augment.mixing import mix_batch
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.images.training_crop import decode_random_crop

PICTURES = 128  # decoded they take 80 MB
MIXUP_ALPHA = 0.2  # the time does not depend on it


@dataclass(frozen=True)
class Step:
    """Something that is timed.

    Attributes:
        name: for the table.
        passes: endless; each element is the end of one pass with the step.
        without: the same of passes that hand the same elements on without it.
        pictures: of a pass.
    """

    name: str
    passes: tf.data.Dataset
    without: tf.data.Dataset
    pictures: int


def operations_tables(
    source: ImageSource, image_size: int, batch_size: int, rounds: int
) -> list[Table]:
    """Times every step of the pipelines: reading to mixing, and each operation of RandAugment.

    Args:
        source: of pictures in files, of which the first are taken.
        image_size: pixels.
        batch_size: pictures.
        rounds: in each, every step runs once; the tables have the medians.
    """
    paths = (file_paths(source) * PICTURES)[:PICTURES]
    files = tf.data.Dataset.from_tensor_slices(paths)
    encoded = files.map(tf.io.read_file).cache()
    decoded = encoded.map(decode).cache()
    cropped = decoded.map(lambda image: crop(image, image_size)).cache()
    pixels = cropped.map(to_uint8).cache()
    wiring = [
        mapped("read a file", files, tf.io.read_file),
        mapped("decode the whole picture", encoded, decode),
        mapped("crop and resize", decoded, lambda image: crop(image, image_size)),
        mapped("ours: decode, crop and resize", encoded, our_crop(image_size, reduced=True)),
        mapped("ours, full scale: the same", encoded, our_crop(image_size, reduced=False)),
        mapped("flip", cropped, flip),
        mapped("to uint8", cropped, to_uint8),
        mapped("to float32", pixels, lambda image: tf.cast(image, tf.float32)),
        *batch_steps(cropped, batch_size),
    ]
    names = [*kev2.augment.OPERATION_NAMES, f"{RANDAUGMENT_LAYERS} operations, drawn"]
    operations = {
        (name, magnitude): mapped(f"{name} {magnitude}", pixels, operation(name, magnitude))
        for name in names
        for magnitude in sorted(MAGNITUDES)
    }
    micros = measured([*wiring, *operations.values()], rounds)
    return [
        Table(
            f"Microseconds a picture at {image_size} pixels, processor time",
            ["step", "microseconds"],
            [[step.name, f"{statistics.median(micros[step.name]):.0f}"] for step in wiring],
            {step.name: micros[step.name] for step in wiring},
        ),
        Table(
            f"RandAugment: microseconds a picture of {image_size} pixels, processor time",
            ["operation", *(f"magnitude {magnitude}" for magnitude in sorted(MAGNITUDES))],
            [
                [
                    name,
                    *(
                        f"{statistics.median(micros[operations[name, magnitude].name]):.0f}"
                        for magnitude in sorted(MAGNITUDES)
                    ),
                ]
                for name in names
            ],
            {step.name: micros[step.name] for step in operations.values()},
        ),
    ]


def mapped(name: str, elements: tf.data.Dataset, work: Callable) -> Step:
    """A step that makes one thing of each picture."""
    endless = elements.repeat()
    return Step(
        name,
        passes(endless.map(work), PICTURES),
        passes(endless.map(lambda element: element), PICTURES),
        PICTURES,
    )


def our_crop(image_size: int, reduced: bool) -> Callable[[tf.Tensor], tf.Tensor]:
    """The package's crop of an encoded picture, another one for each."""

    def decode_and_crop(data: tf.Tensor) -> tf.Tensor:
        seed = tf.random.uniform([2], 0, tf.int32.max, tf.int32)
        return decode_random_crop(data, image_size, seed, reduced_decode=reduced)

    return decode_and_crop


def operation(name: str, magnitude: float) -> Callable[[tf.Tensor], tf.Tensor]:
    """One operation of RandAugment; drawn ones under a name that is none of theirs."""
    if name in kev2.augment.OPERATION_NAMES:
        return lambda image: kev2.augment.apply(name, image, magnitude)
    return kev2.RandAugment(RANDAUGMENT_LAYERS, magnitude)


def batch_steps(pictures: tf.data.Dataset, batch_size: int) -> list[Step]:
    """Making batches, and mixing them."""
    labels = tf.one_hot(tf.range(batch_size) % 2, 2)
    endless = pictures.repeat()
    count = -(-PICTURES // batch_size)  # batches of a pass
    batches = endless.batch(batch_size).take(count).cache().repeat()

    def mix(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        seed = tf.zeros([2], tf.int64)
        return mix_batch(images, labels, mixup_alpha=MIXUP_ALPHA, cutmix_alpha=0.0, seed=seed)

    return [
        Step(
            "make a batch",
            passes(endless.batch(batch_size), count),
            passes(endless, count * batch_size),
            count * batch_size,
        ),
        Step(
            "mixup",
            passes(batches.map(mix), count),
            passes(batches.map(lambda images: images), count),
            count * batch_size,
        ),
    ]


def to_uint8(image: tf.Tensor) -> tf.Tensor:
    return tf.saturate_cast(tf.round(image), tf.uint8)


def passes(endless: tf.data.Dataset, count: int) -> tf.data.Dataset:
    """One element for every `count` of an endless dataset, which one thread computes on demand."""
    options = tf.data.Options()
    options.autotune.enabled = False
    # What would compute ahead or elsewhere; other rewriting is as in a training.
    options.experimental_optimization.inject_prefetch = False
    options.experimental_optimization.map_and_batch_fusion = False
    options.experimental_optimization.map_parallelization = False
    options.experimental_optimization.parallel_batch = False
    options.threading.private_threadpool_size = 1
    options.threading.max_intra_op_parallelism = 1
    return endless.map(lambda *element: 0).batch(count).with_options(options)


def measured(steps: Sequence[Step], rounds: int) -> dict[str, list[float]]:
    """Microseconds a picture of every step in every round, by name."""
    running = {step.name: (iter(step.passes), iter(step.without)) for step in steps}
    for with_step, without in running.values():  # fills the caches; starting takes long, too
        next(with_step)
        next(without)
    micros: dict[str, list[float]] = {step.name: [] for step in steps}
    for number in range(rounds):
        for step in steps:
            taken, needed_anyway = map(seconds_of_a_pass, running[step.name])
            micros[step.name].append((taken - needed_anyway) / step.pictures * 1e6)
        print(f"round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return micros


def seconds_of_a_pass(passes: Iterator[tf.Tensor]) -> float:
    """Processor time: unlike the time on the clock, other work on the machine hardly changes it."""
    start = time.process_time()
    next(passes)
    return time.process_time() - start
