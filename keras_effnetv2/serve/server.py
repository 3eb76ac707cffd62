"""Starts the server, and ends it without losing an answer."""

import asyncio
import os
import signal
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.export.signatures import BYTES_SIGNATURE
from keras_effnetv2.runs.run_folder import RECIPE, open_run
from keras_effnetv2.serve.batching import Function
from keras_effnetv2.serve.loaded_model import ServedModel, load_served_model
from keras_effnetv2.serve.overlay import overlay_function
from keras_effnetv2.serve.service import ServerLimits, Service

try:
    import uvicorn

    from keras_effnetv2.serve.app import make_app
    from keras_effnetv2.serve.connections import bounded_protocol
    from keras_effnetv2.serve.hosts import allowed_hosts
except ModuleNotFoundError as error:
    if error.name not in ("fastapi", "starlette", "uvicorn"):
        raise
    raise ImportError(
        f"Serving needs the package {error.name}, which is not installed. Install the extra with: "
        'pip install "keras-effnetv2[serve]"'
    ) from None

if TYPE_CHECKING:
    from keras_effnetv2.serve.grpc_service import GrpcServer

_GRACE = 5  # seconds beyond the request timeout that the last answers may take


def serve(
    path: str | os.PathLike[str],
    *,
    host: str = "127.0.0.1",
    port: int = 8501,
    grpc_port: int | None = None,
    name: str | None = None,
    allow_hosts: Sequence[str] = (),
    limits: ServerLimits | None = None,
) -> None:
    """Serve the newest exported version of a model until SIGINT or SIGTERM.

    Then no more requests are taken, those that are here are answered, and this returns.

    Args:
        path: a run folder, whose page also has Grad-CAM, or an export folder with its versions.
        host: address to listen on. The default is reached from this machine alone; there is no
            access control.
        port: TensorFlow Serving's REST port is 8501; 0 takes a free one.
        grpc_port: TensorFlow Serving's gRPC port is 8500; 0 takes a free one. None is no gRPC.
        name: of the model in the paths; default the folder's name.
        allow_hosts: names, besides `host`, localhost, 127.0.0.1 and ::1, by which clients may ask
            by HTTP. Without any, all may be asked for if `host` is not this machine alone.
        limits: what it takes on; default `ServerLimits()`.

    Raises:
        ImportError: gRPC is wanted, and a package for it is missing.
        OSError: the address cannot be listened on.
        ValueError: there is no model, or it cannot be served under this name, or one of
            `allow_hosts` is no name.
    """
    root = Path(path)
    name = root.resolve().name if name is None else name
    if not name or set(name) & set("/:?#") or not name.isprintable():
        raise ValueError(
            "A model's name is part of web addresses: it must have a letter, and none of / : ? #. "
            f"Give one with --name. Received: {name!r}"
        )
    limits = limits or ServerLimits()
    with (
        _listening(host, port, "--port") as listener,  # first: a port in use is told at once
        asyncio.Runner() as runner,
        _grpc_server(runner, host, grpc_port, limits) as rpc,
    ):
        hosts = allowed_hosts(listener.getsockname()[0], host, allow_hosts)
        model = load_served_model(root)
        service = Service(model, name, limits, _prepare(root, model))
        config = uvicorn.Config(
            make_app(service, hosts),
            http=bounded_protocol(limits.receive_timeout),
            ws="none",
            log_level="warning",
            access_log=False,
            timeout_graceful_shutdown=int(limits.timeout) + _GRACE,
        )
        addresses = [f"http://{_address(host, listener.getsockname()[1])}/"]
        if rpc is not None:
            addresses.append(f"grpc://{_address(host, rpc.port)}")
        where = " and ".join(addresses)
        server = _Server(
            config,
            service,
            rpc,
            f"Serving {name}, version {model.version}, at {where} (end with Ctrl-C)",
        )
        with service.computing(), _ended_by_signals(server):
            runner.run(server.serve(sockets=[listener]))


class _Server(uvicorn.Server):
    """uvicorn's server, and one for gRPC that begins and ends with it.

    Args:
        config: uvicorn's.
        service: what answers.
        rpc: the other server; None where there is none.
        greeting: printed when requests are answered.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, rpc: "GrpcServer | None", greeting: str
    ) -> None:
        super().__init__(config)
        self._service = service
        self._rpc = rpc
        self._greeting = greeting

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to answer."""
        await super().startup(sockets)
        if self._rpc is not None:
            await self._rpc.start(self._service)
        print(self._greeting, flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Take no more requests and wait for the answers to those that are here."""
        ends = [super().shutdown(sockets)]
        if self._rpc is not None:
            ends.append(self._rpc.stop(self._service.limits.timeout + _GRACE))
        await asyncio.gather(*ends)


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@contextmanager
def _grpc_server(
    runner: asyncio.Runner, host: str, port: int | None, limits: ServerLimits
) -> Iterator["GrpcServer | None"]:
    """Listen for gRPC; None where no port is given."""
    if port is None:
        yield None
        return
    from keras_effnetv2.serve.grpc_service import GrpcServer

    with _listening(host, port, "--grpc-port"):
        pass  # gRPC itself would tell of a port in use in lines of its own

    async def bind() -> GrpcServer:
        return GrpcServer(_address(host, port), limits)

    rpc = runner.run(bind())
    try:
        yield rpc
    finally:
        runner.run(rpc.stop(0))


def _prepare(root: Path, model: ServedModel) -> Function | None:
    """Return what makes overlays, where there is a run, and let everything run once.

    The first call of a graph sets up memory and kernels, which the first client need not wait for.

    Raises:
        ValueError: the model has no signature for files, or the run is damaged.
    """
    if BYTES_SIGNATURE not in model.signatures:
        raise ValueError(
            f"The model in {model.folder} has no signature {BYTES_SIGNATURE!r}. Expected is one "
            f"that keras-effnetv2 export wrote. It has: {', '.join(sorted(model.signatures))}"
        )

    def classify(columns: Any) -> Any:
        return model.run(BYTES_SIGNATURE, columns)

    gray = tf.io.encode_png(tf.fill([8, 8, 3], tf.constant(128, tf.uint8))).numpy()
    files = np.array([gray], dtype=object)
    classify({"image_bytes": files})
    if not (root / RECIPE).is_file():
        return None
    grad_cam = overlay_function(open_run(root), classify)
    grad_cam({"image_bytes": files, "class_name": np.array([b""], dtype=object)})
    return grad_cam


@contextmanager
def _listening(host: str, port: int, option: str) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, port), family=family)
    except (OSError, OverflowError) as error:
        raise OSError(
            f"Cannot listen on {host} port {port}: {error}. Choose another port with {option}, or "
            "0 for a free one."
        ) from None
    with listener:
        yield listener


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
