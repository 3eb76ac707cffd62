"""The JSON of TensorFlow Serving's REST interface, to arrays and back.

Formats: https://www.tensorflow.org/tfx/serving/api_rest. If that page and the server differ (the
key `results`), the server's `json_tensor.cc` decides. NaN and Infinity, which JSON does not have,
are refused.
"""

import base64
import gc
import reprlib
from collections.abc import Collection, Mapping
from itertools import compress
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from keras_effnetv2._common.files import parse_json
from keras_effnetv2.export.signatures import BYTES_SIGNATURE, EXAMPLE_FEATURE
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.loaded_model import Columns

_short = reprlib.Repr()  # a request may have millions of values
_short.maxlevel = 1
_shown = _short.repr

_STANDARD = bytes.maketrans(b"-_", b"+/")


def parse_body(body: bytes) -> dict[str, Any]:
    """Return the JSON object in a request's body; raise RequestError if there is none."""
    # JSON has no cycles, but the collector would look for some in its millions of lists, again and
    # again. That would take three quarters of the time, and no other thread runs meanwhile.
    gc.disable()
    try:
        document = parse_json(body.decode("utf-8"), max_bytes=len(body))
    except ValueError as error:
        raise RequestError(
            400,
            f"The body must be JSON: {error}. Send a picture file with its type (Content-Type: "
            "image/jpeg) or in a form (curl -F file=@cat.jpg)",
        ) from None
    finally:
        gc.enable()
    if not isinstance(document, dict):
        raise RequestError(400, f"The body must be a JSON object. Received: {_shown(document)}")
    return document


def signature_name(document: Mapping[str, Any], default: str, allowed: Collection[str]) -> str:
    """Return the signature that a request names; raise RequestError if it is not allowed."""
    name = document.get("signature_name") or default
    if name not in list(allowed):
        raise RequestError(
            400,
            f"`signature_name` must be one of {', '.join(sorted(allowed))}. "
            f"Received: {_shown(name)}",
        )
    return str(name)


def parse_predict(
    document: Mapping[str, Any], specs: Mapping[str, Any], max_rows: int
) -> tuple[Columns, bool]:
    """Return the inputs of a `:predict` request.

    Args:
        document: the request, with `instances` (rows: values, or objects of named values) or
            `inputs` (columns: an object of named lists, or the list of the only input).
        specs: `tf.TensorSpec` of each input, whose first axis is the batch.
        max_rows: most rows of the batch.

    Returns:
        An array for each input, and whether they came as `instances`. RequestError if they do not
        fit the signature.
    """
    if ("instances" in document) == ("inputs" in document):
        raise RequestError(400, "Exactly one of `instances` and `inputs` must be given")
    if is_by_row := "instances" in document:
        values = _columns_of_rows(document["instances"], specs, max_rows)
    else:
        values = _named(document["inputs"], specs, "`inputs`")
        for column in values.values():
            check_rows(column, max_rows)
    columns = {name: _to_array(values[name], name, spec) for name, spec in specs.items()}
    if len({len(column) for column in columns.values()}) != 1:
        raise RequestError(400, "All inputs must have the same number of rows")
    return columns, is_by_row


def predict_json(columns: Columns, is_by_row: bool, *, naming: bool = False) -> dict[str, Any]:
    """Return the answer to `:predict`, in the format of the request.

    With `naming`, where there are thresholds, each row also has `named`: the classes above theirs.
    """
    lists = {name: _to_lists(name, values) for name, values in columns.items()}
    if naming and "thresholds" in columns:
        lists["named"] = [[label for label, _ in row] for row in classify_json(columns)["results"]]
    if is_by_row:
        rows = [dict(zip(lists, row, strict=True)) for row in zip(*lists.values(), strict=True)]
        return {"predictions": [_bare(row) for row in rows]}
    return {"outputs": _bare(lists)}


def parse_examples(document: Mapping[str, Any], max_rows: int) -> list[bytes]:
    """Return the picture file of each example in a `:classify` request, empty unless exactly one.

    The request has `examples` and perhaps `context`, which they share; other forms are a
    RequestError.
    """
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        raise RequestError(400, "`examples` must be a list of at least one JSON object")
    check_rows(examples, max_rows)
    shared = document.get("context", {})
    for value in (shared, *examples):
        if not isinstance(value, dict):
            raise RequestError(
                400, f"Examples and `context` must be JSON objects. Received: {_shown(value)}"
            )
    # Decoded once: a thousand examples may share it.
    file = _file(shared)
    return [_file(example) if EXAMPLE_FEATURE in example else file for example in examples]


def classify_json(columns: Columns) -> dict[str, Any]:
    """Return the answer to `:classify`: [label, score] pairs for each example, best first.

    Where there are `thresholds`, only of the classes above theirs.
    """
    labels, scores = _to_lists("classes", columns["classes"]), columns["scores"].tolist()
    is_named = columns["scores"] >= columns.get("thresholds", 0)
    rows = zip(labels, scores, is_named.tolist(), strict=True)
    pairs = [list(compress(zip(row, found, strict=True), named)) for row, found, named in rows]
    return {"results": pairs}


def check_rows(rows: Any, limit: int) -> None:
    """Raise RequestError if there are too many rows."""
    if isinstance(rows, list) and len(rows) > limit:
        raise RequestError(
            413,
            f"A request may have {limit} rows at most (the server's --max-rows). Send several "
            f"requests. Received: {len(rows)}",
            "too_large",
        )


def _columns_of_rows(rows: Any, specs: Mapping[str, Any], max_rows: int) -> dict[str, list[Any]]:
    if not isinstance(rows, list) or not rows:
        raise RequestError(400, "`instances` must be a list of at least one value")
    check_rows(rows, max_rows)
    named = [_named(row, specs, f"element {i} of `instances`") for i, row in enumerate(rows)]
    return {name: [row[name] for row in named] for name in specs}


def _named(value: Any, specs: Mapping[str, Any], place: str) -> dict[str, Any]:
    """Return {input: value}; a single input may come without its name."""
    if isinstance(value, dict) and value.keys() == specs.keys():
        return value
    if len(specs) == 1 and (not isinstance(value, dict) or _is_base64(value)):
        return dict.fromkeys(specs, value)
    keys = ", ".join(specs)
    raise RequestError(
        400, f"{place} must be an object with the keys {keys}. Received: {_shown(value)}"
    )


def _to_array(value: Any, name: str, spec: Any) -> npt.NDArray[Any]:
    is_string = spec.dtype == tf.string
    try:
        # As objects: in NumPy's strings, each takes as much memory as the longest.
        array = _strings(value) if is_string else np.array(value, dtype=object)
    except ValueError:  # lists of different lengths
        array = np.array(None)
    is_expected = is_string or set(map(type, array.flat)) <= {int, float}
    if not is_expected or not spec.shape.is_compatible_with(array.shape):
        shape = ", ".join("rows" if size is None else str(size) for size in spec.shape)
        kind = 'strings or {"b64": "..."}' if is_string else "numbers"
        files = ""
        if not is_string and isinstance(value, list) and any(map(_is_base64, value)):
            files = f' For picture files, add "signature_name": "{BYTES_SIGNATURE}".'
        raise RequestError(
            400,
            f"The input {name!r} must be {kind} with the shape ({shape}).{files} Received: "
            f"{_shown(value)}",
        )
    if is_string:
        return array
    try:
        with np.errstate(over="raise"):
            return array.astype(spec.dtype.as_numpy_dtype)
    except (FloatingPointError, OverflowError):
        raise RequestError(
            400, f"The input {name!r} has a number that is too large for {spec.dtype.name}"
        ) from None


def _strings(value: Any) -> npt.NDArray[np.object_]:
    """Return a list of strings and base64 objects as an array of bytes.

    The string inputs of an exported model all have one axis.
    """
    if not isinstance(value, list) or not all(map(_is_string, value)):
        raise ValueError("not a list of strings")
    return np.array([_bytes(item) for item in value], dtype=object)


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"} and isinstance(value["b64"], str)


def _is_string(value: Any) -> bool:
    return isinstance(value, str) or _is_base64(value)


def _bytes(value: Any) -> bytes:
    try:
        if isinstance(value, str):
            return value.encode("utf-8")
        return _decoded(value["b64"])
    except ValueError:
        raise RequestError(
            400, f"A string must be Unicode text, or base64 data. Received: {_shown(value)}"
        ) from None


def _decoded(text: str) -> bytes:
    """Decode base64; raise ValueError if the text is something else.

    Line breaks (from the command base64) and missing padding are allowed, as in TensorFlow Serving;
    so are the URL-safe alphabet and data URLs (from browsers).
    """
    data = text.encode("ascii").translate(_STANDARD, b" \t\n\r\f\v")
    if data[:5].lower() == b"data:":
        head, _, data = data.partition(b",")
        if not head.lower().endswith(b";base64"):
            raise ValueError("not base64")
    padding = b"" if data.endswith(b"=") else b"=" * (-len(data) % 4)
    return base64.b64decode(data + padding, validate=True)


def _file(features: Mapping[str, Any]) -> bytes:
    value = features.get(EXAMPLE_FEATURE)
    values = value if isinstance(value, list) else [value]
    return _bytes(values[0]) if len(values) == 1 and _is_string(values[0]) else b""


def _to_lists(name: str, values: npt.NDArray[Any]) -> Any:
    if values.dtype != object:
        return values.tolist()
    if name.endswith("_bytes"):
        # So TensorFlow Serving gives an output whose name says that it is bytes.
        texts = [{"b64": base64.b64encode(item).decode("ascii")} for item in values.flat]
    else:
        texts = [item.decode("utf-8", "replace") for item in values.flat]
    flat = np.empty(values.size, dtype=object)
    flat[:] = texts
    return flat.reshape(values.shape).tolist()


def _bare(named: dict[str, Any]) -> Any:
    """Return a single value without its name."""
    return next(iter(named.values())) if len(named) == 1 else named
