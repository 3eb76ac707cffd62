"""Requests that TensorFlow Serving runs when it loads a model.

The first client then need not wait for memory and kernels to be set up. The file is a TFRecord of
`tensorflow.serving.PredictionLog` messages
(https://www.tensorflow.org/tfx/serving/saved_model_warmup). They are so small that they are encoded
here, field by field, instead of making this package depend on tensorflow-serving-api. The field
numbers are those of tensorflow_serving/apis: prediction_log.proto, predict.proto,
classification.proto, input.proto and model.proto.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tensorflow as tf

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for the requests, below the folder of a version."""

_LENGTH_DELIMITED = 2  # the wire type of strings and nested messages


def write_warmup_requests(folder: Path, records: list[bytes]) -> None:
    """Write what `predict_log` and `classify_log` return into the folder of a SavedModel."""
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)


def predict_log(signature: str, inputs: Mapping[str, Any]) -> bytes:
    """Return a serialised `PredictionLog` that asks a signature about `tf.TensorProto`s by name."""
    entries = [
        _field(1, name.encode()) + _field(2, tensor.SerializeToString())
        for name, tensor in inputs.items()
    ]
    request = _model_spec(signature) + b"".join(_field(2, entry) for entry in entries)
    return _field(6, _field(1, request))  # PredictionLog.predict_log.request


def classify_log(signature: str, examples: list[bytes]) -> bytes:
    """Return a serialised `PredictionLog` that has a signature classify serialised examples."""
    example_list = b"".join(_field(1, example) for example in examples)
    request = _model_spec(signature) + _field(2, _field(1, example_list))
    return _field(2, _field(1, request))  # PredictionLog.classify_log.request


def _model_spec(signature: str) -> bytes:
    """Return the first field of a request; the server knows the model by the file's place."""
    return _field(1, _field(3, signature.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of a protocol buffer message."""
    return _varint(number << 3 | _LENGTH_DELIMITED) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    """Return a number in groups of seven bits, the lowest first; the last has its top bit clear."""
    groups = bytearray()
    while number > 0x7F:
        groups.append(number & 0x7F | 0x80)
        number >>= 7
    groups.append(number)
    return bytes(groups)
