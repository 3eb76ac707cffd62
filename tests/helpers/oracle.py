"""The fixed rule that the weights and inputs of tests/golden/models were made with.

A variable's values depend on its official name and shape only, so an independent implementation
that fills its weights by this rule must give the golden numbers.
"""

import hashlib
import json
import re
from functools import cache
from pathlib import Path

import keras
import numpy as np

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.official import official_names

GOLDEN = Path(__file__).parents[1] / "golden"
SIZES = ((96, 96), (97, 129), (74, 100))
VARIANTS = (
    "efficientnetv2-b0",
    "efficientnetv2-b1",
    "efficientnetv2-s",
    "efficientnet-b0",
    "efficientnet-b4",
)
# Keeps signals of the randomly filled nets from dying or exploding; one number a network.
GAIN = {
    "efficientnetv2-b0": 1.23,
    "efficientnetv2-b1": 1.19,
    "efficientnetv2-s": 1.08,
    "efficientnet-b0": 1.39,
    "efficientnet-b4": 1.256,
}
PROJECTION_FACTOR = 0.4  # for 1x1 kernels that reduce channels, outside squeeze-excite
# JAX compiles in a fraction of the time; that its numbers are right is what is tested.
QUICK_JAX = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}


def rng_for(text):
    digest = hashlib.sha256(text.encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "little"))


def fill(name, shape, tag=""):
    """Values of the variable with this official name, e.g. efficientnetv2-b0/stem/conv2d/kernel."""
    shape = tuple(shape)
    rng = rng_for(name + tag)
    leaf = name.rpartition("/")[2]
    if leaf in ("kernel", "depthwise_kernel"):
        gain = GAIN[name.partition("/")[0]]
        if len(shape) == 4 and "/se/" not in name and shape[0] == 1 and shape[2] > shape[3]:
            gain *= PROJECTION_FACTOR
        fan_in = np.prod(shape[:2] if leaf == "depthwise_kernel" else shape[:-1])
        value = rng.standard_normal(shape) * float(np.sqrt(2.0 / fan_in) * gain)
    elif leaf == "gamma":
        value = 1.0 + 0.1 * rng.standard_normal(shape)
    elif leaf in ("bias", "beta", "moving_mean"):
        value = 0.1 * rng.standard_normal(shape)
    elif leaf == "moving_variance":
        value = rng.uniform(0.5, 1.5, shape)
    else:
        raise ValueError(name)
    return value.astype(np.float32)


def model_input(variant, height, width, batch=2):
    rng = rng_for(f"input/{variant}/{height}x{width}")
    return rng.uniform(-1.0, 1.0, (batch, height, width, 3)).astype(np.float32)


def strided_sample(array, count=64):
    flat = np.asarray(array).reshape(-1)
    return flat[(np.arange(count, dtype=np.int64) * flat.size) // count]


@cache
def training(name):
    """Numbers made by running the official training code."""
    return json.loads((GOLDEN / "training" / f"{name}.json").read_text("utf-8"))


@cache
def description(variant):
    return json.loads((GOLDEN / "models" / f"{variant}.json").read_text())


def weights_of(model):
    """Our weight path -> the variable, without the number of a network beside another one."""
    return {
        f"{re.sub(r'^net[0-9]+_', '', layer.name)}/{weight.name}": weight
        for layer in model.layers
        for weight in layer.weights
    }


def fill_model(model, variant, tag=""):
    """Fills a model's weights by the rule and returns it."""
    variables = weights_of(model)
    for ours, official in official_names(model).items():
        variables[ours].assign(fill(f"{variant}/{official}", variables[ours].shape, tag))
    return model


@cache
def filled(variant):
    """The variant with golden weights, logits out, normalised pixels in."""
    config = ModelConfig.from_name(variant)
    model = build_model(config, classifier_activation=None, include_preprocessing=False)
    return fill_model(model, variant)


def numpy(tensor):
    return keras.ops.convert_to_numpy(tensor)


def call(model, pixels):
    """What a model gives. JAX compiles it as a whole: each operation by itself takes longer."""
    if keras.backend.backend() != "jax":
        return model(pixels)
    import jax

    variables = model.trainable_variables, model.non_trainable_variables
    values = ([variable.value for variable in some] for some in variables)
    return jax.jit(model.stateless_call, compiler_options=QUICK_JAX)(*values, pixels)[0]
