"""Strict loading: every weight from the file, every tensor of the file used, or nothing changes."""

import hashlib
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2.pretrained.keras_applications import keras_applications_names
from keras_effnetv2.pretrained.keras_file import keras_names, read_keras_file
from keras_effnetv2.pretrained.legacy_h5 import read_legacy_h5
from keras_effnetv2.pretrained.leondgarse import leondgarse_names
from keras_effnetv2.pretrained.official import official_names, read_official
from keras_effnetv2.pretrained.places import CLASSIFIER
from keras_effnetv2.pretrained.recognise import recognise, refuse_pickles
from keras_effnetv2.pretrained.timm import read_timm, timm_axes, timm_names

_LOG = logging.getLogger("keras_effnetv2")
# Filters are rounded to a multiple of 8; 19.2 (16 times the width 1.2) is the one number among the
# published variants where the original rule makes a difference.
_TWO_B3 = (
    "\nThere are two networks called efficientnet-b3 (V1). Stage one has 24 filters in the "
    "original, whose rounding never goes below 90% of the exact number, and so in all published "
    "weights and in ModelConfig.from_name('efficientnet-b3'). It has 16 as the google/automl "
    "repository builds it, without that rule. The model is one of them and the file the other. "
    "The config of the one with 16 is dataclasses.replace(ModelConfig.from_name('efficientnet-b0'"
    "), min_width_fraction=None).scaled(width=1.2, depth=1.4)."
)


class _Source(NamedTuple):
    """How the files of a source are read.

    Attributes:
        read: path -> tensors by name, and names left out with the reason.
        names: model, names in the file -> our weight path to the name in the file.
        classifier: what the names of the classifier's tensors begin with.
        axes: our weight path -> the file's axes in our order; None if it is the same order.
    """

    read: Callable[[Any], tuple[dict[str, np.ndarray], dict[str, str]]]
    names: Callable[[keras.Model, Collection[str]], dict[str, str]]
    classifier: str
    axes: Callable[[str], tuple[int, ...] | None] = lambda ours: None


_SOURCES = {
    "official": _Source(read_official, lambda model, stored: official_names(model), "head/dense/"),
    "timm": _Source(read_timm, lambda model, stored: timm_names(model), "classifier.", timm_axes),
    "keras-applications": _Source(read_legacy_h5, keras_applications_names, f"{CLASSIFIER}/"),
    "leondgarse": _Source(read_legacy_h5, leondgarse_names, f"{CLASSIFIER}/"),
    "keras": _Source(
        read_keras_file, lambda model, stored: keras_names(model), "layers/dense/vars/"
    ),
}


class LoadReport(NamedTuple):
    """What `load_weights` did.

    Attributes:
        source: the source that was recognised, e.g. "official"; see `load_weights`.
        loaded: number of tensors that went into the model.
        ignored: tensor name in the file -> why it was left out.
    """

    source: str
    loaded: int
    ignored: dict[str, str]


@dataclass(frozen=True)
class WeightFile:
    """The tensors of a weight file, by their names there.

    Args:
        path: where it was read from.
        source: e.g. "official"; see `load_weights`.
        tensors: name in the file -> array.
        ignored: name in the file -> why it is not among the tensors.
    """

    path: str
    source: str
    tensors: dict[str, np.ndarray]
    ignored: dict[str, str]

    @property
    def classes(self) -> int | None:
        """Width of the classifier; None if the file has none."""
        shapes = [tensor.shape for name, tensor in self.tensors.items() if self.is_classifier(name)]
        biases = [shape for shape in shapes if len(shape) == 1]
        kernels = [shape for shape in shapes if len(shape) == 2]
        # The kernel must agree: a made-up bias alone could ask for any amount of memory.
        if len(biases) != 1 or len(kernels) != 1 or biases[0][0] not in kernels[0]:
            return None
        return biases[0][0]

    def is_classifier(self, name: str) -> bool:
        """Whether a tensor of the file belongs to its classifier."""
        return name.startswith(_SOURCES[self.source].classifier)


def read_weight_file(path: str | os.PathLike[str], source: str = "auto") -> WeightFile:
    """Reads a weight file; see `load_weights` for the arguments and errors."""
    if source != "auto" and source not in _SOURCES:
        raise ValueError(
            f"`source` must be 'auto' or one of {sorted(_SOURCES)}. Received: source={source!r}"
        )
    refuse_pickles(path)
    if source == "auto":
        source = recognise(path)
    if source == "official" and os.path.isfile(path):
        with open(path, "rb") as archive:
            digest = hashlib.file_digest(archive, "sha256").hexdigest()
        _LOG.warning("%s: nobody published a hash to check; this is sha256:%s", path, digest)
    tensors, ignored = _SOURCES[source].read(path)
    return WeightFile(os.fspath(path), source, tensors, ignored)


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], source: str = "auto"
) -> LoadReport:
    """Loads a weight file into a model, strictly.

    No code in a file is run, whatever the file: only arrays are read. A pickle (.pth, .pt, .bin)
    is refused. Arrays of other floating-point types are cast to the model's.

    Args:
        model: a model of `build_model`, with or without its top.
        path: one of the files below.
        source: "auto" to tell by the content, or
            "official": a checkpoint of google/automl or tensorflow/tpu: a folder, a prefix, or a
            .tgz / .tar.gz archive; averaged weights are preferred.
            "timm": a .safetensors of a tf_efficientnet* net of PyTorch Image Models. Its other
            nets, and torchvision's, pad in another way and are refused.
            "keras-applications", "leondgarse": their .h5, weights or a whole model.
            "keras": a `.weights.h5` or `.keras` that Keras 3 wrote of a model of this package or
            of keras.applications.

    Returns:
        A `LoadReport`. A classifier in the file of a model without top is ignored.

    Raises:
        ValueError: the file cannot be read, or tensors are missing, extra, mis-shaped or not
            finite: all are listed, by their names there and ours, and the model is left untouched.
    """
    return assign_weights(model, read_weight_file(path, source))


def assign_weights(
    model: keras.Model, file: WeightFile, *, fresh_classifier: bool = False
) -> LoadReport:
    """Puts the tensors of a file into a model; all of them or, with an error, none.

    Args:
        model: a model of `build_model`.
        file: what `read_weight_file` returned.
        fresh_classifier: leave the model's classifier as it is if the file's has another number
            of classes, or none; one log line says so. Otherwise that is an error.

    Raises:
        ValueError: see `load_weights`.
    """
    variables = {
        f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights
    }
    bias = variables.get(f"{CLASSIFIER}/bias")
    classes = None if bias is None else bias.shape[0]
    tensors, ignored = dict(file.tensors), dict(file.ignored)
    if classes is None or (fresh_classifier and file.classes != classes):
        reason = "classifier; the model has no top"
        if classes is not None:
            reason = f"classifier of another number of classes than {classes}"
            _LOG.warning(
                "%s: the classifier has %s classes, not %d: everything else is loaded, the "
                "classifier starts fresh.",
                file.path,
                file.classes or "no",
                classes,
            )
        for ours in [name for name in variables if name.startswith(f"{CLASSIFIER}/")]:
            del variables[ours]
        for theirs in filter(file.is_classifier, file.tensors):
            ignored[theirs] = reason
            del tensors[theirs]
    names = _SOURCES[file.source].names(model, tensors.keys())
    values, problems = _match(variables, names, tensors, _SOURCES[file.source].axes)
    if problems:
        listed = "\n".join(f"  {problem}" for problem in problems)
        raise ValueError(
            f"{file.path} ({file.source} layout) does not fit the model {model.name!r}; nothing "
            f"was loaded. {len(problems)} problem(s):\n{listed}{_hint(names, variables, tensors)}"
        )
    for ours, value in values.items():
        variables[ours].assign(value)
    return LoadReport(file.source, len(values), ignored)


def _match(
    variables: dict[str, Any],
    names: dict[str, str],
    tensors: dict[str, np.ndarray],
    axes_of: Callable[[str], tuple[int, ...] | None],
) -> tuple[dict[str, np.ndarray], list[str]]:
    """What each variable is to hold, and one line for everything that does not fit.

    Args:
        variables: of the model, by our path.
        names: our path -> name in the file.
        tensors: of the file, by name.
        axes_of: see `_Source.axes`.
    """
    values: dict[str, np.ndarray] = {}
    problems = []
    for ours, variable in variables.items():
        shape = tuple(variable.shape)
        theirs = names.get(ours)
        if theirs is None:
            problems.append(f"unknown: our {ours}, shape {shape}, is no weight of build_model")
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


def _hint(names: dict[str, str], variables: dict[str, Any], tensors: dict[str, np.ndarray]) -> str:
    """Tells the two networks called efficientnet-b3 apart, if that is what does not fit."""

    def filters(layer: str) -> tuple[int, int]:
        ours = f"{layer}/gamma"
        tensor = tensors.get(names.get(ours, ""), np.empty(0))
        return (variables[ours].shape[0], tensor.size) if ours in variables else (0, 0)

    if filters("stem_bn") != (40, 40) or set(filters("block1a_project_bn")) != {16, 24}:
        return ""
    return _TWO_B3
