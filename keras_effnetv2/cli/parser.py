"""The words of the command `keras-effnetv2`: its options, their defaults and examples."""

import argparse
import os
from pathlib import Path
from typing import Any

from keras_effnetv2._version import __version__
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.benchmark_command import add_options as add_benchmark_options
from keras_effnetv2.cli.export_command import add_options as add_export_options
from keras_effnetv2.cli.search_command import add_options as add_search_options
from keras_effnetv2.cli.serve_command import add_options as add_serve_options
from keras_effnetv2.cli.training_options import DATA_HELP, add_data_options, add_recipe_options

_IMAGENET_DATA_HELP = (
    "For a variant classes are named by WordNet id (n01440764, n01440764_tench) or by name "
    "(tench); a part of the classes will do"
)


class _Help(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    def _get_help_string(self, action: argparse.Action) -> str | None:
        # "(default: None)" and the False of a switch tell nobody anything.
        if action.default is None or action.default is False:
            return action.help
        return super()._get_help_string(action)


def make_parser() -> argparse.ArgumentParser:
    """The parser; what it returns names the command in `command`."""
    parser = argparse.ArgumentParser(
        "keras-effnetv2", description="Train, judge, export and use EfficientNetV2 on Keras 3."
    )
    parser.add_argument("--version", action="version", version=f"keras-effnetv2 {__version__}")
    parser.set_defaults(debug=False, starts_tensorflow=True)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for add in (
        _add_train,
        _add_evaluate,
        _add_predict,
        _add_export,
        _add_serve,
        _add_benchmark,
        _add_search,
        _add_info,
        _add_weights,
        _add_pack,
    ):
        add(commands)
    return parser


def _add_command(commands: Any, name: str, help: str, example: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=help,
        description=help[0].upper() + help[1:] + ".",
        epilog=f"example:\n  {example}",
        formatter_class=_Help,
    )
    # Without a default of its own: `weights --debug fetch` would be reset by the parser of fetch.
    parser.add_argument(
        "--debug",
        action="store_true",
        default=argparse.SUPPRESS,
        help="show a traceback on failure",
    )
    parser.set_defaults(command=name)
    return parser


def _add_train(commands: Any) -> None:
    parser = _add_command(
        commands,
        "train",
        "train a classifier on pictures, progressively, and leave a run folder",
        "keras-effnetv2 train --data photos/ --model efficientnetv2-b0 --output runs/photos",
    )
    add = parser.add_argument
    add_data_options(parser, required=True)
    add(
        "--model",
        default="efficientnetv2-b0",
        metavar="VARIANT_OR_FILE",
        help="a variant, or the JSON file of another network; see the command info",
    )
    add("--output", required=True, type=Path, metavar="DIR", help="the run folder")
    add("--weights", metavar="PATH", help="weight file to start from; default: fresh weights")
    add_recipe_options(parser, "quickstart")
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument(
        "--preview",
        action="store_true",
        help="train nothing: write DIR/preview.html, the pictures and labels of every stage",
    )
    instead.add_argument(
        "--resume", action="store_true", help="go on with an interrupted run in DIR"
    )
    add("--overwrite", action="store_true", help="replace the run in DIR")
    _add_devices(parser)


def _add_devices(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "several devices", "batch sizes are those of all devices together"
    )
    group.add_argument(
        "--mirrored",
        action="store_true",
        help="train on all GPUs of this machine (TensorFlow's MirroredStrategy)",
    )
    group.add_argument(
        "--coordinator",
        metavar="HOST:PORT",
        help="of worker 0: train with other processes, each started with this command and its own "
        "--worker, all seeing the same DIR; needs KERAS_BACKEND=jax",
    )
    group.add_argument("--workers", type=int, default=1, metavar="N", help="processes in all")
    group.add_argument("--worker", type=int, default=0, metavar="I", help="of this process, from 0")


def _add_evaluate(commands: Any) -> None:
    parser = _add_command(
        commands,
        "evaluate",
        "judge a trained run or published weights on labelled pictures",
        "keras-effnetv2 evaluate runs/photos --data photos/\n"
        "  keras-effnetv2 evaluate efficientnetv2-s --weights imagenet21k-ft1k --data imagenet/val",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="RUN_OR_VARIANT",
        help="a run folder, or a variant such as efficientnetv2-s",
    )
    add(
        "--data",
        required=True,
        metavar="SPEC",
        help=f"{DATA_HELP}. {_IMAGENET_DATA_HELP}",
    )
    _add_variant_weights(parser)
    add(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="default for a run: test if there is one, else what the run held back of this very "
        "data, else all; for a variant: validation, test, all, the first that is there",
    )
    _add_judging(parser)
    add("--json", action="store_true", help="print JSON")


def _add_judging(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add(
        "--protocol",
        choices=("official", "timm", "keras"),
        help="how a variant's pictures are cropped and resized: as its authors do (the default), "
        "as PyTorch Image Models does, or the whole picture as image_dataset_from_directory does",
    )
    add("--batch-size", type=int, default=64, help="pictures a step")
    add("--skip-bad", action="store_true", help="leave out pictures that cannot be read")


def _add_predict(commands: Any) -> None:
    parser = _add_command(
        commands,
        "predict",
        "name what pictures show",
        "keras-effnetv2 predict runs/photos cat.jpg dog.png --top 3\n"
        "  keras-effnetv2 predict efficientnetv2-b0 cat.jpg",
    )
    add = parser.add_argument
    add(
        "model",
        metavar="RUN_OR_VARIANT",
        help="a run folder, or a variant such as efficientnetv2-s",
    )
    add("pictures", nargs="+", type=Path, metavar="PICTURE", help="picture files")
    _add_variant_weights(parser)
    add("--top", type=int, default=5, metavar="K", help="classes to name")
    add("--json", action="store_true", help="print JSON")


def _add_variant_weights(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        metavar="NAME_OR_PATH",
        help="of a variant: a published set, which is fetched, or a weight file "
        "(default: imagenet)",
    )


def _add_export(commands: Any) -> None:
    parser = _add_command(
        commands,
        "export",
        "write a trained run for TensorFlow Serving, ONNX, OpenVINO or LiteRT",
        "keras-effnetv2 export runs/photos --output served/photos --version 2",
    )
    add_export_options(parser)


def _add_serve(commands: Any) -> None:
    parser = _add_command(
        commands,
        "serve",
        "answer requests and show a page for pictures, on this machine",
        "keras-effnetv2 serve runs/photos --port 8501",
    )
    add_serve_options(parser)


def _add_benchmark(commands: Any) -> None:
    parser = _add_command(
        commands,
        "benchmark",
        "measure parameters, size, speed and exactness of networks and of their exports",
        "keras-effnetv2 benchmark efficientnetv2-b0 --formats all --against keras.applications",
    )
    add_benchmark_options(parser)


def _add_search(commands: Any) -> None:
    parser = _add_command(
        commands,
        "search",
        "search for networks that are accurate, quick to train and small, on one's own pictures",
        "keras-effnetv2 search --data photos/ --trials 50\n"
        "  keras-effnetv2 search show search  # what it has found; also while it runs",
    )
    add_search_options(parser)


def _add_info(commands: Any) -> None:
    parser = _add_command(
        commands,
        "info",
        "show the architecture of a network, its parameters and multiply-adds",
        "keras-effnetv2 info efficientnetv2-s\n"
        "  keras-effnetv2 info efficientnetv2-b0 --json > net.json  # a start for one's own",
    )
    add = parser.add_argument
    add(
        "model",
        type=_variant_or_file,
        metavar="VARIANT_OR_FILE",
        help=f"{', '.join(ModelConfig.variants())}, or a JSON file as --json prints it",
    )
    add("--image-size", type=int, metavar="PIXELS", help="default: the evaluation size")
    add("--classes", type=int, default=1000, help="width of the classifier")
    add("--json", action="store_true", help="print the config as JSON")


def _add_weights(commands: Any) -> None:
    parser = _add_command(
        commands,
        "weights",
        "list the published weights, or fetch, convert or verify a weight file",
        "keras-effnetv2 weights --variant efficientnetv2-s",
    )
    parser.set_defaults(action="list", starts_tensorflow=False)
    parser.add_argument(
        "--variant", choices=ModelConfig.variants(), metavar="VARIANT", help="list this one alone"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    actions = parser.add_subparsers(title="actions", metavar="ACTION")
    for add in (_add_weights_fetch, _add_weights_convert, _add_weights_verify):
        add(actions)


def _add_weights_fetch(actions: Any) -> None:
    parser = _add_action(
        actions,
        "fetch",
        "download a published set into the cache",
        "keras-effnetv2 weights fetch efficientnetv2-s/imagenet21k",
    )
    parser.add_argument("name", metavar="NAME", help="VARIANT/SET, as the list has it")
    _add_no_top(parser)


def _add_weights_convert(actions: Any) -> None:
    parser = _add_action(
        actions,
        "convert",
        "write weights of any source as .weights.h5 or .keras",
        "keras-effnetv2 weights convert efficientnetv2-s.tgz s.keras --variant efficientnetv2-s",
    )
    _add_weight_file(parser)
    parser.add_argument(
        "output",
        type=Path,
        metavar="OUTPUT",
        help="FILE.weights.h5 for the weights, FILE.keras for the network with its preprocessing",
    )
    _add_no_top(parser)
    parser.add_argument("--overwrite", action="store_true", help="replace OUTPUT")


def _add_weights_verify(actions: Any) -> None:
    parser = _add_action(
        actions,
        "verify",
        "hash a weight file, load it strictly, and judge it on labelled pictures",
        "keras-effnetv2 weights verify efficientnetv2-s/imagenet --data imagenet/val",
    )
    _add_weight_file(parser)
    parser.add_argument(
        "--data",
        metavar="SPEC",
        help=f"labelled pictures to judge it on: {DATA_HELP}. {_IMAGENET_DATA_HELP}",
    )
    _add_judging(parser)
    parser.set_defaults(no_top=False)


def _add_pack(commands: Any) -> None:
    parser = _add_command(
        commands,
        "pack",
        "write labelled pictures as TFRecord shards, which are read in sequence",
        "keras-effnetv2 pack --data imagenet/ --output packed/\n"
        "  keras-effnetv2 pack --verify packed/",
    )
    add = parser.add_argument
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--data", metavar="SPEC", help=DATA_HELP)
    subject.add_argument(
        "--verify",
        type=Path,
        metavar="DIR",
        help="instead of packing, check every file of a packed folder against its checksum",
    )
    add("--output", type=Path, metavar="DIR", help="the packed folder; with --data")
    add(
        "--split",
        choices=("train", "validation", "test", "all"),
        help="pack this one alone, carved out where it is not given; default: all that are given",
    )
    size = parser.add_mutually_exclusive_group()
    size.add_argument("--shards", type=int, metavar="N", help="files of each split")
    size.add_argument(
        "--shard-size", type=float, default=128.0, metavar="MB", help="size of a file, about"
    )
    add("--seed", type=int, default=0, help="of the order of training pictures in the files")
    add("--skip-bad", action="store_true", help="leave out pictures that cannot be read")
    add("--overwrite", action="store_true", help="replace a packed folder in DIR")
    add("--json", action="store_true", help="print JSON")


def _add_action(actions: Any, name: str, help: str, example: str) -> argparse.ArgumentParser:
    """Adds an action of the command weights; its options may also stand before its name."""
    parser = _add_command(actions, name, help, example)
    parser.set_defaults(command="weights", action=name, starts_tensorflow=True)
    parser.add_argument("--json", action="store_true", default=argparse.SUPPRESS, help="print JSON")
    return parser


def _add_weight_file(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("name", metavar="NAME_OR_PATH", help="VARIANT/SET, which is fetched, or a file or folder")
    add(
        "--variant",
        choices=ModelConfig.variants(),
        default=argparse.SUPPRESS,
        metavar="VARIANT",
        help="the network a file is for; not needed where its hash is published",
    )
    add("--set", metavar="SET", help="the published set, if neither hash nor file name tell it")
    add(
        "--source",
        default="auto",
        help="layout of the file, where it cannot be told: official, timm, keras-applications, "
        "leondgarse, keras",
    )


def _add_no_top(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--no-top", action="store_true", help="leave out the classifier")


def _variant_or_file(text: str) -> str:
    if text not in ModelConfig.variants() and not os.path.exists(text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is neither a file nor one of {', '.join(ModelConfig.variants())}"
        )
    return text
