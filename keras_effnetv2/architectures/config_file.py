"""Which network is meant: the name of a variant, or a JSON file of a `ModelConfig`."""

import os
from pathlib import Path

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2.architectures.config import ModelConfig


def read_config(name_or_path: str) -> ModelConfig:
    """Return the published variant of a name, or the network that a JSON file describes.

    A variant's name is never taken for a file, which holds what `ModelConfig.to_json` gave.

    Raises:
        ValueError: neither a variant nor a file, a file that cannot be read, or one that holds no
            model config; the message names the file.
    """
    if name_or_path in ModelConfig.variants():
        return ModelConfig.from_name(name_or_path)
    if not os.path.exists(name_or_path):
        raise ValueError(
            f"Unknown variant, and no such file: {name_or_path!r}."
            f"{did_you_mean(name_or_path, ModelConfig.variants())} Known variants: "
            f"{', '.join(ModelConfig.variants())}. A file describes another network, in the form "
            "that `keras-effnetv2 info VARIANT --json` prints."
        )
    path = Path(name_or_path)
    try:
        return ModelConfig.from_json(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:  # brackets nested without end
        raise ValueError(
            f"{path} is not the JSON file of a network, as `keras-effnetv2 info VARIANT --json` "
            f"prints one: {error}"
        ) from None


def is_published(config: ModelConfig) -> bool:
    """Return whether a config is a variant of the paper, wholly, and not only called as one."""
    return config.name in ModelConfig.variants() and config == ModelConfig.from_name(config.name)
