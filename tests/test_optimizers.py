"""The official RMSprop against its six-step example, and a learning rate for every variable."""

import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle
from helpers.quick_runs import two_blocks

from keras_effnetv2.models.build import build_model
from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.recipes.optimizers import (
    SGD,
    Adam,
    RMSprop,
    VariableRate,
    variable_depths,
    variable_rates,
)

GOLDEN = oracle.training("optimizer")
EXAMPLE = GOLDEN["rmsprop_example"]
RATES = np.array([step["lr"] for step in EXAMPLE["steps"]], "float32")
DECAY = GOLDEN["weight_decay"]["value"]

each_optimizer = pytest.mark.parametrize(
    "make",
    [
        lambda: RMSprop(0.1, weight_decay=0.5),
        lambda: Adam(0.1, weight_decay=0.5),
        lambda: SGD(0.1, momentum=0.9, nesterov=True, weight_decay=0.5),
    ],
    ids=["rmsprop", "adam", "sgd"],
)


@keras.saving.register_keras_serializable(package="test_optimizers")
class ExampleRate(keras.optimizers.schedules.LearningRateSchedule):
    """The rate of each step of the example."""

    def __call__(self, step):
        return keras.ops.take(keras.ops.convert_to_tensor(RATES), step)

    def get_config(self):
        return {}


def array(value):
    return keras.ops.convert_to_numpy(value)


def kernel_model(value, **compile_args):
    """Predicts `inputs @ kernel`; the loss is that, so the gradient is the mean input."""
    kernel = np.array(value, "float32").reshape(-1, 1)
    model = keras.Sequential(
        [keras.Input((len(kernel),)), keras.layers.Dense(1, use_bias=False, name="dense")]
    )
    model.compile(loss=lambda targets, outputs: outputs, **compile_args)
    model.layers[0].kernel.assign(kernel)
    return model


def variables(count=3, name="kernel"):
    made = [
        keras.Variable(np.full((2, 2), index + 1, "float32"), name=name) for index in range(count)
    ]
    return made, [np.full((2, 2), 0.1 * (index + 1), "float32") for index in range(count)]


def step(optimizer, made, gradients):
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], made)


def official_steps(weight, gradients, rate, decay=0.0):
    """The formulas of `GOLDEN["optimizer"]` in float64, the decay as a part of the gradient."""
    weight = np.array(weight, "float64")
    rms, momentum = np.ones_like(weight), np.zeros_like(weight)
    for gradient in gradients:
        gradient = gradient + decay * weight
        rms = 0.9 * rms + 0.1 * gradient**2
        momentum = 0.9 * momentum + rate * gradient / np.sqrt(rms + 1e-3)
        weight = weight - momentum
    return weight


# --- the official RMSprop -----------------------------------------------------------------------


@pytest.mark.backend
@pytest.mark.parametrize("jit_compile", [False, True])
def test_official_example_through_fit(jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("torch.compile needs a C++ compiler")
    model = kernel_model(
        EXAMPLE["initial"]["w"], optimizer=RMSprop(ExampleRate()), jit_compile=jit_compile
    )
    ema = EMA(GOLDEN["ema"]["decay"])
    found = []

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            ema.swap()
            average = model.layers[0].get_weights()[0]
            ema.swap()
            _, *slots = (array(variable) for variable in model.optimizer.variables)
            found.append([model.layers[0].get_weights()[0], *slots[:2], average])

    gradients = np.array([step["grad"] for step in EXAMPLE["steps"]], "float32")
    model.fit(
        gradients,
        np.zeros((len(gradients), 1)),
        batch_size=1,
        shuffle=False,
        verbose=0,
        callbacks=[ema, Record()],
    )
    for values, expected in zip(found, EXAMPLE["steps"], strict=True):
        for value, name in zip(values, ("w", "rms", "momentum", "ema"), strict=True):
            np.testing.assert_allclose(
                value.ravel(), expected[name], rtol=1e-6, atol=1e-6, err_msg=name
            )


@pytest.mark.backend
def test_official_weight_decay_is_a_part_of_the_gradient():
    for name, decay in (("kernel", 0.5), ("bias", 0.0), ("gamma", 0.0), ("beta", 0.0)):
        made, gradients = variables(1, name)
        optimizer = RMSprop(0.1, weight_decay=0.5)
        for _ in range(3):
            step(optimizer, made, gradients)
        expected = official_steps(np.ones((2, 2)), 3 * gradients, 0.1, decay)
        np.testing.assert_allclose(array(made[0]), expected, rtol=1e-5)


@pytest.mark.backend
def test_clipping_is_first_of_each_gradient_then_of_all():
    made, _ = variables(2)
    gradients = [np.full((2, 2), 2.5, "float32"), np.full((2, 2), -0.6, "float32")]
    optimizer = RMSprop(1.0, weight_decay=0.5, clipnorm=1.0)
    step(optimizer, made, gradients)
    # With the decay 2.5 + 0.5 * 1 = 3 and -0.6 + 0.5 * 2 = 0.4 everywhere, the norms 6 and 0.8;
    # after the first clip 0.5 and 0.4, together of the norm sqrt(1 + 0.64).
    scale = 1 / math.sqrt(1.64)
    for variable, before, gradient in zip(made, (1, 2), (0.5, 0.4), strict=True):
        g = gradient * scale
        expected = before - g / math.sqrt(0.9 + 0.1 * g**2 + 1e-3)
        np.testing.assert_allclose(array(variable), expected, rtol=1e-5)

    # Small gradients are not clipped.
    results = []
    for optimizer in (RMSprop(0.1), RMSprop(0.1, clipnorm=10.0)):
        made, gradients = variables()
        step(optimizer, made, gradients)
        results.append([array(variable) for variable in made])
    np.testing.assert_array_equal(*results)


def check_two_devices(strategy):
    """Called by a test of `test_fit_devices`, in a process with two devices."""
    inputs = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    dataset = tf.data.Dataset.from_tensor_slices((inputs, np.zeros((8, 1)))).batch(4)
    gradients = [inputs[:4].mean(0), inputs[4:].mean(0)] * 2
    with strategy.scope():
        optimizers = RMSprop(0.1, weight_decay=0.5), Adam(0.1, weight_decay=0.5)
        model, waiting = (
            kernel_model(np.ones(6), optimizer=one, jit_compile=False) for one in optimizers
        )
    model.fit(dataset, epochs=2, verbose=0)
    found = model.get_weights()[0].ravel()
    np.testing.assert_allclose(found, official_steps(np.ones(6), gradients, 0.1, 0.5), rtol=1e-5)
    waiting.optimizer.set_variable_rates([(1.0, 2)])
    waiting.fit(dataset, epochs=1, verbose=0)
    np.testing.assert_array_equal(waiting.get_weights()[0], np.ones((6, 1)))
    waiting.fit(dataset, epochs=1, verbose=0)
    assert (waiting.get_weights()[0] != 1).all()


@pytest.mark.backend
@each_optimizer
def test_steps_under_loss_scaling_are_the_plain_ones(make):
    inputs = np.random.default_rng(0).standard_normal((3, 6)).astype("float32")
    weights = []
    for optimizer in (make(), keras.optimizers.LossScaleOptimizer(make(), initial_scale=8.0)):
        model = kernel_model(np.ones(6), optimizer=optimizer, run_eagerly=True)
        model.fit(inputs, np.zeros((3, 1)), batch_size=1, shuffle=False, verbose=0)
        weights.append(model.get_weights()[0])
    np.testing.assert_allclose(*weights, rtol=1e-6)


@pytest.mark.backend
@each_optimizer
def test_a_saved_model_goes_on_where_it_was(make, tmp_path):
    inputs = np.random.default_rng(0).standard_normal((4, 3)).astype("float32")

    def train(model):
        model.fit(inputs, np.zeros((4, 1)), batch_size=2, shuffle=False, verbose=0)

    optimizer = make()
    optimizer.set_variable_rates([(0.5, 3), (1.0, 0)])
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile(optimizer, "mse", run_eagerly=True)
    train(model)
    model.save(tmp_path / "model.keras")
    restored = keras.saving.load_model(tmp_path / "model.keras")
    assert type(restored.optimizer) is type(optimizer)
    assert restored.optimizer.get_config() == optimizer.get_config()
    for each in (model, restored):
        train(each)
    for found, expected in zip(restored.get_weights(), model.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_rmsprop_refuses_what_is_out_of_range():
    for argument, value, allowed in (
        ("rho", 1.0, "of at least 0 and below 1"),
        ("momentum", -0.1, "of at least 0 and below 1"),
        ("epsilon", 0.0, "above 0"),
        ("weight_decay", -1e-5, "of at least 0, or None"),
        ("clipnorm", 0.0, "above 0, or None"),
    ):
        with pytest.raises(ValueError, match=f"`{argument}` .* number {allowed}. .*: {value}"):
            RMSprop(0.1, **{argument: value})


# --- a rate for every variable ------------------------------------------------------------------


@pytest.mark.backend
@each_optimizer
def test_a_variable_that_waits_does_not_change_by_a_bit_and_then_learns(make):
    made, gradients = variables()
    optimizer = make()
    optimizer.set_variable_rates([(1.0, 2), (0.0, 0), (1.0, 0)])
    optimizer.build(made)
    before = [array(variable) for variable in made]
    for _ in range(2):
        step(optimizer, made, gradients)
    np.testing.assert_array_equal(array(made[0]), before[0])
    np.testing.assert_array_equal(array(made[1]), before[1])
    assert (array(made[2]) < before[2]).all()
    step(optimizer, made, gradients)
    assert (array(made[0]) < before[0]).all()
    np.testing.assert_array_equal(array(made[1]), before[1])


@pytest.mark.backend
@each_optimizer
def test_a_factor_is_that_of_the_rate_decay_included(make):
    made, gradients = variables()
    optimizer = make()
    optimizer.set_variable_rates([(0.25, 0), (1.0, 0), (2.0, 0)])
    alone = []
    for index, factor in enumerate((0.25, 1.0, 2.0)):
        scaled = make()
        scaled.learning_rate = 0.1 * factor
        alone.append((scaled, variables()[0][index]))
    for _ in range(3):
        step(optimizer, made, gradients)
        for (scaled, variable), gradient in zip(alone, gradients, strict=True):
            step(scaled, [variable], [gradient])
    for (_, expected), found in zip(alone, made, strict=True):
        np.testing.assert_allclose(array(found), array(expected), rtol=1e-6)


@pytest.mark.backend
def test_estimates_of_a_waiting_variable_follow_its_gradients():
    made, gradients = variables(1)
    optimizer = RMSprop(0.1)
    optimizer.set_variable_rates([(1.0, 5)])
    for _ in range(2):
        step(optimizer, made, gradients)
    rms, momentum = optimizer.variables[-2:]
    np.testing.assert_allclose(array(rms), 0.9**2 + 0.1 * 0.01 * 1.9, rtol=1e-6)
    np.testing.assert_array_equal(array(momentum), np.zeros((2, 2)))


@pytest.mark.backend
def test_without_rates_adam_and_sgd_are_those_of_keras():
    for ours, kerass in ((Adam, keras.optimizers.Adam), (SGD, keras.optimizers.SGD)):
        results = []
        for optimizer in (ours(0.1, weight_decay=0.5), kerass(0.1, weight_decay=0.5)):
            made, gradients = variables()
            for _ in range(3):
                step(optimizer, made, gradients)
            results.append([array(variable) for variable in made])
        # TensorFlow's op computes 1 - beta_2 in float32.
        np.testing.assert_allclose(*results, rtol=1e-5)


@pytest.mark.parametrize("make", [Adam, RMSprop, SGD])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_variables_of_16_bits_take_no_longer_steps_than_those_of_32(make, dtype):
    """In bfloat16 0.999 is 1: an average that stays 0 would make steps without bound.

    With Keras' own Adam such a variable does not change at all.
    """
    ends = []
    for each in (dtype, "float32"):
        variable, optimizer = keras.Variable(np.ones(3), dtype=each), make(0.05)
        for _ in range(3):
            optimizer.apply([keras.ops.ones_like(variable)], [variable])
        ends.append(array(keras.ops.cast(variable, "float32")))
    assert (0.98 * ends[1] <= ends[0]).all()
    assert (ends[0] <= 1).all()


def test_a_schedule_may_return_integers():
    rates = keras.optimizers.schedules.PiecewiseConstantDecay([3, 6], [1, 2, 3])
    for optimizer in (Adam(rates), RMSprop(rates), SGD(rates)):
        optimizer.set_variable_rates([(0.5, 0)])
        made, gradients = variables(1)
        before = array(made[0])
        step(optimizer, made, gradients)
        assert (array(made[0]) < before).all()


@pytest.mark.backend
def test_one_trace_serves_before_and_after_the_start():
    traced, weights = [], []

    class Counted(SGD):
        def update_step(self, gradient, variable, learning_rate):
            traced.append(variable)
            super().update_step(gradient, variable, learning_rate)

    optimizer = Counted(1.0)
    optimizer.set_variable_rates([(1.0, 3)])
    model = kernel_model([0.0], optimizer=optimizer)

    class Record(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            weights.append((float(self.model.get_weights()[0][0, 0]), len(traced)))

    ones = np.ones((6, 1), "float32")
    model.fit(ones, ones, batch_size=1, verbose=0, callbacks=[Record()])
    assert [weight for weight, _ in weights] == [0.0, 0.0, 0.0, -1.0, -2.0, -3.0]
    if keras.backend.backend() != "torch":  # which traces nothing
        traces = [count for _, count in weights]
        assert traces[1:] == traces[1:2] * 5


def test_rates_must_be_in_their_range_and_as_many_as_the_variables():
    made, _ = variables(3)
    built, fresh = Adam(0.1), Adam(0.1)
    built.build(made)
    for rate, refused in (
        ((-0.1, 0), "`factor` must be a number of at least 0. Received: -0.1"),
        ((1.0, -1), "`first_step` must be an integer of at least 0. Received: -1"),
    ):
        with pytest.raises(ValueError, match=refused):
            fresh.set_variable_rates([rate])
    message = r"have been frozen.*Received: 2 rates for 3 variables"
    with pytest.raises(ValueError, match=message):
        built.set_variable_rates([(1.0, 0)] * 2)
    fresh.set_variable_rates([(1.0, 0)] * 2)
    with pytest.raises(ValueError, match=message):
        fresh.build(made)


# --- depths ---------------------------------------------------------------------------------------


def depth_of(model):
    """Layer name -> depth."""
    depths = variable_depths(model)
    return {
        variable.path.split("/")[-2]: depth
        for variable, depth in zip(model.trainable_variables, depths, strict=True)
    }


def test_depths_of_our_networks_are_stem_blocks_head_and_classifier():
    config = two_blocks()
    model = build_model(config, classes=3)
    depths = depth_of(model)
    assert depths["stem_conv"] == depths["stem_bn"] == 0
    assert depths["block1a_expand_conv"] == depths["block1a_project_bn"] == 1
    assert {depth for name, depth in depths.items() if name.startswith("block2a_")} == {2}
    assert depths["top_conv"] == depths["top_bn"] == 3
    assert depths["predictions"] == 4
    assert set(depths.values()) == set(range(config.num_blocks + 3))
    model.get_layer("stem_bn").trainable = False
    assert len(variable_depths(model)) == len(model.trainable_variables)


def test_a_network_in_a_network_counts_where_it_stands():
    layers = [
        keras.Input((8,)),
        keras.layers.Dense(4, name="first"),
        keras.layers.BatchNormalization(name="norm"),
        keras.layers.Dense(4, name="second"),
    ]
    inputs = keras.Input((8,))
    outputs = keras.layers.Dense(2, name="head")(keras.Sequential(layers)(inputs))
    depths = depth_of(keras.Model(inputs, outputs))
    assert depths == {"first": 0, "norm": 0, "second": 1, "head": 2}


def test_a_leading_norm_and_a_shared_layer_have_their_first_place():
    inputs = keras.Input((4,))
    shared = keras.layers.Dense(4, name="shared")
    x = shared(keras.layers.BatchNormalization(name="norm")(inputs))
    x = shared(keras.layers.Dense(4, name="between")(x))
    depths = depth_of(keras.Model(inputs, keras.layers.Dense(2, name="head")(x)))
    assert depths["norm"] == 0
    assert depths["head"] == max(depths.values()) == 3
    assert {depths["shared"], depths["between"]} == {1, 2}


def test_depths_are_by_block_as_other_networks_name_them():
    """ResNet, MobileNet and ConvNeXt of keras.applications."""
    expected = {
        **{"conv1_conv": 0, "conv2_block1_0_conv": 1, "conv2_block1_3_conv": 1},
        **{"conv2_block2_1_conv": 2, "block_7_expand": 3, "block_7_project": 3},
        **{"tiny_stage_1_block_0_depthwise": 4, "tiny_stage_1_block_0_pointwise": 4},
        **{"tiny_stage_1_block_1_depthwise": 5, "predictions": 6},
    }
    layers = [keras.layers.Dense(2, name=name) for name in expected]
    assert depth_of(keras.Sequential([keras.Input((2,)), *layers])) == expected


def test_a_variable_outside_all_layers_has_no_depth():
    class Scaled(keras.Model):
        def __init__(self):
            super().__init__(name="scaled")
            self.dense = keras.layers.Dense(2)
            self.scale = self.add_weight(shape=(2,), name="scale")

        def call(self, inputs):
            return self.dense(inputs) * self.scale

    model = Scaled()
    model(np.zeros((1, 3)))
    with pytest.raises(ValueError, match=r"layer_decay=1.0.*'scaled' with \['scaled/scale'\]"):
        variable_depths(model)


def test_rates_by_depth():
    rates = variable_rates(
        (0, 0, 1, 2, 3, 4), layer_decay=0.5, head_warmup_steps=10, unfreeze_steps=7
    )
    # Starts 10 + 7 * (distance - 1) / 3, rounded up: 10, 12.33, 14.67, 17.
    assert rates == (
        VariableRate(0.0625, 17),
        VariableRate(0.0625, 17),
        VariableRate(0.125, 15),
        VariableRate(0.25, 13),
        VariableRate(0.5, 10),
        VariableRate(1.0, 0),
    )
    assert variable_rates((0, 1), head_warmup_steps=3, unfreeze_steps=9)[0].first_step == 3
    assert variable_rates((0, 0), head_warmup_steps=3) == (VariableRate(), VariableRate())


@each_optimizer
def test_files_from_before_the_optimizers_moved_still_load(make):
    optimizer = make()
    saved = keras.saving.serialize_keras_object(optimizer)
    assert saved["module"] == "keras_effnetv2.recipes.optimizers"
    moved = saved | {"module": "keras_effnetv2.training.optimizers"}
    loaded = keras.saving.deserialize_keras_object(moved)
    assert type(loaded) is type(optimizer)
    assert loaded.get_config() == optimizer.get_config()
