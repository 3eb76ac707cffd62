"""A network in several formats, timed by turns beside what it is compared with."""

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from keras_effnetv2._common.checks import check_choice
from keras_effnetv2._common.timing import measure, time_ratio
from keras_effnetv2.benchmark.contestants import (
    KERAS_APPLICATIONS,
    KERAS_EXPORT,
    Contestant,
    all_formats,
    open_contestant,
    open_network,
    same_in_keras_applications,
)


@dataclass(frozen=True)
class Comparison:
    """What is measured of each network, and how.

    Attributes:
        formats: each one of `contestants.all_formats()`.
        against: name of a network, exported by `model.export`, that the others are compared with;
            "keras.applications" is the same variant there; None compares with the first format.
        image_size: pixels; None takes the network's own.
        weights: of variants; None draws them.
        batch_sizes: pictures at once.
        rounds: turns of each format.
        calls: timed calls in a turn.
        threads: of the runtimes of files; None takes all cores.
    """

    formats: Sequence[str]
    against: str | None = None
    image_size: int | None = None
    weights: str | None = None
    batch_sizes: Sequence[int] = (1, 16)
    rounds: int = 10
    calls: int = 3
    threads: int | None = None

    def check(self, networks: Sequence[str]) -> None:
        """Raise ValueError for what would only be found when its turn comes."""
        for name in self.formats:
            check_choice("format", name, all_formats())
        if self.against == KERAS_APPLICATIONS:
            for name in networks:
                same_in_keras_applications(name)


@dataclass(frozen=True)
class Timed:
    """A contestant and how long it took.

    Attributes:
        contestant: what was run.
        seconds: by batch size, (rounds, calls) for a batch, see `timing.measure`.
        ratio: by batch size, the time over that of the first contestant of its group.
    """

    contestant: Contestant
    seconds: dict[int, np.ndarray]
    ratio: dict[int, float]

    def median(self, batch_size: int) -> float:
        """Seconds for a batch."""
        return float(np.median(self.seconds[batch_size]))

    def throughput(self) -> float:
        """Pictures a second at the batch size where these are most."""
        return max(batch_size / self.median(batch_size) for batch_size in self.seconds)


def compare(
    name: str, comparison: Comparison, progress: Callable[[str], None] = lambda text: None
) -> list[Timed]:
    """Measure one network in all formats, and what it is compared with.

    Args:
        name: the network, see `contestants.open_network`.
        comparison: what is measured.
        progress: is told what is being done.

    Returns:
        One of each format, the first of them what the others are compared with.

    Raises:
        ValueError: no such network or format, or weights or a size that do not suit it.
        RuntimeError: "bfloat16" on a CPU that cannot compute it.
        ImportError: a package of the extra `formats` is missing.
    """
    with TemporaryDirectory(prefix="keras-effnetv2-") as scratch:
        network = open_network(name, comparison.image_size, comparison.weights)
        pairs = [(network, format) for format in dict.fromkeys(comparison.formats)]
        if (other := comparison.against) is not None:
            if other == KERAS_APPLICATIONS:
                other = same_in_keras_applications(name)
            pairs.insert(0, (open_network(other, network.image_size), KERAS_EXPORT))
        contestants, runs = [], []
        for index, (one, format) in enumerate(pairs):
            progress(f"{one.name}: {format}")
            folder = Path(scratch, str(index))
            folder.mkdir()
            contestant, run = open_contestant(one, format, folder, comparison.threads)
            contestants.append(contestant)
            runs.append(run)
        seconds = {}
        for size in dict.fromkeys(comparison.batch_sizes):
            images = np.resize(network.pictures, (size, *network.pictures.shape[1:]))
            seconds[size] = measure(
                [partial(run, images) for run in runs],
                comparison.rounds,
                comparison.calls,
                partial(_tell, progress, f"{name}, {size} at once", comparison.rounds),
            )
        del network, pairs, runs
        gc.collect()  # the next network may need the memory of this one
    return timed_group(contestants, seconds)


def timed_group(contestants: Sequence[Contestant], seconds: dict[int, np.ndarray]) -> list[Timed]:
    """Join contestants with what `timing.measure` returned for them, by batch size."""
    return [
        Timed(
            contestant,
            {size: times[index] for size, times in seconds.items()},
            {size: time_ratio(times[index], times[0]) for size, times in seconds.items()},
        )
        for index, contestant in enumerate(contestants)
    ]


def _tell(progress: Callable[[str], None], doing: str, rounds: int, finished: int) -> None:
    progress(f"{doing}: round {finished} of {rounds}")
