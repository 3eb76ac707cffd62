"""MixUp, CutMix and label smoothing against the official code (golden/randaugment/README.md)."""

import json
import pathlib

import numpy as np
import pytest
import scipy.stats
import tensorflow as tf

from keras_effnetv2.augment import mixing

GOLDEN = pathlib.Path(__file__).parent / "golden" / "randaugment"
NOTES = json.loads((GOLDEN / "mixing.json").read_text())
ARRAYS = dict(np.load(GOLDEN / "mixing.npz"))
IMAGES, LABELS = ARRAYS["image"], ARRAYS["label"]
SEED = (3, 4)
EVERY_MIX = {
    "mixup": lambda images, labels: mixing.mixup(images, labels, 0.2, SEED),
    "paper": lambda images, labels: mixing.mixup(images, labels, 0.2, SEED, style="paper"),
    "cutmix": lambda images, labels: mixing.cutmix(images, labels, 1.0, SEED),
    "both": lambda images, labels: mixing.mix_batch(
        images, labels, mixup_alpha=0.2, cutmix_alpha=1.0, seed=SEED
    ),
}


def _batch(size, height=6, width=10):
    """Returns random images and labels that name each example: one class an example."""
    images = np.random.default_rng(size).uniform(-1, 1, (size, height, width, 3))
    return images.astype(np.float32), np.eye(size, dtype=np.float32)


def _golden_masks(batch):
    columns, rows, shares = ARRAYS["cutmix_draws"][batch].T
    return mixing.cutmix_masks(rows.astype(int), columns.astype(int), shares, height=16, width=16)


def test_mixup_equals_the_official_result(monkeypatch):
    draws = tf.constant(ARRAYS["mixup_beta"][:, 0])
    monkeypatch.setattr(mixing, "draw_beta", lambda size, alpha, seed: draws[:size])
    images, labels = mixing.mixup(IMAGES, LABELS, 0.2, SEED)
    np.testing.assert_array_equal(images, ARRAYS["mixup_image"])
    np.testing.assert_array_equal(labels, ARRAYS["mixup_label"])


def test_cutmix_equals_the_official_result():
    masks = _golden_masks(slice(None))
    np.testing.assert_array_equal(masks, ARRAYS["cutmix_mask"])
    images, labels = mixing.apply_cutmix(IMAGES, LABELS, masks)
    np.testing.assert_array_equal(images, ARRAYS["cutmix_image"])
    np.testing.assert_array_equal(labels, ARRAYS["cutmix_label"])


def test_both_mix_one_half_each_as_the_official_code(monkeypatch):
    draws = tf.constant(ARRAYS["mixup_beta"][:, 0])
    monkeypatch.setattr(mixing, "draw_beta", lambda size, alpha, seed: draws[:size])
    monkeypatch.setattr(
        mixing, "draw_cutmix_masks", lambda images, alpha, seed: _golden_masks(slice(4, None))
    )
    images, labels = mixing.mix_batch(IMAGES, LABELS, mixup_alpha=0.2, cutmix_alpha=1.0, seed=SEED)
    np.testing.assert_array_equal(images, ARRAYS["both_image"])
    np.testing.assert_array_equal(labels, ARRAYS["both_label"])


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_smoothed_labels_give_the_official_loss(loss):
    example = NOTES["label_smoothing"]["example"]
    labels = mixing.smooth_labels(np.array(example["labels"]), example["s"], loss)
    entropies = {
        "softmax": tf.nn.softmax_cross_entropy_with_logits,
        "sigmoid": tf.nn.sigmoid_cross_entropy_with_logits,
    }
    logits = tf.constant(example["logits"])
    value = tf.reduce_mean(entropies[loss](labels=labels, logits=logits))
    assert float(value) == pytest.approx(example[f"{loss}_loss"], abs=1e-6)


def test_smoothed_labels_by_hand():
    labels = np.array([[0, 1, 0, 0]], np.float32)
    softmax = mixing.smooth_labels(labels, 0.2)
    np.testing.assert_allclose(softmax, [[0.05, 0.85, 0.05, 0.05]], atol=1e-7)
    sigmoid = mixing.smooth_labels(labels, 0.2, "sigmoid")
    np.testing.assert_allclose(sigmoid, [[0.1, 0.9, 0.1, 0.1]], atol=1e-7)
    np.testing.assert_array_equal(mixing.smooth_labels(labels, 0), labels)


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
    _, labels = mixing.mixup(*_batch(64), 1.0, SEED)
    own = np.diag(labels)
    assert own.min() >= 0.5
    assert len(set(own.tolist())) == 64
    np.testing.assert_allclose(own + np.diag(np.fliplr(labels)), 1, atol=1e-6)


def test_mixup_of_the_paper_takes_any_weight():
    images, one_hot = _batch(64)
    mixed, labels = mixing.mixup(images, one_hot, 1.0, SEED, style="paper")
    own = np.diag(labels)
    assert 0.2 < (own < 0.5).mean() < 0.8
    weights = own[:, None, None, None]
    np.testing.assert_allclose(mixed, weights * images + (1 - weights) * images[::-1], atol=1e-6)


def test_cutmix_gives_all_labels_the_mean_area_of_the_batch():
    images, one_hot = _batch(16, 20, 30)
    mixed, labels = mixing.cutmix(images, one_hot, 1.0, SEED)
    pasted = (mixed.numpy() == images[::-1]).all(-1)
    np.testing.assert_array_equal(mixed, np.where(pasted[..., None], images[::-1], images))
    assert len(set(pasted.mean((1, 2)).tolist())) > 8
    np.testing.assert_allclose(np.diag(labels), 1 - pasted.mean(), atol=1e-6)
    np.testing.assert_allclose(np.diag(np.fliplr(labels)), pasted.mean(), atol=1e-6)


def test_cutmix_centres_are_uniform(monkeypatch):
    # A share of 15/16 makes a side int(1/4 * size): 2 of 8 rows, 4 of 16 columns.
    monkeypatch.setattr(mixing, "draw_beta", lambda size, alpha, seed: tf.fill([size], 15 / 16))
    masks = mixing.draw_cutmix_masks(np.zeros((4096, 8, 16, 3), np.float32), 1.0, SEED).numpy()
    rows = masks[..., 0].any(axis=2)
    columns = masks[..., 0].any(axis=1)
    for inside, size, half in ((rows, 8, 1), (columns, 16, 2)):
        ends = size - inside[:, ::-1].argmax(axis=1)  # centre + half, clipped to the size
        counts = np.bincount(np.minimum(ends, size), minlength=size + 1)[half:]
        expected = np.full(size - half + 1, 4096 / size)
        expected[-1] *= half  # the centres whose box is clipped
        np.testing.assert_allclose(counts, expected, atol=4 * np.sqrt(4096 / size * half))


@pytest.mark.parametrize("size", [1, 2, 5])
@pytest.mark.parametrize("name", EVERY_MIX)
def test_any_batch_size_keeps_label_mass_and_range(name, size):
    images, one_hot = _batch(size)
    mixed, labels = EVERY_MIX[name](images, one_hot)
    assert mixed.shape == images.shape
    np.testing.assert_allclose(tf.reduce_sum(labels, axis=1), 1, atol=1e-6)
    assert images.min() <= mixed.numpy().min()
    assert mixed.numpy().max() <= images.max()
    if size == 1:
        np.testing.assert_allclose(mixed, images, atol=1e-6)
        np.testing.assert_allclose(labels, one_hot, atol=1e-6)


@pytest.mark.parametrize("name", EVERY_MIX)
def test_eager_and_graph_agree_for_unknown_shapes_and_uint8(name):
    images = np.random.default_rng(0).integers(0, 256, (6, 8, 12, 3), dtype=np.uint8)
    labels = np.eye(6, dtype=np.float32)
    signature = [tf.TensorSpec([None] * 4, tf.uint8), tf.TensorSpec([None, None])]
    traced = tf.function(EVERY_MIX[name], input_signature=signature)(images, labels)
    eager = EVERY_MIX[name](images, labels)
    assert eager[0].dtype == tf.float32
    np.testing.assert_allclose(traced[0], eager[0], atol=1e-4)
    np.testing.assert_allclose(traced[1], eager[1], atol=1e-6)
    other = mixing.mix_batch(images, labels, mixup_alpha=0.2, cutmix_alpha=1.0, seed=(3, 5))
    assert (other[1].numpy() != eager[1].numpy()).any()


def test_an_alpha_of_zero_returns_the_inputs_untouched():
    images = IMAGES.astype(np.uint8)
    for mixed in (
        mixing.mixup(images, LABELS, 0, SEED),
        mixing.cutmix(images, LABELS, 0.0, SEED),
        mixing.mix_batch(images, LABELS, mixup_alpha=0, cutmix_alpha=0, seed=SEED),
    ):
        assert mixed[0] is images
        assert mixed[1] is LABELS


def test_mix_batch_with_one_of_both_is_that_one():
    only_mixup = mixing.mix_batch(IMAGES, LABELS, mixup_alpha=0.2, cutmix_alpha=0, seed=SEED)
    only_cutmix = mixing.mix_batch(IMAGES, LABELS, mixup_alpha=0, cutmix_alpha=1.0, seed=SEED)
    for mixed, name in ((only_mixup, "mixup"), (only_cutmix, "cutmix")):
        for values, expected in zip(mixed, EVERY_MIX[name](IMAGES, LABELS), strict=True):
            np.testing.assert_array_equal(values, expected)


@pytest.mark.parametrize("alpha", [-0.1, None, float("nan"), float("inf"), "0.2", True])
def test_a_bad_alpha_is_refused(alpha):
    with pytest.raises(ValueError, match="alpha must be a Python number >= 0"):
        mixing.mixup(IMAGES, LABELS, alpha, SEED)
    with pytest.raises(ValueError, match="alpha must be a Python number >= 0"):
        mixing.cutmix(IMAGES, LABELS, alpha, SEED)
    with pytest.raises(ValueError, match="cutmix_alpha must be a Python number >= 0"):
        mixing.mix_batch(IMAGES, LABELS, mixup_alpha=0.2, cutmix_alpha=alpha, seed=SEED)


@pytest.mark.parametrize("name", EVERY_MIX)
def test_bad_batches_are_refused(name):
    mix = EVERY_MIX[name]
    with pytest.raises(ValueError, match=r"images must be a batch of shape \(B, H, W, 3\)"):
        mix(IMAGES[0], LABELS)
    with pytest.raises(ValueError, match=r"labels must be one-hot .* shape \(B, C\)"):
        mix(IMAGES, LABELS.argmax(1))
    with pytest.raises(ValueError, match="the same batch size"):
        mix(IMAGES, LABELS[:5])


def test_other_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"style must be one of official, paper\. Received: 'x'"):
        mixing.mixup(IMAGES, LABELS, 0.2, SEED, style="x")
    with pytest.raises(ValueError, match=r"loss must be one of softmax, sigmoid\. Received: 'mse'"):
        mixing.smooth_labels(LABELS, 0.1, "mse")
    for smoothing in (-0.1, 1, None):
        with pytest.raises(ValueError, match=r"smoothing must be a Python number in \[0, 1\)"):
            mixing.smooth_labels(LABELS, smoothing)
    with pytest.raises(ValueError, match=r"seed must be two integers, shape \(2,\)"):
        mixing.cutmix(IMAGES, LABELS, 1.0, 7)
