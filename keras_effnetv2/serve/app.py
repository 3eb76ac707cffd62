"""The web application: paths and answers.

`/v1/models/...` is TensorFlow Serving's REST interface
(https://www.tensorflow.org/tfx/serving/api_rest), so a client only changes the address to use a
`tensorflow_model_server`. `openapi.py` describes these paths and the others.
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

from keras_effnetv2.export.signatures import (
    BYTES_SIGNATURE,
    EXAMPLES_SIGNATURE,
    PIXELS_SIGNATURE,
)
from keras_effnetv2.serve.access_log import AccessLog
from keras_effnetv2.serve.bearer_token import has_token
from keras_effnetv2.serve.body import read_body
from keras_effnetv2.serve.errors import RequestError, client_left
from keras_effnetv2.serve.loaded_model import Columns, ServedModel, file_columns
from keras_effnetv2.serve.openapi import openapi
from keras_effnetv2.serve.origin import is_foreign
from keras_effnetv2.serve.page import PAGE_HEADERS, page, paths_page
from keras_effnetv2.serve.rest_json import (
    classify_json,
    parse_body,
    parse_examples,
    parse_predict,
    predict_json,
    signature_name,
)
from keras_effnetv2.serve.service import Service, VersionState
from keras_effnetv2.serve.upload import is_upload, uploaded_files

# Both as TensorFlow Serving's http_rest_api_util.cc has them.
_MODEL = "/v1/models/([^/:]+)(?:/versions/([0-9]{1,18})|/labels/([^/:]+))?"
_PREDICTION = re.compile(f"{_MODEL}:(predict|classify|regress)", re.IGNORECASE)
_DESCRIPTION = re.compile(f"{_MODEL}(/metadata)?", re.IGNORECASE)


def make_app(
    service: Service,
    allowed_hosts: Sequence[str] = ("*",),
    own_names: Sequence[str] = (),
    token: str | None = None,
) -> FastAPI:
    """Return the application of a service.

    Args:
        service: answers the requests.
        allowed_hosts: host names to answer for, see `server.allowed_hosts`; "*" is all.
        own_names: further host names whose pages may send requests, see `origin.is_foreign`.
        token: what clients must send for all paths but `/healthz`; None: nothing.
    """

    async def check_sender(request: Request) -> None:
        if is_foreign(request.method, request.headers, own_names):
            raise RequestError(
                403,
                "A page of another site sent this request, and only pages of this server may. If "
                "the server has another name, start it with --allow-host NAME",
            )
        sent = request.headers.get("authorization", "")
        if token is not None and request.scope["path"] != "/healthz" and not has_token(sent, token):
            raise RequestError(401, "Send this server's token: Authorization: Bearer TOKEN")

    # The documentation pages of FastAPI would load scripts from the network.
    app = FastAPI(
        docs_url=None, redoc_url=None, openapi_url=None, dependencies=[Depends(check_sender)]
    )
    app.add_middleware(TrustedHostMiddleware, allowed_hosts, www_redirect=False)
    app.add_middleware(AccessLog)

    @app.exception_handler(HTTPException)
    async def no_such_path(request: Request, error: HTTPException) -> Response:
        return _json_response({"error": f"{error.detail}. See /docs"}, error.status_code)

    @app.exception_handler(RequestError)
    async def refused(request: Request, error: RequestError) -> Response:
        # A client that was too slow may still be sending what nobody reads.
        headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(error.status)
        response = _json_response({"error": error.message}, error.status, headers)
        if error.status == 401:
            for scheme in ("Bearer", 'Basic realm="The password is the token"'):  # browsers ask
                response.headers.append("WWW-Authenticate", scheme)
        return response

    _add_models(app, service)
    _add_pages(app, service, needs_token=token is not None)
    return app


def _add_models(app: FastAPI, service: Service) -> None:
    """Add what answers with the model."""
    methods: Mapping[str, Callable[[Service, ServedModel, Request, bytes], Awaitable[Any]]] = {
        "predict": _predict,
        "classify": _classify,
        "regress": _regress,
    }

    @app.post("/v1/{rest:path}")
    async def ask(request: Request) -> Response:
        found = _PREDICTION.fullmatch(request.scope["path"])
        method = "unknown" if found is None else found[4].lower()

        async def handle(body: bytes) -> Any:
            model = service.servable(*_matched(request, found).groups()[:3])
            return await methods[method](service, model, request, body)

        return await _answer(service, request, method, handle)

    @app.get("/v1/models")
    async def models() -> Response:
        return _json_response({"models": [service.name]})  # as KServe's first protocol has it

    @app.get("/v1/{rest:path}")
    async def describe(request: Request) -> Response:
        found = _matched(request, _DESCRIPTION.fullmatch(request.scope["path"]))
        address = found.groups()[:3]
        if found[4]:
            return _json_response(_metadata(service.name, service.servable(*address)))
        return _json_response(_status(service.known_states(*address)))

    @app.post("/grad_cam")
    async def explain(request: Request, class_name: str = "") -> Response:
        handle = partial(_grad_cam, service, request, class_name)
        return await _answer(service, request, "grad_cam", handle)


def _add_pages(app: FastAPI, service: Service, *, needs_token: bool) -> None:
    """Add what tells about the server, to people and programs."""

    @app.get("/metrics")
    @app.get("/monitoring/prometheus/metrics")  # TensorFlow Serving's path
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    @app.head("/healthz")  # as load balancers ask
    @app.get("/healthz")
    async def healthz() -> Response:
        if service.is_stuck:
            text = f"The model has been busy for more than {service.limits.timeout:g} seconds"
            raise RequestError(503, text)
        return _json_response({"status": "ok"})

    @app.get("/openapi.json")
    async def describe_paths() -> Response:
        return _json_response(openapi(service, needs_token=needs_token))

    @app.get("/docs")
    async def explain_paths(request: Request) -> Response:
        document = openapi(service, needs_token=needs_token)
        return _page_response(paths_page(document, str(request.base_url).rstrip("/")))

    @app.get("/")
    async def show_page() -> Response:
        version = service.model.version
        return _page_response(page(service.name, version, has_grad_cam=service.has_grad_cam))


async def _answer(
    service: Service, request: Request, method: str, handle: Callable[[bytes], Awaitable[Any]]
) -> Response:
    async def respond(body: bytes) -> Response:
        answering = asyncio.ensure_future(handle(body))
        leaving = asyncio.ensure_future(request.receive())  # all that can follow a body
        try:
            await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
            if not answering.done():
                raise client_left()
            return _json_response(answering.result())
        finally:
            answering.cancel()
            leaving.cancel()

    receive = partial(read_body, request, service.limits.max_body_bytes)
    return await service.answer(method, receive, respond)


def _matched(request: Request, found: re.Match[str] | None) -> re.Match[str]:
    """Return the match of a path; raise RequestError if there is none."""
    if found is None:
        raise RequestError(400, f"Malformed request: {request.method} {request.scope['path']}")
    return found


# --- methods ------------------------------------------------------------------------------------


async def _predict(service: Service, model: ServedModel, request: Request, body: bytes) -> Any:
    parse = partial(_parse_predict, model, service.limits.max_rows)
    signature, columns, is_by_row = await service.convert(parse, _content_type(request), body)
    answer = await service.predict(model, signature, columns)
    _refuse_alone(request, answer)
    as_json = partial(predict_json, naming=is_upload(_content_type(request)))
    return await service.convert(as_json, answer, is_by_row)


def _parse_predict(
    model: ServedModel, max_rows: int, content_type: str, body: bytes
) -> tuple[str, Columns, bool]:
    if (files := uploaded_files(content_type, body, max_rows)) is not None:
        return BYTES_SIGNATURE, file_columns(files), True
    document = parse_body(body)
    signature = signature_name(document, PIXELS_SIGNATURE, model.signatures)
    return signature, *parse_predict(document, model.inputs(signature), max_rows)


async def _classify(service: Service, model: ServedModel, request: Request, body: bytes) -> Any:
    parse = partial(_parse_classify, service.limits.max_rows)
    files = await service.convert(parse, _content_type(request), body)
    answer = await service.predict(model, BYTES_SIGNATURE, file_columns(files))
    _refuse_alone(request, answer)
    if not is_upload(_content_type(request)):  # TensorFlow Serving's answer has all classes
        answer = {name: answer[name] for name in ("classes", "scores")}
    return classify_json(answer)


def _refuse_alone(request: Request, answer: Columns) -> None:
    """Raise RequestError if a single picture was sent as a file, and cannot be read."""
    errors = list(answer.get("error", []))
    if is_upload(_content_type(request)) and len(errors) == 1 and errors[0]:
        raise RequestError(400, f"The picture cannot be read: {errors[0].decode()}")


def _parse_classify(max_rows: int, content_type: str, body: bytes) -> list[bytes]:
    if (files := uploaded_files(content_type, body, max_rows)) is not None:
        return files
    document = parse_body(body)
    signature_name(document, EXAMPLES_SIGNATURE, [EXAMPLES_SIGNATURE])
    return parse_examples(document, max_rows)


async def _regress(service: Service, model: ServedModel, request: Request, body: bytes) -> Any:
    raise RequestError(400, "This model is a classifier. Use :classify or :predict")


async def _grad_cam(service: Service, request: Request, class_name: str, body: bytes) -> Any:
    parse = partial(uploaded_files, max_files=service.limits.max_rows)
    files = await service.convert(parse, _content_type(request), body) or [body]
    if len(files) != 1:
        raise RequestError(400, f"Send one picture at a time. Received: {len(files)}")
    answer = await service.explain(files[0], class_name)
    overlay = base64.b64encode(answer.overlay).decode("ascii")
    return {"class_name": answer.class_name, "overlay": f"data:image/png;base64,{overlay}"}


def _content_type(request: Request) -> str:
    return request.headers.get("content-type", "")


def _status(states: Mapping[int, VersionState]) -> dict[str, Any]:
    """Return what became of versions in the form of TensorFlow Serving."""
    return {
        "model_version_status": [
            {
                "version": str(version),
                "state": state.state,
                "status": {
                    "error_code": "UNKNOWN" if state.error else "OK",
                    "error_message": state.error,
                },
            }
            for version, state in states.items()
        ]
    }


def _metadata(name: str, model: ServedModel) -> dict[str, Any]:
    """Return the signatures in the form of TensorFlow Serving."""
    spec = {"name": name, "signature_name": "", "version": str(model.version)}
    signatures = {"signature_def": model.metadata}
    return {"model_spec": spec, "metadata": {"signature_def": signatures}}


# --- answers ------------------------------------------------------------------------------------


def _json_response(
    content: Any, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    try:
        return JSONResponse(content, status, headers)
    except ValueError:
        raise RequestError(500, "The model's answer contains NaN or Infinity", "error") from None


def _page_response(html: str) -> Response:
    return Response(html, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")
