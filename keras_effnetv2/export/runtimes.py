"""The file formats, and their runtimes (optional packages) on the CPU, each as one function."""

import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.quiet import quiet_stderr
from keras_effnetv2._common.text import first_line
from keras_effnetv2.export.converters import (
    PRECISION_KEY,
    Calibration,
    optional_module,
    write_litert,
    write_onnx,
    write_openvino,
)
from keras_effnetv2.export.outputs import version_folder

Runner = Callable[[np.ndarray], np.ndarray]
"""float32 (N, H, W, 3) pictures, 0..255 -> float32 (N, classes) probabilities."""

Sizes = tuple[int | None, int | None]
Shape = Sequence[Any]


@dataclass(frozen=True)
class ExportedModel:
    """An exported classifier in its runtime, on the CPU: call it, from one thread at a time.

    Attributes:
        path: of the file or the folder.
        image_shape: height and width of its pictures, pixels; None is any.
    """

    path: Path
    image_shape: Sizes
    run: Runner

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """Return the probabilities (N, classes), float32, of pictures.

        Args:
            images: float32 (N, H, W, 3), 0..255, with N at least 1.

        Raises:
            ValueError: they are not as described above, or do not have the `image_shape`.
        """
        # LiteRT takes any shape, OpenVINO any dtype.
        height, width = self.image_shape
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
        return self.run(images)


def load_exported(path: str | os.PathLike[str], threads: int | None = None) -> ExportedModel:
    """Open what `formats.export_model` or `saved_model.export_saved_model` wrote, on the CPU.

    Args:
        path: the file: `.onnx`, `.xml` (OpenVINO; the weights are next to it in `.bin`), `.tflite`;
            or the folder of a SavedModel or of its versions, of which the newest is opened.
        threads: number of threads of a file's runtime; None takes one for each core.

    Returns:
        A function of float32 pictures (N, H, W, 3), 0..255, with N at least 1, that returns
        float32 probabilities (N, classes). Call it from one thread at a time. H and W are those
        of the export, or any if it was made with `dynamic_size=True`; others are a ValueError.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: the ending is unknown, the file is damaged or takes no such pictures, or there
            is less than one thread.
        ImportError: the runtime is not installed.
    """
    path = Path(path)
    openers = {row.suffix: row.open for row in FORMATS.values()}
    folder = version_folder(path)
    if folder is None and path.suffix not in openers:
        raise ValueError(
            "A SavedModel is a folder, and the ending of an exported file must be one of "
            f"{', '.join(openers)}. Received: {str(path)!r}"
        )
    check_integer("threads", threads, minimum=1, or_none=True)
    if folder is None and not path.is_file():
        raise FileNotFoundError(f"There is no exported file {path}")
    path = folder or path
    opener = _open_saved_model if folder else openers[path.suffix]
    shape, run = opener(path, threads or os.cpu_count() or 1)
    return ExportedModel(path, _picture_shape(path, shape), run)


def _picture_shape(path: Path, shape: Shape) -> Sizes:
    """Return height and width of an input's shape; ValueError unless it is (N, H, W, 3)."""
    sizes = tuple(size if isinstance(size, int) and size > 0 else None for size in shape)
    if len(sizes) != 4 or sizes[3] != 3:
        raise ValueError(
            f"{path} must take pictures (N, height, width, 3). Received: an input of {(*shape,)}"
        )
    _, height, width, _ = sizes
    return height, width


def load_saved_model(folder: Path) -> Any:
    """Return the result of `tf.saved_model.load`; ValueError if it cannot be loaded."""
    import tensorflow as tf

    logger = logging.getLogger("absl")
    level = logger.level
    logger.setLevel(logging.ERROR)  # that the graph has no gradients, which nobody asks for
    try:
        return tf.saved_model.load(str(folder))
    except Exception as error:  # TensorFlow raises a dozen kinds for a damaged file
        raise ValueError(f"The model in {folder} cannot be loaded: {first_line(error)}") from None
    finally:
        logger.setLevel(level)


def computes_bfloat16() -> bool:
    """Return whether OpenVINO computes in bfloat16 on this CPU (AVX512_BF16 or AMX)."""
    core = optional_module("openvino").Core()
    return "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _open_onnx(path: Path, threads: int) -> tuple[Shape, Runner]:
    onnxruntime = optional_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    (images,) = session.get_inputs()
    return images.shape, lambda pictures: session.run(None, {images.name: pictures})[0]


def _open_openvino(path: Path, threads: int) -> tuple[Shape, Runner]:
    openvino = optional_module("openvino")
    core = openvino.Core()
    model = core.read_model(path)
    key = list(PRECISION_KEY)
    # Without a hint OpenVINO computes in bfloat16 wherever the CPU can.
    precision = model.get_rt_info(key).astype(str) if model.has_rt_info(key) else "f32"
    settings = {"INFERENCE_PRECISION_HINT": precision, "INFERENCE_NUM_THREADS": threads}
    compiled = core.compile_model(model, "CPU", settings)
    sides = model.input().partial_shape
    shape = [side.get_length() if side.is_static else None for side in sides]
    # Copied, because the next call writes its answer to the same memory.
    return shape, lambda pictures: compiled(pictures)[0].copy()


def _open_litert(path: Path, threads: int) -> tuple[Shape, Runner]:
    litert = optional_module("ai_edge_litert.interpreter")
    interpreter = litert.Interpreter(model_path=str(path), num_threads=threads)
    (images,) = interpreter.get_input_details()
    (probabilities,) = interpreter.get_output_details()
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

    return images["shape_signature"].tolist(), run


def _open_saved_model(path: Path, threads: int) -> tuple[Shape, Runner]:
    import tensorflow as tf

    from keras_effnetv2.export.signatures import PIXELS_SIGNATURE

    model = load_saved_model(path)
    predict = model.signatures.get(PIXELS_SIGNATURE)
    if predict is None:
        raise ValueError(f"{path} must have the signature {PIXELS_SIGNATURE!r}, of pixels.")
    ((name, images),) = predict.structured_input_signature[1].items()
    shape = images.shape.as_list() if images.shape.rank else ()

    def run(pictures: np.ndarray) -> np.ndarray:
        assert model  # the function needs it
        (probabilities,) = predict(**{name: tf.constant(pictures, images.dtype)}).values()
        return probabilities.numpy()

    return shape, run


@dataclass(frozen=True)
class FileFormat:
    """A kind of file."""

    suffixes: tuple[str, ...]  # endings of all its files, that of the main file first
    quantize: tuple[str, ...]  # its values of `quantize`
    modules: tuple[str, ...]  # needed to write and to run it
    write: Callable[[Any, Path, Path, str | None, Calibration], None]  # see `converters.py`
    # From a number of threads, the shape of its input, where anything but a positive number is any,
    # and a function that runs it.
    open: Callable[[Path, int], tuple[Shape, Runner]]

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
