"""The messages of TensorFlow Serving's gRPC interface, to arrays and back.

Their definitions are in tensorflow_serving/apis (predict.proto, classification.proto, input.proto).
"""

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from google.protobuf.message import DecodeError
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2, types_pb2
from tensorflow_serving.apis import classification_pb2, predict_pb2

from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.loaded_model import Columns


def parse_message(kind: Any, body: bytes) -> Any:
    """Return the message in a request's body.

    Args:
        kind: its class.
        body: serialised.

    Raises:
        RequestError: 400, it is none.
    """
    try:
        return kind.FromString(body)
    except DecodeError:
        raise RequestError(400, f"The message is no {kind.DESCRIPTOR.full_name}") from None


def parse_inputs(
    tensors: Mapping[str, Any], specs: Mapping[str, Any], max_bytes: int
) -> dict[str, npt.NDArray[Any]]:
    """Return the inputs of a `PredictRequest` as arrays.

    Args:
        tensors: input name -> `TensorProto`.
        specs: `tf.TensorSpec` of each input, whose first axis is the batch.
        max_bytes: that an input may take as an array. A `TensorProto` of a few bytes can stand for
            any number of equal values.

    Raises:
        RequestError: it is not what the signature takes.
    """
    if set(tensors) != set(specs):
        raise RequestError(
            400, f"The inputs must be: {_listed(specs)}. Received: {_listed(tensors) or 'none'}"
        )
    columns = {name: _to_array(tensors[name], name, specs[name], max_bytes) for name in specs}
    if len({len(column) for column in columns.values()}) != 1:
        raise RequestError(400, "All inputs must have the same number of rows")
    return columns


def _to_array(tensor: Any, name: str, spec: Any, max_bytes: int) -> npt.NDArray[Any]:
    shape = [dim.size for dim in tensor.tensor_shape.dim]
    is_expected = (
        tensor.dtype == spec.dtype.as_datatype_enum
        and not tensor.tensor_shape.unknown_rank
        and all(size >= 0 for size in shape)
        and spec.shape.is_compatible_with(shape)
    )
    if not is_expected:
        sizes = ", ".join("rows" if size is None else str(size) for size in spec.shape)
        raise RequestError(
            400,
            f"The input {name!r} must be a tensor of {spec.dtype.name} and the shape ({sizes}). "
            f"Received: {_type_name(tensor.dtype)} and the shape {tuple(shape[:9])}",
        )
    count = math.prod(shape)
    if spec.dtype == tf.string and len(tensor.string_val) != count:
        # TensorFlow would repeat the last one; who sends pictures does not mean that.
        raise RequestError(
            400, f"The input {name!r} has {len(tensor.string_val)} strings for {count} places"
        )
    if count * spec.dtype.size > max_bytes:
        raise RequestError(
            413,
            f"The input {name!r} unpacks to more than the {max_bytes} bytes allowed",
            "too_large",
        )
    try:
        array: npt.NDArray[Any] = tf.make_ndarray(tensor)
    except ValueError:
        raise RequestError(
            400, f"The input {name!r} has not the values of its shape {tuple(shape)}"
        ) from None
    return array


def parse_filter(names: Sequence[str], outputs: Iterable[str]) -> list[str]:
    """Return the outputs that a `PredictRequest` asks for.

    Args:
        names: its `output_filter`; empty for all.
        outputs: those of the signature.

    Raises:
        RequestError: 400, there is no such output, or one is named twice.
    """
    outputs = sorted(outputs)
    for name in names:
        if name not in outputs or list(names).count(name) > 1:
            raise RequestError(
                400,
                f"output_filter must name outputs, each once, of: {_listed(outputs)}. "
                f"Received: {_listed(names)}",
            )
    return list(names) or outputs


def parse_examples(request_input: Any) -> list[bytes]:
    """Return the serialised `tf.train.Example`s of an `Input`.

    Args:
        request_input: the `Input`.

    Raises:
        RequestError: 400, there are none.
    """
    if request_input.WhichOneof("kind") == "example_list_with_context":
        examples = request_input.example_list_with_context
        # Serialised messages one after the other are one with the fields of both, where a later
        # feature of the same name counts.
        shared = examples.context.SerializeToString()
    else:
        examples, shared = request_input.example_list, b""
    if not examples.examples:
        raise RequestError(400, "Input is empty. It must have at least one example")
    return [shared + example.SerializeToString() for example in examples.examples]


def predict_response(spec: Any, columns: Columns) -> Any:
    """Return a `PredictResponse`.

    Args:
        spec: the `ModelSpec` of what answered.
        columns: an array for each output.
    """
    tensors = {name: _to_tensor(values) for name, values in columns.items()}
    return predict_pb2.PredictResponse(model_spec=spec, outputs=tensors)


def _to_tensor(values: npt.NDArray[Any]) -> Any:
    # As TensorFlow Serving answers, in fields that a client reads without unpacking bytes;
    # `tf.make_tensor_proto` packs numbers.
    dims = [tensor_shape_pb2.TensorShapeProto.Dim(size=size) for size in values.shape]
    shape = tensor_shape_pb2.TensorShapeProto(dim=dims)
    if values.dtype == object:
        strings = values.ravel().tolist()
        return tensor_pb2.TensorProto(
            dtype=types_pb2.DT_STRING, tensor_shape=shape, string_val=strings
        )
    if values.dtype == np.float32:
        return tensor_pb2.TensorProto(
            dtype=types_pb2.DT_FLOAT, tensor_shape=shape, float_val=values.ravel().tolist()
        )
    return tf.make_tensor_proto(values)


def classification_response(spec: Any, columns: Columns) -> Any:
    """Return a `ClassificationResponse`: for each example its classes, best first.

    Args:
        spec: the `ModelSpec` of what answered.
        columns: `classes` string (N, k) and `scores` (N, k).
    """
    response = classification_pb2.ClassificationResponse(model_spec=spec)
    for labels, scores in zip(columns["classes"], columns["scores"], strict=True):
        classes = response.result.classifications.add().classes
        for label, score in zip(labels, scores, strict=True):
            classes.add(label=label.decode("utf-8", "replace"), score=score)
    return response


def _type_name(number: int) -> str:
    name: str = types_pb2.DataType.Name(number) if number in types_pb2.DataType.values() else "?"
    return name


def _listed(names: Collection[str]) -> str:
    return ", ".join(sorted(names))[:200]
