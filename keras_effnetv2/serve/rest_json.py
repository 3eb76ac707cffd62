"""The JSON of TensorFlow Serving's REST interface, to arrays and back.

Formats: https://www.tensorflow.org/tfx/serving/api_rest; where that page and the server differ (the
key `results`) the server's `json_tensor.cc` decides. The one difference here is that NaN and
Infinity, which are no JSON, are refused.
"""

import base64
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.loaded_model import Columns

_SHOWN = 60  # letters of what was received that an error shows


@dataclass(frozen=True)
class PredictRequest:
    """What a client asks `:predict`.

    Attributes:
        columns: an array for each input.
        is_row_format: whether it came as `instances`, and the answer is given as `predictions`.
    """

    columns: Columns
    is_row_format: bool


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body.

    Raises:
        RequestError: 400, it is none.
    """
    if not body:
        raise RequestError(400, "JSON Parse error: The document is empty")
    try:
        document = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except RecursionError:
        raise RequestError(400, "JSON Parse error: nested too deeply") from None
    except ValueError as error:
        raise RequestError(400, f"JSON Parse error: {error}") from None
    if not isinstance(document, dict):
        raise RequestError(400, f"The body must be a JSON object. Received: {_shown(document)}")
    return document


def signature_name(document: Mapping[str, Any], default: str, known: Iterable[str]) -> str:
    """Return the signature that a request names.

    Args:
        document: the request.
        default: for a request that names none.
        known: the signatures that there are.

    Raises:
        RequestError: 400, it is unknown.
    """
    name = document.get("signature_name", default)
    if not isinstance(name, str):
        raise RequestError(400, f"'signature_name' must be a string. Received: {_shown(name)}")
    name = name or default
    if name not in known:
        raise RequestError(
            400,
            f'Serving signature name: "{_shorten(name)}" not found in signature def. '
            f"There are: {', '.join(sorted(known))}",
        )
    return name


def parse_predict(document: Mapping[str, Any], specs: Mapping[str, Any]) -> PredictRequest:
    """Return the inputs that a `:predict` request gives.

    Args:
        document: the request, with `instances` (rows: values, or objects of named values) or
            `inputs` (columns: an object of named lists, or the list of the only input).
        specs: `tf.TensorSpec` of each input, whose first axis is the batch.

    Raises:
        RequestError: 400, it is not what the signature takes.
    """
    if ("instances" in document) == ("inputs" in document):
        raise RequestError(400, "Exactly one of 'instances' and 'inputs' must be given")
    if is_row_format := "instances" in document:
        values = _columns_of_rows(document["instances"], specs)
    else:
        values = _named(document["inputs"], specs, "'inputs'")
    columns = {name: _to_array(values[name], name, spec) for name, spec in specs.items()}
    if len({len(column) for column in columns.values()}) != 1:
        raise RequestError(400, "All inputs must have the same number of rows")
    return PredictRequest(columns, is_row_format)


def predict_json(columns: Columns, is_row_format: bool) -> dict[str, Any]:
    """Return the answer of `:predict`, in the format of the request."""
    lists = {name: _to_lists(name, values) for name, values in columns.items()}
    if is_row_format:
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        return {"predictions": [_bare(row) for row in rows]}
    return {"outputs": _bare(lists)}


def parse_examples(document: Mapping[str, Any]) -> list[Any]:
    """Return the `tf.train.Example` messages of a `:classify` request.

    Args:
        document: the request, with `examples` and, for what they share, `context`.

    Raises:
        RequestError: 400, it is no such request.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise RequestError(400, "'examples' must be a list of at least one JSON object")
    shared = document.get("context", {})
    for value in (shared, *examples):
        if not isinstance(value, dict):
            raise RequestError(
                400, f"Example and context must be JSON objects. Received: {_shown(value)}"
            )
    return [
        tf.train.Example(
            features=tf.train.Features(
                feature={name: _feature(name, value) for name, value in {**shared, **row}.items()}
            )
        )
        for row in examples
    ]


def classify_json(columns: Columns) -> dict[str, Any]:
    """Return the answer of `:classify`: for each example its [label, score] pairs, best first.

    Args:
        columns: `classes` string (N, k) and `scores` (N, k).
    """
    labels, scores = _to_lists("classes", columns["classes"]), columns["scores"].tolist()
    pairs = [list(zip(*row, strict=True)) for row in zip(labels, scores, strict=True)]
    return {"results": pairs}


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _columns_of_rows(rows: Any, specs: Mapping[str, Any]) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise RequestError(400, "'instances' must be a list of at least one value")
    named = [_named(row, specs, f"element {i} of 'instances'") for i, row in enumerate(rows)]
    return {name: [row[name] for row in named] for name in specs}


def _named(value: Any, specs: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return {input: value}; of an only input the value may stand alone."""
    if isinstance(value, dict) and not _is_base64(value):
        if value.keys() != specs.keys():
            given = _shorten(", ".join(value)) or "none"
            raise RequestError(
                400, f"The keys of {place} must be: {', '.join(specs)}. Received: {given}"
            )
        return value
    if len(specs) != 1:
        raise RequestError(400, f"{place} must be an object with the keys {', '.join(specs)}")
    return dict.fromkeys(specs, value)


def _to_array(value: Any, name: str, spec: Any) -> npt.NDArray[Any]:
    is_string = spec.dtype == tf.string
    try:
        array = _strings(value) if is_string else np.array(value)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    is_number = array.dtype.kind in "iuf" or not array.size
    if not (is_string or is_number) or not spec.shape.is_compatible_with(array.shape):
        shape = ", ".join("rows" if size is None else str(size) for size in spec.shape)
        kind = 'strings or {"b64": "..."}' if is_string else "numbers"
        raise RequestError(
            400,
            f"The input {name!r} must be {kind} of the shape ({shape}). Received: {_shown(value)}",
        )
    if is_string:
        return array
    with np.errstate(over="ignore"):
        array = array.astype(spec.dtype.as_numpy_dtype)
    if not np.isfinite(array).all():
        raise RequestError(400, f"The input {name!r} has a number too large for {spec.dtype.name}")
    return array


def _strings(value: Any) -> npt.NDArray[np.object_]:
    """Return a list of strings and base64 objects as an array of bytes; no array of other things.

    The string inputs of an exported model are all of one axis.
    """
    if not isinstance(value, list) or not all(isinstance(v, str) or _is_base64(v) for v in value):
        raise ValueError("no list of strings")
    return np.array([_bytes(item) for item in value], dtype=object)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _bytes(value: str | dict[str, str]) -> bytes:
    try:
        if isinstance(value, str):
            return value.encode("utf-8")
        # TensorFlow Serving takes line breaks, as the command base64 writes them, too.
        return base64.b64decode("".join(value["b64"].split()), validate=True)
    except ValueError:
        reason = "is no Unicode text" if isinstance(value, str) else "is no base64 data"
        raise RequestError(400, f"A string of the request {reason}: {_shown(value)}") from None


def _feature(name: str, value: Any) -> Any:
    values = value if isinstance(value, list) else [value]
    if all(isinstance(item, str) or _is_base64(item) for item in values):
        strings = tf.train.BytesList(value=[_bytes(item) for item in values])
        return tf.train.Feature(bytes_list=strings)
    try:
        if all(isinstance(item, int) for item in values):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=values))
        if all(isinstance(item, float) and math.isfinite(item) for item in values):
            return tf.train.Feature(float_list=tf.train.FloatList(value=values))
    except (ValueError, OverflowError):
        pass  # a number that does not fit, which is said below
    raise RequestError(
        400,
        f"The feature {_shorten(name)!r} must be a value or a list of values of one kind: strings "
        f'or {{"b64": "..."}}, whole numbers of 64 bits, or decimals. Received: {_shown(value)}',
    )


def _to_lists(name: str, values: npt.NDArray[Any]) -> Any:
    if values.dtype != object:
        return values.tolist()
    # TensorFlow Serving gives strings as base64 where the name of the output says that they are
    # bytes.
    as_bytes = name.endswith("_bytes")

    def text(item: bytes) -> Any:
        if as_bytes:
            return {"b64": base64.b64encode(item).decode("ascii")}
        return item.decode("utf-8", "replace")

    flat = np.empty(values.size, dtype=object)
    flat[:] = [text(item) for item in values.flat]
    return flat.reshape(values.shape).tolist()


def _bare(named: dict[str, Any]) -> Any:
    """Return the value alone where there is only one."""
    return next(iter(named.values())) if len(named) == 1 else named


def _shown(value: Any) -> str:
    # Only the beginning is looked at: a request may have millions of values.
    if isinstance(value, list):
        return f"a list of {len(value)}"
    if isinstance(value, dict):
        return f"an object with the keys {_shorten(', '.join(list(value)[:9]))}"
    return _shorten(json.dumps(value))


def _shorten(text: str) -> str:
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."
