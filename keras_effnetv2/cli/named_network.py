"""RUN_OR_VARIANT: the network that the commands `evaluate` and `predict` are given."""

import os
from typing import TYPE_CHECKING

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.options import check_weights

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import JudgedNetwork
    from keras_effnetv2.runs.run_folder import Run


def is_variant(name: str) -> bool:
    """Return whether a variant is named, not a run."""
    return name in ModelConfig.variants()


def check_network(name: str, weights: str | None, protocol: str | None = None) -> None:
    """Raise ValueError for a name that is neither, or options that do not go with it."""
    variants = ModelConfig.variants()
    if is_variant(name):
        check_weights(ModelConfig.from_name(name), weights or "imagenet")
        return
    for option, value in (("--weights", weights), ("--protocol", protocol)):
        if value is not None:
            raise ValueError(
                f"{option} goes with a variant; a run has its own. Known variants: "
                + ", ".join(variants)
            )
    if not os.path.isdir(name):
        raise ValueError(
            f"RUN_OR_VARIANT must be the folder of a run or one of {', '.join(variants)}. "
            f"Received: {name!r}"
        )


def open_variant(variant: str, weights: str | None, protocol: str | None = None) -> "JudgedNetwork":
    """Return a variant with a published set or the weights of a file.

    Args:
        variant: its name.
        weights: name of a set or path; None is "imagenet".
        protocol: of the evaluation; None is the official one.
    """
    from keras_effnetv2.evaluation.judging import published_network
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.pretrained.open_weights import open_weights

    config, weights = ModelConfig.from_name(variant), weights or "imagenet"
    opened = open_weights(weights, config)
    return published_network(
        build_model(config, weights=opened),
        variant,
        opened.set,
        protocol,
        facts={"variant": variant, "weights": weights},
    )


def trained_network(run: "Run") -> "JudgedNetwork":
    """Return the network of a run, to be judged as it was while it was trained."""
    from keras_effnetv2.evaluation.judging import JudgedNetwork

    return JudgedNetwork(
        model=run.model,
        classes=[{"class": name} for name in run.class_names],
        image_size=run.image_size,
        style=run.style,
        facts={"run": str(run.path)},
    )
