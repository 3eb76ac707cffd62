"""The picture of a search: accuracy against step time, as a pure function to SVG text.

As in `report_charts.py`, lengths are in SVG user units, the y axis points down, and colours belong
to the style sheet.
"""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from typing import NamedTuple

from keras_effnetv2.report.charts import Axis, axes_svg, tick_step, value_axis
from keras_effnetv2.report.style import CHART_STYLE, plain_text
from keras_effnetv2.search.front import Candidate, Findings
from keras_effnetv2.search.summary import one_line

WIDTH, HEIGHT = 640, 450
PLOT_LEFT, PLOT_RIGHT = 64, 620
PLOT_TOP, PLOT_BOTTOM = 84, 392

_LARGEST = 12.0  # radius of the network with the most parameters, of up to 100 networks
_LARGEST_OF_MANY = 6.0  # the same of 400 and more, which would hide each other
_SMALLEST = 2.0  # radius; a smaller dot is not seen
_SIZE_STEP = 5  # between the two dots that explain the sizes: 10 and 2, 5 and 1, 2 and 0.4
_MARGIN = 0.04  # of the range of the data, so that few dots lie on an axis
_LETTER, _LINE = 7.5, 14.0  # width and height of a digit of 13 units
_RING, _SQUARE = 2.5, 4.0  # from a dot to what is drawn around it
_GAP = 6.0  # between a dot and its label, so that ring and square fit in


class _Box(NamedTuple):
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )


class _Dot(NamedTuple):
    """A network on the drawing."""

    x: float
    y: float
    radius: float
    candidate: Candidate

    def box(self, margin: float = 0.0) -> _Box:
        half = self.radius + margin
        return _Box(self.x - half, self.y - half, self.x + half, self.y + half)


def pareto_chart(findings: Findings, baseline_name: str, *, standalone: bool) -> str:
    """Draw accuracy against step time of all complete trials; the size of a dot is the parameters.

    The front has another colour and a dark outline, the baseline a square around it, the best
    score a dashed ring. A step line joins the networks of the front that no other one beats in
    accuracy and step time; those below it are on the front for being small.

    Args:
        findings: see `front.find`, with at least one candidate.
        baseline_name: what the network is called that step times are compared with.
        standalone: make an SVG file, with a style sheet of its own, and not a part of a page.

    Returns:
        An `<svg>` element.
    """
    found = findings.candidates
    x = _axis([one.step_time for one in found], PLOT_LEFT, PLOT_RIGHT, math.inf)
    y = _axis([100 * one.accuracy for one in found], PLOT_BOTTOM, PLOT_TOP, 100)
    most = max(one.parameters for one in found)
    largest = min(_LARGEST, max(_LARGEST_OF_MANY, 10 * _LARGEST / math.sqrt(len(found))))
    scale = largest / math.sqrt(most)

    def dot(one: Candidate) -> _Dot:
        across, down = x.position(one.step_time), y.position(100 * one.accuracy)
        return _Dot(across, down, _radius(one.parameters, scale), one)

    front = [dot(one) for one in findings.front]
    # Large dots first, so that small ones lie on top of them.
    others = [
        dot(one)
        for one in sorted(found, key=lambda one: -one.parameters)
        if one not in findings.front
    ]
    baseline = None if findings.baseline is None else dot(findings.baseline)
    best = None if findings.best is None else dot(findings.best)
    # Without repetition: the best is one of the front, and the baseline may be.
    named = list(dict.fromkeys(one for one in (best, baseline, *front) if one is not None))
    parts = [
        *(_circle("dot", one) for one in others),
        _steps(front),
        *(_circle("front", one) for one in front),
        "" if baseline is None else _square(baseline.x, baseline.y, baseline.radius),
        "" if best is None else _ring(best.x, best.y, best.radius),
        _labels(named, others),
    ]
    name = f"time of a training step, over that of {baseline_name}"
    spoken = f"Accuracy against step time of {len(found):,} networks"
    if findings.best is not None:
        spoken += f"; best: {one_line(findings.best.trial)}"
    size = f'width="{WIDTH}" height="{HEIGHT}"' if standalone else 'class="wide"'
    style = f"<style>{CHART_STYLE}</style>" if standalone else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} viewBox="0 0 {WIDTH} {HEIGHT}" role="img"'
        f' aria-label="{plain_text(spoken)}">{style}'
        f'<rect class="backdrop" width="{WIDTH}" height="{HEIGHT}"/>'
        f"{axes_svg(x, y, name)}"
        f'<text x="8" y="{PLOT_TOP - 16}">accuracy, %</text>'
        f"{_legend(baseline is not None, most, scale)}{''.join(parts)}</svg>"
    )


def _axis(values: Sequence[float], start: float, end: float, most: float) -> Axis:
    """An axis with a margin, and without ticks below 0 or above `most`."""
    margin = _MARGIN * (max(values) - min(values))
    axis = value_axis([min(values) - margin, max(values) + margin], start, end)
    return replace(axis, ticks=tuple(tick for tick in axis.ticks if 0 <= tick <= most))


def _radius(parameters: float, scale: float) -> float:
    """Of a dot whose area, as far as it can be seen, is in proportion to the parameters."""
    return max(_SMALLEST, scale * math.sqrt(parameters))


def _circle(style: str, dot: _Dot) -> str:
    return (
        f'<circle class="{style}" cx="{dot.x:.2f}" cy="{dot.y:.2f}" r="{dot.radius:.2f}">'
        f"<title>{plain_text(one_line(dot.candidate.trial))}</title></circle>"
    )


def _square(x: float, y: float, radius: float) -> str:
    half = radius + _SQUARE
    return (
        f'<rect class="square" x="{x - half:.2f}" y="{y - half:.2f}" width="{2 * half:.2f}"'
        f' height="{2 * half:.2f}"/>'
    )


def _ring(x: float, y: float, radius: float) -> str:
    return f'<circle class="ring" cx="{x:.2f}" cy="{y:.2f}" r="{radius + _RING:.2f}"/>'


def _steps(front: Sequence[_Dot]) -> str:
    """The line below and right of which every network is less accurate or slower than another."""
    corners: list[tuple[float, float]] = []
    for dot in sorted(front, key=lambda dot: (dot.x, dot.y)):
        if corners and dot.y >= corners[-1][1]:
            continue  # on the front for being small
        if corners:
            corners.append((dot.x, corners[-1][1]))
        corners.append((dot.x, dot.y))
    path = " ".join(f"{across:.2f},{down:.2f}" for across, down in corners)
    return f'<polyline class="steps" points="{path}"/>' if len(corners) > 1 else ""


def _labels(named: Sequence[_Dot], others: Sequence[_Dot]) -> str:
    """Numbers of trials beside their dots, where there is room: the first of `named` first."""
    taken = [dot.box() for dot in named]
    crowd = [dot.box(_GAP) for dot in others]  # a label so near would seem to be theirs
    parts = []
    for dot in named:
        text = str(dot.candidate.trial.number)
        places = [
            box
            for box in _places(dot, _LETTER * len(text))
            if box.left >= PLOT_LEFT
            and box.right <= WIDTH
            and box.top >= PLOT_TOP - _LINE
            and box.bottom <= PLOT_BOTTOM
            and not any(box.meets(other) for other in taken)
        ]
        if not places:
            continue  # the table has it
        place = min(places, key=lambda box: sum(box.meets(other) for other in crowd))
        taken.append(place)
        parts.append(
            f'<text class="label" x="{place.left:.2f}" y="{place.bottom - 3:.2f}">{text}</text>'
        )
    return "".join(parts)


def _places(dot: _Dot, width: float) -> list[_Box]:
    """Where a label can stand: above, right, left, below, and at the corners."""
    away = dot.radius + _GAP
    across = {"middle": dot.x - width / 2, "right": dot.x + away, "left": dot.x - away - width}
    down = {"above": dot.y - away - _LINE, "middle": dot.y - _LINE / 2, "below": dot.y + away}
    order = [("middle", "above"), ("right", "middle"), ("left", "middle"), ("middle", "below")]
    order += product(("right", "left"), ("above", "below"))
    return [_Box(across[i], down[j], across[i] + width, down[j] + _LINE) for i, j in order]


def _legend(has_baseline: bool, most: int, scale: float) -> str:
    """What the shapes mean, in a row, and the sizes, in a second one."""
    top, second, size = 18, 44, 6.0
    items = [
        (70, "complete trial", f'<circle class="dot" cx="0" cy="0" r="{size}"/>'),
        (206, "Pareto front", f'<circle class="front" cx="0" cy="0" r="{size}"/>'),
        (332, "best score", _ring(0, 0, size - 2)),
    ]
    if has_baseline:
        items.append((446, "baseline", _square(0, 0, size - 2)))
    parts = [
        f'<g transform="translate({left},{top})">{shape}<text x="14" y="4">{text}</text></g>'
        for left, text, shape in items
    ]
    large = tick_step(most, 1)
    left = 70.0
    for parameters in (large, large / _SIZE_STEP):
        parts.append(
            f'<g transform="translate({left},{second})">'
            f'<circle class="dot" cx="0" cy="0" r="{_radius(parameters, scale):.2f}"/>'
            f'<text x="18" y="4">{parameters / 1e6:g} M parameters</text></g>'
        )
        left += 150
    return "".join(parts)
