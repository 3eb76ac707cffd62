"""Silence for libraries that write to the standard error stream themselves."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator

_shown: int | None = None


def shown_stderr() -> int | None:
    """Return the descriptor of what `quiet_stderr` puts aside; None outside of it."""
    return _shown


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what is written to file descriptor 2 meanwhile; after an exception it is shown."""
    global _shown
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        shown = os.dup(2)
        os.dup2(captured.fileno(), 2)
        before, _shown = _shown, shown
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(shown, captured.read())
            raise
        finally:
            _shown = before
            os.dup2(shown, 2)
            os.close(shown)
