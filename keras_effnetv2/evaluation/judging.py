"""Judging a trained network or published weights: which pictures, how, and the figures."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import compress
from typing import Any, NamedTuple

import keras
import numpy as np

from keras_effnetv2._common.progress import Progress
from keras_effnetv2._common.text import counted, some
from keras_effnetv2.data.catalog import ALL, TEST, TRAIN, VALIDATION
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
from keras_effnetv2.export.runtimes import ExportedModel
from keras_effnetv2.images.styles import Style
from keras_effnetv2.pretrained.labels import class_list, has_class_list
from keras_effnetv2.pretrained.open_weights import Weights
from keras_effnetv2.runs.run_settings import RunSettings

_UNKNOWN = (
    "note: The weights do not say which pictures they were trained on. If these are among them, "
    "the accuracy is too high."
)


@dataclass(frozen=True)
class TrainedOn:
    """The pictures that a network was trained on, and those that were held back."""

    record: PictureRecord
    all_used: bool  # whether it was trained on all that were not held back

    @classmethod
    def of(cls, settings: RunSettings, record: PictureRecord) -> "TrainedOn":
        """Return what the network of a run was trained on."""
        return cls(record, all_used=settings.max_train_examples is None)


class ChosenPictures(NamedTuple):
    """Pictures to judge a network on."""

    source: ImageSource
    # Numbers of pictures by kind, and of those left out, for a network of a run.
    counts: Mapping[str, int]


@dataclass(frozen=True)
class JudgedNetwork:
    """A network to judge or to predict with."""

    model: keras.Model | ExportedModel  # pixels 0..255 -> (N, classes)
    classes: Sequence[Mapping[str, str]]  # of each its name as "class", perhaps "wordnet_id"
    image_size: int  # side of its pictures, pixels
    style: Style  # how they become squares, see `evaluation_crop.resize_for_evaluation`
    facts: Mapping[str, Any] = field(default_factory=dict)  # what it is; first in its figures
    published_top1: float | None = None  # on ImageNet, of exactly these weights, percent
    names_classes: bool = False  # whether the pictures must have the classes of the weights
    trained_on: TrainedOn | None = None  # of a run; None for published weights and weight files
    variant: str | None = None  # if it is known
    weights: str | None = None  # where the weights come from, for people, if that is known
    temperature: float | None = None  # see `Metadata`
    none_below: float | None = None  # see `Metadata`
    activation: str | None = None  # see `Metadata`; None: found out from the Keras model
    # Multi-label: the score of each class from which on it is named; None: a picture has one class.
    thresholds: Sequence[float] | None = None

    def completed(self, evaluation: Evaluation) -> Evaluation:
        """Return an evaluation of this network with the activation and thresholds it states."""
        if self.activation is not None:
            evaluation = replace(evaluation, activation=self.activation)
        if self.thresholds is not None:
            evaluation = replace(evaluation, thresholds=np.array(self.thresholds))
        return evaluation


@dataclass(frozen=True)
class Judgement:
    """The result of judging a network."""

    network: JudgedNetwork
    source: ImageSource
    evaluation: Evaluation
    left_out: Sequence[BadPicture]  # pictures that could not be read
    counts: Mapping[str, int] = field(default_factory=dict)  # see `ChosenPictures`

    def figures(self) -> dict[str, Any]:
        """Return what was judged and how well it did, by name; shares are 0..1."""
        top1 = self.network.published_top1
        return {
            **self.network.facts,
            "data": self.source.spec,
            "split": self.source.split,
            "pictures": self.source.num_examples,
            **self.counts,
            "left_out": len(self.left_out),
            "classes": len(self.network.classes),
            "classes_with_pictures": int((self.source.class_counts() > 0).sum()),
            **self.evaluation.figures(),
            **self._calibration(),
        } | (
            {}
            if top1 is None or self.evaluation.multi_label
            else {"published_accuracy": top1 / 100}
        )

    def _calibration(self) -> dict[str, float]:
        """Return how sure the scores may be taken, without and with what the network stores."""
        evaluation, network = self.evaluation, self.network
        if evaluation.multi_label or evaluation.activation not in ("softmax", "sigmoid"):
            return {}
        found = {
            "calibration_error": evaluation.reliability.error,
            "calibration_error_by_chance": evaluation.reliability.error_by_chance,
        }
        if network.temperature is not None:
            corrected = evaluation.with_temperature(network.temperature)
            found["temperature"] = network.temperature
            found["calibrated_error"] = corrected.reliability.error
        if network.none_below is not None:
            found["none_below"] = network.none_below
            found["marked_none"] = float((evaluation.scores.max(-1) < network.none_below).mean())
        return found

    def by_class(self) -> list[tuple[Any, ...]]:
        """Return (class name, pictures, *figures) of the classes with pictures, the worst first.

        The figures are those of `Evaluation.by_class`; the first of them decides.
        """
        figures = (values.tolist() for values in self.evaluation.by_class().values())
        counts = self.source.class_counts().tolist()
        rows = zip(self.source.class_names, counts, *figures, strict=True)
        return sorted((row for row in rows if row[1]), key=lambda row: row[2])


def published_network(
    model: keras.Model,
    weights: Weights,
    protocol: str | None = None,
    facts: Mapping[str, Any] | None = None,
) -> JudgedNetwork:
    """Return a network with loaded weights, and the way to judge it.

    Args:
        model: pixels 0..255 -> (N, classes).
        weights: its weights, whose `config` is known.
        protocol: see `evaluation_protocol`; None is what the config.json beside the weights says,
            or else the official one.
        facts: further facts about it.

    Raises:
        ValueError: the protocol is unknown, or the set does not have it.
    """
    assert weights.config is not None
    found, described, classes = weights.set, weights.described, model.output_shape[-1]
    names = described.class_names
    if protocol is None and described.image_size is not None and described.style is not None:
        protocol, image_size, style = "of the weights", described.image_size, described.style
    else:
        protocol = protocol or "official"
        followed = set_to_follow(weights.config.name, found, classes)
        image_size, style = evaluation_protocol(followed, protocol)
    return JudgedNetwork(
        model=model,
        classes=[{"class": name} for name in names] if names else described_classes(classes),
        image_size=image_size,
        style=style,
        facts={**(facts or {}), "protocol": protocol, "image_size": image_size},
        published_top1=found.top1 if found is not None and found.classes == classes else None,
        names_classes=names is not None,
        variant=weights.config.name,
        weights=(facts or {}).get("weights"),
        thresholds=described.thresholds,
    )


def described_classes(classes: int) -> list[dict[str, str]]:
    """Return a description of each class, see `JudgedNetwork`; without a list their numbers."""
    if has_class_list(classes):
        return [{"class": one.name, "wordnet_id": one.wordnet_id} for one in class_list(classes)]
    return [{"class": str(index)} for index in range(classes)]


def classes_named(names: Sequence[str], classes: int) -> tuple[Sequence[Mapping[str, str]], bool]:
    """Return a description of each class, and whether `names` say more than its list or number."""
    described = described_classes(classes)
    if not names or list(names) == [one["class"] for one in described]:
        return described, False
    return [{"class": name} for name in names], True


def unseen_split(spec: str) -> str:
    """Return the split that published weights are judged on: ImageNet's test labels are secret."""
    given = available_splits(spec)
    return next((split for split in (VALIDATION, TEST) if split in given), ALL)


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
        ValueError: nothing is left. Further errors are those of `load_source`.
    """
    trained_on = network.trained_on
    if trained_on is None:
        split = split or unseen_split(spec)
        if network.names_classes:
            names = [one["class"] for one in network.classes]
            multi_label = None if network.thresholds is None else True
            source = load_source(spec, split, class_names=names, multi_label=multi_label)
            return ChosenPictures(replace(source, notes=(*source.notes, _UNKNOWN)), {})
        return ChosenPictures(load_source_for(spec, split, len(network.classes)), {})
    given = available_splits(spec)
    split = split or (TEST if TEST in given else None)
    # A test split cannot be drawn: where there is none, that is an error.
    part = split if split in (*given, TEST) else ALL
    source = load_source(
        spec,
        part,
        class_names=[one["class"] for one in network.classes],
        multi_label=network.thresholds is not None,
    )
    record = trained_on.record
    trained, held = record.trained_on(source), record.held_back(source)
    if split == ALL or part == TRAIN:
        chosen = np.full(source.num_examples, True)
    elif split == TRAIN:
        chosen = trained
    elif part == ALL and (split or (held.any() and not trained_on.all_used)):
        chosen = held
    else:
        chosen = ~trained
    if not chosen.any():
        raise ValueError(
            f"There is nothing to judge the run on: of the {source.num_examples:,} pictures of "
            f"{spec!r} it was trained on {trained.sum():,} and held back {held.sum():,}. Give "
            "other pictures, or judge all of these: keras-effnetv2 evaluate RUN --split all."
        )
    new = chosen & ~trained & ~held
    notes = [*source.notes]
    if part == ALL:
        notes += _saved_again(list(compress(source.names, new)), record)
    what = VALIDATION if not new.any() else ALL if chosen.all() else "not trained on"
    kinds = {
        "held_back": held & chosen,
        "new": new,
        "trained_on": trained & chosen,
        "not_judged": ~chosen,
    }
    return ChosenPictures(
        replace(source.subset(np.flatnonzero(chosen)), split=split or what, notes=tuple(notes)),
        {kind: int(pictures.sum()) for kind, pictures in kinds.items()},
    )


def _saved_again(new: Sequence[str], record: PictureRecord) -> Iterator[str]:
    """Yield a warning if new pictures have the names of most training pictures."""
    tails = {_tail(name) for _, _, name in record.training}
    known = [name for name in new if _tail(name) in tails]
    if 2 * len(set(map(_tail, known))) > len(tails):
        yield (
            f"warning: {counted(len(known), 'new picture')} with the name of a training picture "
            f"but different content: {some(known)}. If they are training pictures that were saved "
            "again, the accuracy is too high."
        )


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
    return Judgement(network, source, network.completed(evaluation), bad, pictures.counts)
