"""The time of a training step: this package against keras.applications and PyTorch Image Models.

    python benchmarks/train_step.py [--shapes 64x32 128x16 224x8] [--rounds 30] \
        [--timm-python /path/to/python]

Every contestant trains EfficientNetV2-B0 for 10 classes (SGD with momentum, float32) on one batch
of noise, in a process of its own, and waits there for its turn. The parent lets one step at a time
run, in turns, so that all of them meet the same machine. Printed are the medians, and the median of
the ratios of each round. PyTorch lives in an environment of its own, with `torch` and `timm`.

The contestants:

* keras.applications: its network at a fixed size, Keras' own train function;
* ours: `EfficientNetV2B0` at the same size, the same train function;
* ours, any size: the same, traced once for pictures of any size, as progressive learning does;
* timm: `tf_efficientnetv2_b0`, channels_last.
"""

import argparse
import contextlib
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

CLASSES = 10
WARM_UP = 3  # steps
MARK = "measured:"  # in front of a number; libraries print other lines
SHAPES = ("64x32", "128x16", "224x8")  # side x batch
KERAS = ("keras.applications", "ours", "ours, any size")
ENVIRONMENT = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}  # before the package sets its variables


def keras_step(contestant: str, size: int, batch: int) -> Callable[[], float]:
    """Return a function that makes a training step and returns the loss."""
    if contestant != "keras.applications":
        import keras_effnetv2 as kev2  # before TensorFlow's first operation

    import keras
    import numpy as np
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    if contestant == "keras.applications":
        model = keras.applications.EfficientNetV2B0(
            weights=None, classes=CLASSES, input_shape=(size, size, 3)
        )
    else:
        shape = None if contestant.endswith("any size") else (size, size, 3)
        model = kev2.EfficientNetV2B0(weights=None, classes=CLASSES, input_shape=shape)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), "categorical_crossentropy")
    model.optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    images = rng.uniform(0, 255, (batch, size, size, 3)).astype("float32")
    labels = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, batch)]
    side = None if contestant.endswith("any size") else size
    specs = tf.TensorSpec((batch, side, side, 3)), tf.TensorSpec((batch, CLASSES))
    data = tf.data.Dataset.from_generator(lambda: [(images, labels)], output_signature=specs)
    batches = iter(data.cache().repeat())
    model.make_train_function()
    return lambda: float(model.train_function(batches)["loss"])


def timm_step(contestant: str, size: int, batch: int) -> Callable[[], float]:
    """Return the same with PyTorch."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model("tf_efficientnetv2_b0", num_classes=CLASSES, drop_path_rate=0.2)
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9)
    images = torch.randn(batch, 3, size, size).to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,))

    def step() -> float:
        optimizer.zero_grad(set_to_none=True)
        loss = torch.nn.functional.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def serve(contestant: str, size: int, batch: int) -> None:
    """Make a step for every line of standard input, and write its milliseconds."""
    start = time.perf_counter()
    step = (timm_step if contestant == "timm" else keras_step)(contestant, size, batch)
    for _ in range(WARM_UP):
        step()
        if start:
            print(MARK, time.perf_counter() - start, flush=True)  # until the first step is done
            start = 0.0
    for _ in sys.stdin:
        before = time.perf_counter()
        step()
        print(MARK, 1e3 * (time.perf_counter() - before), flush=True)


@contextlib.contextmanager
def waiting(command: list[str]) -> Iterator[tuple[Callable[[], str], Callable[[], float]]]:
    """Start a contestant; yield a function that waits until it is ready, and one that times a step.

    The first returns what the contestant has to say.
    """
    with subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=ENVIRONMENT,
        text=True,
    ) as process:

        def answer() -> str:
            for line in process.stdout:
                if line.startswith(MARK):
                    return line.removeprefix(MARK)
            raise SystemExit(f"The process ended. Its command: {shlex.join(command)}")

        def step() -> float:
            process.stdin.write("\n")
            process.stdin.flush()
            return float(answer())

        yield answer, step
        process.stdin.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="side x batch size")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--timm-python", help="an interpreter with torch and timm")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    args = parser.parse_args()
    shapes = [tuple(map(int, shape.split("x"))) for shape in args.shapes]
    if args.serve:
        return serve(args.serve, *shapes[0])
    from pipeline_report import surroundings

    pythons = dict.fromkeys(KERAS, sys.executable)
    if args.timm_python:
        pythons["timm"] = args.timm_python
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    for size, batch in shapes:
        print(f"\n{size} x {size} pixels, batch {batch}, {args.rounds} rounds:")
        with contextlib.ExitStack() as stack:
            steps, first = {}, {}
            for name, python in pythons.items():
                command = [python, __file__, "--serve", name, "--shapes", f"{size}x{batch}"]
                answer, steps[name] = stack.enter_context(waiting(command))
                first[name] = float(answer())
            times = {name: [] for name in steps}
            for turn in range(args.rounds):
                for name in list(steps)[:: 1 if turn % 2 else -1]:
                    times[name].append(steps[name]())
        base = times["keras.applications"]
        for name, taken in times.items():
            ratio = statistics.median(
                ours / theirs for ours, theirs in zip(taken, base, strict=True)
            )
            print(
                f"  {name:20} {statistics.median(taken):7.1f} ms  ratio {ratio:.3f}"
                f"  first step {first[name]:5.1f} s with its imports",
                flush=True,
            )


if __name__ == "__main__":
    main()
