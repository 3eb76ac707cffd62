"""TensorFlow's import without its start-up messages."""

import importlib
import logging
import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Import TensorFlow; its messages are dropped where TF_CPP_MIN_LOG_LEVEL is 3.

    They do not help a person at a terminal. Some are written directly to the file descriptor,
    before TensorFlow reads any setting. If the import fails, its messages are shown.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3" or "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    with tempfile.TemporaryFile() as captured:
        terminal = os.dup(2)
        os.dup2(captured.fileno(), 2)
        try:
            importlib.import_module("tensorflow")
        except BaseException:
            captured.seek(0)
            os.write(terminal, captured.read())
            raise
        finally:
            os.dup2(terminal, 2)
            os.close(terminal)
    # It warns of tracing, but each stage is meant to be traced.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
