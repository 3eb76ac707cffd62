"""Folded models against the models they came from, with batch norms that do something."""

from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers.oracle import filled, numpy
from helpers.source_files import SMALL

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.export.check import in_dtype
from keras_effnetv2.models.build import build_model, feature_extractor
from keras_effnetv2.models.folding import fold_batch_norm
from keras_effnetv2.models.graph import all_layers

layers = keras.layers


def batch_norms(model):
    return [x for x in all_layers(model) if isinstance(x, layers.BatchNormalization)]


def randomised(model, seed=0):
    """Gives batch norms (and biases) other values than those that make them do nothing."""
    rng = np.random.default_rng(seed)
    for layer in all_layers(model):
        if isinstance(layer, keras.Model):
            continue
        for weight in layer.weights:
            if "variance" in weight.name or "gamma" in weight.name:
                weight.assign(rng.uniform(0.5, 1.5, weight.shape))
            elif len(weight.shape) == 1 and "float" in weight.dtype:
                weight.assign(rng.normal(0, 0.3, weight.shape))
    return model


def outputs(model, *inputs):
    answer = model(*inputs, training=False)
    return [numpy(x).astype("float64") for x in keras.tree.flatten(answer)]


def fold_and_compare(model, shape, tolerance=1e-5, draw=True):
    """Draws the batch norms, folds them, compares relative to the largest output, returns it."""
    if draw:
        randomised(model)
    x = np.random.default_rng(1).uniform(-1, 1, shape).astype("float32")
    before = [numpy(weight) for weight in model.weights]
    expected = outputs(model, x)
    folded = fold_batch_norm(model)
    assert not batch_norms(folded)
    for mine, theirs in zip(outputs(folded, x), expected, strict=True):
        assert mine.shape == theirs.shape
        assert 0 < np.abs(theirs).max() < np.inf
        assert np.abs(mine - theirs).max() < tolerance * np.abs(theirs).max()
    for now, then in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(now), then)
    assert not {id(weight) for weight in model.weights} & {id(weight) for weight in folded.weights}
    return folded


@pytest.mark.parametrize(
    "options",
    [{"classes": 7}, {"include_top": False, "pooling": "avg", "include_preprocessing": False}],
)
def test_every_kind_of_our_blocks(options):
    model = build_model(SMALL, **options)
    folded = fold_and_compare(model, (2, 64, 48, 3))
    # Nothing stands where a batch norm was, and everything else is there under its name.
    assert [x.name for x in folded.layers] == [
        x.name for x in model.layers if not isinstance(x, layers.BatchNormalization)
    ]
    assert folded.name == model.name
    assert all(x.use_bias for x in folded.layers if isinstance(x, layers.Conv2D))


def test_a_variant_loses_three_numbers_a_channel():
    model = filled("efficientnetv2-b0")
    folded = fold_and_compare(model, (1, 64, 64, 3), tolerance=2e-5, draw=False)
    assert model.count_params() - folded.count_params() == sum(
        3 * x.moving_mean.shape[0] for x in batch_norms(model)
    )


@pytest.mark.slow  # hundreds of layers, folded and compared
def test_the_deepest_network_stays_below_the_recursion_limit():
    """XL with blocks of one convolution: as many shortcuts one after another, fewer layers."""
    config = ModelConfig.from_name("efficientnetv2-xl").scaled(width=0.02)
    plain = {"conv": "fused", "expand_ratio": 1, "se_ratio": None, "kernel_size": 1}
    config = replace(config, stages=tuple(replace(stage, **plain) for stage in config.stages))
    fold_and_compare(build_model(config, classes=3, classifier_activation=None), (1, 32, 32, 3))


def test_several_outputs_among_them_what_a_convolution_gave():
    model = feature_extractor(build_model(SMALL))
    folded = fold_and_compare(model, (1, 64, 64, 3))
    assert keras.tree.map_structure(lambda x: x.shape, folded.output) == (
        keras.tree.map_structure(lambda x: x.shape, model.output)
    )
    convolution = build_model(SMALL).get_layer("stem_conv")
    inside = keras.Model(convolution.input, {"raw": convolution.output})
    normal = layers.BatchNormalization(name="normal")(inside(inside.input)["raw"])
    both = keras.Model(inside.input, {"a": inside.output["raw"], "b": normal})
    assert set(fold_and_compare(both, (1, 32, 32, 3)).output) == {"a", "b"}


def test_transfer_models_sequential_and_functional():
    base = build_model(SMALL, include_top=False, pooling="avg")
    fold_and_compare(
        keras.Sequential([keras.Input((64, 64, 3)), base, layers.Dense(4)]), (2, 64, 64, 3)
    )
    base = build_model(SMALL, include_top=False)
    inputs = keras.Input((None, None, 3), name="photo")
    x = layers.BatchNormalization(name="between")(base(inputs, training=False))
    x = layers.Dense(5)(layers.GlobalAveragePooling2D()(x))
    x = layers.BatchNormalization(name="of_dense")(x, training=False)
    model = keras.Model(inputs, layers.Softmax()(x))
    model.compile("adam", "categorical_crossentropy")
    folded = fold_and_compare(model, (2, 64, 64, 3))
    names = [layer.name for layer in folded.layers]
    assert "between" in names
    assert "of_dense" not in names
    assert folded.input.name == "photo"
    assert not folded.compiled


def conv(kind, *args, **options):
    return getattr(layers, kind)(*args, use_bias=True, padding="same", **options)


@pytest.mark.parametrize(
    ("shape", "layer"),
    [
        ((6, 5, 4), lambda: conv("Conv2D", 8, 3, groups=2)),
        ((6, 5, 4), lambda: conv("DepthwiseConv2D", 3, depth_multiplier=2)),
        ((6, 5, 4), lambda: conv("SeparableConv2D", 6, 3, depth_multiplier=2)),
        ((6, 5, 4), lambda: conv("Conv2DTranspose", 6, 3, strides=2)),
        ((6, 4), lambda: conv("Conv1D", 5, 3)),
        ((5, 4, 3, 2), lambda: conv("Conv3D", 5, 3)),
        ((6, 4), lambda: layers.Dense(5)),
        ((4,), lambda: layers.Dense(5, use_bias=False)),
    ],
)
def test_linear_layers_take_a_batch_norm_up(shape, layer):
    for options in ({}, {"scale": False, "epsilon": 0.1}, {"center": False}):
        normal = layers.BatchNormalization(**options)
        model = keras.Sequential([keras.Input(shape), layer(), normal, layers.ReLU()])
        folded = fold_and_compare(model, (3, *shape))
        assert len(folded.layers) == 3  # input, layer and ReLU


@pytest.mark.parametrize("rank", [1, 2, 3, 4])
@pytest.mark.parametrize("axis", [1, -1])
def test_a_batch_norm_by_itself_becomes_one_scale_and_offset(rank, axis):
    shape = (2, 3, 4, 5, 6)[-rank:]
    model = keras.Sequential(
        [keras.Input(shape), layers.BatchNormalization(axis=axis, name="normal")]
    )
    folded = fold_and_compare(model, (2, *shape))
    channels = shape[axis if axis < 0 else axis - 1]
    assert folded.get_layer("normal").count_params() == 2 * channels


def keep(filters=4, name="keep", **options):
    return layers.Conv2D(filters, 1, name=name, **options)


def normal(**options):
    return layers.BatchNormalization(**options)


def twice_used(x):
    x = keep()(x)
    return layers.Add()([normal()(x), x])


def shared_convolution(x):
    shared = keep(3)
    return normal()(shared(shared(x)))


def shared_batch_norm(x):
    shared = normal()
    return layers.Add()([shared(keep(3)(x)), shared(keep(3, "keep_too")(x))])


def concatenated(x):
    both = layers.Concatenate()([keep()(x), x])
    return layers.Conv2D(2, 1)(layers.ReLU()(normal()(both)))


@pytest.mark.parametrize(
    "graph",
    [
        twice_used,
        shared_convolution,
        shared_batch_norm,
        concatenated,
        lambda x: normal()(keep(activation="relu")(x)),
        lambda x: normal(axis=1)(keep()(x)),
        lambda x: normal()(keras.ops.square(keep()(x)) + 1),
    ],
)
def test_what_cannot_be_taken_up_is_scaled_exactly(graph):
    inputs = keras.Input((6, 5, 3))
    model = keras.Model(inputs, graph(inputs))
    folded = fold_and_compare(model, (2, 6, 5, 3))
    now, then = (numpy(one.get_layer("keep").kernel) for one in (folded, model))
    np.testing.assert_array_equal(now, then)


def test_a_model_called_twice_keeps_sharing_its_weights():
    tower = keras.Sequential([keras.Input((8, 8, 3)), layers.Conv2D(4, 3)], name="tower")
    tower.add(layers.BatchNormalization())
    one, two = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    model = randomised(keras.Model([one, two], layers.Subtract()([tower(one), tower(two)])))
    x = np.random.default_rng(0).normal(size=(2, 1, 8, 8, 3)).astype("float32")
    folded = fold_batch_norm(model)
    np.testing.assert_allclose(outputs(folded, list(x))[0], outputs(model, list(x))[0], atol=1e-5)
    assert folded.count_params() == 3 * 3 * 3 * 4 + 4


def test_batch_norms_before_convolutions():
    """A block of DenseNet and one of ResNet V2."""
    inputs = keras.Input((8, 8, 3))
    y = keep()(layers.ReLU()(normal()(inputs)))
    x = layers.Concatenate()([inputs, layers.Conv2D(4, 3, padding="same")(y)])
    y = keep(7, "second")(layers.ReLU()(normal()(x)))
    fold_and_compare(keras.Model(inputs, layers.Add()([x, normal()(y)])), (1, 8, 8, 3))


def test_dtype_policies_stay_and_rounding_is_that_of_the_policy():
    model = keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(6, 3, dtype="mixed_bfloat16"),
            layers.BatchNormalization(dtype="mixed_bfloat16"),
            layers.Conv2D(6, 3, dtype="bfloat16"),
            layers.BatchNormalization(dtype="bfloat16"),
            layers.Dense(6, dtype="float64"),
            layers.BatchNormalization(dtype="float64"),
            layers.ReLU(),
            layers.BatchNormalization(dtype="mixed_float16"),
        ]
    )
    folded = fold_and_compare(model, (2, 8, 8, 3), tolerance=0.05)  # bfloat16 has 8 bits
    policies = [layer.dtype_policy.name for layer in folded.layers[1:]]
    assert policies == ["mixed_bfloat16", "bfloat16", "float64", "float32", "mixed_float16"]


def test_frozen_layers_stay_frozen():
    model = build_model(SMALL, classes=3)
    model.trainable = False
    assert not fold_batch_norm(model).trainable_weights


class Subclassed(keras.Model):
    def call(self, x):
        return x


def wrapped():
    return keras.Sequential(
        [keras.Input((3, 4)), layers.TimeDistributed(layers.BatchNormalization(name="inner"))]
    )


def in_training():
    inputs = keras.Input((4,))
    return keras.Model(inputs, normal(name="live")(inputs, training=True))


def nested_in_training():
    inputs = keras.Input((4,))
    inner = keras.Sequential([keras.Input((4,)), layers.BatchNormalization()], name="base")
    return keras.Model(inputs, inner(inputs, training=True))


class NotRebuilt(layers.Layer):
    def __init__(self, number, name):
        super().__init__(name=name)

    def call(self, x):
        return x


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (Subclassed, "functional or Sequential model .* Rebuild a subclassed .* Received: <Sub"),
        (lambda: keras.Sequential([layers.Dense(2)]), "give a Sequential an Input"),
        (lambda: "model.keras", "Received: 'model.keras'"),
        (wrapped, "inside another layer .* Received: inner in 'sequential"),
        (in_training, "called with training=True .* Received: 'live'"),
        (nested_in_training, "called with training=True .* Received: 'base'"),
        (
            lambda: keras.Sequential([keras.Input((4,)), NotRebuilt(3, "mine")]),
            "from their get_config. Received: 'mine', a NotRebuilt",
        ),
    ],
)
def test_refusals(make, message):
    with pytest.raises(ValueError, match=message):
        fold_batch_norm(make())


@pytest.mark.backend
@pytest.mark.parametrize("copy", [fold_batch_norm, lambda model: in_dtype(model, "float32")])
def test_a_copy_lives_on_when_the_model_trains(copy):
    """On JAX a train step deletes the buffers of a model, and with them those shared with it."""
    inputs = keras.Input((8, 8, 3))
    x = layers.SeparableConv2D(4, 3)(inputs)
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.BatchNormalization()(x)))
    model = keras.Model(inputs, x)
    pictures = np.random.default_rng(0).uniform(-1, 1, (4, 8, 8, 3)).astype("float32")
    copied = copy(model)
    expected = numpy(copied(pictures))
    model.compile("sgd", "mse")
    model.fit(pictures, np.ones((4, 2), "float32"), verbose=0)
    model.predict(pictures, verbose=0)
    np.testing.assert_array_equal(numpy(copied(pictures)), expected)
    copied.predict(pictures, verbose=0)
    assert numpy(model(pictures)).shape == (4, 2)
