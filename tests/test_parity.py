"""The network equals the official one: golden numbers of tests/golden/models, every backend."""

from functools import cache

import keras
import numpy as np
import pytest
from helpers import oracle
from helpers.source_files import SMALL

from keras_effnetv2.models.build import build_model, feature_extractor
from keras_effnetv2.pretrained.official import official_names

pytestmark = pytest.mark.backend
TOLERANCE = 2e-4  # the oracle's; the smallest modelling mistake seen moves a logit by 0.26
BACKEND = keras.backend.backend()
# The other backends run the same graph; two nets with every kind of block, and one size whose maps
# have even and odd sides, are enough there.
VARIANTS = oracle.VARIANTS if BACKEND == "tensorflow" else ("efficientnetv2-b0", "efficientnet-b0")
SIZES = oracle.SIZES if BACKEND == "tensorflow" else [(74, 100)]


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(params=SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def size(request):
    return request.param


def block_outputs(model):
    """Output of every block: its last layer."""
    last = {}
    for layer in model.layers:
        if layer.name.startswith("block"):
            last[layer.name.partition("_")[0]] = layer.output
    return list(last.values())


@cache
def with_endpoints(variant):
    """The network with all outputs that the official code has numbers for."""
    model = oracle.filled(variant)
    endpoints = {
        "stem": model.get_layer("stem_activation").output,
        "head_1x1": model.get_layer("top_activation").output,
    } | {f"reduction_{k}": x for k, x in enumerate(feature_extractor(model).outputs, start=1)}
    outputs = {
        "logits": model.output,
        "pooled": model.get_layer("avg_pool").output,
        "endpoints": endpoints,
        "blocks": block_outputs(model),
    }
    return keras.Model(model.input, outputs)


def test_every_endpoint_equals_the_official_one(variant, size):
    golden = np.load(oracle.GOLDEN / "models" / f"{variant}.npz")
    key = f"{size[0]}x{size[1]}"
    result = oracle.call(with_endpoints(variant), oracle.model_input(variant, *size))

    def close(value, name):
        np.testing.assert_allclose(value, golden[f"{name}_{key}"], rtol=0, atol=TOLERANCE)

    close(oracle.numpy(result["logits"]), "logits")
    close(oracle.numpy(result["pooled"]), "pooled")
    if size == (74, 100):
        shapes = [tuple(result["endpoints"][f"reduction_{k}"].shape[1:3]) for k in range(1, 6)]
        assert shapes == [(37, 50), (19, 25), (10, 13), (5, 7), (3, 4)]
    for name, value in result["endpoints"].items():
        close(oracle.strided_sample(oracle.numpy(value)), f"{name}_sample")
    blocks = [oracle.numpy(x).astype(np.float64) for x in result["blocks"]]
    close([x.mean() for x in blocks], "block_mean")
    close([x.std() for x in blocks], "block_std")


def test_pooling_and_bare_features_agree_with_the_full_network():
    full = build_model(SMALL)
    pixels = np.random.default_rng(0).uniform(0, 255, (2, 32, 48, 3)).astype("float32")

    def features(pooling):
        model = build_model(SMALL, include_top=False, pooling=pooling)
        model.set_weights(full.get_weights()[: len(model.weights)])
        return oracle.numpy(oracle.call(model, pixels))

    feature_map = features(None)
    assert feature_map.shape == (2, 4, 6, SMALL.head_filters)
    pooled = oracle.call(keras.Model(full.input, full.get_layer("avg_pool").output), pixels)
    np.testing.assert_allclose(features("avg"), oracle.numpy(pooled), atol=1e-5)
    np.testing.assert_allclose(features("avg"), feature_map.mean((1, 2)), atol=1e-5)
    np.testing.assert_allclose(features("max"), feature_map.max((1, 2)), atol=1e-5)


def test_weight_names_are_those_of_the_official_code(variant):
    model = oracle.filled(variant)
    shapes = {name: list(weight.shape) for name, weight in oracle.weights_of(model).items()}
    ours = {f"{variant}/{theirs}": shapes[name] for name, theirs in official_names(model).items()}
    assert ours == {v["name"]: v["shape"] for v in oracle.description(variant)["variables"]}


def test_blocks_have_the_official_figures(variant):
    model = oracle.filled(variant)
    names = [layer.name for layer in model.layers]
    prefixes = dict.fromkeys(n.partition("_")[0] for n in names if n.startswith("block"))
    official = oracle.description(variant)
    assert model.get_layer("top_dropout").rate == official["dropout_rate"]
    for prefix, block in zip(prefixes, official["blocks"], strict=True):
        if block["skip"] and block["survival_prob"] < 1:
            rate = model.get_layer(f"{prefix}_drop").rate
            assert rate == pytest.approx(1 - block["survival_prob"])
        assert (f"{prefix}_add" in names) == block["skip"]
        if block["se_filters"]:
            assert model.get_layer(f"{prefix}_se_reduce").filters == block["se_filters"]
    norm = model.get_layer("stem_bn")
    assert (norm.epsilon, norm.momentum) == (official["bn_epsilon"], official["bn_momentum"])
