"""The command `serve`: answer requests on this machine."""

import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from keras_effnetv2._common.checks import check_integer, check_number
from keras_effnetv2._common.files import file_trouble
from keras_effnetv2._common.progress import rest
from keras_effnetv2._common.text import say
from keras_effnetv2.cli.command import OptionGroup, argument, command, option
from keras_effnetv2.cli.options import check_run
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.serve.bearer_token import check_token
from keras_effnetv2.serve.limits import ServerLimits
from keras_effnetv2.serve.version_policy import VersionPolicy

_MB = 2**20
_TOKEN = "KERAS_EFFNETV2_TOKEN"
_log = logging.getLogger("keras_effnetv2.serve")


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
    host: str = option("ADDRESS", "Address to listen on.", "127.0.0.1"),
    port: int = option("PORT", "HTTP port; 0 takes a free one.", 8501),
    name: str | None = option("NAME", "Name of the model in URLs. [default: name of the folder]"),
    allow_host: list[str] | None = option(
        "NAME",
        "Also answer requests for this host name, and from its pages; may be repeated. Without "
        "this option, a loopback address only answers for localhost, 127.0.0.1, [::1] and HOST, "
        "and any other address answers for all names.",
    ),
    token_file: Path | None = option(
        "FILE",
        "Answer only requests with the token in this file (Authorization: Bearer TOKEN; in a "
        "browser it is the password, with any name), except /healthz. The environment variable "
        f"{_TOKEN} may hold the token instead. [default: answer all]",
    ),
    versions: str = option(
        "WHICH",
        "Versions to serve: latest, all, or numbers such as 1,3. Requests that name no version go "
        "to the newest.",
        "latest",
    ),
    poll: float = option(
        "SECONDS",
        "How often to look for new, changed and removed versions; 0 is never.",
        1.0,
    ),
    access_log: Literal["text", "json", "off"] = option(
        None, "How to log requests on standard output, one line each.", "text"
    ),
    limit_options: LimitOptions,
) -> None:
    """Serve a model on this machine, with a web page to try it."""
    limits = limit_options.limits()
    check_integer("port", port, minimum=0, maximum=2**16 - 1)
    check_number("poll", poll, minimum=0)
    policy = VersionPolicy.parse(versions)
    token = _token(token_file)
    export = "keras-effnetv2 export NETWORK --output FOLDER"
    check_run(path, f"the folder of a finished run, or the FOLDER of {export}")
    if access_log == "json":
        rest()  # its lines would not be JSON
    start_tensorflow()
    from keras_effnetv2.serve.access_log import logged
    from keras_effnetv2.serve.server import serve as serve_model

    def greet(line: str) -> None:
        rest()
        (_log.info if access_log == "json" else say)(line)

    with logged(access_log):
        is_at_rest = serve_model(
            path,
            host=host,
            port=port,
            name=name,
            allow_hosts=allow_host or (),
            token=token,
            versions=policy,
            poll=poll,
            limits=limits,
            started=greet,
        )
    if not is_at_rest:  # Python would wait for the thread that computes
        os._exit(0)


def _token(file: Path | None) -> str | None:
    """Return the token in a file, or that of the environment, or None if there is neither."""
    if file is None:
        token = os.environ.get(_TOKEN)
    elif trouble := file_trouble(file):
        raise ValueError(f"--token-file: {str(file)!r} is {trouble}")
    else:
        token = file.read_text("utf-8", "replace").strip()
    if token is not None:
        check_token(token)
    return token
