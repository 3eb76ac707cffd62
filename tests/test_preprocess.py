"""Crop and resize against the official code's numbers, and batches with bad files in them."""

import io
import json
import math
from pathlib import Path

import keras
import numpy as np
import PIL
import pytest
import tensorflow as tf
from PIL import Image

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import (
    decode_for_evaluation,
    prepare_batch,
    resize_for_evaluation,
    seen_window,
)
from keras_effnetv2.images.styles import EVALUATION_STYLES
from keras_effnetv2.pretrained.registry import CentralCrop

GOLDEN = Path(__file__).parent / "golden" / "preprocessing"
OFFICIAL = json.loads((GOLDEN / "preprocessing.json").read_text())
SAMPLES = np.load(GOLDEN / "samples.npz")
STYLE_OF = {"legacy": "v1", "v2": "v2", "finetune": "finetune"}
NORMALISATION = {  # golden/preprocessing/README.md: (x - mean) / deviation
    "v1": (255 * np.array([0.485, 0.456, 0.406]), 255 * np.array([0.229, 0.224, 0.225])),
    "v2": (128.0, 128.0),
    "finetune": (127.5, 127.5),
}
COLOUR, GRAY = ((GOLDEN / image["file"]).read_bytes() for image in OFFICIAL["images"])
FILES = [COLOUR, GRAY]


@pytest.mark.parametrize("index", [0, 1])
def test_decoded_means_are_the_official_ones(index):
    image = OFFICIAL["images"][index]
    decoded = decode_image(FILES[index]).numpy()
    assert decoded.shape == (image["height"], image["width"], 3)
    np.testing.assert_allclose(decoded.mean((0, 1)), image["decoded_rgb_mean"], rtol=1e-12)


@pytest.mark.parametrize(
    "official", OFFICIAL["outputs"], ids=lambda output: f"{output['key']}-{output['style']}"
)
def test_files_become_the_official_pictures(official):
    style, size = STYLE_OF[official["style"]], official["size"]
    image = decode_for_evaluation(FILES[official["image"]], size, style).numpy()
    assert image.dtype == np.float32
    mean, deviation = NORMALISATION[style]
    normalised = (image.astype(np.float64) - mean) / deviation
    assert list(normalised.shape) == official["shape"]
    # The official code normalises in float32, and for fine-tuning before it resizes.
    flat = normalised.ravel()
    sample = flat[np.arange(256) * flat.size // 256]
    np.testing.assert_allclose(sample, SAMPLES[official["key"]], atol=3e-6)
    np.testing.assert_allclose(normalised.mean((0, 1)), official["mean"], atol=3e-6)
    np.testing.assert_allclose(normalised.std((0, 1)), official["std"], atol=3e-6)
    assert normalised.min() == pytest.approx(official["min"], abs=3e-6)
    assert normalised.max() == pytest.approx(official["max"], abs=3e-6)


def test_official_numbers_cover_the_evaluation_of_every_variant():
    covered = {(STYLE_OF[official["style"]], official["size"]) for official in OFFICIAL["outputs"]}
    covered.add(("v1", 280))  # of lite3; nothing depends on the number itself
    for variant in ModelConfig.variants():
        config = ModelConfig.from_name(variant)
        style = "v2" if config.normalization == "symmetric" else "v1"
        assert (style, config.eval_size) in covered
    assert {("v2", 224), ("finetune", 224), ("finetune", 384)} <= covered


def test_whole_averages_instead_of_aliasing():
    # Stripes of one pixel, halved four times: every result pixel covers as many black as white.
    stripes = np.zeros((256, 256, 3), np.uint8)
    stripes[:, ::2] = 255
    whole = resize_for_evaluation(stripes, 16).numpy()[2:-2, 2:-2]
    np.testing.assert_allclose(whole, 127.5, atol=0.1)
    assert np.ptp(resize_for_evaluation(stripes, 40, "finetune").numpy()) > 200


def test_whole_and_finetune_keep_the_edges_and_the_others_cut_them():
    image = np.zeros((64, 96, 3), np.uint8)
    image[:, -4:] = 255
    brightest = {
        style: resize_for_evaluation(image, 48, style).numpy().max() for style in EVALUATION_STYLES
    }
    assert brightest["whole"] == pytest.approx(255, abs=0.01)
    assert brightest["finetune"] == 255
    assert brightest["v1"] == brightest["v2"] == 0


@pytest.mark.parametrize("style", EVALUATION_STYLES)
def test_extreme_shapes_keep_a_flat_colour(style):
    for shape in ((1, 1, 3), (1, 40, 3), (900, 2, 3)):
        for dtype in (np.uint8, np.float32):
            result = resize_for_evaluation(np.full(shape, 77, dtype), 20, style)
            assert result.dtype == tf.float32
            np.testing.assert_allclose(result, np.full((20, 20, 3), 77), atol=1e-3)


@pytest.mark.parametrize("shape", [(180, 250), (251, 120)])
@pytest.mark.parametrize(
    "style",
    [*EVALUATION_STYLES, CentralCrop(64, 0.875, "center"), CentralCrop(64, 0.75, "squash")],
    ids=str,
)
def test_the_seen_window_is_what_the_square_shows(style, shape):
    # The red of a pixel is its row, the green its column.
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
    picture = np.dstack([rows, columns, columns])
    square = resize_for_evaluation(picture, 64, style).numpy()
    top, left, height, width = seen_window(*shape, 64, style)
    inside = np.arange(16, 48)  # away from the edges
    for found, begin, length in (
        (square[inside, 32, 0], top, height),
        (square[32, inside, 1], left, width),
    ):
        expected = begin + (inside + 0.5) * length / 64 - 0.5
        np.testing.assert_allclose(found, expected, atol=length / 64)  # a pixel of the square


def test_unchanged_size_is_an_exact_copy_in_float():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    result = resize_for_evaluation(image, 24)
    assert result.dtype == tf.float32
    np.testing.assert_array_equal(result, image)


def test_unknown_style_lists_the_styles():
    message = "`style` must be one of 'whole', 'v2', 'v1', 'finetune'. Received: 'crop'"
    with pytest.raises(ValueError, match=message):
        resize_for_evaluation(np.zeros((4, 4, 3)), 8, "crop")


def crop_with_pillow(image, crop):
    """What timm 1.0.31's `transforms_imagenet_eval` and torchvision do to a Pillow picture.

    The order of the directions is that of Pillow 13.0; earlier ones begin with the width.
    """
    height, width = image.shape[:2]
    target = math.floor(crop.size / crop.fraction)
    if crop.mode == "squash":
        new_width = new_height = target
    else:  # torchvision's Resize with one number
        shorter, longer = sorted((width, height))
        new_width = new_height = target
        if width <= height:
            new_height = int(target * longer / shorter)
        else:
            new_width = int(target * longer / shorter)
    first = (new_width, height)
    if new_height < height and height - new_height > 2 * (width - new_width):
        first = (width, new_height)
    picture = Image.fromarray(image)
    for size in (first, (new_width, new_height)):
        picture = picture.resize(size, Image.Resampling[crop.interpolation.upper()])
    top = round((new_height - crop.size) / 2.0)
    left = round((new_width - crop.size) / 2.0)
    return np.asarray(picture.crop((left, top, left + crop.size, top + crop.size)), np.float32)


def assert_nearly_equal(result, pillow, differing=0.005):
    """Pillow rounds weights of 22 bits, TensorFlow floats: a value near the middle may differ.

    Measured on 25 photos at the nine crops of the registry: 1.4e-4 to 2.7e-4 of the values by one
    grey level, under 1e-6 by two; noise, which has no smooth parts, up to 4e-3 by one, 1e-4 by two.
    Bilinear values often lie exactly in the middle: up to 1.9e-2 of noise differ by one.
    """
    difference = np.abs(result - pillow)
    assert difference.max() <= 2
    assert (difference > 0).mean() < differing
    assert (difference > 1).mean() < 2e-4


NOISE = np.random.default_rng(0).integers(0, 256, (333, 250, 3)).astype(np.uint8)
# Fractions and modes of the registry, and sizes whose margins are odd.
CROPS = [
    CentralCrop(224, 0.875, "center"),
    CentralCrop(225, 0.882, "center"),
    CentralCrop(96, 0.904, "center"),
    CentralCrop(384, 1.0, "center"),
    CentralCrop(300, 0.9, "squash"),
    CentralCrop(240, 1.0, "squash"),
    CentralCrop(96, 0.9, "center", "bilinear"),
    CentralCrop(240, 1.0, "squash", "bilinear"),
]


@pytest.mark.parametrize("crop", CROPS, ids=str)
@pytest.mark.parametrize(
    "image",
    [decode_image(COLOUR).numpy(), NOISE[:90].transpose(1, 0, 2), NOISE[:, :2]],
    ids=["photo", "wide", "strip"],
)
def test_central_crops_are_those_of_pillow(image, crop):
    result = resize_for_evaluation(image, crop.size, crop).numpy()
    assert result.dtype == np.float32
    differing = 0.02 if crop.interpolation == "bilinear" else 0.005
    assert_nearly_equal(result, crop_with_pillow(image, crop), differing)


def test_a_central_crop_takes_floats():
    results = [resize_for_evaluation(image, 96, CROPS[2]) for image in (NOISE, np.float32(NOISE))]
    np.testing.assert_array_equal(*results)


@pytest.mark.skipif(int(PIL.__version__.split(".")[0]) < 13, reason="its order is another")
@pytest.mark.parametrize("shape", [(333, 250), (250, 333), (333, 70), (70, 250), (60, 60)])
@pytest.mark.parametrize("target", [48, 200, 320, 400])
def test_the_order_of_the_directions_is_that_of_pillow(shape, target):
    image = np.random.default_rng(1).integers(0, 256, (*shape, 3)).astype(np.uint8)
    pillow = Image.fromarray(image).resize((target, target), Image.Resampling.BICUBIC)
    result = resize_for_evaluation(image, target, CentralCrop(target, 1.0, "squash"))
    assert_nearly_equal(result.numpy(), np.asarray(pillow, np.float32))


def test_a_central_crop_works_on_files():
    crop = CentralCrop(64, 0.875, "center")
    images, errors = prepare_batch([COLOUR, b"no picture"], 64, crop)
    assert [bool(error) for error in errors.numpy()] == [False, True]
    # Decoded by Pillow too, whose inverse DCT is not TensorFlow's default.
    decoded = np.asarray(Image.open(io.BytesIO(COLOUR)).convert("RGB"))
    assert np.abs(decoded.astype(int) - decode_image(COLOUR).numpy()).max() > 2
    assert_nearly_equal(images.numpy()[0], crop_with_pillow(decoded, crop))


@pytest.mark.parametrize(
    "crop",
    [
        CentralCrop(32, 0.875, "center"),
        CentralCrop(8, 1.1, "center"),
        CentralCrop(8, 0, "center"),
        CentralCrop(8, 1.0, "border"),
        CentralCrop(8, 1.0, "center", "lanczos"),
    ],
)
def test_a_wrong_central_crop_is_named(crop):
    message = (
        r"the size that is asked for \(8\), a fraction in \(0, 1\], .*center, squash .*bilinear, "
        r"bicubic\. Received"
    )
    with pytest.raises(ValueError, match=message):
        resize_for_evaluation(np.zeros((4, 4, 3)), 8, crop)


def test_finetune_is_what_keras_makes_of_a_folder(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "1.png").write_bytes(tf.io.encode_png(NOISE).numpy())
    dataset = keras.utils.image_dataset_from_directory(
        tmp_path, image_size=(48, 48), batch_size=None, verbose=False
    )
    (image, _), *_ = dataset
    np.testing.assert_array_equal(resize_for_evaluation(NOISE, 48, "finetune"), image)


@pytest.mark.parametrize("size", [0, -3, 2.5, "224", None, (4, 4)])
def test_size_must_be_a_positive_whole_number(size):
    image = np.zeros((4, 4, 3))
    for call in (resize_for_evaluation, prepare_batch):
        with pytest.raises(ValueError, match="`image_size` must be an integer of at least 1"):
            call(image, size)


BATCH = [COLOUR, b"", GRAY, GRAY[:-200], b"no picture", COLOUR]
REASONS = [
    b"",
    b"the file is empty",
    b"",
    b"corrupt or truncated JPEG",
    b"not a JPEG, PNG, BMP, GIF or WebP picture",
    b"",
]


@pytest.mark.parametrize("style", EVALUATION_STYLES)
def test_batch_keeps_order_and_bad_files_cost_only_themselves(style):
    images, errors = prepare_batch(BATCH, 48, style)
    assert errors.numpy().tolist() == REASONS
    assert images.dtype == tf.float32
    for data, reason, image in zip(BATCH, REASONS, images.numpy(), strict=True):
        alone = (
            np.zeros((48, 48, 3))
            if reason
            else resize_for_evaluation(decode_image(data), 48, style)
        )
        np.testing.assert_allclose(image, alone, atol=1e-3)


@pytest.mark.parametrize(
    ("batch", "reasons"),
    [
        ([], []),
        ([b""], [b"the file is empty"]),
        ([GRAY[:-9]] * 3, [b"corrupt or truncated JPEG"] * 3),
    ],
    ids=["empty", "one bad", "all bad"],
)
def test_batch_without_a_good_file(batch, reasons):
    images, errors = prepare_batch(batch, 48)
    assert errors.numpy().tolist() == reasons
    np.testing.assert_array_equal(images, np.zeros((len(batch), 48, 48, 3)))


def test_batch_refuses_pictures_over_the_pixel_limit():
    gray_pixels = 123 * 97
    images, errors = prepare_batch([COLOUR, GRAY], 16, max_pixels=gray_pixels)
    assert errors.numpy().tolist() == [
        b"171 x 231 pixels (height x width) is more than the 11931 that are accepted",
        b"",
    ]
    assert not images[0].numpy().any()
    assert images[1].numpy().any()


def test_batch_runs_in_a_graph_of_unknown_length_without_a_python_op():
    graph = tf.function(
        lambda files: prepare_batch(files, 48), input_signature=[tf.TensorSpec([None], tf.string)]
    ).get_concrete_function()
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
    assert [tensor.shape.as_list() for tensor in graph.structured_outputs] == [
        [None, 48, 48, 3],
        [None],
    ]
    images, errors = graph(tf.constant(BATCH))
    assert errors.numpy().tolist() == REASONS
    np.testing.assert_allclose(images, prepare_batch(BATCH, 48)[0], atol=1e-3)
