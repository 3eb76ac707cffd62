"""Pictures that cannot be read while training or judging: named, counted, skipped or fatal.

A scan before the training finds them (`scan.py`), but a disk can fail and a file can change after
it. What fails is dropped together with its label, so that nothing ever sees a wrong one, and the
gap in the numbering tells which picture it was.
"""

import logging
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2.data.scan import BadPicture, BadPicturesError, why_unreadable
from keras_effnetv2.data.sources import ImageSource

MAX_SKIPPED_SHARE = 0.01
"""Of the pictures of an epoch; more than that is a fault of the disk, not of some pictures."""

_MIN_SKIPPED = 10  # of small sets

_logger = logging.getLogger(__name__)


class UnreadablePictures:
    """What becomes of pictures that cannot be read, and which ones there were.

    One object may serve many data sets of one source, as the epochs of a training.

    Attributes:
        found: {position in the source: the picture}, of every epoch so far.
        is_exhausted: whether they were an error.
    """

    def __init__(self, skip: bool = False) -> None:
        """Set up the policy.

        Args:
            skip: False: the first is an error that names it. True: they are left out of their
                epoch, each is named once on the log "keras_effnetv2.data.unreadable", and pictures
                from the start of the epoch take their places, so that an epoch keeps its number of
                batches. More than 1% of the pictures (at least 10) are an error then, too.
        """
        self.skip = skip
        self.found: dict[int, BadPicture] = {}
        self.is_exhausted = False

    def report(self, source: ImageSource, indices: np.ndarray, certain: bool) -> None:
        """Note pictures that failed; raise BadPicturesError if they are not, or no longer, skipped.

        Args:
            source: where they are from.
            indices: positions in it of pictures that have not come through.
            certain: False: some of them may not have been tried; those that can be read are noted
                only if all can.
        """
        new = [index for index in indices.tolist() if index not in self.found]
        reasons = {index: why_unreadable(source.subset([index])) for index in new}
        for index, reason in reasons.items():
            if reason or certain or not any(reasons.values()):
                reason = reason or "could not be read for a moment"
                self.found[index] = bad = BadPicture(index, source.names[index], reason)
                if self.skip:
                    _logger.warning("left out while training: %r: %s", bad.name, bad.reason)
        limit = max(_MIN_SKIPPED, int(source.num_examples * MAX_SKIPPED_SHARE))
        if not self.skip or len(self.found) > min(limit, source.num_examples - 1):
            self.is_exhausted = True
            raise BadPicturesError(tuple(self.found.values()))


def batch_readable(
    pictures: tf.data.Dataset,
    source: ImageSource,
    order: np.ndarray,
    batch_size: int,
    policy: UnreadablePictures,
    *,
    training: bool,
) -> tf.data.Dataset:
    """Batch the pictures that can be read.

    Args:
        pictures: (image, label), in the order of `order`; those that cannot be read fail.
        source: where they are from.
        order: positions in the source, (N,) int64.
        batch_size: pictures a batch.
        policy: what becomes of those that fail.
        training: full batches only; else all pictures, none of which may be skipped.

    Returns:
        Dataset of batches (images, labels); with `training` of static size.

    Raises:
        tf.errors.InvalidArgumentError: while it is iterated: what `policy` says, in its message.
    """
    count = len(order)
    passes = 1
    if training and policy.skip:
        passes = 2  # the second for the places of those that failed
        pictures = pictures.repeat(passes)
    # An error takes its number with it.
    batches = pictures.enumerate().ignore_errors().batch(batch_size, drop_remainder=training)
    batches = batches.concatenate(
        _end_mark(batches.element_spec, count * passes, batch_size if training else 1)
    )
    number = count // batch_size if training else -(-count // batch_size)
    if training:
        batches = batches.take(number)  # the mark comes up if there are fewer

    def report(first: np.ndarray, numbers: np.ndarray) -> np.int64:
        end = np.int64(numbers[-1] + 1)
        missing = np.setdiff1d(np.arange(int(first), int(end)), numbers)
        # Good pictures may be missing before the mark, too: those that did not fill a batch.
        certain = not training or numbers[0] < count * passes
        policy.report(source, order[missing % count], certain)
        return end

    def check(first: Any, batch: tuple[Any, Any]) -> tuple[Any, Any]:
        numbers, examples = batch
        end = numbers[-1] + 1
        end = tf.cond(
            tf.equal(end - first, tf.size(numbers, out_type=tf.int64)),
            lambda: end,
            lambda: tf.ensure_shape(tf.numpy_function(report, [first, numbers], tf.int64), []),
        )
        return end, (numbers[0] < count * passes, examples)

    checked = batches.scan(tf.constant(0, tf.int64), check).filter(lambda is_batch, _: is_batch)
    only_examples = checked.map(lambda _, examples: examples)
    return only_examples.apply(tf.data.experimental.assert_cardinality(number))


def _end_mark(batch_spec: Any, number: int, batch_size: int) -> tf.data.Dataset:
    """Return a batch with a number after the last: what is missing before it has failed."""
    _, examples_spec = batch_spec
    blanks = tf.nest.map_structure(
        lambda spec: tf.zeros([batch_size, *spec.shape[1:]], spec.dtype), examples_spec
    )
    return tf.data.Dataset.from_tensors((tf.fill([batch_size], np.int64(number)), blanks))
