"""The pictures that exports are calibrated and compared with."""

import numpy as np
import pytest
import tensorflow as tf
from helpers.picture_files import png, write_files

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.unreadable import BadPicturesError
from keras_effnetv2.export.real_pictures import photographs, picture_array
from keras_effnetv2.images.evaluation_crop import decode_for_evaluation, resize_for_evaluation


@pytest.mark.parametrize("size", [1, 24, 224])
def test_photographs(size):
    pictures = photographs(size)
    assert (pictures.shape, pictures.dtype) == ((24, size, size, 3), np.float32)
    assert -0.5 < pictures.min() < 255 < pictures.max() + 128
    assert pictures.max() < 255.5
    assert len(np.unique(pictures.reshape(24, -1), axis=0)) == 24
    np.testing.assert_array_equal(pictures[12:] * 2, pictures[:12, :, ::-1])


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", split="validation")


def test_a_source_is_read_as_for_evaluation(digits):
    source = digits.subset(range(5))
    images = picture_array(source, 20, "whole", max_pictures=10)
    files = [data for data, *_ in source.dataset().as_numpy_iterator()]
    expected = np.stack([decode_for_evaluation(data, 20) for data in files])
    np.testing.assert_allclose(images, expected, atol=1e-4)


def test_a_large_source_gives_pictures_of_all_its_parts(digits):
    images = picture_array(digits, 8, "whole", max_pictures=50)
    assert images.shape == (50, 8, 8, 3)
    np.testing.assert_array_equal(images, picture_array(digits, 8, "whole", max_pictures=50))
    first = picture_array(digits.subset(range(50)), 8, "whole", max_pictures=50)
    assert not np.array_equal(images, first)


def test_a_picture_that_cannot_be_read_is_named(tmp_path):
    folder = write_files(tmp_path, {"a/1.png": png(1), "b/2.png": b"nothing", "b/3.png": png(3)})
    with pytest.raises(BadPicturesError, match=r"2\.png.*\nRepair or remove them\.$"):
        picture_array(load_source(folder, "all"), 8, "whole", max_pictures=9)


PICTURES = np.random.default_rng(0).integers(0, 256, (5, 12, 9, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    "pictures",
    [
        PICTURES,
        list(PICTURES),
        (picture for picture in PICTURES.astype(np.float64)),
        [PICTURES[:2], PICTURES[2], PICTURES[3:]],
        tf.data.Dataset.from_tensor_slices((PICTURES, np.arange(5))).batch(2),
    ],
    ids=["array", "list", "generator", "batches", "dataset with labels"],
)
def test_arrays_in_every_form(pictures):
    images = picture_array(pictures, 6, "whole", max_pictures=4)
    assert images.dtype == np.float32
    expected = np.stack([resize_for_evaluation(picture, 6) for picture in PICTURES[:4]])
    np.testing.assert_allclose(images, expected, atol=1e-3)


def test_no_more_is_read_than_is_used():
    def endless():
        while True:
            yield PICTURES

    assert len(picture_array(endless(), 6, "whole", max_pictures=7)) == 7


@pytest.mark.parametrize(
    ("pictures", "message"),
    [
        ([], "At least one picture is needed"),
        ("digits", r"ImageSource \(see load_source\), or arrays .* Received: str"),
        (np.zeros((4, 4)), r"\(H, W, 3\) or \(N, H, W, 3\). Received: ndarray float64 \(4,\)"),
        (np.zeros((1, 4, 4, 1)), r"Received: ndarray float64 \(4, 4, 1\)"),
        (PICTURES / 255, r"multiply those of 0..1 by 255. Received: 0\..* in 5 pictures"),
        (PICTURES / 127.5 - 1, r"multiply those of 0..1 by 255. Received: -0\..* in 5 pictures"),
        (PICTURES.astype(float) * 2, "values 0..255. .* Received: .*..5"),
        (PICTURES - 128.0, "values 0..255. .* Received: -"),
        (np.full((1, 4, 4, 3), np.nan), "values 0..255. .* Received: nan..nan"),
    ],
)
def test_refusals(pictures, message):
    with pytest.raises(ValueError, match=message):
        picture_array(pictures, 6, "whole", max_pictures=9)
