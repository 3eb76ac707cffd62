"""What a run tells people: the content of its report, its plan, and its result.

`run_page.py` turns the content into a page.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.progress import progress_bar
from keras_effnetv2._common.text import aligned, counted, listed
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.evaluation.calibration import ENOUGH_PICTURES, Confidence
from keras_effnetv2.evaluation.class_scores import ENOUGH_OF_CLASS
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import StagePlan, TrainStage
from keras_effnetv2.report.nearest import MAX_COMPARED, Neighbour, nearest_pictures
from keras_effnetv2.report.samples import (
    MAX_STAGES,
    NO_CLASS,
    Sample,
    evaluation_pictures,
    stage_title,
    training_pictures,
)
from keras_effnetv2.report.style import spread
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.history import best_epoch
from keras_effnetv2.runs.run_settings import RunSettings

MAX_SAMPLES = 12  # pictures of one stage
MAX_MISTAKES = 24


class Mistake(NamedTuple):
    """A picture that got a wrong class."""

    image: npt.NDArray[np.uint8]  # (H, W, 3)
    name: str
    truth: str
    prediction: str
    score: float  # of the prediction, 0..1
    nearest: Sequence[Neighbour] = ()  # training pictures with similar features, nearest first


@dataclass(frozen=True)
class RunReport:
    """The content of the report of a training run."""

    title: str
    summary: Sequence[tuple[str, str]]  # (label, value) pairs
    plan: StagePlan
    # As in `history.csv`: column -> one value per epoch, NaN where there is none.
    history: Mapping[str, Sequence[float]]
    class_names: Sequence[str]
    # How often each class (row) was predicted as each other (column); None for multi-label.
    confusion: npt.NDArray[np.int64] | None
    # Title of a stage -> its training pictures, for at most `MAX_STAGES` stages.
    samples: Mapping[str, Sequence[Sample]]
    mistakes: Sequence[Mistake]  # at most `MAX_MISTAKES`, the highest score first
    # The number of training pictures that mistakes were compared with, and of all.
    compared: tuple[int, int] = (0, 0)
    confidence: Confidence | None = None  # None if the scores are no probabilities
    evaluation: Evaluation | None = None  # multi-label: the scores, in place of `confusion`


def gather_report(
    settings: RunSettings,
    history: Mapping[str, Sequence[float]],
    model: keras.Model,
    training: ImageSource,
    validation: ImageSource,
    evaluation: Evaluation,
    stage_dataset: Callable[[TrainStage, int], Any],
) -> RunReport:
    """Collect the report of a run.

    Args:
        settings: settings of the run.
        history: as in `history.csv`.
        model: the trained network; with features, see `with_features`, mistakes are compared.
        training: the training pictures that can be read.
        validation: the pictures of `evaluation`.
        evaluation: the final scores.
        stage_dataset: returns the training batches of a stage and epoch, as in `fit`.
    """
    plan, names = StagePlan(settings.stages), settings.class_names
    shown = [plan[index] for index in spread(len(plan), MAX_STAGES)]
    mistakes = _mistakes(settings, validation, evaluation)
    compared = (0, 0)
    if len(model.outputs) > 1:
        compared = min(training.num_examples, MAX_COMPARED), training.num_examples
        mistakes = _with_nearest(mistakes, settings, model, training)
    return RunReport(
        title=f"{settings.model} on {settings.training.spec}",
        summary=_summary(settings, history, evaluation, model.count_params()),
        plan=plan,
        history=history,
        class_names=names,
        confusion=None if evaluation.multi_label else confusion_matrix(evaluation, len(names)),
        samples={
            stage_title(stage): training_pictures(stage, stage_dataset, names, MAX_SAMPLES)
            for stage in shown
        },
        mistakes=mistakes,
        compared=compared,
        confidence=evaluation.confidence,
        evaluation=evaluation if evaluation.multi_label else None,
    )


def confusion_matrix(evaluation: Evaluation, classes: int) -> npt.NDArray[np.int64]:
    """Return int64 (classes, classes): `[i, j]` counts the pictures of class i predicted as j."""
    pairs = evaluation.labels.astype(np.int64) * classes + evaluation.predictions
    return np.bincount(pairs, minlength=classes**2).reshape(classes, classes)


def _mistakes(
    settings: RunSettings, validation: ImageSource, evaluation: Evaluation
) -> list[Mistake]:
    names = settings.class_names
    if evaluation.multi_label:  # the class with the highest score of those wrongly named
        wrongly = np.where(evaluation.wrongly_named, evaluation.scores, -1.0)
        predictions, scores = wrongly.argmax(axis=-1), wrongly.max(axis=-1)
        wrong = np.flatnonzero(scores >= 0)
    else:
        predictions = evaluation.predictions
        scores = evaluation.scores[np.arange(len(predictions)), predictions]
        wrong = np.flatnonzero(predictions != evaluation.labels)
    shown = wrong[np.argsort(-scores[wrong], kind="stable")][:MAX_MISTAKES]
    if not len(shown):
        return []
    pictures = evaluation_pictures(
        validation, shown, settings.image_size, settings.recipe.evaluation_style
    )
    return [
        Mistake(
            picture,
            validation.names[i],
            validation.label_texts[i] or NO_CLASS,
            names[predictions[i]],
            float(scores[i]),
        )
        for picture, i in zip(pictures, shown, strict=True)
    ]


def _with_nearest(
    mistakes: Sequence[Mistake],
    settings: RunSettings,
    features: keras.Model,
    training: ImageSource,
) -> list[Mistake]:
    """Return mistakes with the training pictures that are nearest to them."""
    if not mistakes:
        return []
    with progress_bar("comparing mistakes") as progress:
        nearest = nearest_pictures(
            features,
            np.stack([mistake.image for mistake in mistakes]),
            training,
            settings.recipe.evaluation_style,
            seed=settings.recipe.seed,
            progress=progress,
        )
    return [one._replace(nearest=found) for one, found in zip(mistakes, nearest, strict=True)]


def _summary(
    settings: RunSettings,
    history: Mapping[str, Sequence[float]],
    evaluation: Evaluation,
    parameters: int,
) -> list[tuple[str, str]]:
    recipe, versions = settings.recipe, settings.versions
    return [
        *_result_rows(settings, history, evaluation),
        ("model", f"{settings.model}, {parameters:,} parameters, {settings.image_size} px"),
        ("recipe", f"{recipe.name}, seed {recipe.seed}{describe_balance(recipe)}"),
        (
            "versions",
            f"keras_effnetv2 {versions['keras_effnetv2']}, Keras {versions['keras']} on "
            f"{versions['backend']}, TensorFlow {versions['tensorflow']}",
        ),
    ]


# --- text ---------------------------------------------------------------------------------------


def describe_classes(names: Sequence[str]) -> str:
    """Return the number of classes and the first ten names."""
    return f"{len(names):,}: {', '.join(names[:10])}{', ...' if len(names) > 10 else ''}"


def describe_balance(recipe: TrainRecipe) -> str:
    """Return what a recipe does about uneven classes, with a comma in front; "" for nothing."""
    drawn = ", classes drawn equally often" if recipe.balanced else ""
    weights = recipe.class_weights
    if weights is None or isinstance(weights, str):
        return drawn + (f", class weights: {weights}" if weights else "")
    named = listed([f"{name} {weight:g}" for name, weight in weights.items()])
    return f"{drawn}, class weights: {named}"


_GIVEN_WEIGHTS = {True: "those of the given model", False: "random, not pretrained"}


def describe_plan(settings: RunSettings, parameters: int, folder: Path) -> str:
    """Return the plan of a training, as a table."""
    recipe = settings.recipe
    training, validation = settings.training.pictures, settings.validation.pictures
    schedule = replace(recipe, batch_size=settings.stages[0].batch_size).learning_rate_schedule(1.0)
    by = "" if recipe.decay_by == "epochs" else f" by {recipe.decay_by}"
    rows = (
        (
            "model",
            f"{settings.model}, {parameters:,} parameters"
            + (", for small pictures" if recipe.small_pictures else ""),
        ),
        ("weights", settings.weights or _GIVEN_WEIGHTS[settings.is_pretrained]),
        ("data", settings.training.spec),
        ("classes", describe_classes(settings.class_names)),
        (
            "pictures",
            f"{training:,} for training, {validation:,} for validation" + describe_balance(recipe),
        ),
        (
            "optimizer",
            f"{recipe.optimizer}, learning rate {schedule.base_learning_rate:.3g} "
            f"{recipe.schedule}{by}, warmed up over {counted(schedule.warmup_epochs, 'epoch')}, "
            f"weight decay {recipe.weight_decay:g}"
            + (f", weights averaged with {recipe.ema_decay:g}" if recipe.ema_decay else ""),
        ),
        ("loss", f"{recipe.loss} cross entropy, label smoothing {recipe.label_smoothing}"),
        ("evaluation", f"{settings.image_size} px, style {recipe.evaluation_style}"),
        ("seed", f"{recipe.seed}"),
        ("output", f"{folder}"),
    )
    table = "\n".join(aligned(rows, left=(0, 1)))
    return f"{table}\n\n{StagePlan(settings.stages)}\n"


def describe_result(
    settings: RunSettings,
    history: Mapping[str, Sequence[float]],
    evaluation: Evaluation,
    folder: Path,
) -> str:
    """Return the result of a training, as a table."""
    on_tensorflow = settings.versions["backend"] == "tensorflow"
    export = f"KERAS_BACKEND=tensorflow keras-effnetv2 export {folder}"
    rows = (
        *_result_rows(settings, history, evaluation),
        ("model", f"{folder / run_folder.MODEL}"),
        ("report", f"{folder / run_folder.REPORT}"),
        ("for serving", f"{folder / run_folder.SAVED_MODEL}" if on_tensorflow else export),
    )
    return "\n" + "\n".join(aligned(rows, left=(0, 1)))


def _result_rows(
    settings: RunSettings, history: Mapping[str, Sequence[float]], evaluation: Evaluation
) -> tuple[tuple[str, str], ...]:
    seconds = sum(history["seconds"])  # also of the epochs before the run was resumed
    pictures = (settings.training.pictures, settings.validation.pictures)
    found = evaluation.confidence
    calibration = []
    if found is not None:
        errors = f"{found.before.error:.2%}; {found.after.error:.2%} with the temperature "
        calibration = [("calibration error", f"{errors}{found.temperature:.3g}")]
        if (judged := len(evaluation.labels)) < ENOUGH_PICTURES:
            few = f"rough, from {counted(judged, 'validation picture')}"
            calibration += [("", f"{few}; about {found.before.error_by_chance:.0%} is chance")]
    done = counted(len(history["seconds"]), "epoch")
    best = best_epoch(history, StagePlan(settings.stages))
    kept = []
    if settings.kept_classifier:
        kept = [("kept", "the classifier that was fitted first; the short training made it worse")]
    elif settings.limits.patience is not None and best is not None:
        kept = [("kept", f"the weights of epoch {best + 1}, the best of the last stage")]
    if evaluation.multi_label:
        figures = [
            ("validation mean average precision", f"{evaluation.mean_average_precision:.2%}"),
            ("validation F1", f"{evaluation.f1:.2%}"),
        ]
        counts = evaluation.labels.sum(axis=0)
        rare = [settings.class_names[i] for i in np.flatnonzero(counts < ENOUGH_OF_CLASS)]
        if rare:
            why = f"0.5 for classes with fewer than {ENOUGH_OF_CLASS} validation pictures"
            calibration = [("thresholds", f"{why}: {listed(rare)}")]
    else:
        low, high = evaluation.top_accuracy_interval(1)
        figures = [
            ("validation accuracy", f"{evaluation.accuracy:.2%}"),
            ("accuracy interval", f"{low:.2%} to {high:.2%} (95%)"),
            ("mean recall", f"{evaluation.mean_recall:.2%}"),
        ]
    return (
        *figures,
        ("validation loss", f"{evaluation.loss:.4f}"),
        *calibration,
        ("pictures", f"{pictures[0]:,} + {pictures[1]:,}"),
        *kept,
        ("training time", f"{seconds:,.0f} s for {done}"),
    )
