"""A trained classifier as a TensorFlow SavedModel that is served without Python.

The graph takes files or pixels and gives named classes: decoding, resizing, the network and the
choice of the best classes are all in it, so that a server cannot prepare pictures otherwise than
training did.
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2.architecture import last_activation
from keras_effnetv2.headers import MAX_PIXELS
from keras_effnetv2.preprocess import Style, check_image_size, prepare_batch

_PROBABILITIES = ("softmax", "sigmoid")


def export_saved_model(
    model: keras.Model,
    directory: str | os.PathLike[str],
    class_names: Sequence[str] | None = None,
    version: int = 1,
    top_k: int = 5,
    image_size: int | None = None,
    *,
    style: Style = "whole",
    max_pixels: int = MAX_PIXELS,
) -> Path:
    """Write a classifier to `directory/version/`, as TensorFlow Serving expects it.

    The signatures, with S the image size, C the classes and k = min(top_k, C):

    - `serving_default`: `images` float32 (N, S, S, 3), 0..255 -> `probabilities` float32 (N, C).
    - `classify_bytes`: `image_bytes` string (N,), the bytes of JPEG, PNG, BMP, GIF or WebP files
      -> `classes` string (N, k), `scores` float32 (N, k), best first, and `error` string (N,),
      empty where all is well. A file that cannot be read has empty classes, scores of zero and
      the reason in `error`; its neighbours are unaffected.

    The class names are in `assets/labels.txt`, one a line, and are read from there at serving. The
    folder is written beside its place and renamed, so a server that watches `directory` never
    sees half of it.

    Args:
        model: functional or Sequential classifier, (N, H, W, 3) pixels 0..255 -> (N, C). Logits
            (a last layer without activation) get a softmax, one logit alone a sigmoid; softmax and
            sigmoid outputs stay.
        directory: the folder of the versions; made if need be.
        class_names: one name a class; None numbers them "0", "1", ...
        version: positive number; a server takes the highest.
        top_k: how many classes `classify_bytes` names.
        image_size: height and width of the network's input in pixels; None takes the model's own.
        style: how files become squares, see `preprocess.resize_for_evaluation`.
        max_pixels: larger pictures (height x width) are answered with an error, not decoded.

    Returns:
        The folder written, `directory/version`.

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
        ValueError: the model is no image classifier, or an argument does not fit it.
        FileExistsError: this version is there already.
        OSError: the folder cannot be written.
    """
    _require_tensorflow_backend()
    to_probabilities = _probability_function(model)
    size = _resolve_image_size(model, image_size)
    names = _resolve_class_names(class_names, model.output_shape[-1])
    for name, value in (("version", version), ("top_k", top_k)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1. Received: {value!r}")
    target = _new_version_folder(Path(directory), version)

    def prepare(files: Any) -> tuple[Any, Any]:
        return prepare_batch(files, size, style, max_pixels)

    def probabilities_of(images: Any) -> Any:
        # TensorFlow's CPU convolution of an empty batch has a wrong shape (seen with 2.21), so
        # that runs as a batch of one, which is cut off again.
        count = tf.shape(images)[0]
        images = tf.cond(count > 0, lambda: images, lambda: tf.zeros([1, size, size, 3]))
        return to_probabilities(tf.cast(model(images, training=False), tf.float32))[:count]

    with tempfile.TemporaryDirectory(prefix=".export-", dir=target.parent) as scratch:
        served = tf.Module()
        # Tracked here once; `model.export` and tracking the Keras model itself store them twice.
        served.weights = [weight.value for weight in model.weights]
        served.labels = _label_table(names, Path(scratch, "labels.txt"))
        signatures = {
            "serving_default": _images_signature(probabilities_of, size),
            "classify_bytes": _bytes_signature(
                prepare, probabilities_of, served.labels, min(top_k, len(names))
            ),
        }
        # A served graph is never differentiated, and this halves the time to load it. (Loading it
        # in Python warns that gradients are missing.)
        options = tf.saved_model.SaveOptions(experimental_custom_gradients=False)
        written = Path(scratch, "saved_model")
        tf.saved_model.save(served, str(written), signatures=signatures, options=options)
        written.rename(target)
    return target


def _require_tensorflow_backend() -> None:
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "A SavedModel can only be written on the tensorflow backend of Keras. "
            f"This process runs on {keras.backend.backend()!r}: save the model with "
            'model.save("model.keras"), then load and export it in a process that is started '
            "with KERAS_BACKEND=tensorflow."
        )


def _probability_function(model: keras.Model) -> Callable[[Any], Any]:
    """Return what turns the model's output into probabilities: identity but for logits."""
    outputs = getattr(model, "outputs", None)
    if not outputs or len(outputs) != 1 or len(model.inputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "Only a functional or Sequential classifier with one input and one output (N, classes) "
            "can be exported: for a model without its top, add a Dense layer; a subclassed model "
            f"has to be rebuilt from layers. Received: {model.name!r} with outputs {outputs}"
        )
    activation = last_activation(outputs[0])
    if activation == "linear":
        return tf.nn.softmax if outputs[0].shape[-1] > 1 else tf.nn.sigmoid
    if activation in _PROBABILITIES:
        return tf.identity
    raise ValueError(
        f"The last layer of {model.name!r} must be a classifier whose activation is linear "
        f"(logits), softmax or sigmoid: add such a Dense layer. Received: {activation}"
    )


def _resolve_image_size(model: keras.Model, image_size: int | None) -> int:
    shape = model.input_shape
    if len(shape) != 4 or shape[-1] != 3:
        raise ValueError(f"The model must take pictures (N, height, width, 3). Received: {shape}")
    sizes = {size for size in (*shape[1:3], image_size) if size is not None}
    if not sizes:
        raise ValueError(
            "The model takes pictures of any size, so image_size must say which one the served "
            f"model shall use, for example image_size=224. Received: image_size={image_size}"
        )
    if len(sizes) > 1:
        raise ValueError(
            "image_size must be the height and the width of the model's input, which must be "
            "equal; leave it out to use the model's own. "
            f"Received: image_size={image_size} for an input of {shape}"
        )
    return check_image_size(sizes.pop())


def _resolve_class_names(class_names: Sequence[str] | None, classes: int) -> list[str]:
    if class_names is None:
        return [str(index) for index in range(classes)]
    if isinstance(class_names, str) or len(class_names) != classes:
        raise ValueError(
            f"class_names must be a list of one name for each of the model's {classes} classes. "
            f"Received: {len(class_names)} in a {type(class_names).__name__}"
        )
    for name in class_names:
        if not isinstance(name, str) or name.splitlines() != [name]:
            raise ValueError(
                "A class name must be a string of one line that is not empty, because labels.txt "
                f"holds one a line. Received: {name!r}"
            )
    return list(class_names)


def _new_version_folder(directory: Path, version: int) -> Path:
    """Make `directory` and return the folder of the version, which must not exist."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".export-", dir=directory):
            pass
    except OSError as error:
        raise OSError(
            f"Cannot write to {directory}: {error.strerror}. Choose a folder that can be written."
        ) from error
    target = directory / str(version)
    if target.exists():
        used = [int(path.name) for path in directory.iterdir() if path.name.isdecimal()]
        raise FileExistsError(
            f"{target} exists already, and a version that may be served is not overwritten: "
            f"export with version={max(used) + 1}, or remove the folder first."
        )
    return target


def _label_table(names: list[str], labels: Path) -> Any:
    """Write the names, one a line, to a file, and return a lookup of class number to line.

    The file becomes an asset when the table is saved.
    """
    lines = "".join(f"{name}\n" for name in names)
    labels.write_text(lines, encoding="utf-8", newline="\n")
    return tf.lookup.StaticHashTable(
        tf.lookup.TextFileInitializer(
            str(labels),
            key_dtype=tf.int64,
            key_index=tf.lookup.TextFileIndex.LINE_NUMBER,
            value_dtype=tf.string,
            value_index=tf.lookup.TextFileIndex.WHOLE_LINE,
        ),
        default_value="",
    )


def _images_signature(probabilities_of: Callable[[Any], Any], size: int) -> Any:
    def serve(images: Any) -> dict[str, Any]:
        return {"probabilities": probabilities_of(images)}

    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name="images")
    return tf.function(serve, input_signature=[spec], autograph=False)


def _bytes_signature(
    prepare: Callable[[Any], tuple[Any, Any]],
    probabilities_of: Callable[[Any], Any],
    labels: Any,
    top_k: int,
) -> Any:
    def classify(image_bytes: Any) -> dict[str, Any]:
        images, error = prepare(image_bytes)
        scores, indices = tf.math.top_k(probabilities_of(images), top_k)
        is_good = tf.equal(error, "")[:, tf.newaxis]
        classes = labels.lookup(tf.cast(indices, tf.int64))
        return {
            "classes": tf.where(is_good, classes, ""),
            "scores": tf.where(is_good, scores, 0.0),
            "error": error,
        }

    spec = tf.TensorSpec([None], tf.string, name="image_bytes")
    return tf.function(classify, input_signature=[spec], autograph=False)
