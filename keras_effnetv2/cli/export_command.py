"""The command `export`: a run as a SavedModel, or as a file for another runtime."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from keras_effnetv2.runs.run_folder import Run

_SAVED_MODEL = "saved_model"
_FILES = ("onnx", "openvino", "litert")  # names of `runtimes.FORMATS`

# Which options belong to which kind of format; None (off) is where each one starts.
_OF_SAVED_MODEL = ("version", "top_k", "max_pixels", "gif", "weights_dtype", "no_fold")
_OF_FILES = (
    *("quantize", "image_size", "dynamic_size"),
    *("calibration", "pictures", "min_agreement", "force"),
)


def add_options(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `export` to its parser."""
    add = parser.add_argument
    add("run", type=Path, metavar="RUN", help="a run folder")
    add("--format", choices=(_SAVED_MODEL, *_FILES), default=_SAVED_MODEL, help="what to write")
    add(
        "--output",
        type=Path,
        metavar="PATH",
        help="of a SavedModel the folder of the versions, default RUN/saved_model; else the file, "
        "default RUN/model.onnx, .xml or .tflite",
    )
    saved_model = parser.add_argument_group("SavedModel, for TensorFlow Serving")
    add = saved_model.add_argument
    add("--version", type=int, help="DIR/VERSION must not exist (default: 1)")
    add("--top-k", type=int, help="classes that classify_bytes and classify name (default: 5)")
    add(
        "--max-pixels",
        type=int,
        metavar="N",
        help="refuse pictures of more, height x width (default: 100 million)",
    )
    add("--gif", action="store_true", help="accept GIF, of which a small one can need a gigabyte")
    add(
        "--weights-dtype",
        choices=("float32", "bfloat16", "float16"),
        help="what the weights are stored as; half the size moves the probabilities a little "
        "(default: float32)",
    )
    add(
        "--no-fold",
        action="store_true",
        help="keep the batch norms, which are otherwise worked into the convolutions",
    )
    files = parser.add_argument_group("ONNX, OpenVINO and LiteRT (pip install with [formats])")
    add = files.add_argument
    add(
        "--quantize",
        metavar="KIND",
        help="openvino: float16 or bfloat16; litert: float16, dynamic or int8 (default: float32)",
    )
    add("--image-size", type=int, metavar="PIXELS", help="default: that of the run")
    add("--dynamic-size", action="store_true", help="take pictures of any height and width")
    add("--calibration", metavar="DATA", help="what the model will see, for int8; as for train")
    add("--pictures", metavar="DATA", help="to compare the file with Keras on")
    add(
        "--min-agreement",
        type=float,
        metavar="SHARE",
        help="of pictures on which int8 must name the class that Keras does (default: 0.98)",
    )
    add("--force", action="store_true", help="write a file that differs by more than is allowed")


def export(arguments: argparse.Namespace) -> None:
    """Runs the command; prints the path, and of a file what it is."""
    from keras_effnetv2.runs.run_folder import open_run

    is_saved_model = arguments.format == _SAVED_MODEL
    _refuse_options(arguments, _OF_FILES if is_saved_model else _OF_SAVED_MODEL)
    (_saved_model if is_saved_model else _file)(arguments, open_run(arguments.run))


def _refuse_options(arguments: argparse.Namespace, others: tuple[str, ...]) -> None:
    given = [name for name in others if getattr(arguments, name) not in (None, False)]
    if given:
        options = ", ".join(f"--{name.replace('_', '-')}" for name in given)
        raise ValueError(
            f"--format {arguments.format} does not go with {options}: leave out one or the other; "
            "export --help lists the options of each format"
        )


def _given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    """The options that were given; the others have the defaults of what is called."""
    found = {name: getattr(arguments, name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _saved_model(arguments: argparse.Namespace, run: "Run") -> None:
    from keras_effnetv2.export.saved_model import export_saved_model
    from keras_effnetv2.runs.run_folder import SAVED_MODEL

    written = export_saved_model(
        run.model,
        arguments.output or run.path / SAVED_MODEL,
        run.class_names,
        image_size=run.image_size,
        style=run.style,
        fold_batch_norm=not arguments.no_fold,
        variant=run.settings.model,
        weights=run.settings.weights_origin,
        **_given(arguments, "version", "top_k", "max_pixels", "gif", "weights_dtype"),
    )
    print(written)


def _file(arguments: argparse.Namespace, run: "Run") -> None:
    from keras_effnetv2.data.sources import load_source
    from keras_effnetv2.export.formats import export_model
    from keras_effnetv2.export.runtimes import FORMATS

    def source(spec: str | None, split: str) -> Any:
        return None if spec is None else load_source(spec, split)

    report = export_model(
        run.model,
        arguments.output or run.path / f"model{FORMATS[arguments.format].suffix}",
        arguments.format,
        image_size=arguments.image_size or run.image_size,
        calibration=source(arguments.calibration, "train"),
        pictures=source(arguments.pictures, "validation"),
        style=run.style,
        **_given(arguments, "quantize", "dynamic_size", "min_agreement", "force"),
    )
    print(report.path)
    print(
        f"{report.bytes:,} bytes; on {report.pictures} pictures the best class of Keras on "
        f"{report.top1_agreement:.1%}, probabilities within {report.max_difference:.2g}"
    )
