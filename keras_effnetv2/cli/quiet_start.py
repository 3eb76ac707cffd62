"""TensorFlow's import without its start-up messages."""

import importlib
import os
import sys
import tempfile


def start_tensorflow() -> None:
    """Import TensorFlow; its messages are dropped where TF_CPP_MIN_LOG_LEVEL is 3.

    They tell a person at a terminal nothing. Some are written before any setting of TensorFlow's
    is read, straight to the file descriptor. What it writes if the import fails is shown.
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
