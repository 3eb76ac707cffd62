"""Training steps and predictions of networks, timed in turns, on any backend and within memory."""

import gc
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import keras
import numpy as np

from benchmarks.paper.tables import Entry, Task
from keras_effnetv2._common.machine import is_out_of_memory
from keras_effnetv2._common.timing import measure, time_ratio
from keras_effnetv2.export.real_pictures import photographs
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.models.multiply_adds import count_flops
from keras_effnetv2.recipes.optimizers import RMSprop
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.training.assemble import jit_compile
from keras_effnetv2.training.footprint import memory_shortage, training_shortage

OUT_OF_MEMORY = "OOM"
_CALLS = 2  # timed, in each turn
_WEIGHT_DECAY = 1e-5  # as in the official training
_FLOAT_BYTES = 4
_LIVE_OUTPUTS = 4  # that a compiled prediction holds at once; measured: 2, and rarely more
_RUNTIME_BYTES = 300_000_000  # of a compiled function, as in `training.footprint`


@dataclass(frozen=True)
class Measured:
    """One entry of a table in one task at one batch size.

    Attributes:
        entry: what was measured.
        task: what was timed.
        batch_size: pictures at once.
        image_size: pixels.
        parameters: trainable.
        flops: multiply-adds of one picture of `entry.flops_size`.
        seconds: (rounds, calls) for a batch; None if there is an obstacle.
        obstacle: why it was not timed: "OOM", or the memory that it needs; None if it was.
    """

    entry: Entry
    task: Task
    batch_size: int
    image_size: int
    parameters: int
    flops: int
    seconds: np.ndarray | None
    obstacle: str | None

    def throughput(self) -> float | None:
        """Return pictures a second, from the median; None if there is an obstacle."""
        return None if self.seconds is None else self.batch_size / float(np.median(self.seconds))

    def speed(self, other: "Measured") -> float | None:
        """Return how many times as fast it was as another that had its turns beside it.

        Args:
            other: of the same call of `measure_group`.

        Returns:
            Above 1 is faster; None if one of the two has an obstacle.
        """
        if self.seconds is None or other.seconds is None:
            return None
        return time_ratio(other.seconds, self.seconds)


def measure_group(
    entries: Sequence[Entry],
    task: Task,
    batch_size: int,
    scale: float,
    rounds: int,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Measured]:
    """Time networks in turns, so that a noisy machine is noisy for all of them.

    Weights are drawn; speed does not depend on them. A network that does not fit in memory is left
    out. On a CPU it is not even tried where the estimate says so, because there the system would
    end the process.

    Args:
        entries: the networks; the first is what others are compared with.
        task: "training" times whole steps (forward, loss, gradient, RMSprop's update, batch norms
            in training), "inference" predictions.
        batch_size: pictures at once.
        scale: sides of pictures over the original ones.
        rounds: turns of each network, at least 1.
        progress: is told what is being done.

    Returns:
        One for each entry.
    """
    runs = []
    for entry in entries:
        progress(f"{entry.label}, {task}, {batch_size} at once: first call")
        runs.append(_Run(entry, task, batch_size, round(entry.image_size[task] * scale)))

    def count(finished: int) -> None:
        progress(f"{task}, {batch_size} at once: round {finished} of {rounds}")

    times = measure(runs, rounds, _CALLS, count)
    return [
        Measured(
            run.entry,
            task,
            batch_size,
            run.image_size,
            run.parameters,
            run.flops,
            None if run.obstacle else seconds,
            run.obstacle,
        )
        for run, seconds in zip(runs, times, strict=True)
    ]


class _Run:
    """A network that is called in turns, until it runs out of memory; then it is let go."""

    def __init__(self, entry: Entry, task: Task, batch_size: int, image_size: int) -> None:
        model = build_model(entry.config)
        self.entry = entry
        self.image_size = image_size
        self.parameters = count_trainable(model)
        self.flops = count_flops(model, entry.flops_size)
        self.obstacle = _shortage(model, task, batch_size, image_size)
        self._step: Callable[[], object] | None = None
        if self.obstacle is None:
            pictures = photographs(image_size)
            images = np.resize(pictures, (batch_size, *pictures.shape[1:]))
            self._step = self._guard(partial(PREPARE[task], model, images))
        # The estimate for the next network has to see the memory that this one takes.
        self()

    def __call__(self) -> None:
        if self._step is not None:
            self._guard(self._step)

    def _guard(self, action: Callable[[], Any]) -> Any:
        try:
            return action()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            self._step = None
            self.obstacle = OUT_OF_MEMORY
        gc.collect()  # models hold themselves in cycles
        return None


def _training_step(model: keras.Model, images: np.ndarray) -> Callable[[], object]:
    """Return a function that trains on a batch, and comes back when the step is done.

    What Keras returns are numbers, not tensors, so that a device that works behind our back has
    finished.
    """
    model.compile(
        RMSprop(weight_decay=_WEIGHT_DECAY),
        "sparse_categorical_crossentropy",
        jit_compile=jit_compile(),
    )
    labels = np.arange(len(images)) % model.output_shape[-1]
    return partial(
        model.train_on_batch,
        keras.ops.convert_to_tensor(images),
        keras.ops.convert_to_tensor(labels),
    )


def _prediction(model: keras.Model, images: np.ndarray) -> Callable[[], object]:
    """Return a function that predicts for a batch, and comes back with a NumPy array."""
    return partial(model.predict_on_batch, keras.ops.convert_to_tensor(images))


PREPARE: dict[Task, Callable[[keras.Model, np.ndarray], Callable[[], object]]] = {
    "training": _training_step,
    "inference": _prediction,
}


# --- memory -------------------------------------------------------------------------------------


def _shortage(model: keras.Model, task: Task, batch_size: int, image_size: int) -> str | None:
    """Say what a network needs, if it is more main memory than there is."""
    if task == "inference":
        lacking = memory_shortage(_inference_memory(model, batch_size, image_size))
    else:
        plan = progressive_stages(epochs=1, stages=1, image_size=image_size, batch_size=batch_size)
        lacking = training_shortage(model, plan)
    return None if lacking is None else f"not tried: {lacking}"


def _inference_memory(model: keras.Model, batch_size: int, image_size: int) -> int:
    """Estimate the memory that predictions take, bytes.

    Args:
        model: a functional model without nested ones, of one picture.
        batch_size: pictures at once.
        image_size: pixels.
    """
    probe = keras.Model(model.inputs, [layer.output for layer in model.layers])
    specs = probe.compute_output_spec(keras.KerasTensor((1, image_size, image_size, 3)))
    outputs = [_FLOAT_BYTES * math.prod(spec.shape) for spec in specs]
    # A compiled function lets go of what it needs no more; Keras' loop over layers, which PyTorch
    # goes through, keeps the output of each until the end.
    is_compiled = keras.backend.backend() != "torch"
    held = _LIVE_OUTPUTS * max(outputs) if is_compiled else sum(outputs)
    return batch_size * held + _FLOAT_BYTES * model.count_params() + _RUNTIME_BYTES
