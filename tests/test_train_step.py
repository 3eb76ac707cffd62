"""One training step of efficientnetv2-b0 against the official one, on every backend."""

import json

import keras
import numpy as np
import pytest
from helpers import oracle

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.official import official_names

pytestmark = pytest.mark.backend
VARIANT = "efficientnetv2-b0"
GOLDEN = json.loads((oracle.GOLDEN / "models" / f"train_step_{VARIANT}.json").read_text())
LABELS = [3, 77, 500, 999]
WEIGHT_DECAY = 1e-5
NOISE = 1e-5  # a gradient of smaller norm is rounding (a bias in front of a batch norm)


@pytest.fixture(scope="module")
def model():
    """Golden weights, no dropout, no stochastic depth (the golden step has none)."""
    config = ModelConfig.from_name(VARIANT)
    model = build_model(
        config,
        classifier_activation=None,
        include_preprocessing=False,
        dropout_rate=0,
        drop_path_rate=0,
    )
    return oracle.fill_model(model, VARIANT)


def loss_of(logits):
    labels = keras.ops.one_hot(np.array(LABELS), 1000)
    losses = keras.losses.categorical_crossentropy(
        labels, logits, from_logits=True, label_smoothing=0.1
    )
    return keras.ops.mean(losses)


def kernels(model):
    return [weight for weight in model.trainable_weights if weight.name == "kernel"]


def gradients_and_statistics(model, x):
    """Loss and gradients by each backend's own means; moving statistics as a side effect."""

    def total(logits):
        decay = sum(keras.ops.sum(keras.ops.square(k)) for k in kernels(model)) / 2
        return loss_of(logits) + WEIGHT_DECAY * decay

    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape() as tape:
            value = total(model(x, training=True))
        return value, tape.gradient(value, [w.value for w in model.trainable_weights])
    if backend == "torch":
        value = total(model(x, training=True))
        value.backward()
        return value, [w.value.grad for w in model.trainable_weights]
    import jax

    def stateless(trainable, non_trainable):
        mapping = list(zip(model.trainable_variables, trainable, strict=True)) + list(
            zip(model.non_trainable_variables, non_trainable, strict=True)
        )
        with keras.StatelessScope(mapping) as scope:
            value = total(model(x, training=True))
        updated = [scope.get_current_value(v) for v in model.non_trainable_variables]
        return value, updated

    trainable = [v.value for v in model.trainable_variables]
    non_trainable = [v.value for v in model.non_trainable_variables]
    step = jax.jit(jax.value_and_grad(stateless, has_aux=True), compiler_options=oracle.QUICK_JAX)
    (value, updated), gradients = step(trainable, non_trainable)
    for variable, new in zip(model.non_trainable_variables, updated, strict=True):
        variable.assign(new)
    return value, gradients


def test_loss_gradients_and_moving_statistics(model):
    x = oracle.model_input(VARIANT, 64, 64, batch=4)
    value, gradients = gradients_and_statistics(model, x)
    assert float(oracle.numpy(value)) == pytest.approx(
        GOLDEN["cross_entropy"] + GOLDEN["l2"], rel=1e-5
    )
    names = official_names(model)
    owner = {id(w): f"{layer.name}/{w.name}" for layer in model.layers for w in layer.weights}
    ours = {
        f"{VARIANT}/{names[owner[id(weight)]]}": oracle.numpy(gradient)
        for weight, gradient in zip(model.trainable_weights, gradients, strict=True)
    }
    assert set(ours) == {row["name"] for row in GOLDEN["gradients"]}
    squares = sum(float((g.astype(np.float64) ** 2).sum()) for g in ours.values())
    assert np.sqrt(squares) == pytest.approx(GOLDEN["grad_global_norm"], rel=1e-4)
    for row in GOLDEN["gradients"]:
        gradient = ours[row["name"]].astype(np.float64)
        norm = np.linalg.norm(gradient)
        if row["norm"] < NOISE:
            assert norm < 10 * NOISE
            continue
        assert norm == pytest.approx(row["norm"], rel=1e-3), row["name"]
        sample = oracle.strided_sample(gradient, len(row["sample"]))
        np.testing.assert_allclose(sample, row["sample"], rtol=0, atol=2e-3 * row["norm"])
    check_moving_statistics(model, names)


def check_moving_statistics(model, names):
    weights = {f"{layer.name}/{w.name}": w for layer in model.layers for w in layer.weights}
    by_official = {f"{VARIANT}/{theirs}": weights[ours] for ours, theirs in names.items()}
    # The biased batch variance, as in the official training default; Keras 3 never corrects it.
    golden = GOLDEN["moving_after_one_step_tpu_bn"]
    assert len(golden) == len(model.non_trainable_weights)
    for name, expected in golden.items():
        sample = oracle.strided_sample(oracle.numpy(by_official[name]), len(expected))
        np.testing.assert_allclose(sample, expected, rtol=1e-4, atol=1e-5, err_msg=name)
