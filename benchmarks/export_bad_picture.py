"""What one bad picture in a batch costs the good ones, answered by an exported SavedModel.

    python benchmarks/export_bad_picture.py --variant efficientnetv2-b0 --batch 16 --rounds 20

Batches of JPEG photos of the given size, all good or with one replaced by a bad file, one after the
other in turn, so that both meet the same machine. Prints the median seconds of a batch for each,
and how much longer a batch with the bad file takes.
"""

import argparse
import statistics
import tempfile
import time

import numpy as np
import tensorflow as tf

import keras_effnetv2 as kev2


def photo(side: int, seed: int) -> bytes:
    """A JPEG of smooth noise, about as many bytes a pixel as a photo has."""
    coarse = np.random.default_rng(seed).uniform(0, 255, (side // 16, side // 16, 3))
    smooth = tf.image.resize(coarse, [side, side], method="bicubic")
    return tf.io.encode_jpeg(tf.saturate_cast(smooth, tf.uint8), quality=90).numpy()


def bad_files(good: bytes) -> dict[str, bytes]:
    """One file of each kind that cannot be answered."""
    return {
        "truncated": good[: len(good) // 2],
        "no picture": b"no picture",
        "empty": b"",
        "huge": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR\x7f\xff\xff\xff\x7f\xff\xff\xff\x08\x02\0\0\0",
    }


def seconds_of(classify, files: list[bytes]) -> float:
    """Time of one batch."""
    batch = tf.constant(files)
    start = time.perf_counter()
    classify(image_bytes=batch)["error"].numpy()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", default="efficientnetv2-b0")
    parser.add_argument("--image-size", type=int, default=224)
    parser.add_argument("--side", type=int, default=500, help="of the photos, pixels")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()

    model = kev2.build_model(kev2.ModelConfig.from_name(arguments.variant))
    with tempfile.TemporaryDirectory() as scratch:
        folder = kev2.export_saved_model(model, scratch, image_size=arguments.image_size)
        classify = tf.saved_model.load(str(folder)).signatures["classify_bytes"]
    good = [photo(arguments.side, seed) for seed in range(arguments.batch)]
    middle = arguments.batch // 2
    batches = {"all good": good, "all good again": list(good)} | {
        name: [*good[:middle], file, *good[middle + 1 :]]
        for name, file in bad_files(good[middle]).items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in batches}
    for number in range(arguments.rounds + 2):
        for name, files in batches.items():
            measured = seconds_of(classify, files)
            if number >= 2:  # the first ones trace and allocate
                seconds[name].append(measured)
    reference = statistics.median(seconds["all good"])
    print(f"{arguments.variant}, {arguments.image_size} px, batches of {arguments.batch}")
    for name, measured in seconds.items():
        median = statistics.median(measured)
        print(f"{name:<15} {median * 1000:8.1f} ms  {median / reference - 1:+.1%}")


if __name__ == "__main__":
    main()
