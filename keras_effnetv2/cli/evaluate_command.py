"""The commands `evaluate` and `predict`: what a run or published weights make of pictures."""

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from keras_effnetv2.architectures.config import ModelConfig

if TYPE_CHECKING:
    from keras_effnetv2.data.sources import ImageSource
    from keras_effnetv2.evaluation.scores import Evaluation
    from keras_effnetv2.images.styles import Style
    from keras_effnetv2.pretrained.registry import WeightSet
    from keras_effnetv2.runs.run_folder import Run

_WORST_CLASSES = 10  # lines of the table that `evaluate` prints


class JudgedNetwork(NamedTuple):
    """What is judged or asked.

    Attributes:
        model: pixels 0..255 -> (N, classes).
        classes: what `predict` says of each class: its name as "class", perhaps "wordnet_id".
        image_size: side of its pictures, pixels.
        style: how they become squares.
        facts: what it is, the first lines of what `evaluate` says.
        top1: published ImageNet top-1 of these very weights in percent, if there is one.
    """

    model: Any
    classes: Sequence[dict[str, str]]
    image_size: int
    style: "Style"
    facts: dict[str, Any]
    top1: float | None = None


def evaluate(arguments: argparse.Namespace) -> None:
    """Judges a run or published weights on labelled pictures, and prints the figures."""
    from keras_effnetv2.data.class_match import load_source_for

    if arguments.model in ModelConfig.variants():
        split = arguments.split or unseen_split(arguments.data)  # no data: say so at once
        network = _published(arguments.model, arguments.weights, arguments.protocol)
        source = load_source_for(arguments.data, split, len(network.classes))
    else:
        run = _open_run(arguments.model, weights=arguments.weights, protocol=arguments.protocol)
        network = _trained(run)
        source = _source_to_judge(run, arguments.data, arguments.split)
    result, source, evaluation = judge(
        network, source, batch_size=arguments.batch_size, skip_bad=arguments.skip_bad
    )
    if arguments.json:
        print(json.dumps(result, indent=2))
    else:
        print_evaluation(result, source, evaluation)


def judge(
    network: JudgedNetwork, source: "ImageSource", *, batch_size: int, skip_bad: bool
) -> tuple[dict[str, Any], "ImageSource", "Evaluation"]:
    """Runs a network over the pictures of a source.

    Args:
        network: its classes are the source's, in order.
        source: the pictures.
        batch_size: pictures a step.
        skip_bad: leave out pictures that cannot be read, which are an error otherwise.

    Returns:
        The figures by name, the pictures that were judged, and what was made of each.
    """
    from keras_effnetv2.evaluation.scores import evaluate_source

    everything = source.num_examples
    source = _readable_part(source, skip_bad=skip_bad)
    evaluation = evaluate_source(
        network.model,
        source,
        image_size=network.image_size,
        style=network.style,
        batch_size=batch_size,
        progress=_progress("evaluating"),
    )
    result = {
        **network.facts,
        "data": source.spec,
        "split": source.split,
        "pictures": source.num_examples,
        "left_out": everything - source.num_examples,
        "classes": len(network.classes),
        "classes_with_pictures": int((source.class_counts() > 0).sum()),
        "accuracy": evaluation.accuracy,
        "accuracy_interval": evaluation.top_accuracy_interval(1),
        "top_5_accuracy": evaluation.top_accuracy(5),
        "top_5_accuracy_interval": evaluation.top_accuracy_interval(5),
        "loss": evaluation.loss,
    }
    if network.top1 is not None:
        result["published_accuracy"] = network.top1 / 100
    return result, source, evaluation


def print_evaluation(
    result: dict[str, Any], source: "ImageSource", evaluation: "Evaluation"
) -> None:
    """Prints what `judge` returned."""
    width = max(map(len, result))
    print("\n".join(f"{name:<{width}} {_figure(value)}" for name, value in result.items()))
    if "published_accuracy" in result:
        print(f"\n{_comparison(result)}")
    print(f"\n{'class':<30} pictures  recall")
    recalls = evaluation.recall_by_class()
    counts = source.class_counts()
    present = [label for label in range(len(counts)) if counts[label]]
    for label in sorted(present, key=recalls.__getitem__)[:_WORST_CLASSES]:
        print(f"{source.class_names[label]:<30} {counts[label]:>8}  {recalls[label]:6.1%}")
    if len(present) > _WORST_CLASSES:
        print(f"(the {_WORST_CLASSES} worst of {len(present)} classes)")


def _figure(value: Any) -> str:
    if isinstance(value, tuple):
        return f"{value[0]:.4f} to {value[1]:.4f} (95%)"
    return f"{value:.4f}" if isinstance(value, float) else str(value)


def _comparison(result: dict[str, Any]) -> str:
    """The accuracy beside the published one, and what limits the comparison."""
    published = result["published_accuracy"]
    low, high = result["accuracy_interval"]
    verdict = "contains it" if low <= published <= high else "does not contain it"
    lines = [
        f"published {published:.1%} on the 50,000 validation pictures of ImageNet; the interval "
        f"{low:.1%} to {high:.1%} {verdict} "
        f"(difference {100 * (result['accuracy'] - published):+.1f} percentage points)"
    ]
    if result["classes_with_pictures"] < result["classes"]:
        lines.append(
            f"judged on {result['classes_with_pictures']} of the {result['classes']} classes, "
            "the published figure is of all"
        )
    if result["protocol"] != "official":
        lines.append("the published figure was measured by the official protocol")
    return "\n".join(lines)


def predict(arguments: argparse.Namespace) -> int:
    """Names what pictures show; 1 if one of them could not be read, else 0."""
    import numpy as np

    from keras_effnetv2.images.evaluation_crop import prepare_batch

    if arguments.top < 1:
        raise ValueError(f"--top must be at least 1. Received: {arguments.top}")
    if arguments.model in ModelConfig.variants():
        network = _published(arguments.model, arguments.weights, protocol=None)
    else:
        network = _trained(_open_run(arguments.model, weights=arguments.weights))
    results: list[dict[str, Any]] = []
    for path in arguments.pictures:
        try:
            data = path.read_bytes()
        except OSError as error:
            results.append({"picture": str(path), "error": error.strerror})
            continue
        images, (problem,) = prepare_batch([data], network.image_size, network.style)
        if problem.numpy():
            results.append({"picture": str(path), "error": problem.numpy().decode()})
            continue
        (scores,) = network.model.predict_on_batch(images)
        best = np.argsort(-scores, kind="stable")[: arguments.top]
        classes = [{**network.classes[index], "score": float(scores[index])} for index in best]
        results.append({"picture": str(path), "classes": classes})
    if arguments.json:
        print(json.dumps(results, indent=2, ensure_ascii=False))
    else:
        _print_predictions(results)
    return 1 if any("error" in result for result in results) else 0


def _print_predictions(results: list[dict[str, Any]]) -> None:
    width = max(len(result["picture"]) for result in results)
    for result in results:
        shown = f"{result['picture']:<{width}}"
        if "error" in result:
            print(f"{shown}  error: {result['error']}")
            continue
        for found in result["classes"]:
            identity = f" ({found['wordnet_id']})" if "wordnet_id" in found else ""
            print(f"{shown}  {found['score']:7.2%}  {found['class']}{identity}")
            shown = " " * width


# --- networks -----------------------------------------------------------------------------------


def _published(variant: str, weights: str | None, protocol: str | None) -> JudgedNetwork:
    """A variant with published weights or those of a file.

    Args:
        variant: name.
        weights: name of a set or path; None is "imagenet".
        protocol: of the evaluation; None is the official one.
    """
    from keras_effnetv2.models.build import build_model
    from keras_effnetv2.pretrained.registry import find_weight_set

    weights = weights or "imagenet"
    found = find_weight_set(variant, weights)
    model = build_model(ModelConfig.from_name(variant), weights=weights)
    facts = {"variant": variant, "weights": weights}
    return published_network(model, variant, found, protocol, facts)


def published_network(
    model: Any,
    variant: str,
    found: "WeightSet | None",
    protocol: str | None,
    facts: dict[str, Any],
) -> JudgedNetwork:
    """A model of a variant, to be judged as its weights are.

    Args:
        model: pixels 0..255 -> (N, classes).
        variant: its name.
        found: the published set that its weights are, if they are one.
        protocol: of the evaluation; None is the official one.
        facts: what else there is to say of it.
    """
    from keras_effnetv2.evaluation.scores import evaluation_protocol, set_to_follow

    protocol = protocol or "official"
    classes = model.output_shape[-1]
    image_size, style = evaluation_protocol(set_to_follow(variant, found, classes), protocol)
    return JudgedNetwork(
        model=model,
        classes=_class_names(classes),
        image_size=image_size,
        style=style,
        facts={**facts, "protocol": protocol, "image_size": image_size},
        top1=_published_top1(found, classes),
    )


def _class_names(classes: int) -> list[dict[str, str]]:
    from keras_effnetv2.pretrained.labels import class_list, has_class_list

    if not has_class_list(classes):
        return [{"class": str(index)} for index in range(classes)]
    return [{"class": label.name, "wordnet_id": label.wordnet_id} for label in class_list(classes)]


def _published_top1(found: "WeightSet | None", classes: int) -> float | None:
    return found.top1 if found is not None and found.classes == classes else None


def _open_run(name: str, *, weights: str | None = None, protocol: str | None = None) -> "Run":
    """The run in a folder, which has weights and preprocessing of its own."""
    for option, value in (("--weights", weights), ("--protocol", protocol)):
        if value is not None:
            raise ValueError(
                f"{option} goes with a variant; a run has its own. Known variants: "
                + ", ".join(ModelConfig.variants())
            )
    if not os.path.isdir(name):
        raise ValueError(
            "RUN_OR_VARIANT must be the folder of a run or one of "
            f"{', '.join(ModelConfig.variants())}. Received: {name!r}"
        )
    from keras_effnetv2.runs.run_folder import open_run

    return open_run(name)


def _trained(run: "Run") -> JudgedNetwork:
    return JudgedNetwork(
        model=run.model,
        classes=[{"class": name} for name in run.class_names],
        image_size=run.image_size,
        style=run.style,
        facts={"run": str(run.path)},
    )


# --- pictures -----------------------------------------------------------------------------------


def unseen_split(spec: str) -> str:
    """The split that published weights are judged on: ImageNet's test labels are secret."""
    from keras_effnetv2.data.sources import available_splits

    given = available_splits(spec)
    return next((split for split in ("validation", "test") if split in given), "all")


def _source_to_judge(run: "Run", spec: str, split: str | None) -> "ImageSource":
    """The pictures to evaluate a run on: never those it was trained on, unless asked for."""
    from keras_effnetv2.data.sources import available_splits, load_source

    trained_on = run.settings.training.spec
    same = spec == trained_on or (
        os.path.exists(spec) and os.path.exists(trained_on) and os.path.samefile(spec, trained_on)
    )
    if split is None:
        split = "all"
        if "test" in available_splits(spec):
            split = "test"
        elif same:
            split = "validation"
    return load_source(
        spec,
        split,
        class_names=run.class_names,
        validation_fraction=run.settings.validation_fraction if same else None,
        seed=run.settings.recipe.seed,
    )


def _readable_part(source: "ImageSource", *, skip_bad: bool) -> "ImageSource":
    """The source without pictures that cannot be read, which are listed or an error."""
    from keras_effnetv2.data.scan import BadPicturesError, drop_bad, find_bad_pictures

    bad = find_bad_pictures(source, progress=_progress("checking"))
    if bad and not skip_bad:
        raise BadPicturesError(bad)
    for picture in bad:
        print(f"left out: {picture.name!r}: {picture.reason}", file=sys.stderr)
    return drop_bad(source, bad) if bad else source


def _progress(label: str) -> Callable[[int, int], None] | None:
    """Prints progress on one line of a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        return None

    def show(done: int, total: int) -> None:
        end = "\n" if done == total else ""
        print(f"\r{label} {done:,} / {total:,}", end=end, file=sys.stderr, flush=True)

    return show
