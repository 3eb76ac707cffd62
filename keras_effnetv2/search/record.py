"""What a search has found so far, as plain data, wherever it was stored."""

from dataclasses import dataclass
from typing import Any, Literal

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.search.space import SearchSpace

TrialState = Literal["complete", "pruned", "failed", "running"]


@dataclass(frozen=True)
class TrialRecord:
    """One network that was tried.

    Attributes:
        number: its place in the study, from 0.
        state: "pruned" was given up as hopeless, "failed" ended with `reason`.
        config: the network.
        accuracy: A, 0 to 1, on pictures held back from its training; None unless "complete".
        step_time: S, time of a training step over that of the baseline beside it; None if unknown.
        step_seconds: time of its training step, median; None if unknown.
        parameters: P, trainable; None if unknown.
        score: see `objective.Objective`; None unless "complete".
        epochs: that were trained.
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
class StudyRecord:
    """A search: what it looks for, and every network that it has tried.

    Attributes:
        name: of the study.
        storage: its URL, without a password.
        space: where networks are taken from.
        settings: everything else that makes two searches the same: the objective's exponents, data,
            recipe, image size, epochs; plain data.
        trials: in the order of their numbers.
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
