"""The programs in examples/ that a test can run at toy size, in this process."""

import importlib.util
import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.command_line import VARIANT, small_variant
from helpers.quick_runs import (
    leave_out_operations,
    leave_out_results,
    step_eagerly,
    two_blocks,
)
from helpers.served_models import GOLDEN

import keras_effnetv2 as kev2
from keras_effnetv2.cli.main import main
from keras_effnetv2.recipes.presets import PRESETS
from keras_effnetv2.training import workers

EXAMPLES = Path(__file__).parent.parent / "examples"


def load_example(name):
    """The module of an example, which does nothing until `main` is called."""
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def write_pictures(folder, classes, count):
    rng = np.random.default_rng(0)
    for name in classes:
        (folder / name).mkdir(parents=True)
        for number in range(count):
            picture = rng.integers(0, 256, (40, 40, 3), np.uint8)
            (folder / name / f"{number}.png").write_bytes(tf.io.encode_png(picture).numpy())


@pytest.fixture
def small_network(monkeypatch):
    """Has every name mean a network of two blocks."""
    small = two_blocks()
    assert kev2.EfficientNetV2B0  # imported now: the named builders keep their networks
    monkeypatch.setattr(kev2.ModelConfig, "from_name", lambda name: small)
    return small


def test_transfer_learning(small_network, tmp_path, capsys, monkeypatch):
    """From a weight file and a folder of pictures to a SavedModel, the batch norms as they were."""
    step_eagerly(monkeypatch)
    write_pictures(tmp_path / "pictures", ("cat", "dog"), 5)
    keras.utils.set_random_seed(0)
    pretrained = kev2.build_model(small_network, classes=3)
    norm = pretrained.get_layer("stem_bn")
    norm.moving_mean.assign(keras.ops.ones_like(norm.moving_mean))
    pretrained.save_weights(tmp_path / "pretrained.weights.h5")
    arguments = {
        "--data": tmp_path / "pictures",
        "--output": tmp_path / "served",
        "--weights": tmp_path / "pretrained.weights.h5",
        "--image-size": 32,
        "--batch-size": 4,
        "--epochs": 1,
    }
    model = load_example("transfer_learning").main(
        [str(word) for pair in arguments.items() for word in pair]
    )
    assert "validation accuracy" in capsys.readouterr().out
    np.testing.assert_array_equal(model.get_layer("stem_bn").moving_mean, norm.moving_mean)
    kernels = [net.get_layer("stem_conv").kernel for net in (pretrained, model)]
    assert np.abs(kernels[0] - kernels[1]).max() > 0
    served = tf.saved_model.load(str(tmp_path / "served" / "1"))
    picture = (tmp_path / "pictures" / "cat" / "0.png").read_bytes()
    answer = served.signatures["classify_bytes"](image_bytes=tf.constant([picture, b"none"]))
    assert set(answer["classes"].numpy()[0]) == {b"cat", b"dog"}
    assert answer["error"].numpy()[0] == b""
    assert answer["error"].numpy()[1] != b""


@pytest.mark.slow  # exports a network; make demo does, too
def test_name_photos(tmp_path, capsys):
    """A network and its export name pictures alike; another network does not."""
    keras.utils.set_random_seed(0)
    pictures = [str(GOLDEN / f"synthetic_{name}.jpg") for name in ("colour", "gray")]
    name_photos = load_example("name_photos").main
    with small_variant():
        weights = [str(tmp_path / f"{name}.weights.h5") for name in ("first", "second")]
        for path in weights:
            kev2.build_model(kev2.ModelConfig.from_name(VARIANT)).save_weights(path)
        words = ["export", VARIANT, "--weights", weights[0], "--output", str(tmp_path)]
        assert main(words) == 0
        capsys.readouterr()
        words = [str(tmp_path / "1"), *pictures, "--model", VARIANT, "--weights"]
        assert name_photos([*words, weights[0]]) == 0
        _, *lines, verdict = capsys.readouterr().out.splitlines()
        assert name_photos([*words, weights[1]]) == 1
        assert capsys.readouterr().out.endswith("different\n")
    assert verdict == "equal"
    assert [line.split()[0] for line in lines[::3]] == [
        "synthetic_colour.jpg",
        "synthetic_gray.jpg",
    ]
    assert len(lines) == 6


@pytest.fixture
def quick(small_network, monkeypatch):
    """Trains the small network eagerly on what is not augmented; writes no export, no report."""
    leave_out_operations(monkeypatch)
    leave_out_results(monkeypatch)
    step_eagerly(monkeypatch)


@pytest.mark.slow  # a training
def test_imagenet(tmp_path, capsys, quick, monkeypatch):
    output = tmp_path / "run"
    write_pictures(tmp_path / "pictures", ("a", "b"), 10)
    monkeypatch.setitem(PRESETS, "imagenet-official", PRESETS["imagenet-official"] | {"stages": 2})
    words = ["--data", str(tmp_path / "pictures"), "--output", str(output)]
    words += ["--variant", "efficientnetv2-b0", "--preset", "imagenet-official"]
    words += ["--batch-size", "8"]
    accuracy = load_example("imagenet").main([*words, "--epochs", "2", "--image-size", "32", "40"])
    assert f"top-1 {accuracy:.1%}" in capsys.readouterr().out
    settings = json.loads((output / "recipe.json").read_text())
    assert settings["finished"]
    assert [stage["image_size"] for stage in settings["stages"]] == [32, 40]
    # B0's own: AutoAugment, the crops of V1, and their evaluation.
    recipe = settings["recipe"]
    assert recipe["autoaugment"] is True
    assert (recipe["crop_style"], recipe["evaluation_style"]) == ("v1", "v1")


@pytest.mark.slow  # two trainings; the other examples have one
def test_imagenet21k_and_what_comes_after_it(tmp_path, capsys, quick):
    write_pictures(tmp_path / "many", ("a", "b", "c"), 6)
    write_pictures(tmp_path / "few", ("x", "y"), 6)
    main = load_example("imagenet21k").main
    words = ["--variant", "efficientnetv2-b0", "--epochs", "1", "--batch-size", "8"]
    words += ["--image-size", "32"]
    main([*words, "--data", str(tmp_path / "many"), "--output", str(tmp_path / "pretrained")])
    weights = tmp_path / "pretrained" / "model.keras"
    words += ["--pretrained", str(weights)]
    main([*words, "--data", str(tmp_path / "few"), "--output", str(tmp_path / "tuned")])
    assert capsys.readouterr().out.count("top-1") == 2
    first, second = (
        json.loads((tmp_path / run / "recipe.json").read_text()) for run in ("pretrained", "tuned")
    )
    assert (first["recipe"]["loss"], second["recipe"]["loss"]) == ("sigmoid", "softmax")
    assert second["class_names"] == ["x", "y"]
    assert second["weights"] == str(weights)


@pytest.mark.slow  # a training
def test_two_processes(tmp_path, capsys, quick, monkeypatch):
    """As a worker that joins nobody: test_workers.py has two."""
    connected = []
    monkeypatch.setattr(workers, "connect", lambda *where: connected.append(where))
    write_pictures(tmp_path / "pictures", ("a", "b"), 10)
    words = f"two_processes.py --data {tmp_path}/pictures --output {tmp_path}/run --epochs 1"
    words += " --stages 1 --image-size 32 32 --batch-size 16"
    words += " --coordinator 10.0.0.1:1234 --workers 2 --worker 1"
    monkeypatch.setattr(sys, "argv", words.split())
    load_example("two_processes").main()
    assert connected == [("10.0.0.1:1234", 2, 1)]
    result = json.loads((tmp_path / "run" / "recipe.json").read_text())["result"]
    assert f"worker 1: accuracy {result['validation_accuracy']:.1%}" in capsys.readouterr().out


@pytest.mark.slow  # two trainings and four judgements
def test_augmentation_by_size(tmp_path, capsys, quick):
    for split in ("train", "test"):
        write_pictures(tmp_path / split, ("a", "b"), 8)
    words = ["--data", str(tmp_path), "--pictures", "12", "--image-size", "32"]
    words += ["--magnitude", "5", "10", "--epochs", "1", "--batch-size", "8"]
    found = load_example("augmentation_by_size").main(words)
    assert found.shape == (1, 1, 2)
    assert np.isin(found * 16, range(17)).all()
    *_, head, row = capsys.readouterr().out.splitlines()
    assert head == "| pixels | magnitude 5 | magnitude 10 |"
    assert row == f"| 32 | {found[0, 0, 0]:.2%} | {found[0, 0, 1]:.2%} |"
