"""Importers: names and logits against the lists and numbers of the oracle, and Keras' own nets."""

import logging
from functools import cache

import h5py
import keras
import numpy as np
import pytest
from helpers import oracle, source_files
from helpers.source_files import SMALL
from safetensors.numpy import save_file

from keras_effnetv2 import preprocess_input
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import scale_and_offset
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.legacy_h5 import keras_applications_names, leondgarse_names
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.official import official_names
from keras_effnetv2.pretrained.open_weights import open_weights
from keras_effnetv2.pretrained.timm import timm_names, timm_state_dict

pytestmark = pytest.mark.usefixtures("checkpoints_in_this_process")

LISTS = sorted(tuple(file.stem.split("_")) for file in (oracle.GOLDEN / "importers").glob("*.txt"))
# Of the nets that the oracle has lists of, those with all kinds of blocks.
WHOLE = [(source, variant) for source, variant in LISTS if variant.endswith("-b0")]
IN_FILES = [("official", "efficientnetv2-b0")]
IN_FILES += [pair for pair in WHOLE if "v2" in pair[1]]
# Slow: the names of V1 are compared below, and what is done with names does not ask for them.
IN_FILES += [pytest.param(*pair, marks=pytest.mark.slow) for pair in WHOLE if "v2" not in pair[1]]
KERAS_NETS = [("EfficientNetV2B0", "efficientnetv2-b0"), ("EfficientNetB0", "efficientnet-b0")]
SIZE = (96, 96)


def bare(variant, **arguments):
    """A model that gives logits for normalised pixels."""
    config = ModelConfig.from_name(variant)
    return build_model(config, classifier_activation=None, include_preprocessing=False, **arguments)


@pytest.fixture(scope="module")
def models():
    """(variant, classes) -> model; classes 0 has no top. Built once, loaded many times."""
    built = {}

    def get(variant, classes):
        if (variant, classes) not in built:
            arguments = {"classes": classes} if classes else {"include_top": False}
            built[variant, classes] = bare(variant, pooling="avg", **arguments)
        return source_files.reset(built[variant, classes])

    return get


@pytest.fixture(scope="module")
def theirs():
    """Name of a net of keras.applications -> that net with fresh weights."""
    built = {}

    def get(name):
        if name not in built:
            built[name] = getattr(keras.applications, name)(weights=None, classes=10)
        return built[name]

    return get


def file_of(source, variant, folder, classes=1000, tensors=None):
    layers = None if source == "official" else source_files.golden_layers(source, variant)
    name = f"tf_{variant}"
    tensors = tensors or source_files.golden_tensors(variant, classes)
    return source_files.write(source, folder / name, tensors, layers)


def golden(variant, what):
    return np.load(oracle.GOLDEN / "models" / f"{variant}.npz")[f"{what}_{SIZE[0]}x{SIZE[1]}"]


def outputs(model, variant):
    return oracle.numpy(model(oracle.model_input(variant, *SIZE)))


# --- names --------------------------------------------------------------------------------------


@cache
def thin(variant):
    """A network of few filters: names follow from the place alone."""
    return build_model(ModelConfig.from_name(variant).scaled(width=0.02), classes=2)


@pytest.mark.parametrize(("source", "variant"), LISTS)
def test_names_are_the_oracles_both_ways(source, variant):
    layers = source_files.golden_layers(source, variant)
    model = thin(variant)
    if source == "timm":
        ours = timm_names(model)
        ending = source_files.TIMM_WEIGHTS
        expected = {
            name: f"{layers[layer]}.{ending[weight]}"
            for name, layer, weight in split(official_names(model))
        }
    else:
        expected = {
            name: source_files.in_h5(layers, f"{layer}/{weight}")
            for name, layer, weight in split(official_names(model))
        }
        function = leondgarse_names if source == "leondgarse" else keras_applications_names
        ours = function(model, expected.values())
    assert ours == expected
    assert len(set(ours.values())) == len(model.weights)
    assert {layer for _, layer, _ in split(official_names(model))} == set(layers)


def split(official):
    return [(ours, *name.rpartition("/")[::2]) for ours, name in official.items()]


@pytest.mark.parametrize(("name", "variant"), KERAS_NETS)
def test_names_are_those_of_keras_applications_in_both_spellings(name, variant, theirs):
    model = thin(variant)
    layers = [
        layer
        for layer in theirs(name).layers
        if layer.weights and not isinstance(layer, keras.layers.Normalization)
    ]
    keras3 = {f"{layer.name}/{weight.name}" for layer in layers for weight in layer.weights}
    keras2 = {
        f"{layer.name}/{long_name(layer, weight)}:0" for layer in layers for weight in layer.weights
    }
    for stored in (keras3, keras2):
        assert set(keras_applications_names(model, stored).values()) == stored


def test_a_network_of_keras_applications_is_the_same_function(theirs, models):
    net, model = theirs("EfficientNetV2B0"), models("efficientnetv2-b0", 10)
    oracle.fill_model(model, "efficientnetv2-b0")
    for layer in model.layers:
        if layer.weights:
            net.get_layer(layer.name).set_weights(layer.get_weights())
    pixels = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
    logits = model(preprocess_input(pixels, "efficientnetv2-b0"))
    np.testing.assert_allclose(
        oracle.numpy(net(pixels)), oracle.numpy(keras.ops.softmax(logits)), rtol=0, atol=1e-5
    )


def is_normalisation(layer):
    return isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization)


def long_name(layer, weight):
    depthwise = isinstance(layer, keras.layers.DepthwiseConv2D)
    return "depthwise_kernel" if depthwise else weight.name


def test_names_beyond_the_letter_z():
    config = ModelConfig("long", decode_stages(["r28_k3_s1_e1_i8_o8_c1"]), head_filters=8)
    model = build_model(config, classes=2)
    ours = "block1ab_project_conv/kernel"
    assert keras_applications_names(model, ())[ours] == ours
    assert leondgarse_names(model, ())[ours] == "stack_0_block27_fu_conv/kernel"
    assert timm_names(model)[ours] == "blocks.0.27.conv.weight"


# --- logits -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "variant"), IN_FILES)
def test_logits_and_features_are_the_oracles(source, variant, models, tmp_path):
    path = file_of(source, variant, tmp_path)
    model = models(variant, 1000)
    report = load_weights(model, path)
    assert (report.source, report.loaded) == (source, len(model.weights))
    np.testing.assert_allclose(
        outputs(model, variant), golden(variant, "logits"), rtol=0, atol=2e-4
    )
    headless = models(variant, 0)
    report = load_weights(headless, path)
    assert report.loaded == len(headless.weights)
    assert [why for why in report.ignored.values() if "no top" in why] == [
        "classifier; the model has no top"
    ] * 2
    np.testing.assert_allclose(
        outputs(headless, variant), golden(variant, "pooled"), rtol=0, atol=2e-4
    )


@pytest.mark.parametrize("source", source_files.SOURCES)
def test_a_file_without_top(source, tmp_path):
    model, layers, tensors = tiny(source)
    for name in ("head/dense/kernel", "head/dense/bias"):
        del tensors[name]
    path = source_files.write(source, tmp_path / "net", tensors, layers)
    assert open_weights(path).classes is None
    headless = build_model(SMALL, include_top=False)
    load_weights(headless, path)
    source_files.assert_holds(headless, tensors)
    with pytest.raises(ValueError, match=r"2 problem.*\n.*missing.*our predictions/kernel"):
        load_weights(model, path)


# --- files that Keras itself writes of the nets of keras.applications ---------------------------


@pytest.mark.parametrize(
    ("name", "variant", "suffix"),
    [
        (*KERAS_NETS[0], ".h5"),
        (*KERAS_NETS[1], ".keras"),
        # Slow: the other pairs of what the two above have.
        pytest.param(*KERAS_NETS[0], ".weights.h5", marks=pytest.mark.slow),
        pytest.param(*KERAS_NETS[0], ".keras", marks=pytest.mark.slow),
        pytest.param(*KERAS_NETS[1], ".h5", marks=pytest.mark.slow),
    ],
)
def test_files_that_keras_3_writes(name, variant, suffix, theirs, models, tmp_path):
    net = theirs(name)
    rng = np.random.default_rng(1)
    for weight in net.weights:
        if not weight.path.startswith("normalization"):
            weight.assign(rng.standard_normal(weight.shape))
    path = tmp_path / f"net{suffix}"
    (net.save_weights if suffix == ".weights.h5" else net.save)(path)
    model = models(variant, 10)
    report = load_weights(model, path)
    assert report.source == ("keras-applications" if suffix == ".h5" else "keras")
    for layer in model.layers:
        there = layer.name.replace("dwconv2", "dwconv") if "V2" not in name else layer.name
        if layer.weights:
            for own, other in zip(layer.weights, net.get_layer(there).weights, strict=True):
                np.testing.assert_array_equal(oracle.numpy(own), oracle.numpy(other))
    if suffix == ".keras":  # which says what is done to the pixels; V1 does it in three steps
        *_, last = (layer for layer in net.layers[:5] if is_normalisation(layer))
        front = keras.Model(net.input, last.output)
        scale, offset = scale_and_offset(open_weights(path, variant).normalization)
        pixels = np.random.default_rng(0).uniform(0, 255, (1, 224, 224, 3)).astype("float32")
        np.testing.assert_allclose(
            oracle.numpy(front(pixels)), pixels * scale + offset, rtol=0, atol=1e-3
        )
    expected = 0 if "V2" in name else 3
    assert (
        list(report.ignored.values()) == ["input normalisation; the model has its own"] * expected
    )


@pytest.mark.parametrize(
    ("variance", "warnings"),
    [([0.229, 0.224, 0.225], 0), ([0.229**2, 0.224**2, 0.225**2], 0), ([1.0, 1.0, 1.0], 1)],
)
def test_another_input_normalisation_is_told(variance, warnings, tmp_path, caplog):
    """The first row is what the published V1 files of keras.applications hold."""
    model, layers, tensors = tiny()
    path = source_files.write("keras-applications", tmp_path / "net", tensors, layers)
    with h5py.File(path, "a") as file:
        file["normalization/normalization/mean:0"] = [0.485, 0.456, 0.406]
        file["normalization/normalization/variance:0"] = variance
        file["normalization/normalization/count:0"] = 0
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        assert len(load_weights(model, path).ignored) == 3
    assert len(caplog.records) == warnings
    assert all("normalization/variance:0 is [1.0, 1.0, 1.0]" in r.message for r in caplog.records)


# --- layouts of HDF5 ----------------------------------------------------------------------------


@cache
def tiny_model():
    return build_model(SMALL, classes=7, drop_path_rate=0.0)


def tiny(source="keras-applications"):
    """A small model, official layer -> layer in the source, official name -> value."""
    model = source_files.reset(tiny_model())
    return model, source_files.layers_for(source, model), source_files.values_for(model)


def h5_names(layers, tensors):
    return {source_files.in_h5(layers, name): value for name, value in tensors.items()}


@pytest.mark.parametrize("prefix", ["", "model_weights/", "model_weights/efficientnetv2-b0/"])
@pytest.mark.parametrize("short", [False, True])
def test_places_and_spellings_in_an_h5(prefix, short, tmp_path):
    """At the top, in a whole model, in a model in a model; with and without ":0"."""
    model, layers, tensors = tiny()
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for name, value in h5_names(layers, tensors).items():
            name = name.removesuffix(":0").replace("depthwise_", "") if short else name
            file[f"{prefix}{name}"] = value
        file["optimizer_weights/iterations:0"] = 3
    report = load_weights(model, tmp_path / "net.h5")
    assert report.ignored == {"optimizer_weights/iterations:0": "optimizer state"}
    source_files.assert_holds(model, tensors)


def test_two_networks_in_one_file_are_refused(tmp_path):
    model, layers, tensors = tiny()
    with h5py.File(tmp_path / "net.h5", "w") as file:
        for place in "ab":
            for name, value in h5_names(layers, tensors).items():
                file[f"{place}/{name}"] = value
    with pytest.raises(ValueError, match="twice"):
        load_weights(model, tmp_path / "net.h5")


# --- types --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "dtype"),
    [(source, dtype) for source in source_files.SOURCES for dtype in ("float64", "float16")]
    + [(one, "bfloat16") for one in ("official", *source_files.OF_PYTORCH)],  # Keras 2 has none
)
def test_other_floats_are_cast(source, dtype, tmp_path):
    model, layers, tensors = tiny(source)
    cast = {name: value.astype(dtype) for name, value in tensors.items()}
    load_weights(model, source_files.write(source, tmp_path / "net", cast, layers))
    assert {str(weight.dtype) for weight in model.weights} == {"float32"}
    source_files.assert_holds(
        model, {name: value.astype("float32") for name, value in cast.items()}
    )


def test_own_files_of_a_bfloat16_model(tmp_path):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("bfloat16")
    try:
        first, second = build_model(SMALL, classes=7), build_model(SMALL, classes=7)
    finally:
        keras.config.set_dtype_policy(before)
    first.save_weights(tmp_path / "net.weights.h5")
    load_weights(second, tmp_path / "net.weights.h5")
    assert "bfloat16" in {str(weight.dtype) for weight in second.weights}
    for a, b in zip(first.weights, second.weights, strict=True):
        np.testing.assert_array_equal(oracle.numpy(a), oracle.numpy(b))


# --- nets that pad as PyTorch does --------------------------------------------------------------


def torch_file(folder, name="model.safetensors", change=None, metadata=None):
    model, layers, tensors = tiny("timm")
    state = source_files.as_timm(tensors, layers)
    (change or (lambda state: None))(state)
    folder.mkdir(parents=True, exist_ok=True)
    save_file(state, folder / name, metadata)
    return model, folder / name


def torchvision(state):
    state["features.0.0.weight"] = state.pop("conv_stem.weight")


def rw_s(state):
    state["conv_head.weight"] = np.zeros((1792, 272, 1, 1), "float32")


@pytest.mark.parametrize(
    ("where", "arguments", "words"),
    [
        ("a", {"change": torchvision}, "a net of torchvision"),
        ("a", {"change": rw_s}, "it is efficientnetv2_rw_s"),
        ("a", {"name": "efficientnet_b0.safetensors"}, "its name says that it is efficientnet_b0"),
        ("a", {"name": "efficientnet_b3_ra2-cf984f9c.safetensors"}, "it is efficientnet_b3"),
        ("efficientnetv2_rw_m.agc_in1k", {}, "it is efficientnetv2_rw_m"),
        ("models--timm--efficientnet_b1.ft_in1k/snapshots/7a", {}, "it is efficientnet_b1"),
        ("a", {"metadata": {"architecture": "efficientnet_b4"}}, "it is efficientnet_b4"),
    ],
)
def test_torch_padding_is_recognised(where, arguments, words, tmp_path):
    model, path = torch_file(tmp_path / where, **arguments)
    with pytest.raises(ValueError, match=rf"{words}.*symmetric.*1e-5"):
        load_weights(model, path)
    assert all((weight == 0.5).all() for weight in model.get_weights())  # untouched


def test_torch_padding_by_the_config_beside_it(tmp_path):
    model, path = torch_file(tmp_path)
    (tmp_path / "config.json").write_text('{"architecture": "efficientnet_b0"}')
    with pytest.raises(ValueError, match="it is efficientnet_b0"):
        load_weights(model, path)
    (tmp_path / "config.json").write_text('{"architecture": "tf_efficientnet_b0"}')
    load_weights(model, path)


@pytest.mark.parametrize(
    "where",
    [
        "tf_efficientnet_b0.ns_jft_in1k",
        "models--timm--tf_efficientnetv2_s.in21k/snapshots/7a",
        "efficientnet_b0/tf_efficientnet_b0",  # what is nearer to the file decides
        "test_efficientnet_b0",
        "efficientnet-b0",
    ],
)
def test_names_that_are_no_torch_padding(where, tmp_path):
    model, path = torch_file(tmp_path / where)
    assert load_weights(model, path).source == "timm"


@pytest.mark.parametrize("variant", ["efficientnetv2-b0", "efficientnet-b0"])
def test_a_written_state_dict_has_the_names_the_order_and_the_values_of_timm(variant, models):
    layers = source_files.golden_layers("timm", variant)
    tensors = source_files.golden_tensors(variant)
    model = models(variant, 1000)
    source_files.set_weights(model, tensors)
    expected, written = source_files.as_timm(tensors, layers), timm_state_dict(model)
    parts = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"{layer}.{part}" for layer in layers.values() for part in parts]
    assert list(written) == [name for name in names if name in expected]
    for name, value in written.items():
        if not name.endswith("num_batches_tracked"):
            np.testing.assert_array_equal(value, expected[name], err_msg=name)
