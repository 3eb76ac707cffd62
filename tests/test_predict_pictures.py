"""The pictures that `predict` takes: files, folders, patterns, addresses, standard input, lists."""

import csv
import io
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from helpers.command_line import command
from helpers.http_server import dripping, redirect, serving, status, truncated, typed
from helpers.photos import write_colour_run, write_photos
from helpers.quick_runs import step_eagerly
from helpers.served_models import make_forgetful_model, make_model

import keras_effnetv2 as kev2
from keras_effnetv2.evaluation import picture_names
from keras_effnetv2.evaluation.prediction import predict


def coloured(*colour, width=8):
    pixels = np.full((8, width, 3), colour, np.uint8)
    return tf.io.encode_png(pixels).numpy()


RED, BLUE = coloured(255, 0, 51), coloured(0, 102, 255)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    return write_colour_run(folder / "run", write_photos(folder / "photos", 5))


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """Two red pictures, a blue one and files that are none, in folders."""
    monkeypatch.chdir(tmp_path)
    for name, data in {
        "photos/b.png": RED,
        "photos/below/deeper/a.PNG": BLUE,
        "photos/below/[1].png": RED,
        "photos/notes.txt": b"no picture",
        "photos/.hidden.png": RED,
        "empty/notes.txt": b"no picture",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)


def best(rows):
    return {row.path: row.class_names[0] if row.class_names else row.error for row in rows}


FOUND = {"photos/b.png": "red", "photos/below/[1].png": "red", "photos/below/deeper/a.PNG": "blue"}


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["photos"], ["photos/b.png", "photos/below/[1].png", "photos/below/deeper/a.PNG"]),
        (["photos/below", "photos/b.png"], [*list(FOUND)[1:], "photos/b.png"]),
        (["photos/*"], list(FOUND)),
        (["photos/**/*.p[n]g"], ["photos/b.png", "photos/below/[1].png"]),
        (["photos/below/[1].png"], ["photos/below/[1].png"]),
    ],
)
def test_folders_and_patterns(photos, given, expected):
    found = picture_names.picture_names(given)
    assert [name for name in found if name != "photos/notes.txt"] == expected


def test_rows_keep_the_order_and_say_what_there_is_none_of(run, photos):
    given = ["photos/below", "empty", "photos/*.gif", "s3://bucket/a.png", "photos/b.png"]
    rows = kev2.predict(run, given)
    assert best(rows) == {
        "photos/below/[1].png": "red",
        "photos/below/deeper/a.PNG": "blue",
        "empty": "a folder without picture files (.jpg, .png, ...)",
        "photos/*.gif": "no file matches this pattern",
        "s3://bucket/a.png": "an address must begin with http:// or https://",
        "photos/b.png": "red",
    }
    assert [row.path for row in rows] == list(best(rows))


def test_many_pictures_come_in_batches_in_order(run, photos):
    names = ["photos/b.png", "photos/notes.txt", "photos/below/deeper/a.PNG"] * 4
    done = []
    rows = predict(run, names, batch_size=5, progress=lambda *counts: done.append(counts))
    assert [row.path for row in rows] == names
    assert [row.class_names[:1] for row in rows] == [("red",), (), ("blue",)] * 4
    assert done[-1] == (12, 12)
    alone = predict(run, names[:3])
    np.testing.assert_allclose(rows[9].scores, alone[0].scores, rtol=1e-5)
    np.testing.assert_allclose(rows[11].scores, alone[2].scores, rtol=1e-5)


def test_addresses(run, monkeypatch):
    monkeypatch.setattr(picture_names, "MAX_DOWNLOAD", 5000)
    answers = {
        "/red.png": [truncated(RED)],
        "/moved": [redirect("/red.png")],
        "/page": [typed("text/html; charset=utf-8", b"<html>")],
        "/text": [typed("image/png", b"no picture")],
        "/large": [truncated(bytes(6000))],
        "/half": [truncated(RED[:40] + bytes(100), 30)],
        "/gone": [status(404)],
    }
    slow = {"/slow": [dripping(RED)]}
    with serving(answers | slow) as server:
        rows = kev2.predict(run, [server.url + path for path in answers])
        monkeypatch.setattr(picture_names, "DOWNLOAD_SECONDS", 0.05)
        (late,) = kev2.predict(run, f"{server.url}/slow")
        nobody = server.url.replace("127.0.0.1", "me:secret@127.0.0.1")
    assert [row.error or row.class_names[0] for row in rows] == [
        "red",
        "red",
        "the server sends no picture, but text/html",
        "not a JPEG, PNG, BMP, GIF or WebP picture",
        "more than 5,000 bytes, the limit for a download",
        "cannot be downloaded: Connection broken: IncompleteRead(30 bytes read, 110 more expected)",
        "the server answers 404 Not Found",
    ]
    assert late.error == "the download takes more than 0.05 seconds"
    (row,) = kev2.predict(run, nobody)
    assert "secret" not in row.path
    assert row.error.startswith("cannot be downloaded: ")
    assert "Connection refused" in row.error


def test_standard_input_is_a_picture_or_a_list(run, photos, monkeypatch, capsys):
    def pipe(data):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))

    pipe(BLUE)
    code, out, _ = command(capsys, "predict", run, "-", "photos/b.png", "--top", 1)
    assert code == 0
    assert [line.split()[-1] for line in out.splitlines()] == ["blue", "red"]
    pipe("\ufeffphotos/b.png\r\n\nphotos/below\n".encode())
    code, out, _ = command(capsys, "predict", run, "--from-file", "-", "--json", "--top", 1)
    assert code == 0
    rows = [json.loads(line) for line in out.splitlines()]
    assert {row["picture"]: row["classes"][0]["class"] for row in rows} == FOUND
    for words, code, expected in (
        (("-", "--from-file", "-"), 2, "only once"),
        (("--from-file", "missing.txt"), 1, "--from-file: There is no file 'missing.txt'"),
        (("--from-file", "photos/.hidden.png"), 1, "cannot be read"),
        ((), 2, "Give a PICTURE, or a list of them with --from-file"),
    ):
        found, _, err = command(capsys, "predict", run, *words)
        assert (found, expected in err) == (code, True), err


def test_a_table_has_a_row_for_each_picture(run, photos, tmp_path, capsys):
    path = tmp_path / "found.csv"
    words = ("predict", run, "photos/*", "--csv", path)
    code, out, err = command(capsys, *words, "--top", 2)
    assert (code, out) == (1, "")
    assert err == (
        f"{path}: 4 pictures\nerror: 1 of 4 pictures cannot be read:\n"
        "  'photos/notes.txt': not a JPEG, PNG, BMP, GIF or WebP picture\n"
    )
    with open(path, encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["picture", "class", "score", "class_2", "score_2", "error"]
    assert [row["class"] for row in rows] == ["red", "red", "blue", ""]
    assert float(rows[0]["score"]) == pytest.approx(0.9433, abs=1e-3)
    assert rows[3]["error"] == "not a JPEG, PNG, BMP, GIF or WebP picture"
    code, out, _ = command(capsys, *words[:2], "photos/b.png", "--csv", path, "--json")
    assert (code, json.loads(out)["picture"]) == (0, "photos/b.png")


def test_low_scores_are_left_out(run, photos, capsys):
    rows = kev2.predict(run, ["photos/b.png", "photos/below/deeper/a.PNG"], min_score=0.08)
    assert [row.class_names for row in rows] == [("red",), ("blue", "green")]
    code, out, _ = command(capsys, "predict", run, "photos/b.png", "--min-score", 0.99)
    assert code == 0
    assert out == "photos/b.png  no class with a score of at least 99.00%\n"
    code, out, _ = command(capsys, "predict", run, "photos/b.png", "--min-score", 0.99, "--json")
    assert json.loads(out) == {"picture": "photos/b.png", "classes": []}
    code, _, err = command(capsys, "predict", run, "photos/b.png", "--min-score", 2)
    assert (code, err) == (1, "error: --min-score must be a number from 0 to 1. Received: 2.0\n")


def test_flip_is_the_mean_over_a_picture_and_its_mirror_image(tmp_path):
    import keras

    inputs = keras.Input((4, 4, 3))
    left = keras.layers.Cropping2D(((0, 0), (0, 2)))(inputs)
    pooled = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(left))
    dense = keras.layers.Dense(3, "softmax", use_bias=False)
    model = keras.Model(inputs, dense(pooled))
    dense.set_weights([4 * np.eye(3, dtype=np.float32)])
    pixels = np.zeros((4, 4, 3), np.uint8)
    pixels[:, :2, 0], pixels[:, 2:, 1] = 255, 255
    for name, image in (("one", pixels), ("mirrored", pixels[:, ::-1])):
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(image).numpy())
    names = [tmp_path / "one.png", tmp_path / "mirrored.png"]
    one, mirrored = kev2.predict(model, names, embeddings=True)
    both = kev2.predict(model, names, flip=True, embeddings=True)
    assert one.class_names == ("0", "1", "2")
    assert mirrored.class_names == ("1", "0", "2")
    mean = (one.scores[0] + mirrored.scores[1]) / 2
    for row in both:
        assert row.scores[:2] == pytest.approx((mean, mean), rel=1e-5)
        np.testing.assert_allclose(row.embedding, [0.5, 0.5, 0], atol=1e-6)


@pytest.mark.parametrize("make", [lambda size: make_model(size=size), make_forgetful_model])
def test_hundreds_of_pictures_get_what_one_gets(make, photos, monkeypatch):
    """Their network is folded, unless its copy computes something else."""
    step_eagerly(monkeypatch)
    model = make(32)
    (one,) = kev2.predict(model, "photos/b.png", top=6)
    for row in kev2.predict(model, ["photos/b.png"] * 300, top=6):
        assert row.class_names == one.class_names
        np.testing.assert_allclose(row.scores, one.scores, atol=1e-5)
