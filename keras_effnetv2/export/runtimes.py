"""The file formats, and their runtimes (optional packages) on the CPU, each as one function."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.quiet import quiet_stderr
from keras_effnetv2.export.converters import (
    PRECISION_KEY,
    Calibration,
    optional_module,
    write_litert,
    write_onnx,
    write_openvino,
)

Runner = Callable[[np.ndarray], np.ndarray]
"""float32 (N, H, W, 3) pictures, 0..255 -> float32 (N, classes) probabilities."""

Sizes = tuple[int | None, int | None]


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> Runner:
    """Open a file that `formats.export_model` wrote, in its runtime, on the CPU.

    Args:
        path: the file: `.onnx`, `.xml` (OpenVINO; the weights are next to it in `.bin`), `.tflite`.
        threads: number of threads of the runtime; None takes one for each core.

    Returns:
        A function of float32 pictures (N, H, W, 3), 0..255, with N at least 1, that returns
        float32 probabilities (N, classes). Call it from one thread at a time. H and W are those
        of the export, or any if it was made with `dynamic_size=True`; others are a ValueError.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending is unknown, or there is less than one thread.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    openers = {row.suffix: row.open for row in FORMATS.values()}
    if path.suffix not in openers:
        raise ValueError(
            f"The ending of an exported file must be one of {', '.join(openers)}. "
            f"Received: {str(path)!r}"
        )
    check_integer("threads", threads, minimum=1, or_none=True)
    if not path.is_file():
        raise FileNotFoundError(f"There is no exported file {path}")
    (height, width), run = openers[path.suffix](path, threads or os.cpu_count() or 1)

    def checked(images: np.ndarray) -> np.ndarray:
        # LiteRT takes any shape, OpenVINO any dtype.
        shape: tuple[int, ...] = getattr(images, "shape", ())
        dtype = getattr(images, "dtype", type(images).__name__)
        fits = len(shape) == 4 and all(
            allowed in (None, size)
            for allowed, size in zip((None, height, width, 3), shape, strict=True)
        )
        if not isinstance(images, np.ndarray) or dtype != np.float32 or not fits or not shape[0]:
            raise ValueError(
                f"Pictures must be a float32 array (N, {height or 'height'}, {width or 'width'}, "
                f"3), 0..255, with N at least 1. Received: {dtype} {shape}"
            )
        return run(images)

    return checked


def computes_bfloat16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this CPU (AVX512_BF16 or AMX)."""
    core = optional_module("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _open_onnx(path: Path, threads: int) -> tuple[Sizes, Runner]:
    onnxruntime = optional_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    height, width = (size if isinstance(size, int) else None for size in images.shape[1:3])
    return (height, width), lambda pictures: session.run(None, {images.name: pictures})[0]


def _open_openvino(path: Path, threads: int) -> tuple[Sizes, Runner]:
    openvino = optional_module("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    key = list(PRECISION_KEY)
    # Without a hint OpenVINO computes in bfloat16 wherever the CPU can.
    precision = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", settings)
    _, height, width, _ = (
        size.get_length() if size.is_static else None for size in model.input().partial_shape
    )
    # Copied, because the next call writes its answer to the same memory.
    return (height, width), lambda pictures: compiled(pictures)[0].copy()


def _open_litert(path: Path, threads: int) -> tuple[Sizes, Runner]:
    litert = optional_module("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()
    height, width = (None if size < 0 else int(size) for size in images["shape_signature"][1:3])
    allocated: tuple[int, ...] = ()

    def run(pictures: np.ndarray) -> np.ndarray:
        nonlocal allocated
        if pictures.shape != allocated:
            interpreter.resize_tensor_input(images["index"], pictures.shape)
            with quiet_stderr():  # the first time it says that it uses the CPU
                interpreter.allocate_tensors()
            allocated = pictures.shape
        interpreter.set_tensor(images["index"], pictures)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return (height, width), run


@dataclass(frozen=True)
class FileFormat:
    """A kind of file.

    Attributes:
        suffixes: endings of all its files, that of the main file first.
        quantize: its values of `quantize`.
        modules: the modules needed to write and to run it.
        write: writes it, see `converters.py`.
        open: returns the height and width that it takes (pixels, None for any) and a function
            that runs it, given a number of threads.
    """

    suffixes: tuple[str, ...]
    quantize: tuple[str, ...]
    modules: tuple[str, ...]
    write: Callable[[Any, Path, Path, str | None, Calibration], None]
    open: Callable[[Path, int], tuple[Sizes, Runner]]

    @property
    def suffix(self) -> str:
        """Ending of the main file."""
        return self.suffixes[0]


FORMATS = {
    "onnx": FileFormat((".onnx",), (), ("onnx", "tf2onnx", "onnxruntime"), write_onnx, _open_onnx),
    "openvino": FileFormat(
        (".xml", ".bin"), ("float16", "bfloat16"), ("openvino",), write_openvino, _open_openvino
    ),
    "litert": FileFormat(
        (".tflite",),
        ("float16", "dynamic", "int8"),
        ("ai_edge_litert.interpreter",),
        write_litert,
        _open_litert,
    ),
}
"""What `export_model` writes and `load_exported` runs, by name."""
