"""RUN_OR_VARIANT: the network for the commands `evaluate` and `predict`."""

import os
from typing import TYPE_CHECKING

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.options import check_weights

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import JudgedNetwork


def check_network(name: str, weights: str | None, protocol: str | None = None) -> None:
    """Raise ValueError if a name is neither a run nor a variant, or options do not go with it."""
    variants = ModelConfig.variants()
    if name in variants:
        check_weights(ModelConfig.from_name(name), weights or "imagenet")
        return
    for option, value in (("--weights", weights), ("--protocol", protocol)):
        if value is not None:
            raise ValueError(
                f"{option} is for a variant only; a run has its own. Known variants: "
                + ", ".join(variants)
            )
    if not os.path.isdir(name):
        raise ValueError(
            f"There is no folder {name!r}. RUN_OR_VARIANT must be the folder of a run or one of "
            f"{', '.join(variants)}.{did_you_mean(name, variants)}"
        )


def open_network(
    name: str, weights: str | None = None, protocol: str | None = None
) -> "JudgedNetwork":
    """Return the network of a run, or a variant with a published set or the weights of a file.

    Args:
        name: folder of a run, or a variant.
        weights: for a variant: name of a set or path; None is "imagenet".
        protocol: for a variant: how to judge it; None is the official protocol.
    """
    if name not in ModelConfig.variants():
        return _trained_network(name)
    from keras_effnetv2.evaluation.judging import published_network
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.pretrained.open_weights import open_weights

    config, weights = ModelConfig.from_name(name), weights or "imagenet"
    opened = open_weights(weights, config)
    return published_network(
        build_model(config, weights=opened),
        name,
        opened.set,
        protocol,
        facts={"variant": name, "weights": weights},
    )


def _trained_network(path: str) -> "JudgedNetwork":
    from keras_effnetv2.evaluation.judging import JudgedNetwork, TrainedOn
    from keras_effnetv2.runs.run_folder import open_run

    run = open_run(path)
    settings = run.settings
    return JudgedNetwork(
        model=run.model,
        classes=[{"class": name} for name in run.class_names],
        image_size=run.image_size,
        style=run.style,
        facts={"run": str(run.path)},
        trained_on=TrainedOn(
            run.pictures,
            all_used=settings.max_train_examples is None,
            pictures=(settings.training.pictures, settings.validation.pictures),
            validation_fraction=settings.validation_fraction,
            seed=settings.recipe.seed,
        ),
    )
