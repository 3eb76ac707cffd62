"""Gathers what the report of a training run shows; `report.py` draws it."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.evaluation import Evaluation
from keras_effnetv2.report import (
    MAX_MISTAKES,
    MAX_SAMPLES,
    Mistake,
    Report,
    Sample,
    StageSamples,
    confusion_matrix,
)
from keras_effnetv2.training.stages import StagePlan, TrainStage

_SHARE_SHOWN = 0.005  # a smaller part of a mixed label is not named


def gather_report(
    *,
    title: str,
    summary: Sequence[tuple[str, str]],
    plan: StagePlan,
    history: dict[str, list[float]],
    validation: ImageSource,
    evaluation: Evaluation,
    style: str,
    stage_dataset: Callable[[TrainStage, int], Any],
) -> Report:
    """The report of a run.

    Args:
        title: headline.
        summary: (label, value) pairs.
        plan: the stages.
        history: as in `history.csv`, epochs counted from 1.
        validation: the pictures that `evaluation` was made on.
        evaluation: the final scores.
        style: how evaluation crops and resizes.
        stage_dataset: the training batches of a stage and epoch, as `fit` got them.
    """
    names = validation.class_names
    return Report(
        title=title,
        summary=tuple(summary),
        stages=tuple(tuple(line.split()) for line in str(plan).splitlines()),
        history=history,
        stage_starts=tuple(stage.start_epoch + 1 for stage in plan),
        class_names=names,
        confusion=confusion_matrix(evaluation.labels, evaluation.predictions, len(names)),
        stage_samples=tuple(_samples(stage, stage_dataset, names) for stage in plan),
        mistakes=_mistakes(validation, evaluation, plan[-1].image_size, style),
    )


def _samples(
    stage: TrainStage, stage_dataset: Callable[[TrainStage, int], Any], names: Sequence[str]
) -> StageSamples:
    """The first pictures of a stage: the pipeline repeats itself, so it trained on these."""
    pictures, labels = next(stage_dataset(stage, stage.start_epoch).as_numpy_iterator())
    magnitude = stage.randaugment_magnitude
    title = (
        f"Stage {stage.index + 1}: {stage.image_size} px, "
        f"RandAugment {'off' if magnitude is None else f'{magnitude:.3g}'}, "
        f"mixup {stage.mixup_alpha:.3g}"
    )
    return StageSamples(
        title,
        tuple(
            Sample(_uint8(picture), _caption(label, names))
            for picture, label in zip(pictures[:MAX_SAMPLES], labels, strict=False)
        ),
    )


def _caption(label: np.ndarray, names: Sequence[str]) -> str:
    """ "cat", or "0.7 cat + 0.3 dog" of a mixed label."""
    order = [index for index in np.argsort(-label) if label[index] > _SHARE_SHOWN]
    if len(order) == 1:
        return names[order[0]]
    return " + ".join(f"{label[index]:.2g} {names[index]}" for index in order)


def _mistakes(
    validation: ImageSource, evaluation: Evaluation, image_size: int, style: str
) -> tuple[Mistake, ...]:
    predictions = evaluation.predictions
    scores = evaluation.scores[np.arange(len(predictions)), predictions]
    wrong = np.flatnonzero(predictions != evaluation.labels)
    worst = wrong[np.argsort(-scores[wrong], kind="stable")]
    shown = worst[:MAX_MISTAKES]
    if not len(shown):
        return ()
    batches = make_dataset(
        validation.subset(shown),
        image_size=image_size,
        batch_size=len(shown),
        training=False,
        style=style,
    )
    pictures, _ = next(batches.as_numpy_iterator())
    names = validation.class_names
    return tuple(
        Mistake(
            image=_uint8(picture),
            name=validation.names[index],
            truth=names[evaluation.labels[index]],
            prediction=names[predictions[index]],
            score=float(scores[index]),
        )
        for index, picture in zip(shown, pictures, strict=True)
    )


def _uint8(picture: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)
