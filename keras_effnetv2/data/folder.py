"""A folder of class folders, with or without splits, as a `Catalog`.

    photos/cat/a.jpg                 flat: the folders are the classes
    photos/train/cat/a.jpg           split folder: train, validation, test, see `splits_of`

Below a class folder every file that is not hidden counts as a picture, at any depth and with
any extension: the content decides, so no picture is left out silently. Only names are read here,
never a picture.
"""

import errno
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Set
from itertools import chain

import numpy as np

from keras_effnetv2._common.text import some
from keras_effnetv2.data.catalog import (
    ALL,
    TEST,
    TRAIN,
    Catalog,
    FileStore,
    LabelledPictures,
    readable,
)
from keras_effnetv2.data.names import SPLIT_NAMES, UNLABELLED, composed, says_no_class, splits_of

# Written by systems beside pictures; dot-files (.DS_Store among them) are hidden anyway.
_IGNORED = frozenset(
    {
        *("thumbs.db", "ehthumbs.db", "desktop.ini", "$recycle.bin", "system volume information"),
        *("__macosx", "icon\r", "network trash folder", "temporary items"),
        *("lost+found", "@eadir", "#recycle", "#snapshot"),
    }
)
_MANY_FOLDERS = 10  # more than a set has splits or folds
# As in YOLO's, COCO's and Pascal VOC's data: the pictures in one folder, what is on them in others.
_PICTURES_APART = re.compile(r"(jpeg)?(images?|imgs?)", re.IGNORECASE)
_ANNOTATIONS = re.compile(
    r"(labels?|annot(ation)?s?|masks?|b?boxes|imagesets|segmentation(class|object))([\W_].*)?",
    re.IGNORECASE,
)
# For files that stand in the wrong place, and for folders without labels.
_PICTURE_EXTENSIONS = (
    *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp"),
    # Refused for what they are when they are read, with the way out.
    *(".tif", ".tiff", ".heic", ".heif", ".avif", ".jxl", ".jp2"),
    *(".dng", ".cr2", ".cr3", ".nef", ".arw", ".orf", ".raf", ".rw2", ".pgm", ".ppm", ".tga"),
)


def open_folder(path: str) -> Catalog:
    """Find the classes in a folder of class folders, or of splits with class folders."""
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
    parts, notes = _find_parts(path)
    folders = {part: _class_folders(folder) for part, folder in parts.items()}

    def read(part: str) -> LabelledPictures:
        return _read_part(path, parts[part], folders[part])

    names = {part: tuple(own) for part, own in folders.items()}
    return Catalog(names, read, notes=notes)


def _find_parts(path: str) -> tuple[dict[str, str], tuple[str, ...]]:
    """Return the part names with their folders, {"all": path} for a flat folder, and notes.

    A split folder has `train` with class folders inside; or every folder in it is named like a
    split and has class folders inside, except those of pictures without labels.
    """
    entries = _visible_entries(path)
    folders = [entry for entry in entries if _is_folder(entry)]
    pictures = [entry.name for entry in entries if _looks_like_picture(entry.name)]
    if pictures and not folders:
        raise ValueError(
            f"{path!r} holds pictures but no class folders: {some(pictures)}. The class of a "
            "picture is the folder it is in. If all of these are of one class, give the folder "
            f"above, {os.path.dirname(os.path.abspath(path))!r}; if not, make a folder for each "
            "class."
        )
    _check_no_annotations(path, [entry.name for entry in folders])
    splits = splits_of(entry.name for entry in folders)
    classes: set[str] = set()
    inside: dict[str, str] = {}
    labelled: list[str] = []
    unlabelled: dict[str, str] = {}
    for entry in sorted(folders, key=lambda entry: splits.get(entry.name) != TRAIN):
        if part := splits.get(entry.name):
            inside[entry.name] = place = _unwrapped(entry.path, part, classes)
            own = [composed(folder.name) for folder in _folders(place)]
            if part == TRAIN:
                classes.update(own)
            if own and part != UNLABELLED:
                labelled.append(part)
            elif part in (TEST, UNLABELLED):
                reason = "is named as pictures without labels" if own else "has no class folders"
                unlabelled[entry.name] = reason
    are_all_splits = labelled and len(labelled) + len(unlabelled) == len(folders)
    if TRAIN not in labelled and not are_all_splits:
        _check_no_splits(path, folders, splits)
        return {ALL: path}, ()
    _check_no_stray_pictures(path, "the split folders")
    used: dict[str, str] = {}
    notes = []
    for entry in folders:
        part = splits.get(entry.name)
        if part is None:
            files = _walk(entry.path, (_folder_key(path),))
            if file := next(filter(_looks_like_picture, files), None):  # no split would use it
                raise ValueError(
                    f"{path!r} is divided into splits, but {entry.name!r} is not the name of a "
                    f"split and holds pictures ({readable(os.fsencode(file))!r}). Allowed names: "
                    f"{SPLIT_NAMES}. Move {entry.name!r} elsewhere."
                )
        elif entry.name in unlabelled:
            reason = unlabelled[entry.name]
            notes.append(f"{entry.path!r} {reason}, so its pictures are not used.")
        elif part in used:
            raise ValueError(
                f"{path!r} has two folders for the {part} split: "
                f"{used[part]!r} and {entry.name!r}. Keep one of them."
            )
        else:
            used[part] = entry.name
    return {part: inside[name] for part, name in used.items()}, tuple(notes)


def _unwrapped(path: str, part: str, classes: Set[str]) -> str:
    """Return where the classes of a split folder are, given the classes of training, if known.

    It is "train/train" or "train/images" if there are no other folders, and "test/unknown".
    """
    entries = _visible_entries(path)
    folders = [entry for entry in entries if _is_folder(entry)]
    if len(folders) != 1 or any(_looks_like_picture(entry.name) for entry in entries):
        return path
    name, below = folders[0].name, folders[0].path
    again = name == os.path.basename(path) or splits_of([name]).get(name) == part
    if not again and (composed(name) in classes or not says_no_class(name)):
        return path
    # A single class may have such a name where nothing says which classes there are.
    if again or classes or _folders(below):
        return _unwrapped(below, part, classes)
    return path


def _check_no_splits(path: str, folders: list[os.DirEntry[str]], splits: Mapping[str, str]) -> None:
    """Raise ValueError if the folders in a flat folder look like splits, not like classes."""
    example = os.path.join(path, TRAIN, "cat")
    names = [folder.name for folder in folders]
    if len(names) == len(splits) and len(set(splits.values())) > 1:
        raise ValueError(
            f"{path!r} has the folders of splits, {some(names)}, but not all have class folders in "
            f"them. The class of a picture is the folder it is in: {example!r}."
        )
    below = {folder.name: _folders_alone(folder) for folder in folders}
    for name, own in below.items():
        if len(set(splits_of(own).values())) > 1 and len(splits_of(own)) == len(own):
            raise ValueError(
                f"{path!r} has splits in the folder {name!r}: {some(sorted(own))}. If that is the "
                f"data set, give {os.path.join(path, name)!r}. If {name!r} is a class, put it into "
                f"the splits: {os.path.join(path, TRAIN, name)!r}."
            )
    counts = Counter(chain.from_iterable(below.values()))
    shared = {name for name, count in counts.items() if count > 1}
    same = [name for name, own in below.items() if own and 2 * len(own & shared) >= len(own)]
    inside = sorted(set(chain.from_iterable(below[name] for name in same)))
    # Many folders that have the same few folders in them are classes, for example of birds that
    # are male and female.
    few = len(names) <= max(_MANY_FOLDERS, len(inside))
    if len(same) < 2 or len(inside) < 2 or 2 * len(same) < len(names) or not few:
        return
    raise ValueError(
        f"The folders {some(same)} in {path!r} have the same folders in them: {some(inside)}. If "
        "they are splits, their names do not say which. Name them train, validation and test, with "
        f"class folders in them: {example!r}. If they are classes, put the pictures directly into "
        "them, or list them in a table (csv:FILE)."
    )


def _check_no_annotations(path: str, names: list[str]) -> None:
    """Raise ValueError if folders hold pictures and what is on them, instead of classes."""
    others = [name for name in names if not _PICTURES_APART.fullmatch(name)]
    if 0 < len(others) < len(names) and all(map(_ANNOTATIONS.fullmatch, others)):
        raise ValueError(
            f"{path!r} has the folders {some(names)}, as data for object detection or segmentation "
            "does. Give a folder for each class instead, for example 'photos/cat/1.jpg', or a "
            "table of pictures and their classes (csv:FILE)."
        )


def _folders_alone(folder: os.DirEntry[str]) -> set[str]:
    """Return the folders in a folder; none if there is a picture beside them."""
    found = set()
    with os.scandir(folder) as entries:
        for entry in entries:  # not sorted: a class folder may be large, and is left at once
            if _is_visible(entry):
                if _is_folder(entry):
                    found.add(composed(entry.name))
                elif _looks_like_picture(entry.name):
                    return set()
    return found


def _class_folders(path: str) -> dict[str, str]:
    """Return {class name: folder}, sorted by name."""
    _check_no_stray_pictures(path, "the class folders")
    found = [(readable(os.fsencode(entry.name)), entry.path) for entry in _folders(path)]
    found.sort(key=lambda named: composed(named[0]))
    if not found:
        raise ValueError(
            f"{path!r} has no class folders. Expected one folder per class with the pictures of "
            "that class in it, for example 'photos/cat/1.jpg' and 'photos/dog/2.jpg'."
        )
    folders = dict(found)
    _check_no_annotations(path, list(folders))
    if len(folders) < len(found):
        raise ValueError(
            f"Two class folders in {path!r} have the same name when written as text. "
            f"Rename one. Found: {some([name for name, _ in found])}."
        )
    return folders


def _read_part(root: str, part_path: str, folders: dict[str, str]) -> LabelledPictures:
    ancestors = (_folder_key(root), _folder_key(part_path))
    found = {name: list(_walk(folder, ancestors)) for name, folder in folders.items()}
    if empty := [name for name, paths in found.items() if not paths]:
        raise ValueError(
            f"Class folders without a picture in {part_path!r}: {some(empty)}. Add pictures, "
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

    A folder named like a picture counts as a picture: reading it fails with an error.
    """
    key = _folder_key(folder)
    if key in ancestors:
        raise ValueError(
            f"The link {folder!r} leads back to a folder above it ({os.path.realpath(folder)!r}): "
            "its pictures would be read again and again. Remove the link."
        )
    for entry in _visible_entries(folder):
        if _is_folder(entry) and not _looks_like_picture(entry.name):
            yield from _walk(entry.path, (*ancestors, key))
        else:
            yield entry.path


def picture_files(folder: str) -> list[str]:
    """Return the files below a folder that have the ending of a picture, in the order of names."""
    return list(filter(_looks_like_picture, _walk(folder, ())))


def _visible_entries(folder: str | os.DirEntry[str]) -> list[os.DirEntry[str]]:
    with os.scandir(folder) as entries:
        return sorted(filter(_is_visible, entries), key=lambda entry: os.fsencode(entry.name))


def _folders(folder: str) -> list[os.DirEntry[str]]:
    return [entry for entry in _visible_entries(folder) if _is_folder(entry)]


def _is_visible(entry: os.DirEntry[str]) -> bool:
    return not entry.name.startswith(".") and entry.name.lower() not in _IGNORED


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
            f"{path!r} holds pictures next to {where}: {some(stray)}. The class of "
            "a picture is the folder it is in. Move them into class folders."
        )
    if dangling := [entry.name for entry in files if not os.path.exists(entry.path)]:
        raise ValueError(
            f"Links in {path!r} that lead nowhere: {some(dangling)}. Repair or remove them."
        )
