"""How far long work is, on stderr, for a person who waits at a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

Progress = Callable[[int, int | None], None]  # (done, total or None), as often as one likes


@contextlib.contextmanager
def progress_bar(label: str, unit: str = " pictures", scale: bool = False) -> Iterator[Progress]:
    """Give a function of (done, total) that draws a bar with the time left.

    Where stderr is no terminal nothing is drawn.

    Args:
        label: what is done, for example "evaluating".
        unit: what is counted, with the space before it.
        scale: write 1,500,000 as 1.50M, for bytes.
    """
    with tqdm(desc=label, unit=unit, unit_scale=scale, leave=False, disable=None) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Give a function of a text that is shown until the next one replaces it.

    Where stderr is no terminal nothing is shown.
    """
    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        yield line.set_description_str
