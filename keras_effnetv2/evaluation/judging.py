"""Judging a trained network or published weights: which pictures, how, and the figures."""

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2._common.progress import Progress
from keras_effnetv2.data.class_match import load_source_for
from keras_effnetv2.data.picture_record import PictureRecord
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

_UNRECORDED = (
    "This run did not record its training pictures (it was made by an earlier version), so they "
    "can be left out only if the same pictures are given."
)

_GUESSED = (
    "note: The run did not record its pictures (it was made by an earlier version). They were "
    "divided by their order, which is right only if nothing about them has changed."
)


@dataclass(frozen=True)
class TrainedOn:
    """The pictures that a network was trained on, and those that were held back.

    Attributes:
        record: which ones; None if an earlier version did not record them.
        all_used: whether it was trained on all that were not held back.
        pictures: the numbers of training pictures and held-back pictures.
        validation_fraction: the share that was held back; None is the default of `load_source`.
        seed: of the split.
    """

    record: PictureRecord | None
    all_used: bool
    pictures: tuple[int, int]
    validation_fraction: float | None
    seed: int


class ChosenPictures(NamedTuple):
    """Pictures to judge a network on.

    Attributes:
        source: the pictures.
        counts: numbers of pictures by kind, and of those left out, for a network of a run.
        saved_again: names of new pictures that a training picture has too, where so many do that
            they must be the same pictures with other bytes.
    """

    source: ImageSource
    counts: Mapping[str, int]
    saved_again: Sequence[str] = ()


@dataclass(frozen=True)
class JudgedNetwork:
    """A network to judge or to predict with.

    Args:
        model: pixels 0..255 -> (N, classes).
        classes: a description of each class: its name as "class", perhaps "wordnet_id".
        image_size: side of its pictures, pixels.
        style: how they become squares, see `evaluation_crop.resize_for_evaluation`.
        facts: what the network is; they come first in its figures.
        published_top1: published ImageNet top-1 of exactly these weights in percent, or None.
        trained_on: for a network of a run; None for published weights and weight files.
    """

    model: keras.Model
    classes: Sequence[Mapping[str, str]]
    image_size: int
    style: Style
    facts: Mapping[str, Any] = field(default_factory=dict)
    published_top1: float | None = None
    trained_on: TrainedOn | None = None


@dataclass(frozen=True)
class Judgement:
    """The result of judging a network.

    Args:
        network: what was judged.
        source: the pictures.
        evaluation: the scores of each.
        left_out: pictures that could not be read.
        counts: see `ChosenPictures`.
    """

    network: JudgedNetwork
    source: ImageSource
    evaluation: Evaluation
    left_out: Sequence[BadPicture]
    counts: Mapping[str, int] = field(default_factory=dict)

    def figures(self) -> dict[str, Any]:
        """Return what was judged and how well it did, by name; shares are 0..1."""
        evaluation, top1 = self.evaluation, self.network.published_top1
        return {
            **self.network.facts,
            "data": self.source.spec,
            "split": self.source.split,
            "pictures": self.source.num_examples,
            **self.counts,
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
    """Return a model of a variant, with the way to judge its weights.

    Args:
        model: pixels 0..255 -> (N, classes).
        variant: its name.
        found: the published set of its weights; None if they are not published.
        protocol: see `evaluation_protocol`; None is the official one.
        facts: further facts about it.

    Raises:
        ValueError: the protocol is unknown, or the set does not have it.
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


def pictures_to_judge(
    network: JudgedNetwork, spec: str, split: str | None = None
) -> ChosenPictures:
    """Return pictures to judge a network on, without its training pictures unless `split` says so.

    Args:
        network: the network to judge.
        spec: where the pictures are, see `load_source`.
        split: which of them; "all" leaves nothing out, "train" takes the training pictures. None:
            for published weights `unseen_split`; for others the test split if there is one, else
            all.

    Raises:
        ValueError: nothing is left, or the training pictures of the network are unknown. Further
            errors are those of `load_source`.
    """
    trained_on = network.trained_on
    if trained_on is None:
        split = split or unseen_split(spec)
        return ChosenPictures(load_source_for(spec, split, len(network.classes)), {})
    load = partial(load_source, spec, class_names=[one["class"] for one in network.classes])
    given = available_splits(spec)
    split = split or ("test" if "test" in given else None)
    part = split if split and split in (*given, "test") else "all"
    source = load(part)
    asked_for = split == "all" or part == "train"
    if asked_for and trained_on.record is None:
        return ChosenPictures(source, {})
    record = trained_on.record or _derived_record(trained_on, load)
    trained, held = record.trained_on(source), record.held_back(source)
    if asked_for:
        chosen = np.full(source.num_examples, True)
    elif split == "train":
        chosen = trained
    elif part == "all" and (split or (held.any() and not trained_on.all_used)):
        chosen = held
    else:
        chosen = ~trained
    if not chosen.any():
        raise ValueError(
            f"There is nothing to judge the run on: of the {source.num_examples:,} pictures of "
            f"{spec!r} it was trained on {trained.sum():,} and held back {held.sum():,}. Give "
            "other pictures, or judge all of these: --split all."
        )
    new = chosen & ~trained & ~held
    what = "validation" if not new.any() else "all" if chosen.all() else "not trained on"
    tails = {_tail(name) for _, _, name in record.training}
    names = [source.names[index] for index in np.flatnonzero(new)]
    known = [name for name in names if _tail(name) in tails]
    is_same_set = part == "all" and len(set(map(_tail, known))) > len(tails) / 2
    guess = () if trained_on.record else (_GUESSED,)
    part_of_it = source.subset(np.flatnonzero(chosen))
    return ChosenPictures(
        replace(part_of_it, split=split or what, notes=(*source.notes, *guess)),
        {
            "held_back": int((held & chosen).sum()),
            "new": int(new.sum()),
            "trained_on": int((trained & chosen).sum()),
            "not_judged": int((~chosen).sum()),
        },
        known if is_same_set else (),
    )


def _derived_record(trained_on: TrainedOn, load: Callable[..., ImageSource]) -> PictureRecord:
    """Divide pictures as a run divided its own that did not record which they were."""
    way_out = "Give pictures it surely has not seen as --split all, or train anew."
    try:
        training, validation = (
            load(part, validation_fraction=trained_on.validation_fraction, seed=trained_on.seed)
            for part in ("train", "validation")
        )
    except ValueError as error:
        raise ValueError(f"{_UNRECORDED} {error} {way_out}") from None
    found, expected = (training.num_examples, validation.num_examples), trained_on.pictures
    if found != expected and (trained_on.all_used or found[1] != expected[1]):
        raise ValueError(
            f"{_UNRECORDED} It had {expected[0]:,} and held back {expected[1]:,}; here these are "
            f"{found[0]:,} and {found[1]:,}. {way_out}"
        )
    return PictureRecord.of(training, validation, trained_on.seed)


def _tail(name: str) -> str:
    """Return the folder and the name, without its ending, of a file or of a picture in a record."""
    return os.path.splitext("/".join(re.split(r"[/\\(]", name.rstrip(")"))[-2:]))[0]


def judge(
    network: JudgedNetwork,
    pictures: ChosenPictures,
    *,
    batch_size: int = 64,
    skip_bad: bool = False,
    checking: Progress | None = None,
    evaluating: Progress | None = None,
) -> Judgement:
    """Check that all pictures can be decoded, then run a network over them.

    Args:
        network: its classes are those of the pictures, in order.
        pictures: the result of `pictures_to_judge`.
        batch_size: pictures per step.
        skip_bad: leave out pictures that cannot be read.
        checking: called with (pictures decoded, all pictures).
        evaluating: called with (pictures judged, all pictures).

    Raises:
        BadPicturesError: pictures cannot be read and may not be left out.
    """
    source = pictures.source
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
    return Judgement(network, source, evaluation, bad, pictures.counts)
