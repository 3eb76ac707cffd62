"""Faster training steps on TensorFlow: stock layers, computed by other kernels.

Keras composes batch norm of elementary operations, each of which passes over the whole map, and
some of TensorFlow's gradients are slow on a CPU. `use_training_kernels` gives single layers of a
model another `call`, which computes differently while the model trains:

* a batch norm that learns is TensorFlow's fused kernel;
* a frozen batch norm becomes part of the convolution in front of it;
* SiLU has a gradient of fewer passes;
* on a CPU, the gradients of a 1x1 convolution are matrix products, and that of the kernel of a
  depthwise convolution is a depthwise convolution, where that is faster.

The results are those of the layers but for rounding. Prediction, export, saved and cloned models
have the layers' own `call`. `benchmarks/train_step.py` measures what it brings.
"""

from collections.abc import Callable
from types import MethodType
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from keras_effnetv2.models.graph import all_layers, is_training


class _Convolution(NamedTuple):
    """How an output of a convolution without bias was made: `convolve(inputs, kernel)`.

    The last `channel_axes` of the kernel are the output's channels: one, of a depthwise kernel two.
    """

    convolve: Callable[[Any, Any], Any]
    inputs: Any
    kernel: Any
    channel_axes: int


# Attribute of an output, as Keras keeps its masks; it ends where another layer makes a new tensor.
_MADE_BY = "_keras_effnetv2_convolution"


def use_training_kernels(model: keras.Model) -> None:
    """Make the training steps of a built model faster, wherever its stock layers allow it.

    It changes Keras' own layers with float32 weights and the channels last, also those of nested
    models, and leaves subclasses of them alone. A second call changes nothing.
    """
    on_cpu = {device.device_type for device in tf.config.list_physical_devices()} <= {"CPU"}
    for layer in all_layers(model):
        kind = type(layer)
        if kind is keras.layers.BatchNormalization and _can_be_fused(layer):
            layer.call = MethodType(_batch_norm, layer)
        elif kind is keras.layers.Activation and layer.activation is keras.activations.silu:
            layer.call = MethodType(_activation, layer)
        elif kind is keras.layers.Conv2D and _is_plain(layer):
            layer.convolution_op = MethodType(
                _pointwise_op if on_cpu and _is_pointwise(layer) else _convolution_op, layer
            )
        elif kind is keras.layers.DepthwiseConv2D and _is_bare(layer) and on_cpu:
            layer.call = MethodType(_depthwise, layer)


def _takes_over(layer: Any, inputs: Any) -> bool:
    """Return whether a layer trains, and in float32; half precision is left to Keras."""
    return inputs.dtype == tf.float32 and is_training(layer)


# --- batch norm ---------------------------------------------------------------------------------


def _can_be_fused(layer: Any) -> bool:
    is_special = layer.synchronized or getattr(layer, "renorm", False)  # Keras 3.12 has no renorm
    return layer.scale and layer.center and not is_special and layer.axis in (-1, 3)


def _batch_norm(self: Any, inputs: Any, training: Any = None, mask: Any = None) -> Any:
    is_map = len(inputs.shape) == 4 and self.variable_dtype == "float32" and mask is None
    if training and is_map and self.trainable:
        return _learning(self, inputs)
    made_by = getattr(inputs, _MADE_BY, None)
    # Eagerly the convolution has been computed already.
    if training and is_map and made_by is not None and not tf.executing_eagerly():
        scale = tf.math.rsqrt(self.moving_variance.value + self.epsilon) * self.gamma.value
        offset = self.beta.value - self.moving_mean.value * scale
        kernel = made_by.kernel
        kernel *= tf.reshape(scale, kernel.shape[-made_by.channel_axes :])
        return tf.nn.bias_add(made_by.convolve(made_by.inputs, kernel), offset)
    return type(self).call(self, inputs, training=training, mask=mask)


def _learning(layer: Any, inputs: Any) -> Any:
    """Normalise by the batch's mean and variance, in float32, and update the moving ones."""
    nothing = tf.zeros([0])
    outputs, mean, variance, *_ = tf.raw_ops.FusedBatchNormV3(
        x=tf.cast(inputs, tf.float32),
        scale=layer.gamma.value,
        offset=layer.beta.value,
        mean=nothing,
        variance=nothing,
        epsilon=layer.epsilon,
        exponential_avg_factor=1.0,
        is_training=True,
    )
    # The kernel's variance is that of a sample, n / (n - 1) times the one that Keras averages.
    count = tf.cast(tf.size(inputs) // inputs.shape[-1], tf.float32)
    new = 1.0 - layer.momentum
    biased = tf.maximum(count - 1.0, 1.0) / count
    layer.moving_mean.assign(layer.moving_mean * layer.momentum + mean * new)
    layer.moving_variance.assign(layer.moving_variance * layer.momentum + variance * (biased * new))
    return tf.cast(outputs, layer.compute_dtype)


# --- activation ---------------------------------------------------------------------------------


def _activation(self: Any, inputs: Any) -> Any:
    return _silu(inputs) if _takes_over(self, inputs) else type(self).call(self, inputs)


@tf.custom_gradient
def _silu(x: Any) -> Any:
    def gradient(upstream: Any) -> Any:
        # Computed anew, and not before it is needed: kept, it would take as much memory as x.
        with tf.control_dependencies([upstream]):
            gate = tf.sigmoid(x)
        return upstream * (gate + tf.raw_ops.SigmoidGrad(y=gate, dy=x))

    return x * tf.sigmoid(x), gradient


# --- convolutions -------------------------------------------------------------------------------


def _is_plain(layer: Any) -> bool:
    is_dense = tuple(layer.dilation_rate) == (1, 1) and getattr(layer, "groups", 1) == 1
    return is_dense and layer.data_format == "channels_last" and layer.variable_dtype == "float32"


def _is_bare(layer: Any) -> bool:
    return _is_plain(layer) and not layer.use_bias and layer.activation is keras.activations.linear


def _is_pointwise(layer: Any) -> bool:
    return tuple(layer.kernel_size) == (1, 1) and tuple(layer.strides) == (1, 1)


def _convolution_op(self: Any, inputs: Any, kernel: Any) -> Any:
    def convolve(inputs: Any, kernel: Any) -> Any:
        return type(self).convolution_op(self, inputs, kernel)

    return _noted(self, _Convolution(convolve, inputs, kernel, 1))


def _pointwise_op(self: Any, inputs: Any, kernel: Any) -> Any:
    if not _takes_over(self, inputs):
        return type(self).convolution_op(self, inputs, kernel)
    return _noted(self, _Convolution(_pointwise, inputs, tf.convert_to_tensor(kernel), 1))


def _depthwise(self: Any, inputs: Any) -> Any:
    if not _takes_over(self, inputs):
        return type(self).call(self, inputs)
    strides, padding = [1, *self.strides, 1], self.padding.upper()

    @tf.custom_gradient
    def convolve(x: Any, kernel: Any) -> Any:
        def gradient(upstream: Any) -> Any:
            to_inputs = tf.raw_ops.DepthwiseConv2dNativeBackpropInput(
                input_sizes=tf.shape(x),
                filter=kernel,
                out_backprop=upstream,
                strides=strides,
                padding=padding,
            )
            return to_inputs, _depthwise_kernel_gradient(x, upstream, kernel, strides, padding)

        return tf.nn.depthwise_conv2d(x, kernel, strides, padding), gradient

    return _noted(self, _Convolution(convolve, inputs, tf.convert_to_tensor(self.kernel), 2))


def _noted(layer: Any, how: _Convolution) -> Any:
    """Convolve, and note on the output how, for a frozen batch norm behind."""
    outputs = how.convolve(how.inputs, how.kernel)
    if _takes_over(layer, how.inputs):
        setattr(outputs, _MADE_BY, how)
    return outputs


@tf.custom_gradient
def _pointwise(x: Any, kernel: Any) -> Any:
    def gradient(upstream: Any) -> Any:
        rows = tf.reshape(upstream, [-1, kernel.shape[3]])
        matrix = tf.reshape(kernel, kernel.shape[2:])
        to_inputs = tf.matmul(rows, matrix, transpose_b=True)
        to_kernel = tf.matmul(tf.reshape(x, [-1, kernel.shape[2]]), rows, transpose_a=True)
        return tf.reshape(to_inputs, tf.shape(x)), tf.reshape(to_kernel, kernel.shape)

    return tf.nn.conv2d(x, kernel, 1, "SAME"), gradient


def _depthwise_kernel_gradient(
    x: Any, upstream: Any, kernel: Any, strides: list[int], padding: str
) -> Any:
    """Return the gradient of a depthwise kernel, (K, K, C, M)."""

    def stock() -> Any:
        return tf.raw_ops.DepthwiseConv2dNativeBackpropFilter(
            input=x,
            filter_sizes=kernel.shape,
            out_backprop=upstream,
            strides=strides,
            padding=padding,
        )

    def as_convolution() -> Any:
        # The pictures of a quarter of the batch stand in one column, with rows of zeros between
        # them. Their upstream gradients, moved over it, give one weight a position. Quarters,
        # because shorter columns stay in the processor's cache.
        edge = size // 2
        _, _, width, channels = tf.unstack(tf.shape(x))
        missing = -tf.shape(x)[0] % _COLUMNS
        columns = tf.pad(x, [[0, missing], [0, edge], [edge, edge], [0, 0]])
        columns = tf.reshape(columns, [_COLUMNS, -1, width + 2 * edge, channels])
        columns = tf.pad(columns, [[0, 0], [edge, edge], [0, 0], [0, 0]])
        movers = tf.pad(upstream, [[0, missing], [0, edge], [0, 0], [0, 0]])
        movers = tf.reshape(movers, [_COLUMNS, -1, width, channels, 1])
        pairs = zip(tf.unstack(columns), tf.unstack(movers), strict=True)
        parts = [tf.nn.depthwise_conv2d(x[None], dy, [1, 1, 1, 1], "VALID") for x, dy in pairs]
        return tf.reshape(tf.add_n(parts), kernel.shape)

    size = kernel.shape[0]
    is_square = size == kernel.shape[1] and size % 2 == 1 and kernel.shape[3] == 1
    if not is_square or padding != "SAME" or strides != [1, 1, 1, 1]:
        return stock()
    if size >= _LARGE_KERNEL:
        return as_convolution()
    sides = x.shape[1:3]
    if sides.is_fully_defined():
        return as_convolution() if min(sides) < size else stock()
    return tf.cond(tf.reduce_min(tf.shape(x)[1:3]) < size, as_convolution, stock)


_COLUMNS = 4
"""Measured on two cores of an AMD EPYC: up to twice as fast as one column, for batches of 16."""

_LARGE_KERNEL = 5
"""Side of a kernel from which TensorFlow's own gradient was slower on maps of 4 to 28 pixels.

With a kernel of 3 it was slower on a map of 2 pixels, and faster from 4 pixels on."""
