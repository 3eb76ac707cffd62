"""`train` from end to end: the run folder, repeating and resuming a run, and what is refused.

The network is the smallest with a batch norm, a dropout and a squeeze of the picture; what is
tested is the training around it, eagerly.
"""

import contextlib
import csv
import io
import json
import logging
import os
import re
import shutil
import zipfile
from dataclasses import asdict, replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import (
    EagerModel,
    dark_and_light,
    leave_out_report,
    leave_out_results,
    small_network,
)
from helpers.run_folders import recorded_settings

from keras_effnetv2.data.catalog import MemoryStore
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.unreadable import BadPicturesError
from keras_effnetv2.evaluation.named_network import open_network
from keras_effnetv2.evaluation.scores import evaluate_source
from keras_effnetv2.export.metadata import read_metadata
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs import run_folder
from keras_effnetv2.training import fit

RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=4,
    stages=2,
    batch_size=16,
    image_size=(32, 40),
    evaluation_size=48,
    randaugment_magnitude=None,
    learning_rate=0.2,
    decay_by="epochs",
    seed=3,
)
ONE_EPOCH = replace(
    RECIPE, epochs=1, stages=1, image_size=32, evaluation_size=None, mixup_alpha=0.0
)
CLASSES = tuple("0123456789")
UNEVEN = {"class_weights": {"3": 2}, "balanced": True}


def without_seconds(history):
    return {name: values for name, values in history.items() if name != "seconds"}


def settings_in(folder):
    return json.loads((folder / "recipe.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train").stratified_subset(60)


@pytest.fixture(scope="module")
def run(digits, tmp_path_factory):
    """A whole silent run, and what it printed."""
    printed = io.StringIO()
    with (
        contextlib.redirect_stdout(printed),
        contextlib.redirect_stderr(printed),
    ):
        result = fit.train(
            small_network(),
            digits,
            RECIPE,
            tmp_path_factory.mktemp("fit") / "run",
            **UNEVEN,
            tensorboard=True,
            verbose=0,
        )
    return result, printed.getvalue()


@pytest.fixture
def quick(monkeypatch):
    """Leaves out the export and the report, which cost seconds, where they are no subject."""
    leave_out_results(monkeypatch)


# --- the run folder -----------------------------------------------------------------------------


def test_a_run_leaves_exactly_these_files_and_prints_nothing_when_silent(run):
    result, printed = run
    assert printed == ""
    assert {path.name for path in result.output.iterdir()} == {
        *(
            "model.keras",
            "saved_model",
            "labels.txt",
            "recipe.json",
            "history.csv",
            "pictures.csv",
            "confusion.csv",
            "report.html",
            "tensorboard",
        ),
    }
    assert (result.output / "labels.txt").read_text("utf-8") == "".join(f"{n}\n" for n in CLASSES)
    # what a notebook shows of it, and of the run, is no list of pictures and epochs
    scores = f"pictures, accuracy {result.evaluation.accuracy:.2%}>"
    assert scores in repr(result)
    assert "val_loss" not in repr(result)
    assert "PictureRecord()" in repr(run_folder.open_run(result.output))


def test_recipe_json_repeats_the_run(run, digits):
    result, _ = run
    settings = settings_in(result.output)
    assert settings["finished"] is True
    settled = replace(
        RECIPE,
        reduced_decode=True,
        batch_norm="train",
        small_pictures=False,
        loss="softmax",
        label_smoothing=0.1,
        **UNEVEN,
    )
    assert TrainRecipe.from_dict(settings["recipe"]) == settled
    assert settings["stages"] == [asdict(stage) for stage in RECIPE.resolve("small").plan]
    assert [stage["image_size"] for stage in settings["stages"]] == [32, 40]
    assert settings["image_size"] == 48
    assert settings["class_names"] == list(CLASSES)
    assert settings["training"] == {"spec": "digits", "split": "train", "pictures": 48}
    assert settings["validation"]["pictures"] == 12
    assert settings["versions"]["keras"] == keras.__version__
    assert settings["versions"]["backend"] == "tensorflow"
    assert settings["result"]["validation_accuracy"] == result.evaluation.accuracy
    assert settings["result"]["validation_loss"] == result.evaluation.loss
    assert settings["result"]["seconds"] == pytest.approx(sum(result.history["seconds"]), abs=0.1)


def test_a_run_and_its_export_have_the_temperature(run):
    result, _ = run
    found, settings = result.evaluation.confidence, settings_in(result.output)
    stored = (found.temperature, found.none_below)
    assert (settings["temperature"], settings["none_below"]) == stored
    assert settings["result"]["calibration_error"] == found.before.error
    assert settings["result"]["calibrated_error"] == found.after.error
    exported = read_metadata(result.output / "saved_model")
    network = open_network(result.output)
    for one in (exported, network):
        assert (one.temperature, one.none_below) == stored


def test_a_copy_of_the_model_is_used_as_the_run_is(run, tmp_path):
    result, _ = run
    copied = shutil.copy(result.output / "model.keras", tmp_path)
    assert read_metadata(copied) == read_metadata(result.output / "saved_model")
    found, expected = open_network(copied), open_network(result.output)
    for name in ("classes", "image_size", "style", "temperature", "none_below", "thresholds"):
        assert getattr(found, name) == getattr(expected, name), name
    assert keras.models.load_model(copied).output_shape == (None, len(CLASSES))


def test_the_mistakes_are_counted(run):
    result, _ = run
    evaluation = result.evaluation
    confusion = run_folder.open_run(result.output).confusion
    assert confusion.shape == (len(CLASSES), len(CLASSES))
    for truth, predicted in np.ndindex(confusion.shape):
        pairs = (evaluation.labels == truth) & (evaluation.predictions == predicted)
        assert confusion[truth, predicted] == pairs.sum()


def test_history_has_one_row_an_epoch(run):
    result, _ = run
    with (result.output / "history.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2", "3", "4"]
    assert [row["stage"] for row in rows] == ["1", "1", "2", "2"]
    assert [row["image_size"] for row in rows] == ["32", "32", "40", "40"]
    assert [row["batch_size"] for row in rows] == ["16"] * 4
    # Warm-up of two epochs, then half a cosine that counts from epoch 0, to 0 after the fourth.
    peak = 0.2 * 16 / 256
    rates = [float(row["learning_rate"]) for row in rows]
    expected = [peak / 2, peak / 2, peak * (1 + np.cos(0.75 * np.pi)) / 2, 0.0]
    np.testing.assert_allclose(rates, expected, rtol=1e-5, atol=1e-9)
    for name, values in result.history.items():
        assert [float(row[name]) for row in rows] == values
    # The last validation during `fit` ran with the averaged weights, which are the ones kept.
    assert result.history["val_accuracy"][-1] == pytest.approx(result.evaluation.accuracy)
    # Label smoothing is in the loss of training only.
    assert result.history["val_loss"][-1] == pytest.approx(result.evaluation.loss, rel=1e-5)
    assert result.evaluation.scores.shape == (12, 10)


def test_tensorboard_has_every_epoch_and_the_pictures_of_every_stage(run):
    result, _ = run
    found = {}
    for path in (result.output / "tensorboard").glob("**/*.tfevents*"):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            for one in event.summary.value:
                found.setdefault((path.parent.name, one.tag), {})[event.step] = one
    for folder, tag, column in (
        ("train", "epoch_loss", "loss"),
        ("train", "epoch_learning_rate", "learning_rate"),
        ("validation", "epoch_accuracy", "val_accuracy"),
    ):
        shown = {
            step: float(tf.make_ndarray(one.tensor)) for step, one in found[folder, tag].items()
        }
        assert shown == pytest.approx(dict(enumerate(result.history[column])), abs=1e-6)
    for tag, first_epoch, size in (("stage 1", 0, 32), ("stage 2", 2, 40)):
        ((step, picture),) = found["pictures", tag].items()
        assert step == first_epoch
        width, height, *pngs = tf.make_ndarray(picture.tensor)
        assert (width, height, len(pngs)) == (b"%d" % size, b"%d" % size, 12)
        assert tf.io.decode_png(pngs[0]).shape == (size, size, 3)
        assert f"{size} px" in picture.metadata.summary_description


def test_model_and_exports_give_the_probabilities_of_the_returned_model(run, digits):
    result, _ = run
    data = [bytes(d) for d, _, _ in digits.subset(range(8)).dataset().as_numpy_iterator()]
    image = np.random.default_rng(0).uniform(0, 255, (3, 40, 40, 3)).astype("float32")
    expected = result.model.predict(image, verbose=0)
    loaded = run_folder.open_run(result.output)
    # With a list of one Keras warns where it calls the model symbolically, as `evaluate` does.
    assert not isinstance(loaded.model.input, list)
    assert loaded.class_names == CLASSES
    assert (loaded.image_size, loaded.style) == (48, "whole")
    np.testing.assert_allclose(loaded.model.predict(image, verbose=0), expected, atol=1e-6)
    served = tf.saved_model.load(str(result.output / "saved_model/1"))
    probabilities = served.signatures["serving_default"](images=tf.constant(image))
    np.testing.assert_allclose(probabilities["probabilities"], expected, atol=1e-6)
    with zipfile.ZipFile(result.output / "model.keras") as file:
        config = file.read("config.json").decode()
    assert "keras_effnetv2" not in config  # neither this package nor a compile is needed
    answer = served.signatures["classify_bytes"](image_bytes=tf.constant(data))
    scores = evaluate_source(
        result.model, digits.subset(range(8)), image_size=48, style="whole"
    ).scores
    np.testing.assert_allclose(answer["scores"], -np.sort(-scores, axis=1)[:, :5], atol=1e-6)
    assert [name.decode() for name in answer["classes"].numpy()[:, 0]] == [
        CLASSES[best] for best in scores.argmax(1)
    ]
    assert set(answer["error"].numpy()) == {b""}


# --- repeating and resuming ---------------------------------------------------------------------


def test_a_run_that_broke_off_twice_ends_as_the_one_that_did_not(run, digits, quick, tmp_path):
    """Crash in epoch 3, then a model that cannot be written, then a resume without training.

    The whole run had the same seed, so this is also the test that a seed repeats a run.
    """
    whole, _ = run
    folder = tmp_path / "run"

    def train(recipe=RECIPE, **options):
        # A limit that is far away changes nothing.
        options = {"scan": False, "verbose": 0, "max_minutes": 600, **UNEVEN} | options
        return fit.train(small_network(), digits, recipe, folder, **options)

    def break_in_epoch_3(line):
        if line.startswith("Stage 2/2"):
            raise ZeroDivisionError("power cut")

    with pytest.raises(ZeroDivisionError):
        train(verbose=2, echo=break_in_epoch_3)
    assert settings_in(folder)["finished"] is False
    assert not (folder / "model.keras").exists()
    snapshots = {path.name for path in (folder / "backup").glob("*.safetensors")}
    assert snapshots == {"after-1-epochs.safetensors", "after-2-epochs.safetensors"}
    with pytest.raises(ValueError, match="not finished"):
        run_folder.open_run(folder)

    with pytest.raises(ValueError, match=r"Changed: recipe.class_weights.3: was 2.0, is 1.0$"):
        train(resume=True, class_weights={"3": 1})
    changed = replace(RECIPE, batch_size=8, epochs=5)
    with pytest.raises(ValueError, match=r"epochs: was 4, is 5; recipe.batch_size: was 16, is 8$"):
        train(changed, resume=True)

    (folder / "model.keras").mkdir()  # no file can take its place
    with pytest.raises(OSError, match=r"stopped: .*model\.keras.*--resume"):
        train(resume=True)
    names = {path.name for path in folder.iterdir()}
    assert names == {"recipe.json", "history.csv", "pictures.csv", "backup", "model.keras"}
    (folder / "model.keras").rmdir()

    said = []
    resumed = train(resume=True, verbose=2, echo=said.append)
    assert not [line for line in said if line.startswith("Stage")]  # nothing is left to train
    assert settings_in(folder)["finished"] is True
    assert not (folder / "backup").exists()
    assert resumed.history["epoch"] == [1, 2, 3, 4]
    assert without_seconds(resumed.history) == without_seconds(whole.history)
    for ours, theirs in zip(resumed.model.get_weights(), whole.model.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="finished run, so there is nothing to resume"):
        train(resume=True)


def test_a_compiled_model_without_average_on_files_of_which_one_is_bad(quick, tmp_path, capsys):
    pictures = dark_and_light(tmp_path / os.fsdecode(b"no utf-8 \xff"), count=12)
    (pictures / "dark" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    model = small_network(2)
    model.compile("sgd", "mse")  # compiled by its owner: `train` compiles it as the recipe says
    before = model.get_weights()
    fields = {"epochs": 1, "ema_decay": None, "seed": 4, "batch_size": 4}
    recipe = replace(RECIPE, stages=1, image_size=32, evaluation_size=None, min_steps=40)
    result = fit.train(
        *(model, pictures, recipe, tmp_path / "run"),
        validation_fraction=0.25,
        skip_bad=True,
        **fields,
    )
    printed = capsys.readouterr().out
    assert re.search(r"^Left out: 1 of \d+ \w+ pictures\.$", printed, re.MULTILINE)
    assert "broken.png" in printed
    assert "weights averaged" not in printed
    assert re.search("^Stage 1/1, .*, batch 4, validated at 32$", printed, re.MULTILINE)
    settings = settings_in(tmp_path / "run")
    assert settings["training"]["pictures"] + settings["validation"]["pictures"] == 24
    assert settings["training"]["spec"].endswith("no utf-8 \\udcff")
    assert len(result.history["loss"]) == 1
    changed = [not np.array_equal(a, b) for a, b in zip(before, model.get_weights(), strict=True)]
    assert all(changed[:-1])


def test_a_picture_that_fails_while_training_is_an_error_or_left_out_and_recorded(
    quick, tmp_path, caplog, capsys
):
    pictures = load_source(dark_and_light(tmp_path / "photos", count=24), "all")
    os.truncate(pictures.file_paths()[12], 40)

    def train(folder, **options):
        options = {"validation": pictures.subset([0, 30]), "scan": False} | options
        recipe = replace(ONE_EPOCH, batch_size=8)
        return fit.train(small_network(2), pictures, recipe, folder, **options)

    with pytest.raises(BadPicturesError, match="1 picture cannot be used") as error:
        train(tmp_path / "strict", verbose=0)
    assert [bad.name for bad in error.value.bad] == [pictures.names[12]]
    assert error.value.bad[0].reason == "corrupt or truncated PNG"
    assert settings_in(tmp_path / "strict")["finished"] is False
    with caplog.at_level(logging.WARNING, logger="keras_effnetv2"):
        train(tmp_path / "run", skip_bad=True, verbose=2)
    printed = capsys.readouterr().out
    assert "The 50 pictures are not checked in advance" in printed
    assert "left out, because they became unreadable: 1 of 48 pictures" in printed
    assert pictures.names[12] in caplog.text
    settings = settings_in(tmp_path / "run")
    assert settings["left_out_while_training"] == [pictures.names[12]]
    assert settings["finished"] is True


def test_a_loss_that_is_not_finite_ends_in_an_error_and_no_finished_run(digits, quick, tmp_path):
    recipe = replace(ONE_EPOCH, learning_rate=1e30, gradient_clip=None, warmup_epochs=0.0)
    with pytest.raises(RuntimeError, match=r"loss is not finite \(nan\) in epoch 1.*lower"):
        fit.train(small_network(), digits, recipe, tmp_path / "run", scan=False, verbose=0)
    assert settings_in(tmp_path / "run")["finished"] is False
    assert not (tmp_path / "run" / "model.keras").exists()


# --- what is refused ----------------------------------------------------------------------------


def subclassed():
    class Net(keras.Model):
        def call(self, x):
            return x

    return Net(name="net")


def gray():
    inputs = keras.Input((None, None, 1))
    pooled = keras.layers.GlobalMaxPooling2D()(inputs)
    return keras.Model(inputs, keras.layers.Dense(10, activation="softmax")(pooled))


def too_wide():
    x = inputs = keras.Input((None, None, 3))
    for layer in (
        keras.layers.Conv2D(4, 33),
        keras.layers.GlobalMaxPooling2D(),
        keras.layers.Dropout(0.2),
        keras.layers.Dense(10, activation="softmax"),
    ):
        x = layer(x)
    return keras.Model(inputs, x, name="wide")


@pytest.mark.slow  # a training and an export
def test_a_model_nested_in_another_is_trained_and_exported(digits, monkeypatch, tmp_path):
    leave_out_report(monkeypatch)
    inputs = keras.Input((None, None, 3))
    nested = EagerModel(inputs, small_network()(inputs))
    recipe = replace(ONE_EPOCH, dropout_rate=0.2)
    result = fit.train(nested, digits, recipe, tmp_path / "run", verbose=0)
    assert (tmp_path / "run" / "saved_model" / "1").is_dir()
    assert result.model is nested


def test_a_model_that_does_not_fit_is_refused_before_anything_is_read_or_written(digits, tmp_path):
    names = digits.store.named
    unread = replace(digits, store=MemoryStore(tf.constant([b"no picture"] * len(names)), names))
    for model, message in (
        (small_network(7), "10 classes.*Build the model with classes=10.*with 7 outputs"),
        (small_network(1, activation="sigmoid"), "classes=10.*with 1 output$"),
        (gray(), r"takes \(None, None, None, 1\), but all pictures.*rgb_to_grayscale"),
        (small_network(activation=None), "classifier_activation='softmax'.*ending with linear"),
        (small_network(activation="sigmoid"), "classifier_activation='softmax'.*with sigmoid"),
        (small_network(dropout=0.0), "the model has no Dropout layer to set"),
        (subclassed(), "functional or Sequential classifier.*'net'"),
        (small_network(size=224), r"takes \(None, 224, 224, 3\).*\[32, 40, 48\] pixels"),
        (keras.Sequential([keras.layers.Dense(10)], name="new"), "built.*'new'"),
        (too_wide(), "'wide' cannot work with pictures of 32 pixels: .*larger pictures"),
        ("efficientnetv2-b9", "Unknown variant.*efficientnetv2-b0"),
        (None, "Unknown variant.*None"),
    ):
        with pytest.raises(ValueError, match=message):
            fit.train(model, unread, RECIPE, tmp_path / "run", verbose=0)
    assert not (tmp_path / "run").exists()


def test_arguments_that_contradict_each_other(digits, tmp_path):
    def refused(message, source=digits, recipe=RECIPE, **options):
        with pytest.raises(ValueError, match=message):
            fit.train(small_network(), source, recipe, tmp_path / "run", verbose=0, **options)

    refused("`recipe` must be a TrainRecipe.*'finetune'", recipe="finetune")
    refused('`train` has unknown names. Did you mean "epochs"', epoch=3)
    refused("`epochs` must be an integer of at least 1. Received: 0", epochs=0)
    refused("`image_size` must be one size or .first", image_size=(64, 32))
    refused("`weights` goes with a variant", weights="imagenet")
    refused(r"`class_weights` has classes.*Did you mean \"3\"\?.*'13'", class_weights={"13": 2})
    refused("Choose one of them", class_weights="balanced", balanced=True)
    refused("`validation` is for an ImageSource", "digits", validation=digits)
    refused("`validation` must be an ImageSource.*'digits'", validation="digits")
    refused("not both", validation=digits, validation_fraction=0.1)
    refused("same class names", validation=replace(digits, class_names=tuple("abcdefghij")))
    refused("train labels are 1..10, but 10 classes", replace(digits, labels=digits.labels + 1))
    for name in ("two\nlines", "", "ends\n"):
        names = (name, *CLASSES[1:])
        refused(re.escape(f"Received: {name!r}"), replace(digits, class_names=names))
    refused("Resume the run .--resume.* or replace it .--overwrite", resume=True, overwrite=True)
    refused("`patience` must be an integer of at least 1, or None. Received: 0", patience=0)
    refused("`max_minutes` must be a number above 0, or None. Received: 0", max_minutes=0)
    for callbacks in (print, [print], keras.callbacks.TerminateOnNaN(), [keras.callbacks.History]):
        refused("`callbacks` must be a list of Keras callbacks", callbacks=callbacks)
    backup = keras.callbacks.BackupAndRestore(tmp_path / "other")
    refused("must not contain BackupAndRestore: .*resume=True", callbacks=[backup])
    refused("`keep_snapshots` must be an integer of at least 1. Received: 0", keep_snapshots=0)
    for minutes in (-1, float("nan"), "30"):
        message = (
            f"`snapshot_minutes` must be a number of at least 0, or None. Received: {minutes!r}"
        )
        refused(message, snapshot_minutes=minutes)
    assert not (tmp_path / "run").exists()


def test_an_existing_run_is_kept_until_everything_has_been_checked(digits, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run_folder.write_settings(folder, recorded_settings())
    (folder / "model.keras").write_text("precious")
    (folder / "notes.txt").write_text("mine")

    def train(error, message, source=digits, **options):
        with pytest.raises(error, match=message):
            fit.train(small_network(), source, RECIPE, folder, verbose=0, **options)
        assert (folder / "model.keras").read_text() == "precious"

    train(FileExistsError, "already holds a run.*--resume.*--overwrite")
    names = digits.store.named
    contents = [tf.io.encode_png(np.zeros((9, 9, 3), np.uint8)).numpy()] * len(names)
    contents[int(digits.rows[7])] = b"no picture"
    bad = replace(digits, store=MemoryStore(tf.constant(contents), names))
    train(BadPicturesError, "1 picture cannot be used", bad, overwrite=True)
    message = r"has [\d,]+ MB free; the run needs about [\d,]{12,} MB. Free some space"
    train(OSError, message, overwrite=True, scan=False, keep_snapshots=10**12)

    def stop(line):
        if line.startswith("model "):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit.train(small_network(), digits, RECIPE, folder, overwrite=True, scan=False, echo=stop)
    assert {path.name for path in folder.iterdir()} == {"recipe.json", "pictures.csv", "notes.txt"}
    assert settings_in(folder)["finished"] is False


@pytest.mark.slow  # two trainings
@pytest.mark.parametrize(("mean", "share"), [(0.01, 0.3), (0.0, 0.0)])
def test_first_blocks_are_frozen_if_the_network_has_learned(mean, share, digits, quick, tmp_path):
    model = small_network()
    norm = next(la for la in model.layers if isinstance(la, keras.layers.BatchNormalization))
    norm.moving_mean.assign(keras.ops.full_like(norm.moving_mean, mean))
    before = keras.ops.convert_to_numpy(norm.moving_mean)
    kernel = keras.ops.convert_to_numpy(model.layers[2].kernel)
    recipe = replace(ONE_EPOCH, frozen_share=0.3)
    said = []
    fit.train(model, digits, recipe, tmp_path / "run", scan=False, verbose=2, echo=said.append)
    weights = "those of the given model" if share else "random, not pretrained"
    assert f"weights     {weights}" in "\n".join(said)
    assert (np.abs(model.layers[2].kernel - kernel).max() > 0) == (share == 0)
    assert (np.abs(norm.moving_mean - before).max() > 0) == (share == 0)
    settings = settings_in(tmp_path / "run")
    assert settings["recipe"]["frozen_share"] == share
    assert settings["is_pretrained"] == bool(share)
    # A next training freezes as much, and one without `frozen_share` nothing.
    for network in (model, keras.models.load_model(tmp_path / "run" / "model.keras")):
        assert all(layer.trainable for layer in network.layers)


@pytest.mark.slow  # a training
def test_batch_norms_of_a_pretrained_network_are_frozen_on_small_batches(
    digits, quick, tmp_path, capsys
):
    model = small_network()
    norm = next(la for la in model.layers if isinstance(la, keras.layers.BatchNormalization))
    norm.moving_mean.assign(keras.ops.full_like(norm.moving_mean, 0.01))
    before = [keras.ops.convert_to_numpy(weight) for weight in norm.weights]
    kernel = keras.ops.convert_to_numpy(model.layers[2].kernel)
    fit.train(model, digits, ONE_EPOCH, tmp_path / "frozen", scan=False, verbose=2)
    assert "batch norms frozen: batches of 16 pictures (fewer than 32)" in capsys.readouterr().out
    for value, weight in zip(before, norm.weights, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert np.abs(model.layers[2].kernel - kernel).max() > 0
    assert settings_in(tmp_path / "frozen")["recipe"]["batch_norm"] == "freeze"
