"""The web application: paths and answers.

`/v1/models/...` is TensorFlow Serving's REST interface
(https://www.tensorflow.org/tfx/serving/api_rest), so a client only changes the address to use a
`tensorflow_model_server`. The others are the page (`/`), `/grad_cam` for the page, `/metrics` and
`/healthz`.
"""

import asyncio
import base64
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.exceptions import HTTPException
from starlette.middleware.trustedhost import TrustedHostMiddleware

from keras_effnetv2.export.signatures import EXAMPLES_SIGNATURE, PIXELS_SIGNATURE
from keras_effnetv2.serve.body import read_body
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.origin import is_foreign
from keras_effnetv2.serve.page import PAGE_HEADERS, page
from keras_effnetv2.serve.rest_json import (
    classify_json,
    parse_body,
    parse_examples,
    parse_predict,
    predict_json,
    signature_name,
)
from keras_effnetv2.serve.service import Service

# Both as TensorFlow Serving's http_rest_api_handler.cc has them.
_MODEL = "/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?"
_PREDICTION = re.compile(f"{_MODEL}:(predict|classify|regress)", re.IGNORECASE)
_DESCRIPTION = re.compile(f"{_MODEL}(/metadata)?", re.IGNORECASE)


def make_app(
    service: Service, allowed_hosts: Sequence[str] = ("*",), own_names: Sequence[str] = ()
) -> FastAPI:
    """Return the application of a service.

    Args:
        service: answers the requests.
        allowed_hosts: host names to answer for, see `server.allowed_hosts`; "*" is all.
        own_names: further host names whose pages may send requests, see `origin.is_foreign`.
    """

    async def refuse_other_sites(request: Request) -> None:
        if is_foreign(request.method, request.headers, own_names):
            raise RequestError(
                403,
                "A page of another site sent this request, and only pages of this server may. If "
                "the server has another name, start it with --allow-host NAME",
            )

    # The documentation pages of FastAPI would load scripts from the network.
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(refuse_other_sites)]
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts, www_redirect=False)
    methods: Mapping[str, Callable[[bytes], Awaitable[Any]]] = {
        "predict": partial(_predict, service),
        "classify": partial(_classify, service),
        "regress": _regress,
    }

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        return _json_response({"error": error.detail}, error.status_code)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        # A client that was too slow may still be sending what nobody reads.
        headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(error.status)
        return _json_response({"error": error.message}, error.status, headers)

    @app.post("/v1/{rest:path}")
    async def ask(request: Request) -> Response:
        found = _PREDICTION.fullmatch(request.scope["path"])
        method = "unknown" if found is None else found[3].lower()

        async def handle(body: bytes) -> Any:
            return await methods[_named(service, request, found)[3].lower()](body)

        return await _answer(service, request, method, handle)

    @app.get("/v1/{rest:path}")
    async def describe(request: Request) -> Response:
        found = _named(service, request, _DESCRIPTION.fullmatch(request.scope["path"]))
        return _json_response(_metadata(service) if found[3] else _status(service))

    @app.post("/grad_cam")
    async def explain(request: Request, class_name: str = "") -> Response:
        return await _answer(service, request, "grad_cam", partial(_grad_cam, service, class_name))

    @app.get("/metrics")
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.get("/healthz")
    async def healthz() -> Response:
        if service.is_stuck:
            text = f"The model has been busy for more than {service.limits.timeout:g} seconds"
            raise RequestError(503, text)
        return _json_response({"status": "ok"})

    html = page(service.name, service.model.version, has_grad_cam=service.has_grad_cam)

    @app.get("/")
    async def show_page() -> Response:
        return Response(html, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    return app


async def _answer(
    service: Service, request: Request, method: str, handle: Callable[[bytes], Awaitable[Any]]
) -> Response:
    async def respond(body: bytes) -> Response:
        answering = asyncio.ensure_future(handle(body))
        leaving = asyncio.ensure_future(request.receive())  # all that can follow a body
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise RequestError(400, "The client disconnected", "disconnected")
            return _json_response(answering.result())
        finally:
            answering.cancel()
            leaving.cancel()

    receive = partial(read_body, request, service.limits.max_body_bytes)
    return await service.answer(method, receive, respond)


def _named(service: Service, request: Request, found: re.Match[str] | None) -> re.Match[str]:
    """Return the match of a path, if there is one and it names the served model."""
    if found is None:
        raise RequestError(400, f"Malformed request: {request.method} {request.scope['path']}")
    service.check_servable(found[1], found[2])
    return found


# --- methods ------------------------------------------------------------------------------------


async def _predict(service: Service, body: bytes) -> Any:
    signature, columns, is_by_row = await service.convert(_parse_predict, service, body)
    answer = await service.predict(signature, columns)
    return await service.convert(predict_json, answer, is_by_row)


def _parse_predict(service: Service, body: bytes) -> tuple[str, Any, bool]:
    document = parse_body(body)
    signature = signature_name(document, PIXELS_SIGNATURE, service.model.signatures)
    inputs = service.model.inputs(signature)
    return signature, *parse_predict(document, inputs, service.limits.max_rows)


async def _classify(service: Service, body: bytes) -> Any:
    files = await service.convert(_parse_classify, service, body)
    return classify_json(await service.classify(files))


def _parse_classify(service: Service, body: bytes) -> list[bytes]:
    document = parse_body(body)
    signature_name(document, EXAMPLES_SIGNATURE, [EXAMPLES_SIGNATURE])
    return parse_examples(document, service.limits.max_rows)


async def _regress(body: bytes) -> Any:
    raise RequestError(400, "This model is a classifier. Use :classify or :predict")


async def _grad_cam(service: Service, class_name: str, body: bytes) -> Any:
    answer = await service.explain(body, class_name)
    return {
        "class_name": answer.class_name,
        "overlay": _data_address(answer.overlay),
    }


def _status(service: Service) -> dict[str, Any]:
    """Return the status in the form of TensorFlow Serving."""
    state = {"error_code": "OK", "error_message": ""}
    version = {"version": str(service.model.version), "state": "AVAILABLE", "status": state}
    return {"model_version_status": [version]}


def _metadata(service: Service) -> dict[str, Any]:
    """Return the signatures in the form of TensorFlow Serving."""
    version = str(service.model.version)
    spec = {"name": service.name, "signature_name": "", "version": version}
    signatures = {"signature_def": service.model.metadata}
    return {"model_spec": spec, "metadata": {"signature_def": signatures}}


# --- answers ------------------------------------------------------------------------------------


def _json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    try:
        return JSONResponse(content, status, headers)
    except ValueError:
        raise RequestError(500, "The model's answer contains NaN or Infinity", "error") from None


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
