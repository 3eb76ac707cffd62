"""Judging a model on a source: scores of every picture, and the figures made of them."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource


@dataclass(frozen=True)
class Evaluation:
    """What a model makes of a source.

    Attributes:
        labels: (N,) int64, the truth.
        scores: (N, classes) float32, the model's output.
    """

    labels: np.ndarray
    scores: np.ndarray

    @property
    def predictions(self) -> np.ndarray:
        """(N,) the class of the highest score."""
        return self.scores.argmax(-1)

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose highest score is the truth."""
        return float((self.predictions == self.labels).mean())

    def top_accuracy(self, k: int) -> float:
        """Share of the pictures whose truth is among the k highest scores."""
        best = np.argsort(-self.scores, axis=-1, kind="stable")[:, :k]
        return float((best == self.labels[:, None]).any(-1).mean())

    def recall_by_class(self) -> np.ndarray:
        """(classes,) share of each class's pictures that were recognised; NaN without pictures."""
        classes = self.scores.shape[-1]
        counts = np.bincount(self.labels, minlength=classes)
        right = np.bincount(self.labels[self.predictions == self.labels], minlength=classes)
        return np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0)

    @property
    def loss(self) -> float:
        """Mean cross entropy of the probability given to the truth, without label smoothing."""
        truth = self.scores[np.arange(len(self.labels)), self.labels]
        return float(-np.log(np.maximum(truth, keras.config.epsilon())).mean())


def evaluate_source(
    model: keras.Model,
    source: ImageSource,
    *,
    image_size: int,
    style: str,
    batch_size: int = 64,
    progress: Callable[[int, int], Any] | None = None,
) -> Evaluation:
    """Runs a model over every picture of a source, in order.

    Args:
        model: pixels 0..255 -> (N, classes).
        source: its class names are the model's, in order.
        image_size: side of the pictures, pixels.
        style: how they are cropped and resized, see `preprocess.resize_for_evaluation`.
        batch_size: pictures a step.
        progress: called with (pictures done, all pictures).

    Raises:
        ValueError: the model has another number of classes.
    """
    if model.output_shape[-1] != len(source.class_names):
        raise ValueError(
            f"The model has {model.output_shape[-1]} classes, the pictures have "
            f"{len(source.class_names)}; load the source with the model's class_names."
        )
    batches = make_dataset(
        source, image_size=image_size, batch_size=batch_size, training=False, style=style
    )
    scores: list[np.ndarray] = []
    done = 0
    for images, _ in batches.as_numpy_iterator():  # JAX takes no TensorFlow tensors
        scores.append(model.predict_on_batch(images))
        done += len(scores[-1])
        if progress is not None:
            progress(done, source.num_examples)
    return Evaluation(source.labels, np.concatenate(scores))
