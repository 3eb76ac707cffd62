"""The command `keras-effnetv2 weights`: what is published, fetching, converting, verifying."""

import argparse
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from keras_effnetv2.cli.evaluate_command import (
    judge,
    print_evaluation,
    published_network,
    unseen_split,
)
from keras_effnetv2.pretrained.fetch import fetch_set
from keras_effnetv2.pretrained.registry import available_weights, parse_name
from keras_effnetv2.pretrained.weight_cache import cached_path

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource
    from keras_effnetv2.evaluation.scores import Evaluation
    from keras_effnetv2.pretrained.load import LoadReport
    from keras_effnetv2.pretrained.open_weights import FileHash, Weights


def weights(arguments: argparse.Namespace) -> None:
    """Runs the action of `keras-effnetv2 weights`; without one, the list."""
    _ACTIONS[arguments.action](arguments)


def _list(arguments: argparse.Namespace) -> None:
    rows = []
    for file in available_weights():
        if arguments.variant in (None, file.variant):
            cached = cached_path(file.url)
            rows.append(file._asdict() | {"cached": None if cached is None else str(cached)})
    if arguments.json:
        print(json.dumps(rows, indent=2))
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


def _fetch(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.pretrained.open_weights import hash_file

    found = parse_name(arguments.name)
    path, published = fetch_set(found, include_top=not arguments.no_top)
    result = {
        "set": f"{found.variant}/{found.weights}",
        "source": published.source,
        "address": published.url,
        "files": [_file(hash_file(path))],
    }
    _show(result, arguments.json)


def _convert(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.models.weight_files import check_weight_output, convert

    check_weight_output(arguments.output, overwrite=arguments.overwrite)
    weights, model, report = _open_and_load(arguments)
    written = convert(model, arguments.output, overwrite=arguments.overwrite)
    result = _facts(weights, model, report) | {
        "written": [_file(written)],
        "equal_when_read_back": len(model.weights),
    }
    _show(result, arguments.json)


def _verify(arguments: argparse.Namespace) -> None:
    from keras_effnetv2.models.weight_files import moving_variances

    # No data: say so before the work.
    split = None if arguments.data is None else unseen_split(arguments.data)
    weights, model, report = _open_and_load(arguments)
    smallest, largest = moving_variances(model)
    result = _facts(weights, model, report) | {
        "smallest_moving_variance": smallest,
        "largest_moving_variance": largest,
    }
    if split is None:
        _show(result, arguments.json)
        return
    figures, source, evaluation = _judge(weights, model, split, arguments)
    if arguments.json:
        _show(result | {"evaluation": figures}, as_json=True)
    else:
        _show(result, as_json=False)
        print()
        print_evaluation(figures, source, evaluation)


def _judge(
    weights: "Weights", model: Any, split: str, arguments: argparse.Namespace
) -> tuple[dict[str, Any], "ImageSource", "Evaluation"]:
    from keras_effnetv2.data.class_match import load_source_for

    classes = _classes(model)
    if classes is None:
        raise ValueError(
            f"{weights.path} has no classifier, which could be judged; leave out --data."
        )
    return judge(
        published_network(model, model.name, weights.set, arguments.protocol, facts={}),
        load_source_for(arguments.data, split, classes),
        batch_size=arguments.batch_size,
        skip_bad=arguments.skip_bad,
    )


def _open_and_load(arguments: argparse.Namespace) -> tuple["Weights", Any, "LoadReport"]:
    from keras_effnetv2.pretrained.open_weights import open_weights

    include_top = not arguments.no_top
    weights = open_weights(
        arguments.name,
        arguments.variant,
        set_name=arguments.set,
        source=arguments.source,
        include_top=include_top,
        check_hash=True,
    )
    from keras_effnetv2.models.weight_files import load

    return weights, *load(weights, include_top=include_top)


def _classes(model: Any) -> int | None:
    """Width of a model's classifier; None without one."""
    return model.output_shape[-1] if len(model.output_shape) == 2 else None


def _facts(weights: "Weights", model: Any, report: "LoadReport") -> dict[str, Any]:
    """What there is to say of a file that was loaded."""
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
        print(json.dumps(result, indent=2))
        return
    for name, value in result.items():
        for label, text in _lines(name, value):
            print(f"{label.replace('_', ' '):<25} {text}")


def _lines(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Label and text of the lines that show a value."""
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


_ACTIONS = {"list": _list, "fetch": _fetch, "convert": _convert, "verify": _verify}
