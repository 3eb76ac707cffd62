"""TensorFlow's import without its start-up messages."""

import importlib
import logging
import os
import sys

from keras_effnetv2._common.quiet import quiet_stderr


def start_tensorflow() -> None:
    """Import TensorFlow; its messages are dropped where TF_CPP_MIN_LOG_LEVEL is 3.

    They do not help a person at a terminal. Some are written directly to the file descriptor,
    before TensorFlow reads any setting. If the import fails, its messages are shown.
    """
    if os.environ.get("TF_CPP_MIN_LOG_LEVEL") != "3" or "tensorflow" in sys.modules:
        return
    with quiet_stderr():
        importlib.import_module("tensorflow")
    # It warns of tracing, but each stage is meant to be traced.
    logging.getLogger("tensorflow").setLevel(logging.ERROR)
