"""The command `serve`: answers requests on this machine."""

from functools import partial
from pathlib import Path

from keras_effnetv2.cli.options import check_run
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.serve.limits import ServerLimits

_MB = 2**20


def serve(
    path: Path,
    host: str = "127.0.0.1",
    port: int = 8501,
    name: str | None = None,
    allow_host: list[str] | None = None,
    max_body_mb: float = ServerLimits.max_body_bytes / _MB,
    max_requests: int = ServerLimits.max_requests,
    timeout: float = ServerLimits.timeout,
    receive_timeout: float = ServerLimits.receive_timeout,
    max_batch: int = ServerLimits.max_batch,
    max_delay: float = ServerLimits.max_delay,
) -> None:
    """Answer requests and show a page for pictures, on this machine.

    Options:
      path RUN: A run folder, or an export folder with versions.
      --host ADDRESS: Address to listen on; there is no access control.
      --port PORT: Port of HTTP; 0 takes a free one.
      --name NAME: Name of the model in the paths.  [default: name of the folder]
      --allow-host NAME: Answer requests for this host name too; may be repeated. Without this
        option a loopback address answers for localhost, 127.0.0.1, [::1] and HOST only, any other
        address for all names.

    Limits:
      --max-body-mb MB: Largest request; 1 MB is 2^20 bytes.
      --max-requests N: Requests answered at the same time; further ones get the status 503.
      --timeout SECONDS: Time for one request.
      --receive-timeout SECONDS: Time for the body of a request to arrive.
      --max-batch N: Pictures computed at once.
      --max-delay SECONDS: How long a request waits to be computed together with others.

    Example:
      keras-effnetv2 serve runs/photos --port 8501
    """
    limits = ServerLimits(
        int(max_body_mb * _MB), max_requests, timeout, receive_timeout, max_batch, max_delay
    )
    check_run(path)
    start_tensorflow()
    from keras_effnetv2.serve.server import serve as serve_model

    serve_model(
        path,
        host=host,
        port=port,
        name=name,
        allow_hosts=allow_host or (),
        limits=limits,
        started=partial(print, flush=True),
    )
