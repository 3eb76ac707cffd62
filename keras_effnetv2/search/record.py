"""The results of a search so far, as plain data: trials, the Pareto front and the best network."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.search.space import SearchSpace, network_of

TrialState = Literal["complete", "pruned", "failed", "running"]


@dataclass(frozen=True)
class TrialRecord:
    """One network that was tried; accuracy and score are None unless it is "complete"."""

    number: int  # its place in the study, from 0
    state: TrialState  # "pruned" was stopped as hopeless, "failed" ended with `reason`
    config: ModelConfig
    accuracy: float | None  # A, 0 to 1, on pictures held back from its training
    step_time: float | None  # S, of a training step relative to the baseline's; None if unknown
    step_seconds: float | None  # median time of its training step; None if unknown
    parameters: int | None  # P, trainable; None if unknown
    score: float | None  # see `objective.Objective`
    epochs: int  # that it was trained
    reason: str | None  # why it failed; None otherwise


@dataclass(frozen=True)
class Candidate(TrialRecord):
    """A complete trial, with all its measures."""

    accuracy: float
    step_time: float
    parameters: int
    score: float


@dataclass(frozen=True)
class StudyRecord:
    """A search: its goal, and every network that it has tried."""

    name: str  # of the study
    storage: str  # its URL, without a password
    space: SearchSpace
    settings: dict[str, Any]  # all others, as plain data: objective, goals, pictures, recipe
    trials: tuple[TrialRecord, ...]  # in the order of their numbers

    @property
    def baseline(self) -> ModelConfig:
        """Return the network that step times are compared with."""
        return self.space.backbone


class Findings(NamedTuple):
    """The results of a study."""

    # The complete trials in the study's order. One with a missing measure, or one that is not
    # finite, cannot be compared and is left out.
    candidates: list[Candidate]
    front: list[Candidate]  # see `pareto_front`
    best: Candidate | None  # see `best`; None if no trial is complete
    baseline: Candidate | None  # the first trial of the network that step times are compared with

    def marks(self, trial: TrialRecord) -> str:
        """Return the marks of a trial: "best, front", "baseline", or nothing."""
        groups = (("best", [self.best]), ("front", self.front), ("baseline", [self.baseline]))
        return ", ".join(
            name for name, group in groups if trial.number in [one.number for one in group if one]
        )


def find(study: StudyRecord) -> Findings:
    """Find the results of a study."""
    found = []
    for trial in study.trials:
        known: Any = (trial.accuracy, trial.step_time, trial.parameters, trial.score)
        if trial.state == "complete" and None not in known and all(map(math.isfinite, known)):
            found.append(Candidate(**vars(trial)))
    wanted = network_of(study.baseline)
    baseline = next((one for one in found if network_of(one.config) == wanted), None)
    return Findings(found, pareto_front(found), best(found), baseline)


def pareto_front(found: Iterable[Candidate]) -> list[Candidate]:
    """Return the networks that no other one beats, the most accurate first, then the fastest.

    One network beats another if it is no worse in accuracy, step time and parameters, and better in
    one of them. A network that was tried more than once counts once, with its highest score.
    """
    distinct: dict[Any, Candidate] = {}
    for candidate in sorted(found, key=_rank):
        distinct.setdefault(network_of(candidate.config), candidate)
    front: list[Candidate] = []
    # In this order only an earlier network can beat a later one; and if any does, one of the front.
    for candidate in sorted(distinct.values(), key=_by_accuracy):
        if not any(_beats(other, candidate) for other in front):
            front.append(candidate)
    return front


def best(found: Iterable[Candidate], *, max_parameters: float = math.inf) -> Candidate | None:
    """Return the network with the highest score, which is on the front; None if there is none.

    With equal scores it is the most accurate, then the fastest, then the smallest, then the first.
    """
    fitting = (one for one in found if one.parameters <= max_parameters)
    return min(fitting, key=_rank, default=None)


def _beats(one: Candidate, other: Candidate) -> bool:
    mine, theirs = _by_accuracy(one)[:3], _by_accuracy(other)[:3]
    return mine != theirs and all(a <= b for a, b in zip(mine, theirs, strict=True))


def _by_accuracy(one: Candidate) -> tuple[float, float, int, int]:
    return -one.accuracy, one.step_time, one.parameters, one.number


def _rank(one: Candidate) -> tuple[float, float, float, int, int]:
    return (-one.score, *_by_accuracy(one))
