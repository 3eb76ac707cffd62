"""Which networks of a search are worth a look: the Pareto front, and the best of them."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from keras_effnetv2.architectures.config import ModelConfig, Stage
from keras_effnetv2.search.record import StudyRecord, TrialRecord


@dataclass(frozen=True)
class Candidate(TrialRecord):
    """A complete trial, of which everything is known."""

    accuracy: float
    step_time: float
    parameters: int
    score: float


class Findings(NamedTuple):
    """What a study has found.

    Attributes:
        candidates: see `candidates`.
        front: see `pareto_front`.
        best: see `best`; None if no trial is complete.
        baseline: the first trial of the network that step times are compared with; None if it has
            not been tried.
    """

    candidates: list[Candidate]
    front: list[Candidate]
    best: Candidate | None
    baseline: Candidate | None

    def marks(self, trial: TrialRecord) -> str:
        """Return what is to be said of a trial: "best, front", "baseline", or nothing."""
        groups = (("best", [self.best]), ("front", self.front), ("baseline", [self.baseline]))
        return ", ".join(
            name for name, group in groups if trial.number in [one.number for one in group if one]
        )


def find(study: StudyRecord) -> Findings:
    """Look through a study."""
    found = candidates(study)
    wanted = _network(study.baseline)
    baseline = next((one for one in found if _network(one.config) == wanted), None)
    return Findings(found, pareto_front(found), best(found), baseline)


def candidates(study: StudyRecord) -> list[Candidate]:
    """Return the complete trials of a study, in its order.

    One that lacks a measure, or has one that is not finite, cannot be compared and is left out.
    """
    return [
        Candidate(**vars(trial))
        for trial in study.trials
        if trial.state == "complete"
        and all(
            value is not None and math.isfinite(value)
            for value in (trial.accuracy, trial.step_time, trial.parameters, trial.score)
        )
    ]


def pareto_front(found: Iterable[Candidate]) -> list[Candidate]:
    """Return the networks that no other one beats; each is more accurate, faster or smaller.

    One network beats another if it is no worse in accuracy, step time and parameters, and better in
    one of them. Networks that are equal in all three do not beat each other. A network that was
    tried more than once counts once, as the trial with the highest score.

    Returns:
        The most accurate first; of those, the fastest.
    """
    distinct: dict[tuple[tuple[Stage, ...], int], Candidate] = {}
    for candidate in sorted(found, key=_rank):
        distinct.setdefault(_network(candidate.config), candidate)
    front: list[Candidate] = []
    # In this order only an earlier network can beat a later one; and if any does, one of the front.
    for candidate in sorted(distinct.values(), key=_by_accuracy):
        if not any(_beats(other, candidate) for other in front):
            front.append(candidate)
    return front


def best(found: Iterable[Candidate], *, max_parameters: int | None = None) -> Candidate | None:
    """Return the network with the highest score, which is one of the front.

    Args:
        found: see `candidates`.
        max_parameters: leaves out networks with more; None leaves out none.

    Returns:
        None if there is no network. Of equal scores the most accurate, then the fastest, then the
        smallest, then the first.
    """
    most = math.inf if max_parameters is None else max_parameters
    return min((one for one in found if one.parameters <= most), key=_rank, default=None)


def _network(config: ModelConfig) -> tuple[tuple[Stage, ...], int]:
    """What is built: stem (in the first stage), stages and head, not name nor training."""
    return config.stages, config.head_filters


def _beats(one: Candidate, other: Candidate) -> bool:
    mine, theirs = _by_accuracy(one)[:3], _by_accuracy(other)[:3]
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _by_accuracy(one: Candidate) -> tuple[float, float, int, int]:
    return -one.accuracy, one.step_time, one.parameters, one.number


def _rank(candidate: Candidate) -> tuple[float, float, float, int, int]:
    return (-candidate.score, *_by_accuracy(candidate))
