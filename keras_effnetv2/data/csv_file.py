"""A CSV table of pictures and labels as a `Catalog`.

    path,label,split              path,cat,dog
    photos/a.jpg,cat,train        photos/a.jpg,1,0

A picture of several classes (multi-label) has the label `cat;dog`; one of no class has an empty
one. In place of the column `label` there may be a column of 0 and 1 for each class, as on the
right; then there are no other columns but `path` and `split`.

Paths are relative to the folder of the table; `~` is the home folder, a backslash divides folders,
too, and `file://` addresses are paths. The column `split` is optional; rows where it is empty or
`unlabelled` are not used. Beside `label`, other columns are ignored, as are empty lines, and spaces
around fields. The delimiter is the one of `_DELIMITERS` that finds the columns in the first line,
or X if the line `sep=X` stands above it, as in Excel's tables. UTF-8, or UTF-16 with a byte order
mark. Only the table is read here, never a picture.
"""

import codecs
import contextlib
import csv
import functools
import os
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import TextIO
from urllib.parse import unquote

import numpy as np

from keras_effnetv2._common.text import counted, some
from keras_effnetv2.data.catalog import (
    ALL,
    CLASS_DIVIDER,
    Catalog,
    FileStore,
    LabelledPictures,
    check_data_file,
)
from keras_effnetv2.data.names import SPLIT_NAMES, UNLABELLED, composed, splits_of

_LABEL, _SPLIT = "label", "split"
_REQUIRED = ("path", _LABEL)
_DELIMITERS = (",", ";", "\t", "|")
_YES, _NO = ("1", "1.0", "true"), ("0", "0.0", "false")  # in a column of a class
_FILE_ADDRESS = re.compile(r"file:(?://(?:localhost)?)?(/(?!/).*)", re.IGNORECASE | re.DOTALL)
_MAX_BYTES = 4 * 1024**3  # the 14 million pictures of ImageNet-21k take a quarter
_MAX_LINE = 2 * 1024**2  # characters; a path has at most 4,096
_SHOWN = 200  # characters of a first line, in a message


@dataclass(frozen=True)
class _Header:
    line: int
    delimiter: str
    columns: Mapping[str, int]  # where path, label and split are
    classes: Mapping[str, int]  # where the columns of 0 and 1 are, without a column `label`
    width: int  # number of columns
    last: int  # position of the last column that is used


@dataclass(frozen=True)
class _Row:
    line: int
    path: str
    label: str  # as it stands there; from columns of 0 and 1 "a;b"
    part: str


def open_csv(path: str, multi_label: bool | None = None) -> Catalog:
    """Read a table with the header `path,label[,split]`, or `path,CLASS,CLASS...[,split]`.

    The parts are those that the column `split` names. Errors name the line. With `multi_label` a
    picture may have several classes or none, and a label is divided at ";"; with None that is so if
    one label has a ";", or a picture is 1 in several columns.
    """
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no file {path!r} (looked for {os.path.abspath(path)!r}). Expected "
            "'csv:FILE' with the header 'path,label' or 'path,label,split'."
        )
    if os.path.isdir(path):
        raise ValueError(f"{path!r} is a folder. For a folder of class folders, leave out 'csv:'.")
    check_data_file(path, _MAX_BYTES)
    with _lines(path) as lines:
        header = _read_header(path, lines)
        parts, notes = _read_parts(path, _rows(path, header, lines))
    every = [row for rows in parts.values() for row in rows]
    several = next((row for row in every if CLASS_DIVIDER in row.label), None)
    if several is not None and multi_label is None:
        notes.append(
            f"Pictures may have several classes (multi-label): line {several.line} of {path!r} has "
            f"{several.label!r}. --no-multi-label (multi_label=False) takes that as one class."
        )
    elif several is None and multi_label:
        notes.append(
            f"No picture of {path!r} has several classes. A label is divided at "
            f"{CLASS_DIVIDER!r}, as in 'a;b'."
        )
    if multi_label is None:
        multi_label = several is not None
    if not multi_label:
        _check_one_class(path, header, every)
    return Catalog(*_labelled(header, parts, multi_label), notes=tuple(notes))


def _labelled(
    header: _Header, parts: Mapping[str, Sequence[_Row]], multi_label: bool
) -> tuple[dict[str, tuple[str, ...]], Callable[[str], LabelledPictures]]:
    """Return the class names of each part, and a function that returns its pictures."""

    def classes(row: _Row) -> tuple[str, ...]:
        if not multi_label:
            return (row.label,)
        return tuple(filter(None, map(str.strip, row.label.split(CLASS_DIVIDER))))

    names = {
        part: tuple(sorted({*header.classes, *chain.from_iterable(map(classes, rows))}))
        for part, rows in parts.items()
    }

    def read(part: str) -> LabelledPictures:
        rows, label_of = parts[part], {name: label for label, name in enumerate(names[part])}
        if multi_label:
            labels = np.zeros((len(rows), len(label_of)), bool)
            for number, row in enumerate(rows):
                labels[number, [label_of[name] for name in classes(row)]] = True
        else:
            labels = np.array([label_of[row.label] for row in rows])
        return LabelledPictures.of(
            labels,
            FileStore.at([row.path for row in rows]),
            origins=[f"line {row.line}" for row in rows],
        )

    return names, read


def _check_one_class(path: str, header: _Header, rows: Sequence[_Row]) -> None:
    """Raise ValueError for a row without a class, or one that is 1 in several columns."""
    for row in rows:
        if not row.label or (header.classes and CLASS_DIVIDER in row.label):
            what = "the field 'label' is empty. Fill it in, or remove the line"
            if header.classes:
                what = f"{'several classes are' if row.label else 'no class is'} 1. Correct it"
            raise ValueError(
                f"{path!r} line {row.line}: {what}. A training with --multi-label "
                "(multi_label=True) takes pictures of several classes or none."
            )


def _read_parts(path: str, rows: Iterator[_Row]) -> tuple[dict[str, list[_Row]], list[str]]:
    """Return the rows of each part, and notes on what is not used."""
    first_of: dict[str, _Row] = {}
    parts: dict[str, list[_Row]] = defaultdict(list)
    unused: list[int] = []
    for row in rows:
        if row.part == UNLABELLED:
            unused.append(row.line)
            continue
        first = first_of.setdefault(row.path, row)
        if first is not row:  # it could be trained on and validated with
            labels = "" if first.label == row.label else f" as {first.label!r} and as {row.label!r}"
            raise ValueError(
                f"{path!r} lists {row.path!r} twice{labels}, on lines {first.line} and {row.line}. "
                "List each picture once, if it has several classes with the label 'a;b'."
            )
        parts[row.part].append(row)
    if not parts and not unused:
        raise ValueError(f"{path!r} lists no pictures: there is no row below the header.")
    if not parts:
        raise ValueError(
            f"{path!r} lists no pictures to use: the field 'split' is empty, or says 'unlabelled', "
            f"in all {len(unused)} rows. Fill it in, or remove that column."
        )
    if not unused:
        return parts, []
    return parts, [
        f"Not used: {counted(len(unused), 'row')} of {path!r} (the first is line {unused[0]}), "
        "whose split is empty or a word such as 'unlabelled'."
    ]


def _rows(path: str, header: _Header, lines: Iterator[str]) -> Iterator[_Row]:
    """Yield the rows below the header, each with the number of its first line."""
    line = header.line + 1
    reader = csv.reader(lines, delimiter=header.delimiter, strict=True, skipinitialspace=True)
    try:
        for fields in reader:
            if any(map(str.strip, fields)):
                yield _parse_row(path, line, header, fields)
            line = header.line + reader.line_num + 1
    except csv.Error as error:
        raise ValueError(
            f"{path!r} line {line} is not CSV: {error}. Correct that line, or save "
            "the table as 'CSV UTF-8'."
        ) from error


@contextlib.contextmanager
def _lines(path: str) -> Iterator[Iterator[str]]:
    with open(path, "rb") as file:
        is_wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    encoding = "utf-16" if is_wide else "utf-8-sig"
    try:
        with open(path, encoding=encoding, newline="") as file:
            yield _read_lines(path, file)
    except UnicodeDecodeError as error:
        name = encoding.removesuffix("-sig").upper()
        raise ValueError(
            f"{path!r} is not {name} text ({error.reason} at byte {error.start}). Save the table "
            "as 'CSV UTF-8'."
        ) from error


def _read_lines(path: str, file: TextIO) -> Iterator[str]:
    number = 0
    while text := file.readline(_MAX_LINE):
        number += 1
        if "\0" in text:
            raise ValueError(
                f"{path!r} line {number} has a NUL in it: this is not a table, or not UTF-8 text. "
                "Save the table as 'CSV UTF-8'."
            )
        if len(text) == _MAX_LINE:
            raise ValueError(
                f"{path!r} line {number} is longer than {_MAX_LINE:,} characters: this is not a "
                "table of pictures. A row is 'path,label' or 'path,label,split'."
            )
        yield text


def _parse_row(path: str, line: int, header: _Header, fields: list[str]) -> _Row:
    # Spreadsheets write commas behind the last field, or leave out empty ones there.
    if any(map(str.strip, fields[header.width :])) or len(fields) <= header.last:
        raise ValueError(
            f"{path!r} line {line}: expected {header.width} fields, received {len(fields)}. "
            f"A {header.delimiter!r} inside a field needs quotes around it: "
            f'"a{header.delimiter}b.jpg".'
        )
    row = {column: fields[position].strip() for column, position in header.columns.items()}
    part = _part(row[_SPLIT]) if _SPLIT in row else ALL
    if part == UNLABELLED:
        return _Row(line, row["path"], "", part)
    if not row["path"]:
        raise ValueError(
            f"{path!r} line {line}: the field 'path' is empty. Fill it in, or remove the line."
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
    label = (
        composed(row[_LABEL]) if _LABEL in row else _label_of_columns(path, line, header, fields)
    )
    return _Row(line, found, label, part)


def _label_of_columns(path: str, line: int, header: _Header, fields: list[str]) -> str:
    """Return the names of the columns that are 1, as in a column `label`: "a;b"."""
    values = {name: fields[place].strip().lower() for name, place in header.classes.items()}
    for name, value in values.items():
        if value not in _YES + _NO:
            raise ValueError(
                f"{path!r} line {line}: {name!r} is {value!r}. There is no column 'label', so all "
                "columns but 'path' and 'split' must be classes, with 0 or 1. Name the column with "
                "the labels 'label', or remove columns that are not classes."
            )
    return CLASS_DIVIDER.join(name for name, value in values.items() if value in _YES)


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


def _read_header(path: str, lines: Iterator[str]) -> _Header:
    """Read up to the header, and find the delimiter and the columns that are used."""
    number = 0
    delimiters: Sequence[str] = _DELIMITERS
    for line in lines:
        number += 1
        if separator := re.fullmatch(r'"?sep=(\t|[^"\s])"?[\s,;|]*', line, re.IGNORECASE):
            delimiters = (separator[1],)
        elif line.strip():
            break
    else:
        raise ValueError(f"{path!r} lists no pictures: it is empty.")
    most, delimiter, names = -1, "", [""]
    for tried in delimiters:
        with contextlib.suppress(csv.Error):  # a field is too long: it is not divided so
            (fields,) = csv.reader([line], delimiter=tried, skipinitialspace=True)
            read = [composed(field.strip()) for field in fields]
            lower = [field.lower() for field in read]
            if (has := sum(column in lower for column in _REQUIRED)) > most:
                most, delimiter, names = has, tried, read
    lower = [name.lower() for name in names]
    missing = [column for column in _REQUIRED if column not in lower]
    columns = {name: lower.index(name) for name in (*_REQUIRED, _SPLIT) if name in lower}
    others = {
        name: place for place, name in enumerate(names) if name and name.lower() not in columns
    }
    classes = others if missing == [_LABEL] and len(others) > 1 else {}
    if missing and not classes:
        raise ValueError(
            f"{path!r} has no column {some(missing)}. The first line must be 'path,label' or "
            f"'path,label,split', separated by one of {some(_DELIMITERS)}; in place of 'label' "
            "there may be a column of 0 and 1 for each class. Received: "
            f"{line.strip()[:_SHOWN]!r}."
        )
    counts = Counter(names)
    if repeated := [
        *(column for column in columns if lower.count(column) > 1),
        *(name for name in classes if counts[name] > 1),
    ]:
        raise ValueError(
            f"{path!r} has a column more than once: {some(repeated)}. Keep one of each name."
        )
    if divided := [name for name in classes if CLASS_DIVIDER in name]:
        raise ValueError(
            f"{path!r} has classes with a {CLASS_DIVIDER!r} in their names: {some(divided)}. Give "
            "them other names."
        )
    width = 1 + max(position for position, name in enumerate(names) if name)
    last = max([*columns.values(), *classes.values()])
    return _Header(number, delimiter, columns, classes, width, last)
