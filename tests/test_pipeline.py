"""The wired pipeline: shapes, repeatability, no lost pictures, the official pieces in order."""

import numpy as np
import pytest
from sklearn.utils.class_weight import compute_sample_weight

from keras_effnetv2 import load_source, make_dataset
from keras_effnetv2.images.evaluation_crop import decode_image, resize_for_evaluation

SIZES = {"image_size": 32, "batch_size": 50}
WHOLE = {**SIZES, "training": True, "crop_area": (1.0, 1.0)}
# With the crop and the layers that trace quickest; the tests share the traces.
AUGMENT = {"randaugment_magnitude": 10, "randaugment_layers": 1}
SETTINGS = {**WHOLE, **AUGMENT, "batch_size": 8, "mixup_alpha": 0.4, "cutmix_alpha": 0.4, "seed": 3}


@pytest.fixture(scope="module")
def source():
    return load_source("digits", "validation").subset(range(50))


@pytest.fixture(scope="module")
def judged(source):
    """Pictures and labels as evaluation has them, in the order of the source."""
    dataset = make_dataset(source, **SIZES, training=False)
    assert dataset.element_spec[0].shape.as_list() == [None, 32, 32, 3]
    return arrays(dataset)


def arrays(dataset):
    images, labels = zip(*dataset.as_numpy_iterator(), strict=True)
    return np.concatenate(images), np.concatenate(labels)


def test_evaluation_is_every_picture_in_order(source, judged):
    dataset = make_dataset(source, image_size=32, batch_size=8, training=False)
    assert dataset.cardinality() == 7
    assert [len(x) for x, _ in dataset] == [8] * 6 + [2]
    images, labels = judged
    assert (labels.argmax(-1) == source.labels).all()
    assert labels.shape == (50, 10)
    for index, (data, _, _) in enumerate(source.subset(range(10)).dataset()):
        expected = resize_for_evaluation(decode_image(data), 32, "whole")
        np.testing.assert_array_equal(images[index], expected)


def test_training_is_a_pure_function_of_seed_and_epoch(source):
    dataset = make_dataset(source, **SETTINGS, epoch=2)
    assert int(dataset.cardinality()) == 6
    assert [spec.shape.as_list() for spec in dataset.element_spec] == [[8, 32, 32, 3], [8, 10]]
    images, labels = arrays(dataset)
    assert len(images) == 48
    assert images.dtype == labels.dtype == np.float32
    assert images.min() >= 0
    assert 100 < images.max() <= 255
    np.testing.assert_allclose(labels.sum(-1), 1, atol=1e-6)
    again = arrays(make_dataset(source, **SETTINGS, epoch=2))
    np.testing.assert_array_equal(images, again[0])
    np.testing.assert_array_equal(labels, again[1])
    for other in ({"epoch": 3}, {"epoch": 2, "seed": 4}):
        assert (arrays(make_dataset(source, **(SETTINGS | other)))[0] != images).mean() > 0.2


def test_an_epoch_shows_every_picture_once_with_its_own_label(source, judged):
    images, labels = arrays(make_dataset(source, **(WHOLE | {"batch_size": 10}), epoch=5))
    expected, expected_labels = judged
    rows = [int(np.abs(expected - image).sum((1, 2, 3)).argmin()) for image in images]
    assert sorted(rows) == list(range(50))
    assert rows != list(range(50))
    np.testing.assert_array_equal(images, expected[rows])
    np.testing.assert_array_equal(labels, expected_labels[rows])


def test_a_source_smaller_than_a_batch_is_one_batch(source):
    assert [len(x) for x, _ in make_dataset(source.subset([0, 1, 2]), **WHOLE)] == [3]


def test_digits_are_never_mirrored_but_photos_are(source, judged):
    upright = judged[0][0]

    def mirrored(**arguments):
        images, _ = arrays(make_dataset(source.subset([0] * 50), **WHOLE, **arguments))
        found = (images == upright[:, ::-1]).all((1, 2, 3))
        assert (found | (images == upright).all((1, 2, 3))).all()
        return found.sum()

    assert mirrored() == 0
    assert 13 <= mirrored(horizontal_flip=True) <= 37


def test_mixing_is_off_at_alpha_zero_and_follows_the_style_above(source):
    def labels(**arguments):
        return arrays(make_dataset(source, **SIZES, training=True, **arguments))[1]

    own = labels()
    assert set(np.unique(own)) == {0, 1}
    official = labels(mixup_alpha=1.0)
    assert ((official > 0.01) & (official < 0.99)).any(-1).mean() > 0.5
    assert official.max(-1).min() >= 0.5
    # As in the paper the partner may outweigh.
    paper = labels(mixup_alpha=1.0, mixup_style="paper")
    assert paper[np.arange(50), own.argmax(-1)].min() < 0.3


UNEVEN = [0] * 6 + [1] * 3 + [2]  # by labels


@pytest.fixture(scope="module")
def uneven():
    source = load_source("digits", "validation")
    digits = [np.flatnonzero(source.labels == label) for label in range(3)]
    return source.subset([digits[label][UNEVEN[:n].count(label)] for n, label in enumerate(UNEVEN)])


def batch_of(source, **arguments):
    settings = {"image_size": 32, "batch_size": len(UNEVEN), "training": True}
    (batch,) = make_dataset(source, **settings, **arguments).as_numpy_iterator()
    return batch


def test_balanced_weights_are_those_of_scikit_learn(uneven):
    dataset = make_dataset(uneven, **WHOLE, class_weights="balanced")
    assert dataset.element_spec[2].shape.as_list() == [10]
    _, labels, weights = batch_of(uneven, class_weights="balanced")
    found = labels.argmax(-1)
    expected = compute_sample_weight("balanced", found)  # 10 / (3 * 6), 10 / (3 * 3), 10 / 3
    np.testing.assert_allclose(weights, expected, rtol=1e-6)
    assert weights.dtype == np.float32
    assert weights.mean() == pytest.approx(1)
    _, _, weights = batch_of(uneven, class_weights={"1": 2, "9": 7.0})
    np.testing.assert_array_equal(weights, np.where(found == 1, 2, 1))
    judged = make_dataset(uneven, **SIZES, training=False, class_weights={"1": 2}, balanced=True)
    assert len(judged.element_spec) == 2


@pytest.mark.parametrize(
    "mixing",
    [
        {"mixup_alpha": 0.8},
        {"cutmix_alpha": 1.0, "cutmix_style": "paper"},
        {"mixup_alpha": 0.8, "mixup_style": "paper", "cutmix_alpha": 1.0},
    ],
)
def test_the_weight_of_a_mixed_picture_is_the_mix_of_both_weights(uneven, mixing):
    by_label = np.array([0.5, 3.0, 8.0])
    class_weights = {str(label): weight for label, weight in enumerate(by_label)}
    own = batch_of(uneven, class_weights=class_weights)[1].argmax(-1)
    _, labels, weights = batch_of(uneven, class_weights=class_weights, **mixing)
    halves = [own[:5], own[5:]] if len(mixing) == 3 else [own]
    partners = np.concatenate([half[::-1] for half in halves])
    assert (own != partners).any()
    shares = np.where(own == partners, 1.0, labels[np.arange(10), own])
    expected = shares * by_label[own] + (1 - shares) * by_label[partners]
    np.testing.assert_allclose(weights, expected, rtol=1e-5)


def test_balanced_draws_are_even_and_augment_each_time_anew(uneven):
    settings = {"seed": 2, "epoch": 1}
    plain, _ = batch_of(uneven, **settings)
    images, labels = batch_of(uneven, balanced=True, **settings)
    counts = labels.sum(0)[:3]
    assert sorted(counts) == [3, 3, 4]
    thrice = images[labels.argmax(-1) == 2]  # of one picture
    assert len(thrice) >= 3
    assert len(np.unique(thrice, axis=0)) == len(thrice)
    # The first time it is the picture of an epoch of all.
    assert any((one == plain).all((1, 2, 3)).any() for one in thrice)
    np.testing.assert_array_equal(batch_of(uneven, balanced=True, **settings)[0], images)
    dataset = make_dataset(uneven, image_size=32, batch_size=4, training=True, balanced=True)
    assert dataset.cardinality() == 2


def test_small_pictures_are_not_wiped_out(source):
    """At 32 pixels the official translation of 100 px at magnitude 10 leaves nothing but gray."""
    images, _ = arrays(make_dataset(source, **WHOLE, **AUGMENT))
    scaled, _ = arrays(make_dataset(source, **WHOLE, **AUGMENT, scale_randaugment=True))
    np.testing.assert_array_equal(images, scaled)
    official, _ = arrays(make_dataset(source, **WHOLE, **AUGMENT, scale_randaugment=False))
    assert (official.std((1, 2, 3)) == 0).any()
    assert (images % 1 == 0).all()  # as officially, augmented pictures are whole grey levels
    assert (images.std((1, 2, 3)) > 0).all()


def test_autoaugment_takes_the_place_of_randaugment(source):
    images, _ = arrays(make_dataset(source, autoaugment=True, **WHOLE))
    plain, _ = arrays(make_dataset(source, **WHOLE))
    assert (images != plain).any((1, 2, 3)).mean() > 0.5  # most sub-policies do something
    assert (images % 1 == 0).all()
    with pytest.raises(ValueError, match="RandAugment and AutoAugment do not go together"):
        make_dataset(source, autoaugment=True, randaugment_magnitude=5, **WHOLE)


def test_workers_see_together_the_very_batches_of_one_process(source):
    settings = {"image_size": 32, "training": True, "epoch": 1}
    whole, labels = arrays(make_dataset(source, batch_size=8, **settings))
    assert (whole % 1 != 0).mean() > 0.3  # not rounded, where nothing is augmented
    for worker in range(2):
        part = make_dataset(source, batch_size=4, shard=(worker, 2), **settings)
        images, own_labels = arrays(part)
        np.testing.assert_array_equal(images, whole[worker::2])
        np.testing.assert_array_equal(own_labels, labels[worker::2])


@pytest.mark.parametrize(
    "wrong",
    [
        *({"image_size": 0}, {"batch_size": 0}, {"batch_size": 2.5}, {"epoch": -1}, {"seed": -1}),
        *({"randaugment_magnitude": -1}, {"mixup_alpha": -0.1}, {"mixup_style": "mine"}),
        *({"cutmix_style": "mine"}, {"scale_randaugment": None}),
        *({"crop_area": (0.0, 1.0)}, {"crop_style": "square"}),
        {"training": False, "style": "square"},
        *({"class_weights": {"ten": 2}}, {"class_weights": {"1": -1}}, {"class_weights": "even"}),
        {"balanced": "yes"},
    ],
)
def test_wrong_arguments(source, wrong):
    with pytest.raises(ValueError, match="Received"):
        make_dataset(source, **(SETTINGS | wrong))
