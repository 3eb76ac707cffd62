"""A CSV table of pictures and labels as a `Catalog`.

    path,label,split
    photos/a.jpg,cat,train

Paths are relative to the folder of the table; `~` is the home folder, a backslash divides folders,
too, and `file://` addresses are paths. The column `split` is optional; rows where it is empty or
`unlabelled` are not used. Other columns are ignored, as are empty lines, and spaces around fields.
The delimiter is the one of `_DELIMITERS` that finds the columns in the first line, or X if the line
`sep=X` stands above it, as in Excel's tables. UTF-8, or UTF-16 with a byte order mark.
Only the table is read here, never a picture.
"""

import codecs
import contextlib
import csv
import functools
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TextIO
from urllib.parse import unquote

import numpy as np

from keras_effnetv2._common.text import counted, some
from keras_effnetv2.data.catalog import (
    ALL,
    Catalog,
    FileStore,
    LabelledPictures,
    check_data_file,
)
from keras_effnetv2.data.names import SPLIT_NAMES, UNLABELLED, composed, splits_of

_REQUIRED = ("path", "label")
_SPLIT = "split"
_DELIMITERS = (",", ";", "\t", "|")
_FILE_ADDRESS = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
_MAX_BYTES = 4 * 1024**3  # the 14 million pictures of ImageNet-21k take a quarter
_MAX_LINE = 2 * 1024**2  # characters; a path has at most 4,096
_SHOWN = 200  # characters of a first line, in a message


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str
    part: str


def open_csv(path: str) -> Catalog:
    """Read a table with the header `path,label[,split]`.

    The parts are those that the column `split` names. Errors name the line.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no file {path!r} (looked for {os.path.abspath(path)!r}). Expected "
            "'csv:FILE' with the header 'path,label' or 'path,label,split'."
        )
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder. For a folder of class folders, leave out 'csv:'.")
    check_data_file(path, _MAX_BYTES)
    first_of: dict[str, _Row] = {}
    parts: dict[str, list[_Row]] = defaultdict(list)
    unused: list[int] = []
    for row in _rows(path):
        if row.part == UNLABELLED:
            unused.append(row.line)
            continue
        first = first_of.setdefault(row.path, row)
        if first is not row:  # it could be trained on and validated with
            labels = "" if first.label == row.label else f" as {first.label!r} and as {row.label!r}"
            raise ValueError(
                f"{path!r} lists {row.path!r} twice{labels}, on lines {first.line} and {row.line}. "
                "List each picture once."
            )
        parts[row.part].append(row)
    if not parts and not unused:
        raise ValueError(f"{path!r} lists no pictures: there is no row below the header.")
    if not parts:
        raise ValueError(
            f"{path!r} lists no pictures to use: the field 'split' is empty, or says 'unlabelled', "
            f"in all {len(unused)} rows. Fill it in, or remove that column."
        )
    notes = []
    if unused:
        notes.append(
            f"Not used: {counted(len(unused), 'row')} of {path!r} (the first is line {unused[0]}), "
            "whose split is empty or such as 'unlabelled'."
        )
    names = {part: tuple(sorted({row.label for row in rows})) for part, rows in parts.items()}

    def read(part: str) -> LabelledPictures:
        label_of = {name: label for label, name in enumerate(names[part])}
        return LabelledPictures.of(
            np.array([label_of[row.label] for row in parts[part]]),
            FileStore.at([row.path for row in parts[part]]),
            origins=[f"line {row.line}" for row in parts[part]],
        )

    return Catalog(names, read, notes=tuple(notes))


def _rows(path: str) -> Iterator[_Row]:
    """Yield the rows below the header, each with the number of its first line."""
    with open(path, "rb") as file:
        is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if is_wide else "utf-8-sig"
    line = 1
    try:
        with open(path, encoding=encoding, newline="") as file:
            lines, given = _lines(path, file), ""
            for header in lines:
                if separator := re.fullmatch(r'"?sep=(\t|[^"\s])"?[\s,;|]*', header, re.IGNORECASE):
                    given = separator[1]
                elif header.strip():
                    break
                line += 1
            else:
                return
            delimiter, columns, width = _read_header(path, header, given or _DELIMITERS)
            reader = csv.reader(lines, delimiter=delimiter, strict=True, skipinitialspace=True)
            above, line = line, line + 1
            for fields in reader:
                if any(map(str.strip, fields)):
                    yield _parse_row(path, line, columns, width, fields)
                line = above + reader.line_num + 1
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path!r} is not {name} text ({error.reason} at byte {error.start}). Save the table "
            "as 'CSV UTF-8'."
        ) from error
    except csv.Error as error:
        raise ValueError(
            f"{path!r} line {line} is not CSV: {error}. Correct that line, or save "
            "the table as 'CSV UTF-8'."
        ) from error


def _lines(path: str, file: TextIO) -> Iterator[str]:
    number = 0
    while text := file.readline(_MAX_LINE):
        number += 1
        if "\0" in text:
            raise ValueError(
                f"{path!r} line {number} has a NUL in it: this is no table, or not UTF-8 text. "
                "Save the table as 'CSV UTF-8'."
            )
        if len(text) == _MAX_LINE:
            raise ValueError(
                f"{path!r} line {number} is longer than {_MAX_LINE:,} characters: this is no table "
                "of pictures. A row is 'path,label' or 'path,label,split'."
            )
        yield text


def _parse_row(
    path: str, line: int, columns: Mapping[str, int], width: int, fields: list[str]
) -> _Row:
    # Spreadsheets write commas behind the last field, or leave out empty ones there.
    if any(map(str.strip, fields[width:])) or len(fields) <= max(columns.values()):
        raise ValueError(
            f"{path!r} line {line}: expected {width} fields, received {len(fields)}. "
            'A comma inside a field needs quotes around it: "a,b.jpg".'
        )
    row = {column: fields[position].strip() for column, position in columns.items()}
    part = _part(row[_SPLIT]) if _SPLIT in row else ALL
    if part == UNLABELLED:
        return _Row(line, row["path"], row["label"], part)
    for column, value in row.items():
        if not value:
            raise ValueError(
                f"{path!r} line {line}: the field {column!r} is empty. Fill it in, or "
                "remove the line."
            )
    if part is None:
        raise ValueError(
            f"{path!r} line {line}: unknown split {row[_SPLIT]!r}. Allowed: {SPLIT_NAMES}."
        )
    found = _find(path, row["path"])
    is_address = "://" in row["path"] and not _FILE_ADDRESS.fullmatch(row["path"])
    if is_address and not os.path.lexists(found):
        raise ValueError(
            f"{path!r} line {line}: {row['path']!r} is an address; only files on this machine are "
            "read. Download the picture, and give the path of the file."
        )
    return _Row(line, found, composed(row["label"]), part)


@functools.lru_cache(maxsize=64)
def _part(value: str) -> str | None:
    return splits_of([value]).get(value) if value else UNLABELLED


def _find(table: str, path: str) -> str:
    """Return the path of a picture; a backslash divides folders, unless a name there has one."""
    folder = os.path.dirname(table)
    if address := _FILE_ADDRESS.fullmatch(path):
        path = unquote(address[1], errors="surrogateescape").replace("\0", "%00")
    found = os.path.join(folder, os.path.expanduser(path))
    if "\\" in path and not os.path.lexists(found):
        found = os.path.join(folder, os.path.expanduser(path.replace("\\", os.sep)))
    return os.path.normpath(found)


def _read_header(
    path: str, line: str, delimiters: Sequence[str]
) -> tuple[str, dict[str, int], int]:
    """Return the delimiter, where the columns are that are used, and the number of columns."""
    most, delimiter, names = -1, "", [""]
    for tried in delimiters:
        with contextlib.suppress(csv.Error):  # a field is too long: it is not divided so
            (fields,) = csv.reader([line], delimiter=tried, skipinitialspace=True)
            read = [field.strip().lower() for field in fields]
            if (has := sum(column in read for column in _REQUIRED)) > most:
                most, delimiter, names = has, tried, read
    if missing := [column for column in _REQUIRED if column not in names]:
        raise ValueError(
            f"{path!r} has no column {some(missing)}. The first line must be 'path,label' or "
            f"'path,label,split', separated by one of {some(_DELIMITERS)}. Received: "
            f"{line.strip()[:_SHOWN]!r}."
        )
    used = [column for column in (*_REQUIRED, _SPLIT) if column in names]
    if repeated := [column for column in used if names.count(column) > 1]:
        raise ValueError(
            f"{path!r} has a column more than once: {some(repeated)}. Keep one of each name."
        )
    width = 1 + max(position for position, name in enumerate(names) if name)
    return delimiter, {column: names.index(column) for column in used}, width
