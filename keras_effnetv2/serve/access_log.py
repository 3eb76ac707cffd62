"""The log of the server: a line for each request, and messages, as text or as JSON."""

import json
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from typing import Literal

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from keras_effnetv2._common.text import say

LogForm = Literal["text", "json", "off"]

_log = logging.getLogger(__name__)
_messages = logging.getLogger(__name__.rpartition(".")[0])


class AccessLog:
    """ASGI middleware that logs each request as INFO when it has been answered."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and log address, method, path, status, milliseconds and bytes."""
        if scope["type"] != "http" or not _log.isEnabledFor(logging.INFO):
            await self._app(scope, receive, send)
            return
        start = time.perf_counter()
        status, size = 500, 0  # of an answer that the application fails to give

        async def count(message: Message) -> None:
            nonlocal status, size
            status = message.get("status", status)
            size += len(message.get("body", b""))
            await send(message)

        try:
            await self._app(scope, receive, count)
        finally:
            request = {
                "address": (scope.get("client") or ("-",))[0],
                "method": scope["method"],
                "path": scope["raw_path"].decode("latin-1"),  # as it was sent, so without spaces
                "status": status,
                "milliseconds": round(1000 * (time.perf_counter() - start), 1),
                "bytes": size,
            }
            text = "%(address)s %(method)s %(path)s %(status)d %(milliseconds)s ms %(bytes)d bytes"
            _log.info(text, request, extra={"request": request})


class _Lines(logging.Handler):
    """Prints records to stdout, or with `is_error` to stderr."""

    def __init__(self, form: LogForm, *, is_error: bool) -> None:
        super().__init__()
        self._form = form
        self._is_error = is_error

    def format(self, record: logging.LogRecord) -> str:
        """Return a record as lines of text, or as an object of JSON."""
        moment = (
            datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        )
        text, request = super().format(record), getattr(record, "request", None)
        if self._form == "json":
            fields = request or {"level": record.levelname, "message": text}
            return json.dumps({"time": moment, **fields})
        return f"{moment} {text if request else f'{record.levelname} {text}'}"

    def emit(self, record: logging.LogRecord) -> None:
        try:
            say(self.format(record), error=self._is_error)
        except Exception:  # so a handler does it: a request must not fail because of its log
            self.handleError(record)


@contextmanager
def logged(form: LogForm) -> Iterator[None]:
    """Print requests to stdout ("off": do not), and all other messages to stderr, meanwhile."""
    requests, messages = (_Lines(form, is_error=is_error) for is_error in (False, True))
    root = logging.getLogger()
    levels = _log.level, _messages.level
    _log.addHandler(requests)
    _log.propagate = False
    _log.setLevel(logging.WARNING if form == "off" else logging.INFO)
    _messages.setLevel(logging.INFO)
    root.addHandler(messages)
    try:
        yield
    finally:
        root.removeHandler(messages)
        _log.removeHandler(requests)
        _log.propagate = True
        for logger, level in zip((_log, _messages), levels, strict=True):
            logger.setLevel(level)
