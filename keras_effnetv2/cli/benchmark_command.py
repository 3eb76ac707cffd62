"""The command `benchmark`: networks and the files they are exported to, side by side."""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from json import dumps
from pathlib import Path

from keras_effnetv2._common.machine import describe_machine
from keras_effnetv2._common.progress import progress_line
from keras_effnetv2._common.text import say
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.command import OptionGroup, argument, command, option
from keras_effnetv2.cli.options import check_data
from keras_effnetv2.cli.quiet_start import start_tensorflow

_ALL = "all"
_SEED = 0
_PACKAGES = ("tensorflow", "keras", "onnxruntime", "openvino", "ai-edge-litert")


@dataclass(frozen=True)
class ComparisonOptions(OptionGroup):
    """The arguments of `compare`."""

    formats: list[str] = option(
        "FORMAT...",
        "keras (called in this process), keras_export (the SavedModel of model.export), "
        "saved_model (ours; also saved_model:bfloat16, :float16), onnx, openvino (:float16, "
        ":bfloat16), litert (:float16, :dynamic, :int8), or all formats that this CPU supports.",
        ["keras", "saved_model"],
    )
    against: str | None = option(
        "NETWORK",
        "Compare with this network, exported by model.export, or with the same variant of "
        "keras.applications. [default: the first format of each network]",
    )
    image_size: int | None = option("PIXELS", "Size of the pictures. [default: the network's own]")
    weights: str | None = option(
        "SET",
        "Weights of variants: imagenet, imagenet21k or imagenet21k-ft1k. [default: random weights; "
        "with --data imagenet]",
    )
    data: str | None = option(
        "SPEC",
        "Labelled pictures: also measure the accuracy of each format on those that the network was "
        "not trained on. int8 is calibrated with 256 of them. [default: the formats are only "
        "compared with Keras, on parts of two photographs]",
    )
    batch_sizes: list[int] = option("N...", "Batch sizes to time.", [1, 16])
    rounds: int = option("N", "Rounds; each format has a turn in every round.", 10)
    calls: int = option("N", "Timed calls in each turn.", 3)
    threads: int | None = option("N", "Number of threads. [default: one per core]")


@command(
    "keras-effnetv2 benchmark efficientnetv2-b0 --formats all\n"
    "keras-effnetv2 benchmark all --against keras.applications\n"
    "keras-effnetv2 benchmark runs/photos --formats all --data photos/"
)
def benchmark(
    *,
    networks: list[str] = argument(
        "NETWORK",
        "A variant, a run folder, MODULE:NAME of a Keras model or of a function that returns one "
        "(keras.applications:ResNet50), or all variants.",
    ),
    options: ComparisonOptions,
    json: Path | None = option("FILE", "Also write all times to this file."),
) -> None:
    """Measure parameters, size, speed and accuracy of networks and their exports."""
    _check(options, networks, json)
    start_tensorflow()
    if options.threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(options.threads)
        tf.config.threading.set_inter_op_parallelism_threads(options.threads)
    import keras

    from keras_effnetv2.benchmark.comparison import compare
    from keras_effnetv2.benchmark.comparison_report import as_data, paper_table, speed_table
    from keras_effnetv2.benchmark.contestants import check_comparison, formats_here
    from keras_effnetv2.export.saved_model import require_tensorflow_backend

    require_tensorflow_backend()
    names = ModelConfig.variants() if networks == [_ALL] else networks
    formats = formats_here() if options.formats == [_ALL] else options.formats
    check_comparison(names, formats, options.against)
    keras.utils.set_random_seed(_SEED)  # weights are drawn
    machine = describe_machine(_PACKAGES, options.threads)
    say(" · ".join(f"{name}: {value}" for name, value in machine.items()))
    groups = []
    for name in names:
        with progress_line() as progress:
            settings = vars(options) | {"formats": formats}
            note = partial(say, error=True)
            groups.append(compare(name, progress=progress, note=note, **settings))
        first = groups[-1][0]
        say(
            f"\n{name}: {first.parameters / 1e6:.2f} million parameters, {first.flops / 1e9:.2f} "
            f"billion multiply-adds at {first.image_size} x {first.image_size} pixels\n"
        )
        say(speed_table(groups[-1]))
        if json is not None:
            data = {"machine": machine, "command": sys.argv[1:], "results": as_data(groups)}
            json.write_text(dumps(data, indent=1) + "\n", encoding="utf-8")
    if table := paper_table(groups):
        say(f"\nCompared with the paper's Tables 7 and 11 (arXiv 2104.00298):\n\n{table}")


def _check(options: ComparisonOptions, networks: Sequence[str], json: Path | None) -> None:
    """Raise ValueError for mistakes that would otherwise show up after minutes."""
    check_data(options.data)
    threads = 1 if options.threads is None else options.threads
    counts = {"--rounds": [options.rounds], "--calls": [options.calls], "--threads": [threads]}
    for name, values in {**counts, "--batch-sizes": options.batch_sizes}.items():
        if min(values) < 1:
            raise ValueError(f"{name} must be at least 1. Received: {min(values)}")
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {json.parent}")
    if _ALL in networks and len(networks) > 1:
        raise ValueError("all means every variant. Leave out the other networks, or leave out all.")
