"""benchmarks/pipeline.py: what it compares, how it counts, what it says. Never how long it took."""

import itertools
import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tensorflow as tf

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import pipeline
import pipeline_memory
import pipeline_operations
import pipeline_peers
from pipeline import Turn

import keras_effnetv2 as kev2

QUICK = ["--rounds", "2", "--seconds", "0", "--warm-up", "0", "--batch-size", "4"]
IMPORTED = """
import tensorflow as tf

def batches(paths, image_size, batch_size):
    def picture(path):
        image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
        return tf.image.resize(image, [image_size, image_size])

    return tf.data.Dataset.from_tensor_slices(paths).map(picture).batch(batch_size)

def nothing(paths, image_size, batch_size):
    return batches(paths, image_size, batch_size).take(0)

def single(paths, image_size, batch_size):
    return batches(paths, image_size, batch_size).unbatch()

def no_dataset(paths, image_size, batch_size):
    return paths
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Six pictures of 40 x 30 pixels in one folder, without class folders."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for number in range(6):
        pixels = rng.integers(0, 256, (30, 40, 3), np.uint8)
        (folder / f"{number}.jpg").write_bytes(tf.io.encode_jpeg(pixels).numpy())
    return folder


@pytest.fixture
def imported(tmp_path, monkeypatch):
    """Puts the module `pipelines_of_a_user` into the current folder."""
    (tmp_path / "pipelines_of_a_user.py").write_text(IMPORTED, "utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(Path(pipeline.__file__).parent)  # as of a script; undone afterwards


def open_folder(folder, tmp_path):
    return pipeline.open_pictures(str(folder), tmp_path)


def test_the_command_measures_and_writes(folder, imported, tmp_path, capsys):
    markdown, as_json = tmp_path / "new" / "speed.md", tmp_path / "speed.json"
    pipeline.main(
        [
            *("--data", str(folder), "--image-size", "16", *QUICK),
            *("--only", "decode", "ours, crop only"),
            *("--pipeline", "mine=pipelines_of_a_user:batches"),
            *("--output", str(markdown), str(as_json)),
        ]
    )
    printed = capsys.readouterr().out
    assert printed == markdown.read_text("utf-8") + "\n"
    names = ["decode", "crop only", "ours, crop only", "mine"]
    assert re.findall(r"^\| (.+?) \| \d", printed, re.MULTILINE) == names
    assert "\n## Images/s at 16 pixels, batches of 4\n" in printed
    content = json.loads(as_json.read_text("utf-8"))
    assert content["tensorflow"] == tf.__version__
    assert content["command"].startswith("python ")
    (table,) = content["tables"]
    units = ("images/s", "processor ms")
    assert list(table["measured"]) == [f"{name}: {unit}" for name in names for unit in units]
    assert all(len(rounds) == 2 for rounds in table["measured"].values())


def test_ratios_are_taken_within_a_round():
    # The machine was four times as fast in round 2 and half as fast in round 3; the own pipeline
    # makes 1/2, 3/4 and 1 of crop only. The ratio of the medians would be 75 / 100.
    crop, own = [100.0, 400.0, 50.0], [75.0, 200.0, 50.0]
    table = pipeline.speed_table(
        {
            "crop only": [Turn(speed, 2.0) for speed in crop],
            "own": [Turn(speed, 1000 / speed) for speed in own],
            "own twice": [Turn(2 * speed, 1000 / speed) for speed in own[::-1]],
        },
        "title",
        ["note"],
    )
    assert table.rows == [
        ["crop only", "100 (50 to 400)", "1.00 (1.00 to 1.00)", "2.00 (2.00 to 2.00)"],
        ["own", "75 (50 to 200)", "0.75 (0.50 to 1.00)", "13.33 (5.00 to 20.00)"],
        ["own twice", "150 (100 to 400)", "1.00 (1.00 to 3.00)", "13.33 (5.00 to 20.00)"],
    ]
    assert table.measured["own: images/s"] == own


def test_pictures_are_counted_from_the_batches(monkeypatch):
    clock = SimpleNamespace(
        perf_counter=itertools.count().__next__,  # a second at every look
        process_time=iter([10.0, 10.9]).__next__,
    )
    monkeypatch.setattr(pipeline, "time", clock)
    batches = iter([{"images": np.zeros([rows, 2]), "other": 0} for rows in (4, 3, 2, 1)])
    turn = pipeline.take_turn(batches, 3)
    assert turn == (pytest.approx((4 + 3 + 2) / 3), pytest.approx(100.0))


def test_crop_only_is_plain_bilinear_without_antialias():
    # White noise whose crop shrinks by 10 or more: averaging over the source pixels would leave a
    # deviation below 127 / 10; interpolating between two times two leaves at least 127 / 2 of it.
    noise = np.random.default_rng(1).integers(0, 2, (400, 400, 1), np.uint8) * [255, 255, 255]
    image = pipeline_peers.crop(tf.constant(noise, tf.uint8), 8)
    assert (image.shape, image.dtype) == ((8, 8, 3), tf.float32)
    assert np.std(image) > 40
    # Horizontal ramp: what a crop spans of it is its width. Its area is 0.05 or more, its sides
    # are as 3 : 4 at most, so it is 0.19 to 1 of the picture wide, and differs from call to call.
    ramp = np.broadcast_to(np.linspace(0, 255, 400).astype("uint8")[:, np.newaxis], (400, 400, 3))
    widths = [np.ptp(pipeline_peers.crop(tf.constant(ramp), 200)) / 255 for _ in range(40)]
    assert min(widths) > 0.18
    assert np.ptp(widths) > 0.3


def test_decoding_alone_decodes_every_file(folder, tmp_path):
    source = open_folder(folder, tmp_path)
    corners = [
        tf.io.decode_jpeg(tf.io.read_file(path))[0, 0].numpy().tolist()
        for path in pipeline_peers.file_paths(source)
    ]
    batches = pipeline_peers.decode_alone(source, 16, 4).take(3)
    assert [row.tolist() for batch in batches for row in batch.numpy()] == corners * 2


def test_our_rows_are_the_training_pipeline(folder, tmp_path):
    source = pipeline.long_pass(open_folder(folder, tmp_path))
    assert source.num_examples >= pipeline.PICTURES_A_PASS
    row = pipeline_peers.ours(source, 16, 4, magnitude=None)
    training = kev2.make_dataset(
        source,
        image_size=16,
        batch_size=4,
        training=True,
        crop_area=(0.05, 1.0),
        reduced_decode=True,
        horizontal_flip=True,
    )
    for (images, _), (expected, _) in zip(row.take(2), training.take(2), strict=True):
        np.testing.assert_array_equal(images, expected)


def test_keras_cv_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras_cv", None)  # so that its import fails
    rows = pipeline_peers.standard_pipelines()
    kept, (note,) = pipeline_peers.without_what_cannot_be_imported(rows)
    assert [row.name for row in rows if row not in kept] == ["keras-cv"]
    assert note.startswith("keras-cv is left out: ModuleNotFoundError: import of keras_cv halted")
    without = [row for row in rows if row.name != "keras-cv"]
    assert pipeline_peers.without_what_cannot_be_imported(without) == (without, [])


@pytest.mark.parametrize(
    ("pipelines", "message"),
    [
        (["one:two"], "NAME=MODULE:FUNCTION, for example .* Received: 'one:two'"),
        (["a=b"], "NAME=MODULE:FUNCTION"),
        (["a=no.such:f"], "Pipeline 'a': the module 'no.such' cannot be imported: No module named"),
        (["a=pipelines_of_a_user:x"], "'pipelines_of_a_user' has no function 'x'"),
        (["a=pipelines_of_a_user:nothing"], "Pipeline 'a' yields nothing"),
        (["a=pipelines_of_a_user:no_dataset"], "must return a tf.data.Dataset .* Received: list"),
        (["a=pipelines_of_a_user:single"], r"shape \(B, 16, 16, 3\). Received: TensorSpec"),
        (["crop only=pipelines_of_a_user:batches"], "two pipelines of the name 'crop only'"),
    ],
)
def test_a_pipeline_that_is_none_is_one_clear_error(folder, imported, pipelines, message):
    given = [part for text in pipelines for part in ("--pipeline", text)]
    command = ["--data", str(folder), "--image-size", "16", *QUICK, "--only", "crop only"]
    with pytest.raises(SystemExit, match=f"^pipeline.py: error: .*{message}"):
        pipeline.main([*command, *given])


def test_data_without_pictures_in_files_is_one_clear_error(tmp_path):
    for data, message in (
        (str(tmp_path), "There are no pictures in"),
        (str(tmp_path / "gone"), "There is no folder"),
        ("digits", "'digits' does not keep its pictures in files"),
    ):
        with pytest.raises(SystemExit, match=message):
            pipeline.main(["--data", data])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--output", "table.txt"], "end in .md or .json, not table.txt"),
        (["--seconds", "-1"], "must not be negative"),
        (["--rounds", "0"], "must be at least 1, not 0"),
        (["--operations", "--memory"], "not allowed with"),
    ],
)
def test_wrong_usage(arguments, message, capsys):
    with pytest.raises(SystemExit, match="2"):
        pipeline.parse(["--data", "folder", *arguments])
    assert message in capsys.readouterr().err


def test_a_step_is_what_it_takes_beyond_handing_on(monkeypatch):
    step = pipeline_operations.mapped("work", tf.data.Dataset.range(10), lambda n: n * 2)
    assert step.pictures == 128
    taken = iter([0.5, 0.244, 0.6, 0.088])  # seconds with and without the step, two rounds
    monkeypatch.setattr(pipeline_operations, "seconds_of_a_pass", lambda passes: next(taken))
    micros = pipeline_operations.measured([step], 2)
    assert micros == {"work": [pytest.approx(2_000), pytest.approx(4_000)]}


def test_a_pass_computes_so_many_elements_and_none_ahead():
    seen = tf.Variable(0, dtype=tf.int64)
    endless = tf.data.Dataset.range(10).repeat().map(lambda n: seen.assign_add(1))
    passes = iter(pipeline_operations.passes(endless, 25))
    for number in (1, 2):
        next(passes)
        assert int(seen) == 25 * number


def test_the_memory_bound_adds_up():
    # Batches of 64 x 224 x 224 x 3 float32, 38.5 MB: 1 + 2 + 2 + 5 * 2; two calls with two pictures
    # of 1000 x 800, ten of 224 x 224 in float32 and 64 MiB each.
    batch = 64 * 224 * 224 * 12
    work = 2 * 1000 * 800 * 3 + 10 * 224 * 224 * 12 + 2**26
    assert pipeline_memory.memory_bound(224, 64, 800_000, 2) == 15 * batch + 2 * work
