"""State dicts of torch.save: files that PyTorch wrote, training checkpoints, two sources."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
from helpers import oracle, source_files, torch_files
from helpers.source_files import SMALL

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.open_weights import open_weights

FOLDER = oracle.GOLDEN / "torch"  # of PyTorch 2.13.0, see make.py there
WHOLE = np.arange(24, dtype="float32").reshape(2, 3, 4)
EXPECTED = {
    "whole": WHOLE,
    "permuted": WHOLE.transpose(2, 0, 1),
    "part": WHOLE[1:, ::2, 1::2],
    "number": WHOLE[1, 2, 3],
    "parameter": WHOLE[0].T,
    "empty": np.zeros((0, 3), "float32"),
    "flags": np.array([True, False, True]),
    "counter": np.array(7),
    "bfloat16": np.arange(1, 4).astype(ml_dtypes.bfloat16),
}
EXPECTED |= {
    name: np.arange(1, 4).astype(name)
    for name in ("float64", "float16", "int64", "int32", "int16", "int8", "uint8")
}


@pytest.fixture(scope="module")
def network():
    return build_model(SMALL, classes=7, drop_path_rate=0.0)


@pytest.fixture
def model(network):
    return source_files.reset(network)


def state_of(model, source):
    tensors = source_files.values_for(model)
    return source_files.as_timm(tensors, source_files.layers_for(source, model))


# --- files of PyTorch ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["state.pth", "old_form.pth", "protocol_4.pth"])
def test_tensors_are_those_that_pytorch_saved(name):
    more = {"uint16": np.arange(3, dtype="uint16")} if name == "protocol_4.pth" else {}
    tensors = open_weights(FOLDER / name).tensors
    assert set(tensors) == set(EXPECTED | more)
    for key, value in (EXPECTED | more).items():
        assert tensors[key].dtype == value.dtype, key
        np.testing.assert_array_equal(tensors[key], value, err_msg=key)


def test_averages_of_a_training_checkpoint_are_preferred():
    weights = open_weights(FOLDER / "checkpoint.pth")
    assert set(weights.tensors) == {
        *(f"module.0.{name}" for name in ("weight", "bias")),
        *(f"module.1.{name}" for name in ("weight", "bias", "running_mean", "running_var")),
    }
    assert all((tensor == 2).all() for tensor in weights.tensors.values())
    beside = ("epoch", "arch", "state_dict", "optimizer", "metric")
    reason = "beside 'state_dict_ema' in a training checkpoint"
    assert weights.ignored == dict.fromkeys(beside, reason) | {
        "module.1.num_batches_tracked": "step counter of a batch norm"
    }


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("namespace.pth", r"asks for 'argparse\.Namespace'.*checkpoint\['state_dict'\]"),
        ("module.pth", r"asks for 'torch\.nn\.modules\.container\.Sequential'.*state_dict\(\)"),
        ("torchscript.pt", "is a program"),
        ("negative.pth", "marked as negative"),
        ("expanded.pth", "has more numbers than its storage"),
    ],
)
def test_what_is_no_state_dict(name, words):
    with pytest.raises(ValueError, match=rf"{name} cannot be read as a state dict .*{words}"):
        open_weights(FOLDER / name)


# --- places and names ---------------------------------------------------------------------------


@pytest.mark.parametrize("form", [torch_files.archive, torch_files.old_form])
@pytest.mark.parametrize("source", source_files.OF_PYTORCH)
@pytest.mark.parametrize(
    "key", [None, "state_dict", "model_state_dict", "model", "model_ema", "net"]
)
def test_prefixes_and_checkpoints(form, source, key, model, tmp_path):
    state = {f"module.net.{name}": value for name, value in state_of(model, source).items()}
    code, storages = torch_files.described(state)
    if key is not None:
        other = torch_files.mapping({"conv_stem.weight": b"N"})
        code = torch_files.mapping({"optimizer": other, key: code, "epoch": b"K\3"})
    path = tmp_path / "tf_net"  # the content tells the form, the names in it tell the source
    path.write_bytes(form(code, storages))
    report = load_weights(model, path)
    assert (report.source, report.loaded) == (source, len(model.weights))
    assert ("epoch" in report.ignored) == (key is not None)
    source_files.assert_holds(model, source_files.values_for(model))


def test_several_state_dicts_are_refused(tmp_path):
    code, storages = torch_files.described({"conv_stem.weight": np.zeros((2, 3), "float32")})
    both = torch_files.mapping({"generator": code, "teacher": code})
    (tmp_path / "net.pth").write_bytes(torch_files.archive(both, storages))
    with pytest.raises(ValueError, match=r"several state dicts, \['generator', 'teacher'\]"):
        open_weights(tmp_path / "net.pth")


def test_names_of_efficientnet_pytorch():
    """As its state dict of efficientnet-b0 has them (lukemelas/EfficientNet-PyTorch 0.7.1)."""
    config = ModelConfig.from_name("efficientnet-b0").scaled(width=0.02)
    model = build_model(config, classes=2)
    layers = source_files.layers_for("efficientnet-pytorch", model)
    assert (layers["stem/conv2d"], layers["stem/tpu_batch_normalization"]) == (
        "_conv_stem",
        "_bn0",
    )
    assert [name for name in layers.values() if name.startswith("_blocks.0.")] == [
        f"_blocks.0.{name}"
        for name in ["_depthwise_conv", "_bn1", "_se_reduce", "_se_expand", "_project_conv", "_bn2"]
    ]
    assert [name for name in layers.values() if name.startswith("_blocks.15.")] == [
        f"_blocks.15.{name}"
        for name in [
            "_expand_conv",
            "_bn0",
            "_depthwise_conv",
            "_bn1",
            "_se_reduce",
            "_se_expand",
            "_project_conv",
            "_bn2",
        ]
    ]
    assert list(layers.values())[-3:] == ["_conv_head", "_bn1", "_fc"]


def test_folders_and_endings(model, tmp_path):
    path = tmp_path / "net" / "pytorch_model.bin"
    path.parent.mkdir()
    path.write_bytes(torch_files.archive(*torch_files.described(state_of(model, "timm"))))
    for name in ("net.pt", "net.pth.tar", "net.safetensors"):
        shutil.copy(path, tmp_path / name)
        load_weights(source_files.reset(model), tmp_path / name)
    load_weights(source_files.reset(model), path.parent)
    (path.parent / "config.json").write_text(json.dumps({"mean": [0.5] * 3, "std": [0.5] * 3}))
    assert open_weights(path.parent, SMALL).normalization == "inception"
    tensors = {name: value + 1 for name, value in source_files.values_for(model).items()}
    layers = source_files.layers_for("timm", model)
    source_files.write("timm", path.with_name("model"), tensors, layers)
    load_weights(model, path.parent)  # the .safetensors
    source_files.assert_holds(model, tensors)


def test_padding_of_pytorch_is_refused(model, tmp_path):
    code, storages = torch_files.described(state_of(model, "timm"))
    for name in ("efficientnet_b0_ra-3dd342df", "efficientnet_lite0_ra-37913777"):
        (tmp_path / f"{name}.pth").write_bytes(torch_files.archive(code, storages))
    entries = {"arch": torch_files.text("efficientnet_b1"), "state_dict": code}
    checkpoint = torch_files.archive(torch_files.mapping(entries), storages)
    (tmp_path / "best.pth").write_bytes(checkpoint)
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(
            ValueError, match=r"name says that it is efficientnet_(b[01]|lite0)\. It pad"
        ):
            load_weights(model, path)


@pytest.mark.parametrize(
    ("name", "variant", "set_name", "normalization"),
    [
        ("efficientnet-b0-355c32eb", "-b0", "imagenet", "imagenet"),
        ("adv-efficientnet-b0-b64d5a18", "-b0", "imagenet-advprop", "inception"),
        ("tf_efficientnet_b0_ap-f262efe1", "-b0", "imagenet-advprop", "inception"),
        ("tf_efficientnet_b0_ns-c0e6a31c", "-b0", "noisy-student", "imagenet"),
        ("tf_efficientnet_b0_aa-827b6e33", "-b0", "imagenet", "imagenet"),
        ("tf_efficientnetv2_s_21ft1k-d7dafa41", "v2-s", "imagenet21k-ft1k", "symmetric"),
        ("tf_efficientnetv2_s-eb54923e", "v2-s", "imagenet", "symmetric"),
    ],
)
def test_a_publishers_name_tells_the_normalisation(
    name, variant, set_name, normalization, tmp_path
):
    first = "conv_stem.weight" if name.startswith("tf_") else "_conv_stem.weight"
    code, storages = torch_files.described({first: np.zeros((2, 3, 3, 3), "float32")})
    (tmp_path / f"{name}.pth").write_bytes(torch_files.archive(code, storages))
    weights = open_weights(tmp_path / f"{name}.pth", f"efficientnet{variant}")
    assert weights.set.weights == set_name
    assert weights.normalization == normalization
