"""`predict` and `evaluate` with exports: classes, pictures and scores are those of the run."""

import json
import re
import shutil

import numpy as np
import pytest
from helpers.command_line import command
from helpers.exports import KINDS, write_export
from helpers.photos import write_colour_run, write_photos

import keras_effnetv2 as kev2
from keras_effnetv2.evaluation.named_network import open_network


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_colour_run(folder / "run", write_photos(folder / "photos", 5))


@pytest.fixture(scope="module")
def exports(tmp_path_factory):
    """The path of an export of each kind."""
    folder = tmp_path_factory.mktemp("exports")
    return {kind: write_export(folder, kind) for kind in KINDS}


@pytest.mark.parametrize("kind", KINDS)
def test_an_export_gives_the_scores_of_its_run(run, exports, kind):
    photos = run.parent / "photos"
    expected = kev2.predict(run, photos)
    found = kev2.predict(exports[kind], photos, batch_size=4)
    assert [row.path for row in found] == [row.path for row in expected]
    for row, other in zip(found, expected, strict=True):
        assert [("blue", "green", "red")[int(name)] for name in row.class_names] == [
            *other.class_names
        ]
        np.testing.assert_allclose(row.scores, other.scores, rtol=1e-4)


def test_an_export_is_judged_as_a_file_is(run, exports, capsys):
    photos = run.parent / "photos"
    code, out, err = command(capsys, "evaluate", exports["versions"], "--data", photos, "--json")
    assert code == 0, err
    figures = json.loads(out)
    assert figures["export"] == str(exports["versions"] / "10")
    assert (figures["accuracy"], figures["pictures"]) == (1.0, 15)
    rows = kev2.predict(run, photos)
    loss = -np.mean([np.log(row.scores[0]) for row in rows])  # the best class is the true one
    assert figures["loss"] == pytest.approx(loss, rel=1e-4)


def test_names_stand_beside_a_file(exports, tmp_path, run, capsys):
    path = shutil.copy(exports["net.onnx"], tmp_path)
    picture = run.parent / "photos" / "green" / "0.png"
    (tmp_path / "labels.txt").write_text("bleu\nvert\nrouge\n")
    assert kev2.predict(path, picture, top=1)[0].class_names == ("vert",)
    _, _, err = command(capsys, "evaluate", path, "--data", run.parent / "photos")
    assert "not among the 3 class names ('bleu', 'vert'" in err
    (tmp_path / "labels.txt").write_text("one\ntwo\n")
    assert kev2.predict(path, picture, top=1)[0].class_names == ("1",)


def test_the_export_of_a_run_is_judged_as_the_run_is(run, exports, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    path = shutil.copy(exports["net.onnx"], copy / "model.onnx")
    words = ("--data", run.parent / "photos", "--json")
    code, out, err = command(capsys, "evaluate", path, *words)
    assert code == 0, err
    _, expected, _ = command(capsys, "evaluate", copy, *words)
    found, expected = json.loads(out), json.loads(expected)
    for name in ("loss", "calibration_error", "calibration_error_by_chance"):
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-4)
    for name in ("run", "export", "image_size"):
        found.pop(name, None), expected.pop(name, None)
    assert found == expected
    assert found["not_judged"] > 0
    versions = shutil.copytree(exports["versions"], copy / "saved_model")
    for one in (path, versions):
        network = open_network(one, exports=True)
        assert [one["class"] for one in network.classes] == ["blue", "green", "red"]
        assert network.trained_on is not None


def test_a_saved_model_says_names_and_pictures(exports, tmp_path, run):
    folder = shutil.copytree(exports["versions"] / "2", tmp_path / "served" / "1")
    (folder / "assets").mkdir(exist_ok=True)
    (folder / "assets" / "labels.txt").write_text("b\ng\nr\n")
    pictures = {"image_size": 32, "style": [32, 0.875, "center", "bicubic"]}
    card = {"preprocessing": pictures, "scores": {"activation": "softmax"}}
    (folder / "model_card.json").write_text(json.dumps(card))
    network = open_network(folder / "saved_model.pb", exports=True)
    assert network.style == (32, 0.875, "center", "bicubic")
    assert [one["class"] for one in network.classes] == ["b", "g", "r"]
    (folder / "assets" / "labels.txt").write_text("b\ng\n")
    with pytest.raises(ValueError, match="has 3 classes and 2 names"):
        open_network(folder, exports=True)
    (folder / "model_card.json").write_text("{}")
    with pytest.raises(ValueError, match="does not say clearly what its classes"):
        open_network(folder, exports=True)


def test_what_is_not_opened(run, exports, tmp_path, capsys):
    picture = run.parent / "photos" / "green" / "0.png"
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    (tmp_path / "weights.bin").write_bytes(b"no network")
    any_size = write_export(tmp_path, "net.onnx", dynamic=True)
    for path, expected in (
        (tmp_path / "broken.onnx", r"broken\.onnx cannot be opened: .*"),
        (any_size, r"cannot be opened: it takes pictures of any x any pixels, but here all"),
        (tmp_path / "missing.tflite", r"There is no file .*an export \(a SavedModel folder, .onnx"),
        (tmp_path / "weights.bin", r"There is no network .*weights.bin"),
    ):
        code, _, err = command(capsys, "predict", path, picture)
        assert code == 1
        assert re.search(expected, err), err
    for words in (
        ("export", exports["net.xml"], "--output", tmp_path / "again"),
        ("predict", exports["versions"], picture, "--embeddings", tmp_path / "features.npz"),
    ):
        code, _, err = command(capsys, *words)
        assert code == 1
        assert "Give what it was made from: the folder of a run" in err
    with pytest.raises(ValueError, match="is an export, which has no features"):
        kev2.predict(exports["net.onnx"], picture, embeddings=True)
    code, _, err = command(
        capsys, "evaluate", exports["net.onnx"], "--data", run, "--protocol", "timm"
    )
    assert "--protocol is for a variant only" in err
