"""The recipe and the stages that a training is left with once its pictures are known."""

from dataclasses import replace

import pytest

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training.inputs import load_inputs

RECIPE = replace(
    TrainRecipe.preset("quickstart"), epochs=4, stages=2, image_size=(32, 40), batch_size=16
)


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train").stratified_subset(200)


def inputs_of(recipe, source, **options):
    return load_inputs("efficientnetv2-b0", TrainingData(source, **options), recipe)


def test_a_number_of_steps_becomes_epochs_of_the_pictures_that_are_trained_on(digits):
    """160 pictures of the 200 are 10 batches of 16; 80 of them 5."""
    recipe = replace(RECIPE, min_steps=75)
    inputs = inputs_of(recipe, digits)
    assert inputs.plan.epochs == inputs.recipe.epochs == 8
    assert inputs_of(recipe, digits, max_train_examples=80).plan.epochs == 15
    assert inputs_of(RECIPE, digits).plan.epochs == 4


def test_validation_has_the_size_and_the_batch_of_the_last_stage(digits):
    inputs = inputs_of(replace(RECIPE, batch_size=(24, 8)), digits)
    images, labels = next(iter(inputs.validation_dataset()))
    assert images.shape == (8, 40, 40, 3)
    assert labels.shape == (8, 10)
