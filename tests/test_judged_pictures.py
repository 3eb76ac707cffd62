"""Which pictures `evaluate` judges a run on: never those it was trained on, unless asked to."""

import json
import shutil
from dataclasses import replace

import pytest
from helpers.command_line import command
from helpers.photos import COLOURS, write_colour_run, write_photos, write_picture

from keras_effnetv2 import load_source, open_run, pack
from keras_effnetv2.evaluation.judging import pictures_to_judge
from keras_effnetv2.evaluation.named_network import open_network
from keras_effnetv2.runs.run_folder import LABELS, PICTURES, read_settings, write_settings

HELD_BACK, TRAINED_ON = 7, 29  # of 36 pictures


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A run, and its pictures as a folder, as a table and packed."""
    root = tmp_path_factory.mktemp("files")
    photos = write_photos(root / "photos")
    write_colour_run(root / "run", photos)
    rows = [f"photos/{path.parent.name}/{path.name},{path.parent.name}" for path in every(photos)]
    (root / "all.csv").write_text("\n".join(["path,label", *reversed(rows)]) + "\n")
    pack(photos, root / "packed")
    return root


@pytest.fixture
def copy(files, tmp_path):
    return shutil.copytree(files / "photos", tmp_path / "copy")


def every(folder):
    return sorted(folder.rglob("*.png"))


def judged(files, data, split=None):
    """Counts of pictures: held back, new and trained on of those judged; not judged."""
    network = open_network(str(files / "run"))
    return list(pictures_to_judge(network, str(data), split).counts.values())


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ("photos", "."),
        ("photos/", "."),
        ("../photos", "packed"),
        ("csv:all.csv", "."),
        ("csv:./all.csv", "."),
        ("csv:../all.csv", "packed"),
        ("tfrecord:packed", "."),
        ("tfrecord:packed/", "."),
        ("tfrecord:packed/*-of-*", "."),
    ],
)
def test_however_the_data_is_named(files, monkeypatch, data, place):
    monkeypatch.chdir(files / place)
    assert judged(files, data) == [HELD_BACK, 0, 0, TRAINED_ON]
    assert judged(files, data, "validation") == [7, 0, 0, TRAINED_ON]


def test_data_that_was_moved_renamed_grew_or_shrank(files, copy):
    assert judged(files, copy) == [HELD_BACK, 0, 0, TRAINED_ON]
    for number, path in enumerate(every(copy)):  # in another order by name
        path.rename(path.with_name(f"photo {99 - number}.png"))
    assert judged(files, copy) == [HELD_BACK, 0, 0, TRAINED_ON]
    for name, colour in COLOURS.items():
        write_picture(copy / name / "another.png", colour)
    assert judged(files, copy) == [HELD_BACK, 3, 0, TRAINED_ON]
    assert judged(files, copy, "validation") == [HELD_BACK, 0, 0, 32]
    held = set(load_source(files / "photos", "validation").contents.tolist())
    source = load_source(copy, "all")
    for name, content in zip(source.names, source.contents.tolist(), strict=True):
        if content in held:
            (copy / name).unlink()
    assert judged(files, copy) == [0, 3, 0, TRAINED_ON]


def test_pictures_it_was_trained_on_are_judged_when_asked_for(files, copy):
    assert judged(files, copy, "all") == [HELD_BACK, 0, TRAINED_ON, 0]
    assert judged(files, copy, "train") == [0, 0, TRAINED_ON, HELD_BACK]


def test_a_test_split_leaves_out_what_was_trained_on(files, copy, tmp_path):
    shutil.copytree(copy, tmp_path / "split" / "train")
    shutil.copytree(copy, tmp_path / "split" / "test")
    write_picture(tmp_path / "split" / "test" / "red" / "another.png", COLOURS["red"])
    assert judged(files, tmp_path / "split") == [HELD_BACK, 1, 0, TRAINED_ON]


def test_nothing_is_left_to_judge(files, tmp_path, capsys):
    training = load_source(files / "photos", "train")
    for path in training.file_paths():
        target = tmp_path / "seen" / path.decode().rsplit("/", 2)[-2]
        target.mkdir(parents=True, exist_ok=True)
        shutil.copy(path.decode(), target)
    words = ("evaluate", files / "run", "--data", tmp_path / "seen")
    code, _, err = command(capsys, *words)
    assert code == 1
    assert "nothing to judge the run on: of the 29 pictures" in err
    assert "--split all" in err


def test_pictures_that_were_saved_again_are_told_by_name(files, copy, capsys):
    for path in every(copy):
        path.with_suffix(".PNG").write_bytes(path.read_bytes() + b"\n")
        path.unlink()
    code, out, err = command(capsys, "evaluate", files / "run", "--data", copy, "--json")
    assert (code, json.loads(out)["new"]) == (0, 36)
    assert "29 new pictures with the name of a training picture but different content" in err


def test_few_pictures_that_are_numbered_alike_are_no_set_that_was_saved_again(files, tmp_path):
    write_photos(tmp_path / "others", count=3)
    network = open_network(str(files / "run"))
    assert not pictures_to_judge(network, str(tmp_path / "others")).source.notes


def test_a_run_that_left_pictures_unused_is_judged_on_what_it_held_back(files, tmp_path):
    run = shutil.copytree(files / "run", tmp_path / "run")
    write_settings(run, replace(read_settings(run), max_train_examples=12))
    record = open_run(run).pictures
    used = replace(record, training=record.training[:12])
    used.write(run / PICTURES)
    write_settings(run, replace(read_settings(run), pictures_sha256=used.fingerprint))
    shutil.copytree(files / "photos", tmp_path / "photos")
    assert judged(tmp_path, tmp_path / "photos") == [HELD_BACK, 0, 0, TRAINED_ON]


def test_what_was_held_back_can_be_read(files):
    run = open_run(files / "run")
    assert sorted(run.held_back) == sorted(load_source(files / "photos", "validation").names)


@pytest.mark.parametrize("name", [PICTURES, LABELS])
def test_lists_that_were_changed_are_refused(files, tmp_path, name):
    run = shutil.copytree(files / "run", tmp_path / "run")
    first, *others = (run / name).read_text().splitlines()
    for lines in ([*others, first], [first, *others[:-1]]):
        (run / name).write_text("\n".join(lines) + "\n")
        with pytest.raises(ValueError, match=f"is damaged: .*{name}"):
            open_run(run)
