"""Strict loading: every weight from the file, every tensor of the file used, or nothing changes."""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2.pretrained import keras_file, official

_LOG = logging.getLogger("keras_effnetv2")
_LISTED = 20  # offenders an error spells out
CLASSIFIER = "predictions"


class _Source(NamedTuple):
    recognises: Callable[[Any], bool]
    names: Callable[[keras.Model], dict[str, str]]
    read: Callable[[Any], tuple[dict[str, np.ndarray], dict[str, str]]]
    classifier_bias: str


_SOURCES = {
    "official": _Source(
        official.is_official,
        official.official_names,
        official.read_official,
        official.CLASSIFIER_BIAS,
    ),
    "keras": _Source(
        keras_file.is_keras_file,
        keras_file.keras_names,
        keras_file.read_keras_file,
        keras_file.CLASSIFIER_BIAS,
    ),
}


class LoadReport(NamedTuple):
    """What `load_weights` did.

    Attributes:
        source: the source that was recognised, "official" or "keras".
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
        source: "official" or "keras".
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
        bias = self.tensors.get(_SOURCES[self.source].classifier_bias)
        return None if bias is None else bias.size


def read_weight_file(path: str | os.PathLike[str], source: str = "auto") -> WeightFile:
    """Reads a weight file; see `load_weights` for the arguments and errors."""
    source = _choose_source(path, source)
    tensors, ignored = _SOURCES[source].read(path)
    return WeightFile(os.fspath(path), source, tensors, ignored)


def load_weights(
    model: keras.Model, path: str | os.PathLike[str], source: str = "auto"
) -> LoadReport:
    """Loads a weight file into a model, strictly.

    Args:
        model: a model of `build_model`, with or without its top.
        path: an official checkpoint (folder, prefix, or .tgz / .tar.gz archive), or a
            `.weights.h5` or `.keras` file of such a model.
        source: "official", "keras", or "auto" to tell by the path.

    Returns:
        A `LoadReport`. A classifier in the file of a model without top is ignored.

    Raises:
        ValueError: the file cannot be read, or tensors are missing, extra, mis-shaped or not
            finite: all are listed and the model is left untouched.
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
    source = _SOURCES[file.source]
    names = source.names(model)
    variables = {
        f"{layer.name}/{weight.name}": weight for layer in model.layers for weight in layer.weights
    }
    bias = variables.get(f"{CLASSIFIER}/bias")
    classes = None if bias is None else bias.shape[0]
    tensors, ignored = dict(file.tensors), dict(file.ignored)
    if classes is None or (fresh_classifier and file.classes != classes):
        reason = (
            "classifier; the model has no top"
            if classes is None
            else f"classifier of another number of classes than {classes}"
        )
        if classes is not None:
            _LOG.warning(
                "%s: the classifier has %s classes, not %d: everything else is loaded, the "
                "classifier starts fresh.",
                file.path,
                file.classes or "no",
                classes,
            )
        names = {ours: theirs for ours, theirs in names.items() if not _is_classifier(ours)}
        for name in [name for name in tensors if _same_layer(name, source.classifier_bias)]:
            ignored[name] = reason
            del tensors[name]
    problems = _problems(names, variables, tensors)
    if problems:
        shown = "\n".join(f"  {line}" for line in problems[:_LISTED])
        more = f"\n  and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
        raise ValueError(
            f"{file.path} ({file.source} layout) does not fit the model {model.name!r}; nothing "
            f"was loaded. {len(problems)} problem(s):\n{shown}{more}"
        )
    for ours, theirs in names.items():
        variables[ours].assign(tensors[theirs])
    return LoadReport(file.source, len(names), ignored)


def _is_classifier(weight_path: str) -> bool:
    return weight_path.startswith(f"{CLASSIFIER}/")


def _same_layer(name: str, classifier_bias: str) -> bool:
    return name.rpartition("/")[0] == classifier_bias.rpartition("/")[0]


def _choose_source(path: str | os.PathLike[str], source: str) -> str:
    if source in _SOURCES:
        return source
    if source != "auto":
        raise ValueError(
            f"`source` must be 'auto' or one of {sorted(_SOURCES)}. Received: source={source!r}"
        )
    for name, candidate in _SOURCES.items():
        if candidate.recognises(path):
            return name
    raise ValueError(
        "A weight file is an official checkpoint (a folder, a prefix, a .tgz or .tar.gz "
        "archive), a .weights.h5 or a .keras file; `source` names one that is called "
        f"otherwise. Received: path={os.fspath(path)!r}"
    )


def _problems(
    names: dict[str, str], variables: dict[str, Any], tensors: dict[str, np.ndarray]
) -> list[str]:
    """One line for every tensor that is missing, mis-shaped, not finite or left over."""
    problems = []
    for ours, theirs in names.items():
        tensor = tensors.get(theirs)
        expected = tuple(variables[ours].shape)
        if tensor is None:
            problems.append(f"missing: {theirs} (our {ours}, shape {expected})")
        elif tensor.shape != expected:
            problems.append(f"shape: {theirs} is {tensor.shape}, our {ours} is {expected}")
        elif not np.all(np.isfinite(tensor)):
            problems.append(f"not finite: {theirs} (our {ours})")
    used = set(names.values())
    problems += [
        f"extra: {name}, shape {tensors[name].shape}" for name in tensors if name not in used
    ]
    return problems
