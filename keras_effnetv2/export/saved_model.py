"""A trained classifier as a TensorFlow SavedModel that is served without Python.

The graph takes files or pixels and returns named classes. It holds decoding, resizing, the network
and the choice of the best classes, so a server prepares pictures exactly as training did. What the
signatures compute is in `signatures.py`.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2._common.files import written_whole
from keras_effnetv2._common.progress import working
from keras_effnetv2.export.check import (
    Batches,
    answers_of,
    batches_of,
    beyond_rounding,
    keras_answers,
    largest_difference,
    top1_agreement,
)
from keras_effnetv2.export.metadata import PIXEL_RANGE, Metadata
from keras_effnetv2.export.model_card import write_model_card
from keras_effnetv2.export.outputs import check_new_version
from keras_effnetv2.export.real_pictures import photographs
from keras_effnetv2.export.signatures import (
    CLASSIFY_METHOD,
    EXAMPLES_SIGNATURE,
    PictureInput,
    label_table,
    make_signatures,
    network_function,
    stored_weights,
)
from keras_effnetv2.export.warmup import write_warmup_requests
from keras_effnetv2.images.headers import MAX_PIXELS
from keras_effnetv2.images.styles import Style
from keras_effnetv2.models.folding import fold_batch_norm as fold
from keras_effnetv2.models.graph import last_activation

WEIGHTS_DTYPES = ("float32", "bfloat16", "float16")
"""Types in which `export_saved_model` can store weights."""

_EVERY = 3  # of the photographs it is compared on
_TOP = 5  # classes in an answer


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    version: int = 1,
    top_k: int | None = None,
    image_size: int | None = None,
    *,
    style: Style = "whole",
    max_pixels: int = MAX_PIXELS,
    fold_batch_norm: bool = True,
    weights_dtype: str = "float32",
    gif: bool = False,
    variant: str | None = None,
    weights: str | None = None,
    temperature: float | None = None,
    none_below: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> Path:
    """Write a classifier to `directory/version/`, as TensorFlow Serving expects it.

    The signatures, with S the image size, C the classes and k = min(top_k, C):

    - `serving_default`: `images` float32 (N, S, S, 3), 0..255 -> `probabilities` float32 (N, C).
    - `classify_bytes`: `image_bytes` string (N,), the bytes of JPEG, PNG, BMP or WebP files
      -> `classes` string (N, k), `scores` float32 (N, k), best first, and `error` string (N,),
      empty where all is well. A file that cannot be read has empty classes, scores of zero and
      the reason in `error`; the other files are not affected. With `thresholds`, there is also
      `thresholds` float32 (N, k), those of the classes in `classes`: a class is named if its score
      is not below.
    - `classify`, for the Classify API (method `tensorflow/serving/classify`): `inputs` string (N,),
      serialised `tf.Example`s with a file in the feature `image/encoded` -> `classes` and `scores`
      as above.

    The class names are in `assets/labels.txt`, one per line, and the served model reads them there.
    TensorFlow Serving runs one request of each signature before it answers others.
    `model_card.json` describes the model. The folder appears only when it is complete, so a server
    that watches `directory` never sees half of it.

    Args:
        model: functional or Sequential classifier, (N, H, W, 3) pixels 0..255 -> (N, C). Logits get
            a softmax, a single logit a sigmoid; softmax and sigmoid outputs stay.
        directory: the folder of the versions; made if it is missing.
        class_names: one name per class; None numbers them "0", "1", ...
        version: positive number; a server loads the highest.
        top_k: how many classes `classify_bytes` and `classify` give. None: 5, with `thresholds`
            all.
        image_size: height and width of the network's input in pixels; None takes the model's own.
        style: how files become squares, see `evaluation_crop.resize_for_evaluation`.
        max_pixels: larger pictures (height x width) get an error and are not decoded.
        fold_batch_norm: fold batch norms with `folding.fold_batch_norm`, which is faster. A model
            that cannot be folded is served as it is; the card says why.
        weights_dtype: type in which kernels are stored: "float32" (as the model has them),
            "bfloat16" or "float16", cast back where they are used. The card says how much that
            changes answers.
        gif: whether GIF files are accepted. A small one can need a gigabyte.
        variant: name of the architecture, for the card.
        weights: where the weights come from, for the card.
        temperature: for the card, see `Metadata`; what is served is without it.
        none_below: for the card, as well.
        thresholds: of a network whose pictures may have several classes (multi-label): the score of
            each class, 0..1, from which on it is named.

    Returns:
        The folder written, `directory/version`.

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
        ValueError: the model is not an image classifier, an argument does not fit it, folding
            changes a probability by more than rounding does, or a weight does not fit in float16.
        OSError: the folder cannot be written; FileExistsError if this version exists.
    """
    require_tensorflow_backend()
    network = probability_model(model)
    size = resolve_image_size(network, image_size)
    check_integer("version", version, minimum=1)
    check_integer("top_k", top_k, minimum=1, or_none=True)
    check_integer("max_pixels", max_pixels, minimum=1)
    check_choice("weights_dtype", weights_dtype, WEIGHTS_DTYPES)
    version, max_pixels = int(version), int(max_pixels)
    pictures = PictureInput(size, style, max_pixels, gif)
    metadata = metadata_of(network, class_names, size, style, temperature, none_below, thresholds)
    names = metadata.class_names
    assert names is not None
    top_k = min(int(top_k or (_TOP if thresholds is None else len(names))), len(names))
    target = _new_version_folder(Path(directory), version)
    batches = batches_of(photographs(size)[::_EVERY])
    expected = answers = keras_answers(network, batches)
    accuracy: dict[str, Any] = {"weights_dtype": weights_dtype, "pictures": len(expected)}
    if fold_batch_norm:
        network, answers, folding = _folded(network, batches, expected)
        accuracy |= folding
    stored = stored_weights(network, weights_dtype)
    probabilities = network_function(network, stored, size)
    if weights_dtype != "float32":
        exact, answers = answers, answers_of(probabilities, batches)
        accuracy["weights_max_difference"] = largest_difference(exact, answers)
    accuracy["max_difference"] = largest_difference(expected, answers)
    accuracy["top1_agreement"] = top1_agreement(expected, answers)

    with written_whole(target) as folder, tempfile.TemporaryDirectory() as scratch:
        served = tf.Module()
        # Tracked here once; `model.export` and tracking the Keras model itself store them twice.
        served.weights = stored
        served.labels = label_table(names, Path(scratch, "labels.txt"))
        signatures = make_signatures(probabilities, pictures, served.labels, top_k, thresholds)
        _save(served, signatures, folder)
        write_warmup_requests(folder, size)
        section = {"name": network.name, "variant": variant, "weights": weights}
        section["parameters"] = network.count_params()
        write_model_card(folder, section, pictures, metadata, accuracy, top_k)
        _new_version_folder(Path(directory), version)  # another process may have been faster
    return target


@working("writing the SavedModel")
def _save(served: Any, signatures: dict[str, Any], folder: Path) -> None:
    # A served graph is never differentiated, and this halves the time to load it. (Loading it
    # in Python warns that gradients are missing.)
    options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
    tf.saved_model.save(served, str(folder), signatures=signatures, options=options)
    updater = tf.compat.v1.saved_model.signature_def_utils.MethodNameUpdater(str(folder))
    updater.replace_method_name(EXAMPLES_SIGNATURE, CLASSIFY_METHOD)
    updater.save()
    # It is that of the graph before this change. TensorFlow computes a missing one.
    (folder / "fingerprint.pb").unlink()


@working("folding the batch norms")
def _folded(
    model: keras.Model, batches: Batches, answers: np.ndarray
) -> tuple[keras.Model, np.ndarray, dict[str, Any]]:
    """Return the folded model, or the model if it cannot be folded, its answers, and card entries.

    `answers` are those of the model.
    """
    try:
        folded = fold(model)
    except ValueError as error:  # one more reason to serve what was trained, not to fail
        return model, answers, {"not_folded_because": str(error)}
    found = keras_answers(folded, batches)
    difference = largest_difference(answers, found)
    rounding, too_far = beyond_rounding(difference, model, batches)
    if too_far:
        raise ValueError(
            f"Folding the batch norms of {model.name!r} changes a probability by {too_far}. Either "
            "probabilities are not finite, or the model is folded wrongly: please report "
            "that. Export it as it is (--no-fold, fold_batch_norm=False)."
        )
    return (
        folded,
        found,
        {
            "batch_norm_folded": True,
            "folding_max_difference": difference,
            "rounding_max_difference": rounding,
        },
    )


def require_tensorflow_backend() -> None:
    """Raise RuntimeError where Keras runs on another backend."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "A model can only be exported on the tensorflow backend of Keras. "
            f"This process runs on {keras.backend.backend()!r}. Export a run with the command "
            "KERAS_BACKEND=tensorflow keras-effnetv2 export. Save any other model with "
            'model.save("model.keras"), and load and export it in such a process.'
        )


def probability_model(model: keras.Model) -> keras.Model:
    """Return the same classifier from one tensor to probabilities, float32 (N, classes).

    Logits get a softmax, a single logit a sigmoid. ValueError if the model is not a classifier.
    """
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1 or len(model.inputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "Only a functional or Sequential classifier with one input and one output (N, classes) "
            "can be exported: for a model without its top, add a Dense layer; a subclassed model "
            f"has to be rebuilt from layers. Received: {model.name!r} with outputs {outputs}"
        )
    answer = outputs[0]
    activation = last_activation(answer)
    if activation == "rectified":
        raise ValueError(
            f"{model.name!r} must end with a classifier whose activation is linear (logits), "
            "softmax or sigmoid: add such a Dense layer. Received: an output that is never far "
            "below zero, as a ReLU leaves it"
        )
    if activation == "linear":
        last = "softmax" if answer.shape[-1] > 1 else "sigmoid"
        answer = keras.layers.Activation(last, dtype="float32")(answer)
    elif answer.dtype != "float32":
        answer = keras.layers.Activation("linear", dtype="float32")(answer)
    return keras.Model(model.inputs[0], answer, name=model.name)


def resolve_image_size(model: keras.Model, image_size: int | None) -> int:
    """Return the side of the square that a model takes, pixels; ValueError if there is none."""
    shape = model.input_shape
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"The model must take pictures (N, height, width, 3). Received: {shape}")
    sizes = {size for size in (*shape[1:3], image_size) if size is not None}
    if not sizes:
        raise ValueError(
            "The model takes pictures of any size, so image_size must say which one the served "
            f"model uses, for example image_size=224. Received: image_size={image_size}"
        )
    if len(sizes) > 1:
        raise ValueError(
            "`image_size` must be the height and the width of the model's input, which must be "
            "equal. Leave it out to use the model's own. "
            f"Received: image_size={image_size} for an input of {shape}"
        )
    (size,) = sizes
    check_integer("image_size", size, minimum=1)
    return int(size)  # JSON takes no integers of NumPy


def metadata_of(
    network: keras.Model,
    class_names: Sequence[str] | None,
    image_size: int,
    style: Style,
    temperature: float | None,
    none_below: float | None,
    thresholds: Sequence[float] | None,
) -> Metadata:
    """Return the metadata of a `probability_model`; without names its classes have numbers."""
    classes = network.output_shape[-1]
    if class_names is None:
        class_names = [str(index) for index in range(classes)]
    if isinstance(class_names, str) or len(class_names) != classes:
        raise ValueError(
            f"class_names must be a list of one name for each of the model's {classes} classes. "
            f"Received: {len(class_names)} in a {type(class_names).__name__}"
        )
    return Metadata(
        class_names=tuple(class_names),
        image_size=image_size,
        style=style,
        pixel_range=PIXEL_RANGE,
        activation=last_activation(network.outputs[0]),
        temperature=temperature,
        none_below=none_below,
        thresholds=None if thresholds is None else tuple(map(float, thresholds)),
    )


def _new_version_folder(directory: Path, version: int) -> Path:
    """Make `directory` and return the folder of the version, which must not exist."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        raise OSError(
            f"Cannot write to {directory}: {error.strerror}. Choose a folder that can be written."
        ) from error
    return check_new_version(directory, version)
