"""Grad-CAM: which parts of a picture made a classifier choose a class."""

from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2.models.graph import bare_graph, call_of, graph_nodes, last_activation

HeatMap = npt.NDArray[np.float32]

_GLOBAL_POOLING = (keras.layers.GlobalAveragePooling2D, keras.layers.GlobalMaxPooling2D)
_FEATURES = (
    keras.layers.Conv2D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv2D,
    keras.Model,
)
_SQUASHING = ("softmax", "sigmoid")


def grad_cam(model: keras.Model, image: npt.ArrayLike, class_index: int | None = None) -> HeatMap:
    """Return how much each part of a picture supports a class.

    Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via Gradient-based
    Localization", ICCV 2017, equations 1 and 2): the last feature map before pooling, with its
    channels weighted by the mean gradient of the class's score before softmax or sigmoid, and
    negative sums set to 0. The map has the resolution of the feature map (with EfficientNets 1/32
    of the picture's) and is enlarged bilinearly.

    Args:
        model: functional or Sequential classifier, (1, H, W, 3) pixels -> (1, classes), as
            `build_model` makes it; probabilities or logits.
        image: (H, W, 3), 0..255, with a size that the model takes.
        class_index: the class to explain; None takes the one with the highest score.

    Returns:
        float32 (H, W), 0..1, scaled so that the largest value is 1; all zeros if nothing supports
        the class.

    Raises:
        RuntimeError: Keras does not run on TensorFlow.
        ValueError: the model has no spatial features or is not a classifier, the image is not
            (H, W, 3), or the class does not exist.
    """
    return explainer(model)(image, class_index)


def explainer(model: keras.Model) -> Callable[[npt.ArrayLike, int | None], HeatMap]:
    """Return `grad_cam` of one model, a function of (image, class_index), for many pictures."""
    if keras.backend.backend() != "tensorflow":
        raise RuntimeError(
            "Grad-CAM needs the tensorflow backend of Keras. Start the process with "
            f"KERAS_BACKEND=tensorflow. This one runs on {keras.backend.backend()!r}."
        )
    if len(getattr(model, "outputs", None) or ()) != 1 or len(model.outputs[0].shape) != 2:
        raise ValueError(
            "Grad-CAM needs a functional or Sequential classifier with one output (N, classes). "
            f"Received: {model.name!r} with outputs {getattr(model, 'outputs', None)}"
        )
    graph = bare_graph(model)
    watched = keras.Model(graph.inputs, [_last_feature_map(graph), _logits(graph.outputs[0])])

    def explain(image: npt.ArrayLike, class_index: int | None = None) -> HeatMap:
        pixels = np.asarray(image, np.float32)
        if pixels.ndim != 3 or pixels.shape[-1] != 3:
            raise ValueError(f"image must be (height, width, 3). Received: {pixels.shape}")
        return _explain(watched, pixels, class_index)

    return explain


def _explain(watched: keras.Model, pixels: HeatMap, class_index: int | None) -> HeatMap:
    images = tf.constant(pixels[np.newaxis])
    with tf.GradientTape() as tape:
        tape.watch(images)  # so that all that follows from it can be differentiated
        features, logits = watched(images, training=False)
        classes = logits.shape[-1]
        if class_index is not None and not 0 <= class_index < classes:
            raise ValueError(
                f"class_index must be one of 0..{classes - 1}, the classes of the model, or None "
                f"for the best. Received: {class_index!r}"
            )
        index = int(tf.argmax(logits[0])) if class_index is None else class_index
        score = logits[0, index]
    gradient = tf.cast(tape.gradient(score, features), tf.float32)
    weights = tf.reduce_mean(gradient, axis=(1, 2), keepdims=True)
    heat = tf.nn.relu(tf.reduce_sum(weights * tf.cast(features, tf.float32), -1, keepdims=True))
    resized = tf.image.resize(heat, pixels.shape[:2], method="bilinear")[0, :, :, 0].numpy()
    top = resized.max()
    return resized / top if top > 0 else resized


def _last_feature_map(graph: keras.Model) -> Any:
    """Return the symbolic tensor (N, h, w, channels) that is pooled or flattened to one vector."""
    nodes = graph_nodes(graph)[::-1]  # from the output back
    found = [node.input_tensors[0] for node in nodes if _ends_space(node)]
    # Without such a layer, what is pooled or flattened is the picture itself.
    if found and any(isinstance(node.operation, _FEATURES) for node in nodes):
        # A map that was pooled already, (N, 1, 1, channels), may be flattened or pooled again.
        return next((tensor for tensor in found if tensor.shape[1:3] != (1, 1)), found[0])
    raise ValueError(
        "Grad-CAM needs a feature map (N, height, width, channels) that a layer of the model pools "
        f"or flattens, and {graph.name!r} has none among its own layers. If a network with "
        "pooling is nested in it, build the model from the layers of that network instead."
    )


def _ends_space(node: Any) -> bool:
    """Return whether a call makes a vector of (N, h, w, channels), maybe as (N, 1, 1, channels)."""
    is_vector = len(node.outputs[0].shape) < 4 or isinstance(node.operation, _GLOBAL_POOLING)
    is_nested = isinstance(node.operation, keras.Model)
    return is_vector and not is_nested and len(node.input_tensors[0].shape) == 4


def _logits(output: Any) -> Any:
    """Return the symbolic scores before a softmax or sigmoid, as in the paper."""
    call = call_of(output)
    # A mean of several networks' probabilities has no scores before it.
    if last_activation(output) not in _SQUASHING or len(call.input_tensors) > 1:
        return output
    operation, source = call.operation, call.input_tensors[0]
    if isinstance(operation, keras.layers.Dense):
        linear = keras.layers.Dense(
            operation.units, use_bias=operation.use_bias, dtype=operation.dtype_policy
        )
        linear.build(source.shape)
        linear.set_weights(operation.get_weights())
        return linear(source)
    if getattr(operation, "weights", None):
        raise ValueError(
            "Grad-CAM needs the classifier's last layer in the model itself, a Dense or without an "
            f"activation, not {operation!r}."
        )
    before = _logits(source)
    return before if before is source else operation(before)
