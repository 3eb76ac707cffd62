"""The command `keras-effnetv2`: parse the words, run the command, turn errors into exit codes."""

import functools
import logging
import os
import re
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import typer
from typer.main import get_command

from keras_effnetv2._common.progress import never_silent
from keras_effnetv2._common.text import printable_lines, say, without_passwords
from keras_effnetv2._version import __version__
from keras_effnetv2.cli.benchmark_command import benchmark
from keras_effnetv2.cli.command import Command, Context, Group
from keras_effnetv2.cli.evaluate_command import evaluate
from keras_effnetv2.cli.export_command import export
from keras_effnetv2.cli.info_command import info
from keras_effnetv2.cli.pack_command import pack
from keras_effnetv2.cli.predict_command import predict
from keras_effnetv2.cli.push_command import push
from keras_effnetv2.cli.search_command import search, show
from keras_effnetv2.cli.serve_command import serve
from keras_effnetv2.cli.train_command import train
from keras_effnetv2.cli.weights_command import convert, fetch, verify, weights
from keras_effnetv2.training.interruption import TrainingInterrupted

PROGRAM = "keras-effnetv2"

# As the help page has them; those of a tuple stand below its first one.
_COMMANDS = (
    *(train, evaluate, predict, export, push, serve, benchmark, info, pack),
    *((search, show), (weights, fetch, convert, verify)),
)

_BROKEN_PIPE = 141  # as a shell says it


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the words after the program's name; default those of the process.

    Returns:
        The exit code: 0, or 1 for a failure, which is printed to stderr without a traceback
        (with one under --debug). For Ctrl-C and SIGTERM it is 128 plus the signal's number, as in a
        shell. Where `argv` is None, a failure ends the process with that code.

    Raises:
        SystemExit: wrong usage, with the code 2; --help and --version, with 0.
    """
    words = sys.argv[1:] if argv is None else argv
    if logging.lastResort is not None:  # prints warnings if logging is not set up
        logging.lastResort.setFormatter(_PrintableLog())
    context = parse(words)
    end = _end_process if argv is None else lambda code: code
    debug = context.params["debug"]
    if not debug:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        with never_silent(context.command.name):
            return context.command.callback(**context.params) or 0
    except typer.BadParameter as error:
        error.ctx = context
        raise _usage_error(error) from None
    except TrainingInterrupted as interruption:
        say(f"\n{interruption.state} Resume with: {_resuming(words)}", error=True)
        return end(128 + interruption.signal)
    except KeyboardInterrupt:
        say("\ninterrupted", error=True)
        return end(128 + signal.SIGINT)
    except BrokenPipeError:  # the reader of the output has left, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return end(_BROKEN_PIPE)
    except Exception as error:
        if debug:
            raise
        # A KeyError's text is only the key; an error without text still needs its kind.
        text = str(error) if str(error) and not isinstance(error, KeyError) else repr(error)
        text = without_passwords(_with_options(text, context))
        # Indented, so that a name with a line break in it does not look like a message of its own.
        say("error: " + text.replace("\n", "\n  "), error=True)
        return end(1)


class _PrintableLog(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return printable_lines(super().format(record))


def parse(words: Sequence[str]) -> Any:
    """Return the context of a command line's command, without running it.

    Its `command_path` is the command, its `params` are the values of the options.

    Args:
        words: the words after the program's name.

    Raises:
        SystemExit: wrong usage, with the code 2; --help and --version, with 0.
    """
    try:
        context = _program().main(list(words), PROGRAM, standalone_mode=False)
    except typer.TyperException as error:
        raise _usage_error(error) from None
    if not isinstance(context, Context):  # the exit code of --help
        raise SystemExit(context)
    return context


@functools.cache
def _program() -> Any:
    names = {"help_option_names": ["--help", "-h"]}
    details = {"context_settings": names, "no_args_is_help": True}
    return get_command(_group(_program_options, _COMMANDS, **details))


def _group(callback: Any, commands: Sequence[Any], **details: Any) -> typer.Typer:
    """Return a program of commands; some have subcommands."""
    app = typer.Typer(cls=Group, callback=callback, rich_markup_mode=None, **details)
    for one in commands:
        if isinstance(one, tuple):
            own, *below = one
            details = {"invoke_without_command": True, "subcommand_metavar": "[ACTION]"}
            group = _group(own, below, epilog=own.example, add_completion=False, **details)
            app.add_typer(group, name=own.__name__)
        else:
            app.command(cls=Command, epilog=one.example)(one)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"{PROGRAM} {__version__}")
        raise typer.Exit()


_VERSION = typer.Option(
    False, "--version", callback=_print_version, is_eager=True, help="Show the version and exit."
)


def _program_options(version: bool = _VERSION) -> None:
    """Train, judge, export and use EfficientNetV2 on Keras 3."""


def _usage_error(error: Any) -> SystemExit:
    # Typer uses pydantic where it is installed, which puts these words first.
    message = error.message.replace("Value error, ", "")
    error.message = printable_lines(without_passwords(message))
    error.show()
    return SystemExit(error.exit_code)


def _with_options(text: str, context: Any) -> str:
    """Return an error with options in place of arguments, if it begins with an argument.

    Other errors may be about a file, in which fields have the same names.
    """
    typed = ((one.name, one.opts[0]) for one in context.command.params)
    options = {f"`{name}`": word for name, word in typed if word.startswith("--")}
    if not text.startswith(tuple(options)):
        return text
    return re.sub(r"`\w+`", lambda found: options.get(found[0], found[0]), text)


def _end_process(code: int) -> NoReturn:
    """End the process at once.

    Python would first wait for threads of TensorFlow, which may wait for Python; JAX would wait for
    other workers that are gone, and then abort.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _resuming(words: Sequence[str]) -> str:
    """Return the command that resumes the run of a command."""
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    return shlex.join([PROGRAM, *kept, "--resume"])
