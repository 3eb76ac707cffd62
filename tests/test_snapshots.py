"""Snapshots: all state and nothing else, whole at any moment, damaged ones skipped with a word.

The network is one dropout and one dense layer; what is tested is what lies on the disk.
"""

import os
import re
import subprocess
import threading

import keras
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from keras_effnetv2._common import files
from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.training.interruption import StopSignals
from keras_effnetv2.training.snapshots import Saving, Snapshots, latest_snapshot, random_states

X = np.random.default_rng(0).normal(size=(24, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def make_model(optimizer=None):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(1)(keras.layers.Dropout(0.5)(inputs)))
    model.compile(optimizer or keras.optimizers.Adam(0.1), "mse", metrics=["mae"], run_eagerly=True)
    model.optimizer.build(model.trainable_variables)
    model.compute_metrics(None, Y[:1], Y[:1])
    return model


class AtOnce(Snapshots):
    """Waits for each file, so that a test can look at it."""

    def _save(self, *progress):
        super()._save(*progress)
        self._wait()


def make_snapshots(folder, model, resumed=None, *, keep=2, minutes=None, notes=dict):
    snapshots = AtOnce(Saving(folder, keep, minutes), resumed, notes, StopSignals(folder))
    snapshots.set_model(model)
    model.stop_training = False
    return snapshots


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail(line):
    pytest.fail(line)


def train(folder, model, *, epochs, resumed=None, callbacks=(), **options):
    """Batches of 4, as `train` orders its callbacks; 6 an epoch."""
    snapshots = make_snapshots(folder, model, resumed, **options)
    return model.fit(
        X,
        Y,
        batch_size=4,
        shuffle=False,
        epochs=epochs,
        initial_epoch=0 if resumed is None else resumed.epochs,
        callbacks=[EMA(0.9), *callbacks, snapshots],
        verbose=0,
    )


# --- what is kept -------------------------------------------------------------------------------


def test_the_newest_two_stay_with_their_checksums(tmp_path):
    folder = tmp_path / "backup"
    snapshots = make_snapshots(folder, make_model())
    for epoch in range(8, 11):  # "9" sorts after "10" as text
        snapshots.on_epoch_end(epoch)
    expected = [f"after-{n}-epochs.safetensors{end}" for n in (10, 11) for end in ("", ".sha256")]
    assert names(folder) == expected
    found = latest_snapshot(folder, fail)
    assert (found.path.name, found.epochs, found.batches) == (expected[2], 11, 0)
    check = ["sha256sum", "--check", "--strict", expected[1], expected[3]]
    assert subprocess.run(check, cwd=folder, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("notes", ["{", "[1]", "[" * 10**5, "", None])
def test_a_file_with_other_notes_is_no_snapshot(tmp_path, notes):
    """Its checksum is right: somebody made it so."""
    model = make_model()
    snapshots = make_snapshots(tmp_path, model, notes=lambda: {"rows": []})
    snapshots.on_train_begin()
    snapshots.on_epoch_end(0)
    path = tmp_path / "after-1-epochs.safetensors"
    save_file(load_file(path), path, None if notes is None else {"notes": notes})
    (tmp_path / f"{path.name}.sha256").write_text(f"{files.file_sha256(path)}  {path.name}\n")
    said = []
    assert latest_snapshot(tmp_path, said.append).epochs == 0
    assert said == [
        f"Skipped {path}: it has no notes of a training.",
        "Continuing from after-0-epochs.safetensors instead.",
    ]


@pytest.fixture
def limit_file_size():
    """A function that limits the size of the files that this process may write."""
    resource = pytest.importorskip("resource")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    yield lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_file_that_may_not_be_as_large_is_an_error_and_the_one_before_stays(
    tmp_path, limit_file_size
):
    snapshots = make_snapshots(tmp_path, make_model())
    snapshots.on_train_begin()
    kept = names(tmp_path)
    limit_file_size(1_000)
    with pytest.raises(OSError, match=r"File too large: '.*after-1-epochs\.safetensors'"):
        snapshots.on_epoch_end(0)
    assert names(tmp_path) == kept
    assert latest_snapshot(tmp_path, fail).epochs == 0


@pytest.mark.parametrize("run_eagerly", [True, False])
def test_a_training_goes_on_while_a_slow_disk_writes_the_state_of_the_moment(tmp_path, run_eagerly):
    model, other = make_model(), make_model()
    model.run_eagerly = run_eagerly
    snapshots = Snapshots(Saving(tmp_path), None, dict, StopSignals(tmp_path))
    snapshots.set_model(model)
    model.train_on_batch(X, Y)
    slow = threading.Event()
    snapshots._writer.submit(slow.wait)
    snapshots.on_epoch_end(0)
    before = state_of(model)
    model.train_on_batch(X, Y)
    assert names(tmp_path) == []
    slow.set()
    snapshots.close()
    other.train_on_batch(X, Y)
    make_snapshots(tmp_path, other, latest_snapshot(tmp_path, fail)).on_train_begin()
    for saved, then in zip(state_of(other), before, strict=True):
        np.testing.assert_array_equal(saved, then)
    for saved, now in zip(other.get_weights(), model.get_weights(), strict=True):
        assert (saved != now).any()


def test_a_failure_to_write_is_raised_in_the_end(tmp_path, limit_file_size):
    snapshots = Snapshots(Saving(tmp_path), None, dict, StopSignals(tmp_path))
    snapshots.set_model(make_model())
    limit_file_size(1_000)
    snapshots.on_train_begin()
    with pytest.raises(OSError, match="File too large"):
        snapshots.close()


def test_without_a_snapshot_there_is_nothing_to_go_on_from(tmp_path):
    assert latest_snapshot(tmp_path / "none", fail) is None
    (tmp_path / ".writing-after-1-epochs.safetensors").write_bytes(b"half")
    assert latest_snapshot(tmp_path, fail) is None


def test_weights_averages_and_the_rest_stand_in_it_by_name(tmp_path):
    model = make_model()
    train(tmp_path, model, epochs=1)
    tensors = load_file(latest_snapshot(tmp_path, fail).path)
    kernel, bias = model.weights
    assert [name for name in tensors if name.startswith("model/")] == [
        f"model/00000/{kernel.path}",
        f"model/00001/{bias.path}",
    ]
    # The averages, as the model has them after `fit`; the raw weights are beside them.
    np.testing.assert_array_equal(tensors[f"model/00000/{kernel.path}"], kernel)
    raw = next(tensors[name] for name in tensors if name.startswith("averages/00000/"))
    assert raw.shape == (3, 1)
    assert (raw != kernel.numpy()).all()


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_any_type_comes_back(tmp_path, dtype):
    model, other = (keras.Sequential([keras.layers.Dense(2, dtype=dtype)]) for _ in range(2))
    for one in (model, other):
        one.build((None, 3))
        one.compile("sgd", "mse")
    make_snapshots(tmp_path, model).on_train_begin()
    make_snapshots(tmp_path, other, latest_snapshot(tmp_path, fail)).on_train_begin()
    assert other.weights[0].dtype == dtype
    np.testing.assert_array_equal(*(np.asarray(one.weights[0]) for one in (model, other)))


def test_the_state_of_another_network_is_refused(tmp_path):
    make_snapshots(tmp_path, make_model()).on_train_begin()
    other = make_model(OPTIMIZERS["rmsprop"]())
    resumed = make_snapshots(tmp_path, other, latest_snapshot(tmp_path, fail))
    with pytest.raises(ValueError, match=r"another network or optimizer \(optimizer/: 6 arrays"):
        resumed.on_train_begin()


def test_what_was_noted_comes_back(tmp_path):
    notes = {"rows": [{"loss": 0.1 + 0.2, "nan": float("nan")}], "name": "no utf-8 \udcff"}
    make_snapshots(tmp_path, make_model(), notes=lambda: notes).on_train_begin()
    found = latest_snapshot(tmp_path, fail)
    assert (found.epochs, found.batches) == (0, 0)
    assert found.notes["rows"][0]["loss"] == 0.1 + 0.2
    assert found.notes["name"] == "no utf-8 \udcff"


# --- going on -----------------------------------------------------------------------------------


class PowerCut(BaseException):
    """Not caught by anything, as a process that is killed does nothing more."""


class StopAt(keras.callbacks.Callback):
    def __init__(self, epoch, batch):
        super().__init__()
        self.moment = (epoch, batch)

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_end(self, batch, logs=None):
        if (self.epoch, batch) == self.moment:
            raise PowerCut


def state_of(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [keras.ops.convert_to_numpy(variable) for variable in variables]


OPTIMIZERS = {
    "adam": lambda: keras.optimizers.Adam(0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.9),
    "loss scale": lambda: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.01, momentum=0.9), dynamic_growth_steps=3
    ),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_all_state_is_that_of_a_training_that_ran_through(tmp_path, name):
    whole = make_model(OPTIMIZERS[name]())
    train(tmp_path / "whole", whole, epochs=3)
    with pytest.raises(PowerCut):
        train(tmp_path / "cut", make_model(OPTIMIZERS[name]()), epochs=3, callbacks=[StopAt(2, 3)])
    resumed = make_model(OPTIMIZERS[name]())
    resumed.layers[-1].kernel.assign(np.ones((3, 1)))  # of another process
    for state in random_states(resumed):
        state.assign([5, 5])
    found = latest_snapshot(tmp_path / "cut", fail)
    assert found.epochs == 2
    # Here nothing reseeds an epoch: the dropout goes on where it was.
    snapshots = make_snapshots(tmp_path / "cut", resumed, found)
    (saved,) = (one for name, one in load_file(found.path).items() if name.startswith("random/"))
    assert saved[1] == 2 * 6
    random_states(resumed)[0].assign(saved)
    resumed.fit(
        *(X, Y),
        batch_size=4,
        shuffle=False,
        epochs=3,
        initial_epoch=2,
        callbacks=[EMA(0.9), snapshots],
        verbose=0,
    )
    for ours, theirs in zip(state_of(resumed), state_of(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)


def test_within_an_epoch_random_states_and_running_means_are_kept(tmp_path):
    model = make_model()
    with pytest.raises(PowerCut):
        train(tmp_path, model, epochs=2, minutes=0, callbacks=[StopAt(1, 3)])
    found = latest_snapshot(tmp_path, fail)
    assert (found.epochs, found.batches) == (1, 3)
    other = make_model()
    EMA(0.9).set_model(other)
    snapshots = make_snapshots(tmp_path, other, found)
    snapshots.on_train_begin()
    other.reset_metrics()
    snapshots.on_epoch_begin(1)
    # The cut came before the snapshot of the fourth batch; Keras' loss counts batches by samples.
    loss, mae = (metric.variables for metric in other.metrics)
    assert float(loss[1]) == float(mae[1]) == 3 * 4
    assert random_states(other)[0].numpy()[1] == 6 + 3
    assert int(other.optimizer.iterations) == 6 + 3
    snapshots.on_train_batch_end(0, {"loss": 1.0})
    other.reset_metrics()
    snapshots.on_epoch_begin(2)  # only the first epoch goes on
    assert float(other.metrics[0].variables[1]) == 0


# --- damage -------------------------------------------------------------------------------------


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


DAMAGE = {
    "flipped": (flip, r"its SHA-256 is not the one in after-2-epochs\.safetensors\.sha256"),
    "cut": (lambda path: os.truncate(path, path.stat().st_size // 2), "its SHA-256 is not"),
    "empty": (lambda path: os.truncate(path, 0), "it is empty"),
    "unsummed": (lambda path: os.unlink(f"{path}.sha256"), "cannot be checked"),
    "sum": (lambda path: os.truncate(f"{path}.sha256", 0), "its SHA-256 is not"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_snapshot_is_named_and_the_one_before_used(tmp_path, kind):
    damage, reason = DAMAGE[kind]
    train(tmp_path, make_model(), epochs=2)
    damage(tmp_path / "after-2-epochs.safetensors")
    said = []
    found = latest_snapshot(tmp_path, said.append)
    assert found.epochs == 1
    assert len(said) == 2
    assert said[0].startswith(f"Skipped {tmp_path / 'after-2-epochs.safetensors'}: it ")
    assert re.search(reason, said[0])
    assert said[1] == "Continuing from after-1-epochs.safetensors instead."


def test_a_damaged_snapshot_does_not_push_out_a_whole_one(tmp_path):
    train(tmp_path, make_model(), epochs=2)
    flip(tmp_path / "after-2-epochs.safetensors")
    found = latest_snapshot(tmp_path, lambda line: None)
    resumed = make_snapshots(tmp_path, make_model(), found)
    resumed.model.optimizer.weight_averages = None
    resumed.on_epoch_end(1)
    assert [path.name for path in sorted(tmp_path.glob("*.safetensors"))] == [
        "after-1-epochs.safetensors",
        "after-2-epochs.safetensors",
    ]
    assert latest_snapshot(tmp_path, fail).epochs == 2


def test_if_all_are_damaged_the_error_says_which_and_the_way_out(tmp_path):
    train(tmp_path, make_model(), epochs=2)
    for path in tmp_path.glob("*.safetensors"):
        flip(path)
    with pytest.raises(ValueError, match=r"after-1-.*, .*after-2-.*--overwrite"):
        latest_snapshot(tmp_path, lambda line: None)


@pytest.mark.parametrize("call", ["fsync", "replace", "unlink"])
def test_wherever_the_process_dies_a_whole_state_is_there(tmp_path, monkeypatch, call):
    """Dies before and after every such call of two saves; unlink is how old ones go."""
    real = getattr(os, call)
    model, other = make_model(), make_model()
    for after in (False, True):
        for number in range(30):
            folder = tmp_path / f"{after}-{number}"
            folder.mkdir()
            calls = []

            def dying(*args, after=after, number=number, calls=calls, **options):
                calls.append(args)
                is_last = len(calls) > number
                if is_last and not after:
                    raise PowerCut
                result = real(*args, **options)
                if is_last:
                    raise PowerCut
                return result

            model.layers[-1].bias.assign([0.0])
            snapshots = make_snapshots(folder, model, keep=1)
            snapshots.on_epoch_end(0)
            with monkeypatch.context() as patch:
                patch.setattr(files.os, call, dying)
                try:
                    for epoch in (1, 2):
                        model.layers[-1].bias.assign([float(epoch)])
                        snapshots.on_epoch_end(epoch)
                    is_through = True
                except PowerCut:
                    is_through = False
            found = latest_snapshot(folder, fail)
            make_snapshots(folder, other, found).on_train_begin()
            assert float(other.layers[-1].bias[0]) == found.epochs - 1
            if is_through:
                break
        assert is_through
        assert number >= 3


# --- numbers that are not finite ----------------------------------------------------------------


def test_a_loss_that_is_not_finite_ends_the_training_with_all_that_was_seen(tmp_path):
    y = Y.copy()
    y[9] = np.nan  # in the third batch
    model = make_model()
    with pytest.raises(RuntimeError) as caught:
        model.fit(
            *(X, y),
            batch_size=4,
            shuffle=False,
            callbacks=[make_snapshots(tmp_path, model)],
            verbose=0,
        )
    message = str(caught.value)
    assert "the loss is not finite (nan) in epoch 1, after optimizer step 3" in message
    assert "learning rate: 0.1;" in message
    assert f"kept in {tmp_path / 'after-0-epochs.safetensors'}" in message
    assert "lower learning rate (--learning-rate, learning_rate=)" in message
    expected = make_model()
    expected.fit(X[:8], Y[:8], batch_size=4, shuffle=False, verbose=0)
    loss = expected.history.history["loss"][0]
    assert f"last finite loss: {loss:.4g}," in message


def test_weights_that_are_not_finite_are_never_written(tmp_path):
    model = make_model()
    snapshots = make_snapshots(tmp_path, model)
    snapshots.on_train_begin()
    before = names(tmp_path)
    model.layers[-1].kernel.assign([[1.0], [np.inf], [2.0]])
    with pytest.raises(RuntimeError, match=r"weight dense.*/kernel is not finite in epoch 1"):
        snapshots.on_epoch_end(0)
    assert names(tmp_path) == before
