"""Uneven classes: weights by class for the loss, and draws in which every class is as frequent.

Importing this module starts neither NumPy nor TensorFlow.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from keras_effnetv2._common.checks import check_choice, did_you_mean, is_number
from keras_effnetv2._common.text import some

if TYPE_CHECKING:
    import numpy as np

    from keras_effnetv2.data.sources import ImageSource

BALANCED: Literal["balanced"] = "balanced"
ClassWeights = Mapping[str, float] | Literal["balanced"] | None
"""What a picture of each class weighs: as `weights_by_class` says, by name, or all the same."""

_LEAST, _MOST = 1e-6, 1e6  # beyond, the loss or its squared gradients may leave float32


def check_class_balance(class_weights: Any, balanced: Any) -> ClassWeights:
    """Return class weights as plain values, without knowing the classes.

    Raises:
        ValueError: `class_weights` or `balanced` is not what `make_dataset` takes, or both are on.
    """
    check_choice("balanced", balanced, (True, False))
    if class_weights is None:
        return None
    if isinstance(class_weights, str) and class_weights == BALANCED:
        if balanced:
            raise ValueError(
                '`class_weights` "balanced" and balanced draws (--balanced, balanced=True) each '
                "make up for rare classes, which would count twice. Choose one of them."
            )
        return BALANCED
    wrong = class_weights
    if isinstance(class_weights, Mapping):
        given = class_weights.items()
        wrong = {
            name: weight
            for name, weight in given
            if not isinstance(name, str) or not is_number(weight) or not _LEAST <= weight <= _MOST
        }
        if not wrong:
            return {str(name): float(weight) for name, weight in given}
    raise ValueError(
        '`class_weights` must be "balanced", or a number from 1e-6 to 1e6 for classes by '
        'their names (--class-weights coat=2,dress=0.5, or a JSON file {"coat": 2}; '
        'class_weights={"coat": 2, "dress": 0.5}), or None. '
        f"Received: {wrong!r}"
    )


def check_one_class(source: "ImageSource", class_weights: ClassWeights, balanced: bool) -> None:
    """Raise ValueError for class weights or balanced draws of pictures with several classes."""
    if source.multi_label and (balanced or class_weights is not None):
        raise ValueError(
            "Class weights and balanced draws (--class-weights, --balanced) are for pictures of "
            f"one class, and those of {source.spec!r} may have several or none (multi-label). "
            f"Leave them out. Received: class_weights={class_weights!r}, balanced={balanced!r}"
        )


def check_weighted_names(class_weights: ClassWeights, class_names: Sequence[str]) -> None:
    """Raise ValueError if classes have weights that are not among the class names."""
    from keras_effnetv2.data.names import composed

    given = class_weights if isinstance(class_weights, Mapping) else {}
    if unknown := [name for name in given if composed(name) not in class_names]:
        raise ValueError(
            "`class_weights` has classes that the pictures do not have."
            f"{did_you_mean(unknown[0], class_names)} The classes are {some(class_names)}. "
            f"Received: {some(unknown)}"
        )


def weights_by_class(class_weights: ClassWeights, source: "ImageSource") -> "np.ndarray":
    """Return what a picture of each class of a source weighs, (C,) float32.

    "balanced" is N / (classes * pictures of the class), as in scikit-learn, counting classes with
    pictures: every class weighs the same, and the mean over the pictures is 1. By name: 1 for
    classes that are not named.

    Raises:
        ValueError: see `check_weighted_names`.
    """
    import numpy as np

    from keras_effnetv2.data.names import composed

    check_weighted_names(class_weights, source.class_names)
    if isinstance(class_weights, str):  # "balanced"
        counts = source.class_counts()
        even = counts.sum() / np.count_nonzero(counts)
        return (even / np.maximum(counts, 1)).astype(np.float32)
    given = {composed(name): weight for name, weight in (class_weights or {}).items()}
    return np.array([given.get(name, 1.0) for name in source.class_names], np.float32)
