"""The web application: paths and answers.

`/v1/models/...` is TensorFlow Serving's REST interface
(https://www.tensorflow.org/tfx/serving/api_rest), so a client moves to a `tensorflow_model_server`
by changing the address. Beside it are the page (`/`), `/grad_cam` for the page, `/metrics` and
`/healthz`.
"""

import asyncio
import base64
import json
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any

from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keras_effnetv2.export.signatures import EXAMPLES_SIGNATURE, PIXELS_SIGNATURE
from keras_effnetv2.serve.body import drop_body, read_body
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.hosts import HostCheck
from keras_effnetv2.serve.metrics import CONTENT_TYPE
from keras_effnetv2.serve.page import PAGE_HEADERS, page
from keras_effnetv2.serve.rest_json import (
    classify_json,
    parse_body,
    parse_examples,
    parse_predict,
    predict_json,
    signature_name,
)
from keras_effnetv2.serve.service import Service, check_classifies

# Both as TensorFlow Serving's http_rest_api_handler.cc has them.
_MODEL = "/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?"
_PREDICTION = re.compile(f"{_MODEL}:(predict|classify|regress)", re.IGNORECASE)
_DESCRIPTION = re.compile(f"{_MODEL}(/metadata)?", re.IGNORECASE)


def make_app(service: Service, allowed_hosts: frozenset[str] | None = None) -> FastAPI:
    """Return the application of a service, which computes while `service.computing()` lasts.

    Args:
        service: what answers.
        allowed_hosts: see `hosts.allowed_hosts`; None allows every one.
    """
    # The documentation pages of FastAPI would load scripts from the network.
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    if allowed_hosts is not None:
        app.add_middleware(HostCheck, allowed=allowed_hosts)
    methods: Mapping[str, Callable[[bytes], Awaitable[Any]]] = {
        "predict": partial(_predict, service),
        "classify": partial(_classify, service),
        "regress": _regress,
    }

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        return _error_response(error.status_code, str(error.detail))

    @app.post("/v1/{rest:path}")
    async def ask(request: Request) -> Response:
        found = _PREDICTION.fullmatch(request.scope["path"])
        if found is None:
            return _malformed(request)

        async def handle(body: bytes) -> Any:
            service.check_servable(found[1], _version(found[2]))
            return await methods[found[3].lower()](body)

        return await _answer(service, request, found[3].lower(), handle)

    @app.get("/v1/{rest:path}")
    async def describe(request: Request) -> Response:
        found = _DESCRIPTION.fullmatch(request.scope["path"])
        if found is None:
            return _malformed(request)
        try:
            service.check_servable(found[1], _version(found[2]))
        except RequestError as error:
            return _error_response(error.status, error.message)
        return _json_response(_json(_metadata(service) if found[3] else _status(service)))

    @app.post("/grad_cam")
    async def explain(request: Request, class_name: str = "") -> Response:
        return await _answer(service, request, "grad_cam", partial(_grad_cam, service, class_name))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics_text(), media_type=CONTENT_TYPE)

    @app.get("/healthz")
    async def healthz() -> Response:
        if service.is_computing:
            return _json_response(_json({"status": "ok"}))
        return _error_response(503, "The model does not answer")

    html = page(service.name, service.model.version, has_grad_cam=service.has_grad_cam)

    @app.get("/")
    async def show_page() -> Response:
        return Response(html, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    return app


async def _answer(
    service: Service, request: Request, method: str, handle: Callable[[bytes], Awaitable[Any]]
) -> Response:
    limit = service.limits.max_body_bytes

    async def receive(is_taken: bool) -> bytes:
        try:
            if is_taken:
                return await read_body(request, limit)
            await drop_body(request, limit)
            return b""
        except ClientDisconnect:
            raise RequestError(400, "The client has gone", "disconnected") from None

    async def handle_json(body: bytes) -> bytes:
        return _json(await handle(body))

    try:
        return _json_response(await service.answer(method, receive, handle_json))
    except RequestError as error:
        return _error_response(error.status, error.message)


# --- methods ------------------------------------------------------------------------------------


async def _predict(service: Service, body: bytes) -> Any:
    # In threads, because millions of numbers take a while and other requests go on meanwhile.
    signature, asked = await asyncio.to_thread(_parse_predict, service, body)
    answer = await service.predict(signature, asked.columns)
    return await asyncio.to_thread(predict_json, answer, asked.is_row_format)


def _parse_predict(service: Service, body: bytes) -> tuple[str, Any]:
    document = parse_body(body)
    signature = signature_name(document, PIXELS_SIGNATURE, service.model.signatures)
    return signature, parse_predict(document, service.model.inputs(signature))


async def _classify(service: Service, body: bytes) -> Any:
    examples = await asyncio.to_thread(_parse_classify, service, body)
    return classify_json(await service.classify(examples))


def _parse_classify(service: Service, body: bytes) -> list[bytes]:
    document = parse_body(body)
    known = {*service.model.signatures, EXAMPLES_SIGNATURE}
    signature = signature_name(document, EXAMPLES_SIGNATURE, known)
    check_classifies(signature)
    return [example.SerializeToString() for example in parse_examples(document)]


async def _regress(body: bytes) -> Any:
    raise RequestError(400, "This model classifies. Ask with :classify or :predict")


async def _grad_cam(service: Service, class_name: str, body: bytes) -> Any:
    answer = await service.explain(body, class_name.encode("utf-8", "replace"))
    return {
        "class_name": answer["class_name"].decode("utf-8"),
        "picture": _data_address(answer["picture"]),
        "overlay": _data_address(answer["overlay"]),
    }


def _status(service: Service) -> dict[str, Any]:
    """Return the status as TensorFlow Serving gives it."""
    state = {"error_code": "OK", "error_message": ""}
    version = {"version": str(service.model.version), "state": "AVAILABLE", "status": state}
    return {"model_version_status": [version]}


def _metadata(service: Service) -> dict[str, Any]:
    """Return the signatures as TensorFlow Serving gives them."""
    version = str(service.model.version)
    spec = {"name": service.name, "signature_name": "", "version": version}
    signatures = {"signature_def": service.model.metadata}
    return {"model_spec": spec, "metadata": {"signature_def": signatures}}


# --- answers ------------------------------------------------------------------------------------


def _version(digits: str | None) -> int | None:
    return None if digits is None else int(digits)


def _json(content: Any) -> bytes:
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise RequestError(500, "The model's answer has NaN or Infinity in it", "error") from None
    return text.encode("utf-8")


def _json_response(text: bytes) -> Response:
    return Response(text, media_type="application/json")


def _error_response(status: int, message: str) -> Response:
    # Who was too slow may still be sending what nobody reads.
    headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(status)
    text = json.dumps({"error": message})
    return Response(text, status, headers, media_type="application/json")


def _malformed(request: Request) -> Response:
    return _error_response(400, f"Malformed request: {request.method} {request.scope['path']}")


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
