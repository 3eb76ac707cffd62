"""The time that a training will take, told from its first steps."""

from dataclasses import replace
from functools import cache

import keras
import pytest
from helpers.quick_runs import two_blocks

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.time_left import TimeLeft

RECIPE = replace(
    TrainRecipe.preset("quickstart"), image_size=(32, 96), stages=2, small_pictures=False
)
TRACE = 40.0  # seconds


class Machine:
    """Runs trainings as fast as the multiply-adds allow; validation takes a third of a step."""

    def __init__(self, pictures, recipe, seconds_a_billion, between_epochs=0.0):
        source = load_source("digits", "train").subset(range(pictures))
        data = TrainingData(source, validation=load_source("digits").subset(range(32)))
        self.inputs = load_inputs("efficientnetv2-b0", data, recipe)
        self.model = build_model(two_blocks(), classes=10)
        self.seconds_a_billion, self.between_epochs = seconds_a_billion, between_epochs
        self.now, self.said = 0.0, []
        self.cost = cache(lambda size: count_flops(self.model, size) / 1e9)

    def pass_time(self, pictures, size):
        self.now += pictures * self.cost(size) * self.seconds_a_billion

    def train(self, first_epoch=0):
        """Return (line, seconds that were really left) for each line that was said."""
        clock = TimeLeft(self.inputs, self.hear, clock=lambda: self.now)
        clock.set_model(self.model)
        clock.on_train_begin()
        self.now += TRACE
        for epoch in range(first_epoch, self.inputs.plan.epochs):
            stage = self.inputs.plan.at(epoch)
            clock.on_epoch_begin(epoch)
            for batch in range(self.inputs.training.num_examples // stage.batch_size):
                clock.on_train_batch_begin(batch)
                self.pass_time(stage.batch_size, stage.image_size)
                clock.on_train_batch_end(batch)
            self.pass_time(32 / 3, stage.image_size)
            self.now += self.between_epochs
            clock.on_epoch_end(epoch)
        return [(line, self.now - when) for line, when in self.said]

    def hear(self, line):
        self.said.append((line, self.now))


class Mixed(keras.layers.Layer):
    """A layer with a matrix whose cost nobody knows."""

    def build(self, shape):
        self.matrix = self.add_weight(shape=(3, 3))

    def call(self, x):
        return keras.ops.matmul(x, self.matrix)


UNITS = {"seconds": 1, "minutes": 60, "hours": 3600}


def minutes(line):
    number, unit = line.removeprefix("about ").removesuffix(" to go").split()
    return float(number) * UNITS[unit] / 60


@pytest.mark.parametrize("first_epoch", [0, 5])
def test_long_epochs_are_told_from_the_first_steps_and_again_by_stage(first_epoch):
    machine = Machine(800, RECIPE, seconds_a_billion=60.0)
    lines = machine.train(first_epoch)
    assert len(lines) == 2
    for line, left in lines:
        assert minutes(line) == pytest.approx(left / 60, rel=0.25)


def test_short_epochs_are_told_with_what_is_between_them():
    machine = Machine(40, replace(RECIPE, epochs=400), 60.0, between_epochs=2.0)
    (first, left), (_, later) = machine.train()
    assert (machine.said[0][1] - TRACE) / left < 0.01
    assert 1 / 2 < minutes(first) * 60 / left < 2
    assert later < left


def test_a_model_of_unknown_cost_and_hours():
    machine = Machine(800, RECIPE, seconds_a_billion=6000.0)
    for size in (32, 96):
        machine.cost(size)  # remembered, as that of the new model is unknown
    inputs = keras.Input((None, None, 3))
    machine.model = keras.Model(inputs, machine.model(Mixed()(inputs)))
    with pytest.raises(ValueError, match="mixed"):
        count_flops(machine.model, 32)
    (line, left), *_ = machine.train()
    assert line.endswith(" hours to go")
    assert minutes(line) * 60 == pytest.approx(left, rel=0.25)
