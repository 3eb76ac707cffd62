"""Times of several functions, taken in turns, so that a noisy machine is noisy for all of them."""

from collections.abc import Callable, Sequence
from time import perf_counter

import numpy as np

from keras_effnetv2._common.checks import check_integer

_WARM_UP = 2  # calls: the first traces and takes memory, the second may still tune


def measure(
    runs: Sequence[Callable[[], object]],
    rounds: int,
    calls: int,
    progress: Callable[[int], None] = lambda finished: None,
) -> np.ndarray:
    """Time functions in turns.

    In every round each function has a turn, in a different order than in the round before. A turn
    is one call that does not count, because threads and caches are still those of the function
    before, and then the timed calls.

    Args:
        runs: the functions to time.
        rounds: number of turns of each, at least 1.
        calls: timed calls in a turn, at least 1.
        progress: called with the number of finished rounds.

    Returns:
        float64 (runs, rounds, calls), seconds.

    Raises:
        ValueError: there is less than one round or call.
    """
    check_integer("rounds", rounds, minimum=1)
    check_integer("calls", calls, minimum=1)
    for run in runs:
        for _ in range(_WARM_UP):
            run()
    seconds = np.empty((len(runs), rounds, calls))
    for round in range(rounds):
        for turn in range(len(runs)):
            index = (turn + round) % len(runs)
            runs[index]()
            for call in range(calls):
                start = perf_counter()
                runs[index]()
                seconds[index, round, call] = perf_counter() - start
        progress(round + 1)
    return seconds


def time_ratio(seconds: np.ndarray, baseline: np.ndarray) -> float:
    """Return how much longer one function takes than another one timed with it: below 1 is faster.

    Both are (rounds, calls) from `measure`; this is the median over the rounds of the ratio of
    their medians.
    """
    return float(np.median(np.median(seconds, axis=1) / np.median(baseline, axis=1)))
