"""Pictures a second of a training step on a GPU: this package on JAX against PyTorch Image Models.

    PYTHONPATH=. python benchmarks/gpu_train_step.py [--networks s m] [--rounds 10] [--steps 20]
    PYTHONPATH=. python benchmarks/gpu_train_step.py --device cpu --networks b0 --image-size 64 \
        --batch-size 4 --rounds 3 --steps 3

It needs no TensorFlow. A side whose packages are missing is left out, with what to install. Both
train new networks on one batch of noise that is on the device already: bfloat16 arithmetic with
float32 weights, channels last, 1,000 classes, dropout and stochastic depth, cross-entropy, moving
statistics of the batch norms, SGD with momentum. Ours is Keras' own `train_step`, jitted, with its
state donated; the other is `tf_efficientnetv2_*` with `torch.compile`.

Each side is a process of its own. Both start and compile at the same time; then they take turns of
`--steps` steps, each of which ends when the device has finished. Both use its memory at once; the
default batch sizes are meant for 80 GB. Whatever still runs after `--minutes` is ended. Printed are
the medians, and the share of the card's bfloat16 peak: forward and backward pass count as three
times the network's multiply-adds, and a multiply-add as two operations.
"""

import argparse
import contextlib
import json
import math
import os
import shlex
import signal
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version

from train_step import MARK, waiting

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.cost import network_cost

CLASSES = 1000
BATCH_SIZES = {"efficientnetv2-s": 128}  # others 64
PACKAGES = {"ours": ("jax", "keras"), "timm": ("torch", "timm")}
INSTALL = {
    "ours": 'pip install "jax[cuda13]" keras h5py pooch safetensors, and PYTHONPATH=.',
    "timm": "pip install torch timm",
}
PEAK_TFLOPS = {  # bfloat16, dense; the GPU's name as its driver gives it
    # NVIDIA H100 Tensor Core GPU Architecture (whitepaper), H100 SXM5; H200 SXM has the same chip,
    # and its datasheet the same figure (1,979 with sparsity).
    "NVIDIA H100 80GB HBM3": 989.4,
    "NVIDIA H200": 989.4,
}
Steps = Callable[[int], float]  # makes that many steps, waits for the device, returns the loss


def ours_steps(config: ModelConfig, size: int, batch: int, device: str) -> tuple[str, Steps]:
    """Return the name of the device and a function that trains."""
    import jax
    import keras
    import numpy as np

    import keras_effnetv2 as kev2

    keras.config.set_dtype_policy("mixed_bfloat16")
    keras.utils.set_random_seed(0)
    model = kev2.build_model(
        config,
        input_shape=(size, size, 3),
        classes=CLASSES,
        classifier_activation=None,
        include_preprocessing=False,
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.SGD(0.01, momentum=0.9), loss)
    model.optimizer.build(model.trainable_variables)
    groups = (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
    state = tuple([variable.value for variable in group] for group in groups)
    rng = np.random.default_rng(0)
    images = rng.standard_normal((batch, size, size, 3), np.float32)
    data = jax.device_put((images, rng.integers(0, CLASSES, batch)))
    train_step = jax.jit(model.train_step, donate_argnums=0)

    def steps(count: int) -> float:
        nonlocal state
        for _ in range(count):
            logs, state = train_step(state, data)
        jax.block_until_ready(state)
        return float(logs["loss"])

    return jax.devices(device)[0].device_kind, steps


def timm_steps(config: ModelConfig, size: int, batch: int, device: str) -> tuple[str, Steps]:
    """Return the same with PyTorch."""
    import timm
    import torch

    torch.manual_seed(0)
    model = timm.create_model(
        f"tf_{config.name.replace('-', '_')}",
        num_classes=CLASSES,
        drop_rate=config.dropout_rate,
        drop_path_rate=0.2,
    )
    model = model.to(device, memory_format=torch.channels_last).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, fused=True)
    compiled = torch.compile(model)
    images = torch.randn(batch, 3, size, size, device=device)
    images = images.to(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (batch,), device=device)

    def steps(count: int) -> float:
        for _ in range(count):
            optimizer.zero_grad(set_to_none=True)
            with torch.autocast(device, torch.bfloat16):
                loss = torch.nn.functional.cross_entropy(compiled(images), labels)
            loss.backward()
            optimizer.step()
        if device == "cuda":
            torch.cuda.synchronize()
            # cuDNN tries its algorithms from now on, when nothing else runs on the GPU.
            torch.backends.cudnn.benchmark = True
        return loss.item()

    return torch.cuda.get_device_name() if device == "cuda" else device, steps


def serve(side: str, config: ModelConfig, args: argparse.Namespace) -> None:
    """Compile and say so; then make some steps for every line of input, and write the seconds."""
    signal.alarm(args.seconds)  # ends this process, even in the middle of a compilation
    start = time.perf_counter()
    try:
        prepare = ours_steps if side == "ours" else timm_steps
        device, steps = prepare(config, args.image_size, args.batch_size, args.device)
    except ModuleNotFoundError as error:
        raise SystemExit(f"{side}: {error}. To install: {INSTALL[side]}") from None
    built = time.perf_counter()
    about = {
        "packages": ", ".join(f"{name} {version(name)}" for name in PACKAGES[side]),
        "device": device,
        "loss": steps(1),
        "built": built - start,
        "compiled": time.perf_counter() - built,
    }
    print(MARK, json.dumps(about), flush=True)
    for _ in sys.stdin:
        before = time.perf_counter()
        loss = steps(args.steps)
        print(MARK, time.perf_counter() - before, flush=True)
        if not math.isfinite(loss):
            raise SystemExit(f"{side}: the loss is {loss}")


def measure(
    config: ModelConfig, size: int, batch: int, args: argparse.Namespace, end: float
) -> None:
    """Let both sides train one network, and print what they took."""
    print(f"\n{config.name}, {size} x {size} pixels, batch {batch}:", flush=True)
    seconds = max(1, round(end - time.monotonic()))
    given = f"--networks {config.name} --image-size {size} --batch-size {batch}"
    given += f" --steps {args.steps} --device {args.device} --seconds {seconds}"
    command = [sys.executable, __file__, *given.split(), "--serve"]
    with contextlib.ExitStack() as stack:
        sides = {side: stack.enter_context(waiting([*command, side])) for side in PACKAGES}
        about, times = {}, {}
        for side, (answer, _) in sides.items():
            try:
                about[side] = json.loads(answer())
            except SystemExit as error:
                print(f"  {side}: not measured, or not within --minutes. {error}", flush=True)
                continue
            line = "{packages}; {device}; built in {built:.1f} s, first step {compiled:.1f} s, "
            print(f"  {side}: {line}loss {{loss:.2f}}".format(**about[side]), flush=True)
            times[side] = []
        for turn in range(args.rounds + 1):
            for side in list(times)[:: 1 if turn % 2 else -1]:
                times[side].append(sides[side][1]() / args.steps)
            if turn and time.monotonic() > end - 10:
                break
    operations = 6 * network_cost(config, size, CLASSES).multiply_adds
    for side, (_, *taken) in times.items():  # without the first turn
        rate = batch / statistics.median(taken)
        tflops = 1e-12 * operations * rate
        peak = args.peak_tflops or PEAK_TFLOPS.get(about[side]["device"])
        share = f"{tflops / peak:.1%} of {peak} TFLOP/s" if peak else "peak unknown"
        print(
            f"  {side}: {rate:.1f} pictures/s ({batch / max(taken):.1f} to "
            f"{batch / min(taken):.1f} in {len(taken)} turns), {1e3 * batch / rate:.2f} ms a step; "
            f"{tflops:.3g} TFLOP/s, {share}"
        )
    if len(times) == len(PACKAGES):
        pairs = list(zip(times["ours"], times["timm"], strict=True))[1:]
        ratio = statistics.median(theirs / ours for ours, theirs in pairs)
        print(f"  pictures/s of ours over timm's, median of the turns' ratios: {ratio:.3f}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=["s", "m"])
    parser.add_argument("--image-size", type=int, help="pixels (default: the network's own)")
    parser.add_argument("--batch-size", type=int, help="(default: 128 for s, otherwise 64)")
    parser.add_argument("--steps", type=int, default=20, help="in each turn")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--device", default="cuda", choices=["cuda", "cpu"])
    parser.add_argument("--peak-tflops", type=float, help="of the card, bfloat16, dense")
    parser.add_argument("--minutes", type=float, default=8, help="in all")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    parser.add_argument("--seconds", type=int, help=argparse.SUPPRESS)
    args = parser.parse_args()
    configs = [ModelConfig.from_name(name) for name in args.networks]
    if args.serve:
        return serve(args.serve, configs[0], args)
    end = time.monotonic() + 60 * args.minutes
    os.environ.update(
        KERAS_BACKEND="jax", JAX_PLATFORMS=args.device, XLA_PYTHON_CLIENT_PREALLOCATE="false"
    )
    print(f"command: {shlex.join(['python', *sys.argv])}")
    for config in configs:
        size = args.image_size or config.train_size
        batch = args.batch_size or BATCH_SIZES.get(config.name, 64)
        measure(config, size, batch, args, end)


if __name__ == "__main__":
    main()
