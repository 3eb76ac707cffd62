"""The optimizers of the recipes: the official RMSprop, and a learning rate for every variable.

`RMSprop` makes the official steps (google/automl, efficientnetv2/utils.py, `build_optimizer`:
`tf.compat.v1.train.RMSPropOptimizer`); `Adam` and `SGD` are Keras'. None of them decays biases and
batch norms. For fine-tuning they give every variable its own rate; `variable_rates` computes it
from the variable's position in the network, `variable_depths`.
"""

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import keras

from keras_effnetv2._common.checks import check_integer, check_number

# Official `weight_decay_exclude` (hparams.py), applied to a variable's own name: officially it sees
# the whole path, which with official layer names makes no difference.
_NO_DECAY = re.compile("bias|gamma|beta")

# What the layers of one block have in common: "block2a_" of the EfficientNets, "conv3_block2_" of
# ResNet, "block_7_" of MobileNet, "stage_1_block_0_" of ConvNeXt.
_BLOCK = re.compile(r".*?block_?\d+[a-z]*_")


class VariableRate(NamedTuple):
    """The learning rate of one variable, `factor` times the optimizer's from `first_step` on.

    Before that step the variable does not change at all.
    """

    factor: float = 1.0
    first_step: int = 0


# --- optimizers ---------------------------------------------------------------------------------


class _VariableRates(keras.optimizers.Optimizer):
    """What the three optimizers share: a rate for every variable, and weight decay by it."""

    # One for each variable that the optimizer is built with, in their order; none: all alike.
    variable_rates: tuple[VariableRate, ...] = ()

    def set_variable_rates(self, rates: Iterable[tuple[float, int]]) -> None:
        """Give every variable its own learning rate; call it before the first step.

        A variable with the rate 0 keeps its exact value: gradient, momentum and weight decay do not
        change it. Its running averages of gradients (Adam) and squared gradients (Adam, RMSprop)
        follow the gradients all the time, so it starts with good estimates. The momentum of RMSprop
        and SGD, which holds steps, stays 0 until then. Clipping always includes its gradient.

        Args:
            rates: (factor, first step) of every variable, see `VariableRate`, in the order of
                `model.trainable_variables`. Empty: all have the optimizer's rate.

        Raises:
            ValueError: a factor or a step is out of range, or the number of rates is wrong.
        """
        self.variable_rates = tuple(VariableRate(*rate) for rate in rates)
        for factor, first_step in self.variable_rates:
            check_number("factor", factor, minimum=0)
            check_integer("first_step", first_step, minimum=0)
        if self.built:
            self._check_number_of_rates(self._trainable_variables)

    def build(self, variables: Sequence[Any]) -> None:
        self._check_number_of_rates(variables)
        super().build(variables)

    def _check_number_of_rates(self, variables: Sequence[Any]) -> None:
        if len(self.variable_rates) not in (0, len(variables)):
            raise ValueError(
                "`set_variable_rates` needs one rate for every trainable variable. Make the rates "
                "after the model's layers have been frozen. Received: "
                f"{len(self.variable_rates)} rates for {len(variables)} variables"
            )

    def _rate(self, variable: Any, learning_rate: Any) -> Any:
        """The rate of a variable at this step, a scalar of its dtype."""
        learning_rate = keras.ops.cast(learning_rate, "float32")  # that of a schedule may be int
        if self.variable_rates:
            factor, first_step = self.variable_rates[self._get_variable_index(variable)]
            learning_rate = learning_rate * factor
            if first_step:
                # The steps that a schedule counts.
                has_begun = keras.ops.greater_equal(self._iterations, first_step)
                learning_rate = keras.ops.where(has_begun, learning_rate, 0.0)
        return keras.ops.cast(learning_rate, variable.dtype)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        super().update_step(gradient, variable, self._rate(variable, learning_rate))

    def _decay_of(self, variable: Any) -> float:
        is_decayed = self.weight_decay and _NO_DECAY.search(variable.name) is None
        return float(self.weight_decay) if is_decayed else 0.0

    def _apply_weight_decay(self, variables: Sequence[Any]) -> None:
        """Do nothing: Keras would decay here, with one rate for all; see the subclasses."""

    def get_config(self) -> dict[str, Any]:
        rates = [list(rate) for rate in self.variable_rates]
        return {**super().get_config(), "variable_rates": rates}

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Any:
        config = dict(config)
        rates = config.pop("variable_rates")
        optimizer = super().from_config(config, custom_objects)
        optimizer.set_variable_rates(rates)
        return optimizer


class _DecoupledDecay(_VariableRates):
    """Keras' decay, by the variable's rate: weight -= rate * decay * weight, then the step."""

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        self._decay(variable, learning_rate)
        super().update_step(gradient, variable, learning_rate)

    def _decay(self, variable: Any, learning_rate: Any) -> None:
        if decay := self._decay_of(variable):
            rate = self._rate(variable, learning_rate)
            self.assign_sub(variable, variable * (rate * decay))


@keras.saving.register_keras_serializable(package="keras_effnetv2")
class Adam(_DecoupledDecay, keras.optimizers.Adam):
    """`keras.optimizers.Adam` with a rate for every variable; biases and norms are not decayed.

    On TensorFlow each variable is updated by one op, and the bias is corrected once a step.
    """

    def _backend_update_step(self, grads: Any, variables: Any, learning_rate: Any) -> None:
        if keras.backend.backend() == "tensorflow" and not self.amsgrad:
            step = keras.ops.cast(self.iterations + 1, "float32")
            correction = keras.ops.sqrt(1 - self.beta_2**step) / (1 - self.beta_1**step)
            learning_rate = keras.ops.cast(learning_rate, "float32")
            learning_rate = learning_rate, learning_rate * correction
        super()._backend_update_step(grads, variables, learning_rate)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        corrected = None
        if isinstance(learning_rate, tuple):
            learning_rate, corrected = learning_rate
        if corrected is None or not _has_op(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        self._decay(variable, learning_rate)
        index = self._get_variable_index(variable)
        no_correction = tf.zeros((), variable.dtype)
        tf.raw_ops.ResourceApplyAdam(
            var=variable.handle,
            m=self._momentums[index].value.handle,
            v=self._velocities[index].value.handle,
            beta1_power=no_correction,
            beta2_power=no_correction,
            lr=self._rate(variable, corrected),
            beta1=tf.constant(self.beta_1, variable.dtype),
            beta2=tf.constant(self.beta_2, variable.dtype),
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )


@keras.saving.register_keras_serializable(package="keras_effnetv2")
class SGD(_DecoupledDecay, keras.optimizers.SGD):
    """`keras.optimizers.SGD` with a rate for every variable; biases and norms are not decayed."""


@keras.saving.register_keras_serializable(package="keras_effnetv2")
class RMSprop(_VariableRates, keras.optimizers.RMSprop):
    """The RMSprop of the official trainings, that of TensorFlow 1.

    One step with the gradient g:

        g = g + weight_decay * weight                             (not of bias, gamma and beta)
        rms = rho * rms + (1 - rho) * g ** 2                      (starts at one)
        step = momentum * step + rate * g / sqrt(rms + epsilon)   (starts at zero)
        weight = weight - step

    `keras.optimizers.RMSprop` starts `rms` at zero, so its first steps are about three times as
    long as the rate, and its weight decay is separate from the gradient (decoupled). Here the decay
    is that of the term `weight_decay / 2 * sum(weight ** 2)` in the loss, and comes before
    clipping.

    Args:
        learning_rate: number, or schedule.
        rho: decay of the average of squared gradients, in [0, 1).
        momentum: in [0, 1).
        epsilon: above 0.
        weight_decay: None is off. Official: 1e-5.
        clipnorm: first every gradient is scaled down to at most this norm, then all together, as
            officially (main.py, `gclip`); None is off. Keras' argument does only the first. Under
            `MirroredStrategy` each device clips its own part, as each core does officially.
        options: other arguments of `keras.optimizers.RMSprop`.

    Raises:
        ValueError: a number is outside its range.
    """

    def __init__(
        self,
        learning_rate: Any = 0.001,
        rho: float = 0.9,
        momentum: float = 0.9,
        epsilon: float = 1e-3,
        *,
        weight_decay: float | None = None,
        clipnorm: float | None = None,
        **options: Any,
    ) -> None:
        check_number("rho", rho, minimum=0, below=1)
        check_number("momentum", momentum, minimum=0, below=1)
        check_number("epsilon", epsilon, above=0)
        check_number("weight_decay", weight_decay, minimum=0, or_none=True)
        check_number("clipnorm", clipnorm, above=0, or_none=True)
        options |= {"weight_decay": weight_decay, "clipnorm": clipnorm}
        super().__init__(learning_rate, rho, momentum, epsilon, **options)

    def add_optimizer_variables(
        self, trainable_variables: Any, name: Any, initializer: Any = "zeros"
    ) -> Any:
        if name == "velocity":  # Keras' name of `rms`
            initializer = "ones"
        return super().add_optimizer_variables(trainable_variables, name, initializer)

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """Update a variable; on TensorFlow, with momentum, by one op."""
        if self.centered or not self.momentum or not _has_op(variable):
            super().update_step(gradient, variable, learning_rate)
            return
        import tensorflow as tf

        index = self._get_variable_index(variable)
        tf.raw_ops.ResourceApplyRMSProp(
            var=variable.handle,
            ms=self._velocities[index].value.handle,
            mom=self._momentums[index].value.handle,
            lr=self._rate(variable, learning_rate),
            rho=tf.constant(self.rho, variable.dtype),
            momentum=tf.constant(self.momentum, variable.dtype),
            epsilon=tf.constant(self.epsilon, variable.dtype),
            grad=tf.cast(tf.convert_to_tensor(gradient), variable.dtype),
        )

    def _backend_apply_gradients(self, grads: Sequence[Any], variables: Sequence[Any]) -> None:
        # Keras offers no public place between the unscaled gradients and their clipping.
        replicas = _replicas()
        coupled = [
            keras.ops.add(gradient, decay / replicas * variable) if decay else gradient
            for gradient, variable, decay in zip(
                grads, variables, map(self._decay_of, variables), strict=True
            )
        ]
        super()._backend_apply_gradients(coupled, variables)

    def _clip_gradients(self, grads: Sequence[Any]) -> Sequence[Any]:
        if self.clipnorm is None:
            return grads
        clipped = super()._clip_gradients(grads)
        squares = [keras.ops.sum(keras.ops.square(gradient)) for gradient in clipped]
        norm = keras.ops.sqrt(keras.ops.sum(keras.ops.stack(squares)))
        scale = self.clipnorm / keras.ops.maximum(norm, self.clipnorm)
        return [gradient * scale for gradient in clipped]


def _has_op(variable: Any) -> bool:
    """Return whether one op of TensorFlow can update a variable as Keras does.

    The op takes all numbers in the type of the variable, in which 0.999 may be 1.
    """
    on_tensorflow = keras.backend.backend() == "tensorflow"
    return on_tensorflow and variable.dtype in ("float32", "float64")


def _replicas() -> int:
    """The number of devices whose gradients will be summed, each from its part of the loss."""
    if keras.backend.backend() != "tensorflow":
        return 1
    import tensorflow as tf

    return tf.distribute.get_strategy().num_replicas_in_sync


# --- which variable learns how --------------------------------------------------------------------


def layer_groups(model: keras.Model) -> list[list[keras.layers.Layer]]:
    """Return the layers with trainable weights in groups, from the input to the classifier.

    They are in the order of `model.layers` (nested models in their place). Layers whose names begin
    with the same block, such as "block2a_" or "conv3_block2_", are one group. A layer without a
    matrix, such as batch norm, belongs to the group before it. Every other layer is its own group.
    In our models the groups are stem, every block, head convolution, classifier.
    """
    groups: list[list[keras.layers.Layer]] = []
    blocks: dict[str, list[keras.layers.Layer]] = {}
    for layer in _weighted_layers(model):
        block = _BLOCK.match(layer.name)
        is_matrix = any(len(variable.shape) > 1 for variable in layer.trainable_variables)
        if block and block.group() in blocks:
            blocks[block.group()].append(layer)
            continue
        if block or is_matrix or not groups:
            groups.append([])
        if block:
            blocks[block.group()] = groups[-1]
        groups[-1].append(layer)
    return groups


def variable_depths(model: keras.Model) -> tuple[int, ...]:
    """Return the position of every trainable variable in its network, counted from the input.

    Returns:
        One number for each of `model.trainable_variables`: the index of its group, see
            `layer_groups`.

    Raises:
        ValueError: a variable does not belong to a layer, so its place is unknown.
    """
    depths: dict[int, int] = {}
    for depth, group in enumerate(layer_groups(model)):
        for variable in (variable for layer in group for variable in layer.trainable_variables):
            depths.setdefault(id(variable), depth)  # the first place of a shared layer
    if homeless := [v.path for v in model.trainable_variables if id(v) not in depths]:
        raise ValueError(
            "A learning rate by depth needs a model whose variables belong to its layers. Train "
            "with layer_decay=1.0, head_warmup_epochs=0 and unfreeze_epochs=0, or put them into a "
            f"layer. Received the model {model.name!r} with {homeless}"
        )
    return tuple(depths[id(variable)] for variable in model.trainable_variables)


def _weighted_layers(model: keras.Model) -> Iterator[keras.layers.Layer]:
    for layer in model.layers:
        if isinstance(layer, keras.Model):
            yield from _weighted_layers(layer)
        elif layer.trainable_variables:
            yield layer


def variable_rates(
    depths: Sequence[int],
    *,
    layer_decay: float = 1.0,
    head_warmup_steps: int = 0,
    unfreeze_steps: int = 0,
) -> tuple[VariableRate, ...]:
    """Return learning rates for fine-tuning from the depths that `variable_depths` gives.

    The deepest group (the classifier) has the factor 1 and learns from step 0. A group `k` groups
    closer to the input has the factor `layer_decay ** k`. The group next to the classifier starts
    after `head_warmup_steps`, the one next to the input `unfreeze_steps` later, and those between
    at equal distances.
    """
    last = max(depths)

    def rate(distance: int) -> VariableRate:
        if distance == 0:
            return VariableRate()
        waiting = (distance - 1) / max(1, last - 1)
        first_step = head_warmup_steps + math.ceil(unfreeze_steps * waiting)
        return VariableRate(layer_decay**distance, first_step)

    return tuple(rate(last - depth) for depth in depths)
