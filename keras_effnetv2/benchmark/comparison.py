"""A network in several formats, timed in turns with its rivals."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from keras_effnetv2._common.timing import measure, time_ratio
from keras_effnetv2.benchmark.contestants import (
    KERAS_APPLICATIONS,
    KERAS_EXPORT,
    compared_answers,
    open_contestant,
    open_network,
    same_in_keras_applications,
)
from keras_effnetv2.export.check import largest_difference, top1_agreement
from keras_effnetv2.models.multiply_adds import count_flops

JUDGED = ("mean_average_precision", "f1", "accuracy", "top_5_accuracy")
"""The figures of `Evaluation` that are shown."""


@dataclass(frozen=True)
class Timed:
    """A network in a format, and how long it took."""

    network: str
    format: str  # one of `contestants.all_formats()`
    image_size: int  # pixels
    parameters: int  # of the Keras model, including batch statistics
    flops: int  # multiply-adds of one picture
    bytes: int | None  # size of all files of the export; None if there are none
    max_difference: float  # largest difference of a probability from the Keras model
    top1_agreement: float  # share of the pictures with the best class of the Keras model
    # Batch size -> (rounds, calls) seconds for a batch, see `timing.measure`.
    seconds: dict[int, np.ndarray]
    time_ratio: dict[int, float]  # batch size -> the time relative to the first of its group
    # Those of `JUDGED` that labelled pictures have, by name; none without such pictures.
    figures: Mapping[str, float] = field(default_factory=dict)

    def median(self, batch_size: int) -> float:
        """Return the median time for a batch, seconds."""
        return float(np.median(self.seconds[batch_size]))

    def throughput(self) -> float:
        """Return the pictures a second at the fastest batch size."""
        return max(batch_size / self.median(batch_size) for batch_size in self.seconds)


def compare(
    name: str,
    formats: Sequence[str],
    *,
    against: str | None = None,
    image_size: int | None = None,
    weights: str | None = None,
    data: str | None = None,
    batch_sizes: Sequence[int],
    rounds: int,
    calls: int,
    threads: int | None = None,
    progress: Callable[[str], None] = lambda text: None,
    note: Callable[[str], None] = lambda text: None,
) -> list[Timed]:
    """Measure one network in all formats, and the network to compare with.

    `name`, `image_size`, `weights` and `data` are those of `contestants.open_network`. `against`
    names a network, exported by `model.export`, which comes first in the result;
    "keras.applications" is the same variant there. Each format has `rounds` turns of `calls` timed
    calls. `threads` is for the runtimes of files; None takes all cores. `note` is called with each
    note about the pictures of `data`.
    """
    gc.collect()  # the network before, whose memory this one may need
    network = open_network(name, image_size, weights, data)
    for text in () if network.judged_on is None else network.judged_on.notes:
        note(text)
    pairs = [(network, format) for format in dict.fromkeys(formats)]
    if against is not None:
        other = same_in_keras_applications(name) if against == KERAS_APPLICATIONS else against
        pairs.insert(0, (open_network(other, network.image_size), KERAS_EXPORT))
    with TemporaryDirectory(prefix="keras-effnetv2-") as scratch:
        folders = [Path(scratch, str(index)) for index in range(len(pairs))]
        runs, flops = [], []
        for (one, format), folder in zip(pairs, folders, strict=True):
            progress(f"{one.name}: {format}")
            flops.append(count_flops(one.model, one.image_size))  # may refuse: before the timing
            folder.mkdir()
            runs.append(open_contestant(one, format, folder, threads))

        def times(size: int) -> np.ndarray:
            images = np.resize(network.pictures, (size, *network.pictures.shape[1:]))
            doing = f"{name}, {size} at once: round"
            turns = [partial(run, images) for run in runs]
            return measure(turns, rounds, calls, lambda n: progress(f"{doing} {n} of {rounds}"))

        seconds = {size: times(size) for size in dict.fromkeys(batch_sizes)}
        networks = {id(one): one for one, _ in pairs}
        expected = {key: compared_answers(one, one.run) for key, one in networks.items()}
        group = []
        for index, (one, format) in enumerate(pairs):
            progress(f"{one.name}: comparing {format}")
            answers = compared_answers(one, runs[index])
            figures = one.figures(answers)
            files = [path for path in folders[index].rglob("*") if path.is_file()]
            timed = Timed(
                one.name,
                format,
                one.image_size,
                one.model.count_params(),
                flops[index],
                sum(path.stat().st_size for path in files) or None,
                largest_difference(answers, expected[id(one)]),
                top1_agreement(answers, expected[id(one)]),
                {size: times[index] for size, times in seconds.items()},
                {size: time_ratio(times[index], times[0]) for size, times in seconds.items()},
                {name: figures[name] for name in JUDGED if name in figures},
            )
            group.append(timed)
    return group
