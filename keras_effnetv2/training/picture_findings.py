"""Warnings and notes about the pictures of a training, each with a way out; see `findings`."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

from keras_effnetv2._common.text import counted, listed, some
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.images.decode import decode_image
from keras_effnetv2.images.headers import MAX_PIXELS, check_image, format_index
from keras_effnetv2.images.orientation import orientation
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.run_state import RECIPE

# The most pictures of a class for one of the rarest from which on a network neglects it: from 10 on
# Buda et al. (A systematic study of the class imbalance problem, arXiv 1710.05381) see a loss.
MAX_IMBALANCE = 10
_LISTED = 10  # pictures that are named
_FLAT = 2  # grey levels that a JPEG may add to one colour
_BLACK = 16  # the brightest value of 12 bits in samples of 16

_IN_SAMPLE = (
    "warning: {} of one colour only, so there is nothing to learn from: are the files right?",
    "warning: {} almost black, with nothing brighter than 16 of 255. 10 or 12 bits stored in "
    "16 look like this: stretch the values to the whole range.",
    "note: {} turned as the EXIF orientation in the file says, as viewers do.",
    "note: {} partly transparent, and white there.",
)


def label_findings(
    training: ImageSource, validation: ImageSource, recipe: TrainRecipe
) -> Iterator[str]:
    """Find classes without pictures on a side, and an uneven balance that nothing is done about."""
    names = training.class_names
    counts, judged = training.class_counts(), validation.class_counts()

    def some_of(which: np.ndarray) -> str:
        return some([names[label] for label in np.flatnonzero(which)])

    if unseen := some_of((counts == 0) & (judged > 0)):
        yield (
            "warning: These classes have validation pictures but none for training, so they cannot "
            f"be learned: {unseen}. Add pictures, or take the classes out."
        )
    if empty := some_of((counts == 0) & (judged == 0)):
        yield (
            f"note: These classes have no pictures: {empty}. The model will never predict them; "
            "take the classes out if they are not wanted."
        )
    if unjudged := some_of((counts > 0) & (judged == 0)):
        yield (
            "note: These classes have no validation pictures, so their accuracy will be unknown: "
            f"{unjudged}. Add some, or hold back a larger share (--validation-fraction, "
            "validation_fraction=)."
        )
    present = np.flatnonzero(counts)
    rarest, commonest = min(present, key=counts.item), max(present, key=counts.item)
    is_weighted = recipe.balanced or recipe.class_weights is not None
    is_uneven = counts[commonest] > MAX_IMBALANCE * counts[rarest]
    # With several classes a picture, each has figures and a threshold of its own.
    if is_uneven and not is_weighted and not training.multi_label:
        yield (
            f"warning: {names[commonest]!r} has {counts[commonest]:,} training pictures, "
            f"{names[rarest]!r} only {counts[rarest]:,}: rare classes will be recognised less "
            "often, and the accuracy says little about them. Weigh all classes the same "
            '(--class-weights balanced, class_weights="balanced"), draw them equally often '
            "(--balanced, balanced=True), or add pictures of the rare classes; and look at the "
            "scores by class."
        )


def picture_findings(source: ImageSource) -> Iterator[str]:
    """Find pictures that show nothing, or look changed, in a sample of a source."""

    def look(data: bytes) -> Any:
        if check_image(data, MAX_PIXELS) != "":
            return np.zeros(len(_IN_SAMPLE), bool)
        try:
            return _seen(data)
        except tf.errors.OpError:  # it is found to be unreadable when it is trained on
            return None

    pictures = source.in_order(source.sample(), lambda data, label, index: data).ignore_errors()
    files = pictures.as_numpy_iterator()
    # The first one alone, or TensorFlow warns that several threads traced the same functions.
    looks = [look(first) for first in itertools.islice(files, 1)]
    with ThreadPoolExecutor() as threads:  # a graph for so few pictures would take longer
        looks = [one for one in (*looks, *threads.map(look, files)) if one is not None]
    counts = np.reshape(looks, [-1, len(_IN_SAMPLE)]).sum(axis=0, dtype=int).tolist()
    for text, count in zip(_IN_SAMPLE, counts, strict=True):
        if count:
            are = "is" if count == 1 else "are"
            sampled = counted(len(looks), "sampled training picture")
            yield text.format(f"{count} of {sampled} {are}") + " Look at them with --preview."


def _seen(data: Any) -> Any:
    """Return which of `_IN_SAMPLE` are true of a picture file, bool."""
    image, on_black = decode_image(data), decode_image(data, background=0)
    low, high = (
        tf.cast(reduce(image, axis=[0, 1]), tf.int32) for reduce in (tf.reduce_min, tf.reduce_max)
    )
    is_flat = tf.reduce_max(high - low) <= _FLAT
    is_black = ~is_flat & (tf.reduce_max(high) <= _BLACK)
    is_turned = orientation(data, format_index(data)) > 1
    return tf.stack([is_flat, is_black, is_turned, tf.reduce_any(image != on_black)])


def same_picture_findings(training: ImageSource, validation: ImageSource) -> Iterator[str]:
    """Find equal pictures, byte by byte, with two labels or on both sides."""
    sources = (training, validation)
    contents = np.concatenate([source.contents for source in sources])
    labels = [*training.label_texts, *validation.label_texts]
    names = [*training.names, *validation.names]
    _, which, counts = np.unique(contents, return_inverse=True, return_counts=True)
    repeated = np.flatnonzero((counts[which] > 1) & (contents > 0))
    repeated = repeated[np.argsort(which[repeated], kind="stable")]
    groups = np.split(repeated, np.flatnonzero(np.diff(which[repeated])) + 1)
    same = sorted((group for group in groups if group.size), key=lambda group: int(group[0]))

    def lines(found: Sequence[np.ndarray], describe: Callable[[int], str]) -> str:
        groups = [some(list(map(describe, group.tolist()))) for group in found]
        return listed(groups, _LISTED, "\n  ")

    conflicts = [group for group in same if len({labels[n] for n in group.tolist()}) > 1]
    if conflicts:
        described = lines(conflicts, lambda n: f"{names[n]} ({labels[n] or 'no class'})")
        yield (
            f"warning: {counted(len(conflicts), 'picture')} with the same content and different "
            f"labels. Give each its right label:\n  {described}"
        )
    trained = training.num_examples
    shared = [group for group in same if group[0] < trained <= group[-1]]
    judged = sum(int((group >= trained).sum()) for group in shared)
    if judged:
        level = "warning" if judged > validation.num_examples / 100 else "note"
        yield (
            f"{level}: Validation has {judged:,} of its {validation.num_examples:,} pictures in "
            "common with training, so its accuracy will be too high. Remove them from one of the "
            f"two:\n  {lines(shared, names.__getitem__)}"
        )


def earlier_run_findings(
    weights: str | None, training: ImageSource, validation: ImageSource
) -> Iterator[str]:
    """Find validation pictures that an earlier run, whose weights are loaded, was trained on."""
    path = Path(weights or "")
    folder = path.parent.parent if path.parent.name == run_folder.BACKUP else path.parent
    if not path.is_file() or not (folder / RECIPE).is_file():
        return
    try:
        record = run_folder.read_pictures(folder, run_folder.read_settings(folder))
    except (OSError, ValueError):  # the earlier run is damaged, not this one
        return
    shared = np.isin(validation.contents, training.contents)  # told by `same_picture_findings`
    if seen := int((record.trained_on(validation) & ~shared).sum()):
        yield (
            f"warning: {weights} was trained on {seen:,} of the validation pictures, so the "
            "accuracy will be too high. Divide the pictures as that run did (--seed, "
            "--validation-fraction, seed= of the recipe, validation_fraction=), or use others."
        )
