"""The command `export`: every option reaches what it is for, and none is ignored."""

import json

import numpy as np
import pytest
from helpers.command_line import VARIANT, command, small_variant
from helpers.run_folders import write_run
from helpers.served_models import NAMES, SIZE, make_model, pixels

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.main import main, parse
from keras_effnetv2.export.metadata import Metadata, read_metadata
from keras_effnetv2.export.runtimes import FORMATS, load_exported
from keras_effnetv2.models.build import build_model


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    write_run(folder, style="v2")
    return folder


def test_a_saved_model(run, capsys):
    (run / "saved_model" / "2").mkdir(parents=True)  # the next version is 3
    words = "--top-k 2 --max-pixels 500 --gif --weights-dtype bfloat16 --no-fold"
    assert main(["export", str(run), *words.split()]) == 0
    folder = run / "saved_model" / "3"
    path, difference = capsys.readouterr().out.splitlines()
    assert path == str(folder)
    card = json.loads((folder / "model_card.json").read_text())
    assert (card["model"]["variant"], card["top_k"]) == ("tiny", 2)
    assert card["model"]["weights"] == "trained on photos, started from imagenet"
    assert card["preprocessing"] == {
        "image_size": SIZE,
        "style": "v2",
        "max_pixels": 500,
        "gif": True,
        "pixel_range": [0, 255],
        "normalization": "inside the model",
    }
    assert card["accuracy"]["batch_norm_folded"] is False
    assert card["accuracy"]["weights_dtype"] == "bfloat16"
    moved = card["accuracy"]["weights_max_difference"]
    assert 0 < moved < 0.01
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    assert difference == (
        f"{size:,} bytes; compared with Keras on 8 pictures: same best class on 100.0%, "
        f"probabilities within {moved:.2g}"
    )
    assert read_metadata(run / "saved_model") == Metadata(
        class_names=tuple(NAMES),
        image_size=SIZE,
        style="v2",
        pixel_range=(0, 255),
        activation="softmax",
    )


def test_a_version_that_is_there_is_not_overwritten(run, capsys):
    (run / "saved_model" / "2").mkdir(parents=True)
    assert main(["export", str(run), "--version", "2"]) == 1
    assert "export with another version (--version 3, version=3)" in capsys.readouterr().err


@pytest.mark.slow  # converts a network three times
def test_all_formats(run, tmp_path, capsys):
    assert main(["export", str(run)]) == 0
    written = capsys.readouterr().out.splitlines()
    assert main(["export", str(run), "--format", "all"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:2] == [written[0], f"already there: {written[1]}"]
    assert [path.name for path in (run / "saved_model").iterdir()] == ["1"]
    names = ("saved_model/1", "model.onnx", "model.xml", "model.tflite")
    assert lines[::2] == [str(run / name) for name in names]
    assert {read_metadata(path) for path in lines[::2]} == {read_metadata(run / "saved_model")}
    # In another folder they would be the same, and there is an ONNX file.
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.onnx").touch()
    assert main(["export", str(run), "--format", "all", "--output", str(other)]) == 1
    assert f"remove {other / 'model.onnx'}" in capsys.readouterr().err


@pytest.mark.slow  # converts a network
def test_a_variant_is_exported_as_it_is_evaluated(tmp_path, capsys):
    with small_variant():
        model = build_model(ModelConfig.from_name(VARIANT))
        path = tmp_path / "mine.weights.h5"
        model.save_weights(path)
        words = ("export", VARIANT, "--weights", path)
        code, _, err = command(capsys, *words)
        assert (code, err) == (
            1,
            f"error: --output must be given, since {VARIANT!r} is not a run folder.\n",
        )
        code, out, err = command(capsys, *words, "--output", tmp_path / "served")
        assert (code, out.splitlines()[0]) == (0, str(tmp_path / "served" / "1")), err
    card = json.loads((tmp_path / "served" / "1" / "model_card.json").read_text())
    assert (card["model"]["variant"], card["model"]["weights"]) == (VARIANT, str(path))
    assert (card["preprocessing"]["image_size"], card["preprocessing"]["style"]) == (224, "v1")


@pytest.mark.slow  # converts a network
def test_a_file_for_another_runtime(run, capsys):
    words = ["--format", "litert", "--quantize", "float16", "--pictures", "digits"]
    assert main(["export", str(run), *words]) == 0
    path, figures = capsys.readouterr().out.splitlines()
    assert path == str(run / "model.tflite")
    report = json.loads((run / "model.tflite.json").read_text())
    assert (report["quantize"], report["pictures"]) == ("float16", 256)
    size = (run / "model.tflite").stat().st_size
    assert figures.startswith(f"{size:,} bytes; compared with Keras on 256 pictures: same best")
    images = pixels(2)
    expected = make_model().predict(images, verbose=0)
    np.testing.assert_allclose(load_exported(path)(images), expected, atol=1e-2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--format onnx --gif --top-k 3", "--format onnx does not go with --top-k, --gif"),
        ("--quantize int8", "--format saved_model does not go with --quantize"),
        ("--format all --quantize float16 --top-k 2", "all does not go with --quantize."),
        ("--top-k 0", "--top-k must be"),
        ("--format onnx --output x.pb", "The path must end in .onnx, for example x.onnx."),
        ("--format litert --quantize int8", "Give a few hundred (--calibration, calibration=)"),
        (
            "--format onnx --quantize int8",
            "quantize must be None for format 'onnx'. Leave it out, or choose from: openvino with "
            "float16, bfloat16; litert with float16, dynamic, int8.",
        ),
    ],
)
def test_options_of_another_format_are_refused(run, words, message, capsys):
    before = sorted(run.rglob("*"))
    assert main(["export", str(run), *words.split()]) == 1
    assert message in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


def test_every_format_can_be_asked_for():
    for format in ("saved_model", "all", *FORMATS):
        assert parse(["export", "run", "--format", format]).params["format"] == format
