"""Judging a model on a source: the scores of every picture, and figures computed from them."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.checks import check_choice
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.evaluation.calibration import (
    Confidence,
    Reliability,
    answers,
    calibrated,
    fit_confidence,
    reliability,
)
from keras_effnetv2.evaluation.class_scores import average_precisions, f1_scores
from keras_effnetv2.export.runtimes import ExportedModel
from keras_effnetv2.images.styles import Style
from keras_effnetv2.models.graph import last_activation
from keras_effnetv2.pretrained.registry import IMAGENET21K_CLASSES, WEIGHT_SETS, WeightSet

PROTOCOLS = ("official", "timm", "keras")
"""How pictures are cropped and resized to judge published weights; see `evaluation_protocol`."""

_CONFIDENCE = 0.95
_SUMS_OF_SOFTMAX = (0.5, 1.1)


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a source."""

    labels: np.ndarray  # (N,) int64, the true classes; multi-label: (N, classes) bool
    scores: np.ndarray  # (N, classes) float32, the model's output
    activation: str = "softmax"  # the last one of the model, e.g. "softmax" or "sigmoid"
    # Multi-label: the scores from which on the classes are named, (classes,) or one.
    thresholds: np.ndarray | float = 0.5

    def __repr__(self) -> str:
        """Return the number of pictures and the first figure, not the arrays."""
        name, value = next(iter(self.figures().items()))
        shown = f"{name.replace('_', ' ')} {value:.2%}"
        return f"<Evaluation of {len(self.labels):,} pictures, {shown}>"

    @property
    def multi_label(self) -> bool:
        """Whether a picture may have several classes or none."""
        return self.labels.ndim == 2

    @property
    def named(self) -> np.ndarray:
        """(N, classes) bool, multi-label: the classes that are named."""
        return np.asarray(self.scores >= self.thresholds)

    @property
    def wrongly_named(self) -> np.ndarray:
        """(N, classes) bool, multi-label: the classes that are named and not true."""
        return np.logical_and(self.named, ~self.labels)

    @property
    def predictions(self) -> np.ndarray:
        """(N,) the class with the highest score."""
        return self.scores.argmax(-1)

    @property
    def accuracy(self) -> float:
        """Share of the pictures whose highest score is that of the true class.

        Multi-label: of those for which exactly their classes are named.
        """
        if self.multi_label:
            return float((self.named == self.labels).all(-1).mean())
        return float((self.predictions == self.labels).mean())

    @property
    def mean_average_precision(self) -> float:
        """Multi-label: the mean of `average_precisions` over the classes with pictures."""
        return _mean(average_precisions(self.labels, self.scores))

    @property
    def f1(self) -> float:
        """Multi-label: the mean of `f1_scores` over the classes with pictures."""
        return _mean(f1_scores(self.labels, self.named))

    def by_class(self) -> dict[str, np.ndarray]:
        """Return figures of each class by name, (classes,), NaN without pictures."""
        if not self.multi_label:
            return {"recall": self.recall_by_class()}
        return {
            "average precision": average_precisions(self.labels, self.scores),
            "F1": f1_scores(self.labels, self.named),
            "threshold": np.broadcast_to(self.thresholds, self.labels.shape[1]),
        }

    def figures(self) -> dict[str, Any]:
        """Return the figures of all pictures by name, the most important one first."""
        if self.multi_label:
            return {
                "mean_average_precision": self.mean_average_precision,
                "f1": self.f1,
                "accuracy": self.accuracy,
                "loss": self.loss,
            }
        top_5 = {
            "top_5_accuracy": self.top_accuracy(5),
            "top_5_accuracy_interval": self.top_accuracy_interval(5),
        }
        return {
            "accuracy": self.accuracy,
            "accuracy_interval": self.top_accuracy_interval(1),
            **(top_5 if self.scores.shape[-1] > 5 else {}),  # otherwise it is always 1
            "mean_recall": self.mean_recall,
            "loss": self.loss,
        }

    def top_accuracy(self, k: int) -> float:
        """Return the share of the pictures with a true class among the k highest scores."""
        return float(self._among_best(k).mean())

    def top_accuracy_interval(self, k: int) -> tuple[float, float]:
        """Return the 95% confidence interval of `top_accuracy` (`wilson_interval`), as shares."""
        return wilson_interval(int(self._among_best(k).sum()), len(self.labels))

    def _among_best(self, k: int) -> np.ndarray:
        best = np.argsort(-self.scores, axis=-1, kind="stable")[:, :k]
        if self.multi_label:
            return np.any(np.take_along_axis(self.labels, best, axis=-1), axis=-1)
        return (best == self.labels[:, None]).any(-1)

    def recall_by_class(self) -> np.ndarray:
        """Return (classes,) the recognised share of each class's pictures, NaN without pictures."""
        classes = self.scores.shape[-1]
        counts = np.bincount(self.labels, minlength=classes)
        right = np.bincount(self.labels[self.predictions == self.labels], minlength=classes)
        return np.divide(right, counts, out=np.full(classes, np.nan), where=counts > 0)

    @property
    def mean_recall(self) -> float:
        """Mean recall of the classes with pictures, each counting the same (balanced accuracy)."""
        return float(np.nanmean(self.recall_by_class()))

    @property
    def reliability(self) -> Reliability:
        """How scores and the share of right ones go together, see `calibration.answers`."""
        return reliability(*answers(self.scores, self.labels))

    @cached_property
    def confidence(self) -> Confidence | None:
        """What these pictures say of the scores.

        None if they are no probabilities, or for multi-label.
        """
        if self.multi_label or self.activation not in ("softmax", "sigmoid"):
            return None
        return fit_confidence(self.scores, self.labels, self.activation)

    def with_temperature(self, temperature: float) -> "Evaluation":
        """Return the evaluation of scores with a temperature, see `calibrated`."""
        scores = calibrated(self.scores, temperature, self.activation)
        return replace(self, scores=scores)

    @property
    def loss(self) -> float:
        """Mean cross entropy without label smoothing, as the activation is trained.

        Softmax: of the probability of the true class. Sigmoid: binary, and the mean over the
        classes, too. NaN after any other activation, whose scores are not probabilities, and of a
        softmax for pictures of several classes.
        """
        if self.activation not in (("sigmoid",) if self.multi_label else ("softmax", "sigmoid")):
            return float("nan")
        smallest = keras.config.epsilon()
        if self.activation == "softmax":
            truth = self.scores[np.arange(len(self.labels)), self.labels]
            return float(-np.log(np.maximum(truth, smallest)).mean())
        labels = self.labels
        if not self.multi_label:
            labels = labels[:, None] == np.arange(self.scores.shape[-1])
        right = np.where(labels, self.scores, 1 - self.scores)
        return float(-np.log(np.maximum(right, smallest)).mean())


def _mean(values: np.ndarray) -> float:
    """Return the mean of the numbers; NaN if there is none."""
    numbers = values[~np.isnan(values)]
    return float(numbers.mean()) if numbers.size else float("nan")


def wilson_interval(successes: int, trials: int) -> tuple[float, float]:
    """Return the 95% confidence interval of a share, by Wilson's score without correction.

    Source: Wilson, Journal of the American Statistical Association 22 (1927), 209-212. Unlike
    the share plus and minus two standard errors it also holds near 0 and 1 and for few trials.

    Args:
        successes: 0..trials.
        trials: at least 1.

    Returns:
        Lower and upper end, inside 0..1.
    """
    z = NormalDist().inv_cdf((1 + _CONFIDENCE) / 2)
    share = successes / trials
    middle = share + z**2 / (2 * trials)
    half = z * (share * (1 - share) / trials + (z / (2 * trials)) ** 2) ** 0.5
    total = 1 + z**2 / trials
    # The ends are exactly 0 and 1 without a success or a failure, but for rounding.
    return max((middle - half) / total, 0.0), min((middle + half) / total, 1.0)


def set_to_follow(variant: str, found: WeightSet | None, classes: int) -> WeightSet:
    """Return the published set whose evaluation fits weights of a variant.

    Args:
        variant: a published one, e.g. "efficientnetv2-s".
        found: the set of the weights, from `registry.find_weight_set`.
        classes: width of the classifier.

    Returns:
        `found`, if there is one. For unpublished weights "imagenet21k" if they have its 21,843
        classes, otherwise "imagenet", or "imagenet21k-ft1k" if that is not published (XL).
    """
    if found is not None:
        return found
    likely = ["imagenet", "imagenet21k-ft1k"]
    if classes == IMAGENET21K_CLASSES:
        likely.insert(0, "imagenet21k")
    return next(WEIGHT_SETS[variant, name] for name in likely if (variant, name) in WEIGHT_SETS)


def evaluation_protocol(weight_set: WeightSet, protocol: str) -> tuple[int, Style]:
    """Return how a protocol prepares the pictures for a published set.

    Args:
        weight_set: the set.
        protocol: "official", as its authors evaluate it; "timm", as PyTorch Image Models does;
            "keras": keras.applications has no published protocol, so this is the default of
            `keras.utils.image_dataset_from_directory` at the variant's evaluation size: the whole
            picture, bilinear, without antialias.

    Returns:
        Side of the pictures in pixels, and the style for `evaluation_crop.resize_for_evaluation`.

    Raises:
        ValueError: the protocol is unknown, or PyTorch Image Models does not have the set.
    """
    check_choice("protocol", protocol, PROTOCOLS)
    if protocol == "official":
        return weight_set.image_size, weight_set.style
    if protocol == "keras":
        return ModelConfig.from_name(weight_set.variant).eval_size, "finetune"
    if weight_set.timm is None:
        raise ValueError(
            f"PyTorch Image Models does not have {weight_set.weights!r} of {weight_set.variant}, "
            "so there is no protocol 'timm' for it. Use 'official' or 'keras' (--protocol, "
            "protocol=)."
        )
    return weight_set.timm.size, weight_set.timm


def evaluate_source(
    model: keras.Model | ExportedModel,
    source: ImageSource,
    *,
    image_size: int,
    style: Style,
    batch_size: int = 64,
    progress: Callable[[int, int], Any] | None = None,
) -> Evaluation:
    """Run a model over every picture of a source, in order.

    Args:
        model: pixels 0..255 -> (N, classes), also the result of `with_features`; or an export.
        source: its class names are the model's, in order.
        image_size: side of the pictures, pixels.
        style: how they are cropped and resized, see `evaluation_crop.resize_for_evaluation`.
        batch_size: pictures per step.
        progress: called with (pictures done, all pictures).

    Raises:
        ValueError: the model has a different number of classes.
    """
    batches = make_dataset(
        source, image_size=image_size, batch_size=batch_size, training=False, style=style
    )
    run = model if isinstance(model, ExportedModel) else model.predict_on_batch
    scores: list[np.ndarray] = []
    done, full = 0, min(batch_size, source.num_examples)
    for images, _ in batches.as_numpy_iterator():  # JAX takes no TensorFlow tensors
        outputs = run_padded(run, images, full)
        found = outputs[-1] if isinstance(outputs, list | tuple) else outputs
        if found.shape[-1] != len(source.class_names):
            raise ValueError(
                f"The model has {found.shape[-1]} classes, but the pictures have "
                f"{len(source.class_names)}. Load the source with the model's class_names."
            )
        scores.append(found)
        done += len(found)
        if progress is not None:
            progress(done, source.num_examples)
    all_scores = np.concatenate(scores)
    if isinstance(model, ExportedModel):
        return Evaluation(source.labels, all_scores, _likely_activation(all_scores))
    return Evaluation(source.labels, all_scores, last_activation(model.outputs[-1]))


def run_padded(run: Callable[[np.ndarray], Any], images: np.ndarray, size: int) -> Any:
    """Return what a function of batches returns for pictures, called with `size` of them.

    A batch of another shape would be traced, which takes longer than some pictures more.
    """
    full = np.resize(images, (size, *images.shape[1:])) if len(images) < size else images
    return keras.tree.map_structure(lambda output: output[: len(images)], run(full))


def _likely_activation(scores: np.ndarray) -> str:
    """Return the activation of an export: those of a softmax add up to one.

    In int8 most of a thousand classes are rounded to zero.
    """
    low, high = _SUMS_OF_SOFTMAX
    if scores.min() < 0 or scores.max() > high:
        return "linear"
    return "softmax" if low < scores.sum(-1).mean() < high else "sigmoid"
