"""Silence for libraries that write to the standard error stream themselves."""

import contextlib
import os
import sys
import tempfile
from collections.abc import Iterator


@contextlib.contextmanager
def quiet_stderr() -> Iterator[None]:
    """Drop what is written to file descriptor 2 meanwhile; after an exception it is shown."""
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        shown = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            yield
        except BaseException:
            captured.seek(0)
            os.write(shown, captured.read())
            raise
        finally:
            os.dup2(shown, 2)
            os.close(shown)
