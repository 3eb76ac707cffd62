"""Text for people: printing, tables, counts, and parts of error messages.

Class names, file names and many errors are other people's text, so `say` prints all text safely.
"""

import contextlib
import re
import sys
import time
from collections.abc import Collection, Iterable, Sequence

# Control characters (C0, DEL, C1), characters that change the direction of text (Unicode's
# Bidi_Control), line and paragraph separators, and surrogates, which stand for bytes that are not
# UTF-8. JSON has the same escapes.
_STEERING = (
    *(*range(0x20), *range(0x7F, 0xA0), 0x61C, 0x200E, 0x200F, 0x2028, 0x2029),
    *(*range(0x202A, 0x202F), *range(0x2066, 0x206A), *range(0xD800, 0xE000)),
)
_ESCAPES = {code: rf"\u{code:04x}" for code in _STEERING} | {9: r"\t", 10: r"\n", 13: r"\r"}


def printable(text: str) -> str:
    r"""Return a text as one line; characters that could control a terminal become `\u001b`."""
    return text.translate(_ESCAPES)


def printable_lines(text: str) -> str:
    """Return a text with each of its lines made `printable`."""
    return "\n".join(map(printable, text.split("\n")))


def without_passwords(text: str) -> str:
    """Return a text with `***` for the passwords in addresses, as in `redis://user:***@host`."""
    return re.sub(r"(://[^/:\s]*:)\S*@", r"\1***@", text)


def say(text: object = "", *, error: bool = False) -> None:
    """Print lines to stdout, or with `error` to stderr.

    Characters that could control a terminal, or that its encoding lacks, become escapes.
    """
    global _said_at
    stream = sys.stderr if error else sys.stdout
    encoding = getattr(stream, "encoding", None) or "utf-8"
    lines = printable_lines(str(text)).encode(encoding, "backslashreplace").decode(encoding)
    tqdm = sys.modules.get("tqdm")  # whose bars make room for the lines
    with tqdm.tqdm.external_write_mode(file=stream) if tqdm else contextlib.nullcontext():
        print(lines, file=stream, flush=True)
    _said_at = time.monotonic()


_said_at = time.monotonic()


def said_at() -> float:
    """Return the time of the last line of `say`, or of the start, as `time.monotonic` has it."""
    return _said_at


def aligned(rows: Iterable[Sequence[str]], left: Collection[int] = ()) -> list[str]:
    """Return the lines of a table; the columns at the positions `left` are left-aligned.

    All rows have one length; each cell is made `printable`.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]

    def line(row: Sequence[str]) -> str:
        columns = enumerate(zip(row, widths, strict=True))
        cells = (c.ljust(width) if i in left else c.rjust(width) for i, (c, width) in columns)
        return "  ".join(cells).rstrip()

    return [line(row) for row in rows]


def counted(count: float, one: str, many: str | None = None) -> str:
    """Return a number of things; `many` is the word for several, if it is not `one` with an s.

    Examples:
        >>> counted(1, "epoch"), counted(2000, "class", "classes")
        ('1 epoch', '2,000 classes')
    """
    return f"{count:,.12g} {one if count == 1 else many or f'{one}s'}"


def roughly(seconds: float) -> str:
    """Return a time with the precision of a rough estimate.

    Examples:
        >>> roughly(47), roughly(700), roughly(9000)
        ('50 seconds', '12 minutes', '2 hours')
    """
    for unit, length in (("hours", 3600), ("minutes", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{max(10, round(seconds, -1)):.0f} seconds"


def listed(items: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Return the first items, joined, and how many more there are.

    A `separator` of lines also stands before "and 3 more".

    Examples:
        >>> listed(["cat", "dog", "fox"], limit=2)
        'cat, dog and 1 more'
    """
    more = f"{separator.lstrip(',;')}and {len(items) - limit} more"
    return separator.join(items[:limit]) + more * (len(items) > limit)


def some(items: Sequence[str], limit: int = 5) -> str:
    """Return the first items in quotes, and how many more there are, as `listed` does."""
    return listed([repr(item) for item in items], limit)


def install_hint(extra: str) -> str:
    """Return how to install the packages of an optional extra, such as "serve"."""
    return f'Install with: pip install "keras-effnetv2[{extra}]" (in a clone: ".[{extra}]")'


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or its class name if it has none."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
