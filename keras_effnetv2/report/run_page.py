"""The report of a training run: one HTML file with its curves, its classes, and its pictures.

The file needs nothing else (see `report_style.py`): its style sheet is in it, its charts are SVG,
its pictures are PNG. It is readable on a phone, in print, and in the dark.

The size is bounded, with ten classes as with twenty thousand: at most `MAX_STAGES_SHOWN` x
`MAX_SAMPLES` + `MAX_MISTAKES` = 120 pictures of at most 128 x 128 pixels (8 MB in all, where every
pixel is noise; 5 MB for photographs), tables of at most `MAX_ROWS` classes (0.1 MB), and 100 bytes
an epoch. What is left out is said on the page.
"""

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from keras_effnetv2.report.charts import (
    MAX_ROWS,
    Series,
    class_table,
    confused_pairs_table,
    heat_table,
    is_drawable,
    line_chart,
)
from keras_effnetv2.report.style import (
    MAX_EDGE,
    data_table,
    name_html,
    page_html,
    picture_html,
    plain_text,
    section_html,
    spread,
    summary_table,
)

MAX_STAGES_SHOWN = 8
MAX_SAMPLES = 12  # pictures of one stage
MAX_MISTAKES = 24
_OUTLIER = 3.0  # times the largest training value


@dataclass(frozen=True)
class Sample:
    """A training picture as the net saw it: uint8 (H, W, 3), and its label in words."""

    image: npt.NDArray[np.uint8]
    caption: str


@dataclass(frozen=True)
class StageSamples:
    """Training pictures of one stage, under a title that says how the stage treats them."""

    title: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True)
class Mistake:
    """A picture that was put in a wrong class.

    Attributes:
        image: uint8 (H, W, 3).
        name: the picture's file name.
        truth: name of its class.
        prediction: name of the class with the highest score.
        score: the score of `prediction`, 0..1.
    """

    image: npt.NDArray[np.uint8]
    name: str
    truth: str
    prediction: str
    score: float


@dataclass(frozen=True)
class Report:
    """What a training run has to show.

    Attributes:
        title: the headline.
        summary: (label, value) pairs.
        stages: the stage plan as rows of a table, the first one its header; empty: no plan.
        history: column name -> one value an epoch, NaN or None where there is none. Charts are made
            of `loss`, of `learning_rate`, of every column that has `accuracy` in its name or a
            `val_` twin. `epoch` numbers the epochs (absent: 0, 1, ... as Keras counts);
            `image_size` (pixels) labels the stages.
        stage_starts: the epoch each stage begins at, numbered as `history["epoch"]`.
        class_names: C names.
        confusion: int (C, C) counts, rows = truth.
        stage_samples: training pictures, a group for every stage.
        mistakes: in any order; those with the highest score are shown.

    Raises:
        ValueError: the class names do not fit the matrix, the columns of the history or the rows
            of the stage plan differ in length, or the matrix holds something other than counts.
    """

    title: str
    summary: tuple[tuple[str, str], ...]
    stages: tuple[tuple[str, ...], ...]
    history: dict[str, list[float]]
    stage_starts: tuple[int, ...]
    class_names: tuple[str, ...]
    confusion: npt.NDArray[np.int64]
    stage_samples: tuple[StageSamples, ...]
    mistakes: tuple[Mistake, ...]

    def __post_init__(self) -> None:
        classes = len(self.class_names)
        if self.confusion.shape != (classes, classes):
            raise ValueError(
                f"confusion must have the shape ({classes}, {classes}), a row and a column for"
                f" each of the {classes} class_names. Received: shape {self.confusion.shape}."
            )
        if self.confusion.dtype.kind not in "iu" or (self.confusion < 0).any():
            raise ValueError(
                "confusion must hold counts, integers of 0 or more, as confusion_matrix makes"
                f" them. Received: {self.confusion.dtype}, {(self.confusion < 0).sum()} below 0."
            )
        lengths = {name: len(values) for name, values in self.history.items()}
        if len(set(lengths.values())) > 1:
            raise ValueError(
                "The columns of history must all have one value an epoch; put NaN where an epoch"
                f" has none. Received: lengths {lengths}."
            )
        if not all(is_drawable(float(epoch)) for epoch in self.history.get("epoch", ())):
            raise ValueError(
                "The epoch column of history must hold finite numbers; leave it out to count from"
                f" 0. Received: {self.history['epoch']}."
            )
        if len({len(row) for row in self.stages}) > 1:
            raise ValueError(
                "The rows of stages must have as many cells as its first row, the header."
                f" Received: {[len(row) for row in self.stages]} cells."
            )


def confusion_matrix(
    truth: npt.ArrayLike, prediction: npt.ArrayLike, num_classes: int
) -> npt.NDArray[np.int64]:
    """Returns how often each class was taken for each.

    Args:
        truth: class indices, integers (N,), 0..num_classes - 1.
        prediction: as `truth`, in the same order.
        num_classes: C, 1 or more.

    Returns:
        int64 (C, C): `[i, j]` counts the examples of class i that were put in class j.

    Raises:
        ValueError: anything but two lists of class indices of the same length.
    """
    if num_classes < 1:
        raise ValueError(f"num_classes must be 1 or more. Received: {num_classes}.")
    pairs = []
    for name, indices in (("truth", np.asarray(truth)), ("prediction", np.asarray(prediction))):
        if indices.ndim != 1 or (indices.size and indices.dtype.kind not in "iu"):
            raise ValueError(
                f"{name} must be a list of class indices, integers of the shape (N,); of scores or"
                " one-hot labels take argmax(axis=-1)."
                f" Received: {indices.dtype} of the shape {indices.shape}."
            )
        wrong = indices[(indices < 0) | (indices >= num_classes)]
        if wrong.size:
            raise ValueError(
                f"{name} must hold class indices of 0..{num_classes - 1}."
                f" Received: {wrong[0]} and {wrong.size - 1} more outside of that."
            )
        pairs.append(indices.astype(np.int64))
    rows, columns = pairs
    if rows.shape != columns.shape:
        raise ValueError(
            "truth and prediction must have the same length."
            f" Received: {rows.size} and {columns.size}."
        )
    counts = np.bincount(rows * num_classes + columns, minlength=num_classes**2)
    return counts.astype(np.int64).reshape(num_classes, num_classes)


def _summary(report: Report) -> str:
    table = summary_table(report.summary) if report.summary else "<p>No summary was given.</p>"
    return section_html("summary", "Summary", table)


def _stage_plan(report: Report) -> str:
    if not report.stages:
        return section_html("stages", "Stage plan", "<p>Trained without stages.</p>")
    header, *rows = report.stages
    table = data_table(
        "How the stages differ",
        len(header),
        [plain_text(cell) for cell in header],
        [f"<tr>{''.join(f'<td>{name_html(cell)}</td>' for cell in row)}</tr>" for row in rows],
    )
    return section_html("stages", "Stage plan", table)


def _charted(history: dict[str, list[float]]) -> list[str]:
    """Returns the columns that get a chart, without their `val_` twins: loss and accuracy first."""
    bases = dict.fromkeys(name.removeprefix("val_") for name in history)
    metrics = [name for name in bases if f"val_{name}" in history or "accuracy" in name]
    wanted = dict.fromkeys(["loss", "accuracy", *metrics, "learning_rate"])
    return [name for name in wanted if name in bases]


def _values(column: Sequence[float | None]) -> tuple[float, ...]:
    return tuple(math.nan if value is None else float(value) for value in column)


def _describe(column: str, series: Series, epochs: Sequence[float]) -> str:
    """Returns the numbers a reader looks for in a line: its last value, and its best one."""
    drawn = [(v, e) for v, e in zip(series.values, epochs, strict=True) if is_drawable(v)]
    if not drawn:
        return f"{series.label}: no finite value"
    word, pick = ("lowest", min) if "loss" in column else ("highest", max)
    best, epoch = pick(drawn, key=lambda point: point[0])
    return f"{series.label}: last {drawn[-1][0]:.4g}, {word} {best:.4g} (epoch {epoch:g})"


def _stage_labels(report: Report, epochs: Sequence[float]) -> list[tuple[float, str]]:
    """Returns (first epoch, label) of every stage: its picture size, where the history has it."""
    sizes = _values(report.history.get("image_size", [math.nan] * len(epochs)))
    labels = []
    for number, start in enumerate(report.stage_starts, 1):
        # A history that was resumed within a stage does not have the epoch the stage began at.
        seen = (size for epoch, size in zip(epochs, sizes, strict=True) if epoch >= start)
        size = next(seen, math.nan)
        labels.append((float(start), f"{size:g} px" if is_drawable(size) else f"stage {number}"))
    return labels


def _without_outliers(series: list[Series]) -> tuple[list[Series], list[str]]:
    """Leaves out validation values so high that the rest would be a flat line, and says so.

    A net that has seen small pictures only can have a validation loss of thousands on larger ones.
    """
    train = [abs(value) for value in series[0].values if is_drawable(value)]
    if len(series) == 1 or not train:
        return series, []
    ceiling = _OUTLIER * max(train)
    values = tuple(math.nan if value > ceiling else value for value in series[1].values)
    count = sum(value > ceiling for value in series[1].values)
    note = f"{count} validation value{'s' if count > 1 else ''} above {ceiling:.3g} not drawn"
    return [series[0], replace(series[1], values=values)], [note] if count else []


def _curves(report: Report) -> str:
    count = max((len(values) for values in report.history.values()), default=0)
    columns = _charted(report.history)
    if not count or not columns:
        return section_html("curves", "Curves", "<p>No epoch was recorded.</p>")
    epochs = _values(report.history.get("epoch", list(range(count))))
    charts = []
    for column in columns:
        title = column.replace("_", " ").capitalize()
        names = ((column, "train"), (f"val_{column}", "validation"))
        series = [
            Series(title.lower() if column == "learning_rate" else style, style, _values(values))
            for name, style in names
            if (values := report.history.get(name)) is not None
        ]
        words = [_describe(column, line, epochs) for line in series]
        series, note = _without_outliers(series)
        words += note
        spoken = f"{title}. {'; '.join(words)}"
        svg = line_chart(spoken, epochs, series, _stage_labels(report, epochs))
        caption = "".join(f"<span>{plain_text(line)}</span>" for line in words)
        charts.append(
            f'<figure class="chart"><h3>{plain_text(title)}</h3>{svg}'
            f"<figcaption>{caption}</figcaption></figure>"
        )
    return section_html("curves", "Curves", f'<div class="charts">{"".join(charts)}</div>')


def _classes(report: Report) -> str:
    right, total = int(np.trace(report.confusion)), int(report.confusion.sum())
    if not total:
        return section_html("classes", "Classes", "<p>No validation example was counted.</p>")
    text = (
        f"<p>{right:,} of {total:,} examples are in the right class:"
        f" accuracy {right / total:.4f}.</p>"
    )
    return section_html(
        "classes", "Classes", text + class_table(report.class_names, report.confusion)
    )


def _confusion(report: Report) -> str:
    if not report.confusion.any():
        body = "<p>No validation example was counted.</p>"
    elif len(report.class_names) > MAX_ROWS:
        body = confused_pairs_table(report.class_names, report.confusion)
    else:
        body = heat_table(report.class_names, report.confusion)
    return section_html("confusion", "Confusion", body)


def _stage_pictures(stage: StageSamples) -> str:
    shown = stage.samples[:MAX_SAMPLES]
    figures = "".join(
        f"<figure>{picture_html(sample.image, f'Training picture: {sample.caption}')}"
        f"<figcaption>{name_html(sample.caption)}</figcaption></figure>"
        for sample in shown
    )
    left_out = len(stage.samples) - len(shown)
    note = f"<p>{left_out:,} more are not shown.</p>" if left_out else ""
    return f'<h3>{name_html(stage.title, 120)}</h3><div class="pictures">{figures}</div>{note}'


def _samples(report: Report) -> str:
    groups = report.stage_samples
    if not groups:
        return section_html("samples", "Training pictures", "<p>No picture was kept.</p>")
    note = (
        "As the net saw them: cropped, augmented and mixed."
        f" Those of more than {MAX_EDGE} px are reduced for this page."
    )
    if len(groups) > MAX_STAGES_SHOWN:
        note += f" {MAX_STAGES_SHOWN} of {len(groups)} stages, from the first to the last."
        groups = tuple(groups[i] for i in spread(len(groups), MAX_STAGES_SHOWN))
    pictures = "".join(_stage_pictures(stage) for stage in groups)
    return section_html("samples", "Training pictures", f"<p>{note}</p>{pictures}")


def _mistakes(report: Report) -> str:
    if not report.mistakes:
        return section_html("mistakes", "Worst mistakes", "<p>No picture is in a wrong class.</p>")
    # NaN has no order; a net that scores NaN has failed, and its pictures are the first to see.
    scores = [
        math.inf if math.isnan(mistake.score) else mistake.score for mistake in report.mistakes
    ]
    order = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
    shown = [report.mistakes[i] for i in order[:MAX_MISTAKES]]
    figures = "".join(
        f"<figure>{picture_html(mistake.image, f'{mistake.name}, a picture of {mistake.truth}')}"
        f"<figcaption><span><strong>{name_html(mistake.prediction)}</strong>"
        f" {mistake.score:.3f}</span><span>truth: {name_html(mistake.truth)}</span>"
        f'<span class="muted">{name_html(mistake.name)}</span></figcaption></figure>'
        for mistake in shown
    )
    wrong = int(report.confusion.sum() - report.confusion.trace())
    note = (
        f"<p>{len(shown)} of {wrong:,}, the highest score on a wrong class first:"
        " the prediction and its score, the truth, the file.</p>"
    )
    body = f'{note}<div class="pictures mistakes">{figures}</div>'
    return section_html("mistakes", "Worst mistakes", body)


def render_report(report: Report) -> str:
    """Returns `report` as one HTML page that needs no other file; the same report, the same page.

    Raises:
        ValueError: a picture is not uint8 of the shape (H, W, 3).
    """
    sections = (_summary, _stage_plan, _curves, _classes, _confusion, _samples, _mistakes)
    links = (
        ("curves", "Curves"),
        ("classes", "Classes"),
        ("confusion", "Confusion"),
        ("samples", "Training pictures"),
        ("mistakes", "Worst mistakes"),
    )
    return page_html(report.title, links, [section(report) for section in sections])


def write_report(report: Report, path: str | os.PathLike[str]) -> None:
    """Writes `report` to the HTML file `path`; makes its folder where it is missing.

    The page is written beside `path` and then renamed, so `path` is never half a report.

    Raises:
        ValueError: see `render_report`; nothing is written.
        OSError: the file cannot be written.
    """
    page = render_report(report)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        beside.write_text(page, encoding="utf-8")
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
