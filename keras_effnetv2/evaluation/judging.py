"""Judging a trained network or published weights: which pictures, how, and what it comes to."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import keras

from keras_effnetv2._common.progress import Progress
from keras_effnetv2.data.class_match import load_source_for
from keras_effnetv2.data.sources import ImageSource, available_splits, load_source
from keras_effnetv2.data.unreadable import BadPicture, BadPicturesError, drop_bad, find_bad_pictures
from keras_effnetv2.evaluation.scores import (
    Evaluation,
    evaluate_source,
    evaluation_protocol,
    set_to_follow,
)
from keras_effnetv2.images.styles import Style
from keras_effnetv2.pretrained.labels import class_list, has_class_list
from keras_effnetv2.pretrained.registry import WeightSet


class TrainingSplit(NamedTuple):
    """The pictures that a network was trained on, and how some of them were held back.

    Attributes:
        spec: where they are, see `load_source`.
        validation_fraction: the share that was held back; None is the default of `load_source`.
        seed: of the split.
    """

    spec: str
    validation_fraction: float | None
    seed: int


@dataclass(frozen=True)
class JudgedNetwork:
    """A network that is judged, or asked what pictures show.

    Args:
        model: pixels 0..255 -> (N, classes).
        classes: what there is to say of each class: its name as "class", perhaps "wordnet_id".
        image_size: side of its pictures, pixels.
        style: how they become squares, see `evaluation_crop.resize_for_evaluation`.
        facts: what it is, the first of its figures.
        published_top1: published ImageNet top-1 of these very weights in percent; None without.
        trained_on: for a network whose classes have the names of its pictures'; None for
            published weights and weight files.
    """

    model: keras.Model
    classes: Sequence[Mapping[str, str]]
    image_size: int
    style: Style
    facts: Mapping[str, Any] = field(default_factory=dict)
    published_top1: float | None = None
    trained_on: TrainingSplit | None = None


@dataclass(frozen=True)
class Judgement:
    """What a network makes of pictures.

    Args:
        network: what was judged.
        source: the pictures.
        evaluation: the scores of each.
        left_out: pictures that could not be read.
    """

    network: JudgedNetwork
    source: ImageSource
    evaluation: Evaluation
    left_out: Sequence[BadPicture]

    def figures(self) -> dict[str, Any]:
        """Return what was judged and how well it did, by name; shares are in 0..1."""
        evaluation, top1 = self.evaluation, self.network.published_top1
        return {
            **self.network.facts,
            "data": self.source.spec,
            "split": self.source.split,
            "pictures": self.source.num_examples,
            "left_out": len(self.left_out),
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


def source_to_judge(network: JudgedNetwork, spec: str, split: str | None = None) -> ImageSource:
    """Return pictures to judge a network on: none it was trained on, unless asked for.

    Args:
        network: what is to be judged.
        spec: where the pictures are, see `load_source`.
        split: which of them. None: for published weights `unseen_split`; for others the test split
            if there is one, else what was held back if the network was trained on this data, else
            all.
    """
    trained_on = network.trained_on
    if trained_on is None:
        return load_source_for(spec, split or unseen_split(spec), len(network.classes))
    is_same = spec == trained_on.spec or (
        os.path.exists(spec)
        and os.path.exists(trained_on.spec)
        and os.path.samefile(spec, trained_on.spec)
    )
    if split is None:
        is_given = "test" in available_splits(spec)
        split = "test" if is_given else "validation" if is_same else "all"
    return load_source(
        spec,
        split,
        class_names=[one["class"] for one in network.classes],
        validation_fraction=trained_on.validation_fraction if is_same else None,
        seed=trained_on.seed,
    )


def judge(
    network: JudgedNetwork,
    source: ImageSource,
    *,
    batch_size: int = 64,
    skip_bad: bool = False,
    checking: Progress | None = None,
    evaluating: Progress | None = None,
) -> Judgement:
    """Run a network over pictures, after each of them was decoded once.

    Args:
        network: its classes are the source's, in order.
        source: the pictures.
        batch_size: pictures per step.
        skip_bad: leave out what cannot be read.
        checking: called with (pictures decoded, all pictures).
        evaluating: called with (pictures judged, all pictures).

    Raises:
        BadPicturesError: there are unreadable pictures, and none may be left out.
    """
    bad = find_bad_pictures(source, progress=checking)
    if bad and not skip_bad:
        raise BadPicturesError(bad)
    source = drop_bad(source, bad) if bad else source
    evaluation = evaluate_source(
        network.model,
        source,
        image_size=network.image_size,
        style=network.style,
        batch_size=batch_size,
        progress=evaluating,
    )
    return Judgement(network, source, evaluation, bad)
