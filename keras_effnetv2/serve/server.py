"""Starts the server, and stops it without losing an answer."""

import asyncio
import gc
import ipaddress
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import tensorflow as tf

from keras_effnetv2._common.progress import working
from keras_effnetv2._common.text import install_hint
from keras_effnetv2.export.signatures import BYTES_SIGNATURE
from keras_effnetv2.runs.run_folder import open_run
from keras_effnetv2.runs.run_state import RECIPE
from keras_effnetv2.serve.limits import ServerLimits
from keras_effnetv2.serve.loaded_model import ServedModel, file_columns, load_served_model
from keras_effnetv2.serve.overlay import Explain, overlay_function
from keras_effnetv2.serve.version_policy import LATEST, VersionPolicy

try:
    import uvicorn

    from keras_effnetv2.serve.app import make_app
    from keras_effnetv2.serve.service import Service
    from keras_effnetv2.serve.version_watch import VersionWatch
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "prometheus_client", "starlette", "uvicorn"):
        raise
    raise ImportError(
        f"Serving needs the package {error.name}, which is not installed. {install_hint('serve')}"
    ) from None

# A name, an address, or an IPv6 address, which has two colons at least.
_HOST = re.compile(r"[\w.-]+|[\da-fA-F:.]*:[\da-fA-F:.]*:[\da-fA-F:.]*")
_LOOPBACK = ("localhost", "127.0.0.1", "[::1]")
_GRACE = 4  # seconds after the request timeout, for the last answers
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
    token: str | None = None,
    versions: VersionPolicy = LATEST,
    poll: float = 1.0,
    limits: ServerLimits | None = None,
    started: Callable[[str], object] = lambda greeting: None,
) -> bool:
    """Serve exported versions of a model until SIGINT or SIGTERM.

    Then the server accepts no more requests, answers those it has, and this function returns, at
    the latest 5 seconds after their timeout. Versions that cannot be loaded are logged as ERROR,
    and the logger `keras_effnetv2.serve.access_log` logs each request as INFO.

    Args:
        path: a run folder, whose page also has Grad-CAM, or an export folder with its versions.
        host: address to listen on. The default is reachable from this machine only.
        port: HTTP port; 8501 is that of TensorFlow Serving, 0 takes a free one.
        name: name of the model in URLs; default the folder's name.
        allow_hosts: further host names to answer for, see `allowed_hosts`.
        token: what clients must send for all paths but `/healthz`, see `bearer_token.has_token`;
            default nothing.
        versions: which ones to serve. Requests that name none are answered by the newest.
        poll: seconds between two looks for new versions, see `VersionWatch`; 0 is never.
        limits: limits of the server; default `ServerLimits()`.
        started: called with a line that has the address, once the server answers.

    Returns:
        Whether the model is at rest. If not, a thread still computes for a client that has gone or
        loads a version, and Python would wait for it at the end of the process.

    Raises:
        OSError: the server cannot listen on the address.
        ValueError: no version can be loaded, or the name is not possible.
    """
    root = Path(path)
    name = root.resolve().name if name is None else name
    if not name or set(name) & set("/:?#") or not name.isprintable():
        raise ValueError(
            "A model's name is part of web addresses, so it must not be empty and must "
            f"have none of / : ? #. Choose one (--name, name=). Received: {name!r}"
        )
    limits = limits or ServerLimits()
    with open_listener(host, port) as listener:  # first, so that a port in use is an error at once
        address, port = listener.getsockname()[:2]
        hosts = allowed_hosts(address, host, allow_hosts)
        # What is imported stays: looking through it for garbage again and again, during each load,
        # would hold up all requests.
        gc.freeze()
        service = Service(name, limits)
        watch = VersionWatch(root, service, versions, _load, partial(_heat, root))
        watch.start()
        config = uvicorn.Config(
            make_app(service, hosts, [_in_brackets(name.lower()) for name in allow_hosts], token),
            http="h11",
            ws="none",
            lifespan="off",  # nothing is started or ended with the app; its task would be cancelled
            log_config=None,
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
            started(f"Serving {name}, {service.versions}, at {url} (stop with Ctrl-C)")
            ended = threading.Event()
            watching = partial(watch.watch, poll, ended)
            watcher = threading.Thread(target=watching, name="version watch", daemon=True)
            if poll:
                watcher.start()
            asyncio.run(server.serve(sockets=[listener]))
            ended.set()
        if poll:
            watcher.join(timeout=1)
        return not service.is_computing and not watcher.is_alive()


def allowed_hosts(address: str, host: str, names: Sequence[str]) -> list[str]:
    """Return the host names that a server answers for, without ports; ["*"] for all.

    A website can change its own name to resolve to 127.0.0.1 after its page was loaded ("DNS
    rebinding"). The browser then takes a server on this machine for the same site, and the page can
    read its answers. But the request still has the site's name in its Host header.

    Args:
        address: IP address of the server. If other machines can reach it, all names are allowed
            unless some are given.
        host: the user's name for that address.
        names: further names or addresses from the user.

    Raises:
        ValueError: one of them is neither a name nor an address.
    """
    if not names and not ipaddress.ip_address(address).is_loopback:
        return ["*"]
    for name in names:
        if not _HOST.fullmatch(name):
            raise ValueError(
                "An allowed host is a name or an address without scheme and port, for example "
                f"photos.example.org. Received: {name!r}"
            )
    return [*_LOOPBACK, *(_in_brackets(name.lower()) for name in (host, *names))]


@working("loading the model")
def _load(folder: Path) -> ServedModel:
    """Load a version and run it once.

    The first call of a graph sets up memory and kernels, so the first client does not wait.
    """
    model = load_served_model(folder)
    if BYTES_SIGNATURE not in model.signatures:
        raise ValueError(
            f"The model in {model.folder} has no signature {BYTES_SIGNATURE!r}. Expected a "
            f"model from keras-effnetv2 export. It has: {', '.join(sorted(model.signatures))}"
        )
    model.functions[BYTES_SIGNATURE](file_columns([_gray()]))
    return model


@working("preparing the heat maps")
def _heat(root: Path, model: ServedModel) -> Explain | None:
    """Return the function for heat maps, which was run once; None if there is no run."""
    if not (root / RECIPE).is_file():
        return None
    explain = overlay_function(open_run(root), model.functions[BYTES_SIGNATURE])
    explain(_gray(), "")
    return explain


def _gray() -> bytes:
    picture: bytes = tf.io.encode_png(tf.fill([8, 8, 3], tf.constant(128, tf.uint8))).numpy()
    return picture


def open_listener(host: str, port: int) -> socket.socket:
    """Return a socket that listens at an address; raise OSError if that is not possible."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot listen on {host} port {port}: {str(error).removesuffix('.')}. Choose another "
            "port (--port, port=; 0 takes a free one) or another address (--host, host=)."
        ) from None
    # The body of an answer would wait for the client to confirm the headers, which takes 40 ms.
    # asyncio turns that off for sockets whose protocol is given, which this one's is not.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


@contextmanager
def _ended_by_signals(server: uvicorn.Server) -> Iterator[None]:
    """Let SIGINT and SIGTERM stop the server, and nothing else.

    uvicorn handles them while it runs, and then sends them again to the earlier handlers, which by
    default kill the process: it would not exit with 0.
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
    """Return a host in the form for web addresses: IPv6 in brackets, others unchanged."""
    return f"[{host}]" if ":" in host else host
