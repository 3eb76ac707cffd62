"""A run is pushed to a local server that speaks the hub's API, and used from there."""

import json
import re
from dataclasses import replace

import keras
import numpy as np
import pytest
import yaml
from helpers import oracle
from helpers.command_line import VARIANT, command
from helpers.hub_server import READ_ONLY, TOKEN, serving_hub
from helpers.run_folders import recorded_settings, write_run
from helpers.served_models import COLOUR
from safetensors.numpy import load

import keras_effnetv2 as kev2
from keras_effnetv2.data.picture_record import PictureEntry, PictureRecord
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.confusion import write_confusion
from keras_effnetv2.runs.run_folder import (
    CONFUSION,
    HISTORY,
    LABELS,
    MODEL,
    PICTURES,
    write_settings,
)
from keras_effnetv2.runs.run_settings import RecordedPictures
from keras_effnetv2.sharing.repository import describe

pytestmark = pytest.mark.usefixtures("variant_is_small")

NAMES = ("ash", "birch | <b>", "elm\u001b[31m")
NAME = "hf://anna/trees"
FILES = {"model.keras", "model.safetensors", "config.json", "labels.txt", "README.md"}
SECRET = "/home/anna/secret"
RESULT = {"validation_accuracy": 0.85, "validation_loss": 0.4321, "seconds": 90.0}
CONFUSION_COUNTS = np.array([[7, 1, 0], [0, 5, 2], [0, 0, 5]])


@pytest.fixture
def hub(tmp_path, monkeypatch):
    with serving_hub(tmp_path) as server:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        yield server


def write_tiny_run(folder, config=None, style="whole", **changes):
    """Write what is read of a finished run; return its folder."""
    folder.mkdir()
    config = config or kev2.ModelConfig.from_name(VARIANT)
    keras.utils.set_random_seed(0)
    model = kev2.build_model(config, classes=3)
    rng = np.random.default_rng(0)
    for weight in model.weights:
        weight.assign(weight + 0.05 * np.abs(rng.standard_normal(weight.shape)))
    model.save(folder / MODEL)
    (folder / LABELS).write_text("".join(f"{name}\n" for name in NAMES), encoding="utf-8")
    entries = tuple(PictureEntry(n, NAMES[n % 2], f"{SECRET}/{n}.jpg") for n in range(1, 40))
    record = PictureRecord(entries, entries[:20])
    record.write(folder / PICTURES)
    (folder / HISTORY).write_text("epoch,loss\n1,2.0\n2,1.0\n")
    write_confusion(folder / CONFUSION, NAMES, CONFUSION_COUNTS)
    settings = recorded_settings(
        model=config.name,
        weights=f"{SECRET}/start.weights.h5",
        image_size=40,
        class_names=NAMES,
        training=RecordedPictures(SECRET, "train", 39),
        validation=RecordedPictures(SECRET, "validation", 20),
        recipe=replace(TrainRecipe.preset("quickstart"), evaluation_style=style, loss="softmax"),
        result=RESULT,
        pictures_sha256=record.fingerprint,
    )
    write_settings(folder, replace(settings, **changes))
    return folder


@pytest.fixture(scope="module")
def run(variant_is_small, tmp_path_factory):
    return write_tiny_run(tmp_path_factory.mktemp("runs") / "trees")


@pytest.fixture(scope="module")
def pushed(run, tmp_path_factory):
    """The files of the repository that the run was pushed to."""
    with (
        serving_hub(tmp_path_factory.mktemp("hub")) as server,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("HF_TOKEN", TOKEN)
        kev2.push_to_hub(run, NAME)
        return server.files("anna/trees")


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photo.jpg").write_bytes(COLOUR)
    return tmp_path / "photo.jpg"


def scores_of(network, photo):
    (prediction,) = kev2.predict(network, [photo], top=3)
    return dict(zip(prediction.class_names, prediction.scores, strict=True))


def test_a_pushed_run_predicts_as_before(run, hub, photo, capsys):
    code, out, err = command(capsys, "push", run, NAME)
    assert code == 0, err
    first, *listed, address = out.splitlines()
    assert (first, address) == (f"uploading to {NAME}:", f"{hub.url}/anna/trees")
    assert {line.split()[0] for line in listed} == FILES
    assert set(hub.files("anna/trees")) == FILES | {".gitattributes"}
    assert len(hub.messages) == 1
    expected = scores_of(run, photo)
    assert max(expected.values()) - min(expected.values()) > 0.05
    assert scores_of(NAME, photo) == pytest.approx(expected, abs=1e-6)
    code, out, err = command(capsys, "predict", NAME, photo, "--json")
    row = json.loads(out)
    assert {one["class"]: one["score"] for one in row["classes"]} == pytest.approx(
        expected, abs=1e-6
    )


def test_the_weights_are_those_that_timm_loads(run, pushed):
    tensors, config = load(pushed["model.safetensors"]), json.loads(pushed["config.json"])
    model = keras.models.load_model(run / MODEL)
    variables = oracle.weights_of(model)
    np.testing.assert_array_equal(
        tensors["classifier.weight"], oracle.numpy(variables["predictions/kernel"]).T
    )
    assert tensors["classifier.weight"].shape == (3, config["num_features"])
    assert tensors["bn1.num_batches_tracked"].shape == ()
    assert tensors["bn1.num_batches_tracked"].dtype == np.int64
    own = config.pop("keras_effnetv2")
    assert own == {
        "network": None,
        "image_size": 40,
        "style": "whole",
        "activation": "softmax",
    }
    assert config == {
        "architecture": "tf_efficientnetv2_b0",
        "num_classes": 3,
        "num_features": 320,
        "global_pool": "avg",
        "label_names": list(NAMES),
        "pretrained_cfg": {
            "custom_load": False,
            "input_size": [3, 40, 40],
            "fixed_input_size": False,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "squash",
            "mean": pytest.approx([0.485, 0.456, 0.406]),
            "std": pytest.approx([0.229, 0.224, 0.225]),
            "num_classes": 3,
            "pool_size": [2, 2],
            "first_conv": "conv_stem",
            "classifier": "classifier",
        },
    }


@pytest.mark.parametrize(
    ("style", "crop"),
    [
        ("v1", {"crop_pct": 40 / 72, "crop_mode": "center", "interpolation": "bicubic"}),
        ("v2", {"crop_pct": 40 / 72, "crop_mode": "center", "interpolation": "bilinear"}),
        ("finetune", {"crop_pct": 1.0, "crop_mode": "squash", "interpolation": "bilinear"}),
    ],
)
def test_the_crop_in_words_of_timm(style, crop, hub, tmp_path, photo):
    run = write_tiny_run(tmp_path / "run", style=style)
    kev2.push_to_hub(run, NAME)
    config = json.loads(hub.files("anna/trees")["config.json"])["pretrained_cfg"]
    assert {name: config[name] for name in crop} == crop
    if style == "v1":  # tracing another one takes seconds
        assert scores_of(NAME, photo) == pytest.approx(scores_of(run, photo), abs=1e-6)


@pytest.mark.parametrize("is_recorded", [True, False])
def test_a_network_for_small_pictures_is_not_called_the_variant(is_recorded, tmp_path):
    small = kev2.ModelConfig.from_name(VARIANT).for_small_pictures(32)
    recorded = json.loads(small.to_json()) if is_recorded else None
    run = write_tiny_run(tmp_path / "run", small, architecture=recorded)
    described = describe(kev2.open_run(run))
    assert described.architecture is None
    assert (described.config.stages, described.config.stem_strides) == (small.stages, 1)


@pytest.mark.slow  # trains a network
def test_a_network_of_its_own(hub, tmp_path, photo):
    config = replace(
        kev2.ModelConfig.from_name(VARIANT).with_fused_stages(1),
        name="mine",
        normalization=((0.01, 0.02, 0.03), (-1.0, 0.0, 1.0)),
    )
    run = write_tiny_run(tmp_path / "run", config, architecture=json.loads(config.to_json()))
    kev2.push_to_hub(run, NAME)
    card = hub.files("anna/trees")["README.md"].decode()
    assert "timm" not in card
    assert "library_name: keras-effnetv2" in card
    assert json.loads(hub.files("anna/trees")["config.json"])["architecture"] is None
    assert scores_of(NAME, photo) == pytest.approx(scores_of(run, photo), abs=1e-6)


def test_the_model_card(pushed):
    card = pushed["README.md"].decode()
    _, head, text = card.split("---\n", 2)
    head = yaml.safe_load(head)
    assert (head["library_name"], head["pipeline_tag"]) == ("timm", "image-classification")
    assert "license" not in head
    assert "keras-effnetv2" in head["tags"]
    for line in (
        "| accuracy | 85.00% (95% interval 64.0% to 94.8%) |",
        "| loss | 0.4321 |",
        "| judged on | 20 pictures that were held back from the training (validation) |",
        "| trained on | 39 pictures |",
        "| ash | 19 | 8 | 87.5% | 100.0% |",
        r"| birch \| \<b\> | 20 | 7 | 71.4% | 83.3% |",
        r"| elm\\u001b\[31m | 0 | 5 | 100.0% | 71.4% |",
        "| ash | 7 | 1 | 0 |",
        r"| birch \| \<b\> | 0 | 5 | 2 |",
        'It started from weights of its owner. The recipe "quickstart" took 2 epochs and 1.5 minut'
        "es,",
    ):
        assert f"{line}\n" in text, line
    assert not re.search(r"\n\n\n|{{|{%", text)


def test_nothing_of_the_owners_machine_is_uploaded(run, pushed):
    for name, data in pushed.items():
        for word in ("/home", "secret", str(run)):
            assert word.encode() not in data, name


def test_what_the_card_says_about_public_data_and_weights(hub, tmp_path):
    run = write_tiny_run(
        tmp_path / "run",
        training=RecordedPictures("tfds:tf_flowers", "train", 39),
        weights="hf://timm/tf_efficientnetv2_b0.in1k@main",
    )
    kev2.push_to_hub(run, NAME)
    card = hub.files("anna/trees")["README.md"].decode()
    assert yaml.safe_load(card.split("---\n")[1])["base_model"] == "timm/tf_efficientnetv2_b0.in1k"
    assert r"39 pictures of tfds\:tf\_flowers |" in card
    assert "It started from https://huggingface.co/timm/tf_efficientnetv2_b0.in1k." in card


def test_the_code_in_the_card_works(run, hub, photo, capsys):
    kev2.push_to_hub(run, NAME)
    card = hub.files("anna/trees")["README.md"].decode()
    best = max(scores_of(run, photo).items(), key=lambda one: one[1])
    of_kev2, of_keras, of_timm = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(of_kev2, "card", "exec"), {})
    assert repr(best[0]) in capsys.readouterr().out
    exec(compile(of_keras, "card", "exec"), {})
    assert best[0] in capsys.readouterr().out
    compile(of_timm, "card", "exec")
    (words,) = re.findall(r"^keras-effnetv2 (.*)$", card, re.MULTILINE)
    assert command(capsys, *words.split())[0] == 0


def test_pictures_of_several_classes(hub, tmp_path, photo, capsys):
    folder = tmp_path / "run"
    figures = {"validation_mean_average_precision": 0.7, "validation_f1": 0.65}
    run = write_tiny_run(folder, thresholds=(0.0, 1.0, 0.0), result=RESULT | figures)
    (folder / CONFUSION).unlink()
    kev2.push_to_hub(run, NAME)
    card = hub.files("anna/trees")["README.md"].decode()
    for line in (
        "| mean average precision | 70.00% |",
        "| F1 | 65.00%, the mean over the classes |",
        "| exactly the right classes | 85.00% (95% interval 64.0% to 94.8%) |",
        "| ash | 0.000 |",
        r"| elm\\u001b\[31m | 0.000 |",
    ):
        assert f"{line}\n" in card, line
    (named,) = kev2.predict(NAME, [photo])
    _, of_keras, of_timm = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    exec(compile(of_keras, "card", "exec"), {})
    assert capsys.readouterr().out == f"{sorted(named.class_names)}\n"
    compile(of_timm, "card", "exec")


# --- what may be done ---------------------------------------------------------------------------


def test_files_are_replaced_only_if_that_is_asked_for(run, hub):
    hub.publish("anna/trees", {"README.md": b"mine", "notes.txt": b"mine"})
    with pytest.raises(
        FileExistsError, match=r"hf://anna/trees already has README.md.*--overwrite"
    ):
        kev2.push_to_hub(run, NAME)
    assert hub.files("anna/trees")["README.md"] == b"mine"
    kev2.push_to_hub(run, NAME, overwrite=True)
    assert hub.files("anna/trees")["README.md"] != b"mine"
    assert hub.files("anna/trees")["notes.txt"] == b"mine"


def test_a_branch(run, hub):
    hub.publish("anna/trees", {"README.md": b"mine"})
    with pytest.raises(FileExistsError):
        kev2.push_to_hub(run, f"{NAME}@second")
    address = kev2.push_to_hub(run, f"{NAME}@second", overwrite=True)
    assert address == f"{hub.url}/anna/trees/tree/second"
    assert hub.files("anna/trees") == {"README.md": b"mine"}
    assert set(hub.files("anna/trees", "second")) == FILES
    assert kev2.build_model(kev2.ModelConfig.from_name(VARIANT), weights=f"{NAME}@second")
    with pytest.raises(ValueError, match="pushed to a branch, not to a commit"):
        kev2.push_to_hub(run, f"{NAME}@{'a' * 40}")


def test_private_repositories(run, hub, capsys):
    assert command(capsys, "push", run, NAME, "--private")[0] == 0
    assert hub.repositories["anna/trees"]["private"]
    hub.publish("anna/public", {})
    code, _, err = command(capsys, "push", run, "hf://anna/public", "--private")
    assert (code, "anna/public exists and is public" in err) == (1, True)
    assert hub.files("anna/public") == {}


def test_without_a_token_nothing_is_sent(run, hub, monkeypatch, capsys):
    monkeypatch.delenv("HF_TOKEN")
    code, out, err = command(capsys, "push", run, NAME)
    assert (code, out) == (1, "")
    assert "without a token: log in (hf auth login) or set the environment variable HF_TOKEN" in err
    assert hub.requests == []


def test_a_token_that_may_only_read(run, hub, monkeypatch, capsys):
    monkeypatch.setenv("HF_TOKEN", READ_ONLY)
    code, _, err = command(capsys, "push", run, NAME)
    assert code == 1
    assert f"The token in use is not allowed to do this with {hub.url}/anna/trees" in err
    assert (READ_ONLY in err, hub.repositories) == (False, {})


def test_runs_that_are_not_pushed(run, hub, tmp_path, capsys):
    unfinished = write_tiny_run(tmp_path / "a", finished=False)
    foreign = tmp_path / "b"
    foreign.mkdir()
    write_run(foreign)
    for words, said in (
        ((unfinished, NAME), "is not finished"),
        ((foreign, NAME), "is not one of this package"),
        ((tmp_path / "none", NAME), "There is no folder"),
        ((run, "anna/trees"), "is named hf://OWNER/NAME[@REVISION]"),
    ):
        code, out, err = command(capsys, "push", *words)
        assert (code, out) == (1, "")
        assert said in err
    assert hub.requests == []


def test_no_network(run, hub, capsys):
    hub.shutdown()
    hub.server_close()
    code, _, err = command(capsys, "push", run, NAME)
    assert code == 1
    assert f"{hub.url} cannot be reached" in err
