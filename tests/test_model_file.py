"""`train --model FILE` and `info FILE`: a network that a JSON file describes."""

import contextlib
import io
import json
import re
import shutil
from dataclasses import replace

import pytest
from helpers.photos import write_photos
from helpers.quick_runs import (
    leave_out_operations,
    leave_out_results,
    step_eagerly,
    two_blocks,
)
from test_cli import command

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.config_file import is_published, read_config
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.cli.main import main
from keras_effnetv2.models.build import build_model
from keras_effnetv2.runs.run_folder import open_run
from keras_effnetv2.training.preflight import architecture_to_record

OWN = ModelConfig(
    "own.net",
    decode_stages(["r1_k5_s2_e1_i8_o8_c1", "r2_k3_s2_e4_i8_o16_se0.25"]),
    head_filters=32,
)
OPTIONS = ("--epochs", 1, "--stages", 1, "--image-size", 32, "--batch-size", 8)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with `own.json`, `other.json` (one layer less) and `photos/`."""
    folder = tmp_path_factory.mktemp("files")
    (folder / "own.json").write_text(OWN.to_json(), encoding="utf-8")
    other = replace(OWN, stages=(OWN.stages[0], replace(OWN.stages[1], repeats=1)))
    (folder / "other.json").write_text(other.to_json(), encoding="utf-8")
    write_photos(folder / "photos", count=8)
    return folder


# --- the file -----------------------------------------------------------------------------------


def test_a_name_is_a_variant_and_a_path_a_file(files, tmp_path, monkeypatch):
    assert read_config(str(files / "own.json")) == OWN
    # A file never hides a variant.
    monkeypatch.chdir(tmp_path)
    (tmp_path / "efficientnetv2-b0").write_text(OWN.to_json(), encoding="utf-8")
    assert read_config("efficientnetv2-b0") == ModelConfig.from_name("efficientnetv2-b0")


def test_published_is_what_a_variant_is_wholly():
    b0 = ModelConfig.from_name("efficientnetv2-b0")
    assert is_published(b0)
    assert not is_published(OWN)
    assert not is_published(two_blocks())  # only called efficientnetv2-b0
    assert not is_published(replace(b0, name="mine"))


FIELDS = json.loads(OWN.to_json())


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "Not a JSON text"),
        (b"\x89PNG\r\n\x1a\n", "utf-8"),
        (json.dumps(FIELDS | {"head_filters": "32"}).encode(), "`head_filters`"),
    ],
)
def test_a_damaged_file_is_one_clear_error(content, named, tmp_path):
    path = tmp_path / "net.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"net\.json is not a JSON file of a network") as error:
        read_config(str(path))
    assert named in str(error.value)


@pytest.mark.parametrize("name", ["resnet50", "nets/best.json", "", "\0", "x" * 5000])
def test_what_is_neither_variant_nor_file_lists_the_variants(name):
    with pytest.raises(ValueError, match=r"Unknown variant, and no such file: .*efficientnetv2-xl"):
        read_config(name)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(ValueError, match="cannot be read: Is a directory"):
        read_config(str(tmp_path))


# --- info ---------------------------------------------------------------------------------------


def test_info_shows_a_file_and_prints_it_again(files, capsys):
    code, out, _ = command(capsys, "info", files / "own.json", "--classes", 3)
    assert code == 0
    assert "own.net, 3 classes" in out
    assert "published weights  none" in out
    assert "Fused-MBConv1, k5x5" in out
    _, out, _ = command(capsys, "info", files / "own.json", "--json")
    assert ModelConfig.from_json(out) == OWN


def test_info_does_not_promise_weights_to_a_net_that_is_only_called_b0(tmp_path, capsys):
    (tmp_path / "b0.json").write_text(two_blocks().to_json(), encoding="utf-8")
    _, out, _ = command(capsys, "info", tmp_path / "b0.json")
    assert "published weights  none" in out


def test_info_shows_and_prints_a_network_for_small_pictures(tmp_path, capsys):
    _, out, _ = command(capsys, "info", "b0", "--for-pictures", 32, "--json")
    small = ModelConfig.from_name("efficientnetv2-b0").for_small_pictures(32)
    assert ModelConfig.from_json(out) == small
    (tmp_path / "small.json").write_text(out, encoding="utf-8")
    _, shown, _ = command(capsys, "info", tmp_path / "small.json", "--image-size", 32)
    assert shown == command(capsys, "info", "b0", "--for-pictures", 32)[1]
    assert "published weights  imagenet" in shown
    assert re.search(r"7 +Conv1x1 & Pooling & FC .* 4 x 4\n", shown)


# --- train --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "recorded"),
    [
        ("efficientnetv2-b0", None),
        (ModelConfig.from_name("efficientnetv2-b0"), None),
        (OWN, FIELDS),
        (two_blocks(), json.loads(two_blocks().to_json())),  # only called efficientnetv2-b0
    ],
)
def test_a_run_records_what_no_name_says(model, recorded):
    assert architecture_to_record(model) == recorded


def train_words(files, model, output, *more, photos="photos"):
    words = ("train", "--data", files / photos, "--model", files / model, "--output", output)
    return [str(word) for word in (*words, *OPTIONS, *more)]


class ClosedTerminal(io.StringIO):
    """An output that is gone when the first stage begins."""

    def write(self, text):
        if text.startswith("Stage 1/1"):
            raise BrokenPipeError


@pytest.fixture(scope="module")
def broken_off(files):
    """A run of `own.json` that broke off in its epoch."""
    output = files / "broken off"
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(ClosedTerminal()):
        leave_out_operations(patch)
        leave_out_results(patch)
        step_eagerly(patch)
        assert main(train_words(files, "own.json", output)) == 1
    assert json.loads((output / "recipe.json").read_text())["finished"] is False
    return output


@pytest.fixture(scope="module")
def run(files, broken_off):
    """The same run, gone on with from a copy of its photos."""
    output = files / "run"
    shutil.copytree(broken_off, output)
    shutil.copytree(files / "photos", files / "copy")
    with pytest.MonkeyPatch.context() as patch:
        leave_out_operations(patch)
        leave_out_results(patch)
        step_eagerly(patch)
        assert main(train_words(files, "own.json", output, "--resume", photos="copy")) == 0
    return output


def test_the_run_has_the_network_of_the_file_and_says_so(run):
    settings = json.loads((run / "recipe.json").read_text())
    assert (settings["model"], settings["architecture"]) == ("own.net", FIELDS)
    trained, expected = open_run(run).model, build_model(OWN, classes=3)
    assert trained.name == "own.net"
    assert [layer.name for layer in trained.layers] == [layer.name for layer in expected.layers]
    assert [w.shape for w in trained.weights] == [w.shape for w in expected.weights]
    assert trained.get_layer("block1a_project_conv").kernel_size == (5, 5)


def test_only_the_same_network_goes_on(files, broken_off, capsys):
    code, _, err = command(capsys, *train_words(files, "other.json", broken_off, "--resume"))
    assert code == 1
    assert "Changed: architecture.stages" in err
    assert "r2_k3_s2_e4_i8_o16_se0.25" in err
    assert "r1_k3_s2_e4_i8_o16_se0.25" in err


def test_only_the_same_pictures_go_on(files, broken_off, tmp_path, capsys):
    more = shutil.copytree(files / "photos", tmp_path / "more")
    path = next(more.rglob("*.png"))
    path.write_bytes(path.read_bytes() + b"\n")
    words = train_words(files, "own.json", broken_off, "--resume", photos=more)
    code, _, err = command(capsys, *words)
    assert code == 1
    assert re.search(r"Changed: (training|validation) pictures: 1 missing, 1 new$", err.strip())


@pytest.mark.slow  # an export
def test_the_run_is_evaluated_and_exported(files, run, tmp_path, capsys):
    code, out, _ = command(capsys, "evaluate", run, "--data", files / "photos", "--json")
    recorded = json.loads((run / "recipe.json").read_text())["result"]["validation_accuracy"]
    assert code == 0
    assert json.loads(out)["accuracy"] == pytest.approx(recorded)
    code, out, _ = command(capsys, "export", run, "--output", tmp_path)
    assert (code, out.splitlines()[0]) == (0, str(tmp_path / "1"))
    assert "own.net" in (tmp_path / "1" / "model_card.json").read_text()


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--model", "resnet50"), "Unknown variant, and no such file: 'resnet50'"),
        (("--model", __file__), "test_model_file.py is not a JSON file of a network"),
        (("--weights", "imagenet"), "published for own.net"),
    ],
)
def test_what_cannot_be_trained_is_one_clear_error(files, tmp_path, capsys, words, named):
    output = tmp_path / "run"
    code, _, err = command(capsys, *train_words(files, "own.json", output), *words)
    assert code == 1
    assert err.startswith("error: ")
    assert named in err
    assert not output.exists()
