"""`PictureRecord`: which pictures a network was trained on, and which were held back from it.

They are told by their content. So it does not matter where they lie later, how their place is
written, and what has been added to them.
"""

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from keras_effnetv2._common.files import write_text
from keras_effnetv2.data.catalog import TRAIN, VALIDATION
from keras_effnetv2.data.sources import ImageSource

_COLUMNS = ("split", "content", "name")


@dataclass(frozen=True)
class PictureRecord:
    """Pictures, each as (content, name): see `ImageSource.contents` and `names`.

    The training pictures are in the order of the first epoch, which depends on how they are read.
    """

    training: tuple[tuple[int, str], ...]
    validation: tuple[tuple[int, str], ...]

    @classmethod
    def of(cls, training: ImageSource, validation: ImageSource, seed: int) -> "PictureRecord":
        """Read the pictures, and return the record of them."""
        entries = _entries(training)
        order = training.order(shuffle=True, seed=seed).tolist()
        return cls(tuple(entries[index] for index in order), _entries(validation))

    @classmethod
    def read(cls, path: Path) -> "PictureRecord | None":
        """Read what `write` wrote; None if the file is not there.

        Raises:
            ValueError: the file is damaged.
        """
        if not path.exists():
            return None
        found: dict[str, list[tuple[int, str]]] = {TRAIN: [], VALIDATION: []}
        try:
            with path.open(encoding="utf-8", newline="") as file:
                header, *rows = csv.reader(file)
            if tuple(header) != _COLUMNS:
                raise ValueError(f"its first line is not {','.join(_COLUMNS)}")
            for split, content, name in rows:
                found[split].append((int(content, 16), name))
        except (OSError, ValueError, KeyError, csv.Error) as error:
            raise ValueError(f"{path} cannot be read: {error}.") from None
        return cls(tuple(found[TRAIN]), tuple(found[VALIDATION]))

    def write(self, path: Path) -> None:
        """Write a table: split, content (16 hexadecimal digits) and name of each picture."""
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(_COLUMNS)
        for split, entries in ((TRAIN, self.training), (VALIDATION, self.validation)):
            writer.writerows((split, f"{content:016x}", name) for content, name in entries)
        write_text(path, text.getvalue())

    def trained_on(self, source: ImageSource) -> np.ndarray:
        """Return which pictures of a source the network was trained on, (N,) bool."""
        return _are_among(source, self.training)

    def held_back(self, source: ImageSource) -> np.ndarray:
        """Return which pictures of a source were held back and not trained on, (N,) bool."""
        return _are_among(source, self.validation) & ~self.trained_on(source)

    def changes(self, later: "PictureRecord") -> str:
        """Return how another record differs from this one, in words; nothing if it does not."""
        said = []
        for split, before, after in (
            ("training", self.training, later.training),
            ("validation", self.validation, later.validation),
        ):
            old, new = ([content for content, _ in entries] for entries in (before, after))
            if old != new:
                gone, added = len(set(old) - set(new)), len(set(new) - set(old))
                how = f"{gone:,} missing, {added:,} new" if gone or added else "in another order"
                said.append(f"{split} pictures: {how}")
        return "; ".join(said)


def _entries(source: ImageSource) -> tuple[tuple[int, str], ...]:
    return tuple(zip(source.contents.tolist(), source.names, strict=True))


def _are_among(source: ImageSource, entries: tuple[tuple[int, str], ...]) -> np.ndarray:
    known = np.fromiter({content for content, _ in entries} - {0}, np.uint64)
    return np.isin(source.contents, known)
