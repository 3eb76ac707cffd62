"""Requests that TensorFlow Serving runs when it loads a model.

The first client then does not wait for memory and kernels to be set up. The file is a TFRecord of
`tensorflow.serving.PredictionLog` messages
(https://www.tensorflow.org/tfx/serving/saved_model_warmup). They are so small that they are encoded
here, field by field, instead of making this package depend on tensorflow-serving-api. The field
numbers are those of tensorflow_serving/apis: prediction_log.proto, predict.proto,
classification.proto, input.proto and model.proto.
"""

from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_effnetv2.export.signatures import (
    BYTES_SIGNATURE,
    EXAMPLE_FEATURE,
    EXAMPLES_SIGNATURE,
    PIXELS_SIGNATURE,
)

WARMUP_FILE = "assets.extra/tf_serving_warmup_requests"
"""Where TensorFlow Serving looks for the requests, inside the folder of a version."""

_LENGTH_DELIMITED = 2  # the wire type of strings and nested messages


def write_warmup_requests(folder: Path, size: int) -> None:
    """Write one request for each signature of an export: a gray picture, as pixels and as JPEG."""
    pixels = tf.make_tensor_proto(128.0, tf.float32, [1, size, size, 3])
    jpeg = tf.io.encode_jpeg(tf.fill([64, 64, 3], tf.constant(128, tf.uint8))).numpy()
    feature = tf.train.Feature(bytes_list=tf.train.BytesList(value=[jpeg]))
    features = tf.train.Features(feature={EXAMPLE_FEATURE: feature})
    examples = _field(1, _field(1, tf.train.Example(features=features).SerializeToString()))
    path = folder / WARMUP_FILE
    path.parent.mkdir()
    with tf.io.TFRecordWriter(str(path)) as writer:
        writer.write(_predict_log(PIXELS_SIGNATURE, "images", pixels))
        writer.write(_predict_log(BYTES_SIGNATURE, "image_bytes", tf.make_tensor_proto([jpeg])))
        # PredictionLog.classify_log.request
        writer.write(_field(2, _field(1, _spec(EXAMPLES_SIGNATURE) + _field(2, examples))))


def _predict_log(signature: str, name: str, tensor: Any) -> bytes:
    entry = _field(1, name.encode()) + _field(2, tensor.SerializeToString())
    # PredictionLog.predict_log.request
    return _field(6, _field(1, _spec(signature) + _field(2, entry)))


def _spec(signature: str) -> bytes:
    """Return the first field of a request; the server knows the model by the file's place."""
    return _field(1, _field(3, signature.encode()))


def _field(number: int, content: bytes) -> bytes:
    """Return a length-delimited field of a protocol buffer message.

    Its length is in groups of seven bits, the lowest first; the last has its top bit clear.
    """
    length, groups = len(content), bytearray()
    while length > 0x7F:
        groups.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([number << 3 | _LENGTH_DELIMITED, *groups, length]) + content
