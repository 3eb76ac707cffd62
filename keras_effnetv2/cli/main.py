"""The command `keras-effnetv2`: parse, call, print. A command imports what it needs."""

import argparse
import importlib
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any

from keras_effnetv2.architectures.config_file import is_published, read_config
from keras_effnetv2.cli.parser import make_parser
from keras_effnetv2.cli.training_options import recipe_of
from keras_effnetv2.training.interruption import TrainingInterrupted


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line.

    Args:
        argv: the words after the program's name; default those of the process.

    Returns:
        The exit code: 0, or 1 for a failure, which is printed to stderr without a traceback
        (with one under --debug). Wrong usage ends the process with 2, as argparse does; Ctrl-C
        and SIGTERM give 128 and the signal's number, as a shell counts.
    """
    words = sys.argv[1:] if argv is None else argv
    arguments = make_parser().parse_args(words)
    try:
        if arguments.starts_tensorflow and not arguments.debug:
            _start_tensorflow_quietly()
        return _COMMANDS[arguments.command](arguments) or 0
    except TrainingInterrupted as interruption:
        print(f"\n{interruption.state} Go on with: {_resuming(words)}", file=sys.stderr)
        return _failed(arguments, 128 + interruption.signal)
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return _failed(arguments, 128 + signal.SIGINT)
    except Exception as error:
        if arguments.debug:
            raise
        # A KeyError's text is only the key; an error without text still needs its kind.
        text = str(error) if str(error) and not isinstance(error, KeyError) else repr(error)
        print(f"error: {text}", file=sys.stderr)
        return _failed(arguments, 1)


def _failed(arguments: argparse.Namespace, code: int) -> int:
    """Returns the exit code; where there are other workers, the process ends here.

    JAX would first wait for those that are gone, and then abort.
    """
    if getattr(arguments, "workers", 1) > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    return code


def _resuming(words: Sequence[str]) -> str:
    """The command that goes on with the run of a command."""
    kept = [word for word in words if word not in ("--overwrite", "--resume")]
    return shlex.join(["keras-effnetv2", *kept, "--resume"])


def _start_tensorflow_quietly() -> None:
    """Imports TensorFlow without its start-up messages, which tell a person at a terminal nothing.

    Some are written before any setting of TensorFlow's is read, straight to the file descriptor.
    What it writes if the import fails is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        terminal = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            captured.seek(0)
            os.write(terminal, captured.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)


# --- commands -----------------------------------------------------------------------------------


def _train(arguments: argparse.Namespace) -> None:
    if arguments.preview:
        _preview(arguments)
        return
    from keras_effnetv2.training.fit import train

    strategy = _devices(arguments)
    train(
        read_config(arguments.model),
        arguments.data,
        recipe_of(arguments),
        arguments.output,
        validation_fraction=arguments.validation_fraction,
        max_train_examples=arguments.max_train_examples,
        weights=arguments.weights,
        skip_bad=arguments.skip_bad,
        scan=arguments.scan,
        cache=arguments.cache,
        resume=arguments.resume,
        overwrite=arguments.overwrite,
        strategy=strategy,
        # A bar redraws its line; into a file or a pipe one line an epoch is better.
        verbose=1 if sys.stdout.isatty() else 2,
    )


def _devices(arguments: argparse.Namespace) -> Any:
    """Joins the other workers, or returns the strategy for the GPUs of this machine, if asked to.

    Raises:
        ValueError: options that do not go together.
    """
    if arguments.coordinator is None:
        if arguments.workers != 1:
            raise ValueError("--workers needs --coordinator HOST:PORT, the address of worker 0.")
        if not arguments.mirrored:
            return None
        from keras_effnetv2.training.workers import mirrored_strategy

        return mirrored_strategy()
    if arguments.mirrored:
        raise ValueError("Choose one of --mirrored (TensorFlow) and --coordinator (JAX).")
    from keras_effnetv2.training.workers import connect

    connect(arguments.coordinator, arguments.workers, arguments.worker)
    return None


def _preview(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.training.preview import write_preview

    written = write_preview(
        read_config(arguments.model),
        arguments.data,
        recipe_of(arguments),
        arguments.output,
        validation_fraction=arguments.validation_fraction,
        max_train_examples=arguments.max_train_examples,
        skip_bad=arguments.skip_bad,
        scan=arguments.scan,
    )
    print(written)


def _evaluate(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.evaluate_command import evaluate

    evaluate(arguments)


def _predict(arguments: argparse.Namespace) -> int:
    from keras_effnetv2.cli.evaluate_command import predict

    return predict(arguments)


def _export(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.export_command import export

    export(arguments)


def _serve(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.serve_command import serve

    serve(arguments)


def _benchmark(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.benchmark_command import benchmark

    benchmark(arguments)


def _search(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.search_command import search

    search(arguments)


def _info(arguments: argparse.Namespace) -> None:
    config = read_config(arguments.model)
    if arguments.json:
        print(config.to_json())
        return
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.models.graph import count_flops, count_trainable, stage_table
    from keras_effnetv2.pretrained.registry import published

    size = arguments.image_size or config.eval_size
    model = build_model(config, classes=arguments.classes)
    trainable = count_trainable(model)
    print(f"{config.name}, {arguments.classes} classes")
    print(
        f"{'parameters':<17} {trainable / 1e6:.2f} million trainable, {model.count_params():,} all"
    )
    print(f"{'multiply-adds':<17} {count_flops(model, size) / 1e9:.2f} billion at {size} x {size}")
    print(f"{'trained at':<17} up to {config.train_size} px, evaluated at {config.eval_size} px")
    print(f"{'dropout':<17} {config.dropout_rate:g}")
    weights = published(config.name) if is_published(config) else ()
    print(f"{'published weights':<17} {', '.join(weights) or 'none'}")
    print(f"\nstage  {'operator':<28} stride  channels  layers  output")
    for row in stage_table(config, size):
        print(
            f"{row.stage:>5}  {row.operator:<28} {row.stride:>6}  {row.channels:>8}  "
            f"{row.layers:>6}  {row.size[0]} x {row.size[1]}"
        )


def _weights(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.weights_command import weights

    weights(arguments)


def _pack(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.cli.pack_command import pack

    pack(arguments)


_COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "train": _train,
    "evaluate": _evaluate,
    "predict": _predict,
    "export": _export,
    "serve": _serve,
    "benchmark": _benchmark,
    "search": _search,
    "info": _info,
    "weights": _weights,
    "pack": _pack,
}
