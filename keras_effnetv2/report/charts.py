"""The line charts and the class tables of the training report, as pure functions to HTML text.

Lengths are in SVG user units, which are CSS pixels where a chart is shown `WIDTH` wide. The y axis
of SVG points down, so `PLOT_TOP` < `PLOT_BOTTOM`. Colours and dashes belong to the style sheet.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from keras_effnetv2.report.style import data_table, name_html, plain_text, scroll_frame

WIDTH, HEIGHT = 420, 280
PLOT_LEFT, PLOT_RIGHT = 60, 410
PLOT_TOP, PLOT_BOTTOM = 50, 235

LEGEND_BASELINE = 16
STAGE_BASELINE = 42
STAGE_LABEL_WIDTH = 54  # "stage 10" in letters of 13 units; closer labels are left out
MAX_ROWS = 30  # of the table of the worst classes, and of the most confused pairs


@dataclass(frozen=True)
class Axis:
    """A linear axis: data from `low` to `high` lie at `start` to `end` (SVG user units)."""

    low: float
    high: float
    start: float
    end: float
    ticks: tuple[float, ...]

    def position(self, value: float) -> float:
        """Returns where `value` lies on the drawing, in SVG user units."""
        return self.start + (value - self.low) / (self.high - self.low) * (self.end - self.start)


@dataclass(frozen=True)
class Series:
    """One line of a chart: `style` is its class in the style sheet, NaN and infinity are gaps."""

    label: str
    style: str
    values: tuple[float, ...]


def is_drawable(value: float) -> bool:
    """Returns whether `value` is a point: not NaN, not infinite.

    The bound keeps the difference of two values finite, so that no axis overflows.
    """
    return abs(value) < 1e300


def tick_step(span: float, count: int) -> float:
    """Returns the step of 1, 2 or 5 times a power of ten that cuts `span` into about `count`.

    The "nice numbers for graph labels" of Heckbert, Graphics Gems (1990).
    """
    rough = span / count
    power = 10.0 ** math.floor(math.log10(rough))
    fraction = rough / power
    nice = 1 if fraction < 1.5 else 2 if fraction < 3.5 else 5 if fraction < 7.5 else 10
    return nice * power


def epoch_axis(epochs: Sequence[float]) -> Axis:
    """Returns the horizontal axis: first epoch left, last one right, whole numbers as ticks.

    A single epoch lies in the middle.
    """
    low, high = min(epochs), max(epochs)
    if low == high:
        return Axis(low - 0.5, high + 0.5, PLOT_LEFT, PLOT_RIGHT, (low,))
    step = max(1.0, tick_step(high - low, 6))
    ticks = tuple(i * step for i in range(math.ceil(low / step), math.floor(high / step) + 1))
    return Axis(low, high, PLOT_LEFT, PLOT_RIGHT, ticks)


def value_axis(values: Sequence[float], start: float = PLOT_BOTTOM, end: float = PLOT_TOP) -> Axis:
    """Returns an axis, the vertical one by default: all of `values`, widened to the next ticks.

    Values that are all equal get a tenth of their size on both sides; none, or only zeros: 0 to 1.
    """
    low, high = (min(values), max(values)) if values else (0.0, 0.0)
    size = max(abs(low), abs(high))
    if high - low <= 1e-9 * size:  # a narrower span is rounding, and has no distinct tick labels
        low, high = (low - 0.1 * size, high + 0.1 * size) if size else (0.0, 1.0)
    step = tick_step(high - low, 5)
    # 1e-9 of a step: 0.3 / 0.1 is 2.9999999999999996, which must not add a tick below 0.3.
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    ticks = tuple(i * step for i in range(first, last + 1))
    return Axis(ticks[0], ticks[-1], start, end, ticks)


def axes_svg(x: Axis, y: Axis, x_name: str) -> str:
    """Returns the grid, the tick labels and the name of the horizontal axis, any text."""
    left, right, bottom = x.start, x.end, y.start
    parts = []
    for tick in y.ticks:
        at = y.position(tick)
        parts.append(
            f'<line class="grid" x1="{left}" x2="{right}" y1="{at:.2f}" y2="{at:.2f}"/>'
            f'<text x="{left - 6}" y="{at + 4:.2f}" text-anchor="end">{tick:.6g}</text>'
        )
    for tick in x.ticks:
        at = x.position(tick)
        parts.append(
            f'<line class="axis" x1="{at:.2f}" x2="{at:.2f}" y1="{bottom}"'
            f' y2="{bottom + 4}"/><text x="{at:.2f}" y="{bottom + 18}"'
            f' text-anchor="middle">{tick:.6g}</text>'
        )
    middle = (left + right) / 2
    parts.append(
        f'<line class="axis" x1="{left}" x2="{right}" y1="{bottom}"'
        f' y2="{bottom}"/>'
        f'<text x="{middle:g}" y="{bottom + 37}" text-anchor="middle">{plain_text(x_name)}</text>'
    )
    return "".join(parts)


def _stage_marks(x: Axis, first_epoch: float, stage_labels: Sequence[tuple[float, str]]) -> str:
    """Returns a dashed line where each later stage begins, and the labels that have room.

    The stage that the first epoch belongs to has its label at the left edge, and no line.
    """
    begun = [(x.start, label) for start, label in stage_labels if start <= first_epoch][-1:]
    later = [
        (x.position(start), label) for start, label in stage_labels if first_epoch < start <= x.high
    ]
    parts = [
        f'<line class="stage" x1="{at:.2f}" x2="{at:.2f}" y1="{PLOT_TOP - 4}" y2="{PLOT_BOTTOM}"/>'
        for at, _ in later
    ]
    free_from = 0.0
    for at, label in begun + later:
        left = min(at, WIDTH - STAGE_LABEL_WIDTH)
        if left >= free_from:
            text = f'<text class="muted" x="{left:.2f}" y="{STAGE_BASELINE}">{plain_text(label)}'
            parts.append(f"{text}</text>")
            free_from = left + STAGE_LABEL_WIDTH
    return "".join(parts)


def runs(values: Sequence[float]) -> list[list[int]]:
    """Returns the positions of `values` that can be drawn, cut wherever one is missing."""
    found: list[list[int]] = []
    previous_drawn = False
    for i, value in enumerate(values):
        drawn = is_drawable(value)
        if drawn and previous_drawn:
            found[-1].append(i)
        elif drawn:
            found.append([i])
        previous_drawn = drawn
    return found


def _curve(x: Axis, y: Axis, epochs: Sequence[float], series: Series) -> str:
    """Returns a line for every run of points, and a dot for a point with no neighbour."""
    parts = []
    for run in runs(series.values):
        points = [(x.position(epochs[i]), y.position(series.values[i])) for i in run]
        if len(points) == 1:
            across, down = points[0]
            parts.append(
                f'<circle class="{series.style}" cx="{across:.2f}" cy="{down:.2f}" r="4"/>'
            )
        else:
            path = " ".join(f"{across:.2f},{down:.2f}" for across, down in points)
            parts.append(f'<polyline class="{series.style}" points="{path}"/>')
    return "".join(parts)


def _legend(series: Sequence[Series]) -> str:
    """Returns a sample of every line with its label, side by side above the plot."""
    parts = []
    for i, line in enumerate(series):
        left, middle = PLOT_LEFT + 130 * i, LEGEND_BASELINE - 4
        parts.append(
            f'<polyline class="{line.style}" points="{left},{middle} {left + 28},{middle}"/>'
            f'<text x="{left + 34}" y="{LEGEND_BASELINE}">{plain_text(line.label)}</text>'
        )
    return "".join(parts)


def line_chart(
    description: str,
    epochs: Sequence[float],
    series: Sequence[Series],
    stage_labels: Sequence[tuple[float, str]],
) -> str:
    """Returns a chart of one or more columns over the epochs, as an `<svg>` element.

    Args:
        description: what a reader who cannot see the chart should know.
        epochs: the epoch number of every value, at least one.
        series: the lines, each with as many values as `epochs`.
        stage_labels: (first epoch, label) of every training stage, in order. A stage that begins
            after the last epoch is left out.
    """
    x = epoch_axis(epochs)
    y = value_axis([v for line in series for v in line.values if is_drawable(v)])
    curves = "".join(_curve(x, y, epochs, line) for line in series)
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{plain_text(description)}">'
        f"{axes_svg(x, y, 'epoch')}{_stage_marks(x, min(epochs), stage_labels)}{curves}"
        f"{_legend(series)}</svg>"
    )


def _heat_style(right: bool, shade: float) -> str:
    """Returns the style classes of a cell.

    From a shade of 0.92 on, white letters have more contrast than black ones on the blue; at every
    shade the better of the two has at least 4.5 to 1 (WCAG 2.2, 1.4.3).
    """
    if shade == 0:
        return "zero"
    if not right:
        return "miss"
    return "hit deep" if shade >= 0.92 else "hit"


def heat_table(class_names: Sequence[str], confusion: npt.NDArray[np.integer]) -> str:
    """Returns the confusion matrix as a framed table whose cells are shaded, rows = truth.

    A table and not a drawing: its numbers can be selected and are read out with their headers. The
    shade is the square root of a cell's share of its row, so that a few mistakes among many hits
    can be seen.

    Args:
        class_names: C names, at least one.
        confusion: (C, C) counts, 0 or more.
    """
    row_sums = np.maximum(confusion.sum(axis=1, keepdims=True), 1)
    shades = np.sqrt(confusion / row_sums)
    columns = "".join(f'<th scope="col">{name_html(name, 24)}</th>' for name in class_names)
    rows = []
    for i, name in enumerate(class_names):
        cells = "".join(
            f'<td class="{_heat_style(i == j, shade)}" style="--shade:{shade:.2f}">{count}</td>'
            for j, (count, shade) in enumerate(zip(confusion[i], shades[i], strict=True))
        )
        rows.append(f'<tr><th scope="row">{name_html(name, 24)}</th>{cells}</tr>')
    # Names that are no wider than a cell need not be turned on their side.
    upright = " upright" if max(len(name) for name in class_names) <= 3 else ""
    legend = (
        "<p>Rows: the truth. Columns: the prediction. Blue: right, orange: wrong; the deeper, the"
        " larger the share of its row.</p>"
    )
    return legend + scroll_frame(
        "Confusion matrix",
        f'<table class="heat{upright}">'
        f"<thead><tr><td></td>{columns}</tr></thead><tbody>{''.join(rows)}</tbody></table>",
    )


def _share_cell(part: int, whole: int) -> str:
    """Returns a cell with part / whole as number and bar; "n/a" where there is nothing to share."""
    if whole == 0:
        return '<td class="number muted">n/a</td>'
    share = part / whole
    return f'<td class="number bar" style="--share:{share:.1%}">{share:.3f}</td>'


def class_table(class_names: Sequence[str], confusion: npt.NDArray[np.integer]) -> str:
    """Returns count, recall and precision of every class, or of the `MAX_ROWS` of lowest recall.

    Args:
        class_names: C names.
        confusion: (C, C) counts, rows = truth.
    """
    truths, predictions, right = confusion.sum(axis=1), confusion.sum(axis=0), confusion.diagonal()
    indices, caption = list(range(len(class_names))), "Every class"
    if len(class_names) > MAX_ROWS:
        counted = np.flatnonzero(truths)
        by_recall = np.argsort(right[counted] / truths[counted], kind="stable")
        indices = counted[by_recall][:MAX_ROWS].tolist()
        caption = f"The {len(indices)} classes of lowest recall, of {len(counted):,} with examples"
    rows = [
        f'<tr><th scope="row">{name_html(class_names[i])}</th>'
        f'<td class="number">{truths[i]}</td>{_share_cell(right[i], truths[i])}'
        f"{_share_cell(right[i], predictions[i])}</tr>"
        for i in indices
    ]
    return data_table(caption, 1, ("class", "count", "recall", "precision"), rows)


def confused_pairs_table(class_names: Sequence[str], confusion: npt.NDArray[np.integer]) -> str:
    """Returns the `MAX_ROWS` pairs (truth, prediction) most often confused, for many classes.

    Args:
        class_names: C names.
        confusion: (C, C) counts, rows = truth.
    """
    pairs = np.argwhere(confusion)
    pairs = pairs[pairs[:, 0] != pairs[:, 1]]
    if not len(pairs):
        return "<p>No example is in a wrong class.</p>"
    counts = confusion[pairs[:, 0], pairs[:, 1]].astype(np.int64)
    worst = np.argsort(-counts, kind="stable")[:MAX_ROWS]
    class_counts = confusion.sum(axis=1)
    rows = [
        f'<tr><th scope="row">{name_html(class_names[truth])}</th>'
        f"<td>{name_html(class_names[prediction])}</td>"
        f'<td class="number">{count}</td>{_share_cell(count, class_counts[truth])}</tr>'
        for (truth, prediction), count in zip(pairs[worst].tolist(), counts[worst], strict=True)
    ]
    caption = f"The {len(rows)} pairs most often confused, of {len(pairs):,}"
    return data_table(caption, 2, ("truth", "predicted as", "count", "share of the truth"), rows)
