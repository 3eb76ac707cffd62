"""The results of a trained run: scores, model, export, labels, report."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import numpy as np

from keras_effnetv2._common.files import remove, write_text, written_whole
from keras_effnetv2._common.progress import progress_bar, working
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.evaluation.class_scores import best_thresholds
from keras_effnetv2.evaluation.scores import Evaluation, evaluate_source
from keras_effnetv2.export.metadata import write_metadata
from keras_effnetv2.export.saved_model import export_saved_model, metadata_of
from keras_effnetv2.models.graph import bare_graph, with_features
from keras_effnetv2.report.run_page import render_run
from keras_effnetv2.report.run_report import confusion_matrix, gather_report
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.confusion import write_confusion
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.training.inputs import Inputs

_RECORDED = ("accuracy", "mean_average_precision", "f1", "loss")  # of the figures


@working("judging")
def evaluate_model(
    model: keras.Model, inputs: Inputs, before: Sequence[np.ndarray] = ()
) -> tuple[Evaluation, keras.Model, bool]:
    """Return the final scores on the validation pictures, and the model that computed them.

    Multi-label: with the thresholds that are best for these pictures. The model is the result of
    `with_features`, or the model itself if it has none (a mean of several).

    Args:
        model: the trained network.
        inputs: of the training.
        before: weights from before the training; the model gets them back if they are better: a
            higher accuracy (multi-label: mean average precision), or the same and a lower loss.

    Returns:
        The scores, the model, and whether the weights from before the training are kept.

    Raises:
        RuntimeError: a score is not finite.
    """
    judged = model
    with contextlib.suppress(ValueError):
        judged = with_features(model)
    trained = _evaluate(judged, inputs)
    if before:
        weights = model.get_weights()
        model.set_weights(before)
        earlier = _evaluate(judged, inputs)
        if _rank(earlier) > _rank(trained):
            return earlier, judged, True
        model.set_weights(weights)
    return trained, judged, False


def _rank(evaluation: Evaluation) -> tuple[float, float]:
    first, *_ = evaluation.figures().values()
    return first, -evaluation.loss


def _evaluate(model: keras.Model, inputs: Inputs) -> Evaluation:
    with progress_bar("judging") as progress:
        evaluation = evaluate_source(
            model,
            inputs.validation,
            image_size=inputs.evaluation_size,
            style=inputs.recipe.evaluation_style,
            progress=progress,
        )
    if not np.isfinite(evaluation.scores).all():
        raise RuntimeError(
            "Training failed: a score of the trained model is not finite. Lower the learning rate "
            "(--learning-rate, learning_rate=) and start again (--overwrite, overwrite=True)."
        )
    if evaluation.multi_label:
        thresholds = best_thresholds(evaluation.labels, evaluation.scores)
        evaluation = replace(evaluation, thresholds=thresholds)
    return evaluation


@working("writing the run folder")
def write_results(
    model: keras.Model,
    inputs: Inputs,
    unreadable: UnreadablePictures,
    folder: Path,
    settings: RunSettings,
    history: dict[str, list[float]],
    evaluation: Evaluation,
    judged: keras.Model,
) -> None:
    """Write model, export, labels and report, then mark the run as finished.

    The model is on one device; `unreadable` has the pictures that were left out; `evaluation` and
    `judged` are the result of `evaluate_model`.
    """
    names, confidence = inputs.training.class_names, evaluation.confidence
    figures = evaluation.figures()
    result = {f"validation_{name}": figures[name] for name in _RECORDED if name in figures}
    if confidence is not None:
        settings = replace(
            settings, temperature=confidence.temperature, none_below=confidence.none_below
        )
        result["calibration_error"] = confidence.before.error
        result["calibrated_error"] = confidence.after.error
    if evaluation.multi_label:
        settings = replace(settings, thresholds=tuple(np.asarray(evaluation.thresholds).tolist()))
    # Of the layers only: compiled, the file would need this package to be loaded.
    bare = bare_graph(model)
    described: dict[str, Any] = {
        "image_size": inputs.evaluation_size,
        "style": inputs.recipe.evaluation_style,
        "temperature": settings.temperature,
        "none_below": settings.none_below,
        "thresholds": settings.thresholds,
    }
    with working("writing the model"), written_whole(folder / run_folder.MODEL) as scratch:
        bare.save(scratch)
        write_metadata(scratch, metadata_of(bare, names, **described))
    write_text(folder / run_folder.LABELS, "".join(f"{name}\n" for name in names))
    remove(folder / run_folder.SAVED_MODEL)  # of an attempt that broke off here
    if keras.backend.backend() == "tensorflow":
        with working("exporting"):
            export_saved_model(
                bare,
                folder / run_folder.SAVED_MODEL,
                names,
                variant=settings.model,
                weights=settings.weights_origin,
                **described,
            )
    batches = partial(inputs.stage_dataset, unreadable=unreadable)
    kept = np.setdiff1d(np.arange(inputs.training.num_examples), [*unreadable.found])
    with working("writing the report"):
        report = gather_report(
            settings,
            history,
            judged,
            inputs.training.subset(kept),
            inputs.validation,
            evaluation,
            batches,
        )
        page = render_run(report)
    if not evaluation.multi_label:
        counts = confusion_matrix(evaluation, len(names))
        write_confusion(folder / run_folder.CONFUSION, names, counts)
    write_text(folder / run_folder.REPORT, page)
    finished = replace(
        settings,
        finished=True,
        result={**result, "seconds": round(sum(history["seconds"]), 1)},
        left_out_while_training=tuple(bad.name for bad in unreadable.found.values()),
    )
    run_folder.write_settings(folder, finished)
    remove(folder / run_folder.BACKUP)
