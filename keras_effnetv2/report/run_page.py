"""The report of a training run: one HTML file with its curves, classes and pictures.

The size is limited, with ten classes as with twenty thousand: at most `MAX_STAGES` x
`MAX_SAMPLES` + `MAX_MISTAKES` = 120 pictures of at most 128 x 128 pixels and, beside each mistake,
`NEAREST` of at most 80 x 80 (11 MB in all, where every pixel is noise; 7 MB for photographs),
tables of at most `MAX_ROWS` classes (0.1 MB), and 100 bytes an epoch. The page says what is left
out.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from keras_effnetv2._common.text import counted
from keras_effnetv2.evaluation.calibration import BINS, ENOUGH_PICTURES, KEPT, Confidence
from keras_effnetv2.evaluation.class_scores import ENOUGH_OF_CLASS
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.recipes.stages import StagePlan
from keras_effnetv2.report.figures import Curve, curve_chart, reliability_chart
from keras_effnetv2.report.run_report import RunReport
from keras_effnetv2.report.style import MAX_EDGE, Table, render

MAX_ROWS = 30  # of the table of the worst classes, and of the most confused pairs
_NEAR_EDGE = 80  # pixels of a picture beside a mistake
_OUTLIER = 3.0  # times the largest training value


def render_run(run: RunReport) -> str:
    """Return a report as a single HTML page. Equal reports give equal pages."""
    header, *rows = run.plan.table()
    return render(
        "run.html",
        title=run.title,
        run=run,
        stages=Table("How the stages differ", header, len(header), rows),
        curves=[(curve, curve_chart(curve)) for curve in curves(run.history, run.plan)],
        # Names that are no wider than a cell need not be turned on their side.
        is_upright=max(map(len, run.class_names)) <= 3,
        confidence=None if run.confidence is None else _described(run.confidence),
        max_edge=MAX_EDGE,
        near_edge=_NEAR_EDGE,
        **_judged(run.class_names, run.confusion, run.evaluation),
    )


def _judged(
    names: Sequence[str], confusion: npt.NDArray[np.int64] | None, evaluation: Evaluation | None
) -> dict[str, Any]:
    """Return what the page says of the classes: of a confusion matrix, or of several classes."""
    if confusion is None:
        assert evaluation is not None
        return {
            "verdict": f"Mean average precision {evaluation.mean_average_precision:.4f} and F1 "
            f"{evaluation.f1:.4f}, the means over the classes; {evaluation.accuracy:.2%} of the "
            f"{len(evaluation.labels):,} pictures have exactly their classes. A class is named "
            "if its score reaches its threshold, which gives the highest F1 on these pictures, so "
            f"on others F1 is lower. Classes with fewer than {ENOUGH_OF_CLASS} pictures have 0.5.",
            "wrong": f"{evaluation.wrongly_named.any(axis=-1).sum():,}",
            "classes": several_classes_table(names, evaluation),
            "heat": None,
            "pairs": None,
        }
    right, total, many = int(np.trace(confusion)), int(confusion.sum()), len(names) > MAX_ROWS
    return {
        "verdict": f"{right:,} of {total:,} pictures have the right class: accuracy "
        f"{right / total:.4f}.",
        "wrong": f"{total - right:,}",
        "classes": class_table(names, confusion),
        "heat": None if many else heat_cells(confusion),
        "pairs": confused_pairs(names, confusion) if many else None,
    }


def curves(history: Mapping[str, Sequence[float]], plan: StagePlan) -> list[Curve]:
    """Return the curves of a run: loss and accuracy first, the learning rate last.

    Between them are all other columns with `accuracy` in their name or with a `val_` column.
    """
    bases = dict.fromkeys(name.removeprefix("val_") for name in history)
    metrics = [name for name in bases if f"val_{name}" in history or "accuracy" in name]
    wanted = dict.fromkeys(["loss", "accuracy", *metrics, "learning_rate"])
    epochs = history.get("epoch", ())
    stages = [(stage.start_epoch + 1, f"{stage.image_size} px") for stage in plan]
    found = []
    for column in (name for name in wanted if name in bases and epochs):
        lines = {
            label: [value if abs(value) < 1e300 else math.nan for value in history[name]]
            for label, name in (("train", column), ("validation", f"val_{column}"))
            if name in history
        }
        words = [_describe(label, values, epochs, column) for label, values in lines.items()]
        title = column.replace("_", " ").capitalize()
        if column == "pr_auc":  # of `assemble.PrecisionRecallArea`
            title = "Area under the precision-recall curve"
            words.append("close to the mean average precision, but from 200 thresholds")
        found.append(Curve(title, epochs, lines, stages, words + _leave_out_outliers(lines)))
    return found


def _describe(label: str, values: Sequence[float], epochs: Sequence[float], column: str) -> str:
    """Return the most important numbers of a line: its last and its best value."""
    if column == "learning_rate":
        label = "learning rate"
    drawn = [(v, e) for v, e in zip(values, epochs, strict=True) if not math.isnan(v)]
    if not drawn:
        return f"{label}: no finite value"
    word, pick = ("lowest", min) if "loss" in column else ("highest", max)
    best, epoch = pick(drawn, key=lambda point: point[0])
    return f"{label}: last {drawn[-1][0]:.4g}, {word} {best:.4g} (epoch {epoch:g})"


def _leave_out_outliers(lines: dict[str, list[float]]) -> list[str]:
    """Replace very high validation values, which would flatten the rest, by gaps; say how many.

    A network trained only on small pictures can have a validation loss of thousands on larger ones.
    """
    train = [abs(value) for value in lines.get("train", ()) if not math.isnan(value)]
    if "validation" not in lines or not train:
        return []
    ceiling = _OUTLIER * max(train)
    values = lines["validation"]
    lines["validation"] = [math.nan if value > ceiling else value for value in values]
    count = sum(value > ceiling for value in values)
    words = f"{counted(count, 'validation value')} above {ceiling:.3g} not drawn"
    return [words] if count else []


def class_table(class_names: Sequence[str], confusion: npt.NDArray[np.int64]) -> Table:
    """Return count, recall and precision of every class, or of `MAX_ROWS` with lowest recall."""
    truths, predictions, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    indices, caption = list(range(len(class_names))), "Every class"
    if len(class_names) > MAX_ROWS:
        present = np.flatnonzero(truths)
        by_recall = np.argsort(right[present] / truths[present], kind="stable")
        indices = present[by_recall][:MAX_ROWS].tolist()
        caption = (
            f"The {len(indices)} classes with the lowest recall, of {len(present):,} with pictures"
        )
    columns = (truths, right, predictions)
    rows = []
    for i in indices:
        count, hits, guesses = (int(column[i]) for column in columns)
        rows.append((class_names[i], count, _share(hits, count), _share(hits, guesses)))
    return Table(caption, ("class", "count", "recall", "precision"), 1, rows)


def several_classes_table(class_names: Sequence[str], evaluation: Evaluation) -> Table:
    """Return the figures of every class, or of `MAX_ROWS` with the lowest average precision."""
    counts, figures = evaluation.labels.sum(axis=0), evaluation.by_class()
    columns = (
        [None if math.isnan(value) else value for value in values.tolist()]
        for values in figures.values()
    )
    rows = list(zip(class_names, counts.tolist(), *columns, strict=True))
    caption = "Every class"
    if len(rows) > MAX_ROWS:
        present = sorted((row for row in rows if row[1]), key=lambda row: row[2])
        rows = present[:MAX_ROWS]
        caption = (
            f"The {len(rows)} classes with the lowest average precision, of {len(present):,} with "
            "pictures"
        )
    return Table(caption, ("class", "count", *figures), 1, rows)


def confused_pairs(class_names: Sequence[str], confusion: npt.NDArray[np.int64]) -> Table:
    """Return the `MAX_ROWS` most confused pairs (truth, prediction), for many classes."""
    pairs = np.argwhere(confusion)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    counts = confusion[pairs[:, 0], pairs[:, 1]]
    worst = np.argsort(-counts, kind="stable")[:MAX_ROWS]
    rows = [
        (class_names[i], class_names[j], int(count), _share(count, confusion[i].sum()))
        for (i, j), count in zip(pairs[worst].tolist(), counts[worst], strict=True)
    ]
    caption = f"The {len(rows)} most frequently confused pairs, of {len(pairs):,}"
    return Table(caption, ("truth", "predicted as", "count", "share of the truth"), 2, rows)


def _described(confidence: Confidence) -> tuple[str, list[str]]:
    """Return the reliability diagram, and what it shows in sentences."""
    words = [
        f"On average, scores differ by {confidence.before.error:.1%} from the share that is right "
        f"(expected calibration error, {BINS} bins). Perfect scores would differ by about "
        f"{confidence.before.error_by_chance:.1%} on as many pictures, by chance.",
        f"With the temperature {confidence.temperature:.3g} they differ by "
        f"{confidence.after.error:.1%}. It was fitted on the same pictures, so on others they "
        "differ a little more.",
    ]
    if confidence.before.counts.sum() < ENOUGH_PICTURES:
        words.append(f"With fewer than {ENOUGH_PICTURES} pictures the temperature is only rough.")
    if confidence.none_below is not None:
        words.append(
            f"{KEPT:.0%} of the rightly named pictures have a score of {confidence.none_below:.3g} "
            "or more. A picture with less may show none of the classes."
        )
    lines = {"scores": confidence.before, "with the temperature": confidence.after}
    return reliability_chart(lines, f"Reliability. {' '.join(words)}"), words


def heat_cells(confusion: npt.NDArray[np.int64]) -> list[list[tuple[int, float, str]]]:
    """Return the cells of the confusion matrix: count, shade 0..1, and class in the style sheet.

    The shade is the square root of a cell's share of its row, so a few mistakes among many hits
    are visible. From 0.92 on, white letters have more contrast than black ones on the blue; at
    every shade the better of the two has at least 4.5 to 1 (WCAG 2.2, 1.4.3).
    """
    shades = np.sqrt(confusion / np.maximum(confusion.sum(axis=1, keepdims=True), 1))

    def style(i: int, j: int) -> str:
        if confusion[i, j] == 0:
            return "zero"
        if i != j:
            return "miss"
        return "hit deep" if shades[i, j] >= 0.92 else "hit"

    return [
        [(int(count), float(shades[i, j]), style(i, j)) for j, count in enumerate(row)]
        for i, row in enumerate(confusion)
    ]


def _share(part: int, whole: int) -> float | None:
    """A part of a whole, 0..1; None if the whole is 0."""
    return float(part / whole) if whole else None
