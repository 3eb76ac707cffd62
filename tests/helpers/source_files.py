"""Weight files as the sources write them, made by other code than the package reads them with.

The values come from the caller, by official name without the model in front
("stem/conv2d/kernel"); the layers' names from tests/golden/importers.
"""

import json
from functools import cache

import h5py
import numpy as np
import tensorflow as tf
from safetensors.numpy import save_file

from helpers import oracle, torch_files
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.pretrained.efficientnet_pytorch import efficientnet_pytorch_names
from keras_effnetv2.pretrained.legacy_h5 import keras_applications_names, leondgarse_names
from keras_effnetv2.pretrained.official import official_names
from keras_effnetv2.pretrained.timm import timm_names

AVERAGE = "/ExponentialMovingAverage"
SMALL = ModelConfig(  # a block of each kind that the sources name in a way of its own
    "small",
    decode_stages(
        [
            "r1_k3_s1_e1_i8_o8_c1",
            "r2_k3_s2_e4_i8_o16_c1_se0.25",
            "r1_k5_s2_e6_i16_o24_se0.25",
            "r1_k3_s1_e1_i24_o8",
        ]
    ),
    head_filters=24,
    normalization="imagenet",
)
SOURCES = ("official", "timm", "efficientnet-pytorch", "keras-applications", "leondgarse")
OF_PYTORCH = ("timm", "efficientnet-pytorch")
TIMM_WEIGHTS = dict.fromkeys(("kernel", "depthwise_kernel", "gamma"), "weight") | {
    **dict.fromkeys(("bias", "beta"), "bias"),
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}


def write(source, path, tensors, layers):
    """Writes a file of a source at `path`, whose suffix is added; returns the whole path.

    Args:
        tensors: official name -> array.
        layers: official name of a layer -> the source's; "official" needs none.
    """
    if source == "official":
        return write_checkpoint(path, {f"net/{name}": value for name, value in tensors.items()})
    if source == "timm":
        path = path.with_suffix(".safetensors")
        save_file(as_timm(tensors, layers), path)
        return path
    if source == "efficientnet-pytorch":
        path = path.with_suffix(".pth")
        path.write_bytes(torch_files.archive(*torch_files.described(as_timm(tensors, layers))))
        return path
    path = path.with_suffix(".h5")
    with h5py.File(path, "w") as file:
        group = file
        if source == "leondgarse":  # whole models
            file.attrs["model_config"] = json.dumps({"class_name": "Functional"})
            group = file.create_group("model_weights")
        write_legacy(group, {in_h5(layers, name): value for name, value in tensors.items()})
    return path


def write_all(folder, model, tensors=None):
    """Writes a file of every source for a model, its own included; returns them by source."""
    tensors = tensors or values_for(model)
    files = {
        source: write(source, folder / f"tf_{source}", tensors, layers_for(source, model))
        for source in SOURCES
    }
    state = as_timm(tensors, layers_for("timm", model))
    files["old form"] = folder / "tf_old_form.pth"
    files["old form"].write_bytes(torch_files.old_form(*torch_files.described(state)))
    set_weights(model, tensors)
    for source in ("keras", "weights.h5", "h5"):
        files[source] = folder / f"own.{source}"
        (model.save_weights if source == "weights.h5" else model.save)(files[source])
    return files


def write_checkpoint(folder, tensors, prefix="model"):
    """A name-based checkpoint as the official trainer writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    tf.raw_ops.SaveV2(
        prefix=str(folder / prefix),
        tensor_names=list(tensors),
        shape_and_slices=[""] * len(tensors),
        tensors=[tf.constant(value) for value in tensors.values()],
    )
    (folder / "checkpoint").write_text(f'model_checkpoint_path: "{prefix}"\n')
    return folder


def as_timm(tensors, layers):
    """timm's state dict: names, order of axes, and the step counters of its batch norms."""
    state = {}
    for name, value in tensors.items():
        layer, _, weight = name.rpartition("/")
        if weight == "depthwise_kernel":
            value = value.transpose(2, 3, 0, 1)
        elif weight == "kernel":
            value = value.transpose(3, 2, 0, 1) if value.ndim == 4 else value.T
        elif weight == "gamma":
            state[f"{layers[layer]}.num_batches_tracked"] = np.array(5)
        state[f"{layers[layer]}.{TIMM_WEIGHTS[weight]}"] = np.ascontiguousarray(value)
    return state


def in_h5(layers, name):
    """ "stem/conv2d/kernel" -> "stem_conv/kernel:0"."""
    layer, _, weight = name.rpartition("/")
    return f"{layers[layer]}/{weight}:0"


def write_legacy(group, weights):
    """The layout of tf.keras 2: LAYER/LAYER/WEIGHT, with lists of names in attributes."""
    layers = {"input_1": []}  # layers without weights are empty groups
    for name in weights:
        layers.setdefault(name.partition("/")[0], []).append(name)
    group.attrs["layer_names"] = [layer.encode() for layer in layers]
    for layer, own in layers.items():
        folder = group.create_group(layer)
        folder.attrs["weight_names"] = [name.encode() for name in own]
        for name in own:
            folder[name] = weights[name]


@cache
def golden_layers(source, variant):
    """Official name of a layer -> name in the source, from the oracle."""
    text = (oracle.GOLDEN / "importers" / f"{source}_{variant}.txt").read_text()
    return {official: theirs for theirs, official in map(str.split, text.splitlines())}


@cache
def golden_tensors(variant, classes=1000):
    """Official name -> the value by the fill rule, for a classifier of that width."""
    tensors = {}
    for row in oracle.description(variant)["variables"]:
        shape = row["shape"]
        if "/head/dense/" in row["name"]:
            shape = [*shape[:-1], classes]
        tensors[row["name"].partition("/")[2]] = oracle.fill(row["name"], shape)
    return tensors


def values_for(model):
    """Official name -> a value drawn from the name alone, for any model."""
    values = {
        theirs: oracle.rng_for(theirs).standard_normal(oracle.weights_of(model)[ours].shape)
        for ours, theirs in official_names(model).items()
    }
    return {name: np.abs(value).astype("float32") for name, value in values.items()}


def layers_for(source, model):
    """Official name of a layer -> name in the source, for a model that the oracle has no list of.

    These are the package's names: `test_importers` compares them with the oracle's.
    """
    names = {
        "timm": lambda: timm_names(model),
        "efficientnet-pytorch": lambda: efficientnet_pytorch_names(model),
        "leondgarse": lambda: leondgarse_names(model, ()),
        "keras-applications": lambda: keras_applications_names(model, ()),
        "official": lambda: official_names(model),
    }[source]()
    separator = "." if source in OF_PYTORCH else "/"
    return {
        official.rpartition("/")[0]: names[ours].rpartition(separator)[0]
        for ours, official in official_names(model).items()
    }


def set_weights(model, tensors):
    """Gives a model the values of official names."""
    weights = oracle.weights_of(model)
    for ours, theirs in official_names(model).items():
        weights[ours].assign(tensors[theirs])


def reset(model):
    """Gives every weight a value that no file has; returns the model."""
    for weight in model.weights:
        weight.assign(np.full(weight.shape, 0.5, "float32"))
    return model


def assert_holds(model, tensors):
    weights = oracle.weights_of(model)
    for ours, theirs in official_names(model).items():
        value = oracle.numpy(weights[ours])
        np.testing.assert_array_equal(value, tensors[theirs], err_msg=ours)
