"""What measured times depend on, and errors that say that memory does not suffice."""

import importlib.metadata
import platform

import pytest
import tensorflow as tf

from keras_effnetv2._common import machine
from keras_effnetv2._common.machine import describe_machine, is_out_of_memory


def test_the_machine_and_what_is_installed():
    found = describe_machine(("numpy", "no-such-package"), threads=3)
    assert found["threads"] == "3"
    assert found["CPU"]
    assert found["Python"] == platform.python_version()
    assert found["numpy"] == importlib.metadata.version("numpy")
    assert "no-such-package" not in found


def test_gpus_are_those_of_the_nvidia_driver(tmp_path, monkeypatch):
    monkeypatch.setattr(machine, "NVIDIA", tmp_path)
    assert "GPU" not in describe_machine(())
    for bus, name in (("0000:01:00.0", "NVIDIA H200"), ("0000:02:00.0", "NVIDIA T4")):
        (tmp_path / bus).mkdir()
        (tmp_path / bus / "information").write_text(f"Model: \t\t {name}\nIRQ:   \t\t 11\n")
    assert describe_machine(())["GPU"] == "NVIDIA H200, NVIDIA T4"


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (MemoryError(), True),
        (tf.errors.ResourceExhaustedError(None, None, "failed to allocate memory"), True),
        # XLA, as JAX raises it: jax.errors.JaxRuntimeError is a RuntimeError.
        (RuntimeError("RESOURCE_EXHAUSTED: Out of memory allocating 70 bytes."), True),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB."), True),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"), True),
        (tf.errors.InvalidArgumentError(None, None, "shapes differ"), False),
        (ValueError("memory"), False),
    ],
)
def test_out_of_memory_in_the_words_of_every_backend(error, expected):
    assert is_out_of_memory(error) is expected
