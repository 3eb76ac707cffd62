"""Weights from the Hugging Face hub, by a local server that speaks its API."""

import json
import sys
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers import oracle, source_files
from helpers.command_line import VARIANT, command
from helpers.http_server import serving, status, whole
from helpers.hub_server import TOKEN, serving_hub
from helpers.served_models import COLOUR
from safetensors.numpy import save

import keras_effnetv2 as kev2
from keras_effnetv2.images.evaluation_crop import prepare_batch
from keras_effnetv2.pretrained.open_weights import open_weights
from keras_effnetv2.pretrained.registry import CentralCrop

pytestmark = pytest.mark.usefixtures("variant_is_small")

NAMES = ["ash", "birch", "elm\u001b[31m", "oak", "yew"]
REPOSITORY = "timm/tf_efficientnetv2_b0.trees"
NAME = f"hf://{REPOSITORY}"
CONFIG = {
    "architecture": "tf_efficientnetv2_b0",
    "num_classes": 5,
    "num_features": 1280,
    "label_names": NAMES,
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "test_input_size": [3, 40, 40],
        "interpolation": "bilinear",
        "crop_pct": 0.8,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
    },
}
PIXELS = np.random.default_rng(0).integers(0, 256, (2, 40, 40, 3)).astype("float32")


@pytest.fixture(scope="module")
def network():
    """A network with values of its own, and its file in the form of timm."""
    model = kev2.build_model(
        kev2.ModelConfig.from_name(VARIANT), classes=5, include_preprocessing=False
    )
    tensors = source_files.values_for(model)
    for name in tensors:
        if name.endswith("/kernel"):
            tensors[name] = tensors[name] / 8 - 0.1
    source_files.set_weights(model, tensors)
    return model, save(source_files.as_timm(tensors, source_files.layers_for("timm", model)))


@pytest.fixture
def hub(tmp_path):
    with serving_hub(tmp_path) as server:
        yield server


@pytest.fixture
def published(hub, network):
    """The server, with the network on it."""
    hub.publish(REPOSITORY, repository_files(network[1]))
    return hub


def repository_files(weights, config=CONFIG, **others):
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    return {"config.json": text, "model.safetensors": weights, **others}


def probabilities(network, pixels):
    return oracle.numpy(network[0](pixels / 127.5 - 1))


def test_a_repository_becomes_a_model(published, network):
    config = kev2.ModelConfig.from_name(VARIANT)
    model = kev2.build_model(config, weights=NAME)
    expected = probabilities(network, PIXELS)
    assert np.ptp(expected) > 0.1
    np.testing.assert_allclose(oracle.numpy(model(PIXELS)), expected, atol=1e-5)
    opened = open_weights(NAME)
    assert opened.config.normalization == "inception"
    assert opened.described.class_names == tuple(NAMES)
    assert opened.described.style == CentralCrop(40, 0.8, "center", "bilinear")
    fresh = kev2.build_model(config, weights=NAME, classes=3)
    assert fresh.output_shape == (None, 3)
    report = kev2.load_weights(model, NAME)
    assert report.loaded == len(model.weights)
    assert sorted(published.sent) == [
        f"{REPOSITORY}/config.json",
        f"{REPOSITORY}/model.safetensors",
    ]


def test_what_was_downloaded_is_used_without_a_network(published, tmp_path, monkeypatch, caplog):
    open_weights(NAME)
    commit = published.repositories[REPOSITORY]["branches"]["main"]
    published.requests.clear()
    open_weights(f"{NAME}@{commit}")
    assert published.requests == []  # a commit does not change
    published.repositories.clear()
    assert open_weights(NAME).config.name == VARIANT
    assert "There is no repository" in caplog.text
    assert "The copy in the cache is used" in caplog.text
    published.shutdown()
    published.server_close()
    caplog.clear()
    assert open_weights(NAME).config.name == VARIANT
    assert "cannot be reached" in caplog.text
    with pytest.raises(ConnectionError, match=r"hf://timm/other is not in the cache .*cannot be r"):
        open_weights("hf://timm/other")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    caplog.clear()
    assert open_weights(NAME).config.name == VARIANT
    assert not caplog.records
    with pytest.raises(ConnectionError, match=r"hf://timm/other .*HF_HUB_OFFLINE forbids"):
        open_weights("hf://timm/other")


def test_branches_tags_and_commits(published, network):
    before = published.repositories[REPOSITORY]["branches"]["main"]
    half = CONFIG | {"label_names": None}
    published.publish(REPOSITORY, repository_files(network[1], half), "refs/pr/1")
    after = published.repositories[REPOSITORY]["branches"]["refs/pr/1"]
    for revision, names in (
        ("main", NAMES),
        (before, NAMES),
        ("refs/pr/1", None),
        (after, None),
    ):
        described = open_weights(f"{NAME}@{revision}").described
        assert described.class_names == (names and tuple(names))
    assert published.sent.count(f"{REPOSITORY}/model.safetensors") == 1  # the same bytes


def test_a_branch_that_moved_is_downloaded_again(published, network):
    open_weights(NAME)
    published.publish(REPOSITORY, repository_files(network[1], CONFIG | {"label_names": None}))
    assert open_weights(NAME).described.class_names is None


def test_a_keras_file_is_used_where_there_is_no_other(hub, network, tmp_path):
    model = kev2.build_model(kev2.ModelConfig.from_name(VARIANT), classes=5)
    model.save(tmp_path / "model.keras")
    data = (tmp_path / "model.keras").read_bytes()
    config = json.dumps({"architecture": "tf_efficientnetv2_b0"}).encode()
    hub.publish("me/net", {"config.json": config, "model.keras": data})
    loaded = kev2.build_model(kev2.ModelConfig.from_name(VARIANT), weights="hf://me/net")
    np.testing.assert_array_equal(oracle.numpy(loaded(PIXELS)), oracle.numpy(model(PIXELS)))


def test_a_copy_of_a_repository_is_a_folder_of_weights(network, tmp_path, capsys):
    kev2.build_model(kev2.ModelConfig.from_name(VARIANT), classes=5).save(tmp_path / "model.keras")
    for name, data in repository_files(network[1], **{"pytorch_model.bin": b""}).items():
        (tmp_path / name).write_bytes(data)
    opened = open_weights(tmp_path)
    assert opened.path.name == "model.safetensors"
    assert (opened.config.name, opened.described.image_size) == (VARIANT, 40)
    code, out, err = command(capsys, "weights", "verify", tmp_path, "--json")
    assert (code, json.loads(out)["variant"]) == (0, VARIANT), err


def test_private_and_gated_repositories(hub, network, monkeypatch):
    hub.publish("me/private", repository_files(network[1]), private=True)
    hub.publish("me/gated", repository_files(network[1]), gated=True)
    for name, words in (
        (
            "private",
            r"There is no repository http://.*/me/private, or it is private.*hf auth login",
        ),
        (
            "gated",
            r"hf://me/gated asks for consent.*me/gated, then log in \(hf auth login\).*HF_TOK",
        ),
    ):
        with pytest.raises(ValueError, match=words) as error:
            open_weights(f"hf://me/{name}")
        assert "\n" not in str(error.value)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert open_weights("hf://me/private").config.name == VARIANT
    assert open_weights("hf://me/gated").config.name == VARIANT


@pytest.mark.parametrize(
    "name",
    [
        *("hf://net", "hf://a/b/c", "hf:a/b", "HF://a/b", "hf://a/b@", "hf://a/b@x@y", "hf:///a"),
        *("hf://../b", "hf://a/..", "hf://a/b@../../x", "hf://a/b@/x", "hf://a\\b/c", "hf://a/b c"),
        *("https://huggingface.co/timm/x", "huggingface.co/timm/x", "hf://a/b\x1b[1m", "hf://é/b"),
        f"hf://a/{'b' * 97}",
    ],
)
def test_misspelt_names(name, hub):
    with pytest.raises(
        ValueError, match=r"is named hf://OWNER/NAME\[@REVISION\].*Received"
    ) as error:
        kev2.build_model(kev2.ModelConfig.from_name(VARIANT), weights=name)
    assert repr(name) in str(error.value)
    assert hub.requests == []


def with_cfg(**changes):
    return CONFIG | {"pretrained_cfg": CONFIG["pretrained_cfg"] | changes}


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"architecture": "efficientnet_b0"}, "is efficientnet_b0. It pads symmetrically"),
        ({"architecture": "resnet50"}, "must hold a network .*tf_efficientnetv2_s, .*'resnet50'"),
        ({"architecture": ["tf_efficientnetv2_b0"]}, "must hold a network"),
        ({"architecture": "../../x\x1b[1m"}, r"architecture='../../x\\x1b\[1m'"),
        (b"{", "config.json: it cannot be read"),
        (b"[]", "must hold a network"),
        (with_cfg(test_input_size=[3, 10**9, 10**9]), "`input_size` must be .*from 8 to 1024"),
        (with_cfg(test_input_size=[3, 40, 50]), r"input_size must be \[3, SIZE, SIZE\]"),
        (with_cfg(test_input_size="40"), r"input_size must be \[3, SIZE, SIZE\]"),
        (with_cfg(crop_pct=7), "`crop_pct` must be a number"),
        (with_cfg(crop_mode="border"), "`crop_mode` must be one of 'center', 'squash'"),
        (with_cfg(interpolation="random"), "`interpolation` must be one of 'bilinear', 'bicubic'"),
        (with_cfg(std=[0, 0, 0]), "mean and std must be three numbers"),
        (CONFIG | {"label_names": NAMES[:4]}, "names 4 classes, but the classifier has 5"),
        (CONFIG | {"label_names": "abcde"}, "label_names must be a list"),
        (CONFIG | {"label_names": ["a", "b\nc", "d", "e", "f"]}, "must be a single line"),
        (CONFIG | {"label_names": ["a" * 10**5, *"bcde"]}, "more than 1000 characters"),
        (CONFIG | {"label_names": {"0": "a", "7": "b"}}, "must be a single line"),
        (CONFIG | {"keras_effnetv2": {"network": {"name": "x"}}}, "needs stages"),
        (CONFIG | {"keras_effnetv2": {"activation": "relu"}}, "`activation` must be one of"),
        (
            CONFIG | {"keras_effnetv2": {"image_size": 1e9, "style": "whole"}},
            "`image_size` must be",
        ),
    ],
)
def test_configs_that_are_refused(config, words, hub, network):
    hub.publish("me/net", repository_files(network[1], config))
    with pytest.raises(ValueError, match=f"hf://me/net.*{words}"):
        open_weights("hf://me/net")


def test_repositories_without_the_files(hub, network):
    hub.publish("me/empty", {".gitattributes": b""})
    with pytest.raises(
        ValueError, match=r"hf://me/empty has no config.json. It has .gitattributes"
    ):
        open_weights("hf://me/empty")
    hub.publish("me/net", {"config.json": json.dumps(CONFIG).encode(), "tf_model.h5": b""})
    with pytest.raises(
        ValueError, match=r"has no model.safetensors or .* It has config.json, tf_m"
    ):
        open_weights("hf://me/net")
    with pytest.raises(ValueError, match=r"me/net has no branch, tag or commit 'old'\."):
        open_weights("hf://me/net@old")
    assert hub.sent == ["me/net/config.json"]


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (status(500), "me/net answers: Server error '500"),
        (whole(b"<html>"), r"\(HF_ENDPOINT\) does not answer as the Hugging Face hub does"),
        (whole(b"[]"), r"\(HF_ENDPOINT\) does not answer as the Hugging Face hub does"),
    ],
)
def test_hubs_that_do_not_answer_as_they_should(answer, words, hub):
    with serving({"/api/models/me/net": [answer]}) as other, pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.constants.ENDPOINT", other.url)
        with pytest.raises(ConnectionError, match=f"hf://me/net is not in the cache.*{words}"):
            open_weights("hf://me/net")


def test_the_package_for_the_hub_may_be_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(ImportError, match=r"hf://a/b needs the package huggingface_hub\. Install"):
        kev2.build_model(kev2.ModelConfig.from_name(VARIANT), weights="hf://a/b")
    for words in (
        ("predict", "hf://a/b", "x.jpg"),
        ("info", "hf://a/b"),
        ("push", "x", "hf://a/b"),
    ):
        code, _, err = command(capsys, *words)
        assert (code, 'pip install "keras-effnetv2[hub]"' in err) == (1, True)


# --- the command line ---------------------------------------------------------------------------


def expected_of_a_photo(network):
    images, _ = prepare_batch([COLOUR], 40, CentralCrop(40, 0.8, "center", "bilinear"))
    return probabilities(network, images.numpy())[0]


def test_predict(published, network, tmp_path, capsys):
    (tmp_path / "photo.jpg").write_bytes(COLOUR)
    code, out, err = command(capsys, "predict", NAME, tmp_path / "photo.jpg", "--json")
    assert code == 0, err
    row = json.loads(out)
    scores = expected_of_a_photo(network)
    found = {one["class"]: one["score"] for one in row["classes"]}
    assert np.ptp(scores) > 0.1
    np.testing.assert_allclose([found[name] for name in NAMES], scores, atol=1e-5)
    code, out, err = command(
        capsys, "predict", VARIANT, "--weights", NAME, tmp_path / "photo.jpg", "--top", 5
    )
    assert code == 0
    assert "elm\\u001b[31m" in out
    assert f"{scores.max():7.2%}" in out


def test_evaluate(published, network, tmp_path, capsys):
    scores = expected_of_a_photo(network)
    for name in (NAMES[scores.argmax()], NAMES[scores.argmin()]):
        (tmp_path / "photos" / name).mkdir(parents=True)
        (tmp_path / "photos" / name / "photo.jpg").write_bytes(COLOUR)
    words = ("evaluate", NAME, "--data", tmp_path / "photos", "--json")
    code, out, err = command(capsys, *words)
    assert code == 0, err
    assert "note: The weights do not say which pictures they were trained on." in err
    figures = json.loads(out)
    assert (figures["accuracy"], figures["pictures"], figures["classes"]) == (0.5, 2, 5)
    assert (figures["protocol"], figures["image_size"]) == ("of the weights", 40)
    assert (figures["variant"], figures["weights"]) == (VARIANT, NAME)
    code, out, err = command(capsys, *words, "--protocol", "keras")
    assert json.loads(out)["image_size"] == 224


def test_weights_and_info(published, network, tmp_path, capsys):
    code, out, err = command(capsys, "weights", "verify", NAME, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert (facts["variant"], facts["classes"], facts["set"]) == (VARIANT, 5, None)
    assert (facts["source"], facts["preprocessing"]) == ("timm", "inception")
    written = tmp_path / "net.keras"
    code, out, err = command(capsys, "weights", "convert", NAME, written)
    assert code == 0, err
    model = keras.models.load_model(written)
    np.testing.assert_allclose(model(PIXELS), probabilities(network, PIXELS), atol=1e-5)
    published.sent.clear()
    code, out, err = command(capsys, "info", NAME)
    assert code == 0, err
    assert "at 40 x 40" in out
    code, out, err = command(capsys, "info", NAME, "--json")
    assert json.loads(out)["normalization"] == "inception"
    code, out, err = command(capsys, "weights", "fetch", NAME, "--json")
    fetched = json.loads(out)
    assert fetched["repository"] == NAME
    assert Path(fetched["files"][0]["path"]).read_bytes() == network[1]
    assert published.sent == []


@pytest.mark.parametrize(
    "words",
    [
        ("predict", "hf://net", "x.jpg"),
        ("evaluate", "hf://net", "--data", "digits"),
        ("predict", VARIANT, "x.jpg", "--weights", "hf://net"),
        ("train", "--data", "digits", "--output", "run", "--weights", "hf://net"),
        ("info", "hf://net"),
        ("weights", "verify", "hf://net"),
        ("weights", "fetch", "hf://net"),
    ],
)
def test_misspelt_names_on_the_command_line(words, capsys):
    code, out, err = command(capsys, *words)
    assert (code, out) == (1, "")
    assert "hf://OWNER/NAME[@REVISION]" in err
    assert err.endswith("Received: 'hf://net'\n")


def test_weights_do_not_go_with_a_repository(capsys):
    code, _, err = command(capsys, "predict", NAME, "x.jpg", "--weights", "imagenet")
    assert (code, "--weights is for a variant only" in err) == (1, True)
