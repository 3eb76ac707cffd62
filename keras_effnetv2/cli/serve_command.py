"""The command `serve`: answer requests on this machine."""

import os
from dataclasses import dataclass
from pathlib import Path

from keras_effnetv2._common.checks import check_integer, check_number
from keras_effnetv2._common.text import say
from keras_effnetv2.cli.command import OptionGroup, argument, command, option
from keras_effnetv2.cli.options import check_run
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.serve.limits import ServerLimits

_MB = 2**20


@dataclass(frozen=True)
class LimitOptions(OptionGroup):
    """The limits of the server."""

    section = "Limits"

    max_body_mb: float = option(
        "MB", "Largest request; 1 MB is 2^20 bytes.", ServerLimits.max_body_bytes / _MB
    )
    max_rows: int = option("N", "Most pictures in one request.", ServerLimits.max_rows)
    max_requests: int = option(
        "N",
        "Requests answered at the same time; more get the status 503.",
        ServerLimits.max_requests,
    )
    timeout: float = option("SECONDS", "Longest time for one request.", ServerLimits.timeout)
    receive_timeout: float = option(
        "SECONDS", "Longest time for the body of a request to arrive.", ServerLimits.receive_timeout
    )
    max_batch: int = option("N", "Most pictures in one batch.", ServerLimits.max_batch)
    max_delay: float = option(
        "SECONDS",
        "How long a request waits for others, to be computed in one batch.",
        ServerLimits.max_delay,
    )

    def limits(self) -> ServerLimits:
        """Return the limits for the server."""
        check_number("max_body_mb", self.max_body_mb, above=0)
        limits = dict(vars(self))
        return ServerLimits(max_body_bytes=int(limits.pop("max_body_mb") * _MB), **limits)


@command("keras-effnetv2 serve runs/photos --port 8501")
def serve(
    *,
    path: Path = argument("RUN", "A run folder, or an export folder with versions."),
    host: str = option("ADDRESS", "Address to listen on. There is no access control.", "127.0.0.1"),
    port: int = option("PORT", "HTTP port; 0 takes a free one.", 8501),
    name: str | None = option("NAME", "Name of the model in URLs. [default: name of the folder]"),
    allow_host: list[str] | None = option(
        "NAME",
        "Also answer requests for this host name, and from its pages; may be repeated. Without "
        "this option, a loopback address only answers for localhost, 127.0.0.1, [::1] and HOST, "
        "and any other address answers for all names.",
    ),
    limit_options: LimitOptions,
) -> None:
    """Serve a model on this machine, with a web page to try it."""
    limits = limit_options.limits()
    check_integer("port", port, minimum=0, maximum=2**16 - 1)
    exports = "the output folder of keras-effnetv2 export"
    check_run(path, f"the folder of a finished run, or {exports}")
    start_tensorflow()
    from keras_effnetv2.serve.server import serve as serve_model

    is_at_rest = serve_model(
        path,
        host=host,
        port=port,
        name=name,
        allow_hosts=allow_host or (),
        limits=limits,
        started=say,
    )
    if not is_at_rest:  # Python would wait for the thread that computes
        os._exit(0)
