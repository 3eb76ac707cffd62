"""Scores of every picture in order, and the figures made of them."""

import keras
import numpy as np
import pytest

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.evaluation.scores import (
    Evaluation,
    evaluate_source,
    evaluation_protocol,
    set_to_follow,
    wilson_interval,
)
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, CentralCrop

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


def test_loss_is_what_the_activation_is_trained_with():
    truth = np.eye(3)[EVALUATION.labels]
    binary = Evaluation(EVALUATION.labels, EVALUATION.scores, "sigmoid")
    expected = keras.losses.BinaryCrossentropy()(truth, EVALUATION.scores)
    assert binary.loss == pytest.approx(float(expected), rel=1e-5)
    assert np.isnan(Evaluation(EVALUATION.labels, EVALUATION.scores, "linear").loss)


@pytest.mark.parametrize(
    ("successes", "trials", "interval"),
    [  # Newcombe, Statistics in Medicine 17 (1998), 857-872, table I, method 3
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0000, 0.1611)),
        (1, 29, (0.0061, 0.1718)),
    ],
)
def test_wilson_intervals_are_the_published_ones(successes, trials, interval):
    assert wilson_interval(successes, trials) == pytest.approx(interval, abs=5e-5)
    mirrored = [1 - end for end in wilson_interval(trials - successes, trials)]
    assert wilson_interval(successes, trials) == pytest.approx(tuple(mirrored[::-1]), abs=1e-12)


def test_intervals_of_an_evaluation_belong_to_its_accuracies():
    assert EVALUATION.top_accuracy_interval(1) == wilson_interval(2, 4)
    assert EVALUATION.top_accuracy_interval(2) == wilson_interval(3, 4)
    assert EVALUATION.top_accuracy_interval(3)[1] == 1


@pytest.mark.parametrize(
    ("variant", "weights", "classes", "followed"),
    [
        ("efficientnetv2-b0", "imagenet21k-ft1k", 1000, "imagenet21k-ft1k"),
        ("efficientnetv2-b0", None, 1000, "imagenet"),
        ("efficientnetv2-b0", None, 5, "imagenet"),
        ("efficientnetv2-b0", None, 21843, "imagenet21k"),
        ("efficientnetv2-xl", None, 1000, "imagenet21k-ft1k"),
        ("efficientnet-b0", None, 21843, "imagenet"),
    ],
)
def test_unknown_weights_follow_the_likely_set(variant, weights, classes, followed):
    found = WEIGHT_SETS.get((variant, weights))
    assert set_to_follow(variant, found, classes) == WEIGHT_SETS[variant, followed]


@pytest.mark.parametrize(
    ("variant", "weights", "protocol", "expected"),
    [
        ("efficientnetv2-b0", "imagenet", "official", (224, "v1")),
        ("efficientnetv2-b0", "imagenet21k-ft1k", "official", (224, "finetune")),
        ("efficientnetv2-s", "imagenet", "official", (384, "v2")),
        ("efficientnetv2-s", "imagenet21k", "official", (224, "v2")),
        ("efficientnetv2-s", "imagenet21k", "timm", (384, CentralCrop(384, 1.0, "center"))),
        ("efficientnetv2-b3", "imagenet", "timm", (300, CentralCrop(300, 0.904, "center"))),
        ("efficientnetv2-m", "imagenet", "timm", (480, CentralCrop(480, 1.0, "squash"))),
        ("efficientnetv2-s", "imagenet21k", "keras", (384, "finetune")),
        ("efficientnet-b7", "imagenet", "keras", (600, "finetune")),
    ],
)
def test_protocols(variant, weights, protocol, expected):
    assert evaluation_protocol(WEIGHT_SETS[variant, weights], protocol) == expected


def test_protocols_that_are_not_there():
    message = r"one of 'official', 'timm', 'keras'\. Received: 'paper'"
    with pytest.raises(ValueError, match=message):
        evaluation_protocol(WEIGHT_SETS["efficientnetv2-b0", "imagenet"], "paper")
    message = "does not have 'imagenet21k' of efficientnetv2-b0.*Use 'official' or 'keras'"
    with pytest.raises(ValueError, match=message):
        evaluation_protocol(WEIGHT_SETS["efficientnetv2-b0", "imagenet21k"], "timm")


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
    seen, batches = [], []

    class Noting(keras.Model):
        def predict_on_batch(self, x):
            batches.append(x.shape)
            return super().predict_on_batch(x)

    evaluation = evaluate_source(
        Noting(brightness.inputs, brightness.outputs),
        source,
        image_size=32,
        style="whole",
        batch_size=2,
        progress=lambda done, total: seen.append((done, total)),
    )
    assert seen == [(2, 5), (4, 5), (5, 5)]
    assert batches == [(2, 32, 32, 3)] * 3  # another shape would be traced
    np.testing.assert_array_equal(evaluation.labels, source.labels)
    assert evaluation.scores.shape == (5, 10)
    alone = [
        evaluate_source(brightness, source.subset([index]), image_size=32, style="whole").scores
        for index in (1, 4)
    ]
    np.testing.assert_allclose(evaluation.scores[[1, 4]], np.concatenate(alone), rtol=1e-5)
    assert len(set(evaluation.scores[:, 0].tolist())) == 5
    assert evaluation.activation == "linear"


def test_a_central_crop_judges_the_middle_alone(brightness):
    source = load_source("digits", "all").subset([5, 900])
    whole, middle = (
        evaluate_source(brightness, source, image_size=32, style=style).scores[:, 0]
        for style in (CentralCrop(32, 1.0, "center"), CentralCrop(32, 0.5, "center"))
    )
    # The digits stand out of a dark margin.
    assert (middle > whole + 10).all()


def test_another_number_of_classes_is_refused(brightness):
    source = load_source("digits", "all", class_names=[*"0123456789", "ten"])
    with pytest.raises(ValueError, match="The model has 10 classes, but the pictures have 11"):
        evaluate_source(brightness, source, image_size=32, style="whole")
