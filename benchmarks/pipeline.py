"""Images per second of input pipelines, side by side in one process.

command:  python benchmarks/pipeline.py --data FOLDER --image-size 224 128 --output speed.md
          python benchmarks/pipeline.py --data FOLDER --operations    where the time goes
          python benchmarks/pipeline.py --data FOLDER --memory        resident memory, pass by pass
time:     about 5 minutes a size; 3 for --operations; 2 for --memory (2 cores)
result:   a Markdown table on stdout, and in --output (FILE.json has every single measurement)

FOLDER holds pictures, in class folders or flat, or is another source of files that `load_source`
knows. A pipeline of your own joins in with --pipeline NAME=MODULE:FUNCTION, see
`pipeline_peers.imported_pipeline`.

The speed of a shared machine changes by the minute, so all pipelines run in turns, a few seconds
each, and "of crop only" compares within a round. The processor time, of all threads, suffers least
from other work on the machine. A pipeline that has had its turn goes on until its
buffers are full, so the next begins when the process has come to rest, and begins with batches that
do not count: they empty what its own buffers had kept.
"""

import argparse
import csv
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from pipeline_memory import memory_table
from pipeline_operations import operations_tables
from pipeline_peers import (
    CROP_ONLY,
    Pipeline,
    file_paths,
    images_in,
    imported_pipeline,
    standard_pipelines,
    without_what_cannot_be_imported,
)
from pipeline_report import SUFFIXES, Table, as_markdown, surroundings, write
from pipeline_rest import wait_for_rest

import keras_effnetv2 as kev2
from keras_effnetv2.data.sources import ImageSource

# A source is handed out as often as it takes for this many pictures, so that the end of a pass,
# where a pipeline drains and may drop an unfinished batch, does not fall into a measurement.
PICTURES_A_PASS = 50_000


class Turn(NamedTuple):
    """What one turn of a pipeline was measured at."""

    images_per_second: float
    processor_ms: float  # of all threads, a picture


def main(arguments: Sequence[str] | None = None) -> None:
    """Measures what the command line asks for, prints it and writes it."""
    options = parse(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        try:
            source = open_pictures(options.data, Path(scratch))
            read_once(source)
            tables = measured_tables(options, source)
        except (ValueError, OSError) as error:
            raise SystemExit(f"{Path(__file__).name}: error: {error}") from error
    about = surroundings()
    print(as_markdown(tables, about))
    write(tables, about, options.output)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line, checked for what argparse does not check."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder of pictures, or another source")
    parser.add_argument("--image-size", type=whole, nargs="+", default=[224], metavar="PIXELS")
    parser.add_argument("--batch-size", type=whole, default=64)
    parser.add_argument("--rounds", type=whole, default=7, help="turns of every pipeline")
    parser.add_argument("--seconds", type=float, default=2.0, help="of a turn")
    parser.add_argument("--warm-up", type=float, default=1.0, help="seconds before each turn")
    parser.add_argument(
        "--pipeline", action="append", default=[], metavar="NAME=MODULE:FUNCTION", help="one more"
    )
    names = [pipeline.name for pipeline in standard_pipelines()]
    parser.add_argument(
        "--only", nargs="+", choices=names, default=names, help=f"and always {CROP_ONLY!r}"
    )
    parser.add_argument("--output", type=Path, nargs="+", default=[], metavar="FILE.md|FILE.json")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--operations", action="store_true", help="time each operation instead")
    instead.add_argument("--memory", action="store_true", help="watch the memory instead")
    parser.add_argument("--passes", type=whole, default=20, help="of --memory")
    options = parser.parse_args(arguments)
    for path in options.output:
        if path.suffix not in SUFFIXES:
            parser.error(f"--output takes files that end in {' or '.join(SUFFIXES)}, not {path}")
    if options.seconds < 0 or options.warm_up < 0:
        parser.error("--seconds and --warm-up must not be negative")
    return options


def whole(text: str) -> int:
    """A positive whole number of the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def measured_tables(options: argparse.Namespace, source: ImageSource) -> list[Table]:
    """The tables that the command line asks for, one for each image size."""
    sizes, batch_size = options.image_size, options.batch_size
    if options.operations:
        return [
            table
            for size in sizes
            for table in operations_tables(source, size, batch_size, options.rounds)
        ]
    if options.memory:
        return [memory_table(source, size, batch_size, options.passes) for size in sizes]
    pipelines, notes = without_what_cannot_be_imported(chosen_pipelines(options))
    return [
        speed_table(
            measure(
                pipelines,
                long_pass(source),
                size,
                batch_size,
                rounds=options.rounds,
                seconds=options.seconds,
                warm_up=options.warm_up,
            ),
            f"Images/s at {size} pixels, batches of {batch_size}",
            [*(f"{pipeline.name}: {pipeline.settings}." for pipeline in pipelines), *notes],
        )
        for size in sizes
    ]


def chosen_pipelines(options: argparse.Namespace) -> list[Pipeline]:
    """The rows, in the order of the table.

    Raises:
        ValueError: an imported pipeline that is none, or whose name is taken.
    """
    wanted = {CROP_ONLY, *options.only}
    pipelines = [pipeline for pipeline in standard_pipelines() if pipeline.name in wanted]
    sys.path.insert(0, os.getcwd())  # Python itself puts the folder of this file there instead
    for text in options.pipeline:
        pipeline = imported_pipeline(text)
        if pipeline.name in {other.name for other in pipelines}:
            raise ValueError(f"There are two pipelines of the name {pipeline.name!r}.")
        pipelines.append(pipeline)
    return pipelines


def open_pictures(spec: str, scratch: Path) -> ImageSource:
    """The pictures of a folder, flat or of class folders, or of another source of files.

    Args:
        spec: a folder of pictures, or what `load_source` takes.
        scratch: a folder for the table that a flat folder needs.

    Raises:
        ValueError: no pictures, or a source that does not keep them in files.
        OSError: nothing there.
    """
    folder = Path(spec)
    if folder.is_dir() and not any(entry.is_dir() for entry in folder.iterdir()):
        spec = f"csv:{table_of(folder, scratch / 'pictures.csv')}"
    source = kev2.load_source(spec, "all")
    if source.file_paths() is None:
        raise ValueError(
            f"{spec!r} does not keep its pictures in files, which every pipeline has to read. Use "
            "a folder of pictures, or 'csv:FILE'."
        )
    return source


def table_of(folder: Path, path: Path) -> Path:
    """Writes a table of the files of a flat folder; the labels, 0 and 1 in turn, mean nothing."""
    files = sorted(entry.resolve() for entry in folder.iterdir() if entry.name[0] != ".")
    if not files:
        raise ValueError(f"There are no pictures in {str(folder)!r}.")
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([picture, number % 2] for number, picture in enumerate(files))
    return path


def read_once(source: ImageSource) -> None:
    """Reads all files, so that afterwards they come from memory, whoever is first."""
    for path in file_paths(source):
        Path(path).read_bytes()


def long_pass(source: ImageSource) -> ImageSource:
    """The source with every picture so often that a pass does not end soon."""
    repeats = -(-PICTURES_A_PASS // source.num_examples)
    return source.subset(np.tile(np.arange(source.num_examples), repeats))


def measure(
    pipelines: Sequence[Pipeline],
    source: ImageSource,
    image_size: int,
    batch_size: int,
    *,
    rounds: int,
    seconds: float,
    warm_up: float,
) -> dict[str, list[Turn]]:
    """Speed of every pipeline in every round, by name.

    Args:
        pipelines: what runs; each keeps one iterator from the first round to the last.
        source: of pictures in files.
        image_size: pixels.
        batch_size: pictures.
        rounds: in each, every pipeline has one turn.
        seconds: that a turn lasts at least; it ends with a batch.
        warm_up: seconds before each turn whose batches do not count.

    Raises:
        ValueError: a pipeline that yields nothing.
    """
    running = {}
    options = tf.data.Options()
    # It would put a buffer behind `repeat` that grows until the memory is full, turn after turn.
    options.experimental_optimization.inject_prefetch = False
    for pipeline in pipelines:
        batches = pipeline.make(source, image_size, batch_size).with_options(options)
        running[pipeline.name] = iter(batches)
        if next(running[pipeline.name], None) is None:  # traces, which takes seconds
            raise ValueError(f"Pipeline {pipeline.name!r} yields nothing.")
    turns: dict[str, list[Turn]] = {name: [] for name in running}
    for number in range(rounds):
        for name, batches in running.items():
            wait_for_rest()
            take_turn(batches, warm_up)
            turns[name].append(take_turn(batches, seconds))
        print(f"{image_size} pixels: round {number + 1} of {rounds}", file=sys.stderr, flush=True)
    return turns


def take_turn(batches: Iterator[object], seconds: float) -> Turn:
    """Measures from now to the first batch that comes after so many seconds."""
    images = 0
    start = now = time.perf_counter()
    processor_start = time.process_time()
    while now - start < seconds or not images:
        images += images_in(next(batches))
        now = time.perf_counter()
    return Turn(images / (now - start), (time.process_time() - processor_start) / images * 1e3)


def speed_table(turns: dict[str, list[Turn]], title: str, notes: Sequence[str]) -> Table:
    """Medians over the rounds, with the lowest and highest.

    Args:
        turns: name -> a turn of every round; "crop only" is what all are compared with.
        title: of the table.
        notes: below the table.
    """
    rows = []
    measured = {}
    for name, own in turns.items():
        speeds = [turn.images_per_second for turn in own]
        processor = [turn.processor_ms for turn in own]
        crops = [turn.images_per_second for turn in turns[CROP_ONLY]]
        shares = [speed / crop for speed, crop in zip(speeds, crops, strict=True)]
        rows.append([name, spread(speeds, ".0f"), spread(shares, ".2f"), spread(processor, ".2f")])
        measured |= {f"{name}: images/s": speeds, f"{name}: processor ms": processor}
    columns = ["pipeline", "images/s", "of crop only", "processor ms a picture"]
    every = "every cell: the median over the rounds (the lowest to the highest)"
    return Table(title, columns, rows, measured, [every, *notes])


def spread(values: Sequence[float], digits: str) -> str:
    """The median, then the lowest and the highest of some numbers, e.g. "0.78 (0.75 to 0.80)"."""
    low, high = min(values), max(values)
    return f"{statistics.median(values):{digits}} ({low:{digits}} to {high:{digits}})"


if __name__ == "__main__":
    main()
