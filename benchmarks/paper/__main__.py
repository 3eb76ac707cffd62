"""A table of the paper, beside what is measured on this machine.

python -m benchmarks.paper table-3
"""

import argparse
import gc
import json
import sys
from collections.abc import Sequence
from itertools import product
from pathlib import Path

from benchmarks.paper.tables import TABLES, open_table
from keras_effnetv2._common.files import write_text
from keras_effnetv2._common.machine import describe_machine
from keras_effnetv2._common.progress import progress_line
from keras_effnetv2.architectures.config_file import read_config

_SCALING = "scaling"
_ROUNDS = 5
_SEED = 0
_PACKAGES = ("keras", "tensorflow", "jax", "torch")


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command; prints a Markdown table and what it says, to stderr how far it is."""
    parser = argparse.ArgumentParser("python -m benchmarks.paper", description=__doc__)
    _add_options(parser)
    arguments = parser.parse_args(argv)
    try:
        _reproduce(arguments)
    except ValueError as error:
        parser.error(str(error))


def _add_options(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "table",
        choices=(*TABLES, _SCALING),
        metavar="TABLE",
        help="table-2: picture size against training speed; table-3: EfficientNet-B4 with fused "
        "stages; table-10: EfficientNet-B7 against V2-M; table-11: small networks, V1 against V2; "
        "scaling: S, M, L and XL against what compound scaling makes of smaller ones (counted, not "
        "timed)",
    )
    add(
        "--variant",
        metavar="VARIANT_OR_FILE",
        help="of table-2: another network (default: efficientnet-b6, which is the paper's)",
    )
    add(
        "--image-size",
        type=int,
        metavar="PIXELS",
        help="of the largest pictures, all others in proportion (default: the original sizes, but "
        "128 for table-3 without a GPU or TPU)",
    )
    add(
        "--batch-sizes",
        type=int,
        nargs="+",
        metavar="N",
        help="pictures at once (default: what a GPU or TPU or else a small CPU can bear)",
    )
    add("--rounds", type=int, default=_ROUNDS, help="turns of each network")
    add("--json", type=Path, metavar="FILE", help="write every time, too")


def _reproduce(arguments: argparse.Namespace) -> None:
    _check(arguments)
    if arguments.table == _SCALING:
        from benchmarks.paper.scaling import WHAT_DIFFERS, scaling_table

        print(f"{scaling_table()}\n\n{WHAT_DIFFERS}")
        return
    variant = None if arguments.variant is None else read_config(arguments.variant)
    table = open_table(arguments.table, variant)
    table.scale(arguments.image_size)  # raises before a backend starts
    import keras

    from benchmarks.paper.measure import measure_group
    from benchmarks.paper.report import as_data, results_table, sentences
    from keras_effnetv2.training.footprint import this_machine

    on_cpu = not this_machine().has_accelerator
    image_size = arguments.image_size or (table.cpu_image_size if on_cpu else None)
    batch_sizes = arguments.batch_sizes or (table.cpu_batch_sizes if on_cpu else table.batch_sizes)
    scale = table.scale(image_size)
    keras.utils.set_random_seed(_SEED)  # weights are drawn
    machine = describe_machine(_PACKAGES)
    machine["backend"] = keras.backend.backend()
    machine["device"] = str(keras.ops.ones(()).device).rpartition("device:")[2]
    print(" · ".join(f"{name}: {value}" for name, value in machine.items()))
    print(f"\n{table.title}.\n")
    print(
        f"Timed in turns, {arguments.rounds} of each network, with drawn weights in "
        f"{keras.config.dtype_policy().name}, pictures with {scale:.0%} of the original sides.",
        flush=True,
    )
    results = []
    for entries, task, batch_size in product(table.groups, table.tasks, dict.fromkeys(batch_sizes)):
        gc.collect()  # the networks before it hold themselves in cycles
        with progress_line() as progress:
            results.append(
                measure_group(entries, task, batch_size, scale, arguments.rounds, progress)
            )
        if arguments.json is not None:
            data = {"machine": machine, "command": sys.argv[1:], "results": as_data(results)}
            write_text(arguments.json, json.dumps(data, indent=1) + "\n")
    print(f"\n{results_table(table, results)}")
    print("\n2x is twice as fast as the first network of its group.")
    for sentence in sentences(table, results):
        print(f"\n{sentence}")
    print(f"\nNot measured here: {table.not_measured}")


def _check(arguments: argparse.Namespace) -> None:
    """Refuses what would only be found after minutes."""
    for name, is_given in (
        ("variant", arguments.variant is not None),
        ("image-size", arguments.image_size is not None),
        ("batch-sizes", arguments.batch_sizes is not None),
        ("rounds", arguments.rounds != _ROUNDS),
        ("json", arguments.json is not None),
    ):
        if is_given and arguments.table == _SCALING:
            raise ValueError(
                f"--{name} is for what is timed; scaling is counted, and takes no options."
            )
    for name, values in (
        ("image-size", [] if arguments.image_size is None else [arguments.image_size]),
        ("batch-sizes", arguments.batch_sizes or []),
        ("rounds", [arguments.rounds]),
    ):
        if min(values, default=1) < 1:
            raise ValueError(f"--{name} must be at least 1. Received: {min(values)}")
    if arguments.json is not None and not arguments.json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {arguments.json.parent}")


if __name__ == "__main__":
    main()
