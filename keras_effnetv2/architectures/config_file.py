"""Find a network by the name of a variant, or in a JSON file of a `ModelConfig`."""

import os
from pathlib import Path

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2._common.files import check_regular
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_unless_path


def read_config(name_or_path: str) -> ModelConfig:
    """Return the published variant with a name, or the network in a JSON file.

    A variant's full name is never read as a file; other spellings of it are, if there is such a
    file. A file holds the result of `ModelConfig.to_json`.

    Raises:
        ValueError: it is neither a variant nor a file, or the file cannot be read or is not a model
            config; the message names the file.
    """
    if variant := variant_unless_path(name_or_path):
        return ModelConfig.from_name(variant)
    if not os.path.exists(name_or_path):
        raise ValueError(
            f"Unknown variant, and no such file: {name_or_path!r}."
            f"{did_you_mean(name_or_path, ModelConfig.variants())} Known variants: "
            f"{', '.join(ModelConfig.variants())}. A file describes another network in the form "
            "that `keras-effnetv2 info VARIANT --json` prints."
        )
    path = Path(name_or_path)
    try:
        check_regular(path)
        return ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise ValueError(
            f"{path} is not a JSON file of a network, in the form that `keras-effnetv2 info "
            f"VARIANT --json` prints: {error}"
        ) from None


def is_published(config: ModelConfig) -> bool:
    """Return whether a config is exactly a variant of the paper, not only by name."""
    return config in published_forms(config.name)[:1]


def published_forms(name: str) -> list[ModelConfig]:
    """Return a published variant, then what it is for small pictures, which its weights fit, too.

    Nothing for the name of another network.
    """
    if name not in ModelConfig.variants():
        return []
    config = ModelConfig.from_name(name)
    sides = (2**halvings for halvings in range(7, 1, -1))  # one stride less for each, from none on
    return list(dict.fromkeys(config.for_small_pictures(side) for side in sides))
