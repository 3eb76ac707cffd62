"""Words for people: tables for a terminal, numbers of things, and what errors say."""

from collections.abc import Collection, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: rows of cells, all of one length.
        left: positions of the left-aligned columns; all others are right-aligned.
    """
    rows = list(rows)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        columns = enumerate(zip(row, widths, strict=True))
        cells = (c.ljust(width) if i in left else c.rjust(width) for i, (c, width) in columns)
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def counted(count: float, one: str, many: str | None = None) -> str:
    """Return a number of things: "1 epoch", "1.5 epochs", "2,000 epochs".

    Args:
        count: their number, 0 or more.
        one: the word for one of them.
        many: the word for several, if it is not `one` with an s.
    """
    return f"{count:,.12g} {one if count == 1 else many or f'{one}s'}"


def install_hint(extra: str) -> str:
    """Return how to install the packages of an optional extra, such as "serve"."""
    return f'Install it with: pip install "keras-effnetv2[{extra}]" (in a clone: ".[{extra}]")'


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
