"""From a network and a recipe to a Keras model that is ready for `fit`, and `fit` itself."""

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.training_kernels import use_training_kernels
from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.recipes.tensorflow_variables import placed_as
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.snapshots import random_states


def build_to_train(config: ModelConfig, inputs: Inputs, weights: str | None = None) -> keras.Model:
    """Build a network for the classes, the loss, the dropout and the precision of a training."""
    recipe = inputs.recipe
    rates = [stage.dropout_rate for stage in inputs.plan if stage.dropout_rate is not None]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        return build_model(
            config,
            weights=weights,
            classes=len(inputs.training.class_names),
            classifier_activation=recipe.loss,
            # The rate in force is set stage by stage; here it must be above 0 to be settable.
            dropout_rate=max(rates) if rates else None,
            drop_path_rate=recipe.drop_path_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)


def compile_to_train(model: keras.Model, inputs: Inputs) -> None:
    """Compile a network with the recipe's optimizer and loss, and make all variables."""
    recipe = inputs.recipe
    with placed_as(model):
        if keras.backend.backend() == "tensorflow":
            use_training_kernels(model)  # a model that was given may have Keras' own
        model.compile(
            recipe.make_optimizer(inputs.plan, inputs.pictures_per_epoch, model),
            recipe.make_loss(),
            metrics=[make_metric(inputs)],
            jit_compile=jit_compile(),
        )
        # The variables of the optimizer and of the metrics, into which a snapshot is restored.
        model.optimizer.build(model.trainable_variables)
        labels = np.zeros((1, len(inputs.training.class_names)), "float32")
        model.compute_metrics(None, labels, labels)


def make_metric(inputs: Inputs) -> keras.metrics.Metric:
    """Return what an epoch is judged by, beside the loss."""
    if inputs.training.multi_label:
        return PrecisionRecallArea(len(inputs.training.class_names))
    return keras.metrics.CategoricalAccuracy("accuracy")


class PrecisionRecallArea(keras.metrics.AUC):
    """The area under the curve of precision and recall, the mean over the classes: "pr_auc".

    It is near the mean average precision, which takes every score and not 200 thresholds. A label
    that is smoothed or mixed counts if more than half of it is there.
    """

    def __init__(self, classes: int) -> None:
        super().__init__(curve="PR", name="pr_auc", multi_label=True, num_labels=classes)

    def update_state(self, y_true: Any, y_pred: Any, sample_weight: Any = None) -> None:
        super().update_state(keras.ops.convert_to_tensor(y_true) > 0.5, y_pred, sample_weight)


def jit_compile() -> bool | str:
    """Return the `jit_compile` of a model that is trained, for the current backend."""
    # XLA would trace and compile the train step at every stage; JAX knows no other way.
    return False if keras.backend.backend() == "tensorflow" else "auto"


def fit_stages(
    model: keras.Model,
    inputs: Inputs,
    progressive: ProgressiveLearning,
    callbacks: Sequence[keras.callbacks.Callback],
    **options: Any,
) -> None:
    """Run the only `fit` of a compiled model, as the recipe says.

    The given `callbacks` run after those of the recipe; `options` are further arguments of `fit`.
    """
    recipe = inputs.recipe
    average = [] if recipe.ema_decay is None else [EMA(recipe.ema_decay)]
    model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        shuffle=False,  # each epoch's data is shuffled as it is made
        validation_data=progressive.validation,
        callbacks=[progressive, Reseed(recipe.seed), *average, *callbacks],
        **options,
    )


class Reseed(keras.callbacks.Callback):
    """Makes the random numbers of an epoch (dropout, stochastic depth) depend on it and the seed.

    So the epochs of a resumed training draw the same numbers as those of an uninterrupted one.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        for index, state in enumerate(random_states(self.model)):
            drawn = np.random.SeedSequence([self._seed, epoch, index]).generate_state(1)[0]
            state.assign([int(drawn) >> 1, 0])  # 31 bits fit every backend's integers
