"""`TrainingData`: which pictures a training reads, and how."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from keras_effnetv2._common.checks import check_class_names
from keras_effnetv2._common.progress import progress_bar, working
from keras_effnetv2.data.sources import (
    IN_MEMORY,
    PILE_VALIDATION_FRACTION,
    ImageSource,
    load_source,
)
from keras_effnetv2.data.unreadable import BadPicturesError, drop_bad, find_bad_pictures

MAX_SCANNED = 50_000
"""The most pictures to decode before a training by default; more would take minutes."""

Pictures = tuple[ImageSource, ImageSource]
"""The training pictures and the validation pictures; both have the same class names."""


@dataclass(frozen=True)
class TrainingData:
    """The pictures of a training.

    Args: those of `kev2.train`, which explains them.

    Raises:
        ValueError: arguments contradict each other.
    """

    source: ImageSource | str | os.PathLike[str]
    validation: ImageSource | None = None
    validation_fraction: float | None = None
    multi_label: bool | None = None
    max_train_examples: int | None = None
    skip_bad: bool = False
    scan: bool | None = None
    cache: str | os.PathLike[str] | None = None

    def __post_init__(self) -> None:
        made = self.source.multi_label if isinstance(self.source, ImageSource) else None
        if made is not None and self.multi_label not in (None, made):
            raise ValueError(
                "load_source(..., multi_label=) decides whether an ImageSource is multi-label. "
                f"Received: multi_label={self.multi_label!r} and {self.source!r}"
            )
        if self.validation is None:
            return
        if not isinstance(self.source, ImageSource):
            raise ValueError(
                "`validation` is for an ImageSource only; any other source has a validation split. "
                f"Received: source={self.source!r} and validation={self.validation!r}"
            )
        if self.validation_fraction is not None:
            raise ValueError(
                "Give the validation pictures or the fraction to hold back, not both. Received: "
                f"validation={self.validation!r}, "
                f"validation_fraction={self.validation_fraction!r}"
            )
        if not isinstance(self.validation, ImageSource):
            raise ValueError(
                "`validation` must be an ImageSource, as load_source(...) makes it. "
                f"Received: validation={self.validation!r}"
            )

    def load(self, seed: int) -> Pictures:
        """Find the pictures and check their class names, without reading a picture.

        Raises:
            ValueError: the class names differ or are not single lines, or a label has no name.
                Further errors are those of `load_source`.
        """
        training, validation = self._find(seed)
        if training.class_names != validation.class_names:
            raise ValueError(
                "Training and validation pictures must have the same class names in the same "
                "order. Load the validation pictures with class_names=training.class_names."
            )
        if training.multi_label != validation.multi_label:
            raise ValueError(
                "Training and validation pictures must both be multi-label or not. Load the "
                f"validation pictures with multi_label={training.multi_label}."
            )
        check_class_names(training.class_names)
        for source in (training, validation):
            low, high = source.labels.min(), source.labels.max()
            if source.multi_label:
                low, high = 0, source.labels.shape[1] - 1
            if low < 0 or high >= len(source.class_names):
                raise ValueError(
                    f"The {source.split} labels are {low}..{high}, but {len(source.class_names)} "
                    f"classes have the labels 0..{len(source.class_names) - 1}. Number the classes "
                    "from 0, or name them all."
                )
            if not source.class_counts().any():
                raise ValueError(
                    f"No picture of {source.spec!r} ({source.split}) has a class, so there is "
                    "nothing to learn or to judge. Fill in the labels."
                )
        if self.max_train_examples is not None:
            training = training.stratified_subset(self.max_train_examples, seed)
        return training, validation

    def _find(self, seed: int) -> Pictures:
        fraction = self.validation_fraction
        if not isinstance(self.source, ImageSource):
            load = partial(
                load_source,
                self.source,
                multi_label=self.multi_label,
                validation_fraction=fraction,
                seed=seed,
            )
            return load("train"), load("validation")
        if self.validation is not None:
            return self.source, self.validation
        return self.source.carve(PILE_VALIDATION_FRACTION if fraction is None else fraction, seed)

    def prepare(self, pictures: Pictures, say: Callable[[str], Any]) -> Pictures:
        """Return the readable pictures of those from `load`, scanned and cached as settings say.

        This can take minutes; `say` is called with each line of the progress and each picture left
        out.

        Raises:
            BadPicturesError: pictures cannot be read and may not be left out.
            ValueError: a class would have no pictures left. Further errors are those of
                `ImageSource.cached`.
        """
        for note in pictures[0].notes:
            say(note)
        training, validation = self._without_bad(pictures, say)
        if self.cache is None:
            return training, validation
        with working("keeping a copy of the pictures"):
            if self.cache == IN_MEMORY:
                return training.cached(IN_MEMORY), validation.cached(IN_MEMORY)
            place = Path(self.cache)
            return training.cached(place / "train"), validation.cached(place / "validation")

    def _without_bad(self, pictures: Pictures, say: Callable[[str], Any]) -> Pictures:
        total = sum(source.num_examples for source in pictures)
        scan = total <= MAX_SCANNED if self.scan is None else self.scan
        if not scan:
            say(f"The {total:,} pictures are not checked in advance, but during training.")
        found = []
        for source in pictures:
            if scan:
                say(f"Checking {source.num_examples:,} {source.split} pictures ...")
            # Without a scan only what a file is: a pipe would stop a training, a huge file end it.
            with progress_bar(f"checking {source.split} pictures") as progress:
                found.append(find_bad_pictures(source, decode=scan, progress=progress))
        if any(found) and not self.skip_bad:
            raise BadPicturesError([picture for bad in found for picture in bad])
        for source, bad in zip(pictures, found, strict=True):
            for picture in bad:
                say(f"  left out: {picture.name!r}: {picture.reason}")
            if bad:
                count = f"{len(bad):,} of {source.num_examples:,}"
                say(f"Left out: {count} {source.split} pictures.")
        training, validation = map(drop_bad, pictures, found)
        return training, validation
