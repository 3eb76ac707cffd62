"""Training crops: the official rules, the reduced decode, every format alike."""

import pathlib

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation
from keras_effnetv2.images.styles import CROP_STYLES
from keras_effnetv2.images.training_crop import decode_random_crop

GOLDEN = pathlib.Path(__file__).parent / "golden" / "preprocessing"
PHOTO = (GOLDEN / "synthetic_colour.jpg").read_bytes()

GRADIENT = np.zeros((200, 300, 3), np.uint8)
GRADIENT[..., 0] = np.linspace(0, 255, 300)[None, :]
GRADIENT[..., 1] = np.linspace(0, 255, 200)[:, None]
GRADIENT_PNG = tf.io.encode_png(GRADIENT).numpy()
GRADIENT_JPEG = tf.io.encode_jpeg(GRADIENT, quality=100, chroma_downsampling=False).numpy()


def crop_of(seed, data=GRADIENT_PNG, **options):
    """Return the crop's fractions of the width and of the height, read off the gradient."""
    image = decode_random_crop(data, 64, (seed, 1), **options).numpy()
    # The outermost of 64 pixel centres are 63 / 64 of the crop apart.
    return np.ptp(image[..., 0]) / 255 * 64 / 63, np.ptp(image[..., 1]) / 255 * 64 / 63


@pytest.mark.parametrize("data", [GRADIENT_PNG, GRADIENT_JPEG], ids=["PNG", "JPEG"])
def test_crops_stay_within_the_ranges_and_fill_them(data):
    crops = np.array([crop_of(seed, data, area=(0.2, 0.5)) for seed in range(100)])
    areas = crops[:, 0] * crops[:, 1]
    ratios = crops[:, 0] * 300 / (crops[:, 1] * 200)
    assert areas.min() > 0.18
    assert areas.min() < 0.25
    assert areas.max() < 0.53
    assert areas.max() > 0.45
    assert 0.7 < ratios.min() < 0.8
    assert 1.25 < ratios.max() < 1.4


@pytest.mark.parametrize(("style", "smallest"), [("v2", 0.05), ("v1", 0.08)])
def test_each_style_has_its_own_smallest_share(style, smallest):
    areas = [np.prod(crop_of(seed, style=style)) for seed in range(120)]
    assert smallest - 0.01 < min(areas) < smallest + 0.03


def test_a_png_and_a_jpeg_of_one_picture_are_cropped_alike():
    for seed in range(8):
        png, jpeg = (
            decode_random_crop(data, 32, (seed, 3), reduced_decode=False).numpy()
            for data in (GRADIENT_PNG, GRADIENT_JPEG)
        )
        np.testing.assert_allclose(jpeg, png, atol=4)


def test_crop_depends_on_the_seed_alone():
    first, other = (decode_random_crop(PHOTO, 32, (seed, 7)).numpy() for seed in (1, 2))
    assert np.abs(first - other).max() > 1
    mapped = tf.data.Dataset.from_tensors(PHOTO).map(lambda x: decode_random_crop(x, 32, (1, 7)))
    np.testing.assert_array_equal(next(iter(mapped)), first)


def test_area_of_one_is_the_whole_picture():
    whole = resize_for_evaluation(decode_image(PHOTO), 180, "finetune")
    for options in ({"style": "finetune"}, {"area": (1, 1)}):
        image = decode_random_crop(PHOTO, 180, (5, 5), reduced_decode=False, **options)
        np.testing.assert_array_equal(image, whole)


def test_a_jpeg_is_cut_while_it_is_decoded_as_officially():
    """The same rectangle cut out of the decoded picture differs at its right edge at most."""
    differing = []
    for seed in range(6):
        box = tf.image.stateless_sample_distorted_bounding_box(
            tf.io.extract_jpeg_shape(PHOTO), [[[0.0, 0.0, 1.0, 1.0]]], (seed, 0),
            min_object_covered=0.0, aspect_ratio_range=(0.75, 1.33), area_range=(0.05, 1.0),
            max_attempts=100,
        )  # fmt: skip
        window = tf.slice(decode_image(PHOTO), box.begin, box.size)
        expected = tf.image.resize(window, [48, 48])
        image = decode_random_crop(PHOTO, 48, (seed, 0), reduced_decode=False)
        difference = np.abs(image - expected).max(axis=(0, 2))
        differing.append(difference[2:-2].max())
    assert max(differing) == 0


def test_v1_interpolates_as_tensorflow_1_and_may_leave_the_range():
    edge = np.zeros((64, 64, 3), np.uint8)
    edge[:, 32:] = 255
    png = tf.io.encode_png(edge)
    values = decode_random_crop(png, 100, (0, 0), style="v1", area=(0.9, 1.0)).numpy()
    assert values.min() < -1
    assert values.max() > 256


def test_where_no_v1_crop_fits_it_is_the_central_square():
    narrow = np.zeros((400, 8, 3), np.uint8)
    narrow[196:204] = 255
    png = tf.io.encode_png(narrow)
    image = decode_random_crop(png, 8, (0, 0), style="v1", area=(0.9, 1.0), reduced_decode=False)
    np.testing.assert_array_equal(image, resize_for_evaluation(narrow, 8, "v1"))
    whole = decode_random_crop(png, 8, (0, 0), area=(0.9, 1.0), reduced_decode=False)
    np.testing.assert_array_equal(whole, resize_for_evaluation(narrow, 8, "finetune"))


@pytest.mark.parametrize(
    ("size", "block"), [(101, 1), (100, 2), (51, 2), (50, 4), (26, 4), (25, 8), (20, 8)]
)
@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_reduced_decode_averages_the_blocks_that_fit(size, block, kind):
    """Smooth noise, so that single pixels would differ from the averages."""
    noise = np.random.default_rng(0).integers(0, 256, (200, 200, 1)).repeat(3, axis=2)
    noise = noise.astype(np.uint8)
    if kind == "PNG":
        data = tf.io.encode_png(noise)
    else:
        data = tf.io.encode_jpeg(noise, quality=100, chroma_downsampling=False)
    averages = noise.reshape(200 // block, block, 200 // block, block, 3).mean(axis=(1, 3))
    expected = tf.image.resize(averages, [size, size]).numpy()
    image = decode_random_crop(data, size, (0, 0), area=(1, 1)).numpy()
    skipped = decode_random_crop(data, size, (0, 0), area=(1, 1), reduced_decode=False).numpy()
    # A JPEG's scaled transform keeps the lowest frequencies, which is nearly the average.
    tolerance = 1.0 if kind == "PNG" else 0.35 * expected.std() + 1.0
    assert np.abs(image - expected).mean() < tolerance
    if block > 2:  # bilinear interpolation at one half is the average of 2 x 2 itself
        assert np.abs(skipped - expected).mean() > 3 * np.abs(image - expected).mean()


@pytest.mark.parametrize("encode", [tf.io.encode_png, tf.io.encode_jpeg])
def test_a_very_large_picture_is_averaged_beyond_an_eighth(encode):
    noise = np.random.default_rng(1).integers(0, 256, (640, 640, 3)).astype(np.uint8)
    data = encode(noise)
    # Blocks of 64 x 64 single values, each with a deviation of 74, average out.
    assert decode_random_crop(data, 10, (0, 0), area=(1, 1)).numpy().std() < 3
    skipped = decode_random_crop(data, 10, (0, 0), area=(1, 1), reduced_decode=False).numpy()
    assert skipped.std() > 25


@pytest.mark.parametrize("style", CROP_STYLES)
def test_extreme_shapes_keep_a_flat_colour(style):
    for shape in ((1, 1, 3), (1, 40, 3), (900, 2, 3), (33, 65, 3)):
        flat = np.full(shape, 77, np.uint8)
        for data in (tf.io.encode_png(flat), tf.io.encode_jpeg(flat, quality=100)):
            image = decode_random_crop(data, 16, (3, 4), style=style)
            assert image.dtype == tf.float32
            np.testing.assert_allclose(image, np.full((16, 16, 3), 77), atol=1.01)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"area": (0.0, 1.0)}, r"area must be .* Received: \(0.0, 1.0\)"),
        ({"area": (0.5, 0.4)}, "area must be"),
        ({"area": (0.5, 1.1)}, "area must be"),
        ({"style": "v3"}, "`style` must be one of 'v2', 'v1', 'finetune'. Received: 'v3'"),
        ({"image_size": 0}, "`image_size` must be an integer of at least 1"),
    ],
)
def test_bad_arguments_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        decode_random_crop(PHOTO, **{"image_size": 8, "seed": (0, 0), **options})


@pytest.mark.parametrize("data", [b"", b"no picture", PHOTO[:200], GRADIENT_PNG[:-50]])
def test_what_is_no_picture_raises(data):
    with pytest.raises(tf.errors.InvalidArgumentError):
        decode_random_crop(data, 16, (0, 0))
