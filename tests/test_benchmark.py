"""Timing in turns, what is compared, and the command `benchmark`."""

import json
import re

import keras
import numpy as np
import pytest
from helpers.photos import COLOURS, write_colour_run, write_photos, write_picture
from helpers.quick_runs import two_blocks
from helpers.run_folders import write_run

from keras_effnetv2._common import timing
from keras_effnetv2._common.timing import measure, time_ratio
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.benchmark import comparison
from keras_effnetv2.benchmark.comparison import Timed, compare
from keras_effnetv2.benchmark.comparison_report import paper_table
from keras_effnetv2.benchmark.contestants import (
    all_formats,
    formats_here,
    open_contestant,
    open_network,
    same_in_keras_applications,
)
from keras_effnetv2.benchmark.paper_figures import TABLE_7, TABLE_11
from keras_effnetv2.cli.main import main
from keras_effnetv2.export.real_pictures import photographs
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.multiply_adds import count_flops

SIZE = 32


def small_network(weights="imagenet", input_shape=(SIZE, SIZE, 3)):
    """What MODULE:NAME names in these tests."""
    assert weights is None
    keras.utils.set_random_seed(3)
    return build_model(two_blocks(), classes=5, input_shape=input_shape)


def unlike_network():
    return "a network"


def needs_more(depth):
    raise AssertionError(depth)


SMALL = f"{__name__}:small_network"


@pytest.fixture
def clock(monkeypatch):
    """A clock that only moves when it is told to."""
    now = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: now[0])
    return now


def test_each_has_its_turn_in_every_round_and_its_own_time(clock):
    log = []

    def run(name, seconds):
        log.append(name)
        clock[0] += seconds

    finished = []
    seconds = measure(
        [lambda: run("a", 2), lambda: run("b", 3), lambda: run("c", 5)], 2, 2, finished.append
    )
    assert seconds.tolist() == [[[2, 2], [2, 2]], [[3, 3], [3, 3]], [[5, 5], [5, 5]]]
    assert "".join(log) == "aabbcc" + "aaabbbccc" + "bbbcccaaa"
    assert finished == [1, 2]


def test_a_ratio_does_not_follow_the_noise_of_the_machine():
    noise = np.array([[1.0, 1.0, 9.0], [4.0, 4.0, 4.0], [2.0, 2.0, 2.0]])
    assert time_ratio(3 * noise, noise) == pytest.approx(3)
    assert time_ratio(noise, 4 * noise) == pytest.approx(0.25)


@pytest.mark.parametrize(("rounds", "calls"), [(0, 1), (1, 0)])
def test_nothing_to_time(rounds, calls):
    with pytest.raises(ValueError, match=r"must be an integer of at least 1. Received: 0"):
        measure([], rounds, calls)


def test_rows_of_the_paper():
    assert set(TABLE_7) | set(TABLE_11) <= set(ModelConfig.variants())
    # The abstract of the paper: up to 6.8 times smaller, 5 to 11 times faster to train.
    old, new = TABLE_7["efficientnet-b7"], TABLE_7["efficientnetv2-m"]
    assert old.train_hours / new.train_hours == pytest.approx(11, abs=0.5)
    assert old.infer_ms / new.infer_ms == pytest.approx(3, abs=0.1)
    # The factors that Table 11 prints beside the throughput.
    pairs = [("b1", "b0", 2.1), ("b2", "b1", 2.0), ("b4", "b3", 2.7), ("b5", "s", 3.1)]
    for v1, v2, factor in pairs:
        faster = TABLE_11[f"efficientnetv2-{v2}"].throughput
        assert faster / TABLE_11[f"efficientnet-{v1}"].throughput == pytest.approx(factor, abs=0.05)


def test_a_drawn_network_has_lively_signals():
    network = open_network(SMALL)
    assert network.image_size == SIZE
    every = keras.Model(network.model.inputs, [layer.output for layer in network.model.layers])
    outputs = every(photographs(SIZE))
    spreads = [float(np.std(output)) for output in outputs]
    assert min(spreads) > 0.01
    assert max(spreads[2:]) < 100  # the first ones are pixels
    assert 0.5 < np.max(outputs[-1], axis=-1).mean() < 1


def test_networks_by_name(tmp_path):
    assert open_network(SMALL, 48).model.input_shape == (None, 48, 48, 3)
    assert open_network("efficientnetv2-b0", 32).model.output_shape == (None, 1000)
    trained = write_run(tmp_path)
    opened = open_network(str(tmp_path)).model
    for weight, value in zip(opened.weights, trained.weights, strict=True):
        np.testing.assert_array_equal(weight, value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("efficientnetv3", r"a variant .*, a run folder, or MODULE:NAME.*'efficientnetv3'"),
        ("no_module:model", "There is no model 'no_module:model': No module named"),
        (f"{__name__}:nothing", "There is no model .*nothing"),
        (f"{__name__}:needs_more", "no arguments except weights and input_shape: .*depth"),
        (f"{__name__}:unlike_network", "must return a Keras model. Received: str"),
    ],
)
def test_what_is_no_network(name, message):
    with pytest.raises(ValueError, match=message):
        open_network(name)


def test_weights_are_for_variants():
    with pytest.raises(ValueError, match=r"`weights` are for variants only. Received: 'imagenet'"):
        open_network(SMALL, weights="imagenet")


def test_the_same_variant_in_keras_applications():
    for variant in ModelConfig.variants():
        if variant == "efficientnetv2-xl" or "-lite" in variant:
            with pytest.raises(ValueError, match=f"does not have '{variant}'"):
                same_in_keras_applications(variant)
            continue
        module, _, name = same_in_keras_applications(variant).partition(":")
        assert module == "keras.applications"
        assert name.lower() == variant.replace("-", "")
        assert hasattr(keras.applications, name)
    with pytest.raises(ValueError, match="does not have 'runs/photos'"):
        same_in_keras_applications("runs/photos")


def timed_as(name, format="keras", seconds=1.0):
    """Four pictures at once, in so many seconds."""
    of_network = (224, 7_200_312, 721_000_000, None, 0.0, 1.0)
    return Timed(name, format, *of_network, {4: np.full((1, 1), seconds)}, {4: 1.0})


@pytest.mark.slow  # converts a network
def test_a_format_computes_what_keras_does(tmp_path):
    """All formats of files have a test in test_lite_weights.py."""
    formats = ["keras", "keras_export", "litert:int8"]
    group = compare(SMALL, formats, batch_sizes=[3], rounds=1, calls=1, threads=1)
    assert [timed.format for timed in group] == formats
    network = open_network(SMALL)
    for timed in group:
        assert timed.image_size == SIZE
        assert timed.parameters == network.model.count_params()
        assert timed.flops == count_flops(network.model, SIZE)
        is_float32 = ":" not in timed.format
        assert timed.max_difference <= (1e-4 if is_float32 else 0.2)
        assert timed.top1_agreement == 1 if is_float32 else timed.top1_agreement >= 0.75
        if timed.format == "keras":
            assert timed.bytes is None
        else:
            assert timed.bytes >= timed.parameters  # int8 is one byte each, and more
    if "openvino:bfloat16" not in formats_here():
        with pytest.raises(RuntimeError, match="AVX512_BF16 or AMX, and this one does not"):
            open_contestant(network, "openvino:bfloat16", tmp_path, threads=1)


def test_all_formats():
    assert all_formats() == (
        *("keras", "keras_export", "saved_model", "saved_model:bfloat16", "saved_model:float16"),
        *("onnx", "openvino", "openvino:float16", "openvino:bfloat16"),
        *("litert", "litert:float16", "litert:dynamic", "litert:int8"),
    )


def test_the_command(tmp_path, capsys):
    times = tmp_path / "times.json"
    words = f"benchmark {SMALL} --formats keras onnx --batch-sizes 1 2 --rounds 2 --calls 3"
    assert main([*words.split(), "--against", SMALL, "--json", str(times)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "tensorflow: " in lines[0]
    assert "0.00 billion multiply-adds at 32 x 32 pixels" in lines[2]
    rows = [line.split(" | ") for line in lines if line.startswith(f"| {SMALL}")]
    assert [row[1] for row in rows] == ["keras_export", "keras", "onnx"]
    assert rows[0][7] == "1.00"
    written = json.loads(times.read_text())
    assert [result["format"] for result in written["results"]] == [row[1] for row in rows]
    for result in written["results"]:
        assert result["compared_with"] == f"{SMALL} keras_export"
        assert np.shape(result["seconds"]["1"]) == np.shape(result["seconds"]["2"]) == (2, 3)
        assert np.min(result["seconds"]["1"]) > 0
    assert f"{written['results'][1]['time_ratio']['1']:.2f}" == rows[1][7]


@pytest.mark.slow  # converts a network to every format
def test_accuracy_of_each_format_on_pictures_that_the_run_has_not_seen(tmp_path, capsys):
    run = write_colour_run(tmp_path / "run", write_photos(tmp_path / "photos"))
    photos, times = tmp_path / "new", tmp_path / "times.json"
    for number, shown in enumerate(["blue", "blue", "red", "blue"]):
        write_picture(photos / "blue" / f"{number}.png", COLOURS[shown])
    write_picture(photos / "green" / "4.png", COLOURS["green"])
    words = [str(run), *QUICK, "--formats", "keras", "onnx", "--data", str(photos)]
    assert main(["benchmark", *words, "--json", str(times)]) == 0
    rows = [line.split(" | ") for line in capsys.readouterr().out.splitlines() if " | " in line]
    assert rows[0][3:7] == ["largest difference", "same class", "accuracy", "ms for 1 (p95)"]
    for row in rows[2:]:
        assert row[4:6] == ["100.0%", "80.0%"]
    for result in json.loads(times.read_text())["results"]:
        assert (result["accuracy"], "top_5_accuracy" in result) == (0.8, False)
        assert result["max_difference"] < 1e-6
    # Pictures with the names of training pictures, and one that cannot be read.
    again = tmp_path / "again"
    for path in (tmp_path / "photos").glob("*/*.png"):
        write_picture(again / path.parent.name / path.name, (9, 9, 9))
    (again / "blue" / "8.png").write_bytes(b"nothing")
    words[words.index("--data") + 1] = str(again)
    assert main(["benchmark", *words]) == 1
    message = capsys.readouterr().err
    assert re.search(r"1 picture cannot be used:\n.*8\.png.*\n  Repair or remove them\.$", message)
    (again / "blue" / "8.png").unlink()
    assert main(["benchmark", *words]) == 0
    assert "saved again, the accuracy is too high" in capsys.readouterr().err


QUICK = ["--formats", "keras", "--batch-sizes", "1", "--rounds", "1", "--calls", "1"]


def test_all_is_every_variant(monkeypatch, capsys):
    names = []

    def compared(name, **_):
        names.append(name)
        return [timed_as(name)]

    monkeypatch.setattr(comparison, "compare", compared)
    assert main(["benchmark", "all", *QUICK]) == 0
    assert tuple(names) == tuple(ModelConfig.variants())
    assert capsys.readouterr().out.count("multiply-adds at 224 x 224") == len(names)


def test_a_failure_leaves_what_was_measured_before(tmp_path, capsys):
    times = tmp_path / "times.json"
    words = ["benchmark", SMALL, f"{__name__}:nothing", *QUICK, "--json", str(times)]
    assert main(words) == 1
    assert "There is no model" in capsys.readouterr().err
    assert [result["network"] for result in json.loads(times.read_text())["results"]] == [SMALL]


def test_the_table_beside_the_paper():
    def group(name, *seconds):
        return [timed_as(name, *one) for one in zip(("keras", "onnx"), seconds, strict=True)]

    table = paper_table([group("efficientnetv2-b0", 0.5, 0.25), group("efficientnetv2-s", 1, 2)])
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines()]
    start = ["224", "7.4", "7.20", "0.7", "0.72"]
    assert rows[2] == ["efficientnetv2-b0", *start, "", "", "", "78.7", "5739", "16.0", "onnx"]
    paper = ["83.9", "24", "7.1", "83.6", "901"]
    assert rows[3][0] == "efficientnetv2-s"
    assert rows[3][6:] == [*paper, "4.0", "keras"]
    assert paper_table([group("keras.applications:ResNet50", 1, 2)]) == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("efficientnetv2-b0 --rounds 0", "--rounds must be at least 1. Received: 0"),
        ("efficientnetv2-b0 --calls 0", "--calls must be at least 1. Received: 0"),
        ("efficientnetv2-b0 --batch-sizes 1 0", "--batch-sizes must be at least 1. Received: 0"),
        ("efficientnetv2-b0 --threads 0", "--threads must be at least 1. Received: 0"),
        ("efficientnetv2-b0 --image-size 0", "--image-size must be .* at least 1. Received: 0"),
        ("efficientnetv2-b0 --json no/folder/x.json", "--json: there is no folder no/folder"),
        ("efficientnetv2-b0 --data no/folder", "There is no folder 'no/folder'"),
        (
            f"{SMALL} --data digits",
            "There is no folder .*small_network.*A network is the folder of a run",
        ),
        ("all efficientnetv2-b0", "all means every variant"),
        ("efficientnetv2-b9", "A model must be a variant"),
        (
            f"{SMALL} --formats keras tflite",
            "must be one of 'keras', .*'litert:int8'.* Received: 'tfl",
        ),
        (f"{SMALL} efficientnetv2-xl --against keras.applications", "does not have '.*:small_net"),
        (
            "efficientnetv2-b0 efficientnetv2-xl --against keras.applications",
            "does not have '.*-xl'",
        ),
    ],
)
def test_what_the_command_refuses(words, message, capsys):
    assert main(["benchmark", *words.split()]) == 1
    shown = capsys.readouterr()
    assert re.search(message, shown.err)
    assert "multiply-adds" not in shown.out  # nothing was measured before
