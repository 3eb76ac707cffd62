"""Figures of each class on its own, for pictures that may have several classes (multi-label).

They are those of scikit-learn: `average_precision_score` and `f1_score`. A class without pictures
has NaN, and does not count in a mean, where scikit-learn counts a zero.
"""

from typing import NamedTuple

import numpy as np

ENOUGH_OF_CLASS = 10
"""Pictures of a class; a threshold chosen on fewer would be chance."""

_UNKNOWN = 0.5  # the threshold of a class with too few pictures


class _Curve(NamedTuple):
    """What happens to a class at each threshold, the highest first."""

    scores: np.ndarray  # (T,) the different scores; a picture is named from one of them on
    named: np.ndarray  # (T,) how many pictures have at least this score
    right: np.ndarray  # (T,) how many of those are of the class
    pictures: int  # of the class


def _curve(labels: np.ndarray, scores: np.ndarray) -> _Curve:
    order = np.argsort(-scores, kind="stable")
    scores = scores[order].astype(np.float64)
    ends = np.flatnonzero(np.diff(scores, append=-np.inf))  # equal scores are named together
    return _Curve(scores[ends], ends + 1, labels[order].cumsum()[ends], int(labels.sum()))


def average_precisions(labels: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Return the average precision of each class, (C,): the mean precision over its pictures.

    Args:
        labels: (N, C) bool.
        scores: (N, C), 0..1.
    """
    found = np.full(labels.shape[1], np.nan)
    for label in np.flatnonzero(labels.any(axis=0)).tolist():
        curve = _curve(labels[:, label], scores[:, label])
        steps = np.diff(curve.right, prepend=0)
        found[label] = (steps * curve.right / curve.named).sum() / curve.pictures
    return found


def best_thresholds(
    labels: np.ndarray, scores: np.ndarray, enough: int = ENOUGH_OF_CLASS
) -> np.ndarray:
    """Return the threshold of each class with its highest F1, (C,); with too few pictures 0.5.

    It is the middle between two scores, of thresholds that are as good the highest.

    Args:
        labels: (N, C) bool.
        scores: (N, C), 0..1.
        enough: fewest pictures of a class.
    """
    found = np.full(labels.shape[1], _UNKNOWN)
    for label in np.flatnonzero(labels.sum(axis=0) >= enough).tolist():
        curve = _curve(labels[:, label], scores[:, label])
        best = int(np.argmax(curve.right / (curve.named + curve.pictures)))
        found[label] = np.append(curve.scores, 0)[best : best + 2].mean()
    return found


def f1_scores(labels: np.ndarray, named: np.ndarray) -> np.ndarray:
    """Return the F1 of each class, (C,), from (N, C) bool: the labels, and what was named."""
    pictures, right = labels.sum(axis=0), (labels & named).sum(axis=0)
    found = np.full(labels.shape[1], np.nan)
    return np.divide(2 * right, named.sum(axis=0) + pictures, out=found, where=pictures > 0)
