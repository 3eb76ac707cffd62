"""A training step with the faster kernels gives what the stock layers give."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_effnetv2 as kev2
from keras_effnetv2.models.training_kernels import use_training_kernels
from keras_effnetv2.training.transfer import batch_norms, freeze_batch_norm

# Every kind of block, depthwise kernels of 3 and 5. Of 32 pixels the last map has 2 x 2.
BLOCKS = [
    "r1_k3_s1_e1_i8_o8_c1",
    "r1_k3_s2_e4_i8_o8_c1",
    "r2_k5_s2_e4_i8_o8_se0.25",
    "r1_k3_s2_e4_i8_o8",
    "r1_k5_s1_e4_i8_o8",
]
SIDE = 32


@pytest.fixture
def dtype_policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def network(frozen=False, **options):
    """Return a small network whose scales, offsets and statistics are not the initial ones."""
    keras.utils.set_random_seed(0)
    config = kev2.ModelConfig("tiny", kev2.decode_stages(BLOCKS), head_filters=16)
    options = {"dropout_rate": 0, "drop_path_rate": 0} | options
    model = kev2.build_model(config, classes=3, **options)
    rng = np.random.default_rng(0)
    for variable in model.variables:
        if variable.name in ("gamma", "moving_variance"):
            variable.assign(rng.uniform(0.8, 1.2, variable.shape))
        elif variable.name in ("beta", "moving_mean", "bias"):
            variable.assign(rng.normal(0, 0.1, variable.shape))
    if frozen:
        freeze_batch_norm(model)
    return model


def stock(model):
    """Return the same network, made by Keras from the configuration of its layers."""
    clone = keras.models.clone_model(model)
    clone.set_weights(model.get_weights())
    for layer, original in zip(clone.layers, model.layers, strict=True):
        layer.trainable = original.trainable
    return clone


def a_batch(pictures=4, side=SIDE):
    rng = np.random.default_rng(1)
    images = rng.uniform(0, 255, (pictures, side, side, 3)).astype("float32")
    return tf.constant(images), tf.constant(np.eye(3, dtype="float32")[np.arange(pictures) % 3])


def step(model, batch, *, dynamic=False, eager=False):
    """Return loss, gradients and statistics of a training step."""
    images, labels = batch

    def gradients(images):
        with tf.GradientTape() as tape:
            loss = keras.losses.categorical_crossentropy(labels, model(images, training=True))
            loss = tf.reduce_mean(loss)
        return loss, tape.gradient(loss, [one.value for one in model.trainable_variables])

    signature = [tf.TensorSpec([None, None, None, 3])] if dynamic else None
    loss, found = (gradients if eager else tf.function(gradients, signature))(images)
    names = [variable.path for variable in model.trainable_variables]
    statistics = [one.numpy() for one in model.non_trainable_variables]
    found = {name: one.numpy() for name, one in zip(names, found, strict=True)}
    return loss.numpy(), found, statistics


def assert_same(ours, theirs, tolerance=1e-4):
    loss, gradients, statistics = ours
    expected_loss, expected_gradients, expected_statistics = theirs
    np.testing.assert_allclose(loss, expected_loss, rtol=tolerance)
    assert gradients.keys() == expected_gradients.keys()
    largest = max(np.linalg.norm(one) for one in expected_gradients.values())
    for name, expected in expected_gradients.items():
        # An offset in front of a batch norm has the gradient 0, and rounding in its place.
        error = np.linalg.norm(gradients[name] - expected)
        assert error <= tolerance * np.linalg.norm(expected) + 1e-6 * largest, name
    for one, expected in zip(statistics, expected_statistics, strict=True):
        np.testing.assert_allclose(one, expected, rtol=1e-5, atol=1e-6)


@functools.cache
def stock_step(frozen=False):
    """Return what the stock layers of `network(frozen)` make of `a_batch()`."""
    plain = stock(network(frozen))
    assert not replaced(plain)
    return step(plain, a_batch())


def replaced(model):
    """Return the layers that have a call or a convolution of their own."""
    return [one for one in model.layers if {"call", "convolution_op"} & one.__dict__.keys()]


@pytest.mark.parametrize("dynamic", [False, True], ids=["fixed size", "any size"])
@pytest.mark.parametrize("frozen", [False, True], ids=["learning", "frozen"])
def test_a_step_is_that_of_the_stock_layers(frozen, dynamic):
    model = network(frozen)
    assert replaced(model)
    before = [one.numpy() for one in model.non_trainable_variables]
    ours = step(model, a_batch(), dynamic=dynamic)
    assert_same(ours, stock_step(frozen))
    moved = any((one != old).any() for one, old in zip(ours[2], before, strict=True))
    assert moved != frozen


def test_a_step_is_faster_because_fewer_operations_are_left():
    model = network()

    def operations(model):
        function = tf.function(lambda x: model(x, training=True)).get_concrete_function(
            a_batch()[0]
        )
        return [node.type for node in function.graph.get_operations()]

    ours, theirs = operations(model), operations(stock(model))
    assert ours.count("FusedBatchNormV3") == len(batch_norms(model))
    assert "SquaredDifference" in theirs
    assert "SquaredDifference" not in ours


def test_one_picture_whose_last_map_is_a_single_pixel():
    model = network()
    plain = stock(model)
    assert_same(step(model, a_batch(1, 16)), step(plain, a_batch(1, 16)))


def test_a_step_without_a_graph():
    assert_same(step(network(frozen=True), a_batch(), eager=True), stock_step(frozen=True))


def test_half_precision_is_left_to_keras_but_for_batch_norm(dtype_policy):
    dtype_policy("mixed_bfloat16")
    model = network()
    plain = stock(model)
    (loss, ours, _), (expected, theirs, _) = step(model, a_batch()), step(plain, a_batch())
    np.testing.assert_allclose(loss, expected, rtol=0.01)
    ours, theirs = (
        np.concatenate([one.ravel() for one in all_.values()]) for all_ in (ours, theirs)
    )
    assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs)


def test_channels_first_is_left_to_keras():
    before = keras.config.image_data_format()
    keras.config.set_image_data_format("channels_first")
    try:
        model = network()
    finally:
        keras.config.set_image_data_format(before)
    assert {type(one) for one in replaced(model)} == {keras.layers.Activation}


def test_prediction_saving_and_layers_are_those_of_keras(tmp_path):
    model = network()
    plain = stock(model)
    images = a_batch()[0]
    np.testing.assert_array_equal(model(images), plain(images))
    np.testing.assert_array_equal(
        model.predict(images, verbose=0), plain.predict(images, verbose=0)
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert model.to_json() == plain.to_json()
    assert not replaced(loaded)
    np.testing.assert_array_equal(loaded(images), plain(images))
    use_training_kernels(loaded)
    assert len(replaced(loaded)) == len(replaced(model))
    assert_same(step(loaded, a_batch()), stock_step())


def test_a_convolution_in_front_of_a_frozen_batch_norm_keeps_its_own_output():
    model = network(frozen=True)
    plain = stock(model)
    results = []
    for one in (model, plain):
        taps = [one.get_layer("block2a_expand_conv").output, one.output]
        both = keras.Model(one.input, taps)
        results.append(tf.function(lambda x, both=both: both(x, training=True))(a_batch()[0]))
    for ours, theirs in zip(*results, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_layers_of_other_kinds_are_left_alone():
    class Mine(keras.layers.BatchNormalization):
        pass

    inputs = keras.Input((SIDE, SIDE, 3))
    x = keras.layers.Conv2D(4, 3, dilation_rate=2)(inputs)
    x = Mine()(x)
    x = keras.layers.BatchNormalization(scale=False)(x)
    x = keras.layers.DepthwiseConv2D(3, activation="relu")(x)
    model = keras.Model(inputs, keras.layers.Dense(3)(x))
    use_training_kernels(model)
    assert not replaced(model)


@pytest.mark.parametrize(
    "layer",
    [
        {"kernel_size": 5, "strides": 2},
        {"kernel_size": 4},
        {"kernel_size": 5, "padding": "valid"},
        {"kernel_size": 5, "depth_multiplier": 2},
        {"kernel_size": (3, 5)},
        {"kernel_size": 7},
    ],
    ids=str,
)
@pytest.mark.parametrize("sides", [(6, 11), (3, 2)], ids=str)
def test_depthwise_convolutions_of_any_form(layer, sides):
    layer = {"padding": "same"} | layer
    if layer["padding"] == "valid" and min(sides) < 5:
        pytest.skip("the kernel is larger than the map")
    inputs = keras.Input((None, None, 4))
    x = keras.layers.DepthwiseConv2D(**layer, use_bias=False)(inputs)
    x = keras.layers.BatchNormalization(trainable=False)(x)
    model = keras.Model(inputs, x)
    plain = stock(model)
    use_training_kernels(model)
    kernel = model.trainable_variables[0]
    x = tf.constant(np.random.default_rng(0).normal(size=(3, *sides, 4)).astype("float32"))

    @tf.function
    def gradients(model, x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = tf.reduce_sum(tf.sin(model(x, training=True)))
        return tape.gradient(total, [x, model.trainable_variables[0].value])

    for ours, theirs in zip(gradients(model, x), gradients(plain, x), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4)
    assert kernel.shape == model.layers[1].kernel.shape
