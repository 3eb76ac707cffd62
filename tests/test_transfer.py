"""Frozen batch norms stay as they are while the rest learns; and when they are frozen."""

import keras
import numpy as np
import pytest
from helpers.quick_runs import two_blocks

from keras_effnetv2.models.build import build_model
from keras_effnetv2.training.transfer import (
    batch_norms,
    freeze_batch_norm,
    freeze_first_blocks,
    has_learned,
    resolve_batch_norm,
)

RNG = np.random.default_rng(0)
PICTURES = RNG.uniform(0, 255, (4, 32, 32, 3)).astype("float32")
LABELS = np.eye(3, dtype="float32")[[0, 1, 2, 0]]


def small_network():
    return build_model(two_blocks(), classes=3, dropout_rate=0.0, drop_path_rate=0.0)


def nested(model):
    """The network inside of two others, as keras.applications models are used."""
    inputs = keras.Input((32, 32, 3))
    within = keras.Sequential([model])
    return keras.Model(inputs, within(inputs))


def values(variables):
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]


def step(model):
    model.compile("sgd", "categorical_crossentropy", run_eagerly=True)
    model.train_on_batch(PICTURES, LABELS)


def norm_variables(model):
    return [variable for layer in batch_norms(model) for variable in layer.weights]


def test_a_frozen_batch_norm_stays_as_it_is_while_the_rest_learns():
    keras.utils.set_random_seed(0)
    network = small_network()
    model = nested(network)
    assert freeze_batch_norm(model) == len(batch_norms(network)) == 7
    norms, kernel = norm_variables(model), network.get_layer("stem_conv").kernel
    before, stem = values(norms), values([kernel])
    step(model)
    for variable, old, new in zip(norms, before, values(norms), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=variable.path)
    assert np.abs(values([kernel])[0] - stem[0]).max() > 0


def test_a_frozen_network_computes_the_same_in_training_as_in_inference():
    keras.utils.set_random_seed(0)
    model = small_network()

    def difference():
        trained = model(PICTURES, training=True)
        return np.abs(values([trained])[0] - values([model(PICTURES, training=False)])[0]).max()

    assert difference() > 1e-3
    freeze_batch_norm(model)
    assert difference() < 1e-6


@pytest.mark.parametrize(("share", "frozen"), [(0.0, 0), (0.4, 2), (1.0, 4)])
def test_the_first_blocks_stay_as_they_are_while_the_rest_learns(share, frozen):
    keras.utils.set_random_seed(0)
    network = small_network()
    model = nested(network)
    assert freeze_first_blocks(model, share) == frozen
    groups = ("stem", "block1a", "block2a", "top", "predictions")
    kept = [v for v in network.variables if v.path.partition("_")[0] in groups[:frozen]]
    others = [layer.kernel for layer in network.layers if hasattr(layer, "kernel")]
    others = [one for one in others if not any(one is variable for variable in kept)]
    assert len(kept) >= 3 * frozen
    assert others
    before, learning = values(kept), values(others)
    step(model)
    for variable, old, new in zip(kept, before, values(kept), strict=True):
        np.testing.assert_array_equal(new, old, err_msg=variable.path)
    for variable, old, new in zip(others, learning, values(others), strict=True):
        assert np.abs(new - old).max() > 0, variable.path


def test_a_network_has_learned_once_it_has_seen_pictures():
    keras.utils.set_random_seed(0)
    model = small_network()
    assert not has_learned(model)
    step(model)
    assert has_learned(model)
    assert has_learned(nested(model))
    plain = keras.Sequential([keras.Input((32, 32, 3)), keras.layers.Flatten()])
    plain.add(keras.layers.Dense(3, "softmax"))
    assert not has_learned(plain)
    step(plain)
    assert has_learned(plain)


@pytest.mark.parametrize(
    ("policy", "batch", "is_pretrained", "settled", "reason"),
    [
        ("auto", 31, True, "freeze", "31 pictures (fewer than 32)"),
        ("auto", 32, True, "train", "32 pictures (at least 32)"),
        ("auto", 1, False, "train", "no statistics yet"),
        ("train", 1, True, "train", "the recipe says so"),
        ("freeze", 4096, False, "freeze", "the recipe says so"),
    ],
)
def test_when_batch_norms_are_frozen(policy, batch, is_pretrained, settled, reason):
    found, why = resolve_batch_norm(policy, batch, is_pretrained)
    assert found == settled
    assert reason in why
