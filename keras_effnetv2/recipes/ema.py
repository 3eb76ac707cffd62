"""Exponential moving average of a model's weights, BatchNormalization statistics included."""

import sys
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_number
from keras_effnetv2.recipes.tensorflow_variables import is_plain, placed_as, swap_plain

# Variables that are averaged though they are not trained, by name as in the official code
# (google/automl, efficientnetv2/utils.py, `get_ema_vars`).
_STATISTICS = ("moving_mean", "moving_variance")


class EMA(keras.callbacks.Callback):
    """Average a model's weights while it trains, evaluate the averages, and end with them.

    After every train batch, with `n` the number of optimizer steps done:

        d = min(decay, (1 + n) / (10 + n))    (without `ramp`: d = decay)
        average -= (1 - d) * (average - weight)

    The averages start with the model's weights when `fit` begins. They include all trainable
    variables and every `moving_mean` and `moving_variance` (Keras' own `use_ema` leaves those out),
    but not random seeds and other state. With `steps_per_execution=k` they see every k-th set of
    weights, with the decay `d ** k`.

    With `swap_on_epoch` the averages are in the model from the end of an epoch (its validation, if
    there is one) to the beginning of the next. So other callbacks save, restore and judge the
    validated averages in `on_epoch_end`, in any order of the callbacks, because this one puts
    itself before the others. `on_train_end` leaves the averages in the model, or the weights that a
    callback restored last.

    While `fit` runs, the optimizer's state holds whichever weights are not in the model, so
    `BackupAndRestore` saves and restores raw weights and averages together, and training resumes
    from the raw ones. A backup without EMA cannot be resumed with it: Keras then reports that
    `weight_averages` is missing.

    A `fit` that is interrupted leaves whichever weights are in the model. The next `fit` with an
    EMA continues from the raw ones, unless the model was given others or a new optimizer meanwhile.

    Args:
        decay: in (0, 1). Official: 0.9999, and 0.9996 for fine-tuning.
        ramp: let the decay grow from 2/11 at the first step, so the initial weights are soon
            forgotten. Official: always.
        swap_on_epoch: False puts the averages in the model only during validation and after
            `fit`, and other callbacks see the raw weights, which were not validated.

    Raises:
        ValueError: `decay` is out of range; when `fit` begins, the model is not built or not
            compiled, or there are two EMAs.
    """

    def __init__(
        self, decay: float = 0.9999, swap_on_epoch: bool = True, *, ramp: bool = True
    ) -> None:
        super().__init__()
        check_number("decay", decay, above=0, below=1)
        self.decay = decay
        self.swap_on_epoch = swap_on_epoch
        self.ramp = ramp

    def set_model(self, model: Any) -> None:
        super().set_model(model)
        if not model.built or model.optimizer is None:
            raise ValueError(
                "EMA starts from the model's first weights. Build and compile the model before "
                "`fit`, for example model.build((None, 224, 224, 3)). Received: "
                f"model={model.name!r}, built={model.built}, optimizer={model.optimizer!r}"
            )
        # This callback has to be the first: nothing is called between the last batch and
        # `on_epoch_end`, nor between that and `on_epoch_begin`. Keras gives no callback its list,
        # but the list calls this.
        caller = sys._getframe(1).f_locals.get("self")
        if isinstance(caller, keras.callbacks.CallbackList):
            caller.callbacks.sort(key=lambda callback: callback is not self)
            decays = [one.decay for one in caller.callbacks if isinstance(one, EMA)]
            if len(decays) > 1:
                raise ValueError(
                    "`fit` takes one EMA, because the model can end with one set of averages. "
                    f"Leave out the others. Received: EMAs with decay={decays}"
                )
        interrupted = getattr(model.optimizer, "weight_averages", None)
        if interrupted is not None:
            interrupted.callback._recover()
        # Made here and not in `on_train_begin`: BackupAndRestore may come first there, and it
        # loads the averages into what it finds.
        statistics = [one for one in model.non_trainable_variables if one.name in _STATISTICS]
        self._sources = [*model.trainable_variables, *statistics]
        with placed_as(model):
            self._averages = _Averages(self._sources, model.optimizer.iterations)
        self._swapped_in: list[np.ndarray] | None = None
        self._averages.callback = self
        model.optimizer.weight_averages = self._averages
        self._move = _mover(self._averages, self._sources, self.decay, self.ramp)

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        # On JAX, `self.model` also brings the variables up to date.
        self._move(keras.ops.convert_to_tensor(self.model.optimizer.iterations))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._put_into_model(averages=False)  # also after a restart from the end of an epoch

    def on_test_begin(self, logs: Any = None) -> None:
        self._put_into_model(averages=True)

    def on_test_end(self, logs: Any = None) -> None:
        self._put_into_model(averages=self.swap_on_epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._put_into_model(averages=self.swap_on_epoch)

    def on_train_end(self, logs: Any = None) -> None:
        self._put_into_model(averages=True)
        del self.model.optimizer.weight_averages

    def _put_into_model(self, *, averages: bool) -> None:
        if averages != bool(keras.ops.convert_to_numpy(self._averages.are_in_model)):
            self.swap()

    def _recover(self) -> None:
        """Put the raw weights back after an interruption, unless the model has got others."""
        if self._swapped_in is not None and np.array_equal(self._first_weight(), self._swapped_in):
            self._put_into_model(averages=False)

    def _first_weight(self) -> list[np.ndarray]:
        return [np.array(keras.ops.convert_to_numpy(one)) for one in self._sources[:1]]

    def swap(self) -> None:
        """Swap the model's weights and their averages; a second call undoes the first."""
        for variable, average in zip(self._sources, self._averages.values, strict=True):
            if is_plain(variable):
                swap_plain(variable.value, average.value)
                continue
            # Copies (here and below) because JAX gives the model's buffers away to the train step.
            raw, mean = keras.ops.copy(variable), keras.ops.copy(average)
            variable.assign(mean)
            average.assign(raw)
        are_in_model = self._averages.are_in_model
        are_in_model.assign(keras.ops.logical_not(are_in_model))
        self._swapped_in = self._first_weight()


class _Averages(keras.layers.Layer):
    """The averages, the optimizer step that they have seen, and whether the model holds them.

    Then the raw weights are here in their place. It is a Layer, so that Keras saves it.
    """

    def __init__(self, sources: list[Any], step: Any) -> None:
        super().__init__(name="weight_averages")
        self.values = [self._add_copy(variable) for variable in sources]
        self.step = self._add_copy(step)
        self.are_in_model = self.add_weight(
            shape=(), dtype="bool", initializer="zeros", trainable=False
        )
        self.built = True

    def _add_copy(self, variable: Any) -> Any:
        weight = self.add_weight(
            shape=variable.shape, dtype=variable.dtype, initializer="zeros", trainable=False
        )
        weight.assign(keras.ops.copy(variable))
        return weight


def _mover(
    averages: _Averages, sources: list[Any], decay: float, ramp: bool
) -> Callable[[Any], None]:
    """Make the function of the optimizer step that moves all averages, compiled if possible."""

    def moved(values: list[Any], weights: list[Any], seen: Any, step: Any) -> list[Any]:
        n = keras.ops.cast(step, "float32")
        d = keras.ops.minimum(decay, (1.0 + n) / (10.0 + n)) if ramp else decay
        rate = 1.0 - keras.ops.power(d, n - keras.ops.cast(seen, "float32"))
        return [
            value - keras.ops.cast(rate, value.dtype) * (value - weight)
            for value, weight in zip(values, weights, strict=True)
        ]

    if keras.backend.backend() == "jax":
        import jax

        moved = jax.jit(moved)

    def move(step: Any) -> None:
        tensor = keras.ops.convert_to_tensor
        values = [tensor(value) for value in averages.values]
        weights = [tensor(weight) for weight in sources]
        new_values = moved(values, weights, tensor(averages.step), step)
        for average, value in zip(averages.values, new_values, strict=True):
            average.assign(value)
        averages.step.assign(keras.ops.copy(step))

    return tf.function(move) if keras.backend.backend() == "tensorflow" else move
