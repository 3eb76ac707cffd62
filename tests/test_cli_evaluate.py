"""The commands `evaluate` and `predict` on published variants: classes, protocols, figures."""

import json
import re

import numpy as np
import pytest
from helpers.command_line import VARIANT, command
from helpers.photos import write_picture

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.evaluation.calibration import reliability
from keras_effnetv2.evaluation.scores import wilson_interval
from keras_effnetv2.images.evaluation_crop import decode_image, resize_for_evaluation
from keras_effnetv2.models.build import build_model

pytestmark = pytest.mark.usefixtures("variant_is_small")

TENCH, GOLDFISH = 0, 1  # places in the list of ImageNet


def save_b0(path, classes, favourites):
    """Weights whose bias prefers some classes, so that accuracies are known beforehand."""
    model = build_model(ModelConfig.from_name(VARIANT), classes=classes)
    kernel, bias = model.layers[-1].get_weights()
    for place, index in enumerate(favourites):
        bias[index] = 20.0 - place
    model.layers[-1].set_weights([kernel * 0.1, bias])
    path.parent.mkdir(exist_ok=True)
    model.save_weights(path)
    return path


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """1,000 classes: the tench is always first, the goldfish second."""
    path = tmp_path_factory.mktemp("weights") / "mine.weights.h5"
    return save_b0(path, 1000, [TENCH, GOLDFISH])


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Three pictures of the tench, one of the goldfish."""
    root = tmp_path_factory.mktemp("pictures")
    for number in range(3):
        write_picture(root / "n01440764_tench" / f"{number}.png", (number, 60, 120), size=90)
    write_picture(root / "goldfish" / "3.png", (200, 60, 120), size=90)
    return root


def test_official_figures_of_weights_that_are_no_published_file(weights, pictures, capsys):
    code, out, err = command(
        capsys,
        *("evaluate", VARIANT, "--weights", weights, "--data", pictures),
        *("--batch-size", 4, "--json"),
    )
    assert code == 0, err
    result = json.loads(out)
    loss, error = result.pop("loss"), result.pop("calibration_error")
    assert 0 < result.pop("calibration_error_by_chance") < 0.5
    assert result == {
        "variant": "efficientnetv2-b0",
        "weights": str(weights),
        "protocol": "official",
        "image_size": 224,
        "data": str(pictures),
        "split": "all",
        "pictures": 4,
        "left_out": 0,
        "classes": 1000,
        "classes_with_pictures": 2,
        "accuracy": 0.75,
        "accuracy_interval": pytest.approx(wilson_interval(3, 4)),
        "top_5_accuracy": 1.0,
        "top_5_accuracy_interval": pytest.approx(wilson_interval(4, 4)),
        "mean_recall": 0.5,  # all tenches, no goldfish
    }
    files = sorted(pictures.rglob("*.png"), key=lambda path: path.name)
    images = [resize_for_evaluation(decode_image(f.read_bytes()), 224, "v1") for f in files]
    scores = build_model(ModelConfig.from_name(VARIANT), weights=str(weights)).predict(
        np.stack(images), verbose=0
    )
    truth = scores[np.arange(4), [TENCH, TENCH, TENCH, GOLDFISH]]
    assert loss == pytest.approx(-np.log(truth).mean(), rel=1e-4)
    right = scores.argmax(-1) == [TENCH, TENCH, TENCH, GOLDFISH]
    assert error == pytest.approx(reliability(scores.max(-1), right).error, rel=1e-4)


def test_published_figure_and_another_protocol_in_words(weights, pictures, capsys, tmp_path):
    published = tmp_path / "efficientnetv2-b0.h5"  # the name tells which set it is
    published.symlink_to(weights)
    code, out, err = command(
        capsys,
        *("evaluate", VARIANT, "--weights", published),
        *("--data", pictures, "--protocol", "timm"),
    )
    assert code == 0, err
    assert re.search(r"accuracy_interval +0\.3006 to 0\.9544 \(95%\)", out)  # 3 of 4
    assert (
        "published 78.7% on the 50,000 validation pictures of ImageNet; the interval 30.1% to "
        "95.4% contains it (difference -3.7 percentage points)\n"
        "judged on 2 of the 1000 classes, the published figure is for all\n"
        "the published figure was measured by the official protocol\n"
    ) in out
    assert [line.split()[0] for line in out.splitlines()[-2:]] == ["goldfish", "n01440764_tench"]


def test_classes_of_ones_own_are_counted(tmp_path, capsys):
    path = save_b0(tmp_path / "mine.weights.h5", 2, [1])
    for number, name in enumerate(("cat", "dog")):
        write_picture(tmp_path / "pets" / name / "1.png", (number, 60, 120))
    words = ("evaluate", VARIANT, "--weights", path, "--data", tmp_path / "pets")
    code, out, _ = command(capsys, *words)
    assert code == 0
    assert re.search(r"^accuracy +0\.5000$", out, re.MULTILINE)
    assert "published" not in out
    words_to_predict = ("predict", VARIANT, tmp_path / "pets" / "cat" / "1.png", "--weights", path)
    assert re.search(r"% +1\n.*% +0\n$", command(capsys, *words_to_predict)[1])
    write_picture(tmp_path / "pets" / "ape" / "1.png", (3, 60, 120))
    code, _, err = command(capsys, *words)
    assert code == 1
    assert "The network has 2 classes" in err
    assert "'ape', 'cat', 'dog'" in err


def test_a_folder_that_is_no_class_of_the_network(weights, tmp_path, capsys):
    write_picture(tmp_path / "tench" / "1.png", (0, 60, 120))
    write_picture(tmp_path / "unicorn" / "1.png", (1, 60, 120))
    code, _, err = command(capsys, "evaluate", VARIANT, "--weights", weights, "--data", tmp_path)
    assert code == 1
    assert "1 of 2 classes are not among the 1000 of the network: 'unicorn'" in err
    assert "For other classes, train a network on them (keras-effnetv2 train)" in err


def test_predict_names_the_classes(weights, pictures, capsys):
    words = ("predict", VARIANT, pictures / "goldfish" / "3.png", "--weights", weights)
    code, out, _ = command(capsys, *words, "--top", 2, "--json")
    first, second = json.loads(out)["classes"]
    assert code == 0
    assert (first["class"], first["wordnet_id"]) == ("tench", "n01440764")
    assert (second["class"], second["wordnet_id"]) == ("goldfish", "n01443537")
    assert first["score"] > second["score"] > 0.1
