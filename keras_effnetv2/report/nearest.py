"""The training pictures that a network takes for most like others: look-alikes and wrong labels."""

from typing import NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.progress import Progress
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.report.samples import NO_CLASS, evaluation_pictures

MAX_COMPARED = 256  # training pictures; more would be most of the time that a report takes
NEAREST = 5
_BATCH = 64  # at least as many as images, and as in `evaluate_source`


class Neighbour(NamedTuple):
    """A training picture, uint8 (S, S, 3), its class, and its cosine distance of 0..2."""

    image: npt.NDArray[np.uint8]
    name: str
    label: str
    distance: float


def nearest_pictures(
    features: keras.Model,
    images: npt.NDArray[np.uint8],
    source: ImageSource,
    style: str,
    *,
    seed: int,
    progress: Progress | None = None,
) -> list[list[Neighbour]]:
    """Return the training pictures with the most similar features, the nearest first.

    Args:
        features: a result of `with_features`.
        images: (N, S, S, 3), 0..255, as evaluation sees them.
        source: the training pictures. Of more than `MAX_COMPARED` a random part is compared.
        style: how evaluation crops and resizes.
        seed: of that part.
        progress: called with (pictures compared, all pictures to compare).

    Returns:
        For each of the N images at most `NEAREST` pictures.
    """
    if source.num_examples > MAX_COMPARED:
        drawn = np.random.default_rng(seed).permutation(source.num_examples)[:MAX_COMPARED]
        source = source.subset(np.sort(drawn))
    size = images.shape[1]
    batches = make_dataset(source, image_size=size, batch_size=_BATCH, training=False, style=style)
    wanted = _directions(features, images.astype(np.float32))
    similarities: list[npt.NDArray[np.float32]] = []
    for number, (pictures, _) in enumerate(batches.as_numpy_iterator(), start=1):
        similarities.append(wanted @ _directions(features, pictures).T)
        if progress is not None:
            progress(min(number * _BATCH, source.num_examples), source.num_examples)
    similarity = np.concatenate(similarities, axis=1)
    order = np.argsort(-similarity, axis=1, kind="stable")[:, :NEAREST]
    shown = np.unique(order).tolist()
    picture_of = dict(zip(shown, evaluation_pictures(source, shown, size, style), strict=True))
    return [
        [
            Neighbour(
                picture_of[index],
                source.names[index],
                source.label_texts[index] or NO_CLASS,
                max(0.0, 1 - float(row[index])),  # rounding
            )
            for index in indices
        ]
        for row, indices in zip(similarity, order.tolist(), strict=True)
    ]


def _directions(model: keras.Model, pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return the features of pictures as rows of length 1; zeros stay zeros."""
    # Always the same shape, for which the model is compiled already.
    filled = np.resize(pictures, (_BATCH, *pictures.shape[1:]))
    features, _ = model.predict_on_batch(filled)
    rows = features[: len(pictures)].astype(np.float32)
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), np.float32(1e-12))
