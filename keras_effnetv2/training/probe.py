"""A linear probe: the classifier learns alone, on features that are computed once."""

import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.progress import progress_bar, working
from keras_effnetv2.data.class_balance import BALANCED, weights_by_class
from keras_effnetv2.data.pipeline import InputSpec
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.models.graph import traced_layers, with_features
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.history import HistoryFile
from keras_effnetv2.runs.run_settings import Limits
from keras_effnetv2.training.assemble import jit_compile, make_metric
from keras_effnetv2.training.best_epoch import BestEpoch
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.time_budget import TimeBudget
from keras_effnetv2.training.workers import local_copy, undistributed

_BATCH = 64  # pictures of a forward pass
# Of the time that is left, for the features of the training pictures: the rest is for the training,
# or, if the classifier is all, for fitting it.
_SHARE_IF_FIRST, _SHARE_IF_ALL = 1 / 3, 0.9


@working("fitting the classifier")
def fit_classifier(
    model: keras.Model,
    inputs: Inputs,
    unreadable: UnreadablePictures,
    budget: TimeBudget | None,
    say: Callable[[str], Any],
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> None:
    """Fit the classifier of a network to the features of the training pictures.

    The features are what the network makes of the pictures as evaluation crops them, without
    augmentation: 5 KB a picture for 1,280 channels. In place of balanced draws the pictures have
    weights, with the same gradients on average. If the recipe says `probe="only"`, it is
    followed; otherwise this prepares its first stage with the recipe "probe".

    An epoch has as many passes over the pictures as the recipe's `min_steps` need; if the
    classifier is only fitted first, one epoch of Keras has them all.

    Args:
        model: a functional or Sequential classifier that ends with a Dense layer.
        inputs: of the training.
        unreadable: notes pictures that cannot be read.
        budget: of the time, or None; where it is short, only some of the pictures are learned from.
        say: called with a line about what was fitted.
        callbacks: of the classifier's `fit`.

    Raises:
        ValueError: see `last_dense`.
    """
    recipe, plan = inputs.recipe, inputs.plan
    is_all = inputs.is_probe
    if not is_all:
        probe = TrainRecipe.preset("probe")
        same = {name: getattr(recipe, name) for name in ("loss", "label_smoothing", "seed")}
        probe = replace(probe, image_size=plan[0].image_size, **same)
        recipe, plan = probe.resolve(None, inputs.training.num_examples)
    with undistributed():
        local = local_copy(model) if inputs.workers.devices > 1 else model
        classifier = last_dense(local)
        features = with_features(local)
        spec = inputs.evaluation_spec() if is_all else inputs.input_spec(plan[-1])
        judged = _features(features, inputs.validation, spec, UnreadablePictures(unreadable.skip))
        learned = _learned(features, inputs, spec, unreadable, judged, budget, say)
        by_class = weights_by_class(inputs.recipe.class_weights, inputs.training)
        if inputs.recipe.balanced:
            by_class *= weights_by_class(BALANCED, inputs.training)
        metric = make_metric(inputs)
        head = keras.Sequential(
            [
                keras.Input((classifier.kernel.shape[0],)),
                keras.layers.Dense(
                    classifier.units, activation=recipe.loss, use_bias=classifier.use_bias
                ),
            ]
        )
        size, count = plan[0].batch_size, len(learned.rows)
        rows = (learned.rows, recipe.smooth_labels(learned.labels), learned.labels @ by_class)
        batches = tf.data.Dataset.from_tensor_slices(rows).shuffle(count, recipe.seed).batch(size)
        passes = math.ceil(recipe.min_steps / len(batches) / plan.epochs) or 1
        steps = passes * len(batches)  # of an epoch of the recipe
        if is_all and passes > 1:
            say(f"each epoch has {passes} passes, to make the recipe's {recipe.min_steps:,} steps")
        head.compile(
            recipe.make_optimizer(plan, steps * size, head),
            recipe.make_loss(),
            metrics=[metric],
            jit_compile=jit_compile(),
        )
        epochs = plan.epochs if is_all else 1  # of Keras: each costs more than the steps in it
        done = itertools.count(1)
        with progress_bar("fitting the classifier", " steps") as show:
            told = keras.callbacks.LambdaCallback(
                on_train_batch_end=lambda batch, logs: show(next(done), steps * plan.epochs)
            )
            fitted = head.fit(
                batches.repeat(passes * plan.epochs // epochs),
                shuffle=False,
                epochs=epochs,
                validation_data=(judged.rows, judged.labels),
                callbacks=[*callbacks, told],
                verbose=0,
            )
        if not is_all:
            score = fitted.history[f"val_{metric.name}"][-1]
            say(f"The classifier alone, at {spec.image_size} pixels: val_{metric.name} {score:.4f}")
        weights = head.get_weights()
    last_dense(model).set_weights(weights)
    if budget is not None:
        budget.ended("the classifier")


def fit_probe(
    model: keras.Model,
    inputs: Inputs,
    unreadable: UnreadablePictures,
    folder: Path,
    limits: Limits,
    budget: TimeBudget | None,
    callbacks: Sequence[keras.callbacks.Callback],
    say: Callable[[str], Any],
) -> dict[str, list[float]]:
    """Fit the classifier alone, as the training of a run folder; return the history."""
    path = folder / run_folder.HISTORY if inputs.workers.is_first else None
    history = HistoryFile(path, inputs.plan)
    best = BestEpoch(limits.patience, inputs.plan, history)
    fit_classifier(model, inputs, unreadable, budget, say, [history, best, *callbacks])
    return history.columns


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
            "row of numbers per picture; train it with probe=None in the recipe. "
            f"Received: {model.name!r} with {last.name!r}"
        )
    return last


class _Features(NamedTuple):
    """What a network makes of pictures."""

    rows: np.ndarray  # (N, C)
    labels: np.ndarray  # (N, classes)
    seconds_to_start: float  # of the first batch, which traces
    seconds_of_picture: float  # after it


def _learned(
    model: keras.Model,
    inputs: Inputs,
    spec: InputSpec,
    unreadable: UnreadablePictures,
    judged: _Features,
    budget: TimeBudget | None,
    say: Callable[[str], Any],
) -> _Features:
    """Return the features of the training pictures, or of those for which there is time."""
    source, is_all = inputs.training, inputs.is_probe
    if budget is not None:
        if is_all:
            of_validation = len(judged.rows) * judged.seconds_of_picture
            budget.keep_for_results(judged.seconds_to_start, of_validation, of_features=True)
        seconds = (_SHARE_IF_ALL if is_all else _SHARE_IF_FIRST) * budget.seconds_left()
        least = min(_BATCH, source.num_examples)
        count = max(least, len(source.class_names), int(seconds / judged.seconds_of_picture))
        if count < source.num_examples:
            say(
                f"The classifier is fitted to {count:,} of the {source.num_examples:,} pictures, "
                "to end in time (--max-minutes, max_minutes=)."
            )
            source = source.stratified_subset(count, inputs.recipe.seed)
            unreadable = UnreadablePictures(unreadable.skip)  # has positions in the source
    return _features(model, source, spec, unreadable)


def _features(
    model: keras.Model,
    source: ImageSource,
    spec: InputSpec,
    unreadable: UnreadablePictures,
) -> _Features:
    """Return the features and the labels of the readable pictures."""
    batches = spec.dataset(source, batch_size=_BATCH, training=False, unreadable=unreadable)
    features, labels, times = [], [], [time.monotonic()]
    with progress_bar(f"features of {source.split} pictures") as show:
        for images, some_labels in batches.as_numpy_iterator():  # JAX takes no TensorFlow tensors
            features.append(model.predict_on_batch(images)[0])
            labels.append(some_labels)
            times.append(time.monotonic())
            show(sum(map(len, labels)), source.num_examples)
    # Of a single batch the start counts, too.
    timed = features[1:] or features
    seconds = times[-1] - times[-1 - len(timed)]
    return _Features(
        np.concatenate(features),
        np.concatenate(labels),
        times[1] - times[0],
        seconds / sum(map(len, timed)),
    )
