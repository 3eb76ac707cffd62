"""What a run says of itself: the content of its report, its plan and its result."""

import re
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.run_folders import recorded_settings

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.models.graph import with_features
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.report.run_report import (
    confusion_matrix,
    describe_plan,
    describe_result,
    gather_report,
)
from keras_effnetv2.report.samples import evaluation_pictures
from keras_effnetv2.runs.run_settings import RecordedPictures

PLAN = progressive_stages(
    epochs=5,
    stages=2,
    image_size=(32, 40),
    randaugment_magnitude=(5, 7.5),
    mixup_alpha=(0.0, 0.2),
    cutmix_alpha=(0.0, 1.0),
)
HISTORY = {"epoch": [1.0, 2.0], "loss": [2.0, 1.0], "seconds": [30.0, 31.5]}
SETTINGS = recorded_settings(
    model="small",
    training=RecordedPictures("digits", "train", 1440),
    validation=RecordedPictures("digits", "validation", 357),
    class_names=tuple(f"class {index}" for index in range(12)),
    recipe=replace(TrainRecipe.preset("quickstart"), epochs=2, batch_size=64, seed=3),
    stages=tuple(PLAN),
    image_size=40,
    versions={"keras_effnetv2": "9", "keras": "3", "backend": "jax", "tensorflow": "2"},
)
EVALUATION = Evaluation(np.array([0, 1, 1, 1]), np.eye(2, dtype=np.float32)[[0, 1, 0, 0]])


DIGITS = load_source("digits", "all")


def classifier(ending=None):
    """A network whose features are the mean colours of the four quarters of a picture."""
    inputs = keras.Input((40, 40, 3))
    means = keras.layers.Flatten()(keras.layers.AveragePooling2D(20)(inputs))
    scores = keras.layers.Dense(10)(means)
    return keras.Model(inputs, scores if ending is None else ending([scores, scores]))


def quarters(indices):
    """The features of digits, computed with NumPy, as rows of length 1."""
    pictures = evaluation_pictures(DIGITS, indices, 40, "whole").astype(float)
    rows = pictures.reshape(-1, 2, 20, 2, 20, 3).mean((2, 4)).reshape(len(pictures), -1)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def report_of(evaluation, validation, asked, training=DIGITS, model=None):
    def stage_dataset(stage, epoch):
        asked.append((stage.index, epoch))
        size = stage.image_size
        pictures = np.full((3, size, size, 3), 99.6, np.float32)
        pictures[1:] = [[[[300.0]]], [[[-7.0]]]]
        labels = np.zeros((3, 10), np.float32)
        labels[0, 4] = 1.0
        labels[1, [2, 7]] = 0.25, 0.75
        labels[2, [2, 7]] = 0.004, 0.996
        return tf.data.Dataset.from_tensors((pictures, labels))

    settings = replace(SETTINGS, class_names=validation.class_names)
    model = model or with_features(classifier())
    return gather_report(settings, HISTORY, model, training, validation, evaluation, stage_dataset)


def test_a_report_has_the_pictures_of_the_stages_and_the_surest_mistakes():
    """Six digits, of which the third, fifth and sixth are taken for the digit 0."""
    validation = DIGITS.subset(range(6))  # 0, 1, 2, 3, 4, 5
    scores = np.full((6, 10), 0.01, np.float32)
    scores[np.arange(6), [0, 1, 0, 3, 0, 0]] = [0.9, 0.9, 0.5, 0.9, 0.8, 0.8]
    asked = []
    report = report_of(Evaluation(validation.labels, scores), validation, asked)
    assert asked == [(0, 0), (1, 2)]  # the first epoch of each stage
    assert report.title == "small on digits"
    assert list(report.samples) == [
        "Stage 1: 32 px, RandAugment 5, mixup 0, cutmix 0",
        "Stage 2: 40 px, RandAugment 7.5, mixup 0.2, cutmix 1",
    ]
    samples = list(report.samples.values())[1]
    # A part of less than half a percent is not named.
    assert [sample.caption for sample in samples] == ["4", "0.75 7 + 0.25 2", "7"]
    assert [sample.image.max() for sample in samples] == [100, 255, 0]
    assert {(sample.image.shape, sample.image.dtype) for sample in samples} == {
        ((40, 40, 3), np.dtype(np.uint8))
    }
    assert [(m.name, m.truth, m.prediction, m.score) for m in report.mistakes] == [
        ("digits/0004", "4", "0", pytest.approx(0.8)),
        ("digits/0005", "5", "0", pytest.approx(0.8)),
        ("digits/0002", "2", "0", pytest.approx(0.5)),
    ]
    ((data, _, _),) = DIGITS.subset([4]).dataset().as_numpy_iterator()
    picture = tf.io.decode_png(data, 3).numpy()
    # Enlarged five times: the picture beside its caption is that digit and no other.
    shown = report.mistakes[0].image.reshape(8, 5, 8, 5, 3).mean((1, 3))
    assert np.corrcoef(shown.ravel(), picture.ravel())[0, 1] > 0.95
    assert report.confusion.trace() == 3
    assert report.confusion[:, 0].tolist() == [1, 0, 1, 0, 1, 1, 0, 0, 0, 0]


def mistaken(indices):
    """An evaluation that takes these digits for a wrong class."""
    labels = DIGITS.labels[indices]
    scores = np.eye(10, dtype=np.float32)[(labels + 1) % 10]
    return Evaluation(labels, scores), DIGITS.subset(indices)


def test_the_nearest_training_pictures_stand_beside_a_mistake():
    training = np.arange(3, 60)
    report = report_of(*mistaken([2, 30]), [], DIGITS.subset(training))
    assert report.compared == (57, 57)
    distances = 1 - quarters([2, 30]) @ quarters(training).T
    for mistake, row in zip(report.mistakes, distances, strict=True):
        nearest = np.argsort(row)[:5]
        assert [one.name for one in mistake.nearest] == [
            DIGITS.names[index] for index in training[nearest]
        ]
        assert [one.label for one in mistake.nearest] == [
            str(DIGITS.labels[index]) for index in training[nearest]
        ]
        found = [one.distance for one in mistake.nearest]
        np.testing.assert_allclose(found, row[nearest], atol=1e-4)  # of rounded pixels
    same = report.mistakes[1].nearest[0]  # it is among the training pictures
    assert same.distance < 1e-4
    np.testing.assert_array_equal(same.image, report.mistakes[1].image)


def test_of_many_training_pictures_a_part_is_compared():
    many = DIGITS.subset(range(300))
    first, again = (report_of(*mistaken([2]), [], many) for _ in range(2))
    assert first.compared == (256, 300)
    assert [one[1:] for one in first.mistakes[0].nearest] == [
        one[1:] for one in again.mistakes[0].nearest
    ]


def test_a_network_without_features_has_a_report():
    report = report_of(*mistaken([2]), [], model=classifier(keras.layers.Average()))
    assert (len(report.mistakes), report.mistakes[0].nearest) == (1, ())
    assert report.compared == (0, 0)


def test_a_run_without_mistakes():
    validation = DIGITS.subset([0])
    evaluation = Evaluation(validation.labels, np.eye(10, dtype=np.float32)[:1])
    report = report_of(evaluation, validation, [])
    assert report.mistakes == []
    rows = dict(report.summary)
    assert rows["pictures"] == "1,440 + 357"
    assert rows["model"] == "small, 130 parameters, 40 px"
    assert rows["recipe"] == "quickstart, seed 3"
    assert rows["versions"] == "keras_effnetv2 9, Keras 3 on jax, TensorFlow 2"


def test_confusion_counted_by_hand():
    truth = np.array([0, 0, 0, 1, 2, 2], np.uint8)
    evaluation = Evaluation(truth, np.eye(200, dtype=np.float32)[[0, 0, 1, 1, 199, 0]])
    counts = confusion_matrix(evaluation, 200)
    assert counts[:3, :2].tolist() == [[2, 1], [0, 1], [1, 0]]
    assert (counts[2, 199], counts.sum(), counts.shape) == (1, 6, (200, 200))


def test_the_plan_says_the_rate_in_force():
    recipe = replace(SETTINGS.recipe, warmup_epochs=5.0)
    text = describe_plan(replace(SETTINGS, recipe=recipe), 1234567, Path("runs/a"))
    assert "small, 1,234,567 parameters" in text
    assert "12: class 0, class 1," in text
    assert "class 9, ...\n" in text
    assert "1,440 for training, 357 for validation" in text
    # 0.008 * 64 / 256, and a warm-up of half of the two epochs.
    assert "adam, learning rate 0.002 cosine by pixels, warmed up over 1 epoch" in text
    assert "weights averaged with 0.999" in text
    assert str(PLAN) in text
    changed = replace(recipe, ema_decay=None, class_weights={"cat": 2, "dog": 0.5}, balanced=True)
    off = describe_plan(replace(SETTINGS, recipe=changed), 1, Path("a"))
    assert "averaged" not in off
    assert "for validation, classes drawn equally often, class weights: cat 2, dog 0.5\n" in off


def test_the_result_counts_all_epochs_and_says_how_to_export():
    text = describe_result(SETTINGS, HISTORY, EVALUATION, Path("runs/a"))
    interval = "accuracy interval    15.00% to 85.00% (95%)\n"  # Wilson's of 2 in 4
    assert f"validation accuracy  50.00%\n{interval}mean recall          66.67%\n" in text
    few = "rough, from 4 validation pictures; about 0% is chance"  # scores of 0 and 1
    assert re.search(rf"with the temperature \S+\n +{few}\n", text), text
    assert "62 s for 2 epochs" in text
    assert "KERAS_BACKEND=tensorflow keras-effnetv2 export runs/a" in text
    on_tensorflow = replace(SETTINGS, versions={**SETTINGS.versions, "backend": "tensorflow"})
    other = describe_result(on_tensorflow, HISTORY, EVALUATION, Path("runs/a"))
    assert text.splitlines()[:-1] == other.splitlines()[:-1]
    assert "runs/a/saved_model" in other
