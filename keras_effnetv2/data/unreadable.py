"""Pictures that cannot be used: found by a scan before the training, or while it reads them.

The scan runs the same functions as training and serving, so a picture that passes cannot fail
later. But a disk can fail and a file can change afterwards: a picture that fails then is dropped
together with its label, so labels are never wrong, and the gap in the numbers tells which picture
it was.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.text import counted, listed, some
from keras_effnetv2.data.catalog import why_unread
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.headers import FORMATS, MAX_PIXELS, check_image, format_name
from keras_effnetv2.images.picture_file import picture_file_trouble

MAX_SKIPPED_SHARE = 0.01
"""Share of the pictures of an epoch; more is a fault of the disk, not of some pictures."""

_MIN_SKIPPED = 10  # of small sets
_LISTED = 20

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class BadPicture:
    """A picture that cannot be used."""

    index: int  # its position in the source that was read
    name: str  # its name there; the path, where there are files
    reason: str  # what is wrong, in words


class BadPicturesError(ValueError):
    """Some pictures cannot be used; the message lists them and the way out."""

    def __init__(self, bad: Sequence[BadPicture], *, may_skip: bool = True):
        self.bad = tuple(bad)
        lines = [f"{picture.name!r}: {picture.reason}" for picture in self.bad]
        super().__init__(
            f"{counted(len(self.bad), 'picture')} cannot be used:\n  "
            + listed(lines, _LISTED, "\n  ")
            + "\nRepair or remove them"
            + (", or leave them out (--skip-bad, skip_bad=True)." if may_skip else ".")
        )


def find_bad_pictures(
    source: ImageSource,
    *,
    decode: bool = True,
    progress: Callable[[int, int], object] | None = None,
) -> tuple[BadPicture, ...]:
    """Read and decode every picture of a source; return the bad ones in its order.

    What is no file, or too large a one, is not opened; without `decode` nothing is. Pictures with
    more than `MAX_PIXELS` are bad, too, and are not decoded. `progress` is called with (pictures
    done, pictures in all) after every good picture, and at the end.
    """
    tell = progress or (lambda done, total: None)
    total, paths = source.num_examples, source.file_paths() or ()
    reasons = {i: why for i, path in enumerate(paths) if (why := picture_file_trouble(path))}
    indices = np.setdiff1d(np.arange(total if decode else 0), list(reasons), assume_unique=True)
    # In the order of the disk, which is the quick one; for files it is that of the source.
    indices = indices[np.argsort(source.rows[indices], kind="stable")]
    for done, (index, reason) in enumerate(_decode_all(source, indices), start=1):
        reasons[index] = reason
        tell(done, total)
    for index in set(indices.tolist()).difference(reasons):
        reasons[index] = _why_unreadable(source.subset([index]))
    tell(total, total)
    bad = sorted(index for index, reason in reasons.items() if reason)
    return tuple(BadPicture(index, source.names[index], reasons[index]) for index in bad)


def check_readable(source: ImageSource) -> None:
    """Raise BadPicturesError if a picture of a source, which may not be left out, is bad."""
    if bad := find_bad_pictures(source):
        raise BadPicturesError(bad, may_skip=False)


def drop_bad(source: ImageSource, bad: Sequence[BadPicture]) -> ImageSource:
    """Return the source without the bad pictures that `find_bad_pictures` found in it.

    Raises:
        ValueError: a class would have no pictures left.
    """
    kept = np.setdiff1d(np.arange(source.num_examples), [picture.index for picture in bad])
    left = replace(source, labels=source.labels[kept]).class_counts()
    emptied = np.flatnonzero((left == 0) & (source.class_counts() > 0))
    if emptied.size:
        raise ValueError(
            f"Without its {len(bad)} bad pictures {source.spec!r} ({source.split}) has no pictures "
            f"of {some([source.class_names[label] for label in emptied])}. Repair some of them."
        )
    return source.subset(kept)


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


def _why_unreadable(picture: ImageSource) -> str:
    """Return why the only picture of a source fails, empty if it no longer does."""
    for path in picture.file_paths() or ():
        if trouble := picture_file_trouble(path):
            return trouble
    try:
        ((data, _, _),) = picture.dataset()
    except tf.errors.OpError as error:
        return f"cannot be read: {why_unread(error)}"
    try:
        decode_image(data)
    except tf.errors.InvalidArgumentError:
        if (kind := format_name(data).numpy().decode()) in FORMATS:
            return f"corrupt or truncated {kind}"
        return check_image(data).numpy().decode()
    return ""


class UnreadablePictures:
    """The policy for pictures that cannot be read, and a list of those found.

    One object may serve many data sets of one source, such as the epochs of a training.

    Attributes:
        found: {position in the source: the picture}, of every epoch so far.
        error: what ended the reading, None if nothing has.
    """

    def __init__(self, skip: bool = False) -> None:
        """Set up the policy.

        Args:
            skip: False: the first is an error that names it. True: they are left out of the epoch,
                each is named once in the log "keras_effnetv2.data.unreadable", and pictures from
                the start of the epoch take their places, so an epoch keeps its number of batches.
                More than 1% of the pictures (and at least 10) are still an error.
        """
        self.skip = skip
        self.found: dict[int, BadPicture] = {}
        self.error: BadPicturesError | None = None

    def report(self, source: ImageSource, indices: np.ndarray, certain: bool) -> None:
        """Note pictures that failed; raise BadPicturesError if they may not be skipped (any more).

        Unless `certain`, some of the pictures at `indices` of the source may not have been tried:
        then readable ones are noted only if all are readable.
        """
        new = [index for index in indices.tolist() if index not in self.found]
        reasons = {index: _why_unreadable(source.subset([index])) for index in new}
        for index, reason in reasons.items():
            if reason or certain or not any(reasons.values()):
                reason = reason or "could not be read for a moment"
                self.found[index] = bad = BadPicture(index, source.names[index], reason)
                if self.skip:
                    _logger.warning("left out while training: %r: %s", bad.name, bad.reason)
        limit = max(_MIN_SKIPPED, int(source.num_examples * MAX_SKIPPED_SHARE))
        if not self.skip or len(self.found) > min(limit, source.num_examples - 1):
            self.error = BadPicturesError(tuple(self.found.values()))
            raise self.error


def batch_readable(
    pictures: tf.data.Dataset,
    source: ImageSource,
    order: Any,
    count: int,
    batch_size: int,
    policy: UnreadablePictures,
    *,
    training: bool,
) -> tf.data.Dataset:
    """Batch the pictures that can be read.

    Args:
        pictures: (image, label) of the source in an `order`; unreadable ones fail.
        source: whose pictures they are, to name those that fail.
        order: (count,) int64, see `ImageSource.order`.
        count: how many pictures there are.
        batch_size: pictures per batch.
        policy: decides about those that fail; iterating the result raises its errors as
            tf.errors.InvalidArgumentError, and then ends.
        training: True for full batches only, of static size; False for all pictures, none of
            which may be skipped.
    """
    passes = 1
    if training and policy.skip:
        passes = 2  # the second for the places of those that failed
        pictures = pictures.repeat(passes)
    # An error takes its number with it.
    batches = pictures.enumerate().ignore_errors().batch(batch_size, drop_remainder=training)
    # A batch with a number after the last: what is missing before it has failed.
    mark = tf.nest.map_structure(
        lambda spec: tf.fill(
            [batch_size if training else 1, *spec.shape[1:]], tf.cast(count * passes, spec.dtype)
        ),
        batches.element_spec,
    )
    batches = batches.concatenate(tf.data.Dataset.from_tensors(mark))
    number = count // batch_size if training else -(-count // batch_size)
    if training:
        batches = batches.take(number)  # the mark comes up if there are fewer

    def report(first: np.ndarray, numbers: np.ndarray, order: np.ndarray) -> tuple[np.int64, bytes]:
        end = np.int64(numbers[-1] + 1)
        missing = np.setdiff1d(np.arange(int(first), int(end)), numbers)
        # Good pictures may be missing before the mark, too: those that did not fill a batch.
        certain = not training or numbers[0] < count * passes
        try:
            policy.report(source, order[missing % count] % source.num_examples, certain)
        except BadPicturesError as error:
            return end, str(error).encode("utf-8", "backslashreplace")
        return end, b""

    def check(state: tuple[Any, Any], batch: tuple[Any, Any]) -> tuple[Any, Any]:
        first, earlier = state
        numbers, examples = batch
        end = numbers[-1] + 1
        is_whole = tf.equal(end - first, tf.size(numbers, out_type=tf.int64))
        end, error = tf.cond(
            tf.logical_or(is_whole, tf.not_equal(earlier, "")),
            lambda: [end, tf.constant("")],
            lambda: tf.numpy_function(report, [first, numbers, order], [tf.int64, tf.string]),
        )
        end, error = tf.ensure_shape(end, []), tf.ensure_shape(error, [])
        return (end, error), (earlier, error, numbers[0] < count * passes, examples)

    def is_batch(earlier: Any, error: Any, unmarked: Any, examples: Any) -> Any:
        with tf.control_dependencies([tf.debugging.Assert(tf.equal(error, ""), [error])]):
            return tf.identity(unmarked)

    checked = batches.scan((tf.constant(0, tf.int64), tf.constant("")), check)
    # It ends after the error. A thread that reads on may be in Python when the process ends, which
    # then aborts or waits for ever.
    read = checked.take_while(lambda earlier, *_: tf.equal(earlier, "")).filter(is_batch)
    only_examples = read.map(lambda *values: values[-1])
    return only_examples.apply(tf.data.experimental.assert_cardinality(number))
