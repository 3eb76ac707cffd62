"""The command line: the main job in words, exit codes, and one clear error for each bad input."""

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2 import TrainRecipe, load_source, train
from keras_effnetv2.architectures.config import ModelConfig, decode_stages
from keras_effnetv2.cli.main import main
from keras_effnetv2.evaluation.scores import evaluate_source
from keras_effnetv2.models.build import build_model
from keras_effnetv2.runs.run_folder import open_run

TINY = ModelConfig(
    "tiny",
    decode_stages(["r1_k3_s1_e1_i8_o8_c1", "r1_k3_s2_e4_i8_o16_se0.25"]),
    head_filters=32,
)
COLOURS = {"red": (220, 30, 30), "blue": (30, 30, 220), "green": (30, 200, 30)}


def write_picture(path, colour, size=40):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(str(path))).integers(0, 30, (size, size, 3))
    pixels = np.clip(np.array(colour) + noise, 0, 255).astype(np.uint8)
    path.write_bytes(tf.io.encode_png(pixels).numpy())


def write_photos(folder, count=12):
    for name, colour in COLOURS.items():
        for number in range(count):
            write_picture(folder / name / f"{number}.png", colour)
    return folder


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return write_photos(tmp_path_factory.mktemp("photos"))


@pytest.fixture(scope="module")
def run(photos, tmp_path_factory):
    """A run of a tiny net that tells three colours apart."""
    recipe = replace(
        TrainRecipe.preset("quickstart"),
        epochs=6,
        stages=2,
        image_size=(32, 40),
        batch_size=8,
        learning_rate=0.3,
        ema_decay=None,
        mixup_alpha=0.0,
    )
    output = tmp_path_factory.mktemp("runs") / "colours"
    train(build_model(TINY, classes=3), str(photos), recipe, output, scan=False, verbose=0)
    return output


def command(capsys, *words):
    """Exit code, stdout and stderr of a command."""
    code = main([str(word) for word in words])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.slow  # starts TensorFlow, traces B0 and exports it
def test_train_on_a_folder_in_a_fresh_process(photos, tmp_path):
    """The main job with the real smallest variant, as a person types it."""
    words = [
        "-m",
        "keras_effnetv2",
        "train",
        "--model",
        "efficientnetv2-b0",
        "--epochs",
        "1",
        "--stages",
        "1",
    ]
    output = tmp_path / "a run"
    result = subprocess.run(
        [sys.executable, *words, "--image-size", "32", "--data", photos, "--output", output],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    for expected in ("29 for training, 7 for validation", "3: blue, green, red", "report.html"):
        assert expected in result.stdout
    assert {path.name for path in output.iterdir()} == {
        "model.keras",
        "saved_model",
        "labels.txt",
        "recipe.json",
        "history.csv",
        "report.html",
    }
    assert "Traceback" not in result.stderr
    assert "WARNING" not in result.stderr


def test_evaluate_uses_what_the_run_held_back(run, photos, capsys):
    code, out, _ = command(capsys, "evaluate", run, "--data", photos, "--json")
    result = json.loads(out)
    assert code == 0
    assert (result["split"], result["pictures"]) == ("validation", 7)
    recorded = json.loads((run / "recipe.json").read_text())["result"]["validation_accuracy"]
    assert result["accuracy"] == pytest.approx(recorded)


def test_evaluate_other_data_wholly_and_a_test_folder_by_itself(run, tmp_path, capsys):
    other = write_photos(tmp_path / "other", count=2)
    _, out, _ = command(capsys, "evaluate", run, "--data", other, "--json")
    assert (json.loads(out)["split"], json.loads(out)["pictures"]) == ("all", 6)
    split = tmp_path / "split"
    write_photos(split / "train", count=3)
    write_photos(split / "test", count=1)
    _, out, _ = command(capsys, "evaluate", run, "--data", split, "--json")
    assert (json.loads(out)["split"], json.loads(out)["pictures"]) == ("test", 3)


def test_evaluate_prints_a_table(run, photos, capsys):
    code, out, _ = command(capsys, "evaluate", run, "--data", photos, "--split", "all")
    assert code == 0
    assert "accuracy" in out
    assert {line.split()[0] for line in out.splitlines()[-3:]} == set(COLOURS)


def test_evaluate_refuses_classes_the_run_does_not_know(run, tmp_path, capsys):
    other = write_photos(tmp_path / "other", count=2)
    write_picture(other / "violet" / "1.png", (200, 0, 200))
    code, _, err = command(capsys, "evaluate", run, "--data", other)
    assert code == 1
    assert "'violet'" in err


def test_predict_a_table_and_json(run, photos, capsys):
    pictures = [photos / name / "0.png" for name in COLOURS]
    code, out, _ = command(capsys, "predict", run, *pictures, "--top", 2)
    assert code == 0
    assert len(out.splitlines()) == 6
    code, out, _ = command(capsys, "predict", run, *pictures, "--json")
    results = json.loads(out)
    assert [result["picture"] for result in results] == [str(path) for path in pictures]
    for result in results:
        assert len(result["classes"]) == 3
        assert sum(found["score"] for found in result["classes"]) == pytest.approx(1, abs=1e-5)


def test_predict_agrees_with_the_export(run, photos, capsys):
    path = photos / "red" / "3.png"
    _, out, _ = command(capsys, "predict", run, path, "--json")
    (mine,) = json.loads(out)
    served = tf.saved_model.load(str(run / "saved_model" / "1")).signatures["classify_bytes"]
    theirs = served(image_bytes=tf.constant([path.read_bytes()]))
    assert [c["class"] for c in mine["classes"]] == [
        name.decode() for name in theirs["classes"].numpy()[0]
    ]
    np.testing.assert_allclose(
        [c["score"] for c in mine["classes"]], theirs["scores"].numpy()[0], atol=1e-6
    )


def test_one_bad_picture_does_not_hide_the_others(run, photos, tmp_path, capsys):
    (tmp_path / "text.jpg").write_text("no picture")
    pictures = [tmp_path / "text.jpg", tmp_path / "missing.png", photos / "red" / "0.png"]
    code, out, _ = command(capsys, "predict", run, *pictures, "--json")
    bad, missing, good = json.loads(out)
    assert code == 1
    assert "not a JPEG" in bad["error"]
    assert missing["error"] == "No such file or directory"
    assert len(good["classes"]) == 3


def test_export_into_another_folder(run, tmp_path, capsys):
    code, out, _ = command(capsys, "export", run, "--output", tmp_path / "served", "--version", 7)
    assert code == 0
    assert out.strip() == str(tmp_path / "served" / "7")
    code, _, err = command(capsys, "export", run)
    assert code == 1
    assert "exists already" in err


def test_info(capsys):
    code, out, _ = command(capsys, "info", "efficientnetv2-b0")
    assert code == 0
    assert "7.14 million trainable" in out
    assert "0.72 billion at 224 x 224" in out
    assert "Fused-MBConv4, k3x3" in out
    _, out, _ = command(capsys, "info", "efficientnetv2-b0", "--json")
    assert ModelConfig.from_json(out) == ModelConfig.from_name("efficientnetv2-b0")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["retrain"],
        ["train", "--data", "digits"],
        ["train", "--data", "digits", "--output", "x", "--image-size", "32:x"],
        ["train", "--data", "digits", "--output", "x", "--image-size", "1:2:3"],
        ["info", "efficientnetv9"],
        ["predict", "run"],
        ["export", "run", "--format", "pickle"],
    ],
)
def test_wrong_usage_exits_with_2(words, capsys):
    with pytest.raises(SystemExit) as exit:
        main(words)
    assert exit.value.code == 2
    assert "Usage:" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["train", "evaluate", "predict", "export", "info"])
def test_help_shows_an_example(name, capsys):
    with pytest.raises(SystemExit) as exit:
        main([name, "--help"])
    assert exit.value.code == 0
    assert f"Example:\n  keras-effnetv2 {name}" in capsys.readouterr().out


def bad_folders(root):
    """Name -> (a source that cannot be trained on, what the error must say)."""
    (root / "empty").mkdir()
    write_picture(root / "one class" / "red" / "1.png", (255, 0, 0))
    write_picture(root / "one class" / "red" / "2.png", (255, 0, 0))
    write_photos(root / "single", count=3)
    write_picture(root / "single" / "violet" / "1.png", (255, 0, 255))
    write_photos(root / "loop", count=3)
    (root / "loop" / "red" / "again").symlink_to(root / "loop")
    write_photos(root / "broken", count=6)
    whole = (root / "broken" / "red" / "0.png").read_bytes()
    (root / "broken" / "red" / "cut 'quoted'.png").write_bytes(whole[: len(whole) // 2])
    (root / "broken" / "red" / "nothing.jpg").write_bytes(b"")
    (root / "broken" / "red" / "text.jpg").write_bytes(b"hello")
    (root / "label.csv").write_text("path,label\nloop/red/0.png,red\n,blue\n")
    return {
        str(root / "empty"): "no class folders",
        str(root / "missing"): "missing",
        str(root / "one class"): "one class",
        str(root / "single"): "violet",
        str(root / "loop"): "loop",
        str(root / "broken"): "3 pictures cannot be used",
        f"csv:{root / 'label.csv'}": "line 3",
        "webdav:photos": "Unknown kind of source",
        "tfds:no_such_set_anywhere": "no_such_set_anywhere",
    }


def test_every_bad_source_is_one_clear_error(tmp_path, capsys):
    for spec, expected in bad_folders(tmp_path).items():
        output = tmp_path / "out"
        code, _, err = command(capsys, "train", "--data", spec, "--output", output)
        assert code == 1, spec
        assert err.startswith("error: "), err
        assert expected in err, (spec, err)
        assert "Traceback" not in err
        assert not output.exists()


def test_bad_pictures_are_listed_with_their_reason(tmp_path, capsys):
    bad_folders(tmp_path)
    words = ("train", "--data", tmp_path / "broken", "--output", tmp_path / "out")
    _, _, err = command(capsys, *words)
    for expected in ("cut 'quoted'.png", "nothing.jpg", "empty", "text.jpg", "--skip-bad"):
        assert expected in err


def test_wrong_settings_are_one_clear_error(photos, tmp_path, capsys):
    for words, expected in (
        (("--preset", "slow"), "quickstart"),
        (("--model", "resnet50"), "efficientnetv2-xl"),
        (("--epochs", "2"), "stages"),
        (("--validation-fraction", "0.01"), "validation"),
        (("--max-train-examples", "2"), "3 (one picture per class)"),
        (("--image-size", "16:64"), "image_size"),
        (("--weights", "nowhere.h5"), "nowhere.h5"),
        (("--recipe", photos / "red" / "0.png"), "recipe.json"),
    ):
        output = tmp_path / "out"
        code, _, err = command(capsys, "train", "--data", photos, "--output", output, *words)
        assert code == 1, words
        assert expected in err, (words, err)
        assert not output.exists()


def test_an_existing_run_is_not_touched(run, photos, capsys):
    before = {path: path.stat().st_mtime_ns for path in run.rglob("*")}
    code, _, err = command(capsys, "train", "--data", photos, "--output", run)
    assert code == 1
    assert "--overwrite" in err
    code, _, err = command(capsys, "train", "--data", photos, "--output", run, "--resume")
    assert code == 1
    assert "finished" in err
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*")}


def test_a_folder_that_is_no_run(tmp_path, photos, capsys):
    code, _, err = command(capsys, "evaluate", tmp_path, "--data", photos)
    assert code == 1
    assert "recipe.json" in err
    code, _, err = command(capsys, "predict", tmp_path / "nothing", photos / "red" / "0.png")
    assert code == 1
    assert "efficientnetv2-b0" in err


def test_debug_shows_the_traceback(tmp_path):
    with pytest.raises(ValueError, match=r"recipe\.json"):
        main(["evaluate", str(tmp_path), "--data", "digits", "--debug"])


def test_a_variant_whose_weights_cannot_be_fetched_says_so(photos, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setenv("KERAS_EFFNETV2_MIRROR", str(tmp_path))
    monkeypatch.setenv("https_proxy", "http://localhost:9")  # refuses, so nothing leaves here
    code, out, err = command(capsys, "predict", "efficientnetv2-b0", photos / "red" / "0.png")
    assert (code, out) == (1, "")
    assert "efficientnetv2-b0/imagenet are not in the cache and could not be fetched" in err


def test_a_published_variant_predicts_from_a_weight_file(photos, tmp_path, capsys):
    config = ModelConfig.from_name("efficientnetv2-b0")
    build_model(config, classes=4).save_weights(tmp_path / "b0.weights.h5")
    code, out, _ = command(
        capsys,
        *("predict", "efficientnetv2-b0", photos / "red" / "0.png"),
        *("--weights", tmp_path / "b0.weights.h5", "--json"),
    )
    assert code == 0
    assert {found["class"] for found in json.loads(out)[0]["classes"]} == set("0123")


def test_the_run_learned_its_colours(run, photos):
    """Guards the tests above: a run that guesses would let wrong preprocessing pass."""
    opened = open_run(run)
    everything = load_source(str(photos), "all")
    evaluation = evaluate_source(
        opened.model, everything, image_size=opened.image_size, style=opened.style
    )
    assert evaluation.accuracy > 0.9
