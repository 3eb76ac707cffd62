"""What it takes to start an epoch: a new iterator over each kind of pipeline, and its first batch.

    python benchmarks/pipeline_start.py [--rounds 6]

TensorFlow copies, rewrites and instantiates the functions of a pipeline for every new iterator, so
the time grows with their ops and hardly depends on the pictures. All pipelines run in turns over
the built-in digits, batches of 64, 32 pixels; printed are the medians of processor and wall time.
To compare with another version, run it by turns with that version's folder as PYTHONPATH.

Takes a minute on two idle cores.
"""

import argparse
import os
import statistics
import time
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from pipeline_report import Table, surroundings

import keras_effnetv2 as kev2
from keras_effnetv2.data.sources import ImageSource

PIPELINES: dict[str, dict[str, Any]] = {
    "evaluation": {"training": False},
    "training: crop and flip": {"training": True},
    "and RandAugment, mixup": {
        "training": True,
        "randaugment_magnitude": 5.0,
        "mixup_alpha": 0.2,
    },
    "and AutoAugment": {"training": True, "autoaugment": True},
}


def start_times(source: ImageSource, **arguments: Any) -> tuple[float, float]:
    """Seconds of the processor and of the clock for a pipeline, its iterator and a batch."""
    processor, clock = time.process_time(), time.perf_counter()
    next(iter(kev2.make_dataset(source, image_size=32, batch_size=64, **arguments)))
    return time.process_time() - processor, time.perf_counter() - clock


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=6, help="(default 6)")
    rounds = parser.parse_args().rounds
    source = kev2.load_source("digits")
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in PIPELINES}
    for arguments in PIPELINES.values():  # what is traced once a process
        start_times(source, **arguments)
    for _ in range(rounds):
        for name, arguments in PIPELINES.items():
            times[name].append(start_times(source, **arguments))
    rows = []
    for name, measured in times.items():
        processor, clock = (statistics.median(values) for values in zip(*measured, strict=True))
        rows.append([name, f"{processor:.2f} s", f"{clock:.2f} s"])
    title = "A new iterator and its first batch"
    print(Table(title, ["pipeline", "processor", "clock"], rows).markdown())
    for name, value in surroundings().items():
        print(f"{name}: {value}")


if __name__ == "__main__":
    main()
