"""One served model: it limits the requests, computes them and counts them."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple, TypeVar

from keras_effnetv2.export.signatures import BYTES_SIGNATURE
from keras_effnetv2.serve.batching import Batcher
from keras_effnetv2.serve.body import Take
from keras_effnetv2.serve.errors import RequestError
from keras_effnetv2.serve.limits import ServerLimits
from keras_effnetv2.serve.loaded_model import Columns, ServedModel
from keras_effnetv2.serve.metrics import Metrics
from keras_effnetv2.serve.overlay import Explain, Overlay

_log = logging.getLogger(__name__)

_Answer = TypeVar("_Answer")


class VersionState(NamedTuple):
    """What became of a version, in TensorFlow Serving's words."""

    state: str  # "LOADING", "AVAILABLE", or "END" if it failed to load or is no longer served
    error: str = ""  # why it failed to load


class Service:
    """Answers requests for one model, in one event loop; a thread may give it other versions."""

    def __init__(self, name: str, limits: ServerLimits) -> None:
        self.name = name
        self.limits = limits
        self.active = 0
        self.models: Mapping[int, ServedModel] = {}  # by version, of those that are served now
        self.states: Mapping[int, VersionState] = {}  # by version, of all that there were
        self._grad_cam: Explain | None = None
        self._body_bytes = 0
        # Several threads would take turns, and all need memory.
        self._json = ThreadPoolExecutor(1, "json")
        self._batcher = Batcher(max_batch=limits.max_batch, max_delay=limits.max_delay)
        self.metrics = Metrics(
            lambda: self.active, lambda: self._batcher.waiting, name, lambda: self.model.version
        )

    def switch_to(self, models: Mapping[int, ServedModel], grad_cam: Explain | None) -> None:
        """Answer with these versions; requests that have begun stay with theirs.

        `grad_cam`, a result of `overlay_function`, is for the newest of them; None without a Keras
        model.
        """
        self.models, self._grad_cam = models, grad_cam
        is_served = VersionState("AVAILABLE")
        others = {
            version: VersionState("END") if state == is_served else state
            for version, state in self.states.items()
        }
        self.states = {**others, **dict.fromkeys(models, is_served)}

    @property
    def model(self) -> ServedModel:
        """The newest version that is served."""
        models = self.models
        return models[max(models)]

    @property
    def versions(self) -> str:
        """The versions that are served, in words, the newest first."""
        numbers = sorted(self.models, reverse=True)
        return f"version{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))}"

    def set_state(self, version: int, state: VersionState) -> None:
        """Record what became of a version."""
        self.states = {**self.states, version: state}

    @property
    def has_grad_cam(self) -> bool:
        """Whether there is a Keras model for heat maps."""
        return self._grad_cam is not None

    async def answer(
        self,
        method: str,
        receive: Callable[[Take], Awaitable[bytes]],
        handle: Callable[[bytes], Awaitable[_Answer]],
    ) -> _Answer:
        """Receive a request within the limits, handle it, and count it.

        Args:
            method: the method of the request, for the metrics.
            receive: returns the body; its argument takes memory for it.
            handle: answers a body.

        Raises:
            RequestError: something went wrong.
        """
        start = time.perf_counter()
        outcome = "ok"
        try:
            async with asyncio.timeout(self.limits.timeout):
                with self._memory() as take:
                    body = await self._receive(receive, take)
                    with self._place():
                        return await handle(body)
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
            self.metrics.add_request(method, outcome, time.perf_counter() - start)

    async def _receive(self, receive: Callable[[Take], Awaitable[bytes]], take: Take) -> bytes:
        try:
            async with asyncio.timeout(self.limits.receive_timeout):
                return await receive(take)
        except TimeoutError:
            text = f"The request did not arrive within {self.limits.receive_timeout:g} seconds"
            raise RequestError(408, text, "timeout") from None

    @contextmanager
    def _memory(self) -> Iterator[Take]:
        """Yield a function that takes memory for one body; free the memory at the end."""
        taken = 0

        def take(size: int) -> RequestError | None:
            nonlocal taken
            if self._body_bytes + size > self.limits.max_requests * self.limits.max_body_bytes:
                return self._busy()
            taken += size
            self._body_bytes += size
            return None

        try:
            yield take
        finally:
            self._body_bytes -= taken

    @contextmanager
    def _place(self) -> Iterator[None]:
        """Count as one of the requests that are answered at the same time."""
        if self.active >= self.limits.max_requests:
            raise self._busy()
        self.active += 1
        try:
            yield
        finally:
            self.active -= 1

    def _busy(self) -> RequestError:
        text = f"The server is busy with {self.limits.max_requests} requests. Try again later"
        return RequestError(503, text, "busy")

    @property
    def is_stuck(self) -> bool:
        """Whether a call of the model takes longer than any request may."""
        return self._batcher.seconds_in_call > self.limits.timeout

    @property
    def is_computing(self) -> bool:
        """Whether the model computes, even if it is for a client that has gone."""
        return self._batcher.seconds_in_call > 0

    async def convert(self, function: Callable[..., _Answer], *arguments: object) -> _Answer:
        """Call a function that reads or makes JSON, in a thread, so that other requests go on."""
        return await asyncio.get_running_loop().run_in_executor(self._json, function, *arguments)

    async def predict(self, model: ServedModel, signature: str, columns: Columns) -> Columns:
        """Return the results of a version's signature for some rows; count picture files."""
        answer = await self._batcher.compute(model.functions[signature], columns)
        if signature == BYTES_SIGNATURE:
            refused = sum(error != b"" for error in answer["error"])
            self.metrics.add_pictures(len(answer["error"]) - refused, refused)
        return answer

    async def explain(self, file: bytes, class_name: str) -> Overlay:
        """Return the heat map of a picture file for a class, "" for the best."""
        if self._grad_cam is None:
            raise RequestError(
                404, "Grad-CAM needs the Keras model of a run, but this server has only an export"
            )
        return await self._batcher.run(self._grad_cam, file, class_name)

    def servable(self, name: str, version: str | None, label: str | None) -> ServedModel:
        """Return the version to answer with; None is the newest.

        Raises:
            RequestError: it is not served.
        """
        models = self.models
        number = self._numbered(name, version, label)
        if number is not None and number not in models:
            raise self._not_here(name, version)
        return models[max(models) if number is None else number]

    def known_states(
        self, name: str, version: str | None, label: str | None
    ) -> Mapping[int, VersionState]:
        """Return what became of a version, or with None of each one, the newest first.

        Raises:
            RequestError: there never was such a version.
        """
        number, states = self._numbered(name, version, label), self.states
        if number is None:
            return dict(sorted(states.items(), reverse=True))
        if number not in states:
            raise self._not_here(name, version)
        return {number: states[number]}

    def _numbered(self, name: str, version: str | None, label: str | None) -> int | None:
        if name != self.name:
            raise self._not_here(name, version)
        if label is not None:
            raise RequestError(
                400,
                f"Unrecognized servable version label: {label[:60]!r}. This server has no labels. "
                f"Use /versions/{self.model.version}, or neither for the newest version",
            )
        return None if version is None else int(version)

    def _not_here(self, name: str, version: str | None) -> RequestError:
        asked = repr(name[:60]) + ("" if version is None else f", version {version}")
        text = f"This server has {self.name!r}, {self.versions}. Received: {asked}"
        return RequestError(404, f"There is no such model or version. {text}")
