"""Variables of TensorFlow: where new ones are placed, and values read and swapped by bare ops."""

import contextlib
from typing import Any

import keras
import tensorflow as tf


def placed_as(model: keras.Model) -> Any:
    """Return a context in which new variables are placed as the model's are (`tf.distribute`)."""
    if keras.backend.backend() != "tensorflow":
        return contextlib.nullcontext()
    return model.distribute_strategy.scope()


def is_plain(variable: Any) -> bool:
    """Return whether a variable of Keras is one of TensorFlow that is not distributed."""
    value = variable.value
    return isinstance(value, tf.Variable) and not isinstance(value, tf.distribute.DistributedValues)


def read_plain(variable: tf.Variable) -> tf.Tensor:
    """Return the value of a plain variable, without a copy.

    The bare op takes a quarter of the time of `tf.Variable.read_value`.
    """
    return tf.raw_ops.ReadVariableOp(resource=variable.handle, dtype=variable.dtype)


def swap_plain(one: tf.Variable, other: tf.Variable) -> None:
    """Swap the values of two plain variables, without a copy."""
    values = read_plain(one), read_plain(other)
    tf.raw_ops.AssignVariableOp(resource=one.handle, value=values[1])
    tf.raw_ops.AssignVariableOp(resource=other.handle, value=values[0])
