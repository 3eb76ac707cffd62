"""Resident memory of the training pipeline over many passes, and the bound that it stays below."""

import os
import statistics
import sys
from pathlib import Path

import tensorflow as tf
from pipeline_peers import PREFETCHED, RANDAUGMENT_LAYERS, decode, file_paths, parallel
from pipeline_report import Table
from pipeline_rest import wait_for_rest

import keras_effnetv2 as kev2
from keras_effnetv2.data.sources import ImageSource

MEBIBYTE = 2**20
FLOAT_PIXEL = 3 * 4  # bytes of a pixel that is augmented or in a batch
BYTE_PIXEL = 3  # and of a decoded one
PAUSE_EVERY = 4  # batches: the one who takes them is now faster, now slower than the pipeline
MAGNITUDE = 15
MIXUP_ALPHA = 0.2
# What `keras_effnetv2/data/pipeline.py` holds at most, see `memory_bound`.
MIXING_CALLS = 2
MIXING_BATCHES = 5
WORKING_PICTURES = 10
KEPT_BY_MALLOC = 64 * MEBIBYTE  # for each core: one heap of glibc, which keeps what was freed


def memory_bound(
    image_size: int, batch_size: int, largest_picture: int, parallel_calls: int
) -> float:
    """Bytes that a training pipeline takes at most.

    Batches: one is with the one who asked for it, PREFETCHED wait, one is being filled from its
    pictures (which makes two), and each of MIXING_CALLS holds MIXING_BATCHES: what it got, what it
    returns, and the reversed and the two weighted ones between. Beside them every call that decodes
    holds a whole picture and its cut-out, and WORKING_PICTURES of the final size in float32. Freed
    memory that stays with the process counts as KEPT_BY_MALLOC for each of these calls.

    Args:
        image_size: pixels.
        batch_size: pictures.
        largest_picture: pixels of the largest one, height x width.
        parallel_calls: of a map, which `tf.data` keeps at or below the number of cores.
    """
    picture = image_size**2 * FLOAT_PIXEL
    batches = 1 + PREFETCHED + 2 + MIXING_BATCHES * MIXING_CALLS
    working = 2 * largest_picture * BYTE_PIXEL + WORKING_PICTURES * picture + KEPT_BY_MALLOC
    return batches * batch_size * picture + parallel_calls * working


def memory_table(source: ImageSource, image_size: int, batch_size: int, passes: int) -> Table:
    """Runs the training pipeline with RandAugment and mixup, and watches the resident memory.

    Args:
        source: of pictures in files.
        image_size: pixels.
        batch_size: pictures.
        passes: epochs.
    """
    # A first pass of small pictures in small batches: the libraries and the threads are there then.
    base = highest_resident(source, 32, 2, epoch=0)
    highest = []
    for epoch in range(passes):
        highest.append(highest_resident(source, image_size, batch_size, epoch))
        print(f"{image_size} pixels: pass {epoch + 1} of {passes}", file=sys.stderr, flush=True)
    cores = len(os.sched_getaffinity(0))
    bound = base + memory_bound(image_size, batch_size, largest_picture(source), cores)
    half = passes // 2
    growth = (
        statistics.median(highest[half:]) - statistics.median(highest[:half] or highest)
    ) / MEBIBYTE
    return Table(
        f"Resident memory at {image_size} pixels, batches of {batch_size}, RandAugment and mixup",
        ["pass", "highest, MiB"],
        [[str(number), f"{mebibytes(value)}"] for number, value in enumerate(highest, 1)],
        {"bytes": [float(value) for value in highest], "bound": [bound]},
        [
            f"bound: {mebibytes(bound)} MiB, of which {mebibytes(base)} MiB were there before",
            f"the second half of the passes is {growth:+.0f} MiB on the first (medians)",
        ],
    )


def mebibytes(count: float) -> str:
    return f"{count / MEBIBYTE:.0f}"


def highest_resident(source: ImageSource, image_size: int, batch_size: int, epoch: int) -> int:
    """The most resident bytes that were seen in one pass."""
    batches = kev2.make_dataset(
        source,
        image_size=image_size,
        batch_size=batch_size,
        training=True,
        randaugment_magnitude=MAGNITUDE,
        randaugment_layers=RANDAUGMENT_LAYERS,
        mixup_alpha=MIXUP_ALPHA,
        epoch=epoch,
    )
    highest = 0
    for number, _ in enumerate(batches):
        if number % PAUSE_EVERY == 0:
            wait_for_rest()  # all buffers are full
        highest = max(highest, resident_bytes())
    return highest


def resident_bytes() -> int:
    """Bytes of this process in memory; Linux."""
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def largest_picture(source: ImageSource) -> int:
    """Height x width of the largest picture."""
    files = tf.data.Dataset.from_tensor_slices(file_paths(source))
    pixels = parallel(files, lambda path: tf.size(decode(tf.io.read_file(path))) // 3)
    return int(pixels.reduce(0, tf.maximum))
