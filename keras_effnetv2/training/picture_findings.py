"""What a look at some training pictures says: how they are shown, and whether there is anything."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.text import counted
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.headers import MAX_PIXELS, check_image, format_index
from keras_effnetv2.images.orientation import orientation

_SAMPLE = 32
_FLAT = 2  # grey levels that a JPEG may add to one colour
_BLACK = 16  # the brightest value of 12 bits in samples of 16

_FINDINGS = (
    "warning: {} of one colour only, so there is nothing to learn from: are the files right?",
    "warning: {} almost black, with nothing brighter than 16 of 255. Values of 10 or 12 bits in "
    "samples of 16 look so: stretch them to the whole range.",
    "note: {} turned as the EXIF orientation in the file says, as viewers do.",
    "note: {} partly transparent, which becomes white.",
)


def picture_findings(source: ImageSource) -> Iterator[str]:
    """Yield what is to be said of 32 pictures from all over a source."""
    chosen = np.unique(np.linspace(0, source.num_examples - 1, _SAMPLE).round().astype(np.int64))

    def look(data: Any, label: Any, index: Any) -> Any:
        nothing = tf.zeros([len(_FINDINGS)], tf.bool)
        return tf.cond(
            tf.equal(check_image(data, MAX_PIXELS), ""), lambda: _seen(data), lambda: nothing
        )

    looks = list(source.in_order(chosen, look).ignore_errors().as_numpy_iterator())
    counts = np.reshape(looks, [-1, len(_FINDINGS)]).sum(axis=0, dtype=int).tolist()
    for text, count in zip(_FINDINGS, counts, strict=True):
        if count:
            are = "is" if count == 1 else "are"
            sampled = counted(len(looks), "sampled training picture")
            yield text.format(f"{count} of {sampled} {are}") + " Look at them with --preview."


def _seen(data: Any) -> Any:
    """Return which of _FINDINGS hold of a picture file, bool."""
    image, on_black = decode_image(data), decode_image(data, background=0)
    low, high = (
        tf.cast(reduce(image, axis=[0, 1]), tf.int32) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    is_flat = tf.reduce_max(high - low) <= _FLAT
    is_black = ~is_flat & (tf.reduce_max(high) <= _BLACK)
    is_turned = orientation(data, format_index(data)) > 1
    return tf.stack([is_flat, is_black, is_turned, tf.reduce_any(image != on_black)])
