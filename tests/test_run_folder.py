"""The run folder: what may be written where, files whole or not there, and the way back."""

import json
import math
from dataclasses import replace

import keras
import numpy as np
import pytest
from helpers.run_folders import NO_PICTURES, recorded_settings

from keras_effnetv2._common.files import write_text
from keras_effnetv2.data.picture_record import PictureEntry, PictureRecord
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.confusion import read_confusion, write_confusion
from keras_effnetv2.runs.run_folder import (
    check_output,
    hold_output,
    open_run,
    prepare_output,
    read_settings,
    write_settings,
)
from keras_effnetv2.runs.run_settings import RunSettings, check_same_run

SETTINGS = recorded_settings(
    finished=False,
    class_names=("a", "b"),
    recipe=replace(TrainRecipe.preset("quickstart"), image_size=(32, 64)),
    image_size=64,
    result=None,
)
WRITTEN = json.loads(json.dumps(SETTINGS.to_dict()))


@pytest.fixture
def folder(tmp_path):
    write_settings(tmp_path, SETTINGS)
    return tmp_path


def finish(folder):
    inputs = keras.Input((None, None, 3))
    x = keras.layers.GlobalAveragePooling2D()(inputs)
    keras.Model(inputs, keras.layers.Dense(2)(x)).save(folder / "model.keras")
    write_text(folder / "labels.txt", "a\nb\n")
    NO_PICTURES.write(folder / "pictures.csv")
    write_settings(folder, replace(SETTINGS, finished=True))


def test_a_new_or_an_empty_folder_is_a_new_run(tmp_path):
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        for path in (tmp_path, tmp_path / "new" / "deep"):
            assert check_output(path, resume=resume, overwrite=overwrite) is None
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("options", [{}, {"resume": True}, {"overwrite": True}])
def test_what_is_no_run_is_never_taken(tmp_path, options):
    options = {"resume": False, "overwrite": False} | options
    (tmp_path / "photo.jpg").write_text("mine")
    for path in (tmp_path, tmp_path / "photo.jpg"):
        with pytest.raises(FileExistsError, match="is not the folder of a run"):
            check_output(path, **options)
    # A recipe, but not one of ours.
    (tmp_path / "recipe.json").write_text('{"flour": "500 g"}')
    with pytest.raises(ValueError, match=r"recipe\.json is not that of a run"):
        check_output(tmp_path, **options)
    assert (tmp_path / "photo.jpg").read_text() == "mine"


def test_an_unfinished_run_is_resumed_a_finished_one_is_not(folder):
    assert check_output(folder, resume=True, overwrite=False) == read_settings(folder)
    assert check_output(folder, resume=False, overwrite=True) is None
    with pytest.raises(FileExistsError, match=r"already holds a run.*resume.*overwrite"):
        check_output(folder, resume=False, overwrite=False)
    write_settings(folder, replace(SETTINGS, finished=True))
    with pytest.raises(ValueError, match="nothing to resume"):
        check_output(folder, resume=True, overwrite=False)


def test_settings_are_read_as_they_were_written():
    for settings in (SETTINGS, recorded_settings(temperature=1.5, left_out_while_training=("a",))):
        written = json.loads(json.dumps(settings.to_dict()))
        assert RunSettings.from_dict(written) == settings
        assert RunSettings.from_dict(written | {"of a later version": 1}) == settings
    assert settings.weights_origin == "trained on digits"


@pytest.mark.parametrize("name", ["training", "limits", "stages", "thresholds", "result"])
def test_what_settings_of_a_run_lack_is_named(name):
    written = {field: value for field, value in WRITTEN.items() if field != name}
    with pytest.raises(ValueError, match=f"^it needs {name}$"):
        RunSettings.from_dict(written)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"finished": "yes"}, "does not say whether the run is finished"),
        ({"training": {"spec": "digits"}}, "`training` needs pictures, split"),
        ({"training": {"spec": [], "split": "all", "pictures": 1}}, "`spec` must be a text"),
        (
            {"validation": {"spec": "x", "split": "all", "pictures": 10**30}},
            "`pictures` must be an",
        ),
        ({"class_names": ["a", None]}, "A class name must be"),
        ({"class_names": "ab"}, "its `class_names` is 'ab'"),
        ({"recipe": None}, "A recipe must be an object of names and values"),
        ({"stages": [5]}, "A stage must be an object"),
        ({"image_size": True}, "`image_size` must be an integer"),
        ({"result": {"validation_loss": math.nan}}, "`validation_loss` must be a number"),
        ({"result": {"seconds": 10**400}}, "`seconds` must be a number"),
        ({"recipe": {"flour": "500 g"}}, "A recipe has unknown names.*flour"),
        ({"stages": []}, "A plan is one or more"),
    ],
)
def test_what_are_no_settings_of_a_run(change, message):
    with pytest.raises(ValueError, match=message):
        RunSettings.from_dict(WRITTEN | change)


def test_only_changed_settings_are_named():
    pictures = (NO_PICTURES, NO_PICTURES)
    check_same_run(SETTINGS, replace(SETTINGS, finished=True, image_size=1), *pictures)
    changed = replace(
        SETTINGS,
        weights="imagenet",
        recipe=replace(SETTINGS.recipe, image_size=(32, 96)),
        class_names=("a", "c"),
    )
    with pytest.raises(ValueError, match=r"started with\. .*Changed: ") as error:
        check_same_run(SETTINGS, changed, *pictures)
    assert str(error.value).partition("Changed: ")[2] == (
        "weights: was None, is 'imagenet'; class_names: was ['a', 'b'], is ['a', 'c']; "
        "recipe.image_size: was [32, 64], is [32, 96]"
    )


def test_where_pictures_lie_does_not_matter():
    moved = replace(SETTINGS, training=replace(SETTINGS.training, spec="/elsewhere"))
    a, b, c, d = (PictureEntry(n, "cat", name) for n, name in enumerate("abcd", start=1))
    recorded = PictureRecord(training=(a, b), validation=(c,))
    renamed = PictureRecord(training=(a._replace(name="x"), b), validation=(c,))
    check_same_run(SETTINGS, moved, recorded, renamed)
    others = PictureRecord(training=(b, a), validation=(c, d))
    with pytest.raises(
        ValueError,
        match=r"training pictures: in another order; validation pictures: 0 missing, 1 new$",
    ):
        check_same_run(SETTINGS, moved, recorded, others)
    other = PictureRecord(training=(a, b._replace(class_name="dog")), validation=(c,))
    with pytest.raises(ValueError, match=r"training pictures: 1 with another label$"):
        check_same_run(SETTINGS, moved, recorded, other)
    fewer = PictureRecord(training=(a,), validation=(c,))
    twice = PictureRecord(training=(a, a), validation=(c,))
    with pytest.raises(ValueError, match=r"training pictures: 1 missing, 0 new$"):
        check_same_run(SETTINGS, moved, twice, fewer)


def test_a_record_holds_any_name(tmp_path):
    names = ("a\rb", "a\nb", 'a"b', "a,b", " a", "")
    pictures = tuple(PictureEntry(n, "cat", name) for n, name in enumerate(names))
    record = PictureRecord(pictures[:4], pictures[4:])
    record.write(tmp_path / "pictures.csv")
    assert PictureRecord.read(tmp_path / "pictures.csv", record.fingerprint) == record


def test_replacing_a_run_leaves_other_files_and_follows_a_link(folder, tmp_path_factory):
    finish(folder)
    (folder / "saved_model" / "1").mkdir(parents=True)
    (folder / "saved_model" / "1" / "saved_model.pb").write_text("old")
    (folder / "notes.txt").write_text("mine")
    link = tmp_path_factory.mktemp("links") / "latest"
    link.symlink_to(folder)
    prepare_output(link, keep=True, needed_bytes=0)
    assert (folder / "model.keras").exists()
    prepare_output(link, keep=False, needed_bytes=0)
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    assert link.is_symlink()


def test_a_folder_that_cannot_be_written_is_said_so(tmp_path):
    (tmp_path / "file").write_text("in the way")
    output = hold_output(tmp_path / "file" / "run", resume=False, overwrite=False, say=print)
    with (
        pytest.raises(OSError, match=r"^Cannot write to .*run: Not a directory. Choose a folder"),
        output,
    ):
        pytest.fail("held")


def test_a_finished_run_opens(folder):
    with pytest.raises(ValueError, match=r"is not finished.*--resume"):
        open_run(folder)
    finish(folder)
    run = open_run(str(folder))
    assert run.path == folder
    assert run.class_names == ("a", "b")
    assert (run.image_size, run.style) == (64, "whole")
    assert run.model.output_shape == (None, 2)


def flip(path):
    data = bytearray(path.read_bytes())
    data[300:330] = bytes(30)
    path.write_bytes(data)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "recipe.json").write_text("{"), "cannot be read"),
        (lambda path: (path / "recipe.json").write_text("[]"), "is not that of a run"),
        (lambda path: (path / "recipe.json").write_text("[" * 10**5), "nested too deeply"),
        (lambda path: (path / "recipe.json").unlink(), "it has no recipe.json"),
        (lambda path: (path / "model.keras").unlink(), "is damaged"),
        (lambda path: (path / "model.keras").write_bytes(b"PK"), "is damaged"),
        (lambda path: flip(path / "model.keras"), "is damaged"),
        (lambda path: (path / "labels.txt").unlink(), "is damaged"),
        (
            lambda path: (path / "labels.txt").write_text("a\n"),
            "1 name, but the model has 2 classes",
        ),
        (lambda path: (path / "labels.txt").write_bytes(b"a\n\xff\n"), "is damaged"),
        (lambda path: (path / "labels.txt").write_text("a\n\n"), "is damaged: A class name must"),
        (lambda path: (path / "pictures.csv").unlink(), r"is damaged: .*pictures\.csv"),
    ],
)
def test_a_damaged_run_is_one_clear_error(folder, damage, message):
    finish(folder)
    damage(folder)
    with pytest.raises(ValueError, match=message):
        open_run(folder)


# --- confusion.csv ------------------------------------------------------------------------------


def test_counts_of_mistakes_are_read_back(tmp_path):
    names, counts = ("a,b", 'c"d', "Ä e"), np.array([[2, 0, 1], [0, 0, 0], [0, 30, 4]])
    write_confusion(tmp_path / "confusion.csv", names, counts)
    np.testing.assert_array_equal(read_confusion(tmp_path / "confusion.csv", names), counts)
    assert (tmp_path / "confusion.csv").read_text("utf-8").count("\n") == 5


@pytest.mark.parametrize(
    "text",
    ["", "truth,predicted,pictures\na,z,1\n", "truth,predicted,pictures\na,b\n", "a,b,c\na,b,1\n"],
)
def test_damaged_counts_of_mistakes_are_named(tmp_path, text):
    (tmp_path / "confusion.csv").write_text(text)
    with pytest.raises(ValueError, match=r"confusion\.csv"):
        read_confusion(tmp_path / "confusion.csv", ("a", "b"))


def test_lost_counts_of_mistakes_are_named(folder):
    finish(folder)
    with pytest.raises(ValueError, match=r"confusion\.csv is not what.*No such file"):
        _ = open_run(folder).confusion
