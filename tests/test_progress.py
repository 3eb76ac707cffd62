"""Long work is never silent: a bar with the time left, or lines where stderr is no terminal."""

import io
import time
from contextlib import redirect_stderr

import pytest

from keras_effnetv2._common.progress import never_silent, progress_bar, working
from keras_effnetv2._common.quiet import quiet_stderr
from keras_effnetv2._common.text import roughly

SILENCE = 0.01


class Terminal(io.StringIO):
    def isatty(self):
        return True


def wait_for(read, words):
    """Return when a text has words, which a thread writes."""
    for _ in range(1000):
        if words in read():
            return
        time.sleep(0.01)
    pytest.fail(f"{words!r} is not in {read()!r}")


def test_a_line_now_and_then_says_what_goes_on():
    stream = io.StringIO()
    with redirect_stderr(stream), never_silent("training", silence=SILENCE):
        wait_for(stream.getvalue, "training ...\n")
        with working("exporting"):
            wait_for(stream.getvalue, "exporting ...\n")
            with progress_bar("checking") as show:
                show(20, 80)
                wait_for(stream.getvalue, "checking: 20 of 80 pictures, about 10 seconds left\n")
                show(80, 80)
                wait_for(stream.getvalue, "checking: 80 of 80 pictures\n")
        with progress_bar("reading", " batches") as show:
            show(2000, None)
            wait_for(stream.getvalue, "reading: 2,000 batches\n")
    assert "\r" not in stream.getvalue()


def test_a_terminal_has_bars_and_a_line_without_any():
    stream = Terminal()
    with redirect_stderr(stream), never_silent("training", silence=SILENCE):
        wait_for(stream.getvalue, "\rtraining ...")
        with progress_bar("checking") as show:
            show(20, 80)
            wait_for(stream.getvalue, "checking:  25%")
    assert "\n" not in stream.getvalue()


@pytest.mark.parametrize("stream", [io.StringIO(), Terminal()])
def test_python_is_silent_unless_it_asks_for_progress(stream):
    with (
        redirect_stderr(stream),
        never_silent("training", quiet=True, silence=SILENCE),
        working("exporting", at_once=True),
        progress_bar("checking") as show,
    ):
        show(20, 80)
        time.sleep(5 * SILENCE)
    assert stream.getvalue() == ""


def test_what_is_said_at_once_and_while_a_library_is_kept_quiet(capfd):
    def read():
        read.text += capfd.readouterr().err
        return read.text

    read.text = ""
    with never_silent("train", silence=SILENCE), working("loading TensorFlow", at_once=True):
        assert read() == "loading TensorFlow ...\n"
        with quiet_stderr():
            read.text = ""
            wait_for(read, "loading TensorFlow ...\n")
    with never_silent("train", silence=0.2), quiet_stderr():
        read.text = ""
        time.sleep(0.5)
        assert 1 <= read().count("\n") <= 3


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(1, "10 seconds"), (44, "40 seconds"), (119, "120 seconds"), (150, "2 minutes")],
)
def test_times_are_rough(seconds, words):
    assert roughly(seconds) == words
    assert roughly(3600 * seconds) == f"{seconds} hours" or seconds < 2
