"""The command `weights`: what is published, and fetching, converting, verifying weight files."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Option

from keras_effnetv2.cli.command import OptionGroup
from keras_effnetv2.cli.evaluate_command import judge_pictures, print_judgement
from keras_effnetv2.cli.options import (
    DataToJudgeIfAny,
    Json,
    JudgingOptions,
    check_data,
    known_variant,
)
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.pretrained.fetch import fetch_set
from keras_effnetv2.pretrained.registry import available_weights, parse_name
from keras_effnetv2.pretrained.weight_cache import cached_path

if TYPE_CHECKING:
    from keras_effnetv2.pretrained.load import LoadReport
    from keras_effnetv2.pretrained.open_weights import FileHash, Weights

NoTop = Annotated[bool, Option("--no-top", help="Leave out the classifier.")]
_Variant = Annotated[str | None, Option(parser=known_variant, metavar="VARIANT")]


def list_weights(variant: _Variant = None, json: Json = False) -> None:
    """List the published weights, or fetch, convert or verify a weight file.

    Options:
      --variant: List the sets of this one only.

    Example:
      keras-effnetv2 weights --variant efficientnetv2-s
    """
    rows = []
    for file in available_weights():
        if variant in (None, file.variant):
            cached = cached_path(file.url)
            rows.append(file._asdict() | {"cached": None if cached is None else str(cached)})
    if json:
        print(dumps(rows, indent=2))
        return
    print(
        f"{'name':<34} classes  {'preprocessing':<13}  size  top-1  {'source':<18}  "
        "classifier  cached"
    )
    for row in rows:
        name = f"{row['variant']}/{row['weights']}"
        top1 = "-" if row["published_top1"] is None else row["published_top1"]
        print(
            f"{name:<34} {row['classes']:>7}  {row['preprocessing']:<13}  {row['image_size']:>4}  "
            f"{top1:>5}  {row['source']:<18}  {_yes(row['has_top']):<10}  {_yes(row['cached'])}"
        )


def _yes(value: Any) -> str:
    return "yes" if value else "no"


def fetch_weights(name: str, no_top: NoTop = False, json: Json = False) -> None:
    """Download a published set into the cache.

    Options:
      name NAME: VARIANT/SET, as in the list.

    Example:
      keras-effnetv2 weights fetch efficientnetv2-s/imagenet21k
    """
    found = parse_name(name)
    start_tensorflow()
    from keras_effnetv2.pretrained.open_weights import hash_file

    path, published = fetch_set(found, include_top=not no_top)
    result = {
        "set": f"{found.variant}/{found.weights}",
        "source": published.source,
        "address": published.url,
        "files": [_file(hash_file(path))],
    }
    _show(result, json)


@dataclass(frozen=True)
class WeightFileOptions(OptionGroup):
    """Which weight file, and what it does not tell itself.

    Options:
      name NAME_OR_PATH: VARIANT/SET, which is downloaded, or a file or folder.
      --variant VARIANT: The network that a file is for; not needed if its hash is published.
      --set SET: The published set, if neither the hash nor the name of the file tells.
      --source LAYOUT: Layout of the file: official, timm, keras-applications, leondgarse or keras;
        auto recognises it.
    """

    name: str
    variant: _Variant = None
    set: str | None = None
    source: str = "auto"

    def load(self, include_top: bool) -> tuple["Weights", Any, "LoadReport"]:
        """Return the weights, the network that holds them, and what strict loading did."""
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


def convert_weights(
    file: WeightFileOptions,
    output: Path,
    no_top: NoTop = False,
    overwrite: bool = False,
    json: Json = False,
) -> None:
    """Write weights of any source as .weights.h5 or .keras.

    Options:
      output OUTPUT: FILE.weights.h5 for the weights, FILE.keras for the network with its
        preprocessing.
      --overwrite: Replace OUTPUT.

    Example:
      keras-effnetv2 weights convert efficientnetv2-s.tgz s.keras \\
          --variant efficientnetv2-s
    """
    start_tensorflow()
    from keras_effnetv2.models.weight_files import check_weight_output, convert

    check_weight_output(output, overwrite=overwrite)
    weights, model, report = file.load(include_top=not no_top)
    written = convert(model, output, overwrite=overwrite)
    result = _facts(weights, model, report) | {
        "written": [_file(written)],
        "equal_when_read_back": len(model.weights),
    }
    _show(result, json)


def verify_weights(
    file: WeightFileOptions,
    *,
    data: DataToJudgeIfAny = None,
    judging: JudgingOptions,
    json: Json = False,
) -> None:
    """Hash a weight file, load it strictly, and judge it on labelled pictures.

    Example:
      keras-effnetv2 weights verify efficientnetv2-s/imagenet --data imagenet/val
    """
    check_data(data)
    start_tensorflow()
    from keras_effnetv2.data.sources import available_splits
    from keras_effnetv2.evaluation.judging import published_network, source_to_judge
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
        raise ValueError(f"{weights.path} has no classifier to judge; leave out --data.")
    network = published_network(model, model.name, weights.set, judging.protocol)
    judgement = judge_pictures(network, source_to_judge(network, data), judging)
    if json:
        _show(result | {"evaluation": judgement.figures()}, as_json=True)
    else:
        _show(result, as_json=False)
        print()
        print_judgement(judgement)


def _classes(model: Any) -> int | None:
    """Return the width of a model's classifier; None without one."""
    return model.output_shape[-1] if len(model.output_shape) == 2 else None


def _facts(weights: "Weights", model: Any, report: "LoadReport") -> dict[str, Any]:
    """Return what there is to say of a file that was loaded."""
    origin, config = weights.origin, weights.config
    return {
        "read": str(origin.path),
        "files": [_file(hashed) for hashed in origin.hashes],
        "published_at": origin.published.url if origin.published else None,
        "variant": config.name if config else None,
        "set": origin.set.weights if origin.set else None,
        "set_told_by": origin.set_told_by,
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
        print(dumps(result, indent=2))
        return
    for name, value in result.items():
        for label, text in _lines(name, value):
            print(f"{label.replace('_', ' '):<25} {text}")


def _lines(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield label and text of the lines that show a value."""
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
