"""The web application: paths, limits and answers.

`/v1/models/...` is TensorFlow Serving's REST interface
(https://www.tensorflow.org/tfx/serving/api_rest), so a client moves to a `tensorflow_model_server`
by changing the address. Beside it are the page (`/`), `/grad_cam` for the page, `/metrics` and
`/healthz`.
"""

import asyncio
import base64
import json
import logging
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from fastapi import FastAPI, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from keras_effnetv2.export_signatures import (
    BYTES_SIGNATURE,
    CLASSIFY_METHOD,
    EXAMPLE_FEATURE,
    EXAMPLES_SIGNATURE,
    PIXELS_SIGNATURE,
)
from keras_effnetv2.serve.batching import Batcher, Function
from keras_effnetv2.serve.body import drop_body, read_body
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.metrics import CONTENT_TYPE, Metrics
from keras_effnetv2.serve.page import PAGE_HEADERS, page
from keras_effnetv2.serve.rest_json import (
    classify_json,
    parse_body,
    parse_examples,
    parse_predict,
    predict_json,
    signature_name,
)
from keras_effnetv2.serve.saved_model import Columns, ServedModel

# Both as TensorFlow Serving's http_rest_api_handler.cc has them.
_MODEL = "/v1/models/([^/:]+)(?:/versions/([0-9]{1,18}))?"
_PREDICTION = re.compile(f"{_MODEL}:(predict|classify|regress)", re.IGNORECASE)
_DESCRIPTION = re.compile(f"{_MODEL}(/metadata)?", re.IGNORECASE)

_GRAD_CAM = "grad_cam"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What one server takes on.

    Attributes:
        max_body_bytes: of a request.
        max_requests: answered at the same time, counting those that are still being received; more
            are sent away with 503. Memory for bodies is at most the product of the two.
        timeout: seconds for receiving and answering a request.
        max_batch: pictures that are computed at once.
        max_delay: seconds that a request waits for others, to be computed together with them.
    """

    max_body_bytes: int = 32 * 2**20
    max_requests: int = 32
    timeout: float = 60.0
    max_batch: int = 16
    max_delay: float = 0.002

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value > 0 and name != "max_delay":
                raise ValueError(f"{name} must be more than 0. Received: {value!r}")
        if not self.max_delay >= 0:
            raise ValueError(f"max_delay must be 0 or more. Received: {self.max_delay!r}")


class _Service:
    """Answers requests for one model."""

    def __init__(
        self, model: ServedModel, name: str, limits: Limits, grad_cam: Function | None
    ) -> None:
        self.model = model
        self.name = name
        self.limits = limits
        self.has_grad_cam = grad_cam is not None
        self.metrics = Metrics()
        self.active = 0
        functions = {name: partial(model.run, name) for name in model.signatures}
        extra = {} if grad_cam is None else {_GRAD_CAM: grad_cam}
        self.batcher = Batcher(
            {**functions, **extra}, max_batch=limits.max_batch, max_delay=limits.max_delay
        )

    async def compute(self, function: str, columns: Columns) -> Columns:
        """Return what a function gives for some rows; leaves the queue if it is cancelled."""
        return await asyncio.wrap_future(self.batcher.submit(function, columns))

    async def classify_files(self, columns: Columns) -> Columns:
        """Return what the signature `classify_bytes` gives, and count its pictures."""
        answer = await self.compute(BYTES_SIGNATURE, columns)
        refused = sum(error != b"" for error in answer["error"])
        self.metrics.add_pictures(len(answer["error"]) - refused, refused)
        return answer

    async def predict(self, body: bytes) -> Any:
        """Answer `:predict`."""
        # In threads, because millions of numbers take a while and other requests go on meanwhile.
        signature, asked = await asyncio.to_thread(self._parse_predict, body)
        is_files = signature == BYTES_SIGNATURE
        compute = self.classify_files if is_files else partial(self.compute, signature)
        answer = await compute(asked.columns)
        return await asyncio.to_thread(predict_json, answer, asked.is_row_format)

    def _parse_predict(self, body: bytes) -> tuple[str, Any]:
        document = parse_body(body)
        signature = signature_name(document, PIXELS_SIGNATURE, self.model.signatures)
        return signature, parse_predict(document, self.model.inputs(signature))

    async def classify(self, body: bytes) -> Any:
        """Answer `:classify`."""
        examples = await asyncio.to_thread(self._parse_classify, body)
        if EXAMPLES_SIGNATURE in self.model.signatures:
            rows = _strings([example.SerializeToString() for example in examples])
            return classify_json(await self.compute(EXAMPLES_SIGNATURE, {"inputs": rows}))
        # An export of an earlier release has no signature for examples.
        files = [example.features.feature[EXAMPLE_FEATURE].bytes_list.value for example in examples]
        rows = _strings([file[0] if len(file) == 1 else b"" for file in files])
        return classify_json(await self.classify_files({"image_bytes": rows}))

    def _parse_classify(self, body: bytes) -> list[Any]:
        document = parse_body(body)
        known = {*self.model.signatures, EXAMPLES_SIGNATURE}
        signature = signature_name(document, EXAMPLES_SIGNATURE, known)
        if signature != EXAMPLES_SIGNATURE:
            raise RequestError(
                400,
                f"Expected classification signature method_name to be {CLASSIFY_METHOD}. "
                f'Received: the signature "{signature}". Ask with "{EXAMPLES_SIGNATURE}", or with '
                ":predict",
            )
        return parse_examples(document)

    async def regress(self, body: bytes) -> Any:
        """Answer `:regress`."""
        raise RequestError(400, "This model classifies. Ask with :classify or :predict")

    async def grad_cam(self, class_name: str, body: bytes) -> Any:
        """Answer `/grad_cam`: the body is a picture file."""
        if not self.has_grad_cam:
            raise RequestError(404, "There is no Keras model here, which Grad-CAM needs")
        name = class_name.encode("utf-8", "replace")
        columns = {"image_bytes": _strings([body]), "class_name": _strings([name])}
        answer = {name: rows[0] for name, rows in (await self.compute(_GRAD_CAM, columns)).items()}
        if answer["error"]:
            raise RequestError(400, answer["error"].decode("utf-8", "replace"))
        return {
            "class_name": answer["class_name"].decode("utf-8"),
            "picture": _data_address(answer["picture"]),
            "overlay": _data_address(answer["overlay"]),
        }

    def check_servable(self, name: str, version: str | None) -> None:
        """Raise RequestError, 404, unless this is what is served."""
        if name == self.name and (version is None or int(version) == self.model.version):
            return
        wanted = f"Latest({name})" if version is None else f"Specific({name}, {version})"
        raise RequestError(
            404,
            f"Servable not found for request: {wanted}. "
            f"Served is: {self.name}, version {self.model.version}",
        )

    def status(self) -> dict[str, Any]:
        """Return the status as TensorFlow Serving gives it."""
        state = {"error_code": "OK", "error_message": ""}
        version = {"version": str(self.model.version), "state": "AVAILABLE", "status": state}
        return {"model_version_status": [version]}

    def metadata(self) -> dict[str, Any]:
        """Return the signatures as TensorFlow Serving gives them."""
        version = str(self.model.version)
        spec = {"name": self.name, "signature_name": "", "version": version}
        signatures = {"signature_def": self.model.metadata}
        return {"model_spec": spec, "metadata": {"signature_def": signatures}}

    async def answer(
        self, request: Request, method: str, handle: Callable[[bytes], Awaitable[Any]]
    ) -> Response:
        """Read a request within the limits, answer it, and count it."""
        start = time.perf_counter()
        is_taken = self.active < self.limits.max_requests
        self.active += is_taken
        try:
            async with asyncio.timeout(self.limits.timeout):
                body = await self._read(request, is_taken)
                response, outcome = _json_response(await handle(body)), "ok"
        except RequestError as error:
            response, outcome = _error_response(error.status, error.message), error.outcome
        except TimeoutError:
            text = f"No answer within {self.limits.timeout:g} seconds"
            response, outcome = _error_response(504, text), "timeout"
        except ClientDisconnect:
            response, outcome = _error_response(400, "The client has gone"), "disconnected"
        except Exception:
            _log.exception("A request failed")
            text = "Internal error; see the server's log"
            response, outcome = _error_response(500, text), "error"
        finally:
            self.active -= is_taken
        self.metrics.add_request(method, outcome, time.perf_counter() - start)
        return response

    async def _read(self, request: Request, is_taken: bool) -> bytes:
        if is_taken:
            return await read_body(request, self.limits.max_body_bytes)
        await drop_body(request, self.limits.max_body_bytes)
        text = f"The server is busy with {self.limits.max_requests} requests. Try again later"
        raise RequestError(503, text, "busy")


def make_app(
    model: ServedModel, name: str, limits: Limits, grad_cam: Function | None = None
) -> FastAPI:
    """Return the application; it computes from when it starts up until it shuts down.

    Args:
        model: what is served.
        name: of the model, in the paths.
        limits: what it takes on.
        grad_cam: what `overlay_function` returned; None where there is no Keras model.
    """
    service = _Service(model, name, limits, grad_cam)

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await asyncio.to_thread(service.batcher.close)

    # The documentation pages of FastAPI would load scripts from the network.
    app = FastAPI(lifespan=lifespan, docs_url=None, redoc_url=None, openapi_url=None)
    methods: Mapping[str, Callable[[bytes], Awaitable[Any]]] = {
        "predict": service.predict,
        "classify": service.classify,
        "regress": service.regress,
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
            service.check_servable(found[1], found[2])
            return await methods[found[3].lower()](body)

        return await service.answer(request, found[3].lower(), handle)

    @app.get("/v1/{rest:path}")
    async def describe(request: Request) -> Response:
        found = _DESCRIPTION.fullmatch(request.scope["path"])
        if found is None:
            return _malformed(request)
        try:
            service.check_servable(found[1], found[2])
        except RequestError as error:
            return _error_response(error.status, error.message)
        return _json_response(service.metadata() if found[3] else service.status())

    @app.post("/grad_cam")
    async def explain(request: Request, class_name: str = "") -> Response:
        return await service.answer(request, _GRAD_CAM, partial(service.grad_cam, class_name))

    @app.get("/metrics")
    async def metrics() -> Response:
        gauges = {"requests_active": service.active, "jobs_waiting": service.batcher.waiting}
        return Response(service.metrics.text(gauges), media_type=CONTENT_TYPE)

    @app.get("/healthz")
    async def healthz() -> Response:
        if service.batcher.is_alive:
            return _json_response({"status": "ok"})
        return _error_response(503, "The model does not answer")

    html = page(name, model.version, has_grad_cam=service.has_grad_cam)

    @app.get("/")
    async def show_page() -> Response:
        return Response(html, headers=PAGE_HEADERS, media_type="text/html; charset=utf-8")

    return app


def _json_response(content: Any) -> Response:
    try:
        text = json.dumps(content, ensure_ascii=False, allow_nan=False)
    except ValueError:
        raise RequestError(500, "The model's answer has NaN or Infinity in it", "error") from None
    return Response(text.encode("utf-8"), media_type="application/json")


def _error_response(status: int, message: str) -> Response:
    text = json.dumps({"error": message})
    headers = {"Retry-After": "1"} if status == 503 else None
    return Response(text, status, headers, media_type="application/json")


def _malformed(request: Request) -> Response:
    return _error_response(400, f"Malformed request: {request.method} {request.scope['path']}")


def _strings(values: list[bytes]) -> np.ndarray[Any, np.dtype[np.object_]]:
    return np.array(values, dtype=object)


def _data_address(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode('ascii')}"
