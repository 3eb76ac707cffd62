"""The preview: it shows what training delivers, under the right names, and harms no run."""

import os
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.html_pages import Page, assert_needs_no_other_file
from helpers.quick_runs import leave_out_results, step_eagerly
from helpers.run_folders import recorded_settings

from keras_effnetv2.cli.main import main
from keras_effnetv2.data.pipeline import InputSpec, make_dataset
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import BadPicturesError
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs import run_folder
from keras_effnetv2.training import fit
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.preview import preview_pictures, render_preview, write_preview

# Random crops, but neither mirrored nor mixed.
RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=4,
    stages=2,
    batch_size=4,
    image_size=32,
    horizontal_flip=False,
    seed=3,
)
ONE_STAGE = replace(RECIPE, stages=1)
VARIANT = "efficientnetv2-b0"


def build(classes=2):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(inputs))
    x = keras.layers.Dropout(0.2)(x)
    outputs = keras.layers.Dense(classes, activation="softmax")(x)
    return keras.Model(inputs, outputs, name="small")


def write_grey(folder, names, count):
    """Class folders of pictures of one grey each; returns {file: its grey}, all different."""
    greys = {}
    for name in names:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            path = folder / name / f"{name[:3]}{number}.png"
            greys[path.name] = 10 + 8 * len(greys)
            pixels = np.full((24, 30, 3), greys[path.name], np.uint8)
            path.write_bytes(tf.io.encode_png(pixels).numpy())
    return greys


def preview(output, source, recipe=RECIPE, model=VARIANT, **options):
    """The text of the page."""
    data = TrainingData(source, **({"scan": False} | options))
    path = write_preview(model, data, recipe, output, echo=lambda line: None)
    assert path == output / "preview.html"
    return path.read_text("utf-8")


def shown(source, recipe=RECIPE, **options):
    """For each stage its pictures."""
    data = TrainingData(source, **options)
    return list(preview_pictures(load_inputs(VARIANT, data, recipe)).values())


def assert_belongs_together(picture, greys):
    name = os.path.basename(picture.name)
    assert picture.sample.caption == name[:3]
    assert picture.original.min() == picture.original.max() == greys[name]
    assert np.abs(picture.sample.image.astype(int) - greys[name]).max() <= 1


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return folder, write_grey(folder, ("cat", "dog"), count=12)


# --- what is shown ------------------------------------------------------------------------------


def test_every_picture_stands_under_its_own_name_class_and_original(photos):
    folder, greys = photos
    first, second = shown(folder)
    # Of 24 pictures 5 are held back; of 19 four batches of four are full.
    for pictures in (first, second):
        assert len({picture.name for picture in pictures}) == len(pictures) == 16
        for picture in pictures:
            assert_belongs_together(picture, greys)
            assert picture.original.shape == picture.sample.image.shape == (32, 32, 3)
    # Another epoch has another order.
    assert [picture.name for picture in first] != [picture.name for picture in second]


def test_pictures_and_labels_are_those_of_the_first_batch_from_all_over_it():
    recipe = replace(ONE_STAGE, batch_size=64, mixup_alpha=1.0, cutmix_alpha=1.0)
    (pictures,) = shown("digits", recipe)
    batches = make_dataset(
        load_source("digits", "train", seed=3),
        image_size=32,
        batch_size=64,
        training=True,
        mixup_alpha=1.0,
        cutmix_alpha=1.0,
        cutmix_style="paper",
        seed=3,
        crop_area=(0.5, 1.0),
        horizontal_flip=False,
    )
    images, labels = next(batches.as_numpy_iterator())
    positions = np.linspace(0, 63, 24).round().astype(int)  # the second half is CutMix's
    two_classes = 0
    for picture, position in zip(pictures, positions, strict=True):
        expected = images[position].round().clip(0, 255)
        np.testing.assert_array_equal(picture.sample.image, expected)
        truth = labels[position]
        parts = [(str(digit), truth[digit]) for digit in np.argsort(-truth) if truth[digit] > 0.005]
        mixed = " + ".join(f"{weight:.2f} {name}" for name, weight in parts)
        assert picture.sample.caption == (mixed if len(parts) > 1 else parts[0][0])
        two_classes += len(parts) > 1
    assert two_classes > 12


def test_a_probe_shows_pictures_from_all_over_as_evaluation_sees_them():
    recipe = replace(TrainRecipe.preset("probe"), image_size=32, seed=3)
    source = load_source("digits", "train", seed=3)
    inputs = load_inputs(VARIANT, TrainingData("digits"), recipe)
    (pictures,) = preview_pictures(inputs).values()
    assert len({picture.sample.caption for picture in pictures}) > 5
    evaluated = make_dataset(source, image_size=32, batch_size=len(source.names), training=False)
    images, _ = evaluated.get_single_element()
    for name, original, sample in pictures:
        expected = images[source.names.index(name)]
        np.testing.assert_array_equal(sample.image, np.rint(expected).clip(0, 255))
        assert original is None
    page = Page(render_preview(inputs))
    assert len(page.all("img")) == len(pictures)
    assert "random crop" not in page.text


@pytest.mark.slow  # trains
def test_training_asks_for_the_same_batches(photos, monkeypatch, tmp_path):
    """`train` and the preview make each stage's first epoch from the same pictures and settings."""
    recipe = replace(RECIPE, epochs=2, randaugment_magnitude=(5, 9), mixup_alpha=(0.0, 0.5))
    asked = []

    def spy(spec, source, **options):
        if options["training"]:
            policy = options["unreadable"]  # an object of its own for each
            asked.append((source.names, policy.skip, spec, options | {"unreadable": None}))
        # Its operations take seconds to trace, and here only the question counts.
        return dataset(replace(spec, randaugment_magnitude=None), source, **options)

    dataset = InputSpec.dataset
    monkeypatch.setattr(InputSpec, "dataset", spy)
    leave_out_results(monkeypatch)
    step_eagerly(monkeypatch)
    settings = {"validation_fraction": 0.25, "max_train_examples": 11, "scan": False}
    preview(tmp_path / "run", photos[0], recipe, build(), **settings)
    previewed, asked[:] = list(asked), []
    # Into the folder where the preview is, which therefore is in nobody's way.
    fit.train(build(), photos[0], recipe, tmp_path / "run", verbose=0, **settings)
    assert [options["epoch"] for *_, options in previewed] == [0, 1]
    for call in previewed:
        assert call == next(other for other in asked if other[-1]["epoch"] == call[-1]["epoch"])
    assert len(previewed[0][0]) == 11
    assert (tmp_path / "run" / "preview.html").is_file()
    assert run_folder.open_run(tmp_path / "run").class_names == ("cat", "dog")


@pytest.mark.slow  # as many pictures as the bound allows
def test_a_page_of_large_pictures_is_bounded():
    source = load_source("digits", "all").stratified_subset(60)
    inputs = load_inputs(VARIANT, TrainingData(source), replace(RECIPE, image_size=(32, 480)))
    small, large = preview_pictures(inputs).values()
    assert len(small) == len(large) == 19  # 4.4 million pixels for 32 x 32 + 480 x 480
    assert large[0].sample.image.shape == (480, 480, 3)
    html = render_preview(inputs)
    kinds = [image["src"].partition(";")[0] for image in Page(html).all("img")]
    assert kinds == ["data:image/png"] * 38 + ["data:image/jpeg"] * 38
    assert len(html) < 2_000_000


def test_hostile_names_stay_text(tmp_path):
    classes = ("<script>alert(1)<", "\" onload='x' &")
    folder = tmp_path / os.fsdecode(b"<b>\xff")
    write_grey(folder, classes, count=5)
    for number in range(5):
        path = folder / classes[0] / f"<sc{number}.png"
        path.rename(path.with_name(os.fsdecode(b'%d"><img src=x onerror=x>\xff.png' % number)))
    html = preview(tmp_path / "run", folder, replace(ONE_STAGE, batch_size=8, mixup_alpha=1.0))
    assert_needs_no_other_file(html)
    page = Page(html)
    assert len(page.all("img")) == 2 * 8
    assert not {"b", "i"} & set(page.tags)
    for name in (*classes, "<img src=x onerror=x>\\xff.png", "<b>\\udcff"):
        assert name in page.text


# --- where it is written ------------------------------------------------------------------------


def test_a_run_that_is_there_is_not_touched(photos, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    run_folder.write_settings(folder, recorded_settings())
    for name in ("model.keras", "history.csv", "notes.txt"):
        (folder / name).write_text("precious")
    before = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for _ in range(2):
        preview(folder, photos[0], ONE_STAGE)
    after = {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    assert after.pop(folder / "preview.html")
    assert after == before
    with pytest.raises(FileExistsError, match="already holds a run"):
        run_folder.check_output(folder, resume=False, overwrite=False)


def test_a_folder_that_training_would_refuse_gets_no_preview(photos, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the folder of a run"):
        preview(tmp_path, photos[0])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_training_refuses_the_preview_refuses_and_writes_nothing(photos, tmp_path):
    def refused(error, message, source=photos[0], **options):
        with pytest.raises(error, match=message):
            preview(tmp_path / "run", source, **options)
        assert not (tmp_path / "run").exists()

    digits = load_source("digits", "train").stratified_subset(60)
    refused(ValueError, "`recipe` must be a TrainRecipe", recipe="finetune")
    refused(ValueError, "Unknown variant", model="resnet50")
    refused(ValueError, "have 2 classes.*with 7 outputs", model=build(classes=7))
    refused(ValueError, "`image_size` must be", recipe=replace(RECIPE, image_size=7))
    refused(ValueError, "`validation` is for an ImageSource", validation=digits)


@pytest.mark.slow  # a scan and a page; test_fit has the error, the next test what is left out
def test_bad_pictures_are_an_error_or_left_out(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "run"
    write_grey(photos, ("cat", "dog"), count=12)
    (photos / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    with pytest.raises(BadPicturesError, match=r"1 picture cannot be used"):
        preview(output, photos, scan=True)
    assert not output.exists()
    lines = []
    data = TrainingData(photos, skip_bad=True)
    path = write_preview(VARIANT, data, ONE_STAGE, output, echo=lines.append)
    assert any("left out" in line and "broken.png" in line for line in lines)
    assert "broken.png" not in path.read_text("utf-8")


def test_names_follow_what_is_left_out_without_a_scan(tmp_path):
    greys = write_grey(tmp_path / "photos", ("cat", "dog"), count=4)
    (tmp_path / "photos" / "cat" / "cat1.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    source = load_source(tmp_path / "photos", "all")
    for pictures in shown(source, validation=source, skip_bad=True):
        names = [os.path.basename(picture.name) for picture in pictures]
        assert names == names[:7] + names[:1]  # the first takes the place of the one left out
        assert {*names} == {*greys} - {"cat1.png"}
        for picture in pictures:
            assert_belongs_together(picture, greys)


# --- the command --------------------------------------------------------------------------------


def command(*words):
    return main(["train", *map(str, words)])


def test_the_command_prints_the_path_and_trains_nothing(photos, tmp_path, capsys):
    output = tmp_path / "run"
    options = ("--image-size", "32", "--stages", "1", "--max-train-examples", "8")
    assert command("--data", photos[0], "--output", output, "--preview", *options) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(output / "preview.html")
    assert "1-20    32" in printed.out  # the plan
    assert [path.name for path in output.iterdir()] == ["preview.html"]
    assert run_folder.check_output(output, resume=False, overwrite=False) is None


def test_a_folder_without_pictures_is_the_loaders_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert command("--data", tmp_path / "empty", "--output", tmp_path / "run", "--preview") == 1
    assert "no class folders" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
