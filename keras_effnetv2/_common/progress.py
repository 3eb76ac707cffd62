"""The progress of long work, on stderr: a bar at a terminal, elsewhere a line now and then.

A command is never silent for more than ten seconds: a thread shows the work that goes on.
"""

import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from tqdm import tqdm

from keras_effnetv2._common import text
from keras_effnetv2._common.quiet import shown_stderr
from keras_effnetv2._common.text import printable, roughly, say

Progress = Callable[[int, int | None], None]  # (done, total or None), as often as one likes

_SILENCE = 10.0  # seconds
# Lines of long work are further apart, by this share of the time that it has taken: some 80 in the
# first hour.
_SHARE = 0.05
_TICKS = 10  # a silence
_TICKS_UNSHOWN = 2  # of work without a bar at a terminal


class _Work:
    """Work that goes on, and its bar; without a bar it has only a label."""

    def __init__(self, label: str, unit: str = "") -> None:
        self.label, self.unit = label, unit
        self.bar: tqdm | None = None
        self.done = 0
        self.total: int | None = None
        self.began = time.monotonic()

    def line(self) -> str:
        """Return how far it has come."""
        seconds = time.monotonic() - self.began
        if self.bar is None or not (self.done or self.total):
            return f"{self.label} ..." + (f" {seconds:.0f} s" if seconds >= 1 else "")
        of_total = f" of {self.total:,}" if self.total else ""
        left = ""
        if self.total and self.done:
            to_do = self.total / self.done - 1
            left = f", about {roughly(seconds * to_do)} left" if to_do > 0 else ""
        return f"{self.label}: {self.done:,}{of_total}{self.unit}{left}"


class _Watch:
    """Shows the innermost work, in a thread, while it is on."""

    def __init__(self) -> None:
        self._works: list[_Work] = []
        self._access = threading.RLock()
        self._drawn: tqdm | None = None  # the line of work without a bar
        self._shown_at, self._silence = 0.0, _SILENCE
        self.is_on = False

    @contextlib.contextmanager
    def on(self, silence: float) -> Iterator[None]:
        end = threading.Event()

        def watch() -> None:
            while not end.wait(silence / _TICKS):
                self.show()

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        self._shown_at, self._silence, self.is_on = time.monotonic(), silence, True
        try:
            yield
        finally:
            self.is_on = False
            end.set()
            thread.join()

    @contextlib.contextmanager
    def during(self, work: _Work) -> Iterator[None]:
        with self._access:
            self._clear()
            self._works.append(work)
        try:
            yield
        finally:
            with self._access:
                self._clear()
                self._works.remove(work)

    def show(self, at_once: bool = False) -> None:
        with self._access, contextlib.suppress(OSError, ValueError):  # a stream that was closed
            if not (self.is_on and self._works):
                return
            work, now, aside = self._works[-1], time.monotonic(), shown_stderr()
            tick = self._silence / _TICKS
            if not sys.stderr.isatty():
                longest = max(self._silence - tick, _SHARE * (now - work.began))
                if not at_once and now - max(self._shown_at, text.said_at()) < longest:
                    return
                self._shown_at = now
                if aside is not None:
                    os.write(aside, f"{printable(work.line())}\n".encode())
                else:
                    say(work.line(), error=True)
            elif aside is not None:
                return
            elif work.bar is not None:
                work.bar.refresh()
            elif at_once or now - work.began >= _TICKS_UNSHOWN * tick:
                if self._drawn is None:
                    self._drawn = tqdm(bar_format="{desc}", leave=False)
                self._drawn.set_description_str(printable(work.line()))

    def _clear(self) -> None:
        if self._drawn is not None:
            self._drawn.close()
            self._drawn = None


_WATCH = _Watch()


@contextlib.contextmanager
def never_silent(label: str, *, quiet: bool = False, silence: float = _SILENCE) -> Iterator[None]:
    """Show meanwhile what goes on: this work, or what is `working` or has a bar in it.

    Bars and lines are shown only within this. `silence` is the number of seconds after which a line
    is due, where stderr is no terminal.
    """
    with contextlib.ExitStack() as stack:
        if not (quiet or _WATCH.is_on):
            stack.enter_context(_WATCH.on(silence))
        stack.enter_context(working(label))
        yield


def rest() -> None:
    """Show no more lines: from now on a command waits for others."""
    _WATCH.is_on = False


@contextlib.contextmanager
def working(label: str, *, at_once: bool = False) -> Iterator[None]:
    """Name the work that goes on, for `never_silent`; with `at_once` it is shown when it begins."""
    with _WATCH.during(_Work(label)):
        if at_once:
            _WATCH.show(at_once)
        yield


@contextlib.contextmanager
def progress_bar(label: str, unit: str = " pictures", scale: bool = False) -> Iterator[Progress]:
    """Yield a function of (done, total) that draws a bar with the time left.

    With `scale`, which is for bytes, 1,500,000 is written as 1.50M.
    """
    options = {"unit": unit, "unit_scale": scale, "leave": False, "disable": _disabled()}
    work = _Work(label, unit)
    with _WATCH.during(work), tqdm(desc=printable(label), **options) as bar:
        work.bar = bar

        def show(done: int, total: int | None) -> None:
            work.done, work.total = done, total
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Yield a function of a text, which is shown until the next one replaces it."""
    work = _Work("")
    options = {"bar_format": "{desc}", "leave": False, "disable": _disabled()}
    with _WATCH.during(work), tqdm(**options) as line:
        work.bar = line

        def show(text: str) -> None:
            work.label = text
            line.set_description_str(printable(text))

        yield show


def _disabled() -> bool | None:
    """The `disable` of tqdm; None is where stderr is no terminal."""
    return None if _WATCH.is_on else True
