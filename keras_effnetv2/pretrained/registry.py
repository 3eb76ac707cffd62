"""Which weight sets are published for which variant, and what each of them was trained with.

Sources: the checkpoint table of google/automl efficientnetv2 (V2), of tensorflow/tpu
models/official/efficientnet (V1), and effnetv2_configs.py / datasets.py for the preprocessing.
"""

import os

from keras_effnetv2.config import ModelConfig

_ON_IMAGENET21K = ("imagenet21k", "imagenet21k-ft1k")
_ALL_V2 = ("imagenet", *_ON_IMAGENET21K)
_V1 = ("imagenet", "noisy-student")

PUBLISHED: dict[str, tuple[str, ...]] = {
    "efficientnetv2-b0": _ALL_V2,
    "efficientnetv2-b1": _ALL_V2,
    "efficientnetv2-b2": _ALL_V2,
    "efficientnetv2-b3": _ALL_V2,
    "efficientnetv2-s": _ALL_V2,
    "efficientnetv2-m": _ALL_V2,
    "efficientnetv2-l": _ALL_V2,
    "efficientnetv2-xl": _ON_IMAGENET21K,
    "efficientnet-b0": _V1,
    "efficientnet-b1": _V1,
    "efficientnet-b2": _V1,
    "efficientnet-b3": _V1,
    "efficientnet-b4": _V1,
    "efficientnet-b5": _V1,
    "efficientnet-b6": _V1,
    "efficientnet-b7": _V1,
}
IMAGENET_CLASSES = 1000
IMAGENET21K_CLASSES = 21843


def check_published(variant: str, weights: str | None) -> None:
    """Raises ValueError unless `weights` is None or a set published for the variant."""
    if weights is not None and weights not in PUBLISHED.get(variant, ()):
        raise ValueError(
            f"`weights` must be None or a set that is published for {variant} "
            f"({_names(variant)}). Received: weights={weights!r}"
        )


def check_weights_argument(variant: str, weights: str | os.PathLike[str] | None) -> None:
    """Raises ValueError unless `weights` is None or the path of something that is there.

    Raises:
        ValueError: a set that is not published for the variant, one that this version cannot
            fetch, or a path where nothing is; the message says what can be given.
    """
    if weights is None:
        return
    if not isinstance(weights, str | os.PathLike):
        raise ValueError(
            "`weights` must be None, the name of a published set or a path. "
            f"Received: weights={weights!r}"
        )
    if weights in PUBLISHED.get(variant, ()):
        raise ValueError(
            f"weights={weights!r} is published for {variant}, but this version does not fetch "
            "files by name. Download the official archive and give its path as `weights` "
            "(weights/README.md lists the addresses), or pass weights=None for a fresh network."
        )
    if not _is_path(weights):
        raise ValueError(
            f"`weights` must be None, the path of a weight file, or a set that is published for "
            f"{variant} ({_names(variant)}). Received: weights={weights!r}"
        )


def _names(variant: str) -> str:
    return ", ".join(repr(name) for name in PUBLISHED.get(variant, ())) or "none"


def _is_path(weights: str | os.PathLike[str]) -> bool:
    # A checkpoint may be named by its prefix, to which no file of exactly that name belongs.
    return os.path.exists(weights) or os.path.exists(f"{os.fspath(weights)}.index")


def normalization_of(config: ModelConfig, trained_classes: int | None) -> str:
    """Key of `config.NORMALIZATIONS` for a network with a weight file of that many classes.

    The input range belongs to the weights: an ImageNet-21k head saw (x - 128) / 128, also on
    b0-b3, whose "imagenet" sets want mean and standard deviation.
    """
    return "symmetric" if trained_classes == IMAGENET21K_CLASSES else config.normalization


def normalization_of_set(config: ModelConfig, weights: str | None) -> str:
    """Key of `config.NORMALIZATIONS` for a published set; None is a fresh network."""
    return "symmetric" if weights in _ON_IMAGENET21K else config.normalization
