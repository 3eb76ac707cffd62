"""The machine: facts that measured times depend on, and errors when its memory is full.

This module imports no backend.
"""

import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NVIDIA = Path("/proc/driver/nvidia/gpus")
# TensorFlow's class of errors, the status code of XLA (JAX, and TensorFlow where it compiles),
# PyTorch on a GPU, and PyTorch on a CPU. In lower case.
_NO_MEMORY = (
    "resourceexhausted",
    "resource_exhausted",
    "out of memory",
    "can't allocate memory",
)


def describe_machine(packages: Iterable[str], threads: int | None = None) -> dict[str, str]:
    """Return the facts that measured times depend on.

    They are date, CPU, GPUs if Linux has the NVIDIA driver, threads (None is one for each core),
    Python, and the versions of those packages that are installed.
    """
    found = {"date": datetime.now(UTC).date().isoformat(), "CPU": _processor()}
    if gpus := _gpus():
        found["GPU"] = gpus
    found["threads"] = str(threads or os.cpu_count())
    found["Python"] = platform.python_version()
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error of any backend means that there is not enough memory."""
    text = f"{type(error).__name__}: {error}".lower()
    return isinstance(error, MemoryError) or any(words in text for words in _NO_MEMORY)


def _processor() -> str:
    """The name of the CPU, where Linux tells it."""
    names = _values(Path("/proc/cpuinfo"), "model name")
    return names[0] if names else platform.processor() or platform.machine()


def _gpus() -> str:
    """The names of the GPUs that the NVIDIA driver for Linux knows, "" if none."""
    models = [_values(path, "Model") for path in sorted(NVIDIA.glob("*/information"))]
    return ", ".join(name for names in models for name in names)


def _values(path: Path, key: str) -> list[str]:
    """What follows "key:" in a text file of the system; nothing, if it cannot be read."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    return [line.partition(":")[2].strip() for line in lines if line.startswith(key)]
