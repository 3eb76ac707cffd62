"""`PictureRecord`: which pictures a network was trained on, and which were held back from it.

Pictures are recognised by their content. So it does not matter where they lie later, how their
place is written, and what has been added to them.
"""

import csv
import hashlib
import io
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_effnetv2._common.files import write_text
from keras_effnetv2.data.catalog import TRAIN, VALIDATION
from keras_effnetv2.data.sources import ImageSource

_COLUMNS = ("split", "content", "class", "name")


class PictureEntry(NamedTuple):
    """One picture: see `ImageSource.contents`, `label_texts` and `names`."""

    content: int
    class_name: str
    name: str


@dataclass(frozen=True)
class PictureRecord:
    """The pictures of a training.

    Those for training are in the order of the first epoch, which depends on how they are read.
    """

    training: tuple[PictureEntry, ...] = field(repr=False)
    validation: tuple[PictureEntry, ...] = field(repr=False)

    @classmethod
    def of(cls, training: ImageSource, validation: ImageSource, seed: int) -> "PictureRecord":
        """Read the pictures, and return the record of them."""
        entries = _entries(training)
        order = training.order(shuffle=True, seed=seed).tolist()
        return cls(tuple(entries[index] for index in order), _entries(validation))

    @classmethod
    def read(cls, path: Path, fingerprint: str) -> "PictureRecord":
        """Read what `write` wrote.

        Raises:
            OSError: the file cannot be read.
            ValueError: it is not the file with this `fingerprint`.
        """
        text = path.read_bytes()
        if hashlib.sha256(text).hexdigest() != fingerprint:
            raise ValueError(f"{path.name} has been changed since the run wrote it")
        found: dict[str, list[PictureEntry]] = {TRAIN: [], VALIDATION: []}
        _, *rows = csv.reader(io.StringIO(text.decode("utf-8"), newline=""))
        for split, content, class_name, name in rows:
            found[split].append(PictureEntry(int(content, 16), class_name, name))
        return cls(tuple(found[TRAIN]), tuple(found[VALIDATION]))

    def write(self, path: Path) -> None:
        """Write a table: split, content (16 hexadecimal digits), class and name of each picture."""
        write_text(path, self._text())

    @property
    def fingerprint(self) -> str:
        """The SHA-256 of the file that `write` writes."""
        return hashlib.sha256(self._text().encode("utf-8")).hexdigest()

    def _text(self) -> str:
        text = io.StringIO()
        # With all quoted: Python before 3.13 leaves a name with a carriage return without quotes.
        writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL)
        writer.writerow(_COLUMNS)
        for split, entries in ((TRAIN, self.training), (VALIDATION, self.validation)):
            writer.writerows(
                (split, f"{entry.content:016x}", entry.class_name, entry.name) for entry in entries
            )
        return text.getvalue()

    def trained_on(self, source: ImageSource) -> np.ndarray:
        """Return which pictures of a source the network was trained on, (N,) bool."""
        return _are_among(source, self.training)

    def held_back(self, source: ImageSource) -> np.ndarray:
        """Return which pictures of a source were held back and not trained on, (N,) bool."""
        return _are_among(source, self.validation) & ~self.trained_on(source)

    def changes(self, later: "PictureRecord") -> list[str]:
        """Return how another record differs from this one, a text for each split that does."""
        said = []
        for split, before, after in (
            ("training", self.training, later.training),
            ("validation", self.validation, later.validation),
        ):
            # Content and class make a picture; its name may change.
            old, new = ([entry[:2] for entry in entries] for entries in (before, after))
            if old == new:
                continue
            gone, added = Counter(old) - Counter(new), Counter(new) - Counter(old)
            how = f"{gone.total():,} missing, {added.total():,} new"
            if not gone and not added:
                how = "in another order"
            elif sorted(content for content, _ in gone) == sorted(content for content, _ in added):
                how = f"{gone.total():,} with another label"
            said.append(f"{split} pictures: {how}")
        return said


def _entries(source: ImageSource) -> tuple[PictureEntry, ...]:
    columns = zip(source.contents.tolist(), source.label_texts, source.names, strict=True)
    return tuple(PictureEntry(*entry) for entry in columns)


def _are_among(source: ImageSource, entries: tuple[PictureEntry, ...]) -> np.ndarray:
    known = np.fromiter({entry.content for entry in entries} - {0}, np.uint64)
    return np.isin(source.contents, known)
