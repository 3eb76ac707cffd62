"""Scores of every picture in order, and the figures made of them."""

import keras
import numpy as np
import pytest

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.evaluation import Evaluation, evaluate_source

# Truth 0, 1, 2, 2; the last two are wrong, the third one by a tie that the first class wins.
EVALUATION = Evaluation(
    labels=np.array([0, 1, 2, 2]),
    scores=np.array(
        [[0.5, 0.3, 0.2], [0.1, 0.8, 0.1], [0.4, 0.2, 0.4], [0.7, 0.3, 0.0]], np.float32
    ),
)


def test_figures_by_hand():
    assert EVALUATION.predictions.tolist() == [0, 1, 0, 0]
    assert EVALUATION.accuracy == 0.5
    assert [EVALUATION.top_accuracy(k) for k in (1, 2, 3, 9)] == [0.5, 0.75, 1.0, 1.0]
    # -mean(log) of 0.5, 0.8, 0.4 and, in place of 0, Keras' epsilon 1e-7
    expected = -np.log([0.5, 0.8, 0.4, 1e-7]).mean()
    assert EVALUATION.loss == pytest.approx(expected, rel=1e-6)


def test_recall_is_nan_without_pictures():
    evaluation = Evaluation(EVALUATION.labels, np.pad(EVALUATION.scores, ((0, 0), (0, 1))))
    np.testing.assert_array_equal(evaluation.recall_by_class(), [1.0, 1.0, 0.0, np.nan])


@pytest.fixture(scope="module")
def brightness():
    """Its first score is the picture's mean brightness, 0..255."""
    inputs = keras.Input((None, None, 3))
    mean = keras.layers.GlobalAveragePooling2D()(inputs)
    outputs = keras.layers.Dense(10, use_bias=False)(mean)
    model = keras.Model(inputs, outputs)
    model.layers[-1].set_weights([np.full((3, 10), 1 / 3, np.float32)])
    return model


def test_every_picture_is_scored_once_in_order(brightness):
    source = load_source("digits", "all").subset([5, 900, 3, 1200, 77])
    seen = []
    evaluation = evaluate_source(
        brightness,
        source,
        image_size=32,
        style="whole",
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    np.testing.assert_array_equal(evaluation.labels, source.labels)
    assert evaluation.scores.shape == (5, 10)
    alone = [
        evaluate_source(brightness, source.subset([index]), image_size=32, style="whole").scores
        for index in range(5)
    ]
    np.testing.assert_allclose(evaluation.scores, np.concatenate(alone), rtol=1e-5)
    assert len(set(evaluation.scores[:, 0].tolist())) == 5


def test_another_number_of_classes_is_refused(brightness):
    source = load_source("digits", "all", class_names=[*"0123456789", "ten"])
    with pytest.raises(ValueError, match="The model has 10 classes, the pictures have 11"):
        evaluate_source(brightness, source, image_size=32, style="whole")
