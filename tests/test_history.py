"""The history table and the backup: a row an epoch, and a state that is whole at any moment."""

import math
from types import SimpleNamespace

import keras
import numpy as np
import pytest

from keras_effnetv2.training import history as history_module
from keras_effnetv2.training.history import Backup, HistoryFile, read_history
from keras_effnetv2.training.stages import progressive_stages

PLAN = progressive_stages(epochs=4, stages=2, image_size=(32, 48), batch_size=(16, 8))


def model_with_rate(rate):
    return SimpleNamespace(optimizer=SimpleNamespace(learning_rate=np.float32(rate)))


def run_epochs(file, epochs, rate=0.5, **logs):
    file.set_model(model_with_rate(rate))
    for epoch in epochs:
        file.on_epoch_begin(epoch)
        file.on_epoch_end(epoch, {"loss": float(epoch)} | logs)


def test_a_row_an_epoch_with_the_sizes_of_its_stage(tmp_path):
    path = tmp_path / "history.csv"
    run_epochs(HistoryFile(path, PLAN, resume=False), range(4), accuracy=0.25)
    lines = path.read_text().splitlines()
    assert lines[0] == "epoch,stage,image_size,batch_size,learning_rate,seconds,loss,accuracy"
    assert [line.split(",")[:5] for line in lines[1:]] == [
        ["1", "1", "32", "16", "0.5"],
        ["2", "1", "32", "16", "0.5"],
        ["3", "2", "48", "8", "0.5"],
        ["4", "2", "48", "8", "0.5"],
    ]


def test_resuming_replaces_the_rows_of_the_epochs_that_are_repeated(tmp_path):
    path = tmp_path / "history.csv"
    run_epochs(HistoryFile(path, PLAN, resume=False), range(3))
    file = HistoryFile(path, PLAN, resume=True)
    run_epochs(file, range(2, 4), rate=0.25, val_loss=7.0)
    assert file.columns["epoch"] == [1, 2, 3, 4]
    assert file.columns["learning_rate"] == [0.5, 0.5, 0.25, 0.25]
    read = read_history(path)
    assert [row["epoch"] for row in read] == [1, 2, 3, 4]
    # A column that came later is NaN before.
    assert [math.isnan(row["val_loss"]) for row in read] == [True, True, False, False]


def test_a_new_run_forgets_the_old_file(tmp_path):
    path = tmp_path / "history.csv"
    run_epochs(HistoryFile(path, PLAN, resume=False), range(3))
    file = HistoryFile(path, PLAN, resume=False)
    run_epochs(file, range(1))
    assert file.columns["epoch"] == [1]
    assert len(read_history(path)) == 1


@pytest.mark.parametrize("text", ["epoch,loss\n1,high\n", "epoch,loss\n1\n", "epoch\n1,2\n"])
def test_a_damaged_file_is_named(tmp_path, text):
    path = tmp_path / "history.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match=r"history\.csv is damaged"):
        read_history(path)


def make_model():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    return model


def test_the_newest_whole_state_is_restored(tmp_path, monkeypatch):
    folder = tmp_path / "backup"
    first = Backup(folder)
    assert first.epochs_done == 0
    model = make_model()
    first.set_model(model)
    first.on_train_begin()
    first.on_epoch_end(8)
    model.optimizer.iterations.assign(20)
    model.layers[0].bias.assign([2.0])
    first.on_epoch_end(9)  # "10" sorts before "9" as text
    assert [path.name for path in folder.iterdir()] == ["10.weights.h5"]

    def break_off(path):
        path.write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(model, "save_weights", break_off)
    with pytest.raises(OSError, match="No space"):
        first.on_epoch_end(10)
    (folder / ".writing-11.weights.h5").write_bytes(b"half, of a process that was killed")

    second = Backup(folder)
    assert second.epochs_done == 10
    restored = make_model()
    second.set_model(restored)
    second.on_train_begin()
    assert int(restored.optimizer.iterations) == 20
    assert float(restored.layers[0].bias[0]) == 2.0


def test_the_old_state_goes_after_the_new_one_is_there(tmp_path, monkeypatch):
    backup = Backup(tmp_path)
    backup.set_model(make_model())
    backup.on_epoch_end(0)
    seen = []
    whole = history_module.written_whole

    def watched(path):
        seen.extend(file.name for file in tmp_path.iterdir())
        return whole(path)

    monkeypatch.setattr(history_module, "written_whole", watched)
    backup.on_epoch_end(1)
    assert seen == ["1.weights.h5"]
    assert [path.name for path in tmp_path.iterdir()] == ["2.weights.h5"]
