"""TensorFlow Serving's gRPC interface: its PredictionService and ModelService.

Predict, Classify, GetModelMetadata and GetModelStatus are answered, with the status codes of
TensorFlow Serving's own code (predict_util.cc, classifier.cc, get_model_metadata_impl.cc,
server_core.cc). Other methods are UNIMPLEMENTED.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

from keras_effnetv2.export.signatures import EXAMPLES_SIGNATURE, PIXELS_SIGNATURE
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.loaded_model import Columns
from keras_effnetv2.serve.service import ServerLimits, Service, check_classifies

try:
    import grpc
    from tensorflow_serving.apis import (
        classification_pb2,
        get_model_metadata_pb2,
        get_model_status_pb2,
        model_pb2,
        model_service_pb2,
        predict_pb2,
        prediction_service_pb2,
    )

    from keras_effnetv2.serve.grpc_messages import (
        classification_response,
        parse_examples,
        parse_filter,
        parse_inputs,
        parse_message,
        predict_response,
    )
except ModuleNotFoundError as error:
    missing = (error.name or "").partition(".")[0]
    if missing not in ("grpc", "tensorflow_serving"):
        raise
    raise ImportError(
        f"Serving by gRPC needs the package {missing}, which is not installed. Install the extra "
        "with: pip install 'keras-effnetv2[serve,grpc]'"
    ) from None

# By the HTTP status of the same error.
_CODES = {
    400: grpc.StatusCode.INVALID_ARGUMENT,
    404: grpc.StatusCode.NOT_FOUND,
    408: grpc.StatusCode.DEADLINE_EXCEEDED,
    412: grpc.StatusCode.FAILED_PRECONDITION,
    413: grpc.StatusCode.RESOURCE_EXHAUSTED,
    500: grpc.StatusCode.INTERNAL,
    503: grpc.StatusCode.RESOURCE_EXHAUSTED,
    504: grpc.StatusCode.DEADLINE_EXCEEDED,
}
_SIGNATURES = "signature_def"  # the one metadata field that there is
_LARGEST_INT = 2**31 - 1  # of gRPC's options

_Handle = Callable[[Service, bytes], Awaitable[Any]]


class GrpcServer:
    """A server that listens when it is made, which has to be in the event loop it will run in.

    Args:
        address: "HOST:PORT" to listen on; port 0 takes a free one.
        limits: what it takes on.

    Raises:
        RuntimeError: the address cannot be listened on.
    """

    def __init__(self, address: str, limits: ServerLimits) -> None:
        self._server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", min(limits.max_body_bytes, _LARGEST_INT)),
                # A message that unpacks to a thousand times its size would pass the limit above.
                ("grpc.compression_enabled_algorithms_bitset", 1),
                # Else another server can listen on the same port, and gets half of the clients.
                ("grpc.so_reuseport", 0),
                ("grpc.server_handshake_timeout_ms", int(min(limits.receive_timeout, 1e6) * 1000)),
            ]
        )
        self.port: int = self._server.add_insecure_port(address)

    async def start(self, service: Service) -> None:
        """Answer for a service from now on."""
        prediction = prediction_service_pb2.DESCRIPTOR.services_by_name["PredictionService"]
        model = model_service_pb2.DESCRIPTOR.services_by_name["ModelService"]
        methods = {
            prediction.full_name: {
                "Predict": _method_handler(service, "predict", _predict),
                "Classify": _method_handler(service, "classify", _classify),
                "GetModelMetadata": _method_handler(service, "metadata", _metadata),
            },
            model.full_name: {"GetModelStatus": _method_handler(service, "status", _status)},
        }
        self._server.add_generic_rpc_handlers(
            [grpc.method_handlers_generic_handler(name, those) for name, those in methods.items()]
        )
        await self._server.start()

    async def stop(self, grace: float) -> None:
        """Take no more requests; return when those that are here are answered.

        Args:
            grace: seconds after which they are given up.
        """
        await self._server.stop(grace)


def _method_handler(service: Service, method: str, handle: _Handle) -> Any:
    async def call(messages: AsyncIterator[bytes], context: Any) -> Any:
        async def receive(is_taken: bool) -> bytes:
            return await _first(messages, service.limits) if is_taken else b""

        try:
            return await service.answer(method, receive, partial(handle, service))
        except RequestError as error:
            await context.abort(_CODES[error.status], error.message)

    # One message is a stream of one. Taken as a stream, it is not read before the limits allow, nor
    # parsed in the thread that serves all.
    return grpc.stream_unary_rpc_method_handler(
        call, response_serializer=lambda message: message.SerializeToString()
    )


async def _first(messages: AsyncIterator[bytes], limits: ServerLimits) -> bytes:
    async for message in messages:
        return message
    text = f"No message, or one of more than the {limits.max_body_bytes} bytes allowed"
    raise RequestError(413, text, "too_large")


# --- methods ------------------------------------------------------------------------------------


async def _predict(service: Service, body: bytes) -> Any:
    signature, outputs, columns = await asyncio.to_thread(_parse_predict, service, body)
    answer = await service.predict(signature, columns)
    asked = {name: answer[name] for name in outputs}
    return await asyncio.to_thread(predict_response, _model_spec(service, signature), asked)


def _parse_predict(service: Service, body: bytes) -> tuple[str, list[str], Columns]:
    request = parse_message(predict_pb2.PredictRequest, body)
    _check_servable(service, request.model_spec)
    signature = request.model_spec.signature_name or PIXELS_SIGNATURE
    if signature not in service.model.signatures:
        raise RequestError(
            412,
            f'Serving signature key "{signature[:60]}" not found. '
            f"There are: {', '.join(sorted(service.model.signatures))}",
        )
    outputs = parse_filter(request.output_filter, service.model.definitions[signature].outputs)
    specs = service.model.inputs(signature)
    return signature, outputs, parse_inputs(request.inputs, specs, service.limits.max_body_bytes)


async def _classify(service: Service, body: bytes) -> Any:
    examples = await asyncio.to_thread(_parse_classify, service, body)
    answer = await service.classify(examples)
    return classification_response(_model_spec(service, EXAMPLES_SIGNATURE), answer)


def _parse_classify(service: Service, body: bytes) -> list[bytes]:
    request = parse_message(classification_pb2.ClassificationRequest, body)
    _check_servable(service, request.model_spec)
    check_classifies(request.model_spec.signature_name or EXAMPLES_SIGNATURE)
    return parse_examples(request.input)


async def _metadata(service: Service, body: bytes) -> Any:
    request = parse_message(get_model_metadata_pb2.GetModelMetadataRequest, body)
    if set(request.metadata_field) != {_SIGNATURES}:
        fields = ", ".join(request.metadata_field)[:60] or "none"
        raise RequestError(400, f"metadata_field must be: {_SIGNATURES}. Received: {fields}")
    _check_servable(service, request.model_spec)
    response = get_model_metadata_pb2.GetModelMetadataResponse(model_spec=_model_spec(service))
    signatures = get_model_metadata_pb2.SignatureDefMap(signature_def=service.model.definitions)
    response.metadata[_SIGNATURES].Pack(signatures)
    return response


async def _status(service: Service, body: bytes) -> Any:
    request = parse_message(get_model_status_pb2.GetModelStatusRequest, body)
    _check_servable(service, request.model_spec)
    response = get_model_status_pb2.GetModelStatusResponse()
    status = response.model_version_status.add(version=service.model.version)
    status.state = get_model_status_pb2.ModelVersionStatus.AVAILABLE
    status.status.SetInParent()  # error_code OK, as the REST interface has it
    return response


def _check_servable(service: Service, spec: Any) -> None:
    if not spec.name:
        raise RequestError(400, "ModelSpec has no name specified")
    if spec.WhichOneof("version_choice") == "version_label":
        label = spec.version_label[:60]
        raise RequestError(400, f"Unrecognized servable version label: {label}. There are none")
    service.check_servable(spec.name, spec.version.value if spec.HasField("version") else None)


def _model_spec(service: Service, signature: str = "") -> Any:
    spec = model_pb2.ModelSpec(name=service.name, signature_name=signature)
    spec.version.value = service.model.version
    return spec
