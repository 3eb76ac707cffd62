"""The preview of a training: one page with the exact pictures and labels that it would use.

It answers questions before hours are spent: are the labels right, is a crop too tight, is the
augmentation of a late stage too strong, what do MixUp and CutMix do to a picture.
"""

import os
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import partial
from itertools import repeat
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.files import write_text
from keras_effnetv2._common.progress import working
from keras_effnetv2._common.text import say
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.images.training_crop import crop_area
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import TrainStage
from keras_effnetv2.report.run_report import describe_balance, describe_classes
from keras_effnetv2.report.samples import (
    MAX_STAGES,
    Sample,
    evaluation_pictures,
    stage_title,
    training_pictures,
)
from keras_effnetv2.report.style import SMALL_EDGE, render, spread
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.run_state import PREVIEW
from keras_effnetv2.training.inputs import Inputs, load_inputs
from keras_effnetv2.training.preflight import check_arguments, check_model
from keras_effnetv2.training.start import settle_start

MAX_PICTURES = 24  # of one stage
MIN_PICTURES = 4
# Of all training pictures on the page together; as many again are shown unaugmented. Photographs
# take half a byte a pixel in the page (ImageNet's: 4.1 MB for 7.8 million), so 4.5 MB in all.
MAX_PIXELS = 4_400_000
_COLUMN = 128  # pixels: a narrower picture is enlarged, or leaves room for its caption


@working("preparing the preview")
def write_preview(
    model_or_variant: keras.Model | ModelConfig | str,
    data: TrainingData,
    recipe: TrainRecipe | None = None,
    output: str | os.PathLike[str] = "runs/latest",
    *,
    weights: str | None = "auto",
    echo: Callable[[str], Any] = say,
) -> Path:
    """Write a page with the pictures that `train` with these arguments would use; train nothing.

    The pictures are read, checked, divided, cropped, augmented and mixed by the training code, with
    its seeds. Those of a stage come from its first epoch. Above each picture is the same one as
    evaluation sees it. A variant is not built, so its weights are not read.

    Args:
        model_or_variant: a Keras classifier, the fields of a network, or the name of a variant.
        data: the pictures.
        recipe: that of `train`.
        output: the run folder of `train`. An existing run in it is left as it is.
        weights: those of `train`.
        echo: called with each line of the progress.

    Returns:
        The page, `output/preview.html`, a single file. It has at most `MAX_STAGES` stages of
        `MAX_PICTURES` pictures, fewer if they are large.

    Raises:
        BadPicturesError: pictures that cannot be read; the message lists them.
        BlockingIOError: a process trains in `output`.
        FileExistsError: `output` exists and is not the folder of a run.
        OSError: `output` cannot be written, or its disk is full.
        ValueError: an argument, the data or the model does not fit.
    """
    check_arguments(model_or_variant, recipe, {}, weights)
    folder = Path(output)
    # As with `overwrite`: the page may stand beside a run, but not where `train` could not write.
    with run_folder.hold_output(folder, resume=False, overwrite=True, say=echo):
        data = replace(data, cache=None)  # few pictures are read again
        start = settle_start(model_or_variant, weights, recipe, None, echo)
        inputs = load_inputs(
            model_or_variant, data, start.recipe, say=echo, is_pretrained=start.is_pretrained
        )
        if isinstance(model_or_variant, keras.Model):
            check_model(model_or_variant, inputs)
        inputs = inputs.prepared(echo)
        echo(f"\n{inputs.plan}\n")
        page = render_preview(inputs)
        run_folder.prepare_output(folder, keep=True, needed_bytes=len(page))
        path = folder / PREVIEW
        write_text(path, page)
    return path


class PreviewPicture(NamedTuple):
    """A training picture and, uint8 (S, S, 3), the same one as evaluation sees it.

    A probe trains with the pictures of evaluation, so there is no other one: None.
    """

    name: str
    original: npt.NDArray[np.uint8] | None
    sample: Sample


def render_preview(inputs: Inputs) -> str:
    """Return the page about what a training would read. Equal inputs give equal pages."""
    pictures = preview_pictures(inputs)
    return render(
        "preview.html",
        title=f"Preview of a training on {inputs.training.spec}",
        links=[(f"stage-{stage.index + 1}", f"Stage {stage.index + 1}") for stage in pictures],
        summary=_summary(inputs),
        is_probe=inputs.is_probe,
        plan=inputs.plan,
        pictures=pictures,
        stage_title=stage_title,
        side=_shown_side,
        column=_COLUMN,
    )


def preview_pictures(inputs: Inputs) -> dict[TrainStage, list[PreviewPicture]]:
    """Return the pictures on the page, equally many of each stage, in order of its first epoch."""
    stages = [inputs.plan[index] for index in spread(len(inputs.plan), MAX_STAGES)]
    area = sum(stage.image_size**2 for stage in stages)
    count = min(MAX_PICTURES, max(MIN_PICTURES, MAX_PIXELS // area))
    return {stage: _pictures_of(inputs, stage, count) for stage in stages}


def _pictures_of(inputs: Inputs, stage: TrainStage, count: int) -> list[PreviewPicture]:
    source = inputs.training
    unreadable = UnreadablePictures(inputs.data.skip_bad)
    batches = partial(inputs.stage_dataset, unreadable=unreadable)
    samples = training_pictures(stage, batches, source.class_names, count)
    order = inputs.epoch_order(stage.start_epoch)
    delivered = order[~np.isin(order, list(unreadable.found))]
    # The first stand in for those that were left out.
    indices = [delivered[sample.position % len(delivered)] for sample in samples]
    names = [source.names[index] for index in indices]
    originals: Iterable[npt.NDArray[np.uint8] | None] = repeat(None, len(names))
    if not inputs.is_probe:
        style = inputs.recipe.evaluation_style
        originals = evaluation_pictures(source, indices, stage.image_size, style)
    return list(map(PreviewPicture, names, originals, samples))


def _shown_side(size: int) -> int:
    """Side of a picture on the page, CSS pixels: whole pixels of a small one stay sharp."""
    return size * -(-_COLUMN // size) if size < SMALL_EDGE else size


def _summary(inputs: Inputs) -> tuple[tuple[str, str], ...]:
    recipe, training = inputs.recipe, inputs.training
    held_back = inputs.validation.num_examples
    flips = training.horizontal_flip if recipe.horizontal_flip is None else recipe.horizontal_flip
    smallest, largest = crop_area(recipe.crop_style, recipe.crop_area)
    augmentation = [("AutoAugment", "policy v0")] if recipe.autoaugment else []
    if any(stage.randaugment_magnitude is not None for stage in inputs.plan):
        is_scaled = inputs.input_spec(inputs.plan[0]).reference_size is not None
        scaled = ", shifts and cut-outs scaled with the size" if is_scaled else ""
        augmentation = [("RandAugment", f"{recipe.randaugment_layers} operations{scaled}")]
    crops = (
        ("random crop", f"of {smallest:.0%} to {largest:.0%} of a picture"),
        ("mirrored", "half of the pictures" if flips else "none"),
    )
    return (
        ("data", training.spec),
        ("classes", describe_classes(training.class_names)),
        ("pictures", f"{training.num_examples:,} for training, {held_back:,} for validation"),
        ("recipe", f"{recipe.name}, seed {recipe.seed}{describe_balance(recipe)}"),
        *(() if inputs.is_probe else crops),
        *augmentation,
        ("label smoothing", f"{recipe.label_smoothing:g}, not in the labels below"),
        ("evaluation", f"{inputs.evaluation_size} px, style {recipe.evaluation_style}"),
    )
