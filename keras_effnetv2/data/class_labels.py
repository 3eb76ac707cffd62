"""The labels of a source, found by name among the class names of a training or of a network."""

from collections.abc import Sequence

import numpy as np

from keras_effnetv2._common.text import listed, some
from keras_effnetv2.data.catalog import LabelledPictures
from keras_effnetv2.data.names import alike, composed


def map_labels(
    name: str, pictures: LabelledPictures, own: Sequence[str], targets: Sequence[str]
) -> np.ndarray:
    """Return the labels as positions in `targets`, found by name."""
    label_of = {target: label for label, target in enumerate(targets)}
    given, multi_label = pictures.labels, pictures.labels.ndim == 2
    positions = np.array([label_of.get(composed(found), -1) for found in own])
    lines = []
    for label in np.flatnonzero(positions < 0).tolist():
        having = np.flatnonzero(given[:, label] if multi_label else given == label).tolist()
        if not having:
            continue
        names = pictures.origins or pictures.store.names(pictures.rows)
        near = [target for target in targets if alike(target) == alike(own[label])]
        meant = f" (is it {near[0]!r}?)" if near else ""
        lines.append(f"  {own[label]!r}{meant}: {listed([names[n] for n in having], 3)}")
    if lines:
        raise ValueError(
            f"{name!r} has classes that are not among the {len(targets)} class "
            f"names ({some(targets)}):\n" + "\n".join(lines)
        )
    if not multi_label:
        return positions[given]
    labels = np.zeros((len(given), len(targets)), bool)
    labels[:, positions[positions >= 0]] = given[:, positions >= 0]
    return labels


def as_asked(name: str, labels: np.ndarray, classes: int, multi_label: bool | None) -> np.ndarray:
    """Return the labels of an `ImageSource` as `load_source(multi_label=)` asks for them."""
    if labels.ndim == 2 and multi_label is False:
        raise ValueError(
            f"The pictures of {name!r} have several classes each. Take them as they are (without "
            "--no-multi-label, multi_label=None)."
        )
    return (
        labels[:, np.newaxis] == np.arange(classes) if labels.ndim == 1 and multi_label else labels
    )
