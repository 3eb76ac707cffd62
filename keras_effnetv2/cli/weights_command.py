"""The command `weights`: list published weights, and fetch, convert or verify weight files."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from keras_effnetv2._common.checks import did_you_mean
from keras_effnetv2._common.text import aligned, printable, say
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_named
from keras_effnetv2.cli.command import OptionGroup, argument, command, flag, option
from keras_effnetv2.cli.evaluate_command import judge_pictures, print_judgement
from keras_effnetv2.cli.options import DATA_TO_JUDGE_IF_ANY, JSON, JudgingOptions, check_data
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.pretrained.fetch import fetch_set, local_path
from keras_effnetv2.pretrained.hub_name import is_hub_name
from keras_effnetv2.pretrained.registry import WEIGHT_SETS, available_weights, parse_name

if TYPE_CHECKING:
    from keras_effnetv2.pretrained.load import LoadReport
    from keras_effnetv2.pretrained.open_weights import FileHash, Weights

NO_TOP = flag("--no-top", "Leave out the classifier.")


def _known(variant: str) -> str:
    variants, known = ModelConfig.variants(), variant_named(variant)
    if known is None:
        raise BadParameter(
            f"{variant!r} is not one of {', '.join(variants)}.{did_you_mean(variant, variants)}"
        )
    return known


@command("keras-effnetv2 weights --variant efficientnetv2-s")
def weights(
    variant: str | None = option("VARIANT", "List only the sets of this variant.", parser=_known),
    json: bool = JSON,
) -> None:
    """List the published weights, or fetch, convert or verify a weight file."""
    published = [file for found in WEIGHT_SETS.values() for file in found.files]
    places = [
        (row, local_path(file))
        for row, file in zip(available_weights(), published, strict=True)
        if variant in (None, row.variant)
    ]
    if json:
        rows = [row._asdict() | {"cached": path and str(path)} for row, path in places]
        say(dumps(rows, indent=2))
        return
    table = [
        ("name", "classes", "preprocessing", "size", "top-1", "source", "classifier", "cached")
    ]
    for file, path in places:
        name, top1 = f"{file.variant}/{file.weights}", file.published_top1
        numbers = str(file.image_size), "-" if top1 is None else str(top1)
        has = "yes" if file.has_top else "no", "no" if path is None else "yes"
        table.append((name, str(file.classes), file.preprocessing, *numbers, file.source, *has))
    say("\n".join(aligned(table, left=(0, 2, 5, 6, 7))))


@command("keras-effnetv2 weights fetch efficientnetv2-s/imagenet21k")
def fetch(
    name: str = argument("NAME", "VARIANT/SET, as in the list, or hf://OWNER/NAME."),
    no_top: bool = NO_TOP,
    json: bool = JSON,
) -> None:
    """Download a published set, or the files of a repository, into their cache."""
    if is_hub_name(name):
        from keras_effnetv2.pretrained.hub import fetch_from_hub

        result: dict[str, Any] = {"repository": name}
        path, _ = fetch_from_hub(name)
    else:
        found = parse_name(name)
        path, published = fetch_set(found, include_top=not no_top)
        result = {
            "set": f"{found.variant}/{found.weights}",
            "source": published.source,
            "address": published.url,
        }
    start_tensorflow()
    from keras_effnetv2.pretrained.open_weights import hash_file

    _show(result | {"files": [_file(hash_file(path))]}, json)


@dataclass(frozen=True)
class WeightFileOptions(OptionGroup):
    """Which weight file, and facts that are not in it."""

    name: str = argument(
        "NAME_OR_PATH", "VARIANT/SET or hf://OWNER/NAME, which are downloaded, or a file or folder."
    )
    variant: str | None = option(
        "VARIANT",
        "The network of a file; not needed if its hash is published.",
        parser=_known,
    )
    set: str | None = option(
        "SET", "The published set of a file, if its hash and name do not show it."
    )
    source: str = option(
        "LAYOUT",
        "Layout of the file: official, timm, efficientnet-pytorch, keras-applications, leondgarse "
        "or keras; auto detects it.",
        "auto",
    )

    def load(self, include_top: bool) -> tuple["Weights", Any, "LoadReport"]:
        """Return the weights, their network, and the report of strict loading."""
        from keras_effnetv2.models.weight_files import load
        from keras_effnetv2.pretrained.open_weights import open_weights

        weights = open_weights(
            self.name,
            self.variant,
            set_name=self.set,
            source=self.source,
            include_top=include_top,
            check_hash=True,
        )
        return weights, *load(weights, include_top=include_top)


@command(
    "keras-effnetv2 weights convert efficientnetv2-s.tgz s.keras \\\n    --variant efficientnetv2-s"
)
def convert(
    *,
    file: WeightFileOptions,
    output: Path = argument(
        "OUTPUT",
        "FILE.weights.h5 for the weights, FILE.keras for the network with its preprocessing.",
    ),
    no_top: bool = NO_TOP,
    overwrite: bool = flag("--overwrite", "Replace OUTPUT."),
    json: bool = JSON,
) -> None:
    """Write weights from any source as .weights.h5 or .keras."""
    start_tensorflow()
    from keras_effnetv2.models import weight_files

    weight_files.check_weight_output(output, overwrite=overwrite)
    weights, model, report = file.load(include_top=not no_top)
    written = weight_files.convert(model, output, overwrite=overwrite)
    result = _facts(weights, model, report) | {
        "written": [_file(written)],
        "equal_when_read_back": len(model.weights),
    }
    _show(result, json)


@command("keras-effnetv2 weights verify efficientnetv2-s/imagenet --data imagenet/val")
def verify(
    *,
    file: WeightFileOptions,
    data: str | None = DATA_TO_JUDGE_IF_ANY,
    judging: JudgingOptions,
    json: bool = JSON,
) -> None:
    """Hash a weight file, load it strictly, and judge it on labelled pictures."""
    judging.check()
    check_data(data)
    start_tensorflow()
    from keras_effnetv2.data.sources import available_splits
    from keras_effnetv2.evaluation.judging import pictures_to_judge, published_network
    from keras_effnetv2.models.weight_files import moving_variances

    if data is not None:
        available_splits(data)  # bad data: say so before the work
    weights, model, report = file.load(include_top=True)
    smallest, largest = moving_variances(model)
    result = _facts(weights, model, report) | {
        "smallest_moving_variance": smallest,
        "largest_moving_variance": largest,
    }
    if data is None:
        _show(result, json)
        return
    if _classes(model) is None:
        raise ValueError(f"{weights.path} has no classifier to judge. Leave out --data.")
    network = published_network(model, weights, judging.protocol)
    judgement = judge_pictures(network, pictures_to_judge(network, data), judging)
    if json:
        _show(result | {"evaluation": judgement.figures()}, as_json=True)
    else:
        _show(result, as_json=False)
        say()
        print_judgement(judgement)


def _classes(model: Any) -> int | None:
    """Return the width of a model's classifier; None without one."""
    return model.output_shape[-1] if len(model.output_shape) == 2 else None


def _facts(weights: "Weights", model: Any, report: "LoadReport") -> dict[str, Any]:
    """Return the facts about a loaded file."""
    config = weights.config
    return {
        "read": str(weights.path),
        "files": [_file(hashed) for hashed in weights.hashes],
        "published_at": weights.published.url if weights.published else None,
        "variant": config.name if config else None,
        "set": weights.set.weights if weights.set else None,
        "set_told_by": weights.set_told_by,
        "source": report.source,
        "classes": _classes(model),
        "preprocessing": weights.normalization,
        "tensors": report.loaded,
        "left_out": dict(Counter(report.ignored.values())),
    }


def _file(hashed: "FileHash") -> dict[str, Any]:
    return hashed._asdict() | {"path": str(hashed.path)}


def _show(result: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        say(dumps(result, indent=2))
        return
    for name, value in result.items():
        for label, text in _lines(name, value):
            say(f"{label.replace('_', ' '):<25} {printable(str(text))}")


def _lines(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield the label and text of each line that shows a value."""
    if isinstance(value, list):
        for file in value:
            yield name, f"{file['path']} ({file['size']:,} bytes)"
            yield "  md5", file["md5"]
            yield "  sha256", file["sha256"]
    elif isinstance(value, dict):
        for reason, count in value.items():
            yield name, f"{count}: {reason}"
    elif isinstance(value, float):
        yield name, f"{value:.4g}"
    else:
        yield name, "none" if value is None else value
