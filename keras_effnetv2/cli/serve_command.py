"""The command `serve`: answers requests on this machine."""

import argparse
from pathlib import Path


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `serve` to its parser."""
    add = parser.add_argument
    add("path", type=Path, metavar="RUN", help="a run folder, or an export folder with versions")
    add("--host", default="127.0.0.1", help="address to listen on; there is no access control")
    add("--port", type=int, default=8501, help="of HTTP; 0 takes a free one")
    add("--name", help="of the model in the paths; default: that of the folder")
    add(
        "--allow-host",
        action="append",
        metavar="NAME",
        help="answer HTTP requests for this host name too, may be repeated. At a loopback address "
        "only localhost, 127.0.0.1, [::1] and HOST are answered otherwise; at another address all "
        "names are, unless this option is given",
    )
    limits = parser.add_argument_group("limits")
    add = limits.add_argument
    add("--max-body-mb", type=float, default=32, metavar="MB", help="largest request, 2^20 bytes")
    add("--max-requests", type=int, default=32, help="answered at the same time; more get 503")
    add("--timeout", type=float, default=60.0, metavar="SECONDS", help="for one request")
    add(
        "--receive-timeout",
        type=float,
        default=30.0,
        metavar="SECONDS",
        help="for the body of a request to arrive",
    )
    add("--max-batch", type=int, default=16, help="pictures that are computed at once")
    add(
        "--max-delay",
        type=float,
        default=0.002,
        metavar="SECONDS",
        help="that a request waits to be computed together with others",
    )


def serve(arguments: argparse.Namespace) -> None:
    """Runs the command, until a signal ends it."""
    from functools import partial

    from keras_effnetv2.serve.server import ServerLimits
    from keras_effnetv2.serve.server import serve as serve_model

    limits = ServerLimits(
        max_body_bytes=int(arguments.max_body_mb * 2**20),
        max_requests=arguments.max_requests,
        timeout=arguments.timeout,
        receive_timeout=arguments.receive_timeout,
        max_batch=arguments.max_batch,
        max_delay=arguments.max_delay,
    )
    serve_model(
        arguments.path,
        host=arguments.host,
        port=arguments.port,
        name=arguments.name,
        allow_hosts=arguments.allow_host or (),
        limits=limits,
        started=partial(print, flush=True),
    )
