"""TensorFlow's import without its start-up messages, and without what it would import in vain."""

import contextlib
import importlib
import logging
import os
import sys
from typing import Any

from keras_effnetv2._common.progress import working
from keras_effnetv2._common.quiet import quiet_stderr

# What TensorFlow and Keras import where it is installed, for parts that no command uses: a
# converter, galleries, tables as input, wrappers. Neither depends on these packages.
_LEFT_OUT = ("jax", "matplotlib", "pandas", "sklearn")


def start_tensorflow() -> None:
    """Import TensorFlow and Keras; messages are dropped where TF_CPP_MIN_LOG_LEVEL is 3.

    They do not help a person at a terminal. Some are written directly to the file descriptor,
    before TensorFlow reads any setting. If the import fails, its messages are shown.
    """
    if "tensorflow" in sys.modules:
        return
    is_quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL") == "3"
    silence = quiet_stderr() if is_quiet else contextlib.nullcontext()
    with working("loading TensorFlow", at_once=True), silence:
        sys.meta_path.insert(0, finder := _LeavesOut())
        try:
            importlib.import_module("tensorflow")  # which imports Keras
        finally:
            sys.meta_path.remove(finder)
    if is_quiet:  # it warns of tracing, but each stage is meant to be traced
        logging.getLogger("tensorflow").setLevel(logging.ERROR)


class _LeavesOut:
    """Hides packages from the import system, unless Keras computes with JAX or PyTorch.

    They take two fifths of the time.
    """

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
        others = {"keras.src.backend.jax", "keras.src.backend.torch"} & set(sys.modules)
        is_tensorflow = os.environ.get("KERAS_BACKEND", "tensorflow") == "tensorflow"
        if name in _LEFT_OUT and is_tensorflow and not others:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
