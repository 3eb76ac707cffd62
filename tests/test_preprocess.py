"""Crop and resize against the official code's numbers, and batches with bad files in them."""

import json
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.preprocess import (
    STYLES,
    decode_image,
    prepare_batch,
    random_crop_resize,
    resize_for_evaluation,
)

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


def decode_as_v1(data, size):
    """Return the picture with the central square as the official V1 code decodes it.

    It cuts while it decodes (decode_and_crop_jpeg), so the chroma of the last column of a square
    with an odd side is not smoothed with what lies beyond the cut: up to 8 of 255 there.
    """
    image = decode_image(data).numpy()
    side = int(np.float32(size / (size + 32)) * np.float32(min(image.shape[:2])))
    top, left = ((length - side + 1) // 2 for length in image.shape[:2])
    square = tf.io.decode_and_crop_jpeg(data, [top, left, side, side], channels=3).numpy()
    difference = np.abs(image[top : top + side, left : left + side].astype(int) - square)
    assert difference[:, :-1].max() == 0
    assert difference.max() <= 8
    image[top : top + side, left : left + side] = square
    return image


@pytest.mark.parametrize(
    "official", OFFICIAL["outputs"], ids=lambda output: f"{output['key']}-{output['style']}"
)
def test_evaluation_styles_give_the_official_numbers(official):
    style = STYLE_OF[official["style"]]
    data, size = FILES[official["image"]], official["size"]
    decoded = decode_as_v1(data, size) if style == "v1" else decode_image(data)
    image = resize_for_evaluation(decoded, size, style).numpy()
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
    brightest = {style: resize_for_evaluation(image, 48, style).numpy().max() for style in STYLES}
    assert brightest["whole"] == pytest.approx(255, abs=0.01)
    assert brightest["finetune"] == 255
    assert brightest["v1"] == brightest["v2"] == 0


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 40, 3), (900, 2, 3)])
def test_extreme_shapes_keep_a_flat_colour(style, shape):
    flat = np.full(shape, 77, np.uint8)
    for image in (flat, flat.astype(np.float32)):
        result = resize_for_evaluation(image, 20, style)
        assert result.dtype == tf.float32
        np.testing.assert_allclose(result, np.full((20, 20, 3), 77), atol=1e-3)


def test_unchanged_size_is_an_exact_copy_in_float():
    image = np.random.default_rng(0).integers(0, 256, (24, 24, 3)).astype(np.uint8)
    for result in (resize_for_evaluation(image, 24), random_crop_resize(image, 24, (0, 0), (1, 1))):
        assert result.dtype == tf.float32
        np.testing.assert_array_equal(result, image)


def test_unknown_style_lists_the_styles():
    message = r"Unknown style. Allowed: whole, v2, v1, finetune. Received: 'crop'"
    with pytest.raises(ValueError, match=message):
        resize_for_evaluation(np.zeros((4, 4, 3)), 8, "crop")


@pytest.mark.parametrize("size", [0, -3, 2.5, "224", None, (4, 4)])
def test_size_must_be_a_positive_whole_number(size):
    image = np.zeros((4, 4, 3))
    calls = (
        lambda: resize_for_evaluation(image, size),
        lambda: random_crop_resize(image, size, (0, 0)),
        lambda: prepare_batch([b""], size),
    )
    for call in calls:
        with pytest.raises(ValueError, match="image_size must be a positive whole number"):
            call()


GRADIENT = np.zeros((200, 300, 3), np.float32)
GRADIENT[..., 0] = np.linspace(0, 255, 300)[None, :]
GRADIENT[..., 1] = np.linspace(0, 255, 200)[:, None]


def crop_of(seed, **options):
    """Return the crop's fractions of the width and of the height, read off the gradient."""
    image = random_crop_resize(GRADIENT, 64, (seed, 1), **options).numpy()
    # The outermost of 64 pixel centres are 63 / 64 of the crop apart.
    return np.ptp(image[..., 0]) / 255 * 64 / 63, np.ptp(image[..., 1]) / 255 * 64 / 63


def test_random_crops_stay_within_the_ranges_and_fill_them():
    crops = np.array([crop_of(seed, area=(0.2, 0.5)) for seed in range(100)])
    areas = crops[:, 0] * crops[:, 1]
    ratios = crops[:, 0] * 300 / (crops[:, 1] * 200)
    assert areas.min() > 0.18
    assert areas.min() < 0.25
    assert areas.max() < 0.52
    assert areas.max() > 0.45
    assert 0.72 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.37


def test_random_crop_depends_on_the_seed_alone():
    first, again, other = (
        random_crop_resize(GRADIENT, 32, (seed, 7)).numpy() for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - other).max() > 1
    in_dataset = next(
        iter(
            tf.data.Dataset.from_tensors(GRADIENT).map(
                lambda image: random_crop_resize(image, 32, (1, 7))
            )
        )
    )
    np.testing.assert_allclose(in_dataset, first, atol=1e-4)


def test_area_of_one_is_the_whole_picture_whatever_its_shape():
    whole = resize_for_evaluation(GRADIENT, 32)
    for antialias, expected in (
        (True, whole),
        (False, resize_for_evaluation(GRADIENT, 32, "finetune")),
    ):
        image = random_crop_resize(GRADIENT, 32, (5, 5), area=(1, 1), antialias=antialias)
        np.testing.assert_array_equal(image, expected)


def test_crop_that_cannot_fit_falls_back_to_the_whole_picture():
    narrow = np.zeros((400, 2, 3), np.uint8)
    narrow[-1] = 255
    crops = [
        random_crop_resize(narrow, 8, (seed, 0), area=(0.9, 1.0), antialias=False)
        for seed in range(3)
    ]
    for crop in crops:
        np.testing.assert_array_equal(crop, resize_for_evaluation(narrow, 8, "finetune"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": (0.0, 1.0)}, r"area must be .* Received: \(0.0, 1.0\)"),
        ({"area": (0.5, 0.4)}, "area must be"),
        ({"area": (0.5, 1.1)}, "area must be"),
        ({"aspect_ratio": (1.5, 1.0)}, "aspect_ratio must be"),
        ({"aspect_ratio": (0.0, 1.0)}, "aspect_ratio must be"),
    ],
)
def test_random_crop_names_a_bad_range(options, message):
    with pytest.raises(ValueError, match=message):
        random_crop_resize(GRADIENT, 8, (0, 0), **options)


BATCH = [COLOUR, b"", GRAY, GRAY[:-200], b"no picture", COLOUR]
REASONS = [
    b"",
    b"the file is empty",
    b"",
    b"corrupt or truncated JPEG",
    b"not a JPEG, PNG, BMP, GIF or WebP picture",
    b"",
]


@pytest.mark.parametrize("style", STYLES)
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
    images, errors = prepare_batch(batch, 16)
    assert errors.numpy().tolist() == reasons
    np.testing.assert_array_equal(images, np.zeros((len(batch), 16, 16, 3)))


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
        lambda files: prepare_batch(files, 32), input_signature=[tf.TensorSpec([None], tf.string)]
    ).get_concrete_function()
    definition = graph.graph.as_graph_def()
    nodes = [*definition.node, *(n for f in definition.library.function for n in f.node_def)]
    assert not {node.op for node in nodes} & {"PyFunc", "EagerPyFunc", "PyFuncStateless"}
    assert [tensor.shape.as_list() for tensor in graph.structured_outputs] == [
        [None, 32, 32, 3],
        [None],
    ]
    images, errors = graph(tf.constant(BATCH))
    assert errors.numpy().tolist() == REASONS
    np.testing.assert_allclose(images, prepare_batch(BATCH, 32)[0], atol=1e-3)
