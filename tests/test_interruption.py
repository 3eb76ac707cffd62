"""SIGTERM and SIGINT: noted or raised, the second at once, and everything put back."""

import contextlib
import io
import os
import signal
import threading
from pathlib import Path

import pytest

from keras_effnetv2.cli.main import main
from keras_effnetv2.training import fit
from keras_effnetv2.training.interruption import StopSignals, TrainingInterrupted

BOTH = (signal.SIGTERM, signal.SIGINT)


@pytest.fixture(autouse=True)
def handlers_of_our_own():
    """Known handlers, so that nothing here ends the tests; checks that they are put back."""

    def handler(number, frame):
        raise ZeroDivisionError(number)

    earlier = {number: signal.signal(number, handler) for number in BOTH}
    yield
    left = {number: signal.signal(number, earlier[number]) for number in BOTH}
    assert set(left.values()) == {handler}


def send(number):
    os.kill(os.getpid(), number)


def outside_of_the_training(number, *, has_trained):
    with StopSignals(Path("runs/x")) as signals:
        if has_trained:
            with signals.deferred():
                pass
        send(number)
        pytest.fail("went on")


def within_the_training(*numbers, stop=True):
    signals = StopSignals(Path("runs/x"))
    with signals:
        with signals.deferred():
            signals.raise_received("too early.")
            for number in numbers:
                send(number)
            assert signals.received == numbers[0]
            if stop:
                signals.raise_received("in epoch 3, after 2 of its batches.")
        pytest.fail("went on")


@pytest.mark.parametrize("number", BOTH)
def test_a_signal_ends_the_run_at_once_or_where_the_training_says(number):
    with pytest.raises(TrainingInterrupted, match=r"^interrupted by SIG.*saved in runs/x"):
        outside_of_the_training(number, has_trained=True)
    with pytest.raises(TrainingInterrupted, match=r"before anything was saved; .*resume=True\.$"):
        outside_of_the_training(number, has_trained=False)
    with pytest.raises(TrainingInterrupted) as caught:
        within_the_training(number)
    assert caught.value.signal == number
    assert isinstance(caught.value, KeyboardInterrupt)
    assert str(caught.value) == (
        f"interrupted by {number.name} in epoch 3, after 2 of its batches. All of it is saved in "
        "runs/x. Resume with the same call and resume=True."
    )


def test_a_signal_that_nobody_asked_for_is_raised_at_the_end_and_a_second_one_at_once():
    with pytest.raises(TrainingInterrupted, match="after the training"):
        within_the_training(signal.SIGTERM, stop=False)
    for second in BOTH:
        with pytest.raises(ZeroDivisionError):
            within_the_training(signal.SIGTERM, second)


def test_an_ignored_signal_stays_ignored():
    ours = signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals = StopSignals(Path("runs/x"))
    try:
        with signals:
            send(signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, ours)
    assert signals.received is None


def test_outside_the_main_thread_no_handlers_are_set():
    before = [signal.getsignal(number) for number in BOTH]
    within = []

    def run():
        with StopSignals(Path("runs/x")) as signals, signals.deferred():
            within.extend(signal.getsignal(number) for number in BOTH)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert within == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_the_command_says_how_to_go_on_and_gives_the_code_of_the_signal(
    monkeypatch, capsys, tmp_path, number, code
):
    def interrupted(*arguments, **settings):
        raise TrainingInterrupted(number, "in epoch 2. All of it is saved in x.")

    monkeypatch.setattr(fit, "train", interrupted)
    monkeypatch.chdir(tmp_path)
    for name in ("cat", "dog"):
        Path("my photos", name).mkdir(parents=True)
    words = ["train", "--data", "my photos", "--output", "x", "--overwrite"]
    assert main(words) == code
    assert capsys.readouterr().err == (
        f"\ninterrupted by {number.name} in epoch 2. All of it is saved in x. Resume with: "
        "keras-effnetv2 train --data 'my photos' --output x --resume\n"
    )


class Interrupting(io.StringIO):
    """An output at whose first word somebody presses Ctrl-C."""

    def write(self, text):
        send(signal.SIGINT)


def test_ctrl_c_before_anything_is_saved_has_its_code_too(capsys):
    ours = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with contextlib.redirect_stdout(Interrupting()):
            assert main(["info", "efficientnetv2-b0", "--json"]) == 130
    finally:
        signal.signal(signal.SIGINT, ours)
    assert capsys.readouterr().err == "\ninterrupted\n"
