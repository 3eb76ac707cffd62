"""A CSV table of pictures and labels as a `Catalog`.

    path,label,split
    photos/a.jpg,cat,train

Paths are relative to the folder of the table. The column `split` is optional; other columns are
ignored. Only the table is read here, never a picture.
"""

import csv
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from keras_effnetv2.data.catalog import (
    ALL,
    SPLIT_ALIASES,
    Catalog,
    FileStore,
    LabelledPictures,
    some,
)

_REQUIRED = ("path", "label")
_SPLIT = "split"


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    part: str


def open_csv(path: str) -> Catalog:
    """Read a table with the header `path,label[,split]` (UTF-8, with or without a BOM).

    The parts are those that the column `split` names. Errors name the line.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no file {path!r} (looked for {os.path.abspath(path)!r}). Expected "
            "'csv:FILE' with the header 'path,label' or 'path,label,split'."
        )
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder. For a folder of class folders leave out 'csv:'.")
    first_of: dict[str, _Row] = {}
    parts: dict[str, list[_Row]] = defaultdict(list)
    for row in _rows(path):
        first = first_of.setdefault(row.path, row)
        if first is not row:  # it could be trained on and validated with
            labels = "" if first.label == row.label else f" as {first.label!r} and as {row.label!r}"
            raise ValueError(
                f"{path!r} lists {row.path!r} twice{labels}, on lines {first.line} and {row.line}. "
                "A picture may be listed once."
            )
        parts[row.part].append(row)
    if not parts:
        raise ValueError(f"{path!r} lists no pictures: there is no row below the header.")
    names = {part: tuple(sorted({row.label for row in rows})) for part, rows in parts.items()}

    def read(part: str) -> LabelledPictures:
        label_of = {name: label for label, name in enumerate(names[part])}
        return LabelledPictures.of(
            np.array([label_of[row.label] for row in parts[part]]),
            FileStore.at([row.path for row in parts[part]]),
            origins=[f"line {row.line}" for row in parts[part]],
        )

    return Catalog(names, read)


def _rows(path: str) -> Iterator[_Row]:
    """Yield the rows below the header, each with the number of its first line."""
    header, line = None, 1
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            reader = csv.reader(file, strict=True)
            for fields in reader:
                if fields and header is None:
                    header = _check_header(path, fields)
                elif fields and header is not None:
                    yield _parse_row(path, line, header, fields)
                line = reader.line_num + 1
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path!r} is not UTF-8 text ({error.reason} at byte {error.start}). Save the table "
            "as 'CSV UTF-8'."
        ) from error
    except csv.Error as error:
        raise ValueError(
            f"{path!r} line {reader.line_num} is not CSV: {error}. Mend that line, or save "
            "the table as 'CSV UTF-8'."
        ) from error


def _parse_row(path: str, line: int, header: list[str], fields: list[str]) -> _Row:
    if len(fields) != len(header):
        raise ValueError(
            f"{path!r} line {line}: expected {len(header)} fields, received {len(fields)}. "
            'A comma inside a field needs quotes around it: "a,b.jpg".'
        )
    row = dict(zip(header, fields, strict=True))
    for column in (*_REQUIRED, _SPLIT):
        if column in row and not row[column].strip():
            raise ValueError(
                f"{path!r} line {line}: the field {column!r} is empty. Fill it in, or "
                "remove the line."
            )
    part = row.get(_SPLIT, "").strip().lower()
    if part and part not in SPLIT_ALIASES:
        raise ValueError(
            f"{path!r} line {line}: unknown split {row[_SPLIT]!r}. "
            f"Allowed: {', '.join(SPLIT_ALIASES)}."
        )
    picture = os.path.normpath(os.path.join(os.path.dirname(path), row["path"]))
    return _Row(line, picture, row["label"].strip(), SPLIT_ALIASES.get(part, ALL))


def _check_header(path: str, fields: list[str]) -> list[str]:
    header = [field.strip().lower() for field in fields]
    if missing := [column for column in _REQUIRED if column not in header]:
        raise ValueError(
            f"{path!r} has no column {some(missing)}. The first line must be 'path,label' or "
            f"'path,label,split', separated by commas. Received: {','.join(fields)!r}."
        )
    if repeated := sorted({column for column in header if header.count(column) > 1}):
        raise ValueError(
            f"{path!r} has a column more than once: {some(repeated)}. Keep one of each name."
        )
    return header
