"""The progress of long work, on stderr, for a person at a terminal."""

import contextlib
from collections.abc import Callable, Iterator

from tqdm import tqdm

from keras_effnetv2._common.text import printable

Progress = Callable[[int, int | None], None]  # (done, total or None), as often as one likes


@contextlib.contextmanager
def progress_bar(
    label: str, unit: str = " pictures", scale: bool = False, *, quiet: bool = False
) -> Iterator[Progress]:
    """Yield a function of (done, total) that draws a bar with the time left.

    If stderr is not a terminal, nothing is drawn.

    Args:
        label: the work, for example "evaluating".
        unit: the things that are counted, with a space before them.
        scale: write 1,500,000 as 1.50M, for bytes.
        quiet: draw nothing.
    """
    options = {"unit": unit, "unit_scale": scale, "leave": False, "disable": quiet or None}
    with tqdm(desc=printable(label), **options) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


@contextlib.contextmanager
def progress_line() -> Iterator[Callable[[str], None]]:
    """Yield a function of a text, which is shown until the next one replaces it.

    If stderr is not a terminal, nothing is shown.
    """
    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        yield lambda text: line.set_description_str(printable(text))
