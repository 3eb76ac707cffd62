"""Finding the pictures that cannot be used, before hours of training run into one.

Runs the very functions that training and serving decode with, so that a picture that passes here
cannot fail later.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.catalog import some
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.stores import why_unread
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.headers import MAX_PIXELS, check_image, format_name

_LISTED = 20


@dataclass(frozen=True)
class BadPicture:
    """A picture that cannot be used.

    Attributes:
        index: its position in the source that was scanned.
        name: its name there; the path, where there are files.
        reason: what is wrong, in words.
    """

    index: int
    name: str
    reason: str


class BadPicturesError(ValueError):
    """Pictures that cannot be used are in the way; the message lists them and the way out."""

    def __init__(self, bad: Sequence[BadPicture]):
        self.bad = tuple(bad)
        lines = [f"  {picture.name!r}: {picture.reason}" for picture in self.bad[:_LISTED]]
        if len(self.bad) > _LISTED:
            lines.append(f"  and {len(self.bad) - _LISTED} more")
        count = "1 picture" if len(self.bad) == 1 else f"{len(self.bad)} pictures"
        super().__init__(
            f"{count} cannot be used:\n" + "\n".join(lines) + "\n"
            "Mend or remove them, or leave them out with --skip-bad."
        )


def find_bad_pictures(
    source: ImageSource, *, progress: Callable[[int, int], object] | None = None
) -> tuple[BadPicture, ...]:
    """Read and decode every picture of a source.

    Pictures with more than `MAX_PIXELS` are bad, too; they are not decoded.

    Args:
        source: the pictures.
        progress: called with (pictures done, pictures in all) after every good picture, and at
            the end.

    Returns:
        The bad pictures in the order of the source, empty if all is well.
    """
    total, paths = source.num_examples, source.file_paths()
    reasons = {} if paths is None else _not_files(paths)
    files = np.setdiff1d(np.arange(total), list(reasons), assume_unique=True)
    # In the order in which a disk gives them quickly; of files it is that of the source.
    files = files[np.argsort(source.rows[files], kind="stable")]
    failed = set(files.tolist())
    for done, (index, reason) in enumerate(_decode_all(source, files), start=1):
        failed.remove(index)
        reasons[index] = reason
        if progress is not None:
            progress(done, total)
    reasons |= {index: why_unreadable(source.subset([index])) for index in failed}
    if progress is not None:
        progress(total, total)
    bad = sorted(index for index, reason in reasons.items() if reason)
    return tuple(BadPicture(index, source.names[index], reasons[index]) for index in bad)


def drop_bad(source: ImageSource, bad: Sequence[BadPicture]) -> ImageSource:
    """Return the source without the bad pictures.

    Args:
        source: the source that was scanned.
        bad: what `find_bad_pictures` found in it.

    Raises:
        ValueError: a class would be left without a picture, or nothing would be left.
    """
    kept = np.setdiff1d(np.arange(source.num_examples), [picture.index for picture in bad])
    left = np.bincount(source.labels[kept], minlength=len(source.class_names))
    emptied = np.flatnonzero((left == 0) & (source.class_counts() > 0))
    if emptied.size:
        raise ValueError(
            f"Without its {len(bad)} bad pictures {source.spec!r} ({source.split}) has none left "
            f"of {some([source.class_names[label] for label in emptied])}. Mend some of them."
        )
    return source.subset(kept)


def _not_files(paths: Sequence[bytes]) -> dict[int, str]:
    """Return {index: reason} of what must not be read: reading a pipe would wait for ever."""
    reasons = {}
    for index, path in enumerate(paths):
        try:
            mode = os.stat(path).st_mode
        except OSError as error:
            reasons[index] = f"cannot be read: {error.strerror}"
            continue
        if stat.S_ISDIR(mode):
            reasons[index] = "a folder, not a picture"
        elif not stat.S_ISREG(mode):
            reasons[index] = "not a regular file"
    return reasons


def _decode_all(source: ImageSource, indices: np.ndarray) -> Iterator[tuple[int, str]]:
    """Yield (index, what is wrong with the header), without those that fail to decode."""
    if not indices.size:
        return

    def check(data: Any, label: Any, index: Any) -> tuple[Any, ...]:
        reason = check_image(data, MAX_PIXELS)
        # Returned because tf.data leaves out an op whose result nobody takes.
        values = tf.cond(
            tf.equal(reason, ""), lambda: tf.size(decode_image(data)), lambda: tf.constant(0)
        )
        return index, reason, values

    checked = source.in_order(indices, check).ignore_errors()
    for index, reason, _ in checked.as_numpy_iterator():
        yield int(index), reason.decode()


def why_unreadable(picture: ImageSource) -> str:
    """Return the reason why the picture of a source of one fails, empty if it no longer does."""
    paths = picture.file_paths()
    if paths is not None:
        try:  # Python says it in fewer words than TensorFlow
            with open(paths[0], "rb"):
                pass
        except OSError as error:
            return f"cannot be read: {error.strerror}"
    try:
        ((data, _, _),) = picture.dataset()
    except tf.errors.OpError as error:
        return f"cannot be read: {why_unread(error)}"
    try:
        decode_image(data)
    except tf.errors.InvalidArgumentError:
        return f"corrupt or truncated {format_name(data).numpy().decode()}"
    return ""
