"""The preview: it shows what training delivers, under the right names, and harms no run."""

import base64
import os
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.html_pages import CHROMIUM, Page, measure_in_chromium
from helpers.quick_runs import leave_out_results
from helpers.run_folders import recorded_settings

from keras_effnetv2.cli.main import main
from keras_effnetv2.data import training_data
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.scan import BadPicturesError
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs import run_folder
from keras_effnetv2.training import fit, inputs, preview as preview_module
from keras_effnetv2.training.preview import write_preview

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


def silent(line):
    pass


def preview(output, source, recipe=RECIPE, model=VARIANT, **options):
    """The text of the page."""
    path = write_preview(model, source, recipe, output, echo=silent, **options)
    assert path == output / "preview.html"
    return path.read_text("utf-8")


def figures_of(html):
    """For each section of a stage its figures: (above, below, label, file name)."""
    stages = []
    for section in re.findall(r'<section id="stage-\d+".*?</section>', html, re.DOTALL):
        figures = []
        for figure in re.findall(r"<figure>.*?</figure>", section, re.DOTALL):
            sources = [image["src"] for image in Page(figure).all("img")]
            pixels = [
                tf.io.decode_image(base64.b64decode(source.partition(",")[2])).numpy()
                for source in sources
            ]
            captions = re.findall(r"<span[^>]*>(.*?)</span>", figure)
            figures.append((*pixels, *(Page(caption).text for caption in captions)))
        stages.append(figures)
    return stages


@pytest.fixture
def unscanned(monkeypatch):
    """Leaves out the search for bad pictures, which costs seconds, where it is no subject."""
    monkeypatch.setattr(training_data, "find_bad_pictures", lambda source: ())


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    folder = tmp_path_factory.mktemp("photos")
    return folder, write_grey(folder, ("cat", "dog"), count=12)


# --- what is shown ------------------------------------------------------------------------------


def test_every_picture_stands_under_its_own_name_class_and_original(photos, unscanned, tmp_path):
    folder, greys = photos
    first, second = figures_of(preview(tmp_path / "run", folder))
    # Of 24 pictures 5 are held back; of 19 four batches of four are full.
    for figures in (first, second):
        assert len({name for *_, name in figures}) == len(figures) == 16
        for above, below, label, name in figures:
            assert label == name[:3]
            assert above.shape == below.shape == (32, 32, 3)
            assert above.min() == above.max() == greys[name]
            assert np.abs(below.astype(int) - greys[name]).max() <= 1
    # Another epoch has another order.
    assert [name for *_, name in first] != [name for *_, name in second]


def test_pictures_and_labels_are_those_of_the_first_batch_from_all_over_it(unscanned, tmp_path):
    recipe = replace(
        ONE_STAGE,
        batch_size=64,
        mixup_alpha=1.0,
        cutmix_alpha=1.0,
    )
    html = preview(tmp_path / "run", "digits", recipe)
    ((*figures,),) = figures_of(html)
    training = load_source("digits", "train", seed=3)
    batches = make_dataset(
        training,
        image_size=32,
        batch_size=64,
        training=True,
        mixup_alpha=1.0,
        cutmix_alpha=1.0,
        seed=3,
        crop_area=(0.5, 1.0),
        horizontal_flip=False,
    )
    images, labels = next(batches.as_numpy_iterator())
    positions = np.linspace(0, 63, 24).round().astype(int)  # the second half is CutMix's
    assert len(figures) == 24
    two_classes = 0
    for (_, below, label, _), position in zip(figures, positions, strict=True):
        np.testing.assert_array_equal(below, images[position].round().clip(0, 255))
        truth = labels[position]
        parts = [(str(digit), truth[digit]) for digit in np.argsort(-truth) if truth[digit] > 0.005]
        expected = " + ".join(f"{name} {weight:.2f}" for name, weight in parts)
        assert label == (expected if len(parts) > 1 else parts[0][0])
        two_classes += len(parts) > 1
    assert two_classes > 12
    assert "Stage 1: 32 px, RandAugment off, mixup 1, cutmix 1" in html
    assert "Epochs 1 to 4 of 4, dropout 0.3, batch size 64. 24 pictures of epoch 1." in html


def test_training_asks_for_the_same_batches(photos, unscanned, monkeypatch, tmp_path):
    """`train` and the preview make each stage's first epoch from the same pictures and settings."""
    recipe = replace(RECIPE, epochs=2, randaugment_magnitude=(5, 9), mixup_alpha=(0.0, 0.5))
    asked = []

    def spy(source, **options):
        if options["training"]:
            policy = options.pop("unreadable")  # an object of its own for each
            asked.append((source.names, tuple(source.labels), policy.skip, options))
        # Its operations take seconds to trace, and here only the question counts.
        return make_dataset(source, **options | {"randaugment_magnitude": None})

    monkeypatch.setattr(inputs, "make_dataset", spy)
    leave_out_results(monkeypatch)
    settings = {"validation_fraction": 0.25, "max_train_examples": 11}
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


@pytest.fixture(scope="module")
def large_page(tmp_path_factory):
    """A page with a stage of small and one of large pictures."""
    source = load_source("digits", "all").stratified_subset(60)
    return preview(tmp_path_factory.mktemp("large"), source, replace(RECIPE, image_size=(32, 480)))


def test_a_page_of_large_pictures_is_bounded(large_page):
    small, large = figures_of(large_page)
    assert len(small) == len(large) == 19  # 4.4 million pixels for 32 x 32 + 480 x 480
    assert large[0][1].shape == (480, 480, 3)
    kinds = [image["src"].partition(";")[0] for image in Page(large_page).all("img")]
    assert kinds == ["data:image/png"] * 38 + ["data:image/jpeg"] * 38
    assert len(large_page) < 2_000_000


def test_many_stages_are_shown_in_part(photos, unscanned, monkeypatch, tmp_path):
    monkeypatch.setattr(preview_module, "MAX_STAGES", 3)
    html = preview(tmp_path / "run", photos[0], replace(RECIPE, epochs=5, stages=5))
    assert re.findall(r'<section id="stage-(\d+)"', html) == ["1", "3", "5"]
    assert "3 of 5 stages, from the first to the last." in html


def test_hostile_names_stay_text(unscanned, tmp_path):
    classes = ("<script>alert(1)<", "\" onload='x' &")
    folder = tmp_path / os.fsdecode(b"<b>\xff")
    write_grey(folder, classes, count=5)
    for number in range(5):
        path = folder / classes[0] / f"<sc{number}.png"
        path.rename(path.with_name(os.fsdecode(b'%d"><img src=x>\xff.png' % number)))
    recipe = replace(ONE_STAGE, batch_size=8, mixup_alpha=1.0)
    html = preview(tmp_path / "run", folder, recipe)
    page = Page(html)
    assert not {"script", "b", "link", "iframe"} & set(page.tags)
    assert len(page.all("img")) == 2 * 8
    for attributes in page.attributes:
        assert not [name for name in attributes if name.startswith("on")]
        assert attributes.get("src", "data:image/png;base64,").startswith("data:image/png;base64,")
    for name in (*classes, '"><img src=x>\\xff.png', "<b>\\udcff"):
        assert name in page.text
    assert all(image["alt"] for image in page.all("img"))
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
    assert "://" not in html


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_the_page_in_a_browser(large_page, tmp_path):
    for found in measure_in_chromium(large_page, (1200, 420), tmp_path):
        assert found["sections"] == ["summary", "stage-1", "stage-2"]
        assert found["scroll"] == found["width"]
        small, large = found["images"][:38], found["images"][38:]
        # Small ones four times their size; large ones their own, or what a phone has room for.
        assert {tuple(image) for image in small} == {(32, 32, 128, 128)}
        side = min(480, found["width"] - 2 * 14)
        assert {tuple(image) for image in large} == {(480, 480, side, side)}


# --- where it is written ------------------------------------------------------------------------


def test_a_run_that_is_there_is_not_touched(photos, unscanned, tmp_path):
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
    with pytest.raises(FileExistsError, match="holds a run already"):
        run_folder.check_output(folder, resume=False, overwrite=False)


def test_a_folder_that_training_would_refuse_gets_no_preview(photos, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="is not the folder of a run"):
        preview(tmp_path, photos[0])
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_what_training_refuses_the_preview_refuses_and_writes_nothing(photos, unscanned, tmp_path):
    def refused(error, message, source=photos[0], **options):
        with pytest.raises(error, match=message):
            preview(tmp_path / "run", source, **options)
        assert not (tmp_path / "run").exists()

    digits = load_source("digits", "train").stratified_subset(60)
    refused(ValueError, "`recipe` must be a TrainRecipe", recipe="finetune")
    refused(ValueError, "Unknown variant", model="resnet50")
    refused(ValueError, "has 7 classes, the pictures have 2", model=build(classes=7))
    refused(ValueError, "`epochs` must be at least `stages`", recipe=replace(RECIPE, epochs=1))
    refused(ValueError, "`validation` goes with an ImageSource", validation=digits)


def test_bad_pictures_are_an_error_or_left_out(tmp_path):
    photos, output = tmp_path / "photos", tmp_path / "run"
    write_grey(photos, ("cat", "dog"), count=12)
    (photos / "cat" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    with pytest.raises(BadPicturesError, match=r"1 picture cannot be used"):
        preview(output, photos)
    assert not output.exists()
    lines = []
    path = write_preview(VARIANT, photos, ONE_STAGE, output, skip_bad=True, echo=lines.append)
    assert any("left out" in line and "broken.png" in line for line in lines)
    assert "broken.png" not in path.read_text("utf-8")


def test_names_follow_what_is_left_out_without_a_scan(tmp_path):
    greys = write_grey(tmp_path / "photos", ("cat", "dog"), count=4)
    (tmp_path / "photos" / "cat" / "cat1.png").write_bytes(b"\x89PNG\r\n\x1a\n nothing more")
    source = load_source(tmp_path / "photos", "all")
    html = preview(tmp_path / "run", source, validation=source, skip_bad=True, scan=False)
    for figures in figures_of(html):
        names = [name for *_, name in figures]
        assert names == names[:7] + names[:1]  # the first takes the place of the one left out
        assert {*names} == {*greys} - {"cat1.png"}
        for above, below, label, name in figures:
            assert label == name[:3]
            assert above.min() == above.max() == greys[name]
            assert np.abs(below.astype(int) - greys[name]).max() <= 1


# --- the command --------------------------------------------------------------------------------


def command(*words):
    return main(["train", *map(str, words)])


def test_the_command_prints_the_path_and_trains_nothing(photos, unscanned, tmp_path, capsys):
    output = tmp_path / "run"
    options = ("--image-size", "32", "--stages", "1", "--max-train-examples", "8")
    assert command("--data", photos[0], "--output", output, "--preview", *options) == 0
    printed = capsys.readouterr()
    assert printed.out.splitlines()[-1] == str(output / "preview.html")
    assert "0-19    32" in printed.out  # the plan
    assert [path.name for path in output.iterdir()] == ["preview.html"]
    assert run_folder.check_output(output, resume=False, overwrite=False) is None


def test_preview_and_resume_exclude_each_other(tmp_path, capsys):
    with pytest.raises(SystemExit) as exit:
        command("--data", "digits", "--output", tmp_path / "run", "--preview", "--resume")
    assert exit.value.code == 2
    assert "--resume: not allowed with argument --preview" in capsys.readouterr().err


def test_a_folder_without_pictures_is_the_loaders_error(tmp_path, capsys):
    (tmp_path / "empty").mkdir()
    assert command("--data", tmp_path / "empty", "--output", tmp_path / "run", "--preview") == 1
    assert "no class folders" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
