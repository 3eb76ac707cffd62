"""Batch sizes that fit into memory: chosen by the machine, halved where a step has not enough."""

import json
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import EagerModel, leave_out_results, small_network

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training import fit
from keras_effnetv2.training.batch_sizes import halve_batches, settle_batch_sizes
from keras_effnetv2.training.footprint import Machine, training_memory
from keras_effnetv2.training.inputs import load_inputs

RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=3,
    stages=2,
    batch_size=8,
    image_size=(32, 40),
    evaluation_size=None,
    learning_rate=0.2,
    decay_by="epochs",
    seed=3,
)
AUTO = replace(RECIPE, batch_size="auto")
GPU = Machine(free_memory=None, has_accelerator=True)


class Narrow(EagerModel):
    """Has memory for `most` pictures of 40 pixels."""

    most = 5.5

    def train_step(self, data):
        if data[0].shape[0] * data[0].shape[1] ** 2 > self.most * 40**2:
            raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor")
        return super().train_step(data)


def narrow():
    network = small_network()
    return Narrow(network.inputs, network.outputs, name=network.name)


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train").stratified_subset(60)


def inputs_of(recipe):
    return load_inputs(small_network(), TrainingData("digits"), recipe)


def sizes(inputs):
    return [stage.batch_size for stage in inputs.plan]


def settled(model, recipe, machine):
    said = []
    inputs = settle_batch_sizes(model, inputs_of(recipe), None, machine, said.append)
    return sizes(inputs), said


def test_the_estimate_of_memory_chooses_on_a_cpu():
    model, recipe = small_network(), replace(AUTO, image_size=(128, 256))
    plan = inputs_of(replace(recipe, batch_size=20)).plan
    free = int(training_memory(model, plan) * 1.2 / 0.9) + 1
    chosen, said = settled(model, recipe, Machine(free, False))
    assert chosen == [64, 16]  # 20 of 256 pixels or 80 of 128 fit
    assert said == ["batch sizes: 64, 16, the largest that fit (batch_size auto)"]
    assert settled(model, recipe, Machine(10**9, False))[0] == [64, 64]  # 16 steps of 1,437
    assert settled(model, recipe, Machine(None, False))[0] == [64, 64]
    assert settled(model, recipe, Machine(1, False))[0] == [1, 1]


def test_steps_are_tried_on_a_gpu_and_change_nothing(monkeypatch):
    monkeypatch.setattr(Narrow, "most", 17)
    model = narrow()
    before = model.get_weights()
    assert settled(model, replace(AUTO, image_size=(24, 40)), GPU)[0] == [32, 16]
    for weight, old in zip(model.weights, before, strict=True):
        np.testing.assert_array_equal(weight, old)
    assert settled(model, RECIPE, GPU) == ([8, 8], [])


def test_a_run_that_is_resumed_keeps_its_plan(digits):
    """Its batches were halved, and there was time for fewer epochs with fewer pictures."""

    class Earlier:
        stages = halve_batches(inputs_of(RECIPE), 1).plan.with_epochs(2)
        max_pictures_per_epoch = 16

    inputs = settle_batch_sizes(small_network(), inputs_of(AUTO), Earlier, GPU, pytest.fail)
    assert sizes(inputs) == [8, 4]
    assert (inputs.plan.epochs, inputs.pictures_per_epoch) == (2, 16)


def test_halves_are_for_a_stage_and_those_after_it():
    inputs = inputs_of(replace(RECIPE, batch_size=(32, 8), epochs=4, stages=4))
    assert sizes(inputs) == [32, 24, 16, 8]
    assert sizes(halve_batches(inputs, 1)) == [32, 12, 12, 8]
    with pytest.raises(ValueError, match="a train step with 1 picture of 40 pixels"):
        halve_batches(inputs_of(replace(RECIPE, batch_size=1)), 1)


def test_the_rate_follows_and_the_passes_over_the_pictures_do_not():
    recipe = replace(TrainRecipe.preset("finetune"), batch_size="auto", image_size=32)
    resolved = recipe.resolve(num_examples=320)
    assert resolved.recipe.batch_size == "auto"
    assert resolved.plan.epochs == 100  # 2,000 steps of 16, as the preset has
    assert recipe.learning_rate_schedule(10).base_learning_rate == pytest.approx(0.0003)
    model = small_network()
    plan = halve_batches(inputs_of(AUTO), 1).plan
    rates = AUTO.make_optimizer(plan, 320, model)._learning_rate
    assert [stage.batch_size for stage in plan] == [32, 16]  # the preset's, and half of it
    peak = 0.2 * 32 / 256
    assert float(rates(9)) == pytest.approx(peak * 9 / 15, rel=1e-5)  # warm-up of 15 steps
    assert float(rates(10)) == pytest.approx(peak * 10 / 15 / 2, rel=1e-5)  # half a batch
    with pytest.raises(ValueError, match="`batch_size` must be"):
        replace(RECIPE, batch_size=("auto", 16))


def test_a_stage_without_enough_memory_starts_again_with_half_its_batch(
    digits, tmp_path, monkeypatch
):
    """In the middle of it, or at once; a run that is resumed after that ends with the same bits."""
    leave_out_results(monkeypatch)

    def train(model, folder, **options):
        return fit.train(model, digits, RECIPE, tmp_path / folder, scan=False, **options)

    said = []
    whole = train(narrow(), "whole", verbose=2, echo=said.append)
    line = "Stage 2 ran out of memory with batches of 8. It starts again with 4."
    assert [one for one in said if "memory" in one] == [line]
    assert whole.history["batch_size"] == [8, 4, 4]
    assert whole.history["epoch"] == [1, 2, 3]
    # A third of half a cosine is left of the rate of four pictures.
    assert whole.history["learning_rate"][1] == pytest.approx(0.2 * 4 / 256 / 4, rel=1e-4)
    recorded = json.loads((whole.output / "recipe.json").read_text("utf-8"))
    assert [stage["batch_size"] for stage in recorded["stages"]] == [8, 4]
    assert recorded["recipe"]["batch_size"] == 8

    broken = small_network()

    def no_memory():
        broken.at = {14: lambda: 1 / 0}  # in the last epoch, counted from the new start
        raise tf.errors.ResourceExhaustedError(None, None, "OOM")

    broken.at = {14: no_memory}  # in the last epoch
    with pytest.raises(ZeroDivisionError):
        train(broken, "broken", verbose=0, keep_snapshots=1, snapshot_minutes=0)
    resumed = train(small_network(), "broken", verbose=0, resume=True)
    for one, other in zip(whole.model.weights, resumed.model.weights, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=one.path)
    assert resumed.history["val_loss"] == whole.history["val_loss"]


def test_a_step_that_never_fits_is_one_error(digits, tmp_path, monkeypatch):
    monkeypatch.setattr(Narrow, "most", 0)
    with pytest.raises(ValueError, match=r"a train step with 1 picture of 32 pixels.*--image-size"):
        fit.train(narrow(), digits, RECIPE, tmp_path / "run", scan=False, verbose=0)
