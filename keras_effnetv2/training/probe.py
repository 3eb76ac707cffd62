"""A linear probe: the classifier learns alone, on features that are computed once."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2.data.class_balance import BALANCED, weights_by_class
from keras_effnetv2.data.pipeline import InputSpec
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.models.graph import traced_layers, with_features
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training.assemble import jit_compile, make_metric
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.workers import local_copy, undistributed

_BATCH = 64  # pictures of a forward pass


def fit_classifier(
    model: keras.Model,
    inputs: Inputs,
    unreadable: UnreadablePictures,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Fit the classifier of a network to the features of the training pictures.

    The features are what the network makes of the pictures as evaluation crops them, without
    augmentation: 5 KB a picture for 1,280 channels. In place of balanced draws the pictures have
    weights, with the same gradients on average. If the recipe says `probe="only"`, it is
    followed; otherwise this prepares its first stage with the recipe "probe".

    Args:
        model: a functional or Sequential classifier that ends with a Dense layer.
        inputs: of the training.
        unreadable: notes pictures that cannot be read.
        callbacks: of the classifier's `fit`.

    Raises:
        ValueError: see `last_dense`.
    """
    recipe, plan = inputs.recipe, inputs.plan
    is_all = recipe.probe == "only"
    if not is_all:
        probe = TrainRecipe.preset("probe")
        probe = replace(probe, image_size=plan[0].image_size, loss=recipe.loss, seed=recipe.seed)
        recipe, plan = probe.resolve(None, inputs.training.num_examples)
    with undistributed():
        local = local_copy(model) if inputs.workers.devices > 1 else model
        classifier = last_dense(local)
        features = with_features(local)
        spec = inputs.evaluation_spec() if is_all else inputs.input_spec(plan[-1])
        pictures, labels = _features(features, inputs.training, spec, unreadable)
        by_class = weights_by_class(inputs.recipe.class_weights, inputs.training)
        if inputs.recipe.balanced:
            by_class *= weights_by_class(BALANCED, inputs.training)
        judged = None
        if is_all:
            judged = _features(features, inputs.validation, spec, unreadable)
        head = keras.Sequential(
            [
                keras.Input((classifier.kernel.shape[0],)),
                keras.layers.Dense(
                    classifier.units, activation=recipe.loss, use_bias=classifier.use_bias
                ),
            ]
        )
        head.compile(
            recipe.make_optimizer(plan, len(pictures), head),
            recipe.make_loss(),
            metrics=[make_metric(inputs)],
            jit_compile=jit_compile(),
        )
        # Of few pictures an epoch of Keras takes much longer than the steps in it, so it has all
        # passes if nobody looks between them.
        passes = 1 if is_all else plan.epochs
        rows = (pictures, recipe.smooth_labels(labels), labels @ by_class)
        batches = tf.data.Dataset.from_tensor_slices(rows).shuffle(len(pictures), recipe.seed)
        batches = batches.batch(plan[0].batch_size).repeat(passes)
        steps, done = len(batches) * plan.epochs // passes, itertools.count(1)
        with progress_bar("fitting the classifier", " steps") as show:
            told = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: show(next(done), steps)
            )
            head.fit(
                batches,
                shuffle=False,
                epochs=plan.epochs // passes,
                validation_data=judged,
                callbacks=[*callbacks, told],
                verbose=0,
            )
        weights = head.get_weights()
    last_dense(model).set_weights(weights)


def last_dense(model: keras.Model) -> Any:
    """Return the last layer with weights; ValueError if a linear probe cannot fit it."""
    layers = [layer for layer, *_ in traced_layers(model, model.input_shape)]
    last = [layer for layer in layers if getattr(layer, "weights", None)][-1]
    try:
        with_features(model)
        is_dense = isinstance(last, keras.layers.Dense)
    except ValueError:  # several classifiers, or one of a map
        is_dense = False
    if not is_dense:
        raise ValueError(
            "A linear probe needs a model whose last layer with weights is Dense, and takes one "
            "row of numbers a picture; train it with probe=None in the recipe. "
            f"Received: {model.name!r} with {last.name!r}"
        )
    return last


def _features(
    model: keras.Model,
    source: ImageSource,
    spec: InputSpec,
    unreadable: UnreadablePictures,
) -> tuple[np.ndarray, np.ndarray]:
    """Return the features (N, C) and the labels (N, classes) of the readable pictures."""
    batches = spec.dataset(source, batch_size=_BATCH, training=False, unreadable=unreadable)
    features, labels = [], []
    with progress_bar(f"features of {source.split} pictures") as show:
        for images, some_labels in batches.as_numpy_iterator():  # JAX takes no TensorFlow tensors
            features.append(model.predict_on_batch(images)[0])
            labels.append(some_labels)
            show(sum(map(len, labels)), source.num_examples)
    return np.concatenate(features), np.concatenate(labels)
