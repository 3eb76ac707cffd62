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
    """One network that was tried.

    Attributes:
        number: its place in the study, from 0.
        state: "pruned" was stopped as hopeless, "failed" ended with `reason`.
        config: the network.
        accuracy: A, 0 to 1, on pictures held back from its training; None unless "complete".
        step_time: S, time of a training step relative to the baseline's; None if unknown.
        step_seconds: median time of its training step; None if unknown.
        parameters: P, trainable; None if unknown.
        score: see `objective.Objective`; None unless "complete".
        epochs: number of epochs trained.
        reason: why it failed; None otherwise.
    """

    number: int
    state: TrialState
    config: ModelConfig
    accuracy: float | None
    step_time: float | None
    step_seconds: float | None
    parameters: int | None
    score: float | None
    epochs: int
    reason: str | None


@dataclass(frozen=True)
class Candidate(TrialRecord):
    """A complete trial, with all its measures."""

    accuracy: float
    step_time: float
    parameters: int
    score: float


@dataclass(frozen=True)
class StudyRecord:
    """A search: its goal, and every network that it has tried.

    Attributes:
        name: name of the study.
        storage: URL of its storage, without a password.
        space: the space of its networks.
        settings: all other settings of the search: the objective's exponents, data, recipe, image
            size, epochs; plain data.
        trials: the trials in the order of their numbers.
    """

    name: str
    storage: str
    space: SearchSpace
    settings: dict[str, Any]
    trials: tuple[TrialRecord, ...]

    @property
    def baseline(self) -> ModelConfig:
        """Return the network that step times are compared with."""
        return self.space.backbone


class Findings(NamedTuple):
    """The results of a study.

    Attributes:
        candidates: the complete trials in the study's order. A trial with a missing measure, or
            one that is not finite, cannot be compared and is left out.
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

    Args:
        found: candidates.
        max_parameters: leave out networks with more parameters.
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
