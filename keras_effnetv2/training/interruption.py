"""SIGTERM and Ctrl-C during a run: one exception, raised when nothing can be lost."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_NOTHING_SAVED = "before anything was saved; the run will start from the beginning."


class TrainingInterrupted(KeyboardInterrupt):
    """A run was asked to stop, by SIGTERM or SIGINT (Ctrl-C), and can be resumed.

    Both are a `KeyboardInterrupt`, so code that retries after any `Exception` does not catch them.

    Attributes:
        signal: the number of the signal.
        state: what happened and what is saved, one sentence.
    """

    def __init__(self, number: int, state: str) -> None:
        self.signal = number
        self.state = f"interrupted by {signal.Signals(number).name} {state}"
        super().__init__(f"{self.state} Resume with the same call and resume=True.")


class StopSignals:
    """Context of a run in which SIGTERM and SIGINT raise `TrainingInterrupted`.

    It is raised at once, or within `deferred()` (the training, which saves its state) where the
    code there says so. The first signal restores the earlier handlers, so a second one ends the
    process in the usual way. A signal that the process ignores (as background jobs of a shell
    ignore SIGINT) stays ignored. Outside the main thread, which alone may set handlers, nothing
    happens.

    Args:
        folder: of the run, for the messages.

    Attributes:
        received: the signal; None if there was none.
    """

    def __init__(self, folder: Path) -> None:
        self.received: int | None = None
        self._folder = folder
        self._earlier: dict[int, Any] = {}
        self._is_deferred = False
        self._saved: str | None = None  # how far all is saved, outside of `deferred()`

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                # None is a handler that was not set from Python, and cannot be put back from here.
                if signal.getsignal(number) not in (None, signal.SIG_IGN):
                    self._earlier[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        self._put_back()

    @contextlib.contextmanager
    def deferred(self) -> Iterator[None]:
        """Only note a signal; raise it at the end, if `raise_received` has not done so."""
        self._is_deferred = True
        try:
            yield
        finally:
            self._is_deferred = False
        self._saved = "after the training."
        self.raise_received(self._saved)

    def raise_received(self, where: str | None) -> None:
        """Raise `TrainingInterrupted` if a signal was noted.

        `where` says how far all is saved; None: nothing is.
        """
        if self.received is not None:
            saved = where and f"{where} All of it is saved in {self._folder}."
            raise TrainingInterrupted(self.received, saved or _NOTHING_SAVED)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self._put_back()
        self.received = number
        if not self._is_deferred:
            self.raise_received(self._saved)

    def _put_back(self) -> None:
        while self._earlier:
            signal.signal(*self._earlier.popitem())
