"""Exports of the network of `photos.write_colour_run`, made in milliseconds."""

import numpy as np
import onnx
import openvino
import tensorflow as tf
from onnx import helper

KERNEL = 4 * np.eye(3, dtype=np.float32)[::-1]  # blue, green, red
KINDS = ("net.onnx", "net.xml", "net.tflite", "versions")


def write_export(path, kind, size=32, dynamic=False):
    """Write the export `kind` into the folder `path`, and return its path."""
    path.mkdir(parents=True, exist_ok=True)
    sides = [None, None] if dynamic else [size, size]
    if kind in ("net.onnx", "net.xml"):
        model = _onnx(sides)
        if kind == "net.onnx":
            onnx.save(model, path / kind)
        else:
            source = openvino.Core().read_model(model.SerializeToString())
            openvino.save_model(source, path / kind)
        return path / kind

    spec = tf.TensorSpec([None, *sides, 3], tf.float32, name="images")

    @tf.function(input_signature=[spec], autograph=False)
    def predict(images):
        means = tf.reduce_mean(images, [1, 2]) / 255
        return {"probabilities": tf.nn.softmax(means @ tf.constant(KERNEL))}

    if kind == "net.tflite":
        function = predict.get_concrete_function()
        converter = tf.lite.TFLiteConverter.from_concrete_functions([function], predict)
        (path / kind).write_bytes(converter.convert())
    else:
        for version in ("2", "10"):
            tf.saved_model.save(tf.Module(), str(path / kind / version), signatures=predict)
    return path / kind


def _onnx(sides):
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["n", *sides, 3])
    scores = helper.make_tensor_value_info("probabilities", onnx.TensorProto.FLOAT, ["n", 3])
    kernel = helper.make_tensor("kernel", onnx.TensorProto.FLOAT, [3, 3], (KERNEL / 255).ravel())
    nodes = [
        helper.make_node("ReduceMean", ["images"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "kernel"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["probabilities"]),
    ]
    graph = helper.make_graph(nodes, "net", [images], [scores], [kernel])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
