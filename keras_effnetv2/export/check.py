"""How much an export changes probabilities, and whether the best class stays the same."""

from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2.models.graph import bare_graph, copy_weights

DIFFERENCE_LIMIT = 1e-4
"""How much an export may change a probability; in float32 the change is about 1e-6."""

_ROUNDING_FACTOR = 4  # how much more an export may do than rounding does to the model itself
_AT_ONCE = 8  # pictures

Batches = Sequence[np.ndarray]
"""Pictures float32 (N, H, W, 3), 0..255."""


def batches_of(pictures: np.ndarray) -> list[np.ndarray]:
    """Cut pictures to batches that fit in memory."""
    return [pictures[at : at + _AT_ONCE] for at in range(0, len(pictures), _AT_ONCE)]


def answers_of(run: Callable[[Any], Any], batches: Batches) -> np.ndarray:
    """Return the results of a function of one batch for several: (pictures, classes)."""
    answers: list[np.ndarray] = []
    with progress_bar("checking the export") as progress:
        for batch in batches:
            progress(sum(map(len, answers)), sum(map(len, batches)))
            answers.append(np.asarray(run(batch)))
    return np.concatenate(answers)


def keras_answers(model: keras.Model, batches: Batches) -> np.ndarray:
    """Return what a Keras model predicts: (pictures, classes)."""
    return answers_of(lambda images: model(images, training=False), batches)


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    """Return the largest absolute difference of two arrays, NaN if a value is."""
    return float(np.abs(one - other).max())


def beyond_rounding(
    difference: float, model: keras.Model, batches: Batches
) -> tuple[float | None, str]:
    """Return how much rounding alone changes answers, and why a difference is too large, "" if not.

    Rounding is measured only above `DIFFERENCE_LIMIT`, with a copy in float64: half precision and
    untrained networks, whose logits can be in the thousands, always differ by more.
    """
    if difference <= DIFFERENCE_LIMIT:
        return None, ""
    # Of two copies, so that what a layer loses in a copy does not pass for rounding.
    rounded, exact = (keras_answers(in_dtype(model, dtype), batches) for dtype in (None, "float64"))
    rounding = largest_difference(rounded, exact)
    if difference <= _ROUNDING_FACTOR * rounding:
        return rounding, ""
    return rounding, (
        f"{difference:.2g}. The limit is {DIFFERENCE_LIMIT:g}, or {_ROUNDING_FACTOR} times what "
        f"rounding alone does to the model ({rounding:.2g})"
    )


def top1_agreement(one: np.ndarray, other: np.ndarray) -> float:
    """Return the share of the pictures on which two answers (N, C) have the same best class.

    With a single output, for two classes, both must be on the same side of one half.
    """

    def best(answers: np.ndarray) -> np.ndarray:
        return answers[:, 0] >= 0.5 if answers.shape[1] == 1 else answers.argmax(1)

    return float((best(one) == best(other)).mean())


def in_dtype(model: keras.Model, dtype: str | None) -> keras.Model:
    """Return a functional copy of a model whose layers compute in `dtype`; None: as before."""

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if isinstance(layer, keras.Layer) and dtype is not None:
            config["dtype"] = dtype
        return type(layer).from_config(config)

    bare = bare_graph(model)
    copy = keras.models.clone_model(bare, clone_function=clone, recursive=True)
    copy_weights(bare.weights, copy.weights)
    return copy
