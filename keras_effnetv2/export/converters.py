"""From a TensorFlow graph function to ONNX, OpenVINO and LiteRT files: what is written, and how."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.export.runtimes import PRECISION_KEY, optional_module

INPUT, OUTPUT = "images", "probabilities"

_ONNX_OPSET = 18  # the newest that tf2onnx 1.17 writes; ONNX Runtime 1.14 (2023) and later read it
_AXES = ("batch", "height", "width")


@dataclass(frozen=True)
class Conversion:
    """What a graph function is converted from and to.

    Attributes:
        function: `tf.function`: `INPUT` float32 (N, H, W, 3) -> {`OUTPUT`: float32 (N, C)}.
        saved_model: folder of the SavedModel whose default signature it is.
        quantize: what is shortened, see `formats.export_model`; None if nothing.
        calibration: pictures to find the ranges of activations with, (N, H, W, 3) each.
        path: the file to write.
    """

    function: Any
    saved_model: Path
    quantize: str | None
    calibration: Sequence[np.ndarray]
    path: Path


@dataclass(frozen=True)
class FileFormat:
    """A kind of file that can be written.

    Attributes:
        suffix: ending of the file.
        suffixes: endings of all files that it consists of.
        quantize: what can be shortened in it.
        modules: what has to be installed to write and to run it.
        convert: writes it.
    """

    suffix: str
    suffixes: tuple[str, ...]
    quantize: tuple[str, ...]
    modules: tuple[str, ...]
    convert: Callable[[Conversion], None]


def _to_onnx(conversion: Conversion) -> None:
    onnx, tf2onnx = optional_module("onnx"), optional_module("tf2onnx")
    # This freezes the variables, where tf2onnx' own reader of Keras models would not know Keras 3.
    model, _ = tf2onnx.convert.from_function(
        conversion.function,
        input_signature=conversion.function.input_signature,
        opset=_ONNX_OPSET,
    )
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES, strict=False):
            if not axis.dim_value:
                axis.dim_param = name  # in place of numbered unknowns
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, conversion.path)


def _to_openvino(conversion: Conversion) -> None:
    openvino = optional_module("openvino")
    # Compiles to the same operations as `convert_model`, which reports to Intel that it was used.
    model = openvino.Core().read_model(conversion.saved_model)
    if conversion.quantize == "bfloat16":
        model.set_rt_info("bf16", list(PRECISION_KEY))
    # float16 has more digits than bfloat16; what is beyond its range stays float32.
    compress = conversion.quantize is not None
    openvino.save_model(model, conversion.path, compress_to_fp16=compress)


def _to_litert(conversion: Conversion) -> None:
    # From the SavedModel: of the function of a Keras 3 model the converter of TensorFlow 2.21 loses
    # the weights, and the file answers NaN. LiteRT itself (2.3) has no converter of TensorFlow
    # models, and TensorFlow's interpreter is deprecated in favour of LiteRT's.
    converter = tf.lite.TFLiteConverter.from_saved_model(str(conversion.saved_model))
    if conversion.quantize is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if conversion.quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    if conversion.quantize == "int8":
        converter.representative_dataset = lambda: ([images] for images in conversion.calibration)
    conversion.path.write_bytes(converter.convert())


FORMATS = {
    "onnx": FileFormat(".onnx", (".onnx",), (), ("onnx", "tf2onnx", "onnxruntime"), _to_onnx),
    "openvino": FileFormat(
        ".xml", (".xml", ".bin"), ("float16", "bfloat16"), ("openvino",), _to_openvino
    ),
    "litert": FileFormat(
        ".tflite",
        (".tflite",),
        ("float16", "dynamic", "int8"),
        ("ai_edge_litert.interpreter",),
        _to_litert,
    ),
}
"""What `formats.export_model` can write, by name."""
