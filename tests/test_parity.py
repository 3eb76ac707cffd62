"""The network equals the official one: golden numbers of tests/golden/models, every backend."""

import keras
import numpy as np
import pytest
from helpers import oracle

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model, feature_extractor
from keras_effnetv2.pretrained.official import official_names

pytestmark = pytest.mark.backend
TOLERANCE = 2e-4  # the oracle's; the smallest modelling mistake seen moves a logit by 0.26
BACKEND = keras.backend.backend()
# The other backends run the same graph; two nets with every kind of block are enough there.
VARIANTS = oracle.VARIANTS if BACKEND == "tensorflow" else ("efficientnetv2-b0", "efficientnet-b0")


@pytest.fixture(params=VARIANTS)
def variant(request):
    return request.param


@pytest.fixture(params=oracle.SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
def size(request):
    return request.param


def block_outputs(model):
    """Output of every block: its last layer."""
    last = {}
    for layer in model.layers:
        if layer.name.startswith("block"):
            last[layer.name.partition("_")[0]] = layer.output
    return list(last.values())


def test_every_endpoint_equals_the_official_one(variant, size):
    model = oracle.filled(variant)
    golden = np.load(oracle.GOLDEN / "models" / f"{variant}.npz")
    key = f"{size[0]}x{size[1]}"
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
    result = keras.Model(model.input, outputs)(oracle.model_input(variant, *size))

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
    variant = "efficientnetv2-b0"
    config = ModelConfig.from_name(variant)
    x = oracle.model_input(variant, 96, 96)
    golden = np.load(oracle.GOLDEN / "models" / f"{variant}.npz")["pooled_96x96"]

    def features(pooling):
        model = build_model(config, include_top=False, include_preprocessing=False, pooling=pooling)
        return oracle.numpy(oracle.fill_model(model, variant)(x))

    feature_map = features(None)
    assert feature_map.shape == (2, 3, 3, config.head_filters)
    np.testing.assert_allclose(feature_map.mean((1, 2)), golden, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(features("avg"), golden, rtol=0, atol=TOLERANCE)
    np.testing.assert_allclose(features("max"), feature_map.max((1, 2)), rtol=0, atol=1e-5)


def test_a_head_of_21843_classes():
    variant = "efficientnetv2-b0"
    model = build_model(
        ModelConfig.from_name(variant),
        classes=21843,
        classifier_activation=None,
        include_preprocessing=False,
    )
    oracle.fill_model(model, variant)
    golden = np.load(oracle.GOLDEN / "models" / f"{variant}.npz")["pooled_96x96"]
    kernel = oracle.fill(f"{variant}/head/dense/kernel", (1280, 21843))
    bias = oracle.fill(f"{variant}/head/dense/bias", (21843,))
    logits = oracle.numpy(model(oracle.model_input(variant, 96, 96)))
    np.testing.assert_allclose(logits, golden @ kernel + bias, rtol=0, atol=TOLERANCE)


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
