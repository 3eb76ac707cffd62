"""A trained classifier as a file for another runtime: ONNX, OpenVINO or LiteRT.

Every file takes pictures and returns probabilities, with all preprocessing of pixels inside. It is
run in its runtime and compared with the Keras model before it is put in place.

All three are converted from a TensorFlow graph, not with `keras.Model.export`, whose ONNX files ask
for the mean and variance of `Normalization` as two further inputs and whose OpenVINO files are
slower (Keras 3.15).
"""

import contextlib
import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._common.checks import check_choice, check_integer, check_number
from keras_effnetv2._common.files import scratch_beside, write_text
from keras_effnetv2._common.progress import working
from keras_effnetv2._common.text import first_line
from keras_effnetv2.export.check import (
    Batches,
    answers_of,
    batches_of,
    beyond_rounding,
    in_dtype,
    keras_answers,
    largest_difference,
    top1_agreement,
)
from keras_effnetv2.export.converters import INPUT, OUTPUT, optional_module
from keras_effnetv2.export.float_parts import Judge, keep_float_parts, layers_of
from keras_effnetv2.export.metadata import write_metadata
from keras_effnetv2.export.outputs import new_file, report_file
from keras_effnetv2.export.real_pictures import PicturesLike, photographs, picture_array
from keras_effnetv2.export.runtimes import FORMATS, computes_bfloat16, load_exported
from keras_effnetv2.export.saved_model import (
    metadata_of,
    probability_model,
    require_tensorflow_backend,
    resolve_image_size,
)
from keras_effnetv2.images.styles import Style
from keras_effnetv2.models.folding import fold_batch_norm
from keras_effnetv2.models.graph import all_layers

MIN_AGREEMENT = 0.98
"""Share of the pictures on which int8 must find the same best class as Keras, by default."""

MAX_PICTURES = 256
"""Of `calibration`, and of `pictures`. Google recommends 100 to 500 for calibration:
https://ai.google.dev/edge/litert/models/post_training_quantization"""

_ANY_SIZE_CHECKED_AT = 224  # pixels
_NOT_SQUARE = 4  # pictures, of three quarters of the height, check that a size may be any


@dataclass(frozen=True)
class ExportReport:
    """What an exported file is, and how much it differs from the Keras model.

    Attributes:
        path: the file.
        format: "onnx", "openvino" or "litert".
        quantize: how numbers were shortened, None if they were not.
        bytes: size of the file, with the weights beside it.
        max_difference: largest difference of a probability from that of Keras in float32.
        top1_agreement: share of the pictures with the same best class (with a single output: on
            the same side of 0.5).
        pictures: how many were compared.
        float_layers: the layers that `keep_float` left in float.
    """

    path: Path
    format: str
    quantize: str | None
    bytes: int
    max_difference: float
    top1_agreement: float
    pictures: int
    float_layers: tuple[str, ...] = ()


def export_model(
    model: keras.Model,
    path: str | os.PathLike[str],
    format: str = "onnx",
    quantize: str | None = None,
    *,
    image_size: int | None = None,
    dynamic_size: bool = False,
    calibration: PicturesLike | None = None,
    pictures: PicturesLike | None = None,
    style: Style = "whole",
    min_agreement: float = MIN_AGREEMENT,
    keep_float: Literal["auto"] | None = None,
    force: bool = False,
    class_names: Sequence[str] | None = None,
    temperature: float | None = None,
    none_below: float | None = None,
    thresholds: Sequence[float] | None = None,
) -> ExportReport:
    """Write a classifier for another runtime, and compare its results with those of Keras.

    The file has one input `images`, float32 (N, S, S, 3), 0..255, with any N, and one output
    `probabilities`, float32 (N, C). Batch norms are folded where `folding.fold_batch_norm` can, and
    models of mixed precision become float32. `runtimes.load_exported` runs the file, and
    `metadata.read_metadata` tells what it says of itself: class names, size, style and range of its
    pictures, temperature. The report is written next to it, as JSON, with `.json` appended to its
    name. Files get their names only after the comparison.

    Formats, their files, and the values of `quantize` other than None, which is float32:

    - "onnx", `.onnx`: nothing.
    - "openvino", `.xml`, with the weights next to it in `.bin`:
      "float16": weights are stored in float16, half the size; the computation is in float32.
      "bfloat16": the same, but `load_exported` computes in bfloat16, which needs a CPU with
      AVX512_BF16 or AMX. Other programs choose the precision with the hint
      `INFERENCE_PRECISION_HINT`; without it, OpenVINO computes *every* file in bfloat16 on such
      a CPU.
    - "litert", `.tflite`:
      "float16": weights are stored in float16; the computation is in float32.
      "dynamic": kernels are stored in int8, activations are quantised for every batch.
      "int8": kernels and activations are int8; the input and the output stay float32.

    Args:
        model: functional or Sequential classifier, (N, H, W, 3) pixels 0..255 -> (N, C). Logits get
            a softmax, a single logit a sigmoid. It is not changed.
        path: the file to write, with the format's ending.
        format: "onnx", "openvino" or "litert".
        quantize: None for float32, or what is listed above.
        image_size: S, pixels; None takes the model's own. With `dynamic_size` it is the size at
            which the file is compared, 224 if None.
        dynamic_size: let the file take pictures of any height and width; the model must, too.
        calibration: for "int8" only, pictures like those the model will see, to find the ranges
            of activations. An `ImageSource`, or arrays (H, W, 3) or (N, H, W, 3), 0..255. The
            first or (of a source) random `MAX_PICTURES` are used.
        pictures: pictures to compare with Keras on, in the same forms. None takes every second
            one of `calibration` (then not used to calibrate), or parts of two photographs.
        style: how pictures become squares, see `evaluation_crop.resize_for_evaluation`.
        min_agreement: share of pictures, 0..1, on which "int8" must find the best class of Keras.
        keep_float: "auto": if an int8 file is below `min_agreement`, keep parts of the network in
            float, those that help most first, until it agrees; see `float_parts`. They are chosen
            by the pictures of the comparison, so on others the agreement can be lower.
        force: also write a file that differs by more than is allowed. The report says how much.
        class_names: one name per class, for the metadata; None numbers them "0", "1", ...
        temperature: for the metadata, see `Metadata`; the file computes without it.
        none_below: for the metadata, as well.
        thresholds: for the metadata, as well; see `export_saved_model`.

    Returns:
        The size of the file, and how much it differs from Keras.

    Raises:
        RuntimeError: Keras does not run on TensorFlow; "bfloat16" on a CPU that cannot compute it;
            a probability is not finite; or, unless `force`, a float32 file differs by more than
            what `check.DIFFERENCE_LIMIT` says, or an int8 file is below `min_agreement`.
        ValueError: an argument is not as described above, or does not fit the model.
        ImportError: a package of the extra `formats` is missing.
        OSError: the files cannot be written; FileExistsError if one of them exists.
    """
    check_choice("format", format, FORMATS)
    check_number("min_agreement", min_agreement, minimum=0, maximum=1)
    _check_quantize(format, quantize, calibration is not None, keep_float)
    target = new_file(Path(path), FORMATS[format])
    require_tensorflow_backend()
    plain = probability_model(model)
    size = (_size_to_check if dynamic_size else resolve_image_size)(plain, image_size)
    for module in FORMATS[format].modules:
        optional_module(module)
    _check_bfloat16(quantize)
    metadata = metadata_of(plain, class_names, size, style, temperature, none_below, thresholds)
    for_ranges, compared = _gather(calibration, pictures, size, style)
    batches = batches_of(compared)
    if dynamic_size:  # some once more, not square
        batches.append(np.ascontiguousarray(compared[:_NOT_SQUARE, : size - size // 4]))
    is_float32 = all(layer.compute_dtype == "float32" for layer in all_layers(plain))
    exact = plain if is_float32 else in_dtype(plain, "float32")
    expected = keras_answers(exact, batches)

    target.parent.mkdir(parents=True, exist_ok=True)
    with scratch_beside(target) as scratch:
        saved_model, folder = scratch / "saved_model", scratch / "written"
        folder.mkdir(parents=True)
        written = folder / target.name
        function = _saved_function(exact, None if dynamic_size else size, saved_model)
        FORMATS[format].write(function, saved_model, written, quantize, for_ranges)
        judge, in_float = Judge(batches, expected, min_agreement), []
        if keep_float is not None and not judge(written)[0]:
            in_float = keep_float_parts(saved_model, written, for_ranges, judge)
        write_metadata(written, metadata)
        answers = _answers(written, batches, quantize)
        report = ExportReport(
            target,
            format,
            quantize,
            bytes=sum(file.stat().st_size for file in folder.iterdir()),
            max_difference=largest_difference(answers, expected),
            top1_agreement=top1_agreement(answers, expected),
            pictures=len(expected),
            float_layers=layers_of(in_float, plain),
        )
        too_far = ""
        if quantize is None:
            _, too_far = beyond_rounding(report.max_difference, plain, batches)
        _check_report(report, too_far, min_agreement, force)
        fields = dataclasses.asdict(report) | {"path": target.name}
        write_text(report_file(written), json.dumps(fields, indent=2) + "\n")
        new_file(target, FORMATS[format])  # another process may have been faster
        for file in sorted(folder.iterdir(), key=lambda file: file == written):
            file.rename(target.parent / file.name)  # what others lie beside comes last
    return report


def _check_quantize(
    format: str, quantize: str | None, is_calibrated: bool, keep_float: str | None
) -> None:
    allowed = (None, *FORMATS[format].quantize)
    if quantize not in allowed:
        some = {name: ", ".join(one.quantize) for name, one in FORMATS.items() if one.quantize}
        choices = "; ".join(f"{name} with {kinds}" for name, kinds in some.items())
        raise ValueError(
            f"`quantize` must be {' or '.join(map(repr, allowed))} for format {format!r}. Leave it "
            f"out, or choose from: {choices}. Received: {quantize!r}"
        )
    if quantize == "int8" and not is_calibrated:
        raise ValueError(
            "int8 needs pictures like those the model will see, to find the ranges of activations. "
            "Give a few hundred (--calibration, calibration=): labelled pictures as for training, "
            "in Python an ImageSource (see load_source) or arrays (H, W, 3), 0..255. Received: none"
        )
    if quantize != "int8" and is_calibrated:
        raise ValueError(
            "`calibration` is for int8 only. Give the pictures for the comparison as --pictures, "
            f"pictures=. Received: calibration with quantize={quantize!r}"
        )
    if keep_float is not None:
        check_choice("keep_float", keep_float, ("auto",))
        if quantize != "int8":
            raise ValueError(
                "`keep_float` is for int8 only (--quantize int8, quantize='int8'). "
                f"Received: quantize={quantize!r}"
            )


def _check_bfloat16(quantize: str | None) -> None:
    if quantize == "bfloat16" and not computes_bfloat16():
        raise RuntimeError(
            "A bfloat16 file can only be checked on a CPU that computes in bfloat16, with "
            "AVX512_BF16 or AMX, and this one does not. Export on such a CPU, or export float16 "
            "(--quantize float16, quantize='float16'): a program can run that file in bfloat16 "
            "with OpenVINO's INFERENCE_PRECISION_HINT."
        )


def _size_to_check(model: keras.Model, image_size: int | None) -> int:
    """Return the size at which a file for any size is compared."""
    shape = model.input_shape
    if tuple(shape[1:]) != (None, None, 3):
        raise ValueError(
            "`dynamic_size` needs a model for pictures of any size. Build it with "
            f"input_shape=(None, None, 3) and load the weights. Received: an input of {shape}"
        )
    size = _ANY_SIZE_CHECKED_AT if image_size is None else image_size
    check_integer("image_size", size, minimum=1)
    return int(size)


def _gather(
    calibration: PicturesLike | None, pictures: PicturesLike | None, size: int, style: Style
) -> tuple[list[np.ndarray], np.ndarray]:
    """Return pictures to calibrate with, one per batch, and those to compare with."""
    seen = None if calibration is None else picture_array(calibration, size, style, MAX_PICTURES)
    if pictures is not None:
        compared = picture_array(pictures, size, style, MAX_PICTURES)
    elif seen is None:
        compared = photographs(size)
    elif len(seen) > 1:
        # Turn by turn, because pictures are often sorted by class.
        seen, compared = seen[::2], seen[1::2]
    else:
        raise ValueError(
            "int8 is compared with Keras on every second picture of the calibration. Give more "
            "than one picture, or others to compare with (--pictures, pictures=). Received: 1"
        )
    return [] if seen is None else np.split(seen, len(seen)), compared


@working("writing the graph")
def _saved_function(model: keras.Model, size: int | None, folder: Path) -> Any:
    """Save the graph of a file, folded, for pictures of a size or any, and return its function."""
    # Of a model that cannot be folded: to the runtime weights are constants, it does what it can.
    with contextlib.suppress(ValueError):
        model = fold_batch_norm(model)

    def serve(images: Any) -> dict[str, Any]:
        return {OUTPUT: model(images, training=False)}

    spec = tf.TensorSpec([None, size, size, 3], tf.float32, name=INPUT)
    function = tf.function(serve, input_signature=[spec], autograph=False)
    module = tf.Module()
    # What the function computes with has to hang on what is saved.
    module.weights = function.get_concrete_function().variables
    tf.saved_model.save(module, str(folder), signatures=function)
    return function


def _answers(path: Path, batches: Batches, quantize: str | None) -> np.ndarray:
    try:
        return answers_of(load_exported(path), batches)
    except RuntimeError as error:
        if quantize != "int8":
            raise
        raise RuntimeError(
            f"LiteRT cannot run the int8 file ({first_line(error)}). Keep in float what int8 "
            "cannot hold (--keep-float auto, keep_float='auto'), or use float16 or dynamic "
            "(--quantize, quantize=). Nothing was written."
        ) from error


def _check_report(report: ExportReport, too_far: str, min_agreement: float, force: bool) -> None:
    if not np.isfinite(report.max_difference):
        raise RuntimeError(
            f"The {report.format} file, quantize={report.quantize!r}, or the model itself gives "
            "probabilities that are not finite. Check the model in Keras; if it is right there, "
            "export float32 (without --quantize, quantize=None). Nothing was written."
        )
    if force:
        return
    if too_far:
        raise RuntimeError(
            f"On {report.pictures} pictures the {report.format} file differs from Keras by "
            f"{too_far}. Please report this. Nothing was written; --force, force=True writes it "
            "anyway."
        )
    if report.quantize == "int8" and report.top1_agreement < min_agreement:
        raise RuntimeError(
            f"The int8 file finds the same best class as Keras on {report.top1_agreement:.1%} of "
            f"{report.pictures} pictures, but {min_agreement:.1%} is required. Calibrate with "
            "more pictures that are like those the model will see, keep in float what int8 cannot "
            "hold (--keep-float auto, keep_float='auto'), or use float16 or dynamic (--quantize, "
            "quantize=). Nothing was written; a lower limit (--min-agreement, min_agreement=) or "
            "--force, force=True writes it anyway."
        )
