"""The history table: a row an epoch, carried on where a run is resumed."""

import json
from types import SimpleNamespace

import numpy as np
import pytest

from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.runs import history as history_module
from keras_effnetv2.runs.history import HistoryFile, read_history

PLAN = progressive_stages(epochs=4, stages=2, image_size=(32, 48), batch_size=(16, 8))


def model_with_rate(rate):
    return SimpleNamespace(optimizer=SimpleNamespace(learning_rate=np.float32(rate)))


def run_epochs(file, epochs, rate=0.5, **logs):
    file.set_model(model_with_rate(rate))
    for epoch in epochs:
        file.on_epoch_begin(epoch)
        file.on_epoch_end(epoch, {"loss": float(epoch)} | logs)


def test_resuming_goes_on_from_the_rows_of_the_state_and_not_from_the_file(tmp_path):
    path = tmp_path / "history.csv"
    first = HistoryFile(path, PLAN)
    run_epochs(first, range(2))
    state = json.loads(json.dumps(first.state()))
    run_epochs(first, [2])  # the process ends before the state of this epoch is saved
    resumed = HistoryFile(path, PLAN, state=state)
    resumed.on_train_begin()
    assert path.read_text().count("\n") == 1 + 2
    run_epochs(resumed, range(2, 4), rate=0.25, val_loss=7.0)
    assert resumed.columns["epoch"] == [1, 2, 3, 4]
    assert resumed.columns["learning_rate"] == [0.5, 0.5, 0.25, 0.25]
    rows = path.read_text().splitlines()
    assert [row.split(",")[0] for row in rows[1:]] == ["1", "2", "3", "4"]
    # A column that came later is NaN before.
    assert [row.split(",")[-1] for row in rows] == ["val_loss", "nan", "nan", "7.0", "7.0"]


def test_the_table_is_read_back_and_a_damaged_one_is_said_so(tmp_path):
    path = tmp_path / "history.csv"
    file = HistoryFile(path, PLAN)
    run_epochs(file, range(2), val_loss=7.0)
    assert read_history(path) == file.columns
    text = path.read_text()
    for damaged in ("", text[:-9], text.replace("7.0", "x"), text.replace("val_loss", "a,b")):
        path.write_text(damaged)
        with pytest.raises(ValueError, match=r"history\.csv cannot be read: .* Put a copy"):
            read_history(path)
    path.write_bytes(b"\xff\xfe\0")
    with pytest.raises(ValueError, match=r"history\.csv cannot be read: "):
        read_history(path)
    path.unlink()
    with pytest.raises(ValueError, match=r"history\.csv cannot be read: .*No such file"):
        read_history(path)


def test_the_seconds_of_an_epoch_are_those_of_both_processes(tmp_path, monkeypatch):
    now = SimpleNamespace(monotonic=lambda: now.seconds, seconds=100.0)
    monkeypatch.setattr(history_module, "time", now)
    first = HistoryFile(tmp_path / "history.csv", PLAN)
    first.on_epoch_begin(0)
    now.seconds += 20
    state = first.state()
    assert state == {"rows": [], "seconds": 20.0}
    resumed = HistoryFile(tmp_path / "history.csv", PLAN, state=state)
    resumed.set_model(model_with_rate(0.5))
    for epoch, seconds in ((0, 3), (1, 4)):
        resumed.on_epoch_begin(epoch)
        now.seconds += seconds
        resumed.on_epoch_end(epoch, {})
    assert resumed.columns["seconds"] == [23.0, 4.0]
    assert resumed.state()["seconds"] == 0.0
