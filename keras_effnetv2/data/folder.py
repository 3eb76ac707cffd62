"""A folder of class folders, divided into splits or not, as a `Catalog`.

    photos/cat/a.jpg                 flat: the folders are the classes
    photos/train/cat/a.jpg           split folder: train, validation (val, valid), test

Below a class folder every file that is not hidden counts as a picture, at any depth and with
any extension: the content decides, so that no picture is left out silently. Only names are read
here, never a picture.
"""

import errno
import os
from collections.abc import Iterator

import numpy as np

from keras_effnetv2.data.catalog import (
    ALL,
    SPLIT_ALIASES,
    TRAIN,
    Catalog,
    FileStore,
    LabelledPictures,
    readable,
    some,
)

# Written by Windows and macOS beside pictures; dot-files (.DS_Store among them) are hidden anyway.
_IGNORED_FILES = frozenset({"thumbs.db", "desktop.ini"})
# Only used where a file stands in the wrong place: does it look like a lost picture?
_PICTURE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    *(".tif", ".tiff", ".heic", ".avif"),
)


def open_folder(path: str) -> Catalog:
    """Find the classes of a folder of class folders, or of one of splits."""
    if not os.path.lexists(path):
        raise FileNotFoundError(
            f"There is no folder {path!r} (looked for {os.path.abspath(path)!r}). Expected a "
            "folder of class folders, 'csv:FILE', 'tfrecord:PATTERN', 'tfds:NAME' or 'digits'."
        )
    if not os.path.isdir(path):
        raise ValueError(
            f"{path!r} is not a folder. Expected a folder of class folders; a table of pictures "
            f"is written 'csv:{path}'."
        )
    parts = _find_parts(path)
    folders = {part: _class_folders(folder) for part, folder in parts.items()}

    def read(part: str) -> LabelledPictures:
        return _read_part(path, parts[part], folders[part])

    return Catalog({part: tuple(names) for part, names in folders.items()}, read)


def _find_parts(path: str) -> dict[str, str]:
    """Return the part names with their folders: {"all": path} for a flat folder.

    It is a split folder if `train` lies in it with class folders below, or if every folder in it is
    named like a split and has class folders below.
    """
    entries = _visible_entries(path)
    folders = [entry for entry in entries if _is_folder(entry)]
    pictures = [entry.name for entry in entries if _looks_like_picture(entry.name)]
    if pictures and not folders:
        raise ValueError(
            f"{path!r} holds pictures, and no class folders: {some(pictures)}. A picture gets its "
            "class from the folder it lies in. If all of these are of one class, name the folder "
            f"above, {os.path.dirname(os.path.abspath(path))!r}; if not, make a folder per class."
        )
    with_classes = {
        entry.name
        for entry in folders
        if entry.name.lower() in SPLIT_ALIASES and any(map(_is_folder, _visible_entries(entry)))
    }
    has_train = any(name.lower() == TRAIN for name in with_classes)
    if not has_train and (not folders or len(with_classes) < len(folders)):
        return {ALL: path}
    _check_no_stray_pictures(path, "the split folders")
    parts: dict[str, str] = {}
    for entry in folders:
        part = SPLIT_ALIASES.get(entry.name.lower())
        if part is None:
            files = _walk(entry.path, (_folder_key(path),))
            if file := next(filter(_looks_like_picture, files), None):  # no split would use it
                raise ValueError(
                    f"{path!r} is divided into splits, but {entry.name!r} is not the name of one "
                    f"and holds pictures ({readable(os.fsencode(file))!r}). Allowed names: "
                    f"{', '.join(SPLIT_ALIASES)}. Move {entry.name!r} elsewhere."
                )
            continue
        if part in parts:
            raise ValueError(
                f"{path!r} has two folders for the {part} split: "
                f"{os.path.basename(parts[part])!r} and {entry.name!r}. Keep one of them."
            )
        parts[part] = entry.path
    return parts


def _class_folders(path: str) -> dict[str, str]:
    """Return {class name: folder}, sorted by name."""
    _check_no_stray_pictures(path, "the class folders")
    found = sorted(
        (readable(os.fsencode(entry.name)), entry.path)
        for entry in _visible_entries(path)
        if _is_folder(entry)
    )
    if not found:
        raise ValueError(
            f"{path!r} has no class folders. Expected one folder per class with the pictures of "
            "that class in it, for example 'photos/cat/1.jpg' and 'photos/dog/2.jpg'."
        )
    folders = dict(found)
    if len(folders) < len(found):
        raise ValueError(
            f"Two class folders in {path!r} have the same name once it is written as text; "
            f"rename one. Found: {some([name for name, _ in found])}."
        )
    return folders


def _read_part(root: str, part_path: str, folders: dict[str, str]) -> LabelledPictures:
    ancestors = (_folder_key(root), _folder_key(part_path))
    found = {name: list(_walk(folder, ancestors)) for name, folder in folders.items()}
    if empty := [name for name, paths in found.items() if not paths]:
        raise ValueError(
            f"Class folders without a picture in {part_path!r}: {some(empty)}. Put pictures in, "
            "or remove the folders."
        )
    encoded = [os.fsencode(path) for paths in found.values() for path in paths]
    names = tuple(map(readable, encoded))
    # Made absolute once: what scandir found below needs no normalising, path by path.
    start, skipped = os.path.join(os.path.abspath(os.fsencode(root)), b""), len(os.fsencode(root))
    separator = os.fsencode(os.sep)
    absolute = (start + path[skipped:].lstrip(separator) for path in encoded)
    labels = np.repeat(np.arange(len(found)), list(map(len, found.values())))
    return LabelledPictures.of(labels, FileStore.of(absolute, names))


def _walk(folder: str, ancestors: tuple[tuple[int, int], ...]) -> Iterator[str]:
    """Yield the files below a folder in the order of their names, following links.

    A folder named like a picture counts as a picture: reading it fails, and that is reported.
    """
    key = _folder_key(folder)
    if key in ancestors:
        raise ValueError(
            f"The link {folder!r} leads back to a folder above it ({os.path.realpath(folder)!r}): "
            "its pictures would be read without end. Remove the link."
        )
    for entry in _visible_entries(folder):
        if _is_folder(entry) and not _looks_like_picture(entry.name):
            yield from _walk(entry.path, (*ancestors, key))
        else:
            yield entry.path


def _visible_entries(folder: str | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        visible = [
            entry
            for entry in entries
            if not entry.name.startswith(".") and entry.name.lower() not in _IGNORED_FILES
        ]
    return sorted(visible, key=lambda entry: os.fsencode(entry.name))


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise ValueError(f"The link {entry.path!r} leads to itself. Remove the link.") from error


def _folder_key(folder: str) -> tuple[int, int]:
    """Return what identifies a folder, however many links lead to it."""
    status = os.stat(folder)
    return status.st_dev, status.st_ino


def _looks_like_picture(name: str) -> bool:
    return name.lower().endswith(_PICTURE_EXTENSIONS)


def _check_no_stray_pictures(path: str, where: str) -> None:
    files = [entry for entry in _visible_entries(path) if not _is_folder(entry)]
    if stray := [entry.name for entry in files if _looks_like_picture(entry.name)]:
        raise ValueError(
            f"{path!r} holds pictures beside {where}: {some(stray)}. A picture gets "
            "its class from the folder it lies in; move them into one."
        )
    if dangling := [entry.name for entry in files if not os.path.exists(entry.path)]:
        raise ValueError(
            f"Links in {path!r} that lead nowhere: {some(dangling)}. Repair or remove them."
        )
