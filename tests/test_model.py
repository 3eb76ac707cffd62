"""Builders: arguments as in keras.applications, errors, precision, files."""

import inspect
import json
import subprocess
import sys
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers import oracle
from helpers.source_files import SMALL

import keras_effnetv2 as kev2
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import Stage, decode_stages
from keras_effnetv2.models.build import build_model, feature_extractor

TINY = ModelConfig(
    "tiny",
    decode_stages(
        [
            "r1_k3_s1_e1_i8_o8_c1",
            "r2_k3_s2_e4_i8_o16_c1_se0.25",
            "r2_k5_s2_e6_i16_o24_se0.25",
            "r1_k3_s2_e4_i24_o32_se0.5",
            "r2_k3_s2_e4_i32_o40",
        ]
    ),
    head_filters=64,
    normalization="imagenet",
)
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (2, 64, 48, 3)).astype("float32")


def tiny(**arguments):
    return build_model(TINY, **({"classes": 5} | arguments))


@pytest.fixture
def policy():
    before = keras.config.dtype_policy()
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy(before)


def test_arguments_are_those_of_keras_applications():
    theirs = list(inspect.signature(keras.applications.EfficientNetV2S).parameters)
    ours = inspect.signature(kev2.EfficientNetV2S).parameters
    assert list(ours)[: len(theirs)] == theirs
    assert list(ours)[len(theirs) :] == ["dropout_rate", "drop_path_rate"]
    assert ours["weights"].default == "imagenet"
    assert ours["classifier_activation"].default == "auto"


def test_defaults_of_a_named_builder():
    ours = kev2.EfficientNetV2B0(weights=None)
    assert ours.name == "efficientnetv2-b0"
    assert tuple(ours.input.shape) == (None, None, None, 3)
    assert tuple(ours.output.shape) == (None, 1000)
    assert ours.get_layer("top_dropout").rate == 0.2
    assert all(type(layer).__module__.startswith("keras.") for layer in ours.layers)


def test_the_normalisation_inside_is_preprocess_input():
    for variant in ("efficientnetv2-b0", "efficientnetv2-s", "efficientnet-lite0"):
        config = replace(SMALL, normalization=ModelConfig.from_name(variant).normalization)
        inside = build_model(config, include_top=False, pooling="avg")
        outside = build_model(config, include_top=False, pooling="avg", include_preprocessing=False)
        outside.set_weights(inside.get_weights())
        np.testing.assert_allclose(
            oracle.numpy(inside(PIXELS)),
            oracle.numpy(outside(kev2.preprocess_input(PIXELS, variant))),
            rtol=0,
            atol=1e-5,
        )


# 21k sets and s, m, l, xl: (x - 128) / 128; b0-b3 "imagenet" and V1: mean and deviation.
@pytest.mark.parametrize(
    ("variant", "weights", "expected"),
    [
        ("efficientnetv2-b0", "imagenet", (255 / 255 - 0.485) / 0.229),
        ("efficientnetv2-b0", "imagenet21k", 127 / 128),
        ("efficientnetv2-b0", "imagenet21k-ft1k", 127 / 128),
        ("efficientnetv2-m", "imagenet", 127 / 128),
        ("efficientnet-b4", "noisy-student", (255 / 255 - 0.485) / 0.229),
    ],
)
def test_the_input_range_belongs_to_the_weights(variant, weights, expected):
    white = np.full((1, 1, 3), 255, np.uint8)
    normalised = kev2.preprocess_input(white, variant, weights)
    assert normalised.dtype == np.float32
    assert normalised[0, 0, 0] == pytest.approx(expected, abs=1e-6)
    tensor = kev2.preprocess_input(keras.ops.convert_to_tensor(white), variant, weights)
    np.testing.assert_allclose(oracle.numpy(tensor), normalised, rtol=1e-6)


def test_preprocess_input_refuses_what_it_cannot_mean():
    with pytest.raises(ValueError, match=r"published for efficientnetv2-xl \('imagenet21k', "):
        kev2.preprocess_input(PIXELS, "efficientnetv2-xl", "imagenet")
    with pytest.raises(ValueError, match=r"\(\.\.\., height, width, 3\)"):
        kev2.preprocess_input(PIXELS[..., :1], "efficientnetv2-b0")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"classes": 0}, "`classes` .* Received: 0"),
        ({"classes": 2.0}, "`classes` .* Received: 2.0"),
        ({"classes": True}, "`classes` .* Received: True"),
        ({"pooling": "mean", "include_top": False}, "`pooling` must be one of None, 'avg', 'max'"),
        ({"classifier_activation": "softmix"}, "`classifier_activation` .*'softmix'"),
        ({"input_shape": (31, 64, 3)}, "at least 32x32.*Received: input_shape=\\(31, 64, 3\\)"),
        ({"input_shape": (64, 64, 1)}, "3 channels.*Received: input_shape=\\(64, 64, 1\\)"),
        ({"input_shape": (64, 64, None)}, "3 channels"),
        ({"input_shape": (64, 64)}, "`input_shape` must be a tuple"),
        ({"input_shape": (64, "64", 3)}, "`input_shape` must be a tuple"),
        ({"input_shape": 64}, "`input_shape` must be a tuple"),
        ({"dropout_rate": 1.0}, "`dropout_rate` must be a number of at least 0 and below 1"),
        ({"drop_path_rate": -0.1}, "`drop_path_rate` must be a number of at least 0 and below 1"),
        ({"weights": "imagenet22k"}, "Received: weights='imagenet22k'"),
        ({"weights": 3}, "Received: weights=3"),
        ({"input_tensor": PIXELS}, "`input_tensor` must be a Keras tensor.*numpy.ndarray"),
        ({"input_tensor": keras.ops.zeros((1, 64, 64, 3))}, "must be a Keras tensor"),
        ({"input_tensor": keras.Input((64, 3))}, "rank 4"),
        ({"input_tensor": keras.Input((64, 64, 4))}, "3 channels"),
        ({"input_tensor": keras.Input((64, 64, 3)), "input_shape": (96, 96, 3)}, "contradict"),
    ],
)
def test_a_bad_argument_gets_one_clear_error(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny(**arguments)


def test_a_set_that_is_not_published_lists_those_that_are():
    with pytest.raises(ValueError, match=r"'imagenet', 'imagenet-advprop', 'noisy-student'"):
        kev2.EfficientNetB0(weights="imagenet21k")


def test_a_config_or_its_name_is_needed_but_not_three_channels():
    with pytest.raises(ValueError, match="Unknown variant"):
        build_model(["efficientnetv2-b0"])
    model = tiny(input_shape=(64, 64, 5), include_preprocessing=False)
    assert tuple(model.output.shape) == (None, 5)


def test_building_on_a_tensor_keeps_what_comes_before_it():
    inputs = keras.Input((64, 48, 3))
    model = tiny(input_tensor=keras.layers.Rescaling(255.0)(inputs), name="on_top")
    assert model.name == "on_top"
    assert model.layers[1].name.startswith("rescaling")
    plain = tiny()
    plain.set_weights(model.get_weights())
    np.testing.assert_allclose(
        oracle.numpy(model(PIXELS / 255)), oracle.numpy(plain(PIXELS)), atol=1e-4
    )


def test_stochastic_depth_drops_whole_examples_and_grows_with_depth():
    without = tiny(dropout_rate=0, drop_path_rate=0)
    assert not [layer for layer in without.layers if isinstance(layer, keras.layers.Dropout)]
    model = tiny(drop_path_rate=0.8)
    drops = [layer for layer in model.layers if layer.name.endswith("_drop")]
    assert [layer.rate for layer in drops] == pytest.approx([0.8 * i / 8 for i in (2, 4, 7)])
    shape = tuple(drops[-1].output.shape)
    out = oracle.numpy(drops[-1](np.ones((64, *[4] * (len(shape) - 2), shape[-1])), training=True))
    per_example = out.reshape(64, -1)
    assert (per_example == per_example[:, :1]).all()
    assert set(np.round(np.unique(per_example), 4)) == {0.0, np.float32(round(1 / (1 - 0.7), 4))}


def test_the_activation_of_a_config_is_that_of_all_layers():
    used = {}
    for name in ("swish", "relu6"):
        layers = build_model(replace(TINY, activation=name), classifier_activation=None).layers
        functions = [layer.activation for layer in layers if hasattr(layer, "activation")]
        used[name] = [keras.activations.serialize(function) for function in functions]
    assert {"silu", "sigmoid", "linear"} == set(used["swish"])
    assert used["relu6"] == ["relu6" if one == "silu" else one for one in used["swish"]]


def test_features_of_a_custom_net():
    features = feature_extractor(tiny())
    shapes = [(32, 24, 8), (16, 12, 16), (8, 6, 24), (4, 3, 32), (2, 2, 40)]
    assert [tuple(x.shape[1:]) for x in features(PIXELS)] == shapes
    small = build_model(TINY.for_small_pictures(32), input_shape=(8, 8, 3), classes=5)
    small.set_weights(tiny().get_weights())  # of the same shapes
    shapes = [(8, 8, 16), (4, 4, 24), (2, 2, 32), (1, 1, 40)]
    assert [tuple(x.shape[1:]) for x in feature_extractor(small).outputs] == shapes
    with pytest.raises(ValueError, match="at least 8x8"):
        build_model(TINY.for_small_pictures(32), input_shape=(7, 8, 3))
    with pytest.raises(ValueError, match="built by keras_effnetv2"):
        feature_extractor(keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Flatten()]))


@pytest.mark.parametrize("name", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision_keeps_float32_logits(name, policy):
    exact = tiny(classifier_activation=None)
    policy(name)
    model = tiny(classifier_activation=None)
    model.set_weights(exact.get_weights())
    assert model.get_layer("stem_conv").compute_dtype == name.removeprefix("mixed_")
    logits = model(PIXELS)
    assert keras.backend.standardize_dtype(logits.dtype) == "float32"
    reference = oracle.numpy(exact(PIXELS))
    np.testing.assert_allclose(oracle.numpy(logits), reference, rtol=0, atol=0.1 * reference.std())


LOAD_ALONE = """
import sys
sys.modules["keras_effnetv2"] = None
import keras, numpy as np
model = keras.models.load_model(sys.argv[1])
np.save(sys.argv[3], keras.ops.convert_to_numpy(model(np.load(sys.argv[2]))))
"""


@pytest.mark.slow  # a process that starts Keras
def test_a_saved_model_loads_where_this_package_is_not(tmp_path):
    model = tiny()
    model.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", PIXELS)
    files = [tmp_path / name for name in ("model.keras", "x.npy", "y.npy")]
    subprocess.run([sys.executable, "-c", LOAD_ALONE, *files], check=True, cwd=tmp_path)
    np.testing.assert_array_equal(np.load(files[2]), oracle.numpy(model(PIXELS)))


def test_a_block_with_a_shortcut_adds_little_to_keras_graph_walk():
    """40 blocks of five layers, with room for two calls a block. XL has 96 blocks."""
    blocks = decode_stages(["r40_k1_s1_e1_i4_o4_c1"])
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(len(inspect.stack()) + 120)
    try:
        model = build_model(ModelConfig("deep", blocks, head_filters=4), classes=2)
        assert len(keras.Model.from_config(model.get_config()).layers) > 200
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.slow  # hundreds of layers
def test_xl_is_not_too_deep_for_keras_graph_walk():
    limit = sys.getrecursionlimit()
    build_model(ModelConfig.from_name("efficientnetv2-xl").scaled(width=0.02))
    assert sys.getrecursionlimit() == limit


@pytest.mark.backend
@pytest.mark.skipif(
    keras.backend.backend() == "tensorflow",
    reason="TensorFlow has no channels-first convolution on the CPU",
)
def test_channels_first_is_the_same_function():
    model = tiny()
    keras.config.set_image_data_format("channels_first")
    try:
        first = tiny()
        assert tuple(first.input.shape) == (None, 3, None, None)
        first.set_weights(model.get_weights())
        result = oracle.numpy(oracle.call(first, PIXELS.transpose(0, 3, 1, 2)))
        assert tuple(feature_extractor(first).outputs[0].shape) == (None, 8, None, None)
        with pytest.raises(ValueError, match="at least 32x32"):
            tiny(input_shape=(3, 31, 64))
    finally:
        keras.config.set_image_data_format("channels_last")
    np.testing.assert_allclose(result, oracle.numpy(oracle.call(model, PIXELS)), rtol=0, atol=1e-5)


def test_numbers_of_numpy_are_taken():
    one = np.int64
    stage = Stage("fused", one(1), one(3), one(2), one(1), one(8), np.int32(8), np.float32(0.25))
    config = ModelConfig("numpy", [stage], head_filters=np.uint8(8), eval_size=one(32))
    assert ModelConfig.from_json(config.to_json()) == config
    assert type(config.stages[0].repeats) is type(config.head_filters) is int
    model = build_model(
        config, classes=one(10), input_shape=[one(32), None, one(3)], dropout_rate=np.float32(0.5)
    )
    assert model.output_shape == (None, 10)
    assert model.input_shape == (None, 32, None, 3)
    assert kev2.count_flops(model, one(32)) == kev2.count_flops(model, (32, np.int32(32)))
    shape = tf.TensorShape([32, 32, 3])
    assert build_model(config, input_shape=shape).input_shape == (None, 32, 32, 3)
    stages = kev2.progressive_stages(
        epochs=one(4), stages=one(2), image_size=(one(32), one(64)), batch_size=one(8)
    )
    assert type(stages[0].batch_size) is int
    recipe = replace(
        kev2.TrainRecipe.preset("quickstart"), epochs=one(3), batch_size=(one(8), one(4))
    )
    assert json.loads(json.dumps(asdict(recipe)))["batch_size"] == [8, 4]
