"""Training on several devices and machines: which worker a process is, and its part of each batch.

The batch size of a recipe is the global one: so the learning rate and the number of steps
do not depend on the number of devices, and n workers train what one would train, except for the
partners of mixup and the draws of dropout.

- One machine, TensorFlow: `train(..., strategy=tf.distribute.MirroredStrategy())`.
  Each device has its own batch norm statistics and clips its own part of the gradients there.
- One machine, JAX: `keras.distribution.set_distribution(keras.distribution.DataParallel())`.
- Several machines or processes, JAX: each calls `connect` before anything else of JAX. (Keras 3
  cannot train with TensorFlow's strategy for several machines: keras issue 20585.)
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import keras
import tensorflow as tf

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.text import first_line

# Seconds. JAX waits 100 for the sign of life of a worker, 300 for all of them at the end.
_HEARTBEAT_TIMEOUT = 30
_SHUTDOWN_TIMEOUT = 30

# In what JAX says of a failed exchange: the libraries that do it, and the service that counts who
# is there.
_EXCHANGE_WORDS = ("Gloo", "NCCL", "heartbeat", "coordination service", "CoordinationService")


@dataclass(frozen=True)
class Workers:
    """The processes of a training, as one of them sees it; every device has an equal part."""

    index: int = 0  # of this process; the first one writes the run folder
    count: int = 1  # of processes
    devices: int = 1  # of all processes together

    @property
    def is_first(self) -> bool:
        """Whether this process writes the files of the run."""
        return self.index == 0

    @property
    def shard(self) -> tuple[int, int] | None:
        """Its part of a data set: (index, count), as `make_dataset` takes it; None for all."""
        return None if self.count == 1 else (self.index, self.count)

    def local_batch_size(self, batch_size: int) -> int:
        """Return this process' part of a global batch size; ValueError if it cannot be divided."""
        if batch_size % self.devices:
            raise ValueError(
                f"A batch is divided equally among the {self.devices} devices of this training: "
                f"choose a multiple of {self.devices} (--batch-size, batch_size=). Received: "
                f"{batch_size}"
            )
        return batch_size // self.count

    def batch_norm_batch(self, batch_size: int) -> int:
        """Return how many pictures of a global batch share a batch norm's statistics.

        TensorFlow has statistics for each device, JAX one for the whole batch.
        """
        return batch_size if keras.backend.backend() == "jax" else batch_size // self.devices


ALONE = Workers()
"""One process with one device."""


def current_workers(strategy: tf.distribute.Strategy | None = None) -> Workers:
    """Return this process' place, as the backend and TensorFlow's strategy describe it."""
    if strategy is not None:
        if keras.backend.backend() != "tensorflow" or not isinstance(
            strategy, tf.distribute.MirroredStrategy | tf.distribute.OneDeviceStrategy
        ):
            raise ValueError(
                "`strategy` must be a tf.distribute.MirroredStrategy, with the TensorFlow backend; "
                "several machines train together with JAX, see `training.workers`. "
                f"Received: {strategy!r} with the backend {keras.backend.backend()!r}"
            )
        return Workers(devices=strategy.num_replicas_in_sync)
    distribution = keras.distribution.distribution()
    if keras.backend.backend() != "jax" or distribution is None:
        return ALONE
    import jax

    devices = distribution.device_mesh.devices.size
    return Workers(jax.process_index(), jax.process_count(), devices)


def connect(coordinator: str, count: int, index: int) -> Workers:
    """Connect this process to the others of one JAX training; wait until all have joined.

    Args:
        coordinator: HOST:PORT of worker 0, which all can reach.
        count: number of processes.
        index: of this one, from 0.

    Returns:
        What `current_workers` returns from now on, in `train`, too. A model given to `train` must
        have the same weights in all processes: call `keras.utils.set_random_seed` before.

    Raises:
        RuntimeError: not all workers joined within five minutes, or JAX was used before.
        ValueError: the backend is not JAX, or the numbers are impossible.
    """
    if keras.backend.backend() != "jax":
        raise ValueError(
            "Several processes train together with the JAX backend: set KERAS_BACKEND=jax. "
            f"Received: the backend {keras.backend.backend()!r}"
        )
    check_integer("count", count, minimum=1)
    check_integer("index", index, minimum=0, maximum=count - 1)
    if not coordinator.rpartition(":")[2].isdecimal():
        raise ValueError(
            "The address of worker 0 must be HOST:PORT, for example 10.0.0.1:1234. "
            f"Received: {coordinator!r}"
        )
    import jax

    # Not keras.distribution.initialize, which has no time limits.
    try:
        jax.distributed.initialize(
            coordinator,
            count,
            index,
            heartbeat_timeout_seconds=_HEARTBEAT_TIMEOUT,
            shutdown_timeout_seconds=_SHUTDOWN_TIMEOUT,
        )
    except RuntimeError as error:
        raise RuntimeError(
            f"Worker {index} of {count} could not connect through {coordinator}: "
            f"{first_line(error)}. Start all workers within five minutes, with the same "
            "address, before anything else uses JAX."
        ) from error
    keras.distribution.set_distribution(keras.distribution.DataParallel(auto_shard_dataset=False))
    return current_workers()


@contextlib.contextmanager
def explained(workers: Workers) -> Iterator[None]:
    """Turn a failed exchange with other workers into a RuntimeError that explains it."""
    try:
        yield
    except Exception as error:
        if workers.count == 1 or not any(word in str(error) for word in _EXCHANGE_WORDS):
            raise
        raise RuntimeError(
            f"Worker {workers.index} of {workers.count} cannot continue, because another one has "
            "ended or cannot be reached; its own output says why. Start all of them again from "
            f"the last snapshot (--resume, resume=True). JAX says: {first_line(error)}"
        ) from error


def wait_for_all(workers: Workers) -> None:
    """Wait until every worker has arrived."""
    if workers.count > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices("keras_effnetv2")


@contextlib.contextmanager
def undistributed() -> Iterator[None]:
    """Let Keras make variables for this process alone, as it does when it saves."""
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def local_copy(model: keras.Model) -> keras.Model:
    """Return a copy of a model on one device; call it `undistributed`, outside of a strategy."""
    copy = keras.models.clone_model(model)
    copy.set_weights(model.get_weights())
    return copy
