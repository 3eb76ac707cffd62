"""What a training reads: `TrainingData` and the `Inputs`, recipe and stages that come of it."""

import os
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import dark_and_light, small_network

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import MAX_SCANNED, TrainingData
from keras_effnetv2.data.unreadable import BadPicturesError, UnreadablePictures
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training import inputs as inputs_module
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.probe import fit_classifier

RECIPE = replace(
    TrainRecipe.preset("quickstart"), epochs=4, stages=2, image_size=(32, 40), batch_size=16
)


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train").stratified_subset(200)


def inputs_of(recipe, source, say=print, **options):
    return load_inputs("efficientnetv2-b0", TrainingData(source, **options), recipe, say=say)


def test_a_number_of_steps_becomes_epochs_of_the_pictures_that_are_trained_on(digits):
    """160 pictures of the 200 are 10 batches of 16; 80 of them 5."""
    recipe, said = replace(RECIPE, min_steps=75), []
    inputs = inputs_of(recipe, digits, said.append)
    assert said[0].startswith("8 epochs instead of 4, because there are few pictures; --epochs ")
    assert inputs.plan.epochs == inputs.recipe.epochs == 8
    assert inputs_of(replace(recipe, max_epochs=6), digits).plan.epochs == 6
    assert inputs_of(recipe, digits, max_train_examples=80).plan.epochs == 15
    assert inputs_of(RECIPE, digits).plan.epochs == 4


def test_validation_has_the_size_and_the_batch_of_the_last_stage(digits):
    inputs = inputs_of(replace(RECIPE, batch_size=(24, 8)), digits)
    images, labels = next(iter(inputs.validation_dataset()))
    smaller, _ = next(iter(inputs.validation_dataset(32)))
    assert (images.shape, smaller.shape) == ((8, 40, 40, 3), (8, 32, 32, 3))
    assert labels.shape == (8, 10)


def test_a_variant_by_name_gets_fewer_strides_for_small_pictures(digits):
    recipe, said = replace(RECIPE, image_size="auto"), []
    b0 = ModelConfig.from_name("efficientnetv2-b0")
    inputs = inputs_of(recipe, digits, said.append)
    assert said == [
        "small pictures: efficientnetv2-b0 has strides of 8 in all, so that 24 pixels end in a map "
        "of 3 x 3; --no-small-pictures (small_pictures=False) keeps its own strides"
    ]
    assert inputs.network("b0") == b0.for_small_pictures(32)
    assert [stage.image_size for stage in inputs.plan] == [24, 24]
    given = load_inputs(b0, TrainingData(digits), recipe, say=said.append)
    assert (given.recipe.small_pictures, given.network(b0)) == (False, b0)
    asked = replace(RECIPE, image_size=(40, 64), small_pictures=True)
    given = load_inputs(b0, TrainingData(digits), asked, say=said.append)
    assert given.network(b0) == b0.for_small_pictures(64)
    assert "64 pixels end in a map of 4 x 4" in said[1]


def test_cached_pictures_give_the_same_batches(tmp_path):
    pictures = load_source(dark_and_light(tmp_path / "photos", 12), "all")

    def batches(cache):
        data = TrainingData(pictures, scan=False, cache=cache)
        inputs = load_inputs("efficientnetv2-b0", data, RECIPE).prepared(lambda line: None)
        datasets = inputs.stage_dataset(inputs.plan[0], 0), inputs.validation_dataset()
        return [array for dataset in datasets for batch in dataset for array in batch]

    folder = tmp_path / "cache"
    plain, in_memory = batches(None), batches("memory")
    packed, again = batches(folder), batches(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["train", "validation"]
    # Packed pictures come in another order than others.
    for one, other in zip([*plain, *packed], [*in_memory, *again], strict=True):
        np.testing.assert_array_equal(one, other)


def test_the_epochs_of_a_stage_in_one_are_those_that_are_read_alone(tmp_path):
    pictures = load_source(dark_and_light(tmp_path / "photos", 12), "all").subset(range(18))
    recipe = replace(
        RECIPE,
        batch_size=4,
        mixup_alpha=0.4,
        epochs=6,
        label_smoothing=0.1,
        class_weights={"dark": 2.0},
        balanced=True,
    )
    inputs = inputs_of(recipe, pictures, scan=False, skip_bad=True)
    paths = inputs.training.file_paths()
    # The last of an epoch's order: what takes its place comes from the start of that epoch.
    os.remove(paths[inputs.epoch_order(1)[-1]])
    stage = inputs.plan[0]
    alone = [
        (images, recipe.smooth_labels(labels), weights)
        for epoch in range(stage.start_epoch, stage.end_epoch)
        for images, labels, weights in inputs.stage_dataset(stage, epoch)
    ]
    together = inputs.smoothed_dataset(stage, 0)
    assert (together.epochs, together.length) == (3, len(paths) // 4)
    assert together.dataset.cardinality() == len(alone)
    for ours, expected in zip(together.dataset, alone, strict=True):
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)
    # Resumed after a batch of the last epoch.
    left = inputs.smoothed_dataset(stage, 2)
    for ours, expected in zip(left.dataset.skip(1), alone[1 - left.length :], strict=True):
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kept", [256 * 1024**2, 0])
def test_few_validation_pictures_are_decoded_once(tmp_path, monkeypatch, kept):
    monkeypatch.setattr(inputs_module, "_KEPT_VALIDATION_BYTES", kept)
    pictures = load_source(dark_and_light(tmp_path / "photos", 12), "all")
    inputs = inputs_of(replace(RECIPE, batch_size=2), pictures, scan=False)
    batches = inputs.validation_dataset()
    first = list(batches)
    assert [len(images) for images, _ in first] == [2, 2, 1][: len(first)]
    for path in inputs.validation.file_paths():
        os.remove(path)
    if not kept:
        with pytest.raises(tf.errors.InvalidArgumentError):
            list(batches)
        return
    for ours, expected in zip(batches, first, strict=True):
        for one, other in zip(ours, expected, strict=True):
            np.testing.assert_array_equal(one, other)


def test_pictures_are_read_beforehand_unless_there_are_very_many(tmp_path):
    pictures = load_source(dark_and_light(tmp_path / "photos", 8), "all")
    os.truncate(pictures.file_paths()[3], 40)

    def prepare(**options):
        said = []
        data = TrainingData(pictures, **options)
        return data.prepare(data.load(0), said.append), said

    with pytest.raises(BadPicturesError, match="1 picture cannot be used"):
        prepare()
    (training, validation), said = prepare(skip_bad=True)
    assert training.num_examples + validation.num_examples == 15
    assert [line for line in said if "left out" in line and pictures.names[3] in line]
    with pytest.raises(BadPicturesError):
        prepare(scan=True)
    pictures = pictures.subset(list(range(16)) * (MAX_SCANNED // 16 + 1))
    assert prepare()[1] == ["The 50,016 pictures are not checked in advance, but during training."]


def test_batches_leave_out_what_can_no_longer_be_read(tmp_path):
    pictures = load_source(dark_and_light(tmp_path / "photos", 12), "all")
    recipe = replace(RECIPE, batch_size=4)
    inputs = inputs_of(recipe, pictures, validation=pictures, scan=False, skip_bad=True)
    os.truncate(pictures.file_paths()[3], 40)
    assert len(list(inputs.stage_dataset(inputs.plan[0], 0))) == 6
    strict = replace(inputs, data=replace(inputs.data, skip_bad=False))
    with pytest.raises(tf.errors.InvalidArgumentError, match="1 picture cannot be used"):
        list(strict.stage_dataset(inputs.plan[0], 0))


def test_the_classifier_leaves_out_validation_pictures_that_cannot_be_read(tmp_path):
    training, held = (
        load_source(dark_and_light(tmp_path / name, 12), "all") for name in ("training", "held")
    )
    recipe = replace(RECIPE, batch_size=4)
    inputs = inputs_of(recipe, training, validation=held, scan=False, skip_bad=True)
    os.truncate(held.file_paths()[3], 40)
    model, said = small_network(2), []
    fit_classifier(model, inputs, UnreadablePictures(True), None, said.append)
    assert said[-1].startswith("The classifier alone, at "), said
    with pytest.raises(tf.errors.InvalidArgumentError, match="1 picture cannot be used"):
        fit_classifier(model, inputs, UnreadablePictures(False), None, said.append)
