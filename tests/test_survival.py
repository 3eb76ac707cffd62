"""Runs that are killed, interrupted or damaged end as one that ran through, bit for bit."""

import csv
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.killed_runs import RECIPE
from helpers.quick_runs import dark_and_light, leave_out_results, small_network

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.training import fit
from keras_effnetv2.training.interruption import TrainingInterrupted

KILLS = 8
RUN_FILES = {
    "model.keras",
    "labels.txt",
    "recipe.json",
    "history.csv",
    "pictures.csv",
    "confusion.csv",
    "report.html",
}


def history_of(output):
    """The rows of `history.csv`, as text, without the seconds."""
    with (output / "history.csv").open(newline="") as file:
        return [row | {"seconds": None} for row in csv.DictReader(file)]


def assert_same_run(output, whole):
    assert history_of(output) == history_of(whole)
    models = [keras.models.load_model(path / "model.keras") for path in (output, whole)]
    for ours, theirs in zip(*(model.get_weights() for model in models), strict=True):
        np.testing.assert_array_equal(ours, theirs)


@pytest.mark.slow  # a dozen processes, each of which traces the training anew
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children of the helper are forked")
def test_a_run_that_is_killed_at_random_moments_ends_as_one_that_was_not(tmp_path):
    dark_and_light(tmp_path / "pictures", 16)
    command = [sys.executable, "-m", "helpers.killed_runs", str(tmp_path), str(KILLS), "7"]
    tests = Path(__file__).parent
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tests)
    assert finished.returncode == 0, finished.stderr[-3000:]
    report = json.loads(finished.stdout)
    assert sum(not is_through for _, is_through, _ in report["log"]) == KILLS
    # Some of the kills met a run that had begun, not only processes that were starting.
    assert any("after-" in "".join(files) for _, is_through, files in report["log"])
    for number in range(1, report["runs"] + 1):
        output = tmp_path / f"run-{number}"
        assert {path.name for path in output.iterdir()} - {"backup"} == RUN_FILES
        assert_same_run(output, tmp_path / "run-0")


@pytest.mark.slow  # a dozen processes, each of which builds a network
@pytest.mark.skipif(not hasattr(os, "fork"), reason="the children of the helper are forked")
def test_what_killed_commands_leave_is_nothing_or_whole_and_the_next_ones_clean_up(tmp_path):
    command = [sys.executable, "-m", "helpers.killed_commands", str(tmp_path), "2", "11"]
    tests = Path(__file__).parent
    finished = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tests)
    assert finished.returncode == 0, finished.stderr[-3000:]
    report = json.loads(finished.stdout.splitlines()[-1])
    assert set(report) == {"pack", "export", "convert"}
    for name in report:
        whole = contents(tmp_path / f"{name}-whole")
        assert [contents(tmp_path / f"{name}-{number}") for number in range(2)] == [whole] * 2
    tries = [one for log in report.values() for one in log]
    assert any(not is_through for is_through, _ in tries)
    assert any(name.startswith(".writing-") for _, left in tries for name in left)


def contents(folder):
    """The files below a folder, with their sizes where these say that they are whole."""
    files = (path for path in folder.rglob("*") if path.is_file())
    same = (".tfrecord", ".npz", ".h5")
    return {str(p.relative_to(folder)): p.suffix in same and p.stat().st_size for p in files}


# --- in this process ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    return dark_and_light(tmp_path_factory.mktemp("survival") / "pictures", 16)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Leaves out the export and the report, which cost seconds, where they are no subject."""
    leave_out_results(monkeypatch)


@pytest.fixture(autouse=True)
def sigint_is_heard():
    """A background job of a shell, as CI may be, is started with SIGINT ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def train(pictures, output, recipe=RECIPE, *, at=None, other=False, **options):
    """Trains eagerly; `at` calls what it has for a step, before that is done."""
    model = small_network(2, dropout=0.3)
    model.at = at or {}
    for weight in model.weights if other else ():
        weight.assign(weight + 1)
    options = {"validation_fraction": 0.25, "scan": False, "verbose": 0} | options
    return fit.train(model, pictures, recipe, output, **options)


@pytest.fixture(scope="module")
def whole(pictures, tmp_path_factory):
    """The folder of a run that ran through."""
    output = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        leave_out_results(patch)
        train(pictures, output)
    return output


def send(number):
    os.kill(os.getpid(), number)


class PowerCut(BaseException):
    """Not caught by anything, as a process that is killed does nothing more."""


def cut():
    raise PowerCut


@pytest.mark.slow  # six trainings; test_fit resumes one
def test_a_run_that_breaks_off_in_every_epoch_ends_as_one_that_ran_through(
    whole, pictures, tmp_path
):
    """Cuts, a SIGTERM, a SIGINT and a damaged snapshot; each resume begins with other weights.

    An epoch has three steps.
    """
    output = tmp_path / "run"
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]

    def break_off(at, error, message=None, **options):
        with pytest.raises(error, match=message):
            train(pictures, output, at=at, other=True, resume=True, **options)
        assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)]
        return {path.name for path in (output / "backup").glob("*.safetensors")}

    with pytest.raises(PowerCut):
        train(pictures, output, at={3: cut})
    assert [path.name for path in (output / "backup").glob("*.safetensors")] == [
        "after-0-epochs.safetensors"
    ]

    # Sent in the second batch of the second epoch: that batch is done.
    at = {5: lambda: send(signal.SIGTERM)}
    names = break_off(at, TrainingInterrupted, r"by SIGTERM in epoch 2, after 2 of.*resume=True")
    begun = "after-1-epochs.safetensors"  # with which the second stage began: it is kept
    assert names == {begun, "after-1-epochs-2-batches.safetensors"}

    # In the last batch of the epoch: the next state to go on from is that after the epoch.
    at = {1: lambda: send(signal.SIGINT)}
    names = break_off(at, TrainingInterrupted, "by SIGINT after 2 epochs")
    assert names == {begun, "after-1-epochs-2-batches.safetensors", "after-2-epochs.safetensors"}

    names = break_off({3: cut}, PowerCut, snapshot_minutes=0)
    older, newer = (f"after-2-epochs-{n}-batches.safetensors" for n in (1, 2))
    assert names == {begun, older, newer}
    os.truncate(output / "backup" / newer, 1000)
    said = []
    train(pictures, output, other=True, resume=True, verbose=2, echo=said.append)
    (skipped,) = (place for place, line in enumerate(said) if line.startswith("Skipped"))
    assert said[skipped].startswith(f"Skipped {output / 'backup' / newer}: it is damaged")
    assert said[skipped + 1] == f"Continuing from {older} instead."
    assert_same_run(output, whole)


@pytest.mark.slow  # two trainings
def test_what_became_unreadable_stays_noted(pictures, tmp_path):
    """The picture breaks while training, and can be read again when the run is resumed."""
    source = load_source(pictures, "train", validation_fraction=0.25, seed=RECIPE.seed)
    victim = pictures / source.names[3]
    content = victim.read_bytes()
    recipe = replace(RECIPE, epochs=1, stages=1, image_size=32)

    def break_it(line):
        if line.startswith("Stage"):
            victim.write_bytes(b"broken")

    try:
        options = {"skip_bad": True, "snapshot_minutes": 0, "at": {3: cut}}
        with pytest.raises(PowerCut):
            train(pictures, tmp_path / "run", recipe, verbose=2, echo=break_it, **options)
    finally:
        victim.write_bytes(content)
    train(pictures, tmp_path / "run", recipe, skip_bad=True, resume=True)
    settings = json.loads((tmp_path / "run" / "recipe.json").read_text("utf-8"))
    assert settings["left_out_while_training"] == [source.names[3]]
