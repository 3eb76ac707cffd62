"""Draws by class: a validation split, a small part of the pictures, an epoch of even classes.

Pure functions of the labels and a seed, so two processes that load `train` and `validation` get
parts that fit together.
"""

import math
from collections.abc import Sequence

import numpy as np

from keras_effnetv2._common.checks import check_integer, is_number
from keras_effnetv2._common.text import some


def carve_validation(
    labels: np.ndarray, class_names: Sequence[str], fraction: float, seed: int
) -> np.ndarray:
    """Choose the pictures to hold back for validation, as `stratified_draw` does.

    Args:
        labels: (N,) integers, positions in `class_names`; multi-label: (N, C) bool.
        class_names: for messages.
        fraction: share of the pictures, inside (0, 1); each class has at least one on either side,
            which is not sure of rare classes with multi-label.
        seed: at least 0.

    Returns:
        Their positions, (V,) int64 ascending, V = N * fraction rounded.

    Raises:
        ValueError: the fraction is out of range, or too small or large for the classes, or a class
            has only one picture.
    """
    if not is_number(fraction) or not 0 < fraction < 1:
        raise ValueError(
            "`validation_fraction` must lie between 0 and 1, both excluded. Received: "
            f"{fraction!r}."
        )
    total = int(len(labels) * fraction + 0.5)
    if labels.ndim == 2:
        if not 0 < total < len(labels):
            raise ValueError(
                f"Of {len(labels)} pictures, `validation_fraction` {fraction:g} is {total} for "
                f"validation and {len(labels) - total} for training. Both need one: add pictures, "
                "or choose another fraction."
            )
        return stratified_draw(labels, total, seed, leave=1)
    present, counts = np.unique(labels, return_counts=True)
    if single := [class_names[label] for label in present[counts == 1]]:
        raise ValueError(
            f"Classes with only one picture cannot be divided into train and validation: "
            f"{some(single)}. Add pictures, or give validation pictures of your own (a folder "
            "'validation' next to 'train', or a column 'split' in the CSV)."
        )
    if not len(present) <= total <= len(labels) - len(present):
        share = len(present) / len(labels) * 1e6
        smallest, largest = math.ceil(share) / 1e6, math.floor(1e6 - share) / 1e6
        raise ValueError(
            f"`validation_fraction` must be {smallest:g} to {largest:g} here: of {len(labels)} "
            f"pictures, {fraction:g} is {total} for validation and {len(labels) - total} for "
            f"training, and both need a picture of each of the {len(present)} classes."
        )
    return stratified_draw(labels, total, seed, leave=1)


def stratified_draw(labels: np.ndarray, total: int, seed: int, leave: int = 0) -> np.ndarray:
    """Draw `total` pictures, the classes in proportion to their size, at least one of each.

    The labels only group the pictures: other numbers for the same classes draw the same pictures,
    so a run with its own order of classes gets the same validation split.

    Args:
        labels: (N,) integers; multi-label: (N, C) bool.
        total: between C, the number of classes with pictures, and N - `leave` * C.
        seed: at least 0.
        leave: how many pictures of each class must not be drawn.

    Returns:
        Their positions, (total,) int64 ascending.
    """
    check_integer("seed", seed, minimum=0)
    if labels.ndim == 2:
        return _multi_label_draw(labels, total, seed, leave)
    _, first, counts = np.unique(labels, return_index=True, return_counts=True)
    members = _by_class(labels, counts)
    by_appearance = np.argsort(first)
    taken = _apportion(counts[by_appearance], total, leave)
    drawn = [
        np.random.default_rng([seed, rank]).permutation(members[group])[:count]
        for rank, (group, count) in enumerate(zip(by_appearance, taken, strict=True))
    ]
    return np.sort(np.concatenate(drawn))


def even_draw(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw as many pictures as there are, every class as often as any other, or once more.

    Of a large class some are left out, those of a small one come several times: each has come k
    times before any comes for the time k + 1.

    Args:
        labels: (N,) integers.
        random: draws the pictures, and the classes that come once more.

    Returns:
        (N,) int64, class after class: the position of a picture + N times how often it has come
        before.
    """
    _, counts = np.unique(labels, return_counts=True)
    total, classes = len(labels), len(counts)
    shares = total // classes + (random.permutation(classes) < total % classes)
    return np.concatenate(
        [
            np.resize(random.permutation(own), share) + np.arange(share) // len(own) * total
            for own, share in zip(_by_class(labels, counts), shares.tolist(), strict=True)
        ]
    )


def _by_class(labels: np.ndarray, counts: np.ndarray) -> list[np.ndarray]:
    """Return the positions of each class's pictures, as `np.unique` orders the classes."""
    return np.split(np.argsort(labels, kind="stable"), np.cumsum(counts)[:-1])


def _multi_label_draw(labels: np.ndarray, total: int, seed: int, leave: int) -> np.ndarray:
    """Draw pictures that may have several classes, each class about in proportion to its size.

    Class after class, the rarest first: of its pictures that were in no rarer class, as many as its
    share lacks. Source: iterative stratification of Sechidis, Tsoumakas and Vlahavas, On the
    Stratification of Multi-Label Data (2011), with the order of the classes settled before.
    """
    order, count = np.random.default_rng(seed).permutation(len(labels)), len(labels)
    labels = labels[order]
    counts = labels.sum(axis=0)
    shares = np.minimum(np.maximum(np.rint(counts * total / count), 1), counts - leave)
    drawn, rarest = np.zeros(count, bool), np.full(count, count + 1)
    # Of equally rare classes the one that appears first: their numbers do not matter.
    for label in np.lexsort([labels.argmax(axis=0), counts]).tolist():
        having = labels[:, label]
        members = np.flatnonzero(having & (rarest > count))
        lacking = int(shares[label]) - np.count_nonzero(drawn & having)
        drawn[members[: max(lacking, 0)]] = True
        rarest[members] = counts[label]
    # To make up the total: pictures without a class first, then those of common classes only.
    excess = np.count_nonzero(drawn) - total
    common = np.argsort(-rarest, kind="stable")
    changed = common[drawn[common] == (excess > 0)][: abs(excess)]
    drawn[changed] = excess < 0
    return np.sort(order[drawn])


def _apportion(counts: np.ndarray, total: int, leave: int) -> np.ndarray:
    """Return the number to take from each class: proportional, 1..count - leave, of this total."""
    quota = counts * (total / counts.sum())
    taken = np.clip(np.floor(quota).astype(np.int64), 1, counts - leave)
    while missing := total - taken.sum():
        step = 1 if missing > 0 else -1
        movable = taken < counts - leave if step > 0 else taken > 1
        taken[np.argmax(np.where(movable, (quota - taken) * step, -np.inf))] += step
    return taken
