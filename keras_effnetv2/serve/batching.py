"""Requests that arrive together are computed together, in one thread.

One batch of eight pictures takes less time than eight batches of one, and a single thread limits
the memory for any number of clients. A large request is computed in parts, and other requests take
turns with them.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

from keras_effnetv2.serve.loaded_model import Columns, Function

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class _Job:
    function: Function
    columns: Columns
    answer: "asyncio.Future[Columns]"

    @property
    def rows(self) -> int:
        return len(next(iter(self.columns.values())))


class Batcher:
    """Calls functions in one thread, for several jobs at once if possible; used in one event loop.

    Args:
        max_batch: most rows of one call; a job with more rows is computed in parts.
        max_delay: seconds that a job waits for others to arrive.
    """

    def __init__(self, *, max_batch: int, max_delay: float) -> None:
        self._max_batch = max_batch
        self._max_delay = max_delay
        self._jobs: deque[_Job] = deque()
        self._thread = ThreadPoolExecutor(1, "batcher")
        self._call_began: float | None = None
        self._working: asyncio.Task[None] | None = None

    @property
    def waiting(self) -> int:
        """Number of jobs whose computation has not begun."""
        return len(self._jobs)

    @property
    def seconds_in_call(self) -> float:
        """Seconds since the thread's present call began; 0 between calls."""
        began = self._call_began
        return 0.0 if began is None else time.monotonic() - began

    async def compute(self, function: Function, columns: Columns) -> Columns:
        """Return the result of a function, computed in parts; no part begins after a cancel."""
        rows = len(next(iter(columns.values())))
        parts = []
        for at in range(0, max(rows, 1), self._max_batch):
            part = {name: values[at : at + self._max_batch] for name, values in columns.items()}
            parts.append(await self._compute_part(function, part))
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}

    async def _compute_part(self, function: Function, columns: Columns) -> Columns:
        job = _Job(function, columns, asyncio.get_running_loop().create_future())
        self._jobs.append(job)
        if self._working is None or self._working.done():
            self._working = asyncio.create_task(self._work())
        return await job.answer

    async def run(self, function: Callable[..., _Result], *arguments: Any) -> _Result:
        """Return the result of any function, called in the thread that computes."""

        def call() -> _Result:
            self._call_began = time.monotonic()
            try:
                return function(*arguments)
            finally:
                self._call_began = None

        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    async def _work(self) -> None:
        while self._jobs:
            function = self._jobs[0].function
            if sum(job.rows for job in self._jobs if job.function == function) < self._max_batch:
                await asyncio.sleep(self._max_delay)
            await self._answer(self._take())

    def _take(self) -> list[_Job]:
        """Take the first job and others that fit with it, without jobs whose client has gone."""
        jobs = [job for job in self._jobs if not job.answer.done()]
        self._jobs.clear()
        batch: list[_Job] = []
        rows = 0
        for job in jobs:
            if job.function == jobs[0].function and rows + job.rows <= self._max_batch:
                batch.append(job)
                rows += job.rows
            else:
                self._jobs.append(job)
        return batch

    async def _answer(self, jobs: list[_Job]) -> None:
        """Compute jobs of one function; a failing job does not affect the others."""
        if not jobs:
            return
        try:
            results = await self.run(self._compute, jobs)
        except Exception as error:  # of any kind: the others must be answered
            if len(jobs) == 1 and not jobs[0].answer.done():
                jobs[0].answer.set_exception(error)
            elif len(jobs) > 1:
                for job in jobs:
                    await self._answer([job])
            return
        start = 0
        for job in jobs:
            stop = start + job.rows
            if not job.answer.done():
                job.answer.set_result({name: rows[start:stop] for name, rows in results.items()})
            start = stop

    def _compute(self, jobs: list[_Job]) -> Columns:
        names = jobs[0].columns
        columns = {name: np.concatenate([job.columns[name] for job in jobs]) for name in names}
        return jobs[0].function(columns)
