"""Words for people: tables for a terminal, numbers of things, and what an error says."""

from collections.abc import Collection, Iterable, Sequence


def aligned(rows: Iterable[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table.

    Args:
        rows: of one length, of cells.
        left: positions of the columns that are set to the left; all others are set to the right.
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
        one: what one of them is called.
        many: what several are called, where that is not `one` with an s.
    """
    return f"{count:,.12g} {one if count == 1 else many or f'{one}s'}"


def first_line(error: BaseException) -> str:
    """Return the first line of what an error says; of one without words, its name."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
