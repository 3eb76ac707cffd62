"""The chart of a search: accuracy against step time."""

import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.text import counted
from keras_effnetv2.report.figures import BLUE, INK, ORANGE, drawing, to_svg
from keras_effnetv2.report.style import plain_text
from keras_effnetv2.search.record import Candidate, Findings
from keras_effnetv2.search.summary import one_line

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_LARGEST = 24.0  # diameter of the network with the most parameters, of up to 100 networks, pixels
_LARGEST_OF_MANY = 12.0  # the same of 400 and more, which would hide each other
_SMALLEST = 4.0  # diameter; a smaller dot is not seen
_LETTER, _LINE, _GAP = 8.0, 13.0, 5.0  # width and height of a digit, and its distance from a dot
# A file of its own has no page around it that says which colour its letters have.
_STANDALONE = (
    "<style>svg{color:#1c2024;background:#fff;color-scheme:light dark}"
    "@media(prefers-color-scheme:dark){svg{color:#e6e8eb;background:#14171a}}</style>"
)


def pareto_chart(findings: Findings, baseline_name: str, *, standalone: bool) -> str:
    """Draw accuracy against step time for all complete trials; a dot's size shows the parameters.

    The front has another colour, the baseline a square around it, the best score a dashed ring. A
    step line joins the networks that no other one beats in accuracy and step time. Networks of the
    front below it are there because they are small. Each dot has a title with its trial.

    Args:
        findings: with at least one candidate.
        baseline_name: name of the network that step times are compared with.
        standalone: make an SVG file with its own style sheet instead of an `<svg>` for a page.
    """
    found, front = findings.candidates, findings.front
    on_front = {one.number for one in front}
    # Large dots first, so that small ones lie on top of them.
    others = sorted(
        (one for one in found if one.number not in on_front), key=lambda one: -one.parameters
    )
    special = [one for one in (findings.best, findings.baseline) if one is not None]
    with drawing(640, 450) as figure:
        axes = figure.subplots()
        axes.set_xlabel(f"time of a training step, relative to {baseline_name}")
        axes.set_ylabel("accuracy, %")
        axes.margins(0.06)
        most = max(one.parameters for one in found)
        largest = min(_LARGEST, max(_LARGEST_OF_MANY, 10 * _LARGEST / len(found) ** 0.5))

        def diameter(parameters: float) -> float:
            """Return the diameter of a dot with a visible area in proportion to the parameters."""
            return max(_SMALLEST, largest * (parameters / most) ** 0.5)

        def dots(shown: Sequence[Candidate], label: str, margin: float = 0, **look: Any) -> None:
            sizes = [(diameter(one.parameters) + margin) ** 2 for one in shown]
            points = [_point(one) for one in shown] or [(float("nan"), float("nan"))]
            x, y = zip(*points, strict=True)
            axes.scatter(x, y, sizes or [100], label=label, **look)

        plain: dict[str, Any] = {"facecolor": (BLUE, 0.35), "edgecolor": BLUE, "clip_on": False}
        edged: dict[str, Any] = {"edgecolor": INK, "linewidth": 1.3, "clip_on": False}
        dots(others, "complete trial", gid="others", **plain)
        steps = zip(*map(_point, _fastest_first(front)), strict=True)
        axes.step(*steps, where="post", color=ORANGE, zorder=0.9)
        dots(front, "Pareto front", gid="front", facecolor=ORANGE, **edged)
        for one, label, margin, shape in (
            (findings.best, "best score", 6, {"linestyle": (0, (2, 1.5))}),
            (findings.baseline, "baseline", 9, {"marker": "s"}),
        ):
            if one is not None:
                dots([one], label, margin, facecolor="none", **edged, **shape)
        for parameters in (float(f"{most:.0e}"), float(f"{most / 5:.0e}")):
            label = f"{parameters / 1e6:g} M parameters"
            axes.scatter([], [], diameter(parameters) ** 2, label=label, **plain)
        limits = axes.get_ylim()
        axes.set_yticks([tick for tick in axes.get_yticks() if 0 <= tick <= 100])
        axes.set_ylim(limits)
        figure.legend(loc="outside upper left", ncols=3, labelspacing=0.9)
        figure.draw_without_rendering()  # places the axes, and with them the dots
        _label(axes, list(dict.fromkeys([*special, *front])), diameter)
        spoken = [f"Accuracy against step time of {counted(len(found), 'network')}"]
        spoken += [one_line(one) for one in special]
        svg = to_svg(figure, "; ".join(spoken))
    for gid, shown in (("others", others), ("front", front)):
        svg = _with_titles(svg, gid, shown)
    return svg.replace(">", f">{_STANDALONE}", 1) if standalone else svg


def _point(one: Candidate) -> tuple[float, float]:
    return one.step_time, 100 * one.accuracy


def _fastest_first(front: Sequence[Candidate]) -> list[Candidate]:
    """The networks that no other one beats in accuracy and step time."""
    kept: list[Candidate] = []
    for one in sorted(front, key=lambda one: (one.step_time, -one.accuracy)):
        if not kept or one.accuracy > kept[-1].accuracy:
            kept.append(one)
    return kept


def _label(axes: "Axes", named: Sequence[Candidate], diameter: Callable[[float], float]) -> None:
    """Write numbers of trials next to their dots, in order, while there is space."""
    from matplotlib.transforms import Bbox

    def box(one: Candidate, width: float, height: float, shift: tuple[float, float]) -> Bbox:
        x, y = axes.transData.transform(_point(one)) + shift
        return Bbox.from_bounds(x - width / 2, y - height / 2, width, height)

    sides = [diameter(one.parameters) for one in named]
    taken = [box(one, side, side, (0, 0)) for one, side in zip(named, sides, strict=True)]
    for one, side in zip(named, sides, strict=True):
        text = str(one.number)
        width, away = _LETTER * len(text), side / 2 + _GAP
        up, across = away + _LINE / 2, away + width / 2
        for shift in ((0, up), (across, 0), (-across, 0), (0, -up)):
            place = box(one, width, _LINE, shift)
            if not place.count_overlaps(taken):
                taken.append(place)
                middle: dict[str, Any] = {"ha": "center", "va": "center"}
                axes.annotate(text, _point(one), shift, textcoords="offset points", **middle)
                break  # without a place the table has it


def _with_titles(svg: str, gid: str, shown: Sequence[Candidate]) -> str:
    """Give each dot of a group a title with its trial, which a browser shows under the mouse."""
    if not shown:
        return svg
    before, start, dots = svg.partition(f'<g id="{gid}">')
    titles = iter([f"<title>{plain_text(one_line(one))}</title>" for one in shown])

    def titled(dot: re.Match[str]) -> str:
        return f"<{dot[1]} {dot[2]}>{next(titles)}</{dot[1]}>"

    pattern = r"<(path|use) (?!id=)([^>]*)/>"
    return before + start + re.sub(pattern, titled, dots, count=len(shown))
