"""Requests by REST and gRPC, with the answers that every server of an export must give.

`CHECKS` are run against this package's server (`test_serve_grpc.py`) and against TensorFlow
Serving's (`test_model_server.py`). What a picture must give comes from the SavedModel in process.
"""

import base64
import json
import urllib.error
import urllib.request
from dataclasses import dataclass
from typing import Any

import grpc
import numpy as np
import pytest
import tensorflow as tf
from tensorflow_serving.apis import (
    classification_pb2,
    get_model_metadata_pb2,
    get_model_status_pb2,
    input_pb2,
    model_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

from helpers.served_models import COLOUR, GRAY, example, pixels

BAD = b"no picture"
FILES = [COLOUR, BAD, COLOUR[:-500], GRAY]
ERRORS = ["", "not a JPEG, PNG, BMP, GIF or WebP picture", "corrupt or truncated JPEG", ""]
TIMEOUT = 60
PREDICT = "/tensorflow.serving.PredictionService/Predict"


@dataclass(frozen=True)
class Endpoint:
    """A server of one model.

    Attributes:
        name: of the model.
        url: of the model by REST.
        channel: to the server by gRPC.
        model: the same `ServedModel`, in this process.
    """

    name: str
    url: str
    channel: Any
    model: Any

    @property
    def prediction(self):
        return prediction_service_pb2_grpc.PredictionServiceStub(self.channel)

    def spec(self, signature="", **changes):
        return model_pb2.ModelSpec(**{"name": self.name, "signature_name": signature, **changes})

    def predict_request(self, signature, inputs, output_filter=(), **spec):
        tensors = {name: tf.make_tensor_proto(values) for name, values in inputs.items()}
        return predict_pb2.PredictRequest(
            model_spec=self.spec(signature, **spec), inputs=tensors, output_filter=output_filter
        )

    def predict(self, *arguments, **options):
        request = self.predict_request(*arguments, **options)
        return self.prediction.Predict(request, timeout=TIMEOUT)

    def classify(self, request_input, signature="classify"):
        request = classification_pb2.ClassificationRequest(
            model_spec=self.spec(signature), input=request_input
        )
        return self.prediction.Classify(request, timeout=TIMEOUT)


def b64(file):
    return {"b64": base64.b64encode(file).decode()}


def rest(url, document=None):
    """Return the status and the JSON of an answer; a document is posted."""
    body = None if document is None else json.dumps(document).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, body), timeout=TIMEOUT) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


def arrays(response):
    return {name: tf.make_ndarray(tensor) for name, tensor in response.outputs.items()}


def of_protobuf(examples, context=None):
    """Return an `Input` of serialised examples, and of what they share if that is given."""
    examples = [tf.train.Example.FromString(data) for data in examples]
    if context is None:
        return input_pb2.Input(example_list=input_pb2.ExampleList(examples=examples))
    shared = tf.train.Example.FromString(context)
    both = input_pb2.ExampleListWithContext(examples=examples, context=shared)
    return input_pb2.Input(example_list_with_context=both)


def refused(code, call, *arguments, **options):
    """Return what a client is told whose request is refused with this code."""
    with pytest.raises(grpc.RpcError) as error:
        call(*arguments, **options)
    assert error.value.code() == code
    return error.value.details()


def check_status(endpoint):
    status, answer = rest(endpoint.url)
    (version,) = answer["model_version_status"]
    assert (status, version["version"]) == (200, str(endpoint.model.version))
    assert (version["state"], version["status"]["error_code"]) == ("AVAILABLE", "OK")
    stub = model_service_pb2_grpc.ModelServiceStub(endpoint.channel)
    request = get_model_status_pb2.GetModelStatusRequest(model_spec=endpoint.spec())
    (version,) = stub.GetModelStatus(request, timeout=TIMEOUT).model_version_status
    assert version.version == endpoint.model.version
    assert version.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
    assert (version.status.error_code, version.status.error_message) == (0, "")
    request.model_spec.version.value = 9
    refused(grpc.StatusCode.NOT_FOUND, stub.GetModelStatus, request, timeout=TIMEOUT)


def check_metadata(endpoint):
    request = get_model_metadata_pb2.GetModelMetadataRequest(
        model_spec=endpoint.spec(), metadata_field=["signature_def"]
    )
    answer = endpoint.prediction.GetModelMetadata(request, timeout=TIMEOUT)
    assert answer.model_spec.name == endpoint.name
    assert answer.model_spec.version.value == endpoint.model.version
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert answer.metadata["signature_def"].Unpack(signatures)
    _, found = rest(f"{endpoint.url}/metadata")
    for name, definition in endpoint.model.definitions.items():
        assert signatures.signature_def[name] == definition
        described = found["metadata"]["signature_def"]["signature_def"][name]
        assert described["method_name"] == definition.method_name
        assert set(described["inputs"]) == set(definition.inputs)
        assert set(described["outputs"]) == set(definition.outputs)


def check_files(endpoint):
    expected = endpoint.model.run("classify_bytes", {"image_bytes": np.array(FILES, object)})
    response = endpoint.predict("classify_bytes", {"image_bytes": FILES})
    assert response.model_spec.name == endpoint.name
    assert response.model_spec.signature_name == "classify_bytes"
    assert response.model_spec.version.value == endpoint.model.version
    found = arrays(response)
    assert [error.decode() for error in found["error"]] == ERRORS
    np.testing.assert_array_equal(found["classes"], expected["classes"])
    np.testing.assert_allclose(found["scores"], expected["scores"], rtol=1e-5)
    instances = [b64(file) for file in FILES]
    document = {"signature_name": "classify_bytes", "instances": instances}
    _, answer = rest(f"{endpoint.url}:predict", document)
    by_rest = answer["predictions"]
    assert [row["error"] for row in by_rest] == ERRORS
    assert [row["classes"] for row in by_rest] == [
        [name.decode() for name in row] for row in found["classes"]
    ]
    np.testing.assert_allclose([row["scores"] for row in by_rest], found["scores"], rtol=1e-5)


def check_pixels(endpoint):
    images = pixels(3)
    expected = endpoint.model.run("serving_default", {"images": images})["probabilities"]
    response = endpoint.predict("", {"images": images})  # the default signature
    assert response.model_spec.signature_name == "serving_default"
    probabilities = arrays(response)["probabilities"]
    np.testing.assert_allclose(probabilities, expected, rtol=1e-5)
    _, answer = rest(f"{endpoint.url}:predict", {"instances": images.tolist()})
    np.testing.assert_allclose(answer["predictions"], probabilities, rtol=1e-5)


def check_examples(endpoint):
    files = [example(file) for file in FILES]
    expected = endpoint.model.run("classify", {"inputs": np.array(files, object)})
    response = endpoint.classify(of_protobuf(files))
    assert response.model_spec.signature_name == "classify"
    assert response.model_spec.version.value == endpoint.model.version
    rows = [
        [(item.label, item.score) for item in row.classes]
        for row in response.result.classifications
    ]
    assert [[label.encode() for label, _ in row] for row in rows] == expected["classes"].tolist()
    scores = [[score for _, score in row] for row in rows]
    np.testing.assert_allclose(scores, expected["scores"], rtol=1e-5)
    documents = [{"image/encoded": b64(file)} for file in FILES]
    _, answer = rest(
        f"{endpoint.url}:classify", {"signature_name": "classify", "examples": documents}
    )
    assert [[label for label, _ in row] for row in answer["results"]] == [
        [label for label, _ in row] for row in rows
    ]
    # The Predict API takes the signature too, with serialised examples.
    found = arrays(endpoint.predict("classify", {"inputs": files}))
    np.testing.assert_array_equal(found["classes"], expected["classes"])


def check_context(endpoint):
    """What examples share is added to each, and what one has itself counts."""
    alone = endpoint.classify(of_protobuf([example(GRAY), example(COLOUR)]))
    shared = endpoint.classify(of_protobuf([b"", example(COLOUR)], context=example(GRAY)))
    assert shared.result == alone.result


def check_output_filter(endpoint):
    files = {"image_bytes": [COLOUR]}
    whole = arrays(endpoint.predict("classify_bytes", files))
    found = arrays(endpoint.predict("classify_bytes", files, output_filter=["scores"]))
    assert set(found) == {"scores"}
    np.testing.assert_allclose(found["scores"], whole["scores"], rtol=1e-6)
    for names in (["probabilities"], ["scores", "scores"]):
        refused(
            grpc.StatusCode.INVALID_ARGUMENT,
            endpoint.predict,
            "classify_bytes",
            files,
            output_filter=names,
        )


def check_empty_batches(endpoint):
    nothing = np.array([], object)
    found = arrays(endpoint.predict("classify_bytes", {"image_bytes": nothing}))
    assert found["classes"].shape == found["scores"].shape == (0, 5)
    assert found["error"].shape == (0,)
    found = arrays(endpoint.predict("serving_default", {"images": pixels(0)}))
    assert found["probabilities"].shape == (0, 6)
    refused(grpc.StatusCode.INVALID_ARGUMENT, endpoint.classify, of_protobuf([]))


def check_what_is_not_there(endpoint):
    files = {"image_bytes": [COLOUR]}
    predict, codes = endpoint.predict, grpc.StatusCode
    version = {"value": endpoint.model.version}
    assert predict("classify_bytes", files, version=version).model_spec.version.value == int(
        endpoint.model.version
    )
    refused(codes.NOT_FOUND, predict, "classify_bytes", files, version={"value": 9})
    refused(codes.NOT_FOUND, predict, "classify_bytes", files, name="oaks")
    refused(codes.INVALID_ARGUMENT, predict, "classify_bytes", files, name="")
    refused(codes.INVALID_ARGUMENT, predict, "classify_bytes", files, version_label="stable")
    refused(codes.FAILED_PRECONDITION, predict, "guess", files)
    base = endpoint.url.removesuffix(endpoint.name)
    document = {"signature_name": "classify_bytes", "instances": [b64(COLOUR)]}
    assert rest(f"{base}oaks:predict", document)[0] == 404
    assert rest(f"{endpoint.url}/versions/9:predict", document)[0] == 404
    assert rest(f"{endpoint.url}:predict", document | {"signature_name": "guess"})[0] == 400


def check_what_does_not_fit(endpoint):
    predict, invalid = endpoint.predict, grpc.StatusCode.INVALID_ARGUMENT
    refused(invalid, predict, "classify_bytes", {})
    refused(invalid, predict, "classify_bytes", {"pictures": [COLOUR]})
    refused(invalid, predict, "classify_bytes", {"image_bytes": [COLOUR], "size": [1]})
    refused(invalid, predict, "classify_bytes", {"image_bytes": np.zeros(2, np.float32)})
    refused(invalid, predict, "serving_default", {"images": pixels(1).astype(np.int32)})
    refused(invalid, endpoint.classify, of_protobuf([example(GRAY)]), "classify_bytes")
    refused(invalid, endpoint.classify, of_protobuf([example(GRAY)]), "guess")
    for document in ({}, {"instances": []}, {"signature_name": "classify_bytes", "instances": [1]}):
        assert rest(f"{endpoint.url}:predict", document)[0] == 400


CHECKS = (
    check_status,
    check_metadata,
    check_files,
    check_pixels,
    check_examples,
    check_context,
    check_output_filter,
    check_empty_batches,
    check_what_is_not_there,
    check_what_does_not_fit,
)
