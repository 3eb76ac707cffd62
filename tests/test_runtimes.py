"""What `load_exported` takes and refuses; its answers are compared in test_formats.py."""

import sys

import numpy as np
import pytest

from keras_effnetv2.export.runtimes import load_exported


@pytest.mark.parametrize("name", ["net.pb", "net", "net.onnx.json"])
def test_unknown_endings(name):
    with pytest.raises(ValueError, match=rf"one of .onnx, .xml, .tflite. Received: '{name}'"):
        load_exported(name)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no exported file .*net\.onnx"):
        load_exported(tmp_path / "net.onnx")


@pytest.mark.parametrize("threads", [0, -1])
def test_fewer_than_one_thread(threads):
    with pytest.raises(ValueError, match=f"at least 1, or None. Received: {threads}"):
        load_exported("net.onnx", threads)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").touch()
    with pytest.raises(
        ImportError, match=r"'onnxruntime' cannot .* pip install 'keras-effnetv2\[formats\]'"
    ):
        load_exported(tmp_path / "net.onnx")


@pytest.fixture(scope="module")
def mean(tmp_path_factory):
    """An ONNX file that returns the mean of the pixels of pictures of 4 x 6."""
    onnx = pytest.importorskip("onnx", reason="onnx of the extra [formats] is not installed")
    pytest.importorskip("onnxruntime", reason="onnxruntime of [formats] is not installed")
    kind = onnx.TensorProto.FLOAT
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("ReduceMean", ["images", "axes"], ["probabilities"], keepdims=0)],
        "mean",
        [onnx.helper.make_tensor_value_info("images", kind, ["batch", 4, 6, 3])],
        [onnx.helper.make_tensor_value_info("probabilities", kind, ["batch", 3])],
        [onnx.numpy_helper.from_array(np.array([1, 2]), "axes")],
    )
    model = onnx.helper.make_model(
        graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=8
    )
    path = tmp_path_factory.mktemp("mean") / "mean.onnx"
    onnx.save(model, path)
    return load_exported(str(path), threads=1)


def test_pictures_that_are_in_order(mean):
    images = np.arange(2 * 4 * 6 * 3, dtype=np.float32).reshape(2, 4, 6, 3)
    np.testing.assert_allclose(mean(images), images.mean((1, 2)))


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, 4, 6, 3)),
        np.zeros((2, 4, 6, 3), np.uint8),
        np.zeros((4, 6, 3), np.float32),
        np.zeros((2, 6, 4, 3), np.float32),
        np.zeros((2, 4, 6, 1), np.float32),
        np.zeros((0, 4, 6, 3), np.float32),
        [[0.0]],
    ],
    ids=lambda images: f"{getattr(images, 'dtype', 'list')}{getattr(images, 'shape', '')}",
)
def test_pictures_that_are_not(mean, images):
    with pytest.raises(ValueError, match=r"float32 array \(N, 4, 6, 3\), 0..255, with N at least"):
        mean(images)
