"""One trace of TensorFlow's train function for all stages, whatever their dropout rates."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import tensorflow as tf


class SharedTrace:
    """The train function of a model, in which dropout rates can change after it was traced.

    Keras traces a rate as a constant. While this function runs, and only then, the `call` of each
    layer reads the rate from a variable; so whatever a callback saves, copies or reads is stock.
    Random numbers and results are those of a constant rate above 0; 0 uses up numbers, too.

    Args:
        model: gets this as its `train_function`.
        layers: those whose rate changes; each is one that `can_share` accepts.
        give_up: called if the function cannot be traced; then the model's train function is made
            again, as Keras makes it, and takes the step.
    """

    def __init__(
        self, model: keras.Model, layers: Sequence[Any], give_up: Callable[[], None]
    ) -> None:
        model.make_train_function(force=True)
        self._trained, self._function = model, model.train_function
        self._rates = [
            (layer, tf.Variable(layer.rate, trainable=False, dtype=tf.float64)) for layer in layers
        ]
        self._give_up = give_up
        self._was_traced = False
        model.train_function = self

    def update(self) -> None:
        """Take the rates over from the layers."""
        for layer, rate in self._rates:
            rate.assign(layer.rate)

    def __call__(self, iterator: Any) -> Any:
        try:
            with contextlib.ExitStack() as calls:
                for layer, rate in self._rates:
                    calls.enter_context(_rate_from(layer, rate))
                logs = self._function(iterator)
            self._was_traced = True
            return logs
        except (tf.errors.OpError, StopIteration):
            raise  # the step has run
        except Exception:
            if self._was_traced:
                raise
        self._give_up()
        self._trained.make_train_function(force=True)
        return self._trained.train_function(iterator)


def can_share(layer: Any) -> bool:
    """Return whether a layer computes as `Dropout` does."""
    return getattr(layer.call, "__func__", None) is keras.layers.Dropout.call


def make_variables(model: keras.Model, batches: tf.data.Dataset) -> None:
    """Make the variables of the metrics and of the optimizer, of a stock model with known outputs.

    Keras makes them in the first step, which is then traced twice.
    """
    is_stock = type(model).__module__.startswith("keras.")
    outputs = model.outputs if is_stock and model.built else []
    if not outputs or model.optimizer is None or model.optimizer.built:
        return

    def judge(x: Any, y: Any, predicted: Any, weights: Any) -> None:
        model.compute_loss(x, y, predicted, weights, training=False)
        model.compute_metrics(x, y, predicted, weights)

    with contextlib.suppress(Exception):  # what is wrong shows in the step, in Keras' words
        x, y, weights = keras.utils.unpack_x_y_sample_weight(batches.element_spec)
        predicted = tf.nest.map_structure(
            lambda output: tf.TensorSpec(output.shape, output.dtype),
            outputs[0] if len(outputs) == 1 else model.output,
        )
        tf.function(judge).get_concrete_function(x, y, predicted, weights)
        model.optimizer.build(model.trainable_variables)


@contextlib.contextmanager
def _rate_from(layer: Any, rate: tf.Variable) -> Iterator[None]:
    """Let a `Dropout` read its rate from a variable."""

    def call(inputs: Any, training: bool = False) -> Any:
        if not training:
            return inputs
        shape = keras.ops.shape(inputs)
        given = layer.noise_shape or [None] * len(shape)
        shape = [here if size is None else size for size, here in zip(given, shape, strict=True)]
        noise = keras.random.uniform(shape, dtype=inputs.dtype, seed=layer.seed_generator)
        kept = inputs * tf.cast(1.0 / (1.0 - rate), inputs.dtype)
        return tf.where(noise >= tf.cast(rate, inputs.dtype), kept, tf.zeros([], inputs.dtype))

    vars(layer)["call"] = call
    try:
        yield
    finally:
        del vars(layer)["call"]
