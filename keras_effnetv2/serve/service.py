"""One served model: what its requests may take, who computes them, and what is counted.

It knows nothing of HTTP.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf

from keras_effnetv2.export.signatures import (
    BYTES_SIGNATURE,
    EXAMPLE_FEATURE,
    EXAMPLES_SIGNATURE,
)
from keras_effnetv2.serve.batching import Batcher, Function
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.limits import ServerLimits
from keras_effnetv2.serve.loaded_model import Columns, ServedModel
from keras_effnetv2.serve.metrics import Metrics

_GRAD_CAM = "grad_cam"

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class Service:
    """Answers requests for one model; used in one thread, that of the event loop.

    Args:
        model: what is served.
        name: of the model, by which clients ask.
        limits: what it takes on.
        grad_cam: what `overlay_function` returned; None where there is no Keras model.
    """

    def __init__(
        self, model: ServedModel, name: str, limits: ServerLimits, grad_cam: Function | None = None
    ) -> None:
        self.model = model
        self.name = name
        self.limits = limits
        self.has_grad_cam = grad_cam is not None
        self.active = 0
        functions = {name: partial(model.run, name) for name in model.signatures}
        extra = {} if grad_cam is None else {_GRAD_CAM: grad_cam}
        self._batcher = Batcher(
            {**functions, **extra}, max_batch=limits.max_batch, max_delay=limits.max_delay
        )
        self.metrics = Metrics(lambda: self.active, lambda: self._batcher.waiting)

    @contextmanager
    def computing(self) -> Iterator[None]:
        """Compute while this context lasts; at its end what was asked is still answered."""
        self._batcher.start()
        try:
            yield
        finally:
            self._batcher.close()

    @property
    def is_computing(self) -> bool:
        """Whether requests are computed."""
        return self._batcher.is_alive

    async def answer(
        self,
        method: str,
        receive: Callable[[bool], Awaitable[bytes]],
        handle: Callable[[bytes], Awaitable[_Answer]],
    ) -> _Answer:
        """Receive a request within the limits, handle it, and count it.

        Args:
            method: what is asked, for the metrics.
            receive: returns the body. It is told whether the request is taken on; if not, the
                client need only come to see the refusal.
            handle: answers a body.

        Raises:
            RequestError: whatever went wrong.
        """
        start = time.perf_counter()
        is_taken = self.active < self.limits.max_requests
        self.active += is_taken
        outcome = "ok"
        try:
            async with asyncio.timeout(self.limits.timeout):
                return await handle(await self._receive(receive, is_taken))
        except RequestError as error:
            outcome = error.outcome
            raise
        except TimeoutError:
            outcome = "timeout"
            text = f"No answer within {self.limits.timeout:g} seconds"
            raise RequestError(504, text, outcome) from None
        except Exception:
            outcome = "error"
            _log.exception("A request failed")
            raise RequestError(500, "Internal error; see the server's log", outcome) from None
        finally:
            self.active -= is_taken
            self.metrics.add_request(method, outcome, time.perf_counter() - start)

    async def _receive(self, receive: Callable[[bool], Awaitable[bytes]], is_taken: bool) -> bytes:
        try:
            async with asyncio.timeout(self.limits.receive_timeout):
                body = await receive(is_taken)
        except TimeoutError:
            text = f"The request was not here within {self.limits.receive_timeout:g} seconds"
            raise RequestError(408, text, "timeout") from None
        if is_taken:
            return body
        text = f"The server is busy with {self.limits.max_requests} requests. Try again later"
        raise RequestError(503, text, "busy")

    async def predict(self, signature: str, columns: Columns) -> Columns:
        """Return what a signature gives for some rows; picture files are counted.

        Args:
            signature: its name.
            columns: arrays of the same number of rows, one for each input.
        """
        answer = await self._compute(signature, columns)
        if signature == BYTES_SIGNATURE:
            refused = sum(error != b"" for error in answer["error"])
            self.metrics.add_pictures(len(answer["error"]) - refused, refused)
        return answer

    async def classify(self, examples: Sequence[bytes]) -> Columns:
        """Return `classes` string (N, k) and `scores` (N, k) of serialised `tf.train.Example`s."""
        if EXAMPLES_SIGNATURE in self.model.signatures:
            return await self.predict(EXAMPLES_SIGNATURE, {"inputs": _strings(examples)})
        # An export of an earlier release has no signature for examples.
        files = [_file(tf.train.Example.FromString(example)) for example in examples]
        return await self.predict(BYTES_SIGNATURE, {"image_bytes": _strings(files)})

    async def explain(self, file: bytes, class_name: bytes) -> Mapping[str, bytes]:
        """Return what `overlay_function` gives for one file.

        Args:
            file: the picture.
            class_name: the class to explain; empty for the best.

        Raises:
            RequestError: there is no Grad-CAM, or none of this file.
        """
        if not self.has_grad_cam:
            raise RequestError(404, "There is no Keras model here, which Grad-CAM needs")
        columns = {"image_bytes": _strings([file]), "class_name": _strings([class_name])}
        answer = {name: rows[0] for name, rows in (await self._compute(_GRAD_CAM, columns)).items()}
        if answer["error"]:
            raise RequestError(400, answer["error"].decode("utf-8", "replace"))
        return answer

    async def _compute(self, function: str, columns: Columns) -> Columns:
        """Return what a function gives for some rows; leaves the queue if it is cancelled."""
        return await asyncio.wrap_future(self._batcher.submit(function, columns))

    def check_servable(self, name: str, version: str | None) -> None:
        """Raise RequestError, 404, unless this is what is served.

        Args:
            name: of the model.
            version: of the model, in digits; None for the newest.
        """
        if name != self.name or (version is not None and int(version) != self.model.version):
            raise RequestError(
                404,
                f"There is no model {name[:60]!r} here, or not in this version. This server has: "
                f"{self.name}, version {self.model.version}",
            )


def _file(example: Any) -> bytes:
    """Return the picture file in a `tf.train.Example`; empty where there is not one."""
    files: Sequence[bytes] = example.features.feature[EXAMPLE_FEATURE].bytes_list.value
    return files[0] if len(files) == 1 else b""


def _strings(values: Sequence[bytes]) -> np.ndarray[Any, np.dtype[np.object_]]:
    return np.array(values, dtype=object)
