"""Text for a terminal."""

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
