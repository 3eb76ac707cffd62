"""Starts the server, and ends it without losing an answer."""

import asyncio
import ipaddress
import os
import re
import signal
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.export.signatures import BYTES_SIGNATURE
from keras_effnetv2.runs.run_folder import RECIPE, open_run
from keras_effnetv2.serve.limits import ServerLimits
from keras_effnetv2.serve.loaded_model import ServedModel, load_served_model
from keras_effnetv2.serve.overlay import Explain, overlay_function

try:
    import uvicorn

    from keras_effnetv2.serve.app import make_app
    from keras_effnetv2.serve.service import Service
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
        raise
    raise ImportError(
        f"Serving needs the package {error.name}, which is not installed. Install the extra with: "
        'pip install "keras-effnetv2[serve]"'
    ) from None

# A name, an address, or an IPv6 address, which has two colons at least.
_HOST = re.compile(r"[\w.-]+|[\da-fA-F:.]*:[\da-fA-F:.]*:[\da-fA-F:.]*")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_GRACE = 5  # seconds beyond the request timeout that the last answers may take
_CONNECTIONS = 8  # open at most, for each request that may be answered at the same time
_KEEP_ALIVE = 5  # seconds that a connection stays open without a request
_HEADER_BYTES = 16 * 1024


def serve(
    path: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    name: str | None = None,
    allow_hosts: Sequence[str] = (),
    limits: ServerLimits | None = None,
    started: Callable[[str], object] = lambda greeting: None,
) -> None:
    """Serve the newest exported version of a model until SIGINT or SIGTERM.

    Then no more requests are taken, those that are here are answered, and this returns.

    Args:
        path: a run folder, whose page also has Grad-CAM, or an export folder with its versions.
        host: address to listen on. The default is reachable from this machine only; there is no
            access control.
        port: TensorFlow Serving's REST port is 8501; 0 takes a free one.
        name: of the model in the paths; default the folder's name.
        allow_hosts: further names by which clients may ask, see `allowed_hosts`.
        limits: what it takes on; default `ServerLimits()`.
        started: is given a line with the address when requests are answered.

    Raises:
        OSError: the address cannot be listened on.
        ValueError: there is no model, or it cannot be served under this name, or one of
            `allow_hosts` is not a host name.
    """
    root = Path(path)
    name = root.resolve().name if name is None else name
    if not name or set(name) & set("/:?#") or not name.isprintable():
        raise ValueError(
            "A model's name is part of web addresses: it must not be empty, and must "
            f"have none of / : ? #. Give one with --name. Received: {name!r}"
        )
    limits = limits or ServerLimits()
    with _listener(host, port) as listener:  # first: a port in use is told at once
        address, port = listener.getsockname()[:2]
        hosts = allowed_hosts(address, host, allow_hosts)
        model = load_served_model(root)
        service = Service(model, name, limits, _prepare(root, model))
        config = uvicorn.Config(
            make_app(service, hosts),
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            limit_concurrency=_CONNECTIONS * limits.max_requests,
            timeout_keep_alive=_KEEP_ALIVE,
            h11_max_incomplete_event_size=_HEADER_BYTES,
            timeout_graceful_shutdown=int(limits.timeout) + _GRACE,
        )
        server = uvicorn.Server(config)
        url = f"http://{_in_brackets(host)}:{port}/"
        with _ended_by_signals(server):
            # Clients that come now wait in the listener's queue.
            started(f"Serving {name}, version {model.version}, at {url} (end with Ctrl-C)")
            asyncio.run(server.serve(sockets=[listener]))


def allowed_hosts(address: str, host: str, names: Sequence[str]) -> list[str]:
    """Return the names by which a server may be asked, without ports; ["*"] for all.

    A page of any site may have its own name resolve to 127.0.0.1 after it was loaded ("DNS
    rebinding"); for the browser a server on this machine is then of the same site, and the page can
    read its answers. The request still carries the site's name in its header Host.

    Args:
        address: IP address that it listens on. Where that is reached from other machines, all names
            are allowed unless some are given.
        host: what the user called that address.
        names: further names or addresses, given by the user.

    Raises:
        ValueError: one of them is neither a name nor an address.
    """
    if not names and not ipaddress.ip_address(address).is_loopback:
        return ["*"]
    for name in names:
        if not _HOST.fullmatch(name):
            raise ValueError(
                "An allowed host is a name or an address, without scheme and port, for example "
                f"photos.example.org. Received: {name!r}"
            )
    return [*_LOOPBACK, *(_in_brackets(name.lower()) for name in (host, *names))]


def _prepare(root: Path, model: ServedModel) -> Explain | None:
    """Return what makes overlays, where there is a run, and let everything run once.

    The first call of a graph sets up memory and kernels, which the first client need not wait for.
    """
    if BYTES_SIGNATURE not in model.signatures:
        raise ValueError(
            f"The model in {model.folder} has no signature {BYTES_SIGNATURE!r}. Expected one "
            f"that keras-effnetv2 export wrote. It has: {', '.join(sorted(model.signatures))}"
        )

    classify = partial(model.run, BYTES_SIGNATURE)
    gray = tf.io.encode_png(tf.fill([8, 8, 3], tf.constant(128, tf.uint8))).numpy()
    classify({"image_bytes": np.array([gray], dtype=object)})
    if not (root / RECIPE).is_file():
        return None
    grad_cam = overlay_function(open_run(root), classify)
    grad_cam(gray, "")
    return grad_cam


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot listen on {host} port {port}: {str(error).removesuffix('.')}. Choose another "
            "port with --port (0 takes a free one), or another address with --host."
        ) from None


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Have SIGINT and SIGTERM end the server, and no more than that.

    uvicorn handles them while it runs, and afterwards sends them again to whoever handled them
    before, which by default kills the process: it would not end with 0.
    """

    def end(number: int, frame: Any) -> None:
        server.should_exit = True

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _in_brackets(host: str) -> str:
    """Return a host as web addresses have it: IPv6 in brackets, everything else as it is."""
    return f"[{host}]" if ":" in host else host
