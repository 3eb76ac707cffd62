"""Finding the pictures that cannot be used, before hours of training run into one.

Runs the very functions that training and serving decode with, so that a picture that passes here
cannot fail later.
"""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

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
    source: ImageSource,
    *,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int, int], None] | None = None,
) -> tuple[BadPicture, ...]:
    """Read and decodes every picture of a source.

    Args:
        source: the pictures.
        max_pixels: pictures with more pixels (height x width) are bad; they are not decoded.
        progress: called with (pictures done, pictures in all) after every good picture, and at
            the end.

    Returns:
        The bad pictures in the order of the source, empty if all is well.
    """
    total = source.num_examples
    paths = source.file_paths()
    reasons = {} if paths is None else _not_files(paths)
    files = np.setdiff1d(np.arange(total), list(reasons), assume_unique=True)
    failed = np.zeros(total, dtype=bool)
    failed[files] = True
    # In the order in which a disk gives them quickly; of files it is that of the source.
    files = files[np.argsort(source.rows[files], kind="stable")]
    for done, (index, reason) in enumerate(_decode_all(source, files, max_pixels), start=1):
        failed[index] = False
        if reason:
            reasons[index] = reason
        if progress is not None:
            progress(done, total)
    for index in np.flatnonzero(failed).tolist():
        reason = why_unreadable(source.subset([index]))
        if reason:
            reasons[index] = reason
    if progress is not None:
        progress(total, total)
    return tuple(
        BadPicture(index, source.names[index], reasons[index]) for index in sorted(reasons)
    )


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


def _decode_all(
    source: ImageSource, indices: np.ndarray, max_pixels: int
) -> Iterator[tuple[int, str]]:
    """Yield (index, what is wrong with the header), without those that fail to decode."""
    if not indices.size:
        return

    def check(
        data: tf.Tensor, label: tf.Tensor, position: tf.Tensor
    ) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        reason = check_image(data, max_pixels)
        # Returned because tf.data leaves out an op whose result nobody takes.
        values = tf.cond(
            tf.equal(reason, ""), lambda: tf.size(decode_image(data)), lambda: tf.constant(0)
        )
        return position, reason, values

    checked = source.subset(indices).dataset().map(check, num_parallel_calls=tf.data.AUTOTUNE)
    for position, reason, _ in checked.ignore_errors().as_numpy_iterator():
        yield int(indices[position]), reason.decode()


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
