"""Settings that must be in force before any test module imports a backend."""

import gc
import os
from pathlib import Path

import pytest

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

# Nothing is downloaded from the publishers' addresses, and nothing waits for them.
os.environ["HTTPS_PROXY"] = "http://127.0.0.1:9"

# The processes of a test run compile much of the same for JAX, which takes longer than running it.
CACHE = Path(__file__).parent.parent / ".pytest_cache" / "jax"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(CACHE))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")


# Where TensorFlow rewrites graphs for speed, as it does for users. Elsewhere this is left out: it
# takes a sixth of the time of all tests.
WITH_REWRITTEN_GRAPHS = {
    "test_export",
    "test_export_serving",
    "test_lite_weights",
    "test_train_step",
    "test_training_kernels",
}


def pytest_collection_modifyitems(items):
    """Files with slow tests come first, so that no worker ends with one while the other waits."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What is imported stays, so that the collector need not look through it again and again."""
    gc.freeze()
    gc.collect()  # counts what is left, and from now on looks when that has grown by a quarter


@pytest.fixture(scope="module", autouse=True)
def rewritten_graphs(request):
    """Whether TensorFlow rewrites graphs is a matter of the file."""
    import tensorflow as tf

    is_off = request.path.stem not in WITH_REWRITTEN_GRAPHS
    tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": is_off})


@pytest.fixture
def on_jax(monkeypatch):
    """What asks for the backend is told JAX."""
    import keras

    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")


@pytest.fixture
def small_windows(monkeypatch):
    """Records are read in windows of 32 pictures, of 4 blocks where they are shuffled."""
    from keras_effnetv2.data import records

    monkeypatch.setattr(records, "WINDOW_PICTURES", 32)
    monkeypatch.setattr(records, "BLOCKS_PER_WINDOW", 4)


@pytest.fixture
def checkpoints_in_this_process(monkeypatch):
    """Official checkpoints are read without a child process, whose start takes seconds."""
    from keras_effnetv2.pretrained import checkpoint

    monkeypatch.setattr(checkpoint, "read_in_child", checkpoint.read_with_tensorflow)


@pytest.fixture(scope="module")
def variant_is_small():
    """A published variant is quick to build in all tests of a file."""
    from helpers.command_line import small_variant

    with small_variant():
        yield


@pytest.fixture(scope="session", autouse=True)
def weights_drawn_by_numpy():
    """JAX compiles the draw of each shape anew, which takes most of the time of a test there."""
    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("KERAS_BACKEND") == "jax":
            import keras
            import numpy as np

            def draw(self, shape, dtype=None):
                values = np.random.default_rng(self.seed).standard_normal(shape)
                values /= max(1, np.prod(shape[:-1])) ** 0.5
                return keras.ops.convert_to_tensor(values, dtype)

            patch.setattr(keras.initializers.VarianceScaling, "__call__", draw)
        yield
