"""How soon a large folder of pictures can be trained on.

    python benchmarks/large_folder.py --pictures 100000

Writes that many small JPEG files into 1,000 class folders (in the temporary folder, and removes
them), and measures in seconds: `load_source`, and from there to the first training batch.
"""

import argparse
import tempfile
import time
from pathlib import Path

import numpy as np
import tensorflow as tf
from pipeline_report import surroundings

import keras_effnetv2 as kev2

CLASSES = 1000


def write_pictures(folder: Path, count: int) -> None:
    """Writes `count` JPEG files of 8 x 8 pixels into class folders."""
    picture = tf.io.encode_jpeg(np.full((8, 8, 3), 128, np.uint8)).numpy()
    for number in range(CLASSES):
        (folder / f"class_{number:04d}").mkdir()
    for number in range(count):
        (folder / f"class_{number % CLASSES:04d}" / f"{number:08d}.jpg").write_bytes(picture)


def measure(folder: Path) -> tuple[float, float]:
    """Seconds that `load_source` takes, and those from there to the first batch."""
    started = time.perf_counter()
    source = kev2.load_source(folder, "train")
    loaded = time.perf_counter()
    batches = kev2.make_dataset(source, image_size=32, batch_size=32, training=True)
    next(iter(batches))
    return loaded - started, time.perf_counter() - loaded


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pictures", type=int, default=100_000)
    count = parser.parse_args().pictures
    with tempfile.TemporaryDirectory() as scratch:
        write_pictures(Path(scratch), count)
        load, first = measure(Path(scratch))
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    print(f"{count:,} pictures: load_source {load:.1f} s, first batch {first:.1f} s later")


if __name__ == "__main__":
    main()
