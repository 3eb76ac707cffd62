"""Running exported files: ONNX Runtime, OpenVINO and LiteRT behind one callable, on the CPU.

The runtimes are optional packages, imported when a file of theirs is opened.
"""

import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Runner = Callable[[np.ndarray], np.ndarray]
"""float32 (N, H, W, 3) pictures, 0..255 -> float32 (N, classes) probabilities."""

Sizes = tuple[int | None, int | None]
"""Height and width that a file takes, pixels; None for any."""

PRECISION_KEY = ("keras_effnetv2", "inference_precision")
"""Where an OpenVINO file says the precision to compute in: "bf16"; one that does not, "f32"."""

_CHANNELS = 3


def optional_module(name: str) -> Any:
    """Import a module of the extra `formats`.

    Args:
        name: of the module, e.g. "onnxruntime" or "ai_edge_litert.interpreter".

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ImportError(
            f"ONNX, OpenVINO and LiteRT files need optional packages, and {name.split('.')[0]!r} "
            f"cannot be imported ({error}). Install them: pip install 'keras-effnetv2[formats]'"
        ) from error


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> Runner:
    """Open a file that `formats.export_model` wrote, in its runtime, on the CPU.

    Args:
        path: the file; its ending says which runtime: `.onnx`, `.xml` (OpenVINO; the weights lie
            beside it in `.bin`) or `.tflite`.
        threads: how many the runtime computes with; None takes one for each core.

    Returns:
        A function of float32 pictures (N, H, W, 3), 0..255, with N at least 1, that returns
        float32 probabilities (N, classes). H and W are those of the export, or any, if it was made
        with `dynamic_size=True`. It may be called by one thread at a time.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: an unknown ending, or fewer than one thread. The function returned raises it
            for pictures of another shape or dtype.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    opener = _OPENERS.get(path.suffix)
    if opener is None:
        raise ValueError(
            f"The ending of an exported file must be one of {', '.join(_OPENERS)}. "
            f"Received: {str(path)!r}"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be at least 1, or None for all. Received: {threads}")
    if not path.is_file():
        raise FileNotFoundError(f"There is no exported file {path}")
    sizes, run = opener(path, threads or os.cpu_count() or 1)

    def checked(images: np.ndarray) -> np.ndarray:
        _check_images(images, sizes)
        return run(images)

    return checked


def computes_bfloat16() -> bool:
    """Whether OpenVINO computes in bfloat16 on this CPU (AVX512_BF16 or AMX)."""
    core = optional_module("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _check_images(images: np.ndarray, sizes: Sizes) -> None:
    """Check pictures before a runtime sees them: LiteRT takes any shape, OpenVINO any dtype."""
    height, width = sizes
    if (
        isinstance(images, np.ndarray)
        and images.dtype == np.float32
        and images.ndim == 4
        and images.shape[0] > 0
        and height in (None, images.shape[1])
        and width in (None, images.shape[2])
        and images.shape[3] == _CHANNELS
    ):
        return
    raise ValueError(
        f"Pictures must be a float32 array (N, {height or 'height'}, {width or 'width'}, 3), "
        f"0..255, with N at least 1. Received: {getattr(images, 'dtype', type(images).__name__)} "
        f"{getattr(images, 'shape', '')}"
    )


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
            interpreter.allocate_tensors()
            allocated = pictures.shape
        interpreter.set_tensor(images["index"], pictures)
        interpreter.invoke()
        return interpreter.get_tensor(probabilities["index"])

    return (height, width), run


_OPENERS = {".onnx": _open_onnx, ".xml": _open_openvino, ".tflite": _open_litert}
