"""The command `keras-effnetv2`: read the words, run the command, turn errors into exit codes."""

import functools
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from keras_effnetv2._version import __version__
from keras_effnetv2.cli.benchmark_command import benchmark
from keras_effnetv2.cli.command import PROGRAM, Call, Command, Group, add_command, add_group
from keras_effnetv2.cli.evaluate_command import evaluate
from keras_effnetv2.cli.export_command import export
from keras_effnetv2.cli.info_command import info
from keras_effnetv2.cli.pack_command import pack
from keras_effnetv2.cli.predict_command import predict
from keras_effnetv2.cli.search_command import search, show_search
from keras_effnetv2.cli.serve_command import serve
from keras_effnetv2.cli.train_command import train
from keras_effnetv2.cli.weights_command import (
    convert_weights,
    fetch_weights,
    list_weights,
    verify_weights,
)
from keras_effnetv2.training.interruption import TrainingInterrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; default those of the process.

    Returns:
        The exit code: 0, or 1 for a failure, which is printed to stderr without a traceback
        (with one under --debug). Ctrl-C and SIGTERM give 128 and the signal's number, as a shell
        counts.

    Raises:
        SystemExit: wrong usage, with the code 2; --help and --version, with 0.
    """
    words = sys.argv[1:] if argv is None else argv
    call = parse(words)
    if not call.values["debug"]:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        return call.run()
    except typer.TyperException as error:
        raise _usage_error(error) from None
    except TrainingInterrupted as interruption:
        print(f"\n{interruption.state} Go on with: {_resuming(words)}", file=sys.stderr)
        return _failed(call, 128 + interruption.signal)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _failed(call, 128 + signal.SIGINT)
    except Exception as error:
        if call.values["debug"]:
            raise
        # A KeyError's text is only the key; an error without text still needs its kind.
        text = str(error) if str(error) and not isinstance(error, KeyError) else repr(error)
        print(f"error: {text}", file=sys.stderr)
        return _failed(call, 1)


def parse(words: Sequence[str]) -> Call:
    """Return what a command line asks for, without running it.

    Args:
        words: those after the program's name.

    Raises:
        SystemExit: wrong usage, with the code 2; --help and --version, with 0.
    """
    try:
        call = _program()(list(words), PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        raise _usage_error(error) from None
    if not isinstance(call, Call):  # the exit code of --help
        raise SystemExit(call)
    return call


@functools.cache
def _program() -> typer.Typer:
    app = typer.Typer(cls=Group, rich_markup_mode=None, pretty_exceptions_enable=False)
    app.callback()(_version_option)
    commands: tuple[Command, ...] = (train, evaluate, predict, export, serve, benchmark, info, pack)
    for function in commands:
        add_command(app, function)
    add_group(app, search, "search", {"show": show_search})
    actions: dict[str, Command] = {"fetch": fetch_weights, "convert": convert_weights}
    add_group(app, list_weights, "weights", actions | {"verify": verify_weights})
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"{PROGRAM} {__version__}")
        raise typer.Exit()


def _version_option(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    """Train, judge, export and use EfficientNetV2 on Keras 3."""


def _usage_error(error: Any) -> SystemExit:
    error.show()
    return SystemExit(error.exit_code)


def _failed(call: Call, code: int) -> int:
    """Return the exit code; where there are other workers, the process ends here.

    JAX would first wait for those that are gone, and then abort.
    """
    if call.values.get("workers", 1) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _resuming(words: Sequence[str]) -> str:
    """Return the command that goes on with the run of a command."""
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    return shlex.join([PROGRAM, *kept, "--resume"])
