"""Snapshots of a training: its whole state on disk, to resume it bit for bit.

A snapshot is one safetensors file with the values of all variables (weights, BatchNormalization
statistics, optimizer with loss scale, the averages of `EMA`, random generators, running means of
the metrics), and notes and weights of the caller. Its SHA-256 is next to it, as `sha256sum --check`
reads it. The file's name says how far the training had come; it gets that name once file and
checksum are complete and on the disk.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from safetensors import SafetensorError, safe_open

from keras_effnetv2._common.checks import check_integer, check_number
from keras_effnetv2._common.files import (
    file_sha256,
    remove,
    write_text,
    written_whole,
)
from keras_effnetv2._common.text import counted
from keras_effnetv2.pretrained.keras_files import SNAPSHOT_WEIGHTS
from keras_effnetv2.recipes.stages import StagePlan
from keras_effnetv2.recipes.tensorflow_variables import is_plain, read_plain
from keras_effnetv2.training.interruption import StopSignals

_NAME = re.compile(r"after-(\d+)-epochs(?:-(\d+)-batches)?\.safetensors")

# Groups of arrays, the beginnings of their names. Those of an epoch are set anew when one begins.
_KEPT = "kept/"
_OF_EPOCH = ("random/", "metric/")
_SHORT_TYPES = {"bool": "BOOL", "bfloat16": "BF16"}  # as safetensors calls them; else "F32" etc.

# On disk, four bytes each for a parameter: weights, average and two optimizer slots.
_BYTES_PER_PARAMETER = 4 * 4


@dataclass(frozen=True)
class Saving:
    """Where, how often and how long the state of a training is kept; see `train`."""

    folder: Path
    keep: int = 2
    minutes: float | None = None

    def __post_init__(self) -> None:
        check_integer("keep_snapshots", self.keep, minimum=1)
        check_number("snapshot_minutes", self.minutes, minimum=0, or_none=True)

    def needed_bytes(self, model: keras.Model) -> int:
        """Return their size on disk, with that of a stage's beginning, while one is written."""
        return (self.keep + 2) * _BYTES_PER_PARAMETER * model.count_params()


@dataclass(frozen=True)
class Snapshot:
    """A complete, undamaged snapshot."""

    path: Path
    epochs: int  # done
    batches: int  # done of the epoch after those
    notes: Mapping[str, Any]  # what the caller gave to be kept

    def kept_weights(self) -> list[np.ndarray]:
        """Read the weights that the caller gave to be kept."""
        return _read(self.path, _KEPT)


def latest_snapshot(folder: Path, say: Callable[[str], Any]) -> Snapshot | None:
    """Return the newest undamaged snapshot; None if none was written yet.

    `say` is called for each damaged one. ValueError: all are damaged.
    """
    paths = _snapshots(folder)
    for path in reversed(paths):
        reason = _damage(path)
        if reason is None:
            try:
                with safe_open(path, "numpy") as file:
                    # Not by `parse_json`: a figure of an epoch may be NaN.
                    notes = dict(json.loads(file.metadata()["notes"]))
            except (SafetensorError, LookupError, TypeError, ValueError, RecursionError):
                reason = "it has no notes of a training"
        if reason is None:
            if path is not paths[-1]:
                say(f"Continuing from {path.name} instead.")
            return Snapshot(path, *_progress(path), notes)
        say(f"Skipped {path}: {reason}.")
    if paths:
        raise ValueError(
            "The run cannot be resumed, because all its snapshots are damaged: "
            f"{', '.join(str(path) for path in paths)}. Put a copy in their place or start again "
            "(--overwrite, overwrite=True)."
        )
    return None


def go_back(folder: Path, epochs: int, say: Callable[[str], Any]) -> Snapshot | None:
    """Remove the snapshots from after an epoch, and return the newest of the others."""
    for path in _snapshots(folder):
        if _progress(path) > (epochs, 0):
            remove(path)
            remove(_checksum_file(path))
    return latest_snapshot(folder, say)


class Snapshots(keras.callbacks.Callback):
    """Saves the state of a training when it begins, after every epoch, and within epochs.

    A state that is not finite is not saved and ends the training. Put this callback after those
    whose state it saves. Files are written while the training continues, so call `close` after it.

    Args:
        saving: where the snapshots are, how many to keep, and the time between those in an epoch.
        resumed: the snapshot to resume from; None starts with the model as it is.
        notes: returns what else to save, plain data for JSON.
        kept: returns further weights to save.
        signals: if one of them is noted, the state is saved and the training ends.
        is_writer: False if another process writes the snapshots.
        plan: the stages, if the state with which the current one began is kept, too.

    Raises:
        RuntimeError: the loss or a weight is not finite, in `fit`.
        TrainingInterrupted: a signal was noted, in `fit`.
        OSError: a snapshot could not be written, in `fit` or `close`.
    """

    def __init__(
        self,
        saving: Saving,
        resumed: Snapshot | None,
        notes: Callable[[], Mapping[str, Any]],
        signals: StopSignals,
        is_writer: bool = True,
        kept: Callable[[], Sequence[np.ndarray]] = tuple,
        plan: StagePlan | None = None,
    ) -> None:
        super().__init__()
        self._saving = saving
        self._resumed = resumed
        self._notes = notes
        self._signals = signals
        self._is_writer = is_writer
        self._kept = kept
        self._plan = plan
        self._seconds = math.inf if saving.minutes is None else 60 * saving.minutes
        # What is newer than the one resumed from is damaged.
        found = _snapshots(saving.folder)
        self._whole = [] if resumed is None else found[: found.index(resumed.path) + 1]
        self._epoch = 0
        self._skipped = 0
        self._saved_at = 0.0
        self._finite_loss: float | None = None
        self._writer = ThreadPoolExecutor(1, "snapshots")
        self._writing: Future[None] | None = None

    def close(self) -> None:
        """Wait until the last snapshot is on the disk, and end the thread that writes."""
        self._writer.shutdown()
        self._wait()

    def _wait(self) -> None:
        if self._writing is not None:
            self._writing.result()

    def on_train_begin(self, logs: Any = None) -> None:
        if self._resumed is None:
            # So that a run can be resumed in its first epoch though its weights are random.
            self._save(0, 0)
        else:
            state = _state(self.model)
            for group in state.keys() - _OF_EPOCH:
                _restore(self._resumed.path, group, state[group])
        self._saved_at = time.monotonic()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self._signals.received is not None:
            self._wait()
            self._signals.raise_received(f"after {counted(epoch, 'epoch')}.")
        self._epoch = epoch
        self._skipped = 0
        if self._resumed is not None and self._resumed.batches:
            self._skipped = self._resumed.batches
            state = _state(self.model)
            for group in _OF_EPOCH:
                _restore(self._resumed.path, group, state[group])
        self._resumed = None

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        loss = float(logs["loss"])  # mean over the epoch so far: one bad batch shows to its end
        if not math.isfinite(loss):
            raise self._error(f"the loss is not finite ({loss})")
        self._finite_loss = loss
        if self.model.stop_training:
            return  # the last batch: a state without any batch to come could not be gone on from
        is_due = time.monotonic() - self._saved_at >= self._seconds
        if is_due or self._signals.received is not None:
            done = self._skipped + batch + 1
            self._save(self._epoch, done)
            self._wait()
            self._signals.raise_received(
                f"in epoch {self._epoch + 1}, after {done} of its batches."
            )

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._save(epoch + 1, 0)

    def _save(self, epochs: int, batches: int) -> None:
        tensors = {
            f"{group}{index:05}/{variable.path}": _array(variable)
            for group, variables in _state(self.model).items()
            for index, variable in enumerate(variables)
        }
        for name, array in tensors.items():
            if name.startswith(SNAPSHOT_WEIGHTS) and not np.isfinite(array).all():
                raise self._error(f"the weight {name.split('/', 2)[2]} is not finite")
        if not self._is_writer:
            return
        tensors |= {f"{_KEPT}{index:05}": array for index, array in enumerate(self._kept())}
        within = f"-{batches}-batches" if batches else ""
        path = self._saving.folder / f"after-{epochs}-epochs{within}.safetensors"
        metadata = {"notes": json.dumps(self._notes())}
        self._wait()
        self._writing = self._writer.submit(self._write, path, tensors, metadata)
        self._saved_at = time.monotonic()

    def _write(
        self, path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
    ) -> None:
        self._saving.folder.mkdir(exist_ok=True)
        with written_whole(path) as scratch:
            checksum = _write_safetensors(scratch, tensors, metadata)
            write_text(_checksum_file(path), f"{checksum}  {path.name}\n")
        begun = self._begun(_progress(path)[0])
        self._whole = [*begun, *[*self._whole, path][-self._saving.keep :]]
        stay = {*self._whole, *map(_checksum_file, self._whole)}
        for other in self._saving.folder.iterdir():
            if other not in stay:
                remove(other)

    def _begun(self, epochs: int) -> list[Path]:
        """The state with which a stage began, if it is none of the newest."""
        if self._plan is None or epochs == self._plan.epochs:
            return []
        begun = (self._plan.at(epochs).start_epoch, 0)
        older = self._whole[: 1 - self._saving.keep] if self._saving.keep > 1 else self._whole
        return [path for path in older if _progress(path) == begun]

    def _error(self, what: str) -> RuntimeError:
        optimizer = self.model.optimizer
        rate = float(keras.ops.convert_to_numpy(optimizer.learning_rate))
        self._wait()
        before = "none" if self._finite_loss is None else f"{self._finite_loss:.4g}"
        kept = _snapshots(self._saving.folder)
        where = f"the last good state is kept in {kept[-1]}" if kept else "no state was saved yet"
        return RuntimeError(
            f"Training failed: {what} in epoch {self._epoch + 1}, after optimizer step "
            f"{int(optimizer.iterations)}; last finite loss: {before}, learning rate: {rate:.3g}; "
            f"{where}. Resuming would fail in the same way: start a new run with a lower learning "
            "rate (--learning-rate, learning_rate=) or with gradient clipping (gradient_clip of "
            "the recipe). It can start from the weights of that state (--weights, weights=)."
        )


def random_states(model: keras.Model) -> list[Any]:
    """Return the variables that random layers (dropout, stochastic depth) draw from."""
    return [variable for variable in model.variables if variable.name == "seed_generator_state"]


def _state(model: keras.Model) -> dict[str, list[Any]]:
    """All variables of a training, in groups."""
    averages = getattr(model.optimizer, "weight_averages", None)
    return {
        SNAPSHOT_WEIGHTS: model.weights,
        "optimizer/": model.optimizer.variables,
        "averages/": [] if averages is None else averages.weights,
        "random/": random_states(model),
        "metric/": model.metrics_variables,
    }


def _array(variable: Any) -> np.ndarray:
    """The value of a variable, in TensorFlow without the copies that Keras makes on a CPU.

    It stays as it is: TensorFlow copies a value that is in use before it changes it.
    """
    if is_plain(variable):
        return np.asarray(read_plain(variable.value))
    return np.asarray(keras.ops.convert_to_numpy(variable), order="C")


def _write_safetensors(
    path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str]
) -> str:
    """Write a safetensors file, and return its SHA-256.

    The library's `save_file` has another file beside it, which a killed process leaves behind, and
    its error for a full disk is not an OSError; its `save` takes twice the time and memory.
    """
    header: dict[str, Any] = {"__metadata__": metadata}
    end = 0
    for name, array in tensors.items():
        begin, end = end, end + array.nbytes
        short = f"{array.dtype.kind.upper()}{8 * array.dtype.itemsize}"
        header[name] = {
            "dtype": _SHORT_TYPES.get(array.dtype.name, short),
            "shape": array.shape,
            "data_offsets": (begin, end),
        }
    text = json.dumps(header).encode("ascii")
    parts: list[Any] = [len(text).to_bytes(8, "little"), text]
    parts += [array.reshape(-1).view(np.uint8) for array in tensors.values()]
    sha256 = hashlib.sha256()
    with open(path, "wb") as file:
        for part in parts:
            file.write(part)
            sha256.update(part)
    return sha256.hexdigest()


def _read(path: Path, group: str) -> list[np.ndarray]:
    """The arrays of a group, in their order."""
    with safe_open(path, "numpy") as file:
        names = (name for name in file.keys() if name.startswith(group))  # noqa: SIM118
        return [file.get_tensor(name) for name in sorted(names)]


def _restore(path: Path, group: str, variables: Sequence[Any]) -> None:
    """Set variables to the values that a snapshot has of them."""
    arrays = _read(path, group)
    if [array.shape for array in arrays] != [tuple(one.shape) for one in variables]:
        raise ValueError(
            f"{path} is of another network or optimizer ({group}: {len(arrays)} arrays for "
            f"{len(variables)} variables, or other shapes). Resume with the model of the run."
        )
    for variable, array in zip(variables, arrays, strict=True):
        variable.assign(array)


def _snapshots(folder: Path) -> list[Path]:
    """The files in a folder that are snapshots by their names, the oldest first."""
    return sorted((p for p in folder.glob("*") if _NAME.fullmatch(p.name)), key=_progress)


def _progress(path: Path) -> tuple[int, int]:
    """(Epochs done, batches done of the next one), from the name of a snapshot."""
    match = _NAME.fullmatch(path.name)
    assert match is not None
    return int(match[1]), int(match[2] or 0)


def _checksum_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _damage(path: Path) -> str | None:
    """What is wrong with a snapshot, in words; None if it is whole."""
    try:
        if path.stat().st_size == 0:
            return "it is empty"
        recorded = _checksum_file(path).read_text("ascii").split()
        if recorded[:1] != [file_sha256(path)]:
            return f"it is damaged (its SHA-256 is not the one in {_checksum_file(path).name})"
    except (OSError, ValueError) as error:
        return f"it cannot be checked ({error})"
    return None
