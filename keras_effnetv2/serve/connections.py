"""HTTP connections that cannot be kept open by sending slowly."""

import asyncio
from typing import Any

from uvicorn import Config
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState


def bounded_protocol(seconds: float) -> type[H11Protocol]:
    """Return uvicorn's protocol for HTTP/1.1 with a limit on the time until a request is there.

    uvicorn bounds only the time in which nothing comes: one byte a second holds a connection for
    ever. Here a header is complete within this time of its first byte (the first one within this
    time of the connection), or the connection ends; and so does one on which the rest of a body
    drips in that was answered already. The body of a request that is being answered is the
    application's concern.

    Args:
        seconds: the limit.
    """

    class BoundedProtocol(H11Protocol):
        def __init__(
            self,
            config: Config,
            server_state: ServerState,
            app_state: dict[str, Any],
            _loop: asyncio.AbstractEventLoop | None = None,
        ) -> None:
            super().__init__(config, server_state, app_state, _loop)
            self._limit: asyncio.TimerHandle | None = None
            self._bound()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._bound()

        def connection_lost(self, exc: Exception | None) -> None:
            super().connection_lost(exc)
            self._unbound()

        def _bound(self) -> None:
            """Have the limit run unless a request is being answered; more data is no more time."""
            if self.cycle is not None and not self.cycle.response_complete:
                self._unbound()
            elif self._limit is None:
                self._limit = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

        def _unbound(self) -> None:
            if self._limit is not None:
                self._limit.cancel()
                self._limit = None

    return BoundedProtocol
