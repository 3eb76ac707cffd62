"""The command `benchmark`: networks and the files they are exported to, side by side."""

import argparse
import gc
import json
import sys
from pathlib import Path

from keras_effnetv2._common.machine import describe_machine
from keras_effnetv2.architectures.config import ModelConfig

_ALL = "all"
_SEED = 0
_PACKAGES = ("tensorflow", "keras", "onnxruntime", "openvino", "ai-edge-litert")


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `benchmark` to its parser."""
    add = parser.add_argument
    add(
        "networks",
        nargs="+",
        metavar="NETWORK",
        help="a variant, a run folder, or MODULE:NAME, a Keras model or a function that returns "
        "one (keras.applications:ResNet50); all: every variant",
    )
    add(
        "--formats",
        nargs="+",
        default=["keras", "saved_model"],
        metavar="FORMAT",
        help="keras (called in this process), keras_export (the SavedModel of model.export), "
        "saved_model (ours; also saved_model:bfloat16, :float16), onnx, openvino (:float16, "
        ":bfloat16), litert (:float16, :dynamic, :int8); all: every one that this CPU can compute",
    )
    add(
        "--against",
        metavar="NETWORK",
        help="what each network is compared with, exported by model.export; keras.applications: "
        "the same variant there (default: its first format)",
    )
    add("--image-size", type=int, metavar="PIXELS", help="default: the network's own")
    add("--weights", help="of variants: imagenet, imagenet21k, imagenet21k-ft1k (default: drawn)")
    add("--batch-sizes", type=int, nargs="+", default=[1, 16], metavar="N", help="pictures at once")
    add("--rounds", type=int, default=10, help="turns of each format")
    add("--calls", type=int, default=3, help="timed calls in a turn")
    add("--threads", type=int, help="that compute (default: one for each core)")
    add("--json", type=Path, metavar="FILE", help="write every time, too")


def benchmark(arguments: argparse.Namespace) -> None:
    """Runs the command; prints Markdown tables, and to stderr how far it is."""
    _check(arguments)
    if arguments.threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(arguments.threads)
        tf.config.threading.set_inter_op_parallelism_threads(arguments.threads)
    import keras

    from keras_effnetv2.benchmark.comparison import Comparison, compare
    from keras_effnetv2.benchmark.comparison_report import as_data, paper_table, speed_table
    from keras_effnetv2.benchmark.contestants import formats_here
    from keras_effnetv2.export.saved_model import require_tensorflow_backend

    require_tensorflow_backend()
    networks = ModelConfig.variants() if arguments.networks == [_ALL] else arguments.networks
    comparison = Comparison(
        formats_here() if arguments.formats == [_ALL] else arguments.formats,
        arguments.against,
        arguments.image_size,
        arguments.weights,
        arguments.batch_sizes,
        arguments.rounds,
        arguments.calls,
        arguments.threads,
    )
    comparison.check(networks)
    keras.utils.set_random_seed(_SEED)  # weights are drawn
    machine = describe_machine(_PACKAGES, arguments.threads)
    print(" · ".join(f"{name}: {value}" for name, value in machine.items()))
    groups = []
    for name in networks:
        groups.append(compare(name, comparison, show_progress))
        show_progress("")
        first = groups[-1][0].contestant
        print(
            f"\n{name}: {first.parameters / 1e6:.2f} million parameters, {first.flops / 1e9:.2f} "
            f"billion multiply-adds at {first.image_size} x {first.image_size} pixels\n"
        )
        print(speed_table(groups[-1]), flush=True)
        if arguments.json is not None:
            data = {"machine": machine, "command": sys.argv[1:], "results": as_data(groups)}
            arguments.json.write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
        gc.collect()  # the next network may need the memory of this one
    if table := paper_table(groups):
        print(f"\nBeside the paper's Tables 7 and 11 (arXiv 2104.00298):\n\n{table}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what would only be found after minutes."""
    for name, values in (
        ("batch-sizes", arguments.batch_sizes),
        ("rounds", [arguments.rounds]),
        ("calls", [arguments.calls]),
        ("threads", [] if arguments.threads is None else [arguments.threads]),
    ):
        if min(values, default=1) < 1:
            raise ValueError(f"--{name} must be at least 1. Received: {min(values)}")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {arguments.json.parent}")
    if _ALL in arguments.networks and len(arguments.networks) > 1:
        raise ValueError("all stands for every variant: leave out the other networks, or name some")


def show_progress(text: str) -> None:
    """Shows how far the command is, on a line of its own that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)
