"""Writes a TensorFlow graph as an ONNX, OpenVINO or LiteRT file.

The functions take the graph twice, since each converter reads one form best: as a `tf.function`,
`INPUT` float32 (N, H, W, 3) -> {`OUTPUT`: float32 (N, C)}, and as the folder of the SavedModel
whose default signature it is. `quantize` is that of `formats.export_model`, and `calibration` holds
pictures to find the ranges of activations, (1, H, W, 3) each.
"""

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_effnetv2._common.progress import working
from keras_effnetv2._common.quiet import quiet_stderr
from keras_effnetv2._common.text import install_hint

INPUT, OUTPUT = "images", "probabilities"

PRECISION_KEY = ("keras_effnetv2", "inference_precision")
"""Where an OpenVINO file names its precision of computing, such as "bf16"; without it "f32"."""

_ONNX_OPSET = 18  # the newest that tf2onnx 1.17 writes; ONNX Runtime 1.14 (2023) and later read it
_AXES = ("batch", "height", "width")

Calibration = Sequence[np.ndarray]


def optional_module(name: str) -> Any:
    """Import a module of the extra `formats`; the ImportError says how to install it."""
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ONNX, OpenVINO and LiteRT files need optional packages, and {name.split('.')[0]!r} "
            f"cannot be imported ({error}). {install_hint('formats')}"
        ) from error


@working("converting to ONNX")
def write_onnx(function: Any, saved_model: Path, path: Path, *_: Any) -> None:
    """Write a `.onnx` file, always in float32."""
    onnx, tf2onnx = optional_module("onnx"), optional_module("tf2onnx")
    # This freezes the variables, where tf2onnx' own reader of Keras models would not know Keras 3.
    model, _ = tf2onnx.convert.from_function(
        function, input_signature=function.input_signature, opset=_ONNX_OPSET
    )
    for value in (*model.graph.input, *model.graph.output):
        for axis, name in zip(value.type.tensor_type.shape.dim, _AXES, strict=False):
            if not axis.dim_value:
                axis.dim_param = name  # in place of numbered unknowns
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


@working("converting to OpenVINO")
def write_openvino(
    function: Any, saved_model: Path, path: Path, quantize: str | None, *_: Any
) -> None:
    """Write an OpenVINO `.xml` file, with the weights next to it in `.bin`."""
    openvino = optional_module("openvino")
    # Compiles to the same operations as `convert_model`, which reports to Intel that it was used.
    model = openvino.Core().read_model(saved_model)
    if quantize == "bfloat16":
        model.set_rt_info("bf16", list(PRECISION_KEY))
    # float16 has more digits than bfloat16; what is beyond its range stays float32.
    openvino.save_model(model, path, compress_to_fp16=quantize is not None)


@working("converting to LiteRT")
def write_litert(
    function: Any, saved_model: Path, path: Path, quantize: str | None, calibration: Calibration
) -> None:
    """Write a `.tflite` file."""
    import tensorflow as tf

    if quantize == "int8":
        converter = int8_converter(saved_model, calibration)
    else:
        converter = _litert_converter(saved_model)
        converter.optimizations = [] if quantize is None else [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    with quiet_stderr():  # TensorFlow 2.21 prints the settings of int8
        path.write_bytes(converter.convert())


def int8_converter(saved_model: Path, calibration: Calibration) -> Any:
    """Return a converter to LiteRT whose kernels and activations become int8."""
    import tensorflow as tf

    converter = _litert_converter(saved_model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([images] for images in calibration)
    return converter


def _litert_converter(saved_model: Path) -> Any:
    import tensorflow as tf

    # From the SavedModel: of the function of a Keras 3 model the converter of TensorFlow 2.21 loses
    # the weights, and the file answers NaN. LiteRT itself (2.3) has no converter of TensorFlow
    # models, and TensorFlow's interpreter is deprecated in favour of LiteRT's.
    return tf.lite.TFLiteConverter.from_saved_model(str(saved_model))
