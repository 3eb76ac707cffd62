"""The REST bodies, against the formats that TensorFlow Serving documents."""

import base64

import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.rest_json import (
    classify_json,
    parse_body,
    parse_examples,
    parse_predict,
    predict_json,
    signature_name,
)

FILES = {"image_bytes": tf.TensorSpec([None], tf.string)}
PIXELS = {"images": tf.TensorSpec([None, 1, 2, 3], tf.float32)}
TWO = {"a": tf.TensorSpec([None], tf.float32), "b": tf.TensorSpec([None], tf.string)}
PICTURE = [[[1, 2, 3], [4, 5, 6.5]]]


@pytest.mark.parametrize(
    ("document", "specs", "expected"),
    [
        ({"instances": [{"b64": "AAH/"}, "é"]}, FILES, {"image_bytes": [b"\0\1\xff", b"\xc3\xa9"]}),
        (
            {"instances": [{"image_bytes": {"b64": "AA\nH/"}}]},
            FILES,
            {"image_bytes": [b"\0\1\xff"]},
        ),
        ({"inputs": [{"b64": ""}]}, FILES, {"image_bytes": [b""]}),
        ({"inputs": {"image_bytes": []}}, FILES, {"image_bytes": []}),
        ({"instances": [PICTURE, PICTURE]}, PIXELS, {"images": [PICTURE, PICTURE]}),
        ({"inputs": {"images": [PICTURE]}}, PIXELS, {"images": [PICTURE]}),
        ({"instances": [{"b": "x", "a": 1}]}, TWO, {"a": [1.0], "b": [b"x"]}),
        ({"inputs": {"b": ["x", "y"], "a": [1, 2]}}, TWO, {"a": [1, 2], "b": [b"x", b"y"]}),
    ],
)
def test_inputs_are_read(document, specs, expected):
    columns, is_by_row = parse_predict(document, specs, 2)
    assert is_by_row == ("instances" in document)
    assert {name: values.tolist() for name, values in columns.items()} == expected
    for name, spec in specs.items():
        assert columns[name].dtype == spec.dtype.as_numpy_dtype


@pytest.mark.parametrize(
    ("document", "specs", "message"),
    [
        ({}, FILES, "Exactly one of `instances` and `inputs`"),
        ({"instances": ["a"], "inputs": ["a"]}, FILES, "Exactly one of"),
        ({"instances": []}, FILES, "at least one value"),
        ({"instances": {"b64": "AA=="}}, FILES, "`instances` must be a list"),
        ({"instances": [1]}, FILES, r"must be strings or .* with the shape \(rows\)"),
        ({"instances": [["a"]]}, FILES, "must be strings"),
        ({"inputs": {"b64": "AA=="}}, FILES, "must be strings"),
        ({"instances": [{"b64": "A*=="}]}, FILES, "must be Unicode text, or base64 data"),
        ({"instances": [{"b64": 1}]}, FILES, "element 0 of `instances` must be an object"),
        ({"instances": ["\ud800"]}, FILES, "must be Unicode text"),
        ({"inputs": {"images": [[[1]]]}}, PIXELS, r"with the shape \(rows, 1, 2, 3\). Received"),
        ({"instances": [[[[1, 2, 3], [4, 5]]]]}, PIXELS, "must be numbers with the shape"),
        ({"instances": [{"b64": "aa"}]}, PIXELS, 'add "signature_name": "classify_bytes"'),
        ({"instances": [[[[1, 2, "3"], [4, 5, 6]]]]}, PIXELS, "must be numbers"),
        ({"instances": [[[[1, 2, None], [4, 5, 6]]]]}, PIXELS, "must be numbers"),
        ({"instances": [[[[1, 2, 1e39], [4, 5, 6]]]]}, PIXELS, "too large for float32"),
        ({"instances": [[[[1, 2, 10**400], [4, 5, 6]]]]}, PIXELS, "too large for float32"),
        ({"instances": [[[[1, 2, True], [4, 5, 6]]]]}, PIXELS, "must be numbers"),
        ({"instances": [[[[1, 2, [3]], [4, 5, 6]]]]}, PIXELS, "must be numbers"),
        # Of one width for all, these would take 20 GB.
        ({"inputs": [["x" * 10_000_000, *[""] * 500]]}, PIXELS, "must be numbers"),
        ({"instances": [1]}, TWO, "must be an object with the keys a, b"),
        ({"instances": [{"a": 1}]}, TWO, "keys a, b. Received: .'a': 1"),
        ({"inputs": {"a": [1], "b": []}}, TWO, "same number of rows"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(document, specs, message):
    with pytest.raises(RequestError, match=message) as refused:
        parse_predict(document, specs, 2)
    assert refused.value.status == 400
    assert len(refused.value.message) < 400


@pytest.mark.parametrize("document", [{"instances": [""] * 11}, {"inputs": [""] * 11}])
@pytest.mark.parametrize("specs", [FILES, PIXELS])
def test_requests_of_too_many_rows_are_refused(document, specs):
    for parse in (
        lambda: parse_predict(document, specs, 10),
        lambda: parse_examples({"examples": [{}] * 11}, 10),
    ):
        with pytest.raises(
            RequestError, match=r"10 rows at most .*--max-rows.* Received: 11"
        ) as no:
            parse()
        assert no.value.status == 413
    assert len(parse_examples({"examples": [{}] * 10}, 10)) == 10


@pytest.mark.parametrize(
    ("text", "data"),
    [
        ("--__", b"\xfb\xef\xff"),
        ("++//", b"\xfb\xef\xff"),
        ("YQ", b"a"),
        ("YWI", b"ab"),
        ("YQ\r\n==\n", b"a"),
        ("data:image/jpeg;base64,YQ==", b"a"),
        ("DATA:;charset=x;Base64,YQ", b"a"),
    ],
)
def test_base64_in_all_its_forms(text, data):
    columns, _ = parse_predict({"inputs": [{"b64": text}]}, FILES, 1)
    assert columns["image_bytes"].tolist() == [data]


@pytest.mark.parametrize(
    "text",
    [
        "YQ=",
        "YQ===",
        "Y",
        "Y=Q=",
        "YQ==YQ==",
        "Y!Q",
        "é",
        "data:,YQ==",
        "data:x,YQ==",
        "x,YQ==",
    ],
)
def test_what_is_no_base64(text):
    with pytest.raises(RequestError, match="base64 data"):
        parse_predict({"inputs": [{"b64": text}]}, FILES, 1)


def test_a_shared_file_is_decoded_once():
    file = base64.b64encode(b"x" * 1000).decode()
    document = {"context": {"image/encoded": {"b64": file}}, "examples": [{}] * 3}
    first, *others = parse_examples(document, 3)
    assert first == b"x" * 1000
    assert all(other is first for other in others)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "must be JSON"),
        (b"[]", "must be a JSON object"),
        (b"{", "must be JSON: "),
        (b"\xff\xfe{\0}\0", "must be JSON: "),
        (b'{"inputs": NaN}', "NaN is not a JSON number"),
        (b'{"inputs": [-Infinity]}', "-Infinity is not a JSON number"),
        (b'{"inputs": ' + b"[" * 100_000 + b"]" * 100_000 + b"}", "nested too deeply"),
        (b'{"inputs": ' + b"1" * 5000 + b"}", "must be JSON: "),
    ],
)
def test_bodies_that_are_no_json_objects_are_refused(body, message):
    with pytest.raises(RequestError, match=message) as refused:
        parse_body(body)
    assert refused.value.status == 400


def test_the_signature_is_the_one_named_or_the_default():
    known = ("one", "two")
    assert signature_name({"signature_name": "two"}, "one", known) == "two"
    assert signature_name({"signature_name": ""}, "one", known) == "one"
    assert signature_name({}, "one", known) == "one"
    with pytest.raises(RequestError, match=r"one of one, two\. Received: 'three'"):
        signature_name({"signature_name": "three"}, "one", known)
    with pytest.raises(RequestError, match=r"Received: \[1\]"):
        signature_name({"signature_name": [1]}, "one", known)


def test_outputs_are_written_in_the_format_of_the_request():
    both = {
        "classes": np.array([[b"a", b"\xc3\xa9"]], object),
        "scores": np.array([[0.5, 0.25]], np.float32),
    }
    row = {"classes": ["a", "é"], "scores": [0.5, 0.25]}
    assert predict_json(both, True) == {"predictions": [row]}
    columns = {"classes": [["a", "é"]], "scores": [[0.5, 0.25]]}
    assert predict_json(both, False) == {"outputs": columns}
    one = {"probabilities": np.array([[0.5], [1.0]], np.float32)}
    assert predict_json(one, True) == {"predictions": [[0.5], [1.0]]}
    assert predict_json(one, False) == {"outputs": [[0.5], [1.0]]}
    assert predict_json({"raw_bytes": np.array([b"\xff"], object)}, True) == {
        "predictions": [{"b64": "/w=="}]
    }
    # `results`, as the server has it; the documentation has `result`.
    assert classify_json(both) == {"results": [[("a", 0.5), ("é", 0.25)]]}


def test_examples_hold_one_file_each_or_none():
    file = {"b64": "AAH/"}
    examples = [{"image/encoded": file, "n": [1, 2]}, {"image/encoded": [file]}, {"weight": 0.5}]
    files = [b"\0\1\xff", b"\0\1\xff", b""]
    assert parse_examples({"examples": examples}, 3) == files
    shared = {"context": {"image/encoded": "left"}, "examples": examples}
    assert parse_examples(shared, 3) == [*files[:2], b"left"]
    for none in (None, 1, [file, file], [], {"c": 1}):
        assert parse_examples({"examples": [{"image/encoded": none}]}, 3) == [b""]


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({}, "`examples` must be a list"),
        ({"examples": []}, "at least one"),
        ({"examples": [1]}, "must be JSON objects"),
        ({"examples": [{}], "context": 1}, "must be JSON objects"),
        ({"examples": [{"image/encoded": {"b64": "A*=="}}]}, "base64 data"),
    ],
)
def test_examples_that_are_none_are_refused(document, message):
    with pytest.raises(RequestError, match=message) as refused:
        parse_examples(document, 3)
    assert refused.value.status == 400


def test_where_there_are_thresholds_the_classes_above_theirs_are_named():
    columns = {
        "classes": np.array([[b"sea", b"dog", b"sky"], [b"dog", b"sea", b"sky"]], object),
        "error": np.array([b"", b""], object),
        "scores": np.array([[0.9, 0.5, 0.1], [0.4, 0.2, 0.0]]),
        "thresholds": np.array([[0.3, 0.5, 0.2], [0.5, 0.3, 0.2]]),
    }
    rows = predict_json(columns, True, naming=True)["predictions"]
    assert [row["named"] for row in rows] == [["sea", "dog"], []]
    assert rows[0]["thresholds"] == [0.3, 0.5, 0.2]
    assert "named" not in predict_json(columns, True)["predictions"][0]
    assert classify_json(columns) == {"results": [[("sea", 0.9), ("dog", 0.5)], []]}
    del columns["thresholds"]
    assert "named" not in predict_json(columns, True, naming=True)["predictions"][0]
    assert [len(row) for row in classify_json(columns)["results"]] == [3, 3]
