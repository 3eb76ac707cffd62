"""MixUp and CutMix against the official code (golden/randaugment/README.md)."""

import pathlib

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_effnetv2.augment import mixing

GOLDEN = pathlib.Path(__file__).parent / "golden" / "randaugment"
ARRAYS = dict(np.load(GOLDEN / "mixing.npz"))
IMAGES, LABELS = ARRAYS["image"], ARRAYS["label"]
SEED = (3, 4)
MIXES = {
    "mixup": {"mixup_alpha": 0.2, "cutmix_alpha": 0},
    "paper": {"mixup_alpha": 0.2, "cutmix_alpha": 0, "mixup_style": "paper"},
    "cutmix": {"mixup_alpha": 0, "cutmix_alpha": 1.0},
    "both": {"mixup_alpha": 0.2, "cutmix_alpha": 1.0},
    "own share": {"mixup_alpha": 0, "cutmix_alpha": 1.0, "cutmix_style": "paper"},
}


def mix(name, images, labels, seed=SEED, **options):
    return mixing.mix_batch(images, labels, seed=seed, **MIXES[name] | options)


def _batch(size, height=6, width=10):
    """Return random images and labels that name each example: one class an example."""
    images = np.random.default_rng(size).uniform(-1, 1, (size, height, width, 3))
    return images.astype(np.float32), np.eye(size, dtype=np.float32)


def _golden_masks(batch):
    columns, rows, shares = ARRAYS["cutmix_draws"][batch].T
    return mixing.cutmix_masks(rows.astype(int), columns.astype(int), shares, height=16, width=16)


def test_cutmix_equals_the_official_result():
    masks = _golden_masks(slice(None))
    np.testing.assert_array_equal(masks, ARRAYS["cutmix_mask"])
    images, labels = mixing.apply_cutmix(IMAGES, LABELS, masks)
    np.testing.assert_array_equal(images, ARRAYS["cutmix_image"])
    np.testing.assert_array_equal(labels, ARRAYS["cutmix_label"])


def test_mixup_and_both_equal_the_official_result():
    draws = ARRAYS["mixup_beta"][:, 0]
    weights = np.maximum(draws, 1 - draws)
    mixup = mixing.apply_mixup(IMAGES, LABELS, weights)
    halves = (
        mixing.apply_mixup(IMAGES[:4], LABELS[:4], weights[:4]),
        mixing.apply_cutmix(IMAGES[4:], LABELS[4:], _golden_masks(slice(4, None))),
    )
    for name, found in (("mixup", mixup), ("both", map(np.concatenate, zip(*halves, strict=True)))):
        images, labels = found
        np.testing.assert_array_equal(images, ARRAYS[f"{name}_image"])
        np.testing.assert_array_equal(labels, ARRAYS[f"{name}_label"])


def test_both_mix_each_half_within_itself():
    images, one_hot = _batch(17)
    mixed, labels = (np.array(values) for values in mix("both", images, one_hot, mixup_alpha=1.0))
    first, second = images[:8], images[8:]
    own = np.diag(labels)[:8]
    assert ((own >= 0.5) & (own < 1)).all()
    weights = own[:, None, None, None]
    np.testing.assert_allclose(mixed[:8], weights * first + (1 - weights) * first[::-1], atol=1e-6)
    pasted = (mixed[8:] != second).any(-1)
    np.testing.assert_array_equal(mixed[8:], np.where(pasted[..., None], second[::-1], second))
    # The middle one of the nine meets itself, so that its box is not seen.
    share = labels[8, 16]
    assert share > 0
    np.testing.assert_allclose(
        labels[8:, 8:], (1 - share) * np.eye(9) + share * np.eye(9)[::-1], atol=1e-6
    )
    assert not labels[:8, 8:].any()
    assert not labels[8:, :8].any()


@pytest.mark.parametrize("alpha", [0.01, 0.2, 1.0, 5.0])
def test_beta_draws_follow_the_distribution(alpha):
    size = 20_000
    draws = mixing.draw_beta(size, alpha, SEED).numpy()
    assert ((draws >= 0) & (draws <= 1)).all()  # and so no NaN
    edges = [0, 0.01, 0.2, 0.5, 0.8, 0.99]
    for low, high in zip(edges, [*edges[1:], 1.1], strict=True):
        expected = np.diff(scipy.stats.beta.cdf([low, high], alpha, alpha))[0]
        share = ((draws >= low) & (draws < high)).mean()
        deviation = np.sqrt(expected * (1 - expected) / size)
        assert abs(share - expected) <= 4 * deviation + 1e-9, (low, high)


def test_mixup_weights_are_per_example_and_at_least_one_half():
    _, labels = mix("mixup", *_batch(64), mixup_alpha=1.0)
    own = np.diag(labels)
    assert own.min() >= 0.5
    assert len(set(own.tolist())) == 64
    np.testing.assert_allclose(own + np.diag(np.fliplr(labels)), 1, atol=1e-6)


def test_mixup_of_the_paper_takes_any_weight():
    images, one_hot = _batch(64)
    mixed, labels = mix("paper", images, one_hot, mixup_alpha=1.0)
    own = np.diag(labels)
    assert 0.2 < (own < 0.5).mean() < 0.8
    weights = own[:, None, None, None]
    np.testing.assert_allclose(mixed, weights * images + (1 - weights) * images[::-1], atol=1e-6)


def test_cutmix_gives_all_labels_the_mean_area_of_the_batch():
    images, one_hot = _batch(16, 20, 30)
    mixed, labels = mix("cutmix", images, one_hot)
    pasted = (mixed.numpy() == images[::-1]).all(-1)
    np.testing.assert_array_equal(mixed, np.where(pasted[..., None], images[::-1], images))
    assert len(set(pasted.mean((1, 2)).tolist())) > 8
    np.testing.assert_allclose(np.diag(labels), 1 - pasted.mean(), atol=1e-6)
    np.testing.assert_allclose(np.diag(np.fliplr(labels)), pasted.mean(), atol=1e-6)


def test_cutmix_of_the_paper_gives_each_label_the_share_of_its_pixels():
    images, one_hot = _batch(16, 20, 30)
    mixed, labels = mix("own share", images, one_hot)
    pasted = (mixed.numpy() == images[::-1]).all(-1).mean((1, 2))
    assert len(set(pasted.tolist())) > 8
    np.testing.assert_allclose(np.diag(labels), 1 - pasted, atol=1e-6)
    np.testing.assert_allclose(np.diag(np.fliplr(labels)), pasted, atol=1e-6)
    both = {"mixup_alpha": 0.2}
    _, half = mix("own share", images, one_hot, **both)
    _, official = mix("both", images, one_hot)
    np.testing.assert_array_equal(half[:8], official[:8])
    assert len(set(np.diag(half)[8:].tolist())) > len(set(np.diag(official)[8:].tolist())) == 1


def test_cutmix_centres_are_uniform():
    # Such an alpha draws shares next to 1/2, which make a side int(0.71 * size): of 8 rows 5, of
    # 16 columns 11.
    masks = mixing.draw_cutmix_masks(np.zeros((4096, 8, 16, 3), np.float32), 1e6, SEED).numpy()
    rows = masks[..., 0].any(axis=2)
    columns = masks[..., 0].any(axis=1)
    for inside, size, half in ((rows, 8, 2), (columns, 16, 5)):
        ends = size - inside[:, ::-1].argmax(axis=1)  # centre + half, clipped to the size
        counts = np.bincount(np.minimum(ends, size), minlength=size + 1)[half:]
        expected = np.full(size - half + 1, 4096 / size)
        expected[-1] *= half  # the centres whose box is clipped
        np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(4096 / size * half))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", MIXES)
def test_any_batch_size_keeps_label_mass_and_range(name, size):
    images, one_hot = _batch(size)
    mixed, labels = mix(name, images, one_hot)
    assert mixed.shape == images.shape
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, atol=1e-6)
    assert images.min() <= mixed.numpy().min()
    assert mixed.numpy().max() <= images.max()
    if size == 1:
        np.testing.assert_allclose(mixed, images, atol=1e-6)
        np.testing.assert_allclose(labels, one_hot, atol=1e-6)


def test_eager_and_graph_agree_for_unknown_shapes():
    images, labels = _batch(6, 8, 12)
    signature = [tf.TensorSpec([None] * 4), tf.TensorSpec([None, None])]
    traced = tf.function(lambda *batch: [mix(name, *batch) for name in MIXES], signature)
    for name, outputs in zip(MIXES, traced(images, labels), strict=True):
        eager = mix(name, images, labels)
        np.testing.assert_allclose(outputs[0], eager[0], atol=1e-6)
        np.testing.assert_allclose(outputs[1], eager[1], atol=1e-6)
        other = mix(name, images, labels, seed=(3, 5))
        assert (other[1].numpy() != eager[1].numpy()).any()


def test_an_alpha_of_zero_returns_the_inputs_untouched():
    mixed = mix("both", IMAGES, LABELS, mixup_alpha=0, cutmix_alpha=0.0)
    assert mixed[0] is IMAGES
    assert mixed[1] is LABELS
