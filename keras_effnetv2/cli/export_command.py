"""The command `export`: write a run as a SavedModel, or as a file for another runtime."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from keras_effnetv2._common.checks import check_integer
from keras_effnetv2._common.files import read_json
from keras_effnetv2._common.text import counted, listed, say
from keras_effnetv2.cli.command import OptionGroup, command, flag, option
from keras_effnetv2.cli.options import NETWORK, WEIGHTS_TO_JUDGE, check_data, check_network
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.evaluation.named_network import network_path, open_network
from keras_effnetv2.export.outputs import version_folder
from keras_effnetv2.runs.run_state import SAVED_MODEL

if TYPE_CHECKING:
    from keras_effnetv2.evaluation.judging import JudgedNetwork

ALL = "all"  # formats


class _FormatOptions(OptionGroup):
    def given(self) -> dict[str, Any]:
        """Return the given options; the called function has defaults for the others."""
        values = vars(self).items()  # 0 is given, though it equals False
        return {name: one for name, one in values if one is not None and one is not False}


@dataclass(frozen=True)
class SavedModelOptions(_FormatOptions):
    """The arguments of `export_saved_model`."""

    section = "SavedModel, for TensorFlow Serving"

    version: int | None = option(
        "N",
        "Version of the model; the folder PATH/N must not exist. [default: one more than the "
        "newest there, or 1]",
    )
    top_k: int | None = option(
        "K",
        "Number of classes in the answers of classify_bytes and classify. [default: 5; all if "
        "pictures may have several classes]",
    )
    max_pixels: int | None = option(
        "N", "Refuse pictures with more pixels (height x width). [default: 100 million]"
    )
    gif: bool = flag("--gif", "Accept GIF files; a small one can need a gigabyte of memory.")
    weights_dtype: Literal["float32", "bfloat16", "float16"] | None = option(
        None,
        "Type of the stored weights; 16 bits halve the size and change probabilities a little. "
        "[default: float32]",
    )
    no_fold: bool = flag(
        "--no-fold", "Keep the batch norms. By default they are folded into the convolutions."
    )


@dataclass(frozen=True)
class FileOptions(_FormatOptions):
    """The arguments of `export_model`."""

    section = "ONNX, OpenVINO and LiteRT (needs the extra [formats])"

    quantize: str | None = option(
        "KIND",
        "OpenVINO: float16 or bfloat16; LiteRT: float16, dynamic or int8. [default: float32]",
    )
    image_size: int | None = option(
        "PIXELS", "Size of the file's input pictures. [default: that of the run]"
    )
    dynamic_size: bool = flag("--dynamic-size", "Take pictures of any height and width.")
    calibration: str | None = option(
        "SPEC",
        "Pictures like those that the model will see, for int8; in the form of --data of the "
        "command train.",
    )
    pictures: str | None = option("SPEC", "Pictures for the comparison with Keras.")
    min_agreement: float | None = option(
        "SHARE",
        "Share of the pictures on which int8 must find the same class as Keras. [default: 0.98]",
    )
    keep_float: Literal["auto"] | None = option(
        None,
        "If int8 finds another class too often, keep parts of the network in float, those that "
        "help most first, until it agrees. They are chosen by the pictures of the comparison.",
    )
    force: bool = flag("--force", "Write the file even if it differs too much from Keras.")

    def of_one_format(self) -> list[str]:
        """Return the names of the given options that not all formats have."""
        only = ("quantize", "calibration", "min_agreement", "keep_float")
        return [name for name in self.given() if name in only]


@command(
    "keras-effnetv2 export runs/photos --output served/photos --version 2\n"
    "keras-effnetv2 export runs/photos --format all\n"
    "keras-effnetv2 export efficientnetv2-b0 --output served/imagenet"
)
def export(
    *,
    model: str = NETWORK,
    weights: str | None = WEIGHTS_TO_JUDGE,
    # Names of `runtimes.FORMATS`, which needs TensorFlow.
    format: Literal["saved_model", "onnx", "openvino", "litert", "all"] = option(
        None, "What to write.", SAVED_MODEL
    ),
    output: Path | None = option(
        "PATH",
        "Folder for the versions of a SavedModel, the file of another format, or the folder of "
        "all formats. [default for a run: RUN/saved_model, RUN/model.onnx, .xml or .tflite, or "
        "RUN, whose SavedModel then stays as it is unless an option of SavedModels is given]",
    ),
    saved_model: SavedModelOptions,
    files: FileOptions,
) -> None:
    """Write a trained network for TensorFlow Serving, ONNX, OpenVINO or LiteRT."""
    unfit = {SAVED_MODEL: files.given(), ALL: files.of_one_format()}
    if others := unfit.get(format, saved_model.given()):
        options = ", ".join(f"--{name.replace('_', '-')}" for name in others)
        raise ValueError(
            f"--format {format} does not go with {options}. Leave out one or the other. "
            "export --help lists the options of each format."
        )
    for name in ("version", "top_k", "max_pixels"):
        check_integer(name, getattr(saved_model, name), minimum=1, or_none=True)
    check_integer("image_size", files.image_size, minimum=1, or_none=True)
    check_data(files.calibration, "--calibration")
    check_data(files.pictures, "--pictures")
    check_network(model, weights)
    path = network_path(model)
    if output is None and (path is None or not path.is_dir()):
        raise ValueError(f"--output must be given, since {model!r} is not a run folder.")
    targets = _targets(format, Path(model), output, saved_model.version)
    there = None
    if format == ALL and output is None and not saved_model.given():
        there = version_folder(Path(model, SAVED_MODEL))  # enough: a training writes one, too
    start_tensorflow()
    _need_packages(targets)
    network = open_network(model, weights)
    for name, target in targets.items():
        if name == SAVED_MODEL and there is not None:
            _say_saved_model(there, "already there: ")
        elif name == SAVED_MODEL:
            _write_saved_model(network, target, saved_model.given())
        else:
            _write_file(network, target, name, files.given())


def _targets(format: str, run: Path, output: Path | None, version: int | None) -> dict[str, Path]:
    """Return where each format is written, the folder of the version for a SavedModel.

    FileExistsError if something is there.
    """
    from keras_effnetv2.export.outputs import check_new_version, new_file, next_version
    from keras_effnetv2.export.runtimes import FORMATS

    targets = {}
    for name in (SAVED_MODEL, *FORMATS) if format == ALL else (format,):
        file = SAVED_MODEL if name == SAVED_MODEL else f"model{FORMATS[name].suffix}"
        target = output if output and format != ALL else Path(output or run, file)
        if name == SAVED_MODEL:
            targets[name] = check_new_version(target, version or next_version(target))
        else:
            targets[name] = new_file(target, FORMATS[name])
    return targets


def _need_packages(formats: Iterable[str]) -> None:
    """Raise ImportError, before anything is written, if a package of a format is missing."""
    from keras_effnetv2.export.converters import optional_module
    from keras_effnetv2.export.runtimes import FORMATS

    for name in formats:
        for module in FORMATS[name].modules if name in FORMATS else ():
            optional_module(module)


def _described(network: "JudgedNetwork") -> dict[str, Any]:
    """Return what every export is told of a network."""
    return {
        "class_names": [one["class"] for one in network.classes],
        "image_size": network.image_size,
        "style": network.style,
        "temperature": network.temperature,
        "none_below": network.none_below,
        "thresholds": network.thresholds,
    }


def _write_saved_model(network: "JudgedNetwork", folder: Path, given: dict[str, Any]) -> None:
    from keras_effnetv2.export.saved_model import export_saved_model

    options = {**given, "version": int(folder.name)}
    export_saved_model(
        network.model,
        folder.parent,
        fold_batch_norm=not options.pop("no_fold", False),
        variant=network.variant,
        weights=network.weights,
        **_described(network),
        **options,
    )
    _say_saved_model(folder)


def _say_saved_model(folder: Path, before: str = "") -> None:
    from keras_effnetv2.export.metadata import MODEL_CARD

    accuracy = read_json(folder / MODEL_CARD)["accuracy"]
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(folder)
    _say_compared(size, accuracy, before)


def _write_file(network: "JudgedNetwork", output: Path, format: str, given: dict[str, Any]) -> None:
    from keras_effnetv2.data.sources import load_source
    from keras_effnetv2.export.formats import export_model

    for name, split in (("calibration", "train"), ("pictures", "validation")):
        if name in given:
            given[name] = load_source(given[name], split)
    report = export_model(
        network.model,
        output,
        format,
        **{**_described(network), **given},
    )
    say(report.path)
    _say_compared(report.bytes, vars(report))
    if report.float_layers:
        count = counted(len(report.float_layers), "layer")
        say(f"{count} stayed in float: {listed(report.float_layers)}")


def _say_compared(size: int, compared: Mapping[str, Any], before: str = "") -> None:
    """Print the size of an export, and how it compares with Keras, in a line."""
    say(
        f"{before}{size:,} bytes; compared with Keras on {compared['pictures']} pictures: same "
        f"best class on {compared['top1_agreement']:.1%}, probabilities within "
        f"{compared['max_difference']:.2g}"
    )
