"""The thread that computes: what goes together, what fails alone, how it ends."""

import threading

import numpy as np
import pytest

from keras_effnetv2.serve.batching import Batcher


class Recorder:
    """A function that doubles numbers, waits to be let go, and fails at a negative one."""

    def __init__(self):
        self.calls, self.go = [], threading.Event()

    def double(self, columns):
        assert self.go.wait(30)
        self.calls.append(columns["x"].tolist())
        if (columns["x"] < 0).any():
            raise ArithmeticError("negative")
        return {"y": 2 * columns["x"]}

    def negate(self, columns):
        assert self.go.wait(30)
        self.calls.append("negate")
        return {"y": -columns["x"]}


@pytest.fixture
def recorder():
    return Recorder()


@pytest.fixture
def batcher(recorder):
    functions = {"double": recorder.double, "negate": recorder.negate}
    batcher = Batcher(functions, max_batch=4, max_delay=0.0)
    yield batcher
    recorder.go.set()
    batcher.close()


def ask(batcher, *numbers, function="double"):
    return batcher.submit(function, {"x": np.array(numbers, float)})


def test_jobs_go_together_up_to_the_largest_batch(batcher, recorder):
    answers = [ask(batcher, 1, 2), ask(batcher, 3), ask(batcher, 4, 5), ask(batcher, 6)]
    assert batcher.waiting == 4
    recorder.go.set()
    batcher.start()
    assert [answer.result(30)["y"].tolist() for answer in answers] == [[2, 4], [6], [8, 10], [12]]
    # The third does not fit beside the first two, the fourth does.
    assert recorder.calls == [[1, 2, 3, 6], [4, 5]]
    assert batcher.waiting == 0


def test_a_large_job_is_computed_in_parts_and_an_empty_one_too(batcher, recorder):
    large, empty = ask(batcher, *range(9)), ask(batcher)
    recorder.go.set()
    batcher.start()
    assert large.result(30)["y"].tolist() == list(range(0, 18, 2))
    assert empty.result(30)["y"].tolist() == []
    assert recorder.calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8], []]


def test_other_functions_do_not_mix(batcher, recorder):
    answers = [ask(batcher, 1), ask(batcher, 2, function="negate"), ask(batcher, 3)]
    recorder.go.set()
    batcher.start()
    assert [answer.result(30)["y"].tolist() for answer in answers] == [[2], [-2], [6]]
    assert recorder.calls == [[1, 3], "negate"]


def test_one_that_fails_fails_alone(batcher, recorder):
    good, bad, other = ask(batcher, 1), ask(batcher, -1), ask(batcher, 2)
    recorder.go.set()
    batcher.start()
    assert good.result(30)["y"].tolist() == [2]
    assert other.result(30)["y"].tolist() == [4]
    with pytest.raises(ArithmeticError, match="negative"):
        bad.result(30)
    assert ask(batcher, 5).result(30)["y"].tolist() == [10]


def test_who_has_gone_is_left_out(batcher, recorder):
    gone, there = ask(batcher, 1), ask(batcher, 2)
    assert gone.cancel()
    recorder.go.set()
    batcher.start()
    assert there.result(30)["y"].tolist() == [4]
    assert recorder.calls == [[2]]


def test_closing_answers_what_is_there_and_takes_no_more():
    recorder = Recorder()
    batcher = Batcher({"double": recorder.double}, max_batch=4, max_delay=0.0)
    answers = [ask(batcher, number) for number in range(9)]
    batcher.start()
    recorder.go.set()
    batcher.close()
    assert [answer.result(0)["y"].tolist() for answer in answers] == [[2 * n] for n in range(9)]
    assert not batcher.is_alive
    with pytest.raises(RuntimeError, match="closed"):
        ask(batcher, 1)
