"""The command `serve`: answers requests on this machine."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

from keras_effnetv2.cli.command import OptionGroup, argument, command, option
from keras_effnetv2.cli.options import check_run
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.serve.limits import ServerLimits

_MB = 2**20


@dataclass(frozen=True)
class LimitOptions(OptionGroup):
    """What the server takes on."""

    section = "Limits"

    max_body_mb: float = option(
        "MB", "Largest request; 1 MB is 2^20 bytes.", ServerLimits.max_body_bytes / _MB
    )
    max_requests: int = option(
        "N",
        "Requests answered at the same time; further ones get the status 503.",
        ServerLimits.max_requests,
    )
    timeout: float = option("SECONDS", "Time for one request.", ServerLimits.timeout)
    receive_timeout: float = option(
        "SECONDS", "Time for the body of a request to arrive.", ServerLimits.receive_timeout
    )
    max_batch: int = option("N", "Pictures computed at once.", ServerLimits.max_batch)
    max_delay: float = option(
        "SECONDS",
        "How long a request waits to be computed together with others.",
        ServerLimits.max_delay,
    )

    def limits(self) -> ServerLimits:
        """Return the limits as the server takes them."""
        limits = dict(vars(self))
        return ServerLimits(max_body_bytes=int(limits.pop("max_body_mb") * _MB), **limits)


@command("keras-effnetv2 serve runs/photos --port 8501")
def serve(
    *,
    path: Path = argument("RUN", "A run folder, or an export folder with versions."),
    host: str = option("ADDRESS", "Address to listen on; there is no access control.", "127.0.0.1"),
    port: int = option("PORT", "Port of HTTP; 0 takes a free one.", 8501),
    name: str | None = option(
        "NAME", "Name of the model in the paths. [default: name of the folder]"
    ),
    allow_host: list[str] | None = option(
        "NAME",
        "Answer requests for this host name too; may be repeated. Without this option a loopback "
        "address answers for localhost, 127.0.0.1, [::1] and HOST only, any other address for all "
        "names.",
    ),
    limit_options: LimitOptions,
) -> None:
    """Answer requests and show a page for pictures, on this machine."""
    limits = limit_options.limits()
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
