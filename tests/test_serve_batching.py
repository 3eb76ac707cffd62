"""What is computed together, what fails alone, and who is left out."""

import asyncio
import threading

import numpy as np
import pytest

from keras_effnetv2.serve.batching import Batcher


def double(columns):
    if (columns["x"] < 0).any():
        raise ArithmeticError("negative")
    return {"y": 2 * columns["x"]}


def negate(columns):
    return {"y": -columns["x"]}


def computed(*jobs, gone=()):
    """Return what a batcher answers to jobs (function, *numbers) and what it called.

    Args:
        gone: numbers of jobs that are cancelled before their turn.
    """
    calls = []

    def recorded(function):
        def call(columns):
            calls.append(columns["x"].tolist())
            return function(columns)

        return call

    async def ask():
        functions = {"double": recorded(double), "negate": recorded(negate)}
        batcher = Batcher(max_batch=4, max_delay=0.0)
        tasks = [
            asyncio.create_task(batcher.compute(functions[name], {"x": np.array(numbers, float)}))
            for name, *numbers in jobs
        ]
        await asyncio.sleep(0)  # now all have come
        assert batcher.waiting == len(jobs)
        for index in gone:
            tasks[index].cancel()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        assert batcher.waiting == 0
        assert (await batcher.compute(functions["negate"], {"x": np.zeros(1)}))["y"].tolist() == [0]
        calls.pop()
        return [answer["y"].tolist() if isinstance(answer, dict) else answer for answer in answers]

    return asyncio.run(ask()), calls


def test_jobs_go_together_up_to_the_largest_batch():
    answers, calls = computed(("double", 1, 2), ("double", 3), ("double", 4, 5), ("double", 6))
    assert answers == [[2, 4], [6], [8, 10], [12]]
    # The third does not fit beside the first two, the fourth does.
    assert calls == [[1, 2, 3, 6], [4, 5]]


def test_a_large_job_is_computed_in_parts_and_an_empty_one_too():
    answers, calls = computed(("double", *range(9)), ("double",))
    assert answers == [list(range(0, 18, 2)), []]
    assert calls == [[0, 1, 2, 3], [4, 5, 6, 7], [8]]


def test_others_have_their_turn_between_the_parts_of_a_large_job():
    answers, calls = computed(("double", *range(9)), ("negate", 7))
    assert answers == [list(range(0, 18, 2)), [-7]]
    assert calls == [[0, 1, 2, 3], [7], [4, 5, 6, 7], [8]]


def test_a_large_job_ends_with_its_present_part_when_nobody_waits():
    calls = []
    begun, go = threading.Event(), threading.Event()

    def slow(columns):
        calls.append(columns["x"].tolist())
        begun.set()
        assert go.wait(30)
        return columns

    async def ask():
        batcher = Batcher(max_batch=2, max_delay=0.0)
        assert batcher.seconds_in_call == 0
        large = asyncio.create_task(batcher.compute(slow, {"x": np.arange(6)}))
        await asyncio.to_thread(begun.wait, 30)
        assert batcher.seconds_in_call > 0
        large.cancel()
        go.set()
        await batcher.compute(slow, {"x": np.array([9])})
        assert batcher.seconds_in_call == 0

    asyncio.run(ask())
    assert calls == [[0, 1], [9]]


def test_other_functions_do_not_mix():
    answers, calls = computed(("double", 1), ("negate", 2), ("double", 3))
    assert answers == [[2], [-2], [6]]
    assert calls == [[1, 3], [2]]


def test_one_that_fails_fails_alone():
    (good, bad, other), _ = computed(("double", 1), ("double", -1), ("double", 2))
    assert (good, other) == ([2], [4])
    with pytest.raises(ArithmeticError, match="negative"):
        raise bad


def test_who_has_gone_is_left_out():
    (gone, there), calls = computed(("double", 1), ("double", 2), gone=[0])
    assert isinstance(gone, asyncio.CancelledError)
    assert there == [4]
    assert calls == [[2]]
