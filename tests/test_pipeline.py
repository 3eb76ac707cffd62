"""The wired pipeline: shapes, repeatability, no lost pictures, the official pieces in order."""

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2 import load_source, make_dataset
from keras_effnetv2.data.pipeline import _seed
from keras_effnetv2.images.evaluation_crop import decode_image, resize_for_evaluation


@pytest.fixture(scope="module")
def source():
    return load_source("digits", "validation").subset(range(50))


SETTINGS = {
    "image_size": 32,
    "batch_size": 8,
    "training": True,
    "randaugment_magnitude": 9,
    "mixup_alpha": 0.4,
    "cutmix_alpha": 0.4,
    "seed": 3,
}


def arrays(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_evaluation_is_every_picture_in_order(source):
    dataset = make_dataset(source, image_size=32, batch_size=8, training=False)
    assert dataset.element_spec[0].shape.as_list() == [None, 32, 32, 3]
    assert [len(x) for x, _ in dataset] == [8] * 6 + [2]
    images, labels = arrays(dataset)
    assert (labels.argmax(-1) == source.labels).all()
    assert labels.shape == (50, 10)
    for index, (data, _, _) in enumerate(source.dataset()):
        expected = resize_for_evaluation(decode_image(data), 32, "whole")
        np.testing.assert_array_equal(images[index], expected)


def test_training_batches_are_full_static_and_in_range(source):
    dataset = make_dataset(source, **SETTINGS)
    assert dataset.element_spec[0].shape.as_list() == [8, 32, 32, 3]
    assert dataset.element_spec[1].shape.as_list() == [8, 10]
    images, labels = arrays(dataset)
    assert len(images) == 48
    assert images.dtype == labels.dtype == np.float32
    assert images.min() >= 0
    assert 100 < images.max() <= 255
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)


def test_training_is_a_pure_function_of_seed_and_epoch(source):
    first, again = (arrays(make_dataset(source, **SETTINGS, epoch=2)) for _ in range(2))
    np.testing.assert_array_equal(first[0], again[0])
    np.testing.assert_array_equal(first[1], again[1])
    for other in ({"epoch": 3}, {"epoch": 2, "seed": 4}):
        assert (arrays(make_dataset(source, **(SETTINGS | other)))[0] != first[0]).mean() > 0.2


def test_an_epoch_shows_every_picture_once_with_its_own_label(source):
    plain = make_dataset(
        source, image_size=32, batch_size=10, training=True, crop_area=(1.0, 1.0), epoch=5
    )
    images, labels = arrays(plain)
    expected, expected_labels = arrays(
        make_dataset(source, image_size=32, batch_size=10, training=False)
    )
    rows = [int(np.abs(expected - image).sum((1, 2, 3)).argmin()) for image in images]
    assert sorted(rows) == list(range(50))
    assert rows != list(range(50))
    for image, label, row in zip(images, labels, rows, strict=True):
        np.testing.assert_array_equal(image, expected[row])
        np.testing.assert_array_equal(label, expected_labels[row])


def test_digits_are_never_mirrored_but_photos_are(source):
    count = 16
    same = source.subset([0] * count)
    settings = {"image_size": 32, "batch_size": count}
    upright = arrays(make_dataset(same, training=False, **settings))[0][0]

    def mirrored(**arguments):
        data = make_dataset(same, training=True, crop_area=(1.0, 1.0), **settings, **arguments)
        images, _ = arrays(data)
        found = [bool((image == upright[:, ::-1]).all()) for image in images]
        assert all(
            is_mirrored or (image == upright).all()
            for is_mirrored, image in zip(found, images, strict=True)
        )
        return sum(found)

    assert mirrored() == 0
    assert 3 <= mirrored(horizontal_flip=True) <= 13


def test_mixing_is_off_at_alpha_zero_and_on_above(source):
    settings = SETTINGS | {"mixup_alpha": 0.0, "cutmix_alpha": 0.0}
    assert set(np.unique(arrays(make_dataset(source, **settings))[1])) == {0, 1}
    mixed = arrays(make_dataset(source, **(settings | {"mixup_alpha": 1.0})))[1]
    assert ((mixed > 0.01) & (mixed < 0.99)).any(-1).mean() > 0.5


def test_a_source_smaller_than_a_batch_is_one_batch(source):
    few = source.subset([0, 1, 2])
    assert [len(x) for x, _ in make_dataset(few, **SETTINGS)] == [3]


def test_small_pictures_are_not_wiped_out(source):
    """At 32 pixels the official translation of 100 px at magnitude 10 leaves nothing but gray."""

    def wiped(scale):
        dataset = make_dataset(
            source,
            image_size=32,
            batch_size=50,
            training=True,
            crop_area=(1.0, 1.0),
            randaugment_magnitude=10,
            randaugment_layers=1,
            scale_randaugment=scale,
        )
        return sum(image.std() == 0 for image in arrays(dataset)[0])

    assert wiped(False) > 3
    assert wiped(True) == 0


@pytest.mark.parametrize(
    "wrong",
    [
        {"image_size": 0},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"randaugment_magnitude": -1},
        {"mixup_alpha": -0.1},
        {"crop_area": (0.0, 1.0)},
        {"epoch": -1},
        {"seed": -1},
        {"training": False, "style": "square"},
    ],
)
def test_wrong_arguments(source, wrong):
    with pytest.raises(ValueError, match="Received"):
        list(make_dataset(source, **(SETTINGS | wrong)))


def test_seeds_of_neighbours_differ():
    seeds = {
        tuple(_seed(*(tf.constant(x, tf.int64) for x in (s, e, i)), k).numpy())
        for s in (0, 1)
        for e in (0, 1, 1000)
        for i in (0, 1, 10**6)
        for k in range(4)
    }
    assert len(seeds) == 2 * 3 * 3 * 4


def test_workers_see_together_the_very_batches_of_one_process(source):
    settings = {"image_size": 32, "training": True, "randaugment_magnitude": 9, "epoch": 1}
    whole, labels = arrays(make_dataset(source, batch_size=8, **settings))
    parts = [
        arrays(make_dataset(source, batch_size=4, shard=(worker, 2), **settings))
        for worker in range(2)
    ]
    for worker, (images, own_labels) in enumerate(parts):
        np.testing.assert_array_equal(images, whole[worker::2])
        np.testing.assert_array_equal(own_labels, labels[worker::2])


def test_autoaugment_takes_the_place_of_randaugment(source):
    settings = {"image_size": 32, "batch_size": 50, "training": True, "crop_area": (1.0, 1.0)}
    plain, _ = arrays(make_dataset(source, **settings))
    images, _ = arrays(make_dataset(source, autoaugment=True, **settings))
    changed = (images != plain).any((1, 2, 3)).mean()
    assert changed > 0.5  # most sub-policies do something
    assert (images % 1 == 0).all()
    with pytest.raises(ValueError, match="Choose one of RandAugment and AutoAugment"):
        make_dataset(source, autoaugment=True, randaugment_magnitude=5, **settings)


def test_augmented_pictures_are_whole_grey_levels_and_others_are_not(source):
    settings = {"image_size": 40, "batch_size": 50, "training": True}
    plain, _ = arrays(make_dataset(source, **settings))
    augmented, _ = arrays(make_dataset(source, randaugment_magnitude=5, **settings))
    assert (plain % 1 != 0).mean() > 0.3
    assert (augmented % 1 == 0).all()


def test_mixup_as_in_the_paper_lets_the_partner_outweigh(source):
    settings = {"image_size": 32, "batch_size": 50, "training": True, "mixup_alpha": 1.0}
    smallest = {
        style: arrays(make_dataset(source, mixup_style=style, **settings))[1].max(-1).min()
        for style in ("official", "paper")
    }
    assert smallest["official"] >= 0.5
    own = arrays(make_dataset(source, **(settings | {"mixup_alpha": 0.0})))[1].argmax(-1)
    mixed = arrays(make_dataset(source, mixup_style="paper", **settings))[1]
    assert mixed[np.arange(50), own].min() < 0.3


def test_the_number_of_batches_is_known(source):
    for training, batches in ((True, 6), (False, 7)):
        dataset = make_dataset(source, image_size=32, batch_size=8, training=training)
        assert int(dataset.cardinality()) == batches == sum(1 for _ in dataset)
