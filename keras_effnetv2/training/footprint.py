"""How much memory a training needs, estimated before it begins, and what the machine has."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2.models.graph import traced_layers
from keras_effnetv2.recipes.stages import StagePlan

# Values kept for each weight: itself, its gradient, two optimizer slots, its average.
_COPIES_OF_WEIGHTS = 5
_GRAPH_BYTES = 300_000_000  # tracing the train step and running it; measured
# What train steps take at most, over the estimate, which was measured with TensorFlow and V2. On a
# CPU, EfficientNet-B0 with 8 and 24 pictures of 224 pixels: TensorFlow 2.21 1.2 and 1.1, PyTorch
# 2.13 1.3 and 1.5, JAX 0.10 2.2 and 1.9; B4 with 8 of 300 pixels on JAX 1.6.
_MOST_OF_BACKEND = {"tensorflow": 1.2, "torch": 1.5, "jax": 2.0}
_MEMORY_SHARE = 0.9  # of the free memory; the rest is for what other programs may take
_MEMORY_LIMITS = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)


@dataclass(frozen=True)
class Machine:
    """What a training can use."""

    free_memory: int | None  # bytes of main memory; None where the system does not say
    has_accelerator: bool  # whether the backend computes on a GPU or TPU, with memory of its own


def this_machine() -> Machine:
    """Return what this machine has."""
    # Where the backend puts a tensor by itself; each names its devices in its own way.
    device = str(keras.ops.ones(()).device).lower()
    return Machine(_free_memory(), has_accelerator="cpu" not in device)


def _free_memory() -> int | None:
    """Bytes that are free without swapping, as Linux says, within the container's limit."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
    except OSError:
        return None
    kilobytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    limits = [path.read_text("ascii").strip() for path in _MEMORY_LIMITS if path.is_file()]
    return min([int(kilobytes) * 1024, *(int(limit) for limit in limits if limit != "max")])


def memory_shortage(needed: int, machine: Machine | None = None) -> str | None:
    """Return what is missing if `needed` bytes of main memory are not free; else None.

    This matters on a CPU, where the system ends a process that takes too much. On a GPU or TPU
    that is an error that can be caught, so the answer is None there, and also where the free
    memory is unknown.
    """
    machine = this_machine() if machine is None else machine
    free = machine.free_memory
    if machine.has_accelerator or free is None or needed <= _MEMORY_SHARE * free:
        return None
    return f"needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


def training_shortage(
    model: keras.Model, plan: StagePlan, machine: Machine | None = None
) -> str | None:
    """Return what is missing for the train steps of a model, see `memory_shortage`."""
    factor = _MOST_OF_BACKEND[keras.backend.backend()]
    return memory_shortage(round(factor * training_memory(model, plan)), machine)


def training_memory(model: keras.Model, plan: StagePlan) -> int:
    """Estimate the memory of the train steps of the most demanding stage, bytes.

        batch size * bytes that the outputs of all layers take for one picture
            + 5 * parameters * 4 bytes (weight, gradient, two optimizer slots, average)
            + 300 MB for the traced train step

    Measured on a CPU (TensorFlow 2.21, efficientnetv2-b0, rise of the peak resident memory): 385 MB
    with 1 picture of 64 pixels (estimated 424), 722 MB with 64 (757), 1,407 MB with 48 of 128
    pixels (1,416). A network of ReLU takes less: ResNet50 1,055 MB with 16 of 128 pixels (1,545).
    The input pipeline is not included. A picture too small for the model is a ValueError.
    """
    stage = max(plan, key=lambda stage: stage.batch_size * stage.image_size**2)
    one_picture, rest = _memory_parts(model, stage.image_size)
    return stage.batch_size * one_picture + rest


def most_pictures(model: keras.Model, image_size: int, machine: Machine) -> int | None:
    """Return how many pictures a train step has memory for, see `training_memory`.

    That may be 0. None on a GPU or TPU, and where the free memory is unknown.
    """
    if machine.has_accelerator or machine.free_memory is None:
        return None
    one_picture, rest = _memory_parts(model, image_size)
    factor = _MOST_OF_BACKEND[keras.backend.backend()]
    return max(0, int((_MEMORY_SHARE * machine.free_memory / factor - rest) // one_picture))


def _memory_parts(model: keras.Model, image_size: int) -> tuple[int, int]:
    """The bytes that a train step takes for each picture, and for all else."""
    traced = (outputs for _, _, outputs in traced_layers(model, (1, image_size, image_size, 3)))
    one_picture = sum(_bytes(output) for outputs in traced for output in outputs)
    return one_picture, _COPIES_OF_WEIGHTS * 4 * model.count_params() + _GRAPH_BYTES


def _bytes(tensor: Any) -> int:
    return math.prod(tensor.shape) * tf.as_dtype(keras.backend.standardize_dtype(tensor.dtype)).size
