"""Several devices and processes: each has its part, and together they train what one would."""

import csv
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.quick_runs import leave_out_results
from helpers.worker_process import train_small

from keras_effnetv2.cli.main import main
from keras_effnetv2.runs.run_folder import open_run
from keras_effnetv2.training import fit
from keras_effnetv2.training.workers import ALONE, Workers, connect, current_workers, explained

TESTS = Path(__file__).parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder, count, index, port):
    words = ["-m", "helpers.worker_process", folder, count, index, port]
    return subprocess.Popen(
        [sys.executable, *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=TESTS,
    )


def test_each_worker_has_an_equal_part():
    assert ALONE.local_batch_size(7) == 7
    assert ALONE.shard is None
    second = Workers(index=1, count=2, devices=8)
    assert second.local_batch_size(64) == 32
    assert second.shard == (1, 2)
    assert not second.is_first
    with pytest.raises(ValueError, match=r"multiple of 8 .* Received: 60"):
        second.local_batch_size(60)


def test_devices_of_tensorflow_have_batch_norm_statistics_of_their_own():
    assert Workers(devices=4).batch_norm_batch(64) == 16


def test_devices_of_jax_have_batch_norm_statistics_of_all(on_jax):
    assert Workers(devices=4).batch_norm_batch(64) == 64


def test_without_others_there_is_one():
    assert current_workers() == ALONE


def test_processes_need_jax():
    with pytest.raises(ValueError, match=r"set KERAS_BACKEND=jax.*'tensorflow'"):
        connect("localhost:1", 2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--workers", "2"), "--workers needs --coordinator"),
        (("--mirrored", "--coordinator", "localhost:1"), "Choose one of --mirrored"),
        (("--coordinator", "localhost:1"), "KERAS_BACKEND=jax"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path, capsys):
    assert main(["train", "--data", "digits", "--output", str(tmp_path / "run"), *options]) == 1
    assert message in capsys.readouterr().err


def test_mirrored_trains_through_its_strategy(tmp_path, monkeypatch):
    """tests/test_fit_devices.py trains on two devices."""
    given = {}
    monkeypatch.setattr(fit, "train", lambda *args, **options: given.update(options))
    assert main(["train", "--mirrored", "--data", "digits", "--output", str(tmp_path / "run")]) == 0
    assert isinstance(given["strategy"], tf.distribute.MirroredStrategy)


def test_a_failed_exchange_says_what_it_means():
    with (
        pytest.raises(
            RuntimeError, match=r"^Worker 0 of 2 cannot continue.*--resume.*Gloo lost it$"
        ),
        explained(Workers(0, 2, 2)),
    ):
        raise ValueError("Gloo lost it\nand more")
    for workers, message in ((ALONE, "Gloo lost it"), (Workers(0, 2, 2), "shapes differ")):
        with pytest.raises(ValueError, match=message), explained(workers):
            raise ValueError(message)


@pytest.mark.slow  # two processes that start JAX and compile
def test_two_jax_processes_train_what_one_trains_and_the_death_of_one_ends_the_other(
    tmp_path, monkeypatch
):
    port = free_port()
    pair = [start(tmp_path, 2, index, port) for index in range(2)]
    with monkeypatch.context() as patch:
        leave_out_results(patch)
        alone = train_small(tmp_path / "one", eager=True)
    deadline = time.monotonic() + 400
    while not list(tmp_path.glob("endless/backup/after-[1-9]*.safetensors")):
        assert time.monotonic() < deadline
        assert pair[0].poll() is None, pair[0].communicate()[0]
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGKILL)
    printed = [process.communicate(timeout=200)[0] for process in pair]
    assert pair[0].returncode != 0
    assert "Worker 0 of 2 cannot continue, because another one has ended" in printed[0]

    run = open_run(tmp_path / "two")
    for one, two in zip(alone.model.get_weights(), run.model.get_weights(), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    assert run.settings.result["validation_accuracy"] == alone.evaluation.accuracy
    rows = list(csv.DictReader((tmp_path / "two" / "history.csv").open()))
    for column in ("batch_size", "learning_rate", "loss", "accuracy"):
        found = [float(row[column]) for row in rows]
        assert found == pytest.approx(alone.history[column], rel=1e-4)
    # On JAX the run is whole but for the export.
    names = {path.name for path in (tmp_path / "two").iterdir()}
    tables = {"history.csv", "pictures.csv", "confusion.csv"}
    assert names == tables | {"model.keras", "labels.txt", "recipe.json", "report.html"}
    assert run.settings.versions["backend"] == "jax"
    export = f"KERAS_BACKEND=tensorflow keras-effnetv2 export {tmp_path / 'two'}"
    assert [export in text for text in printed] == [True, False]
