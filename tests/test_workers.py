"""Several devices and processes: each has its part, and together they train what one would."""

import csv
import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.quick_runs import some_digits

from keras_effnetv2.cli.main import main
from keras_effnetv2.training.workers import ALONE, Workers, connect, current_workers

TESTS = Path(__file__).parent


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(output, count, index, port, epochs=2):
    return run_process(
        [sys.executable, "-m", "helpers.worker_process", output, count, index, port, epochs]
    )


def run_process(words):
    return subprocess.Popen(
        [str(word) for word in words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        cwd=TESTS,
    )


def weights_of(run):
    return keras.models.load_model(run / "model.keras", compile=False).get_weights()


def test_each_worker_has_an_equal_part():
    assert ALONE.local_batch_size(7) == 7
    assert ALONE.shard is None
    second = Workers(index=1, count=2, devices=8)
    assert second.local_batch_size(64) == 32
    assert second.shard == (1, 2)
    assert not second.is_first
    with pytest.raises(ValueError, match=r"multiple of 8\. Received: batch_size=60"):
        second.local_batch_size(60)


def test_devices_of_tensorflow_have_batch_norm_statistics_of_their_own(monkeypatch):
    workers = Workers(devices=4)
    assert workers.batch_norm_batch(64) == 16
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    assert workers.batch_norm_batch(64) == 64


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
        (("--coordinator", "localhost:1", "--workers", "2"), "KERAS_BACKEND=jax"),
    ],
)
def test_options_that_do_not_go_together(options, message, tmp_path, capsys, monkeypatch):
    # With several workers the command ends the process itself.
    monkeypatch.setattr(os, "_exit", lambda code: None)
    assert main(["train", "--data", "digits", "--output", str(tmp_path / "run"), *options]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.slow  # three processes that start JAX and compile
def test_two_processes_train_what_one_trains(tmp_path):
    alone = start(tmp_path / "one", 1, 0, 0)
    printed = alone.communicate(timeout=300)[0]
    assert alone.returncode == 0, printed
    port = free_port()
    pair = [start(tmp_path / "two", 2, index, port) for index in range(2)]
    for process in pair:
        printed = process.communicate(timeout=300)[0]
        assert process.returncode == 0, printed
    for one, two in zip(weights_of(tmp_path / "one"), weights_of(tmp_path / "two"), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    settings = [json.loads((tmp_path / run / "recipe.json").read_text()) for run in ("one", "two")]
    assert (
        settings[0]["result"]["validation_accuracy"]
        == (settings[1]["result"]["validation_accuracy"])
    )
    rows = [list(csv.DictReader((tmp_path / run / "history.csv").open())) for run in ("one", "two")]
    for one, two in zip(*rows, strict=True):
        assert one["batch_size"] == two["batch_size"] == "16"
        for column in ("learning_rate", "loss", "accuracy"):
            assert float(two[column]) == pytest.approx(float(one[column]), rel=1e-4)


@pytest.mark.slow  # two processes that start JAX and compile
def test_a_worker_that_dies_ends_the_others_with_a_word_and_the_run_goes_on(tmp_path):
    port, run = free_port(), tmp_path / "run"
    first, second = (start(run, 2, index, port, epochs=400) for index in range(2))
    deadline = time.monotonic() + 240
    while not list(run.glob("backup/after-2-epochs.weights.h5")):
        assert time.monotonic() < deadline
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.1)
    second.send_signal(signal.SIGKILL)
    printed = first.communicate(timeout=200)[0]
    assert first.returncode != 0
    assert "Worker 0 of 2 cannot go on, because another one has ended" in printed
    assert "--resume" in printed
    second.communicate()


# Runs an example with a network of two blocks.
SMALL = """
import runpy, sys
import keras_effnetv2 as kev2
from helpers.quick_runs import two_blocks
small = two_blocks()
kev2.ModelConfig.from_name = lambda name: small
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.mark.slow  # a process that starts JAX and compiles
def test_the_example(tmp_path):
    """As the only worker: what several do is tested above."""
    example = TESTS.parent / "examples" / "two_processes.py"
    data = some_digits(tmp_path / "digits", 48)
    words = [sys.executable, "-c", SMALL, example, "--data", data, "--epochs", "1"]
    words += ["--stages", "1", "--image-size", "32", "32", "--batch-size", "16"]
    words += ["--output", tmp_path / "run", "--coordinator", f"127.0.0.1:{free_port()}"]
    process = run_process([*words, "--workers", "1", "--worker", "0"])
    printed = process.communicate(timeout=400)[0]
    assert process.returncode == 0, printed
    result = json.loads((tmp_path / "run/recipe.json").read_text())["result"]
    assert f"worker 0: accuracy {result['validation_accuracy']:.1%}" in printed
