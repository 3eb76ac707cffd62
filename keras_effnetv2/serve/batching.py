"""Requests that arrive together are computed together, by one thread.

One batch of eight pictures takes less than eight batches of one, and a single thread keeps the
memory of computing bounded however many clients there are.
"""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field

import numpy as np

from keras_effnetv2.serve.loaded_model import Columns

Function = Callable[[Columns], Columns]
"""Computes rows; each depends on its own row alone."""


@dataclass(frozen=True)
class _Job:
    function: str
    columns: Columns
    answer: "Future[Columns]" = field(default_factory=Future)

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))


class Batcher:
    """Calls functions in one thread, for several jobs at once where it can.

    Args:
        functions: what can be called, by name.
        max_batch: rows of one call; more rows of one job are computed in several.
        max_delay: seconds that a job waits for others to come.
    """

    def __init__(
        self, functions: Mapping[str, Function], *, max_batch: int, max_delay: float
    ) -> None:
        self._functions = functions
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._jobs: deque[_Job] = deque()
        self._closing = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._work, name="batcher")

    def start(self) -> None:
        """Start the thread; jobs may have been submitted before."""
        self._thread.start()

    def submit(self, function: str, columns: Columns) -> "Future[Columns]":
        """Ask for an answer; cancelling it before its turn leaves it out.

        Args:
            function: its name.
            columns: arrays of the same number of rows, one for each input.

        Raises:
            RuntimeError: the batcher is closed.
        """
        job = _Job(function, columns)
        with self._changed:
            if self._closing:
                raise RuntimeError("The batcher is closed.")
            self._jobs.append(job)
            self._changed.notify_all()
        return job.answer

    @property
    def waiting(self) -> int:
        """Jobs that are not computed yet."""
        return len(self._jobs)

    @property
    def is_alive(self) -> bool:
        """Whether jobs are computed."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Wait until all that was submitted is answered, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._thread.join()

    def _work(self) -> None:
        while batch := self._next_batch():
            # Who waited too long has gone.
            self._answer([job for job in batch if job.answer.set_running_or_notify_cancel()])
            batch.clear()  # pictures need not stay until the next request

    def _next_batch(self) -> list[_Job]:
        """Wait for jobs and take those that go together; none when all is done."""
        with self._changed:
            self._changed.wait_for(lambda: self._jobs or self._closing)
            if not self._jobs:
                return []
            function = self._jobs[0].function
            self._changed.wait_for(lambda: self._is_full(function), self._max_delay)
            batch: list[_Job] = []
            kept: deque[_Job] = deque()
            rows = 0
            for job in self._jobs:
                fits = not batch or rows + job.rows <= self._max_batch
                if job.function == function and fits:
                    batch.append(job)
                    rows += job.rows
                else:
                    kept.append(job)
            self._jobs = kept
            return batch

    def _is_full(self, function: str) -> bool:
        rows = sum(job.rows for job in self._jobs if job.function == function)
        return self._closing or rows >= self._max_batch

    def _answer(self, jobs: list[_Job]) -> None:
        """Compute jobs of one function; one that fails fails alone."""
        if not jobs:
            return
        try:
            names = jobs[0].columns
            columns = {name: np.concatenate([job.columns[name] for job in jobs]) for name in names}
            results = self._compute(jobs[0].function, columns)
        except Exception as error:  # of any kind: the thread must go on
            if len(jobs) == 1:
                jobs[0].answer.set_exception(error)
                return
            for job in jobs:
                self._answer([job])
            return
        start = 0
        for job in jobs:
            stop = start + job.rows
            job.answer.set_result({name: rows[start:stop] for name, rows in results.items()})
            start = stop

    def _compute(self, function: str, columns: Columns) -> Columns:
        rows = len(next(iter(columns.values())))
        parts = [
            self._functions[function](
                {name: values[start : start + self._max_batch] for name, values in columns.items()}
            )
            for start in range(0, max(rows, 1), self._max_batch)
        ]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
