"""Pictures of a training, to show in its report and in its preview."""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from keras_effnetv2.data.catalog import CLASS_DIVIDER
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.recipes.stages import TrainStage
from keras_effnetv2.report.style import spread

MAX_STAGES = 8  # shown on a page; of more stages, some from all over the training
_BATCH = 32
NO_CLASS = "no class"  # of a picture that may have several, or none
_SHARE_NAMED = 0.005  # a smaller part of a mixed label would be rounded to nothing


class Sample(NamedTuple):
    """A training picture as the network saw it."""

    position: int  # in the order of the epoch
    image: npt.NDArray[np.uint8]  # (S, S, 3)
    caption: str  # its label in words: "cat", or "0.70 cat + 0.30 dog" if mixed


def stage_title(stage: TrainStage) -> str:
    """Return a line about how a stage treats its pictures; stages count from 1."""
    magnitude = stage.randaugment_magnitude
    return (
        f"Stage {stage.index + 1}: {stage.image_size} px, "
        f"RandAugment {'off' if magnitude is None else f'{magnitude:.3g}'}, "
        f"mixup {stage.mixup_alpha:.3g}, cutmix {stage.cutmix_alpha:.3g}"
    )


def training_pictures(
    stage: TrainStage,
    stage_dataset: Callable[[TrainStage, int], Any],
    class_names: Sequence[str],
    count: int,
) -> list[Sample]:
    """Return training pictures of a stage from its first batch, or several if it is small.

    They come from all parts of the batch, because MixUp and CutMix each take one half.

    Args:
        stage: the stage; the pictures come from its first epoch.
        stage_dataset: returns the training batches of a stage and epoch, as in `fit`. The pipeline
            repeats exactly, so the network is trained on these same pictures.
        class_names: names of the labels.
        count: number of pictures, if there are enough.
    """
    batches = stage_dataset(stage, stage.start_epoch).take(math.ceil(count / stage.batch_size))
    columns = zip(*batches.as_numpy_iterator(), strict=True)  # perhaps with weights
    pictures, labels, *_ = map(np.concatenate, columns)
    return [
        Sample(position, _whole_numbers(pictures[position]), _words(labels[position], class_names))
        for position in spread(len(labels), count)
    ]


def _words(label: npt.NDArray[np.float32], class_names: Sequence[str]) -> str:
    """A label in words, the largest share first; shares below 0.5 % are left out."""
    order = [i for i in np.argsort(-label, kind="stable") if label[i] > _SHARE_NAMED]
    if all(label[i] > 1 - _SHARE_NAMED for i in order):
        return CLASS_DIVIDER.join(class_names[i] for i in order) or NO_CLASS
    return " + ".join(f"{label[i]:.2f} {class_names[i]}" for i in order)


def evaluation_pictures(
    source: ImageSource, indices: Sequence[int] | npt.NDArray[np.int64], image_size: int, style: str
) -> npt.NDArray[np.uint8]:
    """Return pictures as evaluation sees them.

    Args:
        source: the source of the pictures.
        indices: their N positions in it, at least one.
        image_size: side, pixels.
        style: how evaluation crops and resizes, a name of `images.styles.EVALUATION_STYLES`.

    Returns:
        uint8 (N, image_size, image_size, 3), in the order of `indices`.
    """
    chosen = source.subset(indices)
    batches = make_dataset(
        chosen, image_size=image_size, batch_size=_BATCH, training=False, style=style
    )
    return np.concatenate([_whole_numbers(one) for one, _ in batches.as_numpy_iterator()])


def _whole_numbers(pictures: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    return np.clip(np.rint(pictures), 0, 255).astype(np.uint8)
