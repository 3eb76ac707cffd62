"""What a run says of itself: its plan, its result, and the content of the report.

`report.py` draws the report.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.recipes.stages import StagePlan, TrainStage
from keras_effnetv2.report.run_page import (
    MAX_MISTAKES,
    MAX_SAMPLES,
    Mistake,
    Report,
    Sample,
    StageSamples,
    confusion_matrix,
)
from keras_effnetv2.report.samples import (
    evaluation_pictures,
    label_parts,
    stage_title,
    training_pictures,
)
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.run_settings import RunSettings


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
        stages=plan.table(),
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
    _, pictures, labels = training_pictures(stage, stage_dataset, MAX_SAMPLES)
    return StageSamples(
        stage_title(stage),
        tuple(
            Sample(picture, _caption(label, names))
            for picture, label in zip(pictures, labels, strict=True)
        ),
    )


def _caption(label: np.ndarray, names: Sequence[str]) -> str:
    """ "cat", or "0.7 cat + 0.3 dog" of a mixed label."""
    parts = label_parts(label, names)
    if len(parts) == 1:
        return parts[0][0]
    return " + ".join(f"{weight:.2g} {name}" for name, weight in parts)


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
    pictures = evaluation_pictures(validation, shown, image_size, style)
    names = validation.class_names
    return tuple(
        Mistake(
            image=picture,
            name=validation.names[index],
            truth=names[evaluation.labels[index]],
            prediction=names[predictions[index]],
            score=float(scores[index]),
        )
        for index, picture in zip(shown, pictures, strict=True)
    )


# --- text ---------------------------------------------------------------------------------------


def describe_plan(
    settings: RunSettings,
    parameters: int,
    folder: Path,
) -> str:
    """What is about to happen, as a table."""
    names, recipe = settings.class_names, settings.recipe
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    training, validation = settings.training, settings.validation
    schedule = recipe.learning_rate_schedule(1.0)
    rows = (
        ("model", f"{settings.model}, {parameters:,} parameters"),
        ("data", training.spec),
        ("classes", f"{len(names):,}: {shown}"),
        (
            "pictures",
            f"{training.pictures:,} for training, {validation.pictures:,} for validation",
        ),
        (
            "optimizer",
            f"{recipe.optimizer}, learning rate {schedule.base_learning_rate:.3g} "
            f"{recipe.schedule} after {schedule.warmup_epochs:g} epochs of warm-up, "
            f"weight decay {recipe.weight_decay:g}"
            + (f", weights averaged with {recipe.ema_decay:g}" if recipe.ema_decay else ""),
        ),
        ("loss", f"{recipe.loss} cross entropy, label smoothing {recipe.label_smoothing:g}"),
        ("seed", f"{recipe.seed}"),
        ("output", f"{folder}"),
    )
    return f"{_table(rows)}\n\n{StagePlan(settings.stages)}\n"


def summary_rows(
    settings: RunSettings,
    history: dict[str, list[float]],
    evaluation: Evaluation,
    parameters: int,
) -> tuple[tuple[str, str], ...]:
    """(label, value) pairs for the head of the report."""
    recipe, versions = settings.recipe, settings.versions
    return (
        *_result_rows(settings, history, evaluation),
        ("model", f"{settings.model}, {parameters:,} parameters, {settings.image_size} px"),
        ("recipe", f"{recipe.name}, seed {recipe.seed}"),
        (
            "versions",
            f"keras_effnetv2 {versions['keras_effnetv2']}, Keras {versions['keras']} on "
            f"{versions['backend']}, TensorFlow {versions['tensorflow']}",
        ),
    )


def describe_result(
    settings: RunSettings,
    history: dict[str, list[float]],
    evaluation: Evaluation,
    folder: Path,
) -> str:
    """What came out, as a table."""
    on_tensorflow = settings.versions["backend"] == "tensorflow"
    export = f"KERAS_BACKEND=tensorflow keras-effnetv2 export {folder}"
    rows = (
        *_result_rows(settings, history, evaluation),
        ("model", f"{folder / run_folder.MODEL}"),
        ("report", f"{folder / run_folder.REPORT}"),
        ("for serving", f"{folder / run_folder.SAVED_MODEL}" if on_tensorflow else export),
    )
    return f"\n{_table(rows)}"


def _result_rows(
    settings: RunSettings, history: dict[str, list[float]], evaluation: Evaluation
) -> tuple[tuple[str, str], ...]:
    seconds = sum(history["seconds"])  # also of the epochs before the run was resumed
    pictures = (settings.training.pictures, settings.validation.pictures)
    return (
        ("validation accuracy", f"{evaluation.accuracy:.2%}"),
        ("validation loss", f"{evaluation.loss:.4f}"),
        ("pictures", f"{pictures[0]:,} + {pictures[1]:,}"),
        ("training time", f"{seconds:,.0f} s for {len(history['seconds'])} epochs"),
    )


def _table(rows: Sequence[tuple[str, str]]) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
