"""Judging a trained network or published weights: which pictures, how, and what it comes to."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import keras

from keras_effnetv2.data.scan import BadPicture, BadPicturesError, drop_bad, find_bad_pictures
from keras_effnetv2.data.sources import ImageSource, available_splits, load_source
from keras_effnetv2.evaluation.scores import (
    Evaluation,
    evaluate_source,
    evaluation_protocol,
    set_to_follow,
)
from keras_effnetv2.images.styles import Style
from keras_effnetv2.pretrained.labels import class_list, has_class_list
from keras_effnetv2.pretrained.registry import WeightSet


@dataclass(frozen=True)
class JudgedNetwork:
    """A network that is judged, or asked what pictures show.

    Args:
        model: pixels 0..255 -> (N, classes).
        classes: what there is to say of each class: its name as "class", perhaps "wordnet_id".
        image_size: side of its pictures, pixels.
        style: how they become squares, see `resize_for_evaluation`.
        facts: what it is, the first of its figures.
        published_top1: published ImageNet top-1 of these very weights in percent; None without.
    """

    model: keras.Model
    classes: Sequence[Mapping[str, str]]
    image_size: int
    style: Style
    facts: Mapping[str, Any] = field(default_factory=dict)
    published_top1: float | None = None


@dataclass(frozen=True)
class Judgement:
    """What a network makes of pictures.

    Args:
        network: what was judged.
        source: the pictures.
        evaluation: the scores of each.
        left_out: number of pictures that could not be read.
    """

    network: JudgedNetwork
    source: ImageSource
    evaluation: Evaluation
    left_out: int

    def figures(self) -> dict[str, Any]:
        """Return what was judged and how well it did, by name; shares are in 0..1."""
        evaluation, top1 = self.evaluation, self.network.published_top1
        return {
            **self.network.facts,
            "data": self.source.spec,
            "split": self.source.split,
            "pictures": self.source.num_examples,
            "left_out": self.left_out,
            "classes": len(self.network.classes),
            "classes_with_pictures": int((self.source.class_counts() > 0).sum()),
            "accuracy": evaluation.accuracy,
            "accuracy_interval": evaluation.top_accuracy_interval(1),
            "top_5_accuracy": evaluation.top_accuracy(5),
            "top_5_accuracy_interval": evaluation.top_accuracy_interval(5),
            "loss": evaluation.loss,
        } | ({} if top1 is None else {"published_accuracy": top1 / 100})

    def recalls(self) -> list[tuple[str, int, float]]:
        """Return (class name, pictures, recall) of the classes with pictures, the worst first."""
        rows = zip(
            self.source.class_names,
            self.source.class_counts().tolist(),
            self.evaluation.recall_by_class().tolist(),
            strict=True,
        )
        return sorted((row for row in rows if row[1]), key=lambda row: row[2])


def published_network(
    model: keras.Model,
    variant: str,
    found: WeightSet | None,
    protocol: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> JudgedNetwork:
    """Return a model of a variant, to be judged as its weights are.

    Args:
        model: pixels 0..255 -> (N, classes).
        variant: its name.
        found: the published set that its weights are; None if they are none.
        protocol: see `evaluation_protocol`; None is the official one.
        facts: what else there is to say of it.

    Raises:
        ValueError: the protocol is unknown, or there is none of that name for the set.
    """
    protocol = protocol or "official"
    classes = model.output_shape[-1]
    image_size, style = evaluation_protocol(set_to_follow(variant, found, classes), protocol)
    if has_class_list(classes):
        names = [{"class": one.name, "wordnet_id": one.wordnet_id} for one in class_list(classes)]
    else:
        names = [{"class": str(index)} for index in range(classes)]
    return JudgedNetwork(
        model=model,
        classes=names,
        image_size=image_size,
        style=style,
        facts={**(facts or {}), "protocol": protocol, "image_size": image_size},
        published_top1=found.top1 if found is not None and found.classes == classes else None,
    )


def unseen_split(spec: str) -> str:
    """Return the split that published weights are judged on: ImageNet's test labels are secret."""
    given = available_splits(spec)
    return next((split for split in ("validation", "test") if split in given), "all")


def source_to_judge(
    spec: str,
    split: str | None,
    *,
    class_names: Sequence[str],
    trained_on: str,
    validation_fraction: float | None,
    seed: int,
) -> ImageSource:
    """Return pictures to judge a trained network on: none it was trained on, unless asked for.

    Args:
        spec: where the pictures are, see `load_source`.
        split: which of them; None is the test split if there is one, else what was held back if
            the network was trained on this data, else all.
        class_names: those of the network.
        trained_on: the spec of the training pictures.
        validation_fraction: the share of them that was held back.
        seed: of the split.
    """
    is_same = spec == trained_on or (
        os.path.exists(spec) and os.path.exists(trained_on) and os.path.samefile(spec, trained_on)
    )
    if split is None:
        split = "all"
        if "test" in available_splits(spec):
            split = "test"
        elif is_same:
            split = "validation"
    return load_source(
        spec,
        split,
        class_names=class_names,
        validation_fraction=validation_fraction if is_same else None,
        seed=seed,
    )


def readable_pictures(
    source: ImageSource, *, skip_bad: bool, progress: Callable[[int, int], Any] | None = None
) -> tuple[ImageSource, Sequence[BadPicture]]:
    """Return the pictures that can be read, and those that cannot.

    Args:
        source: the pictures.
        skip_bad: leave out what cannot be read.
        progress: called with (pictures done, all pictures).

    Raises:
        BadPicturesError: there are unreadable pictures, and none may be left out.
    """
    bad = find_bad_pictures(source, progress=progress)
    if bad and not skip_bad:
        raise BadPicturesError(bad)
    return (drop_bad(source, bad) if bad else source), bad


def judge(
    network: JudgedNetwork,
    source: ImageSource,
    *,
    batch_size: int = 64,
    left_out: int = 0,
    progress: Callable[[int, int], Any] | None = None,
) -> Judgement:
    """Run a network over pictures.

    Args:
        network: its classes are the source's, in order.
        source: pictures that can all be read.
        batch_size: pictures per step.
        left_out: number of pictures that could not be read and are not in `source`.
        progress: called with (pictures done, all pictures).
    """
    evaluation = evaluate_source(
        network.model,
        source,
        image_size=network.image_size,
        style=network.style,
        batch_size=batch_size,
        progress=progress,
    )
    return Judgement(network, source, evaluation, left_out)
