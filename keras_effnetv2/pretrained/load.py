"""Strict loading: every weight comes from the file and every tensor is used, or nothing changes."""

import logging
import os
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from operator import itemgetter
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2._common.text import counted
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.normalization import Normalization, ScaleAndOffset
from keras_effnetv2.pretrained.input_range import layers_in_front, stated_by_layers
from keras_effnetv2.pretrained.layouts import LAYOUTS
from keras_effnetv2.pretrained.open_weights import Weights, open_weights
from keras_effnetv2.pretrained.places import CLASSIFIER, FIRST_LAYER, own_layers

_SHOWN = 10  # problems in an error, layers in a warning
_LOG = logging.getLogger("keras_effnetv2")


class LoadReport(NamedTuple):
    """The result of `load_weights`.

    Attributes:
        source: the source that was recognised, e.g. "official"; see `load_weights`.
        loaded: number of tensors loaded into the model.
        ignored: tensor name in the file -> why it was left out.
        warnings: what may be wrong with the model now, e.g. that it normalises pixels in another
            way than the file says.
    """

    source: str
    loaded: int
    ignored: dict[str, str]
    warnings: tuple[str, ...] = ()


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], source: str = "auto"
) -> LoadReport:
    """Load a weight file into a model, strictly.

    Only arrays are read; code in a file never runs, and a .pth that has anything but a state dict
    in it is refused. Arrays of other floating-point types are cast to the model's.

    Args:
        model: a model of `build_model`, with or without its top.
        path: one of the files below, or, which are downloaded, a published set as VARIANT/SET or
            a repository of the Hugging Face hub as hf://OWNER/NAME[@REVISION].
        source: "auto" to decide by the content, or
            "official": a checkpoint of google/automl or tensorflow/tpu: a folder, a prefix, or a
            .tgz / .tar.gz archive; averaged weights are preferred.
            "timm": a .safetensors, or a .pth that `torch.save` wrote (also .pt, .bin, a training
            checkpoint), of a tf_efficientnet* net of PyTorch Image Models. Its other nets, and
            torchvision's, use a different padding and are refused.
            "efficientnet-pytorch": such a file of lukemelas/EfficientNet-PyTorch, or of the
            released EfficientNet-Lite.
            "keras-applications", "leondgarse": their .h5, weights or a whole model.
            "keras": a `.weights.h5` or `.keras` that Keras 3 wrote of a model of this package, of
            keras.applications or of leondgarse, or of a model that has such a network in it; also
            a snapshot of `train`.

    Returns:
        A `LoadReport`. A classifier in the file of a model without top is ignored, and so are, in
        files of Keras, layers in front of the network or behind it that the model does not have. A
        model's own layers in front of the network keep their weights.

    Raises:
        ValueError: the file cannot be read, or tensors are missing, extra, mis-shaped or not
            finite: the first ten are listed, by their names there and ours, with their number, and
            the model is left untouched.
    """
    return assign_weights(model, open_weights(path, source=source))


def assign_weights(
    model: keras.Model, weights: Weights, *, fresh_classifier: bool = False
) -> LoadReport:
    """Put the tensors of a file into a model: all of them, or none if there is an error.

    Args:
        model: a model of `build_model`.
        weights: what `open_weights` returned.
        fresh_classifier: keep the model's own classifier, with a log message, if the file has none
            or one with another number of classes. Otherwise that is an error.

    Raises:
        ValueError: see `load_weights`.
    """
    own = own_layers(model)
    if not own:
        raise ValueError(
            f"The model {model.name!r} has no layers of build_model. If the network is a layer of "
            "it, load the weights into that layer, model.get_layer(NAME)."
        )
    variables = {f"{name}/{one.name}": one for name in own for one in own[name].weights}
    bias = variables.get(f"{CLASSIFIER}/bias")
    classes = None if bias is None else bias.shape[0]
    tensors, ignored = dict(weights.tensors), dict(weights.ignored)
    if classes is None or (fresh_classifier and weights.classes != classes):
        reason = "classifier; the model has no top"
        if classes is not None:
            reason = f"its classifier does not have {classes} classes"
            path, count = weights.path, weights.classes
            instead = f"that of {path} has {count:,}" if count else f"{path} has none"
            _LOG.warning(
                f"classifier: new, for {counted(classes, 'class', 'classes')} ({instead}); all "
                "other weights are loaded"
            )
        for ours in [name for name in variables if name.startswith(f"{CLASSIFIER}/")]:
            del variables[ours]
        for theirs in filter(weights.is_classifier, weights.tensors):
            ignored[theirs] = reason
            del tensors[theirs]
    layout = LAYOUTS[weights.source]
    names = layout.names(model, tensors.keys())
    for ours, variable, is_in_front in _beside(model, own.values()):
        if ours in variables:
            continue
        if ours in weights.others:
            tensors[ours], names[ours] = weights.others[ours], ours
        if not is_in_front or ours in names:  # else it stays as it is
            variables[ours] = variable
    values, problems = _match(variables, names, tensors, layout.axes)
    if problems:
        raise ValueError(_misfit(model, weights, problems))
    left_out = [name for name in weights.others if name not in tensors]
    if left_out:
        ignored |= dict.fromkeys(left_out, "layer that is not of the network")
        layers = sorted({name.rpartition("/")[0] for name in left_out})
        _LOG.warning(
            f"{weights.path}: left out {len(layers)} layer(s) that are in front of the network or "
            f"behind it: {', '.join(layers[:_SHOWN])}."
        )
    for ours, value in values.items():
        variables[ours].assign(value)
    warnings = _other_range(model, weights)
    for warning in warnings:
        _LOG.warning(warning)
    return LoadReport(weights.source, len(values), ignored, warnings)


def _beside(model: keras.Model, own: Collection[Any]) -> Iterator[tuple[str, Any, bool]]:
    """Yield (layer and weight, variable, whether it is in front) of all but the own layers."""
    is_in_front = True
    for layer in model.layers:
        if layer in own:
            is_in_front = False
            continue
        for weight in layer.weights:
            yield f"{layer.name}/{weight.name}", weight, is_in_front


def _misfit(model: keras.Model, weights: Weights, problems: list[str]) -> str:
    """Return the message for tensors that do not fit: some of each kind, and possible causes."""
    counts: Counter[str] = Counter()
    ranked = []
    for problem in problems:
        kind = problem.partition(":")[0]
        ranked.append((counts[kind], problem))
        counts[kind] += 1
    shown = [problem for _, problem in sorted(ranked, key=itemgetter(0))[:_SHOWN]]
    if len(problems) > _SHOWN:
        of_each = ", ".join(f"{kind} {count}" for kind, count in counts.items())
        shown.append(f"and {len(problems) - _SHOWN} more ({of_each} in all)")
    words = "".join(f"\n  {line}" for line in shown)
    sizes = sorted(tensor.size for tensor in weights.tensors.values() if tensor.ndim == 4)
    for variant in ModelConfig.variants():
        if sizes == sorted(ModelConfig.from_name(variant).kernel_sizes()) and variant != model.name:
            words += f"\nThe file has the convolutions of {variant}; build that one."
    if counts["not floating-point"]:
        words += "\nQuantised weights must be turned back into floating-point numbers first."
    if weights.classes is None and any(f"(our {CLASSIFIER}/" in line for line in problems):
        words += "\nThe file has no classifier of this network: build the model with "
        words += "include_top=False, or with classes=N for a fresh classifier."
    return (
        f"{weights.path} ({weights.source} layout) does not fit the model {model.name!r}. "
        f"Nothing was loaded. {len(problems)} problem(s):{words}"
    )


def normalization_of(model: keras.Model) -> Normalization | ScaleAndOffset | None:
    """Return how a model normalises pixels in front of its network; None if it does not tell."""
    first = own_layers(model).get(FIRST_LAYER)
    front = model.layers[: model.layers.index(first) + 1] if first else []
    arrays = {
        "/".join(one.path.split("/")[-2:]): keras.ops.convert_to_numpy(one)
        for layer in front
        for one in layer.weights
        if one.name in ("mean", "variance")
    }
    try:
        described = [keras.saving.serialize_keras_object(layer) for layer in front]
        in_front = layers_in_front({"class_name": "Model", "config": described})
        return stated_by_layers(in_front, arrays)
    except (ValueError, NotImplementedError):  # a layer that does not say what it does
        return None


def _other_range(model: keras.Model, weights: Weights) -> tuple[str, ...]:
    """Return a warning if a model normalises pixels in another way than its weights want."""
    ours, theirs = normalization_of(model), weights.normalization
    if None in (ours, theirs) or ours == theirs:
        return ()
    return (
        f"The model {model.name!r} normalises pixels in another way than the weights of "
        f"{weights.path} want: {_in_words(ours)} instead of {_in_words(theirs)}. Its results are "
        "wrong. Build the model with weights=PATH, which normalises as the file says.",
    )


def _in_words(normalization: Any) -> str:
    if isinstance(normalization, str):
        return repr(normalization)
    scale, offset = (np.round(numbers, 6).tolist() for numbers in normalization)
    return f"pixels times {scale} plus {offset}"


def _match(
    variables: dict[str, Any],
    names: dict[str, str],
    tensors: dict[str, np.ndarray],
    axes_of: Callable[[str], tuple[int, ...] | None],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """Return the new value of each variable, and a line for everything that does not fit."""
    values: dict[str, np.ndarray] = {}
    problems = []
    for ours, variable in variables.items():
        shape = tuple(variable.shape)
        theirs = names.get(ours)
        if theirs is None:
            problems.append(f"unknown: our {ours}, shape {shape}, is not a weight of build_model")
            continue
        axes = axes_of(ours) or tuple(range(len(shape)))
        there = tuple(shape[axes.index(axis)] for axis in range(len(shape)))
        tensor = tensors.get(theirs)
        if tensor is None:
            problems.append(f"missing: {theirs} (our {ours}, shape {shape})")
        elif tensor.shape != there:
            also = "" if there == shape else f", which is {there} there"
            problems.append(f"shape: {theirs} is {tensor.shape}, our {ours} is {shape}{also}")
        elif tensor.dtype.kind != "f" and tensor.dtype.name != "bfloat16":
            problems.append(f"not floating-point: {theirs} is {tensor.dtype} (our {ours})")
        else:
            with np.errstate(over="ignore"):  # float64 may be too large: then it is not finite
                value = tensor.transpose(axes).astype(str(variable.dtype), copy=False)
            values[ours] = value
            if not np.all(np.isfinite(value)):
                problems.append(f"not finite: {theirs} (our {ours})")
    used = set(names.values())
    problems += [
        f"extra: {name}, shape {tensor.shape}"
        for name, tensor in tensors.items()
        if name not in used
    ]
    return values, problems
