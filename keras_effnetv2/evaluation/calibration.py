"""Whether scores are what they say: of the pictures with a score of 0.8, are four fifths right?

Networks are often too sure of themselves. Dividing the logits by one number, the temperature,
corrects most of that without changing the best class: Guo, Pleiss, Sun and Weinberger, "On
Calibration of Modern Neural Networks", ICML 2017, https://arxiv.org/abs/1706.04599.
NumPy alone is needed.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

BINS = 15
"""Of scores, equally wide; as in Guo et al."""

KEPT = 0.95
"""Share of the rightly named pictures that `none_below` leaves unmarked."""

ENOUGH_PICTURES = 100
"""A temperature that was fitted on fewer is only roughly right; see docs/decisions.md."""

_PRIOR = 4.0  # how many pictures speak for a temperature of one, see `fit_temperature`
_MAX_TEMPERATURE = 20.0  # and its inverse is the lowest
_STEPS, _CLOSE = 100, 1e-6  # Newton needs about six

Floats = npt.NDArray[np.floating]


class Reliability(NamedTuple):
    """How scores and shares of right answers go together, in `BINS` bins of scores."""

    # (BINS,), how many answers are in each bin; bin m of 1..BINS has the scores above
    # (m - 1) / BINS and up to m / BINS.
    counts: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]  # (BINS,), their mean score; NaN in an empty bin
    shares: npt.NDArray[np.float64]  # (BINS,), how many of them are right; NaN in an empty bin

    @property
    def error(self) -> float:
        """Expected calibration error, 0..1: mean distance of score and share, by answers."""
        gaps = np.nan_to_num(np.abs(self.scores - self.shares))
        return float((self.counts * gaps).sum() / self.counts.sum())

    @property
    def error_by_chance(self) -> float:
        """About the error, 0..1, that scores without any fault have on as many answers.

        In a bin of n answers with the mean score s the number of right ones then varies by the
        standard deviation of n draws, sqrt(n s (1 - s)), whose mean distance is sqrt(2 / pi) of it.
        """
        scores = np.nan_to_num(self.scores)
        spread = np.sqrt(2 / np.pi * self.counts * scores * (1 - scores))
        return float(spread.sum() / self.counts.sum())


def reliability(scores: Floats, right: npt.NDArray[np.bool_]) -> Reliability:
    """Return how the scores of answers, (N,) 0..1, and whether they are right go together."""
    bins = np.clip(np.ceil(scores.astype(np.float64) * BINS).astype(np.int64) - 1, 0, BINS - 1)
    counts = np.bincount(bins, minlength=BINS)

    def means(values: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        sums = np.bincount(bins, values, minlength=BINS)
        return np.divide(sums, counts, out=np.full(BINS, np.nan), where=counts > 0)

    return Reliability(counts, means(scores), means(right))


def answers(scores: Floats, labels: npt.NDArray[Any]) -> tuple[Floats, npt.NDArray[np.bool_]]:
    """Return the highest score of each picture, (N,), and whether it is that of the true class.

    Multi-label (`labels` are (N, classes) bool): all scores, and whether the picture is of the
    class, (N * classes,).
    """
    if labels.ndim == 2:
        return scores.ravel(), labels.ravel()
    return scores.max(-1), scores.argmax(-1) == labels


@dataclass(frozen=True)
class Confidence:
    """How sure a network's scores may be taken, fitted on judged pictures."""

    temperature: float  # see `fit_temperature`
    none_below: float | None  # see `none_threshold`
    before: Reliability  # of the network's own highest scores
    # Of those with the temperature. They are of the pictures that it was fitted on, so they look a
    # little better than on others.
    after: Reliability


def fit_confidence(scores: Floats, labels: npt.NDArray[Any], activation: str) -> Confidence:
    """Return what judged pictures say of a network's scores.

    Args:
        scores: (N, classes), after the activation.
        labels: (N,), the true classes; multi-label: (N, classes) bool, and no `none_below`.
        activation: "softmax" or "sigmoid".
    """
    temperature = fit_temperature(scores, labels, activation)
    corrected = calibrated(scores, temperature, activation)
    best, right = answers(scores, labels)
    return Confidence(
        temperature,
        none_threshold(best[right]) if labels.ndim == 1 else None,
        reliability(best, right),
        reliability(*answers(corrected, labels)),
    )


def fit_temperature(scores: Floats, labels: npt.NDArray[Any], activation: str) -> float:
    """Return the temperature that makes the labels most likely, 0.05..20.

    It minimises the negative log-likelihood of the labels, summed over the pictures (for sigmoid
    scores also over the classes), plus 4 (b - 1 - ln b), with b = 1 / temperature. That is a prior
    (a Gamma distribution with its mode at 1), which matters where there are few pictures or none
    is wrong: without it the temperature of a network without mistakes would be 0. The sum is
    convex in b, so it has one minimum, which Newton's method finds.

    The arguments are those of `fit_confidence`.
    """
    logits = _logits(scores, activation)
    classes = np.arange(logits.shape[-1])
    truth = labels if labels.ndim == 2 else labels[:, np.newaxis] == classes

    def slopes(b: float) -> tuple[float, float]:
        """Return the first and the second derivative of the sum."""
        found = _scores(np.float32(b) * logits, activation)
        first = ((found - truth) * logits).sum(dtype=np.float64)
        parts = found * logits
        square = (parts * logits).sum(-1, dtype=np.float64)
        if activation == "softmax":
            square -= parts.sum(-1, dtype=np.float64) ** 2
        else:
            square -= (parts**2).sum(-1, dtype=np.float64)
        return first + _PRIOR * (1 - 1 / b), square.sum() + _PRIOR / b**2

    low, high, b = 1 / _MAX_TEMPERATURE, _MAX_TEMPERATURE, 1.0
    for _ in range(_STEPS):
        first, second = slopes(b)
        low, high = (low, b) if first > 0 else (b, high)
        last, b = b, b - first / second
        if not low <= b <= high:  # outside of where the minimum is
            b = (low * high) ** 0.5
        if abs(b - last) < _CLOSE * last:
            break
    return float(1 / b)


def none_threshold(scores: Floats) -> float | None:
    """Return the score that `KEPT` of the rightly named pictures reach.

    A picture whose highest score is lower may show none of the classes.

    Args:
        scores: (N,), the highest score of each rightly named picture; without one there is no
            threshold.
    """
    return float(np.quantile(scores, 1 - KEPT, method="lower")) if len(scores) else None


def calibrated(scores: Floats, temperature: float, activation: str) -> npt.NDArray[np.float32]:
    """Return the scores that logits divided by a temperature give.

    Args:
        scores: (N, classes), after the activation.
        temperature: above 0; above 1 makes scores less sure. The order of the classes stays.
        activation: "softmax" or "sigmoid".

    Returns:
        float32 (N, classes), 0..1; those of a softmax add up to 1.
    """
    return _scores(_logits(scores, activation) / np.float32(temperature), activation)


def _logits(scores: Floats, activation: str) -> npt.NDArray[np.float32]:
    """Return logits that give scores; for a softmax the highest is 0."""
    smallest = np.finfo(np.float32).tiny
    logits = np.log(np.maximum(scores, smallest, dtype=np.float32))
    if activation == "softmax":
        return logits - logits.max(-1, keepdims=True)
    rest = np.maximum(1 - scores.astype(np.float64), 2.0**-25)  # half a step of float32 below 1
    return (logits - np.log(rest)).astype(np.float32)


def _scores(logits: npt.NDArray[np.float32], activation: str) -> npt.NDArray[np.float32]:
    if activation == "sigmoid":
        return np.exp(-np.logaddexp(np.float32(0), -logits))
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)
