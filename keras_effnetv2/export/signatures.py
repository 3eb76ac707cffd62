"""The graph functions of a SavedModel: pixels, files or `tf.Example`s in, classes out."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2.images.evaluation_crop import prepare_batch
from keras_effnetv2.images.headers import format_name
from keras_effnetv2.images.styles import Style
from keras_effnetv2.models.graph import all_layers

PIXELS_SIGNATURE = "serving_default"
BYTES_SIGNATURE = "classify_bytes"
EXAMPLES_SIGNATURE = "classify"
CLASSIFY_METHOD = "tensorflow/serving/classify"
"""Method name of the signatures for TensorFlow Serving's Classify API."""

EXAMPLE_FEATURE = "image/encoded"
"""Feature of a `tf.Example` that holds the bytes of a picture file, as in TFDS' ImageNet files."""

_GIF_REFUSED = (
    "GIF pictures are not accepted here, because a small one can unpack to a gigabyte. Convert "
    "this one to PNG or JPEG"
)


@dataclass(frozen=True)
class PictureInput:
    """How files become the network's input."""

    image_size: int  # height and width in pixels
    style: Style  # see `evaluation_crop.resize_for_evaluation`
    max_pixels: int  # larger pictures (height x width) are refused before they are decoded
    gif: bool  # whether these are read


def stored_weights(model: keras.Model, dtype: str) -> list[Any]:
    """Return the variables to save, one for each of `model.weights`; "float32" keeps them.

    Only kernels are shortened: vectors (biases, batch norm) are less than one part in a hundred of
    a network, and a variance may leave the range of float16.

    Raises:
        ValueError: a weight is too large for float16.
    """
    stored = []
    for weight in model.weights:
        value = weight.value
        is_kernel = value.dtype.is_floating and len(value.shape) > 1
        if dtype != "float32" and is_kernel and value.dtype.size > tf.as_dtype(dtype).size:
            short = tf.cast(value, dtype)
            if not tf.reduce_all(tf.math.is_finite(short)):
                raise ValueError(
                    f"The weight {weight.path!r} has values that {dtype} cannot hold. Store "
                    "weights in bfloat16 or float32 (--weights-dtype, weights_dtype=)."
                )
            value = tf.Variable(short, trainable=False)
        stored.append(value)
    return stored


def network_function(model: keras.Model, weights: Sequence[Any], size: int) -> Any:
    """Return a model as a graph function: float32 (N, size, size, 3) -> float32 (N, classes).

    It computes with `weights`, as `stored_weights` returns them, in place of the model's own.
    """

    def probabilities(images: Any) -> Any:
        # TensorFlow's CPU convolution of an empty batch has a wrong shape (seen with 2.21), so
        # that runs as a batch of one, which is cut off again.
        count = tf.shape(images)[0]
        images = tf.cond(count > 0, lambda: images, lambda: tf.zeros([1, size, size, 3]))
        # Cast in the graph, where they are used; where they have the dtype already, that is no op.
        values = [
            (old, tf.cast(new, old.dtype)) for old, new in zip(model.weights, weights, strict=True)
        ]
        with _plain_silu(model), keras.StatelessScope(state_mapping=values):
            return model(images, training=False)[:count]

    # Out of line, so that the signatures that call it share one copy.
    spec = tf.TensorSpec([None, size, size, 3], tf.float32)
    return tf.function(probabilities, input_signature=[spec], autograph=False)


@contextmanager
def _plain_silu(model: keras.Model) -> Iterator[None]:
    """Have layers compute SiLU in plain operations while a graph is made.

    `tf.nn.silu` brings a gradient of its own, which a served graph has no use for, and which keeps
    TensorFlow from joining it with the convolution before it: of EfficientNetV2-B0, one tenth of
    the time.
    """
    silu = keras.activations.silu
    layers = [layer for layer in all_layers(model) if getattr(layer, "activation", None) is silu]
    try:
        for layer in layers:
            layer.activation = lambda x: x * tf.sigmoid(x)
        yield
    finally:
        for layer in layers:
            layer.activation = silu


def make_signatures(
    probabilities: Callable[[Any], Any],
    pictures: PictureInput,
    labels: Any,
    top_k: int,
    thresholds: Sequence[float] | None = None,
) -> dict[str, Any]:
    """Return {signature: graph function}; see `export_saved_model`.

    `probabilities` is a `network_function`, `labels` a `label_table`; `top_k` classes are named.
    """

    def classify_files(image_bytes: Any) -> dict[str, Any]:
        images, error = _prepare(image_bytes, pictures)
        scores, indices = tf.math.top_k(probabilities(images), top_k)
        is_good = tf.equal(error, "")[:, tf.newaxis]
        classes = labels.lookup(tf.cast(indices, tf.int64))
        answer = {
            "classes": tf.where(is_good, classes, ""),
            "scores": tf.where(is_good, scores, 0.0),
            "error": error,
        }
        if thresholds is not None:
            answer["thresholds"] = tf.gather(tf.constant(thresholds, tf.float32), indices)
        return answer

    def serve_pixels(images: Any) -> dict[str, Any]:
        return {"probabilities": probabilities(images)}

    strings = tf.TensorSpec([None], tf.string)
    classify = tf.function(classify_files, input_signature=[strings], autograph=False)

    def serve_examples(inputs: Any) -> dict[str, Any]:
        answer = classify(_files_of_examples(inputs))
        return {name: answer[name] for name in ("classes", "scores")}  # the API takes no others

    def signature(function: Callable[[Any], Any], name: str, spec: Any) -> Any:
        named = tf.TensorSpec(spec.shape, spec.dtype, name=name)
        return tf.function(function, input_signature=[named], autograph=False)

    pixels = tf.TensorSpec([None, pictures.image_size, pictures.image_size, 3], tf.float32)
    return {
        PIXELS_SIGNATURE: signature(serve_pixels, "images", pixels),
        BYTES_SIGNATURE: signature(classify, "image_bytes", strings),
        EXAMPLES_SIGNATURE: signature(serve_examples, "inputs", strings),
    }


def _prepare(image_bytes: Any, pictures: PictureInput) -> tuple[Any, Any]:
    """Return images and errors of files, as `prepare_batch` does."""
    is_gif = tf.equal(format_name(image_bytes), "GIF") & (not pictures.gif)
    images, error = prepare_batch(
        tf.where(is_gif, "", image_bytes), pictures.image_size, pictures.style, pictures.max_pixels
    )
    return images, tf.where(is_gif, _GIF_REFUSED, error)


def _files_of_examples(serialized: Any) -> Any:
    """Return the picture files in serialised `tf.Example`s, empty where there is none.

    One that cannot be parsed has none, where `tf.io.parse_example` would fail the whole batch.
    """
    count = tf.size(serialized, out_type=tf.int64)
    feature = tf.io.FixedLenFeature([], tf.string, default_value="")

    def parse(index: Any) -> tuple[Any, Any]:
        parsed = tf.io.parse_single_example(serialized[index], {EXAMPLE_FEATURE: feature})
        return index, parsed[EXAMPLE_FEATURE]

    # As in `prepare_batch`: only a tf.data pipeline can leave out what fails. The last element
    # keeps the batch from being empty.
    last = tf.data.Dataset.from_tensors((count, tf.constant("")))
    parsed = tf.data.Dataset.range(count).map(parse).ignore_errors().concatenate(last)
    indices, files = parsed.batch(count + 1).get_single_element()
    empty = tf.fill([count + 1], "")
    return tf.tensor_scatter_nd_update(empty, indices[:, tf.newaxis], files)[:count]


def label_table(names: Sequence[str], labels: Path) -> Any:
    """Write the names to a file, an asset when the table is saved, and look them up by number."""
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
