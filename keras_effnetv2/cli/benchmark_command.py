"""The command `benchmark`: networks and the files they are exported to, side by side."""

import sys
from collections.abc import Mapping, Sequence
from functools import partial
from json import dumps
from pathlib import Path

from keras_effnetv2._common.machine import describe_machine
from keras_effnetv2._common.progress import progress_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.quiet_start import start_tensorflow

_ALL = "all"
_SEED = 0
_PACKAGES = ("tensorflow", "keras", "onnxruntime", "openvino", "ai-edge-litert")
_FORMATS = ["keras", "saved_model"]
_BATCH_SIZES = [1, 16]


def benchmark(
    networks: list[str],
    formats: list[str] = _FORMATS,
    against: str | None = None,
    image_size: int | None = None,
    weights: str | None = None,
    batch_sizes: list[int] = _BATCH_SIZES,
    rounds: int = 10,
    calls: int = 3,
    threads: int | None = None,
    json: Path | None = None,
) -> None:
    """Measure parameters, size, speed and exactness of networks and of their exports.

    Options:
      networks NETWORK: A variant, a run folder, or MODULE:NAME of a Keras model or a function that
        returns one (keras.applications:ResNet50); all: every variant.
      --formats FORMAT...: keras (called in this process), keras_export (the SavedModel of
        model.export), saved_model (ours; also saved_model:bfloat16, :float16), onnx, openvino
        (:float16, :bfloat16), litert (:float16, :dynamic, :int8); all: every format that this CPU
        can compute.
      --against NETWORK: Compare with this network, exported by model.export; keras.applications:
        with the same variant there.  [default: the first format of each network]
      --image-size PIXELS: Size of the pictures.  [default: the network's own]
      --weights SET: Weights of variants: imagenet, imagenet21k or imagenet21k-ft1k.  [default:
        random weights]
      --batch-sizes N...: Pictures computed at once.
      --rounds N: Turns of each format.
      --calls N: Timed calls in each turn.
      --threads N: Threads to compute with.  [default: one per core]
      --json FILE: Write all times to this file, too.

    Example:
      keras-effnetv2 benchmark efficientnetv2-b0 --formats all
      keras-effnetv2 benchmark all --against keras.applications
    """
    counts = {"--rounds": [rounds], "--calls": [calls], "--batch-sizes": batch_sizes}
    _check({**counts, "--threads": [1 if threads is None else threads]}, networks, json)
    start_tensorflow()
    if threads is not None:
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    import keras

    from keras_effnetv2.benchmark.comparison import compare
    from keras_effnetv2.benchmark.comparison_report import as_data, paper_table, speed_table
    from keras_effnetv2.benchmark.contestants import check_comparison, formats_here
    from keras_effnetv2.export.saved_model import require_tensorflow_backend

    require_tensorflow_backend()
    names = ModelConfig.variants() if networks == [_ALL] else networks
    all_or_some = formats_here() if formats == [_ALL] else formats
    check_comparison(names, all_or_some, against)
    measure = partial(
        compare,
        formats=all_or_some,
        against=against,
        image_size=image_size,
        weights=weights,
        batch_sizes=batch_sizes,
        rounds=rounds,
        calls=calls,
        threads=threads,
    )
    keras.utils.set_random_seed(_SEED)  # weights are drawn
    machine = describe_machine(_PACKAGES, threads)
    print(" · ".join(f"{name}: {value}" for name, value in machine.items()))
    groups = []
    for name in names:
        with progress_line() as progress:
            groups.append(measure(name, progress=progress))
        first = groups[-1][0]
        print(
            f"\n{name}: {first.parameters / 1e6:.2f} million parameters, {first.flops / 1e9:.2f} "
            f"billion multiply-adds at {first.image_size} x {first.image_size} pixels\n"
        )
        print(speed_table(groups[-1]), flush=True)
        if json is not None:
            data = {"machine": machine, "command": sys.argv[1:], "results": as_data(groups)}
            json.write_text(dumps(data, indent=1) + "\n", encoding="utf-8")
    if table := paper_table(groups):
        print(f"\nBeside the paper's Tables 7 and 11 (arXiv 2104.00298):\n\n{table}")


def _check(counts: Mapping[str, Sequence[int]], networks: Sequence[str], json: Path | None) -> None:
    """Raise ValueError for what would only be found after minutes."""
    for option, values in counts.items():
        if min(values) < 1:
            raise ValueError(f"{option} must be at least 1. Received: {min(values)}")
    if json is not None and not json.parent.is_dir():
        raise ValueError(f"--json: there is no folder {json.parent}")
    if _ALL in networks and len(networks) > 1:
        raise ValueError("all stands for every variant: leave out the other networks, or name some")
