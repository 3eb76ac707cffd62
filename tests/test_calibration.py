"""Calibration against formulas: expected calibration error, temperature, threshold for "none"."""

import math

import numpy as np
import pytest

from keras_effnetv2.evaluation.calibration import (
    calibrated,
    fit_confidence,
    fit_temperature,
    none_threshold,
    reliability,
)
from keras_effnetv2.evaluation.scores import Evaluation


def two_classes(count, score, right):
    """Pictures of class 0 and 1 that get the same score, `right` of them for the true class."""
    scores = np.tile(np.float32([score, 1 - score]), (count, 1))
    return scores, (np.arange(count) >= right).astype(np.int64)


def test_the_expected_calibration_error_by_hand():
    scores, right = np.array([0.95] * 4 + [0.6] * 2), np.array([1, 1, 1, 0, 1, 0], bool)
    found = reliability(scores, right)
    # 4 of 6 are 0.95 - 3/4 away, 2 of 6 are 0.6 - 1/2 away.
    assert found.error == pytest.approx((4 * 0.2 + 2 * 0.1) / 6)
    filled = np.flatnonzero(found.counts).tolist()
    assert filled == [8, 14]  # above 8/15 and up to 9/15, above 14/15
    assert found.counts[filled].tolist() == [2, 4]
    np.testing.assert_allclose(found.shares[filled], [0.5, 0.75])
    assert np.isnan(found.scores[0])


def test_the_error_by_chance_is_that_of_drawn_answers():
    rng = np.random.default_rng(0)
    scores = rng.uniform(0.3, 1, 100)
    drawn = [reliability(scores, rng.random(100) < scores) for _ in range(400)]
    errors = [one.error for one in drawn]  # of scores that are exactly right
    assert drawn[0].error_by_chance == pytest.approx(np.mean(errors), rel=0.1)
    assert np.mean(errors) > 0.08


def test_the_ends_of_the_bins():
    found = reliability(np.array([0.0, 1 / 15, 0.07, 1.0]), np.ones(4, bool))
    assert np.flatnonzero(found.counts).tolist() == [0, 1, 14]
    assert found.counts[0] == 2


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_temperature_of_equal_pictures(activation):
    # The most likely score is the share of right ones: ln(19) / T = ln(3).
    scores, labels = two_classes(40_000, 0.95, right=30_000)
    found = fit_temperature(scores, labels, activation)
    assert found == pytest.approx(math.log(19) / math.log(3), rel=5e-4)
    corrected = calibrated(scores, found, activation)
    np.testing.assert_allclose(corrected, np.tile([0.75, 0.25], (40_000, 1)), atol=1e-4)


def test_the_temperature_of_drawn_logits():
    rng = np.random.default_rng(0)
    logits = 2 * rng.standard_normal((4000, 5))
    truth = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    labels = (truth.cumsum(-1) > rng.random((4000, 1))).argmax(-1)
    sharp = calibrated(truth, 0.4, "softmax")  # a network that is too sure
    found = fit_confidence(sharp, labels, "softmax")
    assert found.temperature == pytest.approx(1 / 0.4, rel=0.05)
    assert found.before.error > 0.1
    assert found.after.error < 0.03


@pytest.mark.parametrize(("count", "right"), [(10, 10), (1000, 1000), (10, 0), (3, 1), (1, 1)])
def test_few_pictures_and_no_mistakes_have_a_temperature_near_one(count, right):
    scores, labels = two_classes(count, 0.9, right)
    found = fit_temperature(scores, labels, "softmax")
    # Where the slope of the likelihood and that of the prior, 4 (b - ln b), cancel.
    b, margin = 1 / found, math.log(9)
    score = 1 / (1 + math.exp(-b * margin))
    slope = margin * (right * (score - 1) + (count - right) * score) + 4 * (1 - 1 / b)
    assert slope == pytest.approx(0, abs=1e-4 * count)
    assert 0.2 < found < 8


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_scores_of_zero_and_one_are_bounded(activation):
    scores = np.float32([[1, 0], [0, 1], [1, 0]])
    for labels in ([0, 1, 0], [1, 0, 1]):
        found = fit_temperature(scores, np.array(labels), activation)
        assert 0.05 <= found <= 20
        assert np.isfinite(calibrated(scores, found, activation)).all()
    assert fit_temperature(scores, np.array([0, 1, 0]), activation) == pytest.approx(1, abs=0.01)


def test_scores_with_a_temperature_by_hand():
    # The square roots of 0.9 and 0.1 are as 3 to 1, their squares as 81 to 1.
    np.testing.assert_allclose(calibrated(np.array([[0.9, 0.1]]), 2, "softmax"), [[0.75, 0.25]])
    squares = calibrated(np.array([[0.9, 0.1]]), 0.5, "softmax")
    np.testing.assert_allclose(squares, [[81 / 82, 1 / 82]], rtol=1e-6)
    # Odds of 9 and of 1/4 become 3 and 1/2.
    odds = calibrated(np.array([[0.9, 0.2]]), 2, "sigmoid")
    np.testing.assert_allclose(odds, [[3 / 4, 1 / 3]], rtol=1e-6)


def test_95_of_100_right_pictures_are_above_the_threshold():
    scores = np.random.default_rng(0).permutation(np.arange(1, 101) / 100)
    threshold = none_threshold(scores)
    assert threshold == 0.05
    assert (scores >= threshold).mean() == 0.96  # a share of 95% is between two pictures
    assert none_threshold(np.array([0.5, 0.7])) == 0.5
    assert none_threshold(np.array([])) is None


def test_several_classes_of_a_picture_are_single_answers():
    scores = np.float32([[0.95, 0.05], [0.95, 0.95]] * 500)
    labels = np.zeros(scores.shape, bool)
    labels[:, 0], labels[::2, 1] = np.arange(1000) % 4 > 0, np.arange(500) % 4 == 0
    labels[1::2, 1] = np.arange(500) % 4 > 0
    found = fit_confidence(scores, labels, "sigmoid")
    # Of the answers of 0.95 and of 0.05 a quarter is wrong, so the temperature is that of above.
    assert found.temperature == pytest.approx(math.log(19) / math.log(3), rel=0.01)
    assert found.before.error == pytest.approx(0.2)
    assert found.before.counts.sum() == 2000
    assert found.after.error < 0.01
    assert found.none_below is None


def test_an_evaluation_knows_its_confidence():
    scores, labels = two_classes(100, 0.9, right=60)
    evaluation = Evaluation(labels, scores)
    assert evaluation.reliability.error == pytest.approx(0.3)
    found = evaluation.confidence
    assert found.none_below == pytest.approx(0.9)
    assert found.before.error == pytest.approx(0.3)
    corrected = evaluation.with_temperature(found.temperature)
    assert corrected.reliability.error == found.after.error < 0.05
    assert corrected.accuracy == evaluation.accuracy == 0.6
    assert Evaluation(labels, scores, "linear").confidence is None
