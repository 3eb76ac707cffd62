"""Which names a server is asked for, so that a web page cannot ask it under another name.

A page of any site may have its own name resolve to 127.0.0.1 after it was loaded ("DNS rebinding");
for the browser a server on this machine is then of the same site, and its answers can be read. The
request still carries the site's name in its header Host.
"""

import ipaddress
import json
import re
from collections.abc import Sequence

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

_LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1"})


def allowed_hosts(address: str, host: str, names: Sequence[str]) -> frozenset[str] | None:
    """Return the names by which a server may be asked; None for all.

    Args:
        address: IP address that it listens on.
        host: what the user called that address.
        names: further names, given by the user.

    Raises:
        ValueError: one of the names is none.
    """
    for name in names:
        if not re.fullmatch(r"[\w.-]+", name) and not _is_address(name):
            raise ValueError(
                "An allowed host is a name or an address, without scheme and port, for example "
                f"photos.example.org. Received: {name!r}"
            )
    if not names and not ipaddress.ip_address(address).is_loopback:
        return None
    return _LOOPBACK | {host.lower()} | {name.lower() for name in names}


class HostCheck:
    """Middleware that answers 421 (Misdirected Request) to who asks for another host.

    Args:
        app: what answers the others.
        allowed: names in lower case, of which a request's Host must be one, with any port.
    """

    def __init__(self, app: ASGIApp, allowed: frozenset[str]) -> None:
        self._app = app
        self._allowed = allowed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        host = Headers(scope=scope).get("host", "")
        if _name(host) in self._allowed:
            await self._app(scope, receive, send)
            return
        text = (
            f"This server is not asked for by the name {host[:60]!r}, but by: "
            f"{', '.join(sorted(self._allowed))}. Start it with --allow-host NAME to allow another"
        )
        body = json.dumps({"error": text})
        await Response(body, 421, media_type="application/json")(scope, receive, send)


def _name(host: str) -> str:
    """Return a Host without its port, and an IPv6 address without its brackets."""
    if host.startswith("["):
        return host[1:].partition("]")[0].lower()
    return host.partition(":")[0].lower()


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True
