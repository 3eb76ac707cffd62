"""Strict loading: every weight comes from the file and every tensor is used, or nothing changes."""

import logging
import os
import re
from collections.abc import Callable
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2.pretrained.layouts import LAYOUTS
from keras_effnetv2.pretrained.open_weights import Weights, open_weights
from keras_effnetv2.pretrained.places import CLASSIFIER

_LOG = logging.getLogger("keras_effnetv2")
# Filters are rounded to a multiple of 8; 19.2 (16 times the width 1.2) is the one number among the
# published variants where the original rule makes a difference.
_OTHER_B3 = re.compile(r"is \((16|24),\), our block1a_project_bn/gamma is \((16|24),\)")
_TWO_B3 = (
    "\nThere are two networks called efficientnet-b3 (V1), and the model is not the one of the "
    "file. Stage one has 24 filters in the original, which never rounds below 90% of the exact "
    "number. All published weights and ModelConfig.from_name('efficientnet-b3') are like that. It "
    "has 16 in the google/automl repository, which does not have that rule. "
    "The config of the one with 16 is dataclasses.replace(ModelConfig.from_name('efficientnet-b0'"
    "), min_width_fraction=None).scaled(width=1.2, depth=1.4)."
)


class LoadReport(NamedTuple):
    """The result of `load_weights`.

    Attributes:
        source: the source that was recognised, e.g. "official"; see `load_weights`.
        loaded: number of tensors loaded into the model.
        ignored: tensor name in the file -> why it was left out.
    """

    source: str
    loaded: int
    ignored: dict[str, str]


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], source: str = "auto"
) -> LoadReport:
    """Load a weight file into a model, strictly.

    Only arrays are read; code in a file never runs. A pickle (.pth, .pt, .bin) is refused. Arrays
    of other floating-point types are cast to the model's.

    Args:
        model: a model of `build_model`, with or without its top.
        path: one of the files below, or a published set as VARIANT/SET, which is downloaded.
        source: "auto" to decide by the content, or
            "official": a checkpoint of google/automl or tensorflow/tpu: a folder, a prefix, or a
            .tgz / .tar.gz archive; averaged weights are preferred.
            "timm": a .safetensors of a tf_efficientnet* net of PyTorch Image Models. Its other
            nets, and torchvision's, use a different padding and are refused.
            "keras-applications", "leondgarse": their .h5, weights or a whole model.
            "keras": a `.weights.h5` or `.keras` of Keras 3, of a model of this package or of
            keras.applications.

    Returns:
        A `LoadReport`. For a model without top, a classifier in the file is ignored.

    Raises:
        ValueError: the file cannot be read, or tensors are missing, extra, mis-shaped or not
            finite. The message lists all by the file's names and ours; the model is unchanged.
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
    variables = {
        f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights
    }
    bias = variables.get(f"{CLASSIFIER}/bias")
    classes = None if bias is None else bias.shape[0]
    tensors, ignored = dict(weights.tensors), dict(weights.ignored)
    if classes is None or (fresh_classifier and weights.classes != classes):
        reason = "classifier; the model has no top"
        if classes is not None:
            reason = f"its classifier does not have {classes} classes"
            _LOG.warning(
                f"{weights.path}: the classifier has {weights.classes or 'no'} classes, not "
                f"{classes}. Everything else is loaded; the classifier starts fresh."
            )
        for ours in [name for name in variables if name.startswith(f"{CLASSIFIER}/")]:
            del variables[ours]
        for theirs in filter(weights.is_classifier, weights.tensors):
            ignored[theirs] = reason
            del tensors[theirs]
    layout = LAYOUTS[weights.source]
    values, problems = _match(variables, layout.names(model, tensors.keys()), tensors, layout.axes)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        is_b3 = _OTHER_B3.search(listed) and "our stem_" not in listed
        raise ValueError(
            f"{weights.path} ({weights.source} layout) does not fit the model {model.name!r}. "
            f"Nothing was loaded. {len(problems)} problem(s):\n{listed}{_TWO_B3 if is_b3 else ''}"
        )
    for ours, value in values.items():
        variables[ours].assign(value)
    return LoadReport(weights.source, len(values), ignored)


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
