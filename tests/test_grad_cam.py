"""Grad-CAM: against the paper's formula worked out by hand, and on networks of this package."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import two_blocks

from keras_effnetv2 import build_model
from keras_effnetv2.models.grad_cam import explainer, grad_cam

SIZE = 8


def linear_classifier(ending):
    """Features are the red and the blue channel; class 0 is red - blue, class 1 blue, 2 green."""
    inputs = keras.Input((SIZE, SIZE, 3))
    pick = keras.layers.Conv2D(3, 1, use_bias=False)
    pooled = keras.layers.GlobalAveragePooling2D(keepdims=ending == "keepdims")
    behind = {
        "activation": keras.layers.Activation("softmax", dtype="float32"),
        "layer": keras.layers.Softmax(),
        "function": keras.ops.softmax,
        "lambda": keras.layers.Lambda(tf.nn.softmax),
        "then flat": lambda x: keras.layers.Flatten()(keras.layers.Softmax()(x)),
    }
    inside = {"softmax": "softmax", "keepdims": "softmax", "tf": tf.nn.softmax}
    head = keras.layers.Dense(3, inside.get(ending))
    features = pooled(pick(inputs))
    if ending == "keepdims":
        features = keras.layers.Flatten()(features)
    outputs = head(features)
    if ending in behind:
        outputs = behind[ending](outputs)
    model = keras.Model(inputs, outputs)
    pick.set_weights([np.eye(3).reshape(1, 1, 3, 3)])
    head.set_weights([np.array([[1.0, 0, 0], [0, 0, 1], [-1, 1, 0]]), np.zeros(3)])
    return model


def picture():
    """Red in the upper left quarter, half as red below it, blue in the lower right quarter."""
    image = np.zeros((SIZE, SIZE, 3), np.float32)
    image[:4, :4, 0], image[4:, :4, 0], image[4:, 4:, 2] = 200, 100, 100
    return image


@pytest.mark.parametrize(
    "ending",
    [
        "softmax",
        "tf",
        "logits",
        "activation",
        "layer",
        "function",
        "lambda",
        "then flat",
        "keepdims",
    ],
)
def test_the_map_is_that_of_the_formula(ending):
    # d score_0 / d pooled = (1, 0, -1): the map is relu(red - blue), over its largest value.
    model = linear_classifier(ending)
    red = np.zeros((SIZE, SIZE), np.float32)
    red[:4, :4], red[4:, :4] = 1, 0.5
    np.testing.assert_allclose(grad_cam(model, picture(), 0), red, atol=1e-6)
    blue = np.zeros((SIZE, SIZE), np.float32)
    blue[4:, 4:] = 1
    np.testing.assert_allclose(grad_cam(model, picture(), 1), blue, atol=1e-6)


def test_without_a_class_the_best_is_explained():
    # Mean red 75 - mean blue 25 = 50 is above mean blue 25 and green 0.
    model = linear_classifier("logits")
    np.testing.assert_array_equal(grad_cam(model, picture()), grad_cam(model, picture(), 0))


def test_nothing_speaks_for_a_class_that_is_not_there():
    assert not grad_cam(linear_classifier("logits"), picture(), 2).any()


def test_a_network_of_this_package_gives_a_map_of_the_picture():
    keras.utils.set_random_seed(1)
    model = build_model(two_blocks(), classes=4, input_shape=(48, 48, 3))
    image = np.random.default_rng(2).uniform(0, 255, (48, 48, 3))
    explain = explainer(model)
    maps = [explain(image, index) for index in range(4)]
    for heat in maps:
        assert heat.shape == (48, 48)
        assert heat.dtype == np.float32
        assert heat.min() >= 0
        assert heat.max() in (0, 1)
    assert any(heat.any() for heat in maps)
    np.testing.assert_array_equal(maps[2], grad_cam(model, image, 2))


def test_flat_networks_and_wrong_arguments_are_refused():
    flat = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            keras.layers.Rescaling(1 / 255),
            keras.layers.Flatten(),
            keras.layers.Dense(3),
        ]
    )
    with pytest.raises(ValueError, match="needs a feature map"):
        grad_cam(flat, picture())
    model = linear_classifier("logits")
    with pytest.raises(ValueError, match=r"one of 0\.\.2.*Received: 3"):
        grad_cam(model, picture(), 3)
    with pytest.raises(ValueError, match=r"\(height, width, 3\). Received: \(8, 8\)"):
        grad_cam(model, picture()[..., 0])
    no_classes = keras.Model(model.inputs[0], model.layers[1].output)
    with pytest.raises(ValueError, match="classifier with one output"):
        grad_cam(no_classes, picture())
