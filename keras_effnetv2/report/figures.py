"""Charts as `<svg>` elements, drawn by matplotlib: legible in light and in dark.

Letters and axes have the colour of the text around them. The lines' colours are easy to tell apart
on white and on black (the first two of Okabe & Ito, "Color Universal Design", 2008). matplotlib is
imported only to draw.
"""

import contextlib
import io
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from keras_effnetv2.evaluation.calibration import Reliability
from keras_effnetv2.report.style import plain_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

INK = "#010203"  # stands for the colour of the text, until the drawing is done
BLUE, ORANGE = "#0072b2", "#d55e00"

_STAGE_LABEL = 0.15  # of the width of the plot: "stage 10"; labels that are closer are left out
_NO_METADATA = dict.fromkeys(("Creator", "Date", "Format", "Type"))
_LINES: dict[str, dict[str, Any]] = {
    "train": {"color": BLUE, "linestyle": "-"},
    "validation": {"color": ORANGE, "linestyle": (0, (4, 2))},
}
_RULES = {
    "svg.fonttype": "none",  # letters stay letters: they can be found, copied and read aloud
    "svg.hashsalt": "keras_effnetv2",  # the same data, the same text
    "font.size": 13,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.formatter.useoffset": False,
    "axes.spines.left": False,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "grid.alpha": 0.15,
    "legend.frameon": False,
    "ytick.major.size": 0,
} | dict.fromkeys(
    ("text.color", "axes.edgecolor", "axes.labelcolor", "xtick.color", "ytick.color", "grid.color"),
    INK,
)


@dataclass(frozen=True)
class Curve:
    """One column of a history over the epochs."""

    title: str
    epochs: Sequence[float]  # their numbers
    # "train" and perhaps "validation" -> one value per epoch; NaN is a gap.
    lines: Mapping[str, Sequence[float]]
    stages: Sequence[tuple[float, str]]  # (first epoch, label) of every training stage, in order
    words: Sequence[str]  # sentences for readers who cannot see the chart


@contextlib.contextmanager
def drawing(width: int, height: int) -> Iterator["Figure"]:
    """Yield an empty figure in the style of this package, whatever the user's settings are.

    Its size is in CSS pixels.
    """
    log = logging.getLogger("matplotlib")  # says that it builds a cache of fonts
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        import matplotlib.style
        from matplotlib.figure import Figure

        with matplotlib.style.context(["default", _RULES]):
            yield Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    finally:
        log.setLevel(level)


def to_svg(figure: "Figure", spoken: str) -> str:
    """Return a figure as an `<svg>` element; call it within `drawing`.

    `spoken` is the text for readers who cannot see it.
    """
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True, metadata=_NO_METADATA)
    size = figure.get_size_inches() * 72
    start = (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
        ' width="{0:g}" height="{1:g}" viewBox="0 0 {0:g} {1:g}" role="img" aria-label="{2}">'
    )
    body = text.getvalue().partition("<svg")[2].partition(">")[2]
    body = re.sub(r'<g id="[^"]*_\d+"', "<g", body)  # a page with two charts would have them twice
    body = re.sub(r"font-family: [^;\"]*", "font-family: system-ui, sans-serif", body)
    body = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d\d)\d+", r"\1", path[0]), body)
    return start.format(*size, plain_text(spoken)) + body.replace(INK, "currentColor").strip()


def curve_chart(curve: Curve) -> str:
    """Return a curve as an `<svg>` element."""
    from matplotlib.ticker import MaxNLocator

    with drawing(420, 280) as figure:
        axes = figure.subplots()
        for name, values in curve.lines.items():
            gaps = np.isnan(np.pad(values, 1, constant_values=np.nan))
            alone = np.flatnonzero(gaps[:-2] & gaps[2:]).tolist()  # a line does not show these
            look = {"marker": "o", "markevery": alone, "linewidth": 2, **_LINES[name]}
            axes.plot(curve.epochs, values, label=name, **look)
        first, last = min(curve.epochs), max(curve.epochs)
        axes.set_xlim(*((first - 0.5, last + 0.5) if first == last else (first, last)))
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.grid(axis="x", visible=False)
        axes.set_xlabel("epoch")
        _mark_stages(axes, curve.stages, first, last)
        if len(curve.lines) > 1:
            figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, f"{curve.title}. {'; '.join(curve.words)}")


def reliability_chart(lines: Mapping[str, Reliability], spoken: str) -> str:
    """Return the reliability of scores as an `<svg>` element; `lines` has at most two, by name."""
    with drawing(420, 320) as figure:
        axes = figure.subplots()
        axes.plot((0, 1), (0, 1), color=INK, alpha=0.5, linewidth=1, linestyle=":")
        for (name, one), look in zip(lines.items(), _LINES.values(), strict=False):
            filled = one.counts > 0
            points = one.scores[filled], one.shares[filled]
            axes.plot(*points, label=name, marker="o", linewidth=2, **look)
        axes.set(xlim=(0, 1), ylim=(0, 1), xlabel="score", ylabel="share that is right")
        figure.legend(loc="outside upper left", ncols=2)
        return to_svg(figure, spoken)


def _mark_stages(
    axes: "Axes", stages: Sequence[tuple[float, str]], first: float, last: float
) -> None:
    """Draw a line where each later stage begins, and the labels if there is space.

    The stage of the first epoch has its label at the left edge and no line.
    """
    free_from = 0.0
    for start, label in [*[s for s in stages if s[0] <= first][-1:], *stages]:
        if start > last or (start <= first and free_from):
            continue
        at = max(0.0, start - first) / max(last - first, 1)
        if at:
            axes.axvline(start, color=INK, alpha=0.5, linewidth=1, linestyle=":")
        if free_from <= at:
            left = min(at, 1 - _STAGE_LABEL)
            axes.text(left, 1.02, label, transform=axes.transAxes, alpha=0.7, parse_math=False)
            free_from = left + _STAGE_LABEL
