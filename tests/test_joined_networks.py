"""Networks among other layers: on a tensor, two on one input, as a part of a model in a file."""

import logging

import keras
import numpy as np
import pytest
from helpers import oracle, source_files
from helpers.source_files import SMALL, assert_holds, values_for

import keras_effnetv2 as kev2
from keras_effnetv2.models.build import build_model, feature_extractor
from keras_effnetv2.pretrained.load import load_weights
from keras_effnetv2.pretrained.open_weights import open_weights

pytestmark = pytest.mark.usefixtures("checkpoints_in_this_process")
layers = keras.layers
PIXELS = np.random.default_rng(0).uniform(0, 255, (2, 32, 32, 3)).astype("float32")
SOURCES = (*source_files.SOURCES, "keras", "weights.h5", "h5")


@pytest.fixture(scope="module")
def values():
    return values_for(build_model(SMALL, classes=7))


@pytest.fixture(scope="module")
def files(tmp_path_factory, values):
    """Source -> a file of the network by itself."""
    model = build_model(SMALL, classes=7)
    return source_files.write_all(tmp_path_factory.mktemp("files"), model, values)


def fronts():
    return {
        "convolution": layers.Conv2D(3, 1),
        "normalisation": layers.Normalization(mean=1.0, variance=4.0),
        "called as ours": layers.Conv2D(3, 1, name="top_conv"),
    }


@pytest.mark.parametrize("source", SOURCES)
def test_weights_go_into_our_layers_only(source, files, values):
    for name, front in fronts().items():
        if source != SOURCES[0] and name != "called as ours":
            continue  # what is in front is the same for every source
        inputs = keras.Input((32, 32, 3))
        x = front(inputs)
        before = front.get_weights()
        model = build_model(SMALL, weights=files[source], input_tensor=x)
        assert_holds(model, values)
        prefix = "net2_" if name == "called as ours" else ""
        assert model.get_layer(f"{prefix}predictions").kernel.shape == (24, 7)
        load_weights(model, files[source])
        for now, then in zip(front.get_weights(), before, strict=True):
            np.testing.assert_array_equal(now, then)


@pytest.mark.backend
def test_two_networks_on_one_input_are_one_model():
    inputs = keras.Input((32, 32, 3))
    nets = [build_model(SMALL, classes=n, input_tensor=inputs, name=f"n{n}") for n in (2, 3, 4)]
    model = keras.Model(inputs, [net.output for net in nets])
    assert [x.shape for x in oracle.call(model, PIXELS)] == [(2, 2), (2, 3), (2, 4)]
    for prefix, net in zip(("", "net2_", "net3_"), nets, strict=True):
        assert net.layers[2].name == f"{prefix}stem_conv"
        assert {one.name.startswith(prefix) for one in net.layers[1:]} == {True}
        assert [tuple(x.shape[1:3]) for x in feature_extractor(net).outputs] == [
            (16, 16),
            (8, 8),
            (4, 4),
        ]
    alone = build_model(SMALL, classes=3)
    alone.set_weights(nets[1].get_weights())
    np.testing.assert_allclose(
        oracle.numpy(oracle.call(alone, PIXELS)),
        oracle.numpy(oracle.call(nets[1], PIXELS)),
        atol=1e-6,
    )


def test_each_of_two_networks_takes_and_gives_weights(files, values, tmp_path):
    inputs = keras.Input((32, 32, 3))
    nets = [build_model(SMALL, weights=files["official"], input_tensor=inputs) for _ in range(2)]
    for net in nets:
        assert_holds(net, values)
    for suffix in (".keras", ".weights.h5", ".h5"):
        path = tmp_path / f"second{suffix}"
        (nets[1].save_weights if suffix == ".weights.h5" else nets[1].save)(path)
        assert_holds(build_model(SMALL, weights=path), values)
        load_weights(source_files.reset(nets[0]), path)
        assert_holds(nets[0], values)
    both = keras.Model(inputs, [net.output for net in nets])
    with pytest.raises(ValueError, match="which begin with stem_conv and net2_stem_conv"):
        load_weights(both, files["official"])
    with pytest.raises(ValueError, match="which begin with stem_conv and net2_stem_conv"):
        feature_extractor(both)
    both.save(tmp_path / "both.keras")
    with pytest.raises(ValueError, match="two networks, which begin with"):
        load_weights(nets[0], tmp_path / "both.keras")


# --- models that have a network in them -----------------------------------------------------------


def transfer(kind, values):
    """A model for other classes: the network in it is nested or not, the head of many layers."""
    inputs = keras.Input((32, 32, 3))
    nested = "nested" in kind
    base = build_model(
        SMALL, include_top=False, pooling="avg", input_tensor=None if nested else inputs
    )
    source_files.set_weights(base, values)
    x = base(inputs) if nested else base.output
    if "many" in kind:
        x = layers.Dense(5, activation="relu", name="hidden")(x)
        x = layers.BatchNormalization()(x)
    if "called as ours" in kind:
        x = layers.Dense(24, activation="relu")(x)
        x = layers.Dense(5)(x)
        return keras.Model(inputs, layers.Dense(7, name="predictions")(x))
    return keras.Model(inputs, layers.Dense(7, name="mine")(x))


@pytest.mark.parametrize(
    ("kind", "suffix"),
    [
        *(("nested", ".keras"), ("nested many", ".weights.h5"), ("nested many", ".h5")),
        *(("many", ".keras"), ("called as ours", ".weights.h5"), ("called as ours", ".h5")),
    ],
)
def test_the_network_in_a_model_is_loaded_and_the_rest_named(
    kind, suffix, values, tmp_path, caplog
):
    model = transfer(kind, values)
    path = tmp_path / f"transfer{suffix}"
    (model.save_weights if suffix == ".weights.h5" else model.save)(path)
    with caplog.at_level(logging.WARNING, "keras_effnetv2"):
        backbone = build_model(SMALL, include_top=False)
        report = load_weights(backbone, path)
    assert report.loaded == len(backbone.weights) == 72
    left = [name for name, why in report.ignored.items() if why.startswith("layer that is not")]
    head = "predictions" if kind == "called as ours" else "mine"
    assert f"{head}/kernel" in left
    assert ("hidden/kernel" in left) == ("many" in kind)
    assert "layer(s) that are in front of the network or behind it: " in caplog.text
    assert_holds(backbone, values)
    fresh = build_model(SMALL, weights=path, classes=3)
    head = zip(
        ("head/dense/kernel", "head/dense/bias"), fresh.layers[-1].get_weights(), strict=True
    )
    assert_holds(fresh, values | dict(head))
    with pytest.raises(ValueError, match=r"no classifier of this network.*\n?.*include_top=False"):
        build_model(SMALL, weights=path)


def test_one_dense_layer_behind_the_network_is_its_classifier(values, tmp_path):
    model = transfer("", values)
    model.save(tmp_path / "net.keras")
    read = build_model(SMALL, weights=tmp_path / "net.keras")
    np.testing.assert_array_equal(
        read.get_layer("predictions").get_weights()[0], model.get_layer("mine").get_weights()[0]
    )


def test_a_network_inside_another_layer_is_loaded_there(files, values):
    model = transfer("nested", values)
    with pytest.raises(ValueError, match=r"load the weights into that layer, model\.get_layer"):
        load_weights(model, files["official"])


@pytest.mark.parametrize("prefix", ["module.", "model.", "state_dict.", "_orig_mod.module."])
def test_what_a_wrapper_puts_in_front_of_names_is_taken_off(prefix, files, values, tmp_path):
    from safetensors.numpy import load_file, save_file

    state = load_file(files["timm"])
    path = tmp_path / "tf_net.safetensors"
    save_file({f"{prefix}{name}": value for name, value in state.items()}, path)
    assert_holds(build_model(SMALL, weights=path), values)
    save_file(
        {f"{one}{name}": value for name, value in state.items() for one in (prefix, "ema.")}, path
    )
    with pytest.raises(ValueError, match=r"several networks, under .*'ema\.'.*keep the tensors"):
        open_weights(path)


def test_a_file_of_another_variant_names_it(tmp_path):
    tensors = source_files.golden_tensors("efficientnetv2-b0", 7)
    path = source_files.write("official", tmp_path / "net", tensors, None)
    with pytest.raises(ValueError, match=r"'small'[^\0]*convolutions of efficientnetv2-b0; build"):
        load_weights(build_model(SMALL, classes=7), path)


def test_no_two_variants_have_the_same_convolutions():
    variants = kev2.ModelConfig.variants()
    sizes = {tuple(sorted(kev2.ModelConfig.from_name(name).kernel_sizes())) for name in variants}
    assert len(sizes) == len(variants)
    model = build_model(SMALL, classes=7)
    kernels = [weight for weight in model.weights if len(weight.shape) == 4]
    assert [np.prod(kernel.shape) for kernel in kernels] == SMALL.kernel_sizes()
