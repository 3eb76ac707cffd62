"""What was measured of a table of the paper, beside its figures, and what it says of its claims."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from benchmarks.paper.measure import OUT_OF_MEMORY, Measured
from benchmarks.paper.tables import Claim, Cost, PaperTable, Speed
from keras_effnetv2.benchmark.comparison_report import markdown_table

_NOISE = 0.05  # a smaller difference of speed counts as none

Results = Sequence[Sequence[Measured]]
"""What each call of `measure.measure_group` returned."""


def results_table(table: PaperTable, results: Results) -> str:
    """Return a Markdown table of the paper's figures and those measured here.

    In brackets stands how they compare with the first network of the group: parameters and
    multiply-adds in percent, speeds as how many times as fast.

    Args:
        table: the table.
        results: of all its groups, in each with the same tasks and batch sizes.
    """
    pairs_of_group = [[(one, turn[0]) for one in turn] for turn in results]
    rows = []
    for entry in (entry for group in table.groups for entry in group):
        pairs = [pair for turn in pairs_of_group for pair in turn if pair[0].entry == entry]
        cells = {"network": entry.label}
        for one, _ in pairs:
            cells[f"{one.task}, pixels: original"] = str(entry.image_size[one.task])
            cells[f"{one.task}, pixels here"] = str(one.image_size)
        for cost in table.costs:
            cells |= _cost_cells(cost, *pairs[0])
        cells["top-1, %: paper"] = str(entry.paper.top1)
        for column in table.speeds:
            cells[f"{column.title}: paper"] = _paper_speed(column, *pairs[0])
        for one, first in pairs:
            title = f"{one.task} here, pictures/s, {one.batch_size} at once"
            cells[title] = _measured_speed(one, first)
        rows.append(cells)
    return markdown_table(list(rows[0]), [list(cells.values()) for cells in rows])


def sentences(table: PaperTable, results: Results) -> list[str]:
    """Return whether each claim of the paper holds here, and what only some networks had room for.

    Args:
        table: the table.
        results: of all its groups.
    """
    return [_judge(claim, table, results) for claim in table.claims] + _shortages(results)


def as_data(results: Results) -> list[dict[str, Any]]:
    """Return one JSON object for each network, task and batch size, with all times in seconds."""
    return [
        {
            "network": one.entry.label,
            "task": one.task,
            "batch_size": one.batch_size,
            "image_size": one.image_size,
            "parameters": one.parameters,
            "flops": one.flops,
            "flops_size": one.entry.flops_size,
            "seconds": None if one.seconds is None else one.seconds.tolist(),
            "speed": one.speed(turn[0]),
            "compared_with": turn[0].entry.label,
            "obstacle": one.obstacle,
            "paper": one.entry.paper._asdict(),
        }
        for turn in results
        for one in turn
    ]


def _cost_cells(cost: Cost, one: Measured, first: Measured) -> dict[str, str]:
    """The paper's figure and ours, by title."""
    paper, paper_first = cost.paper(one.entry.paper), cost.paper(first.entry.paper)
    here, here_first = (cost.here(each.parameters, each.flops) for each in (one, first))
    return {
        f"{cost.title}: paper": f"{paper}{_change(paper, paper_first)}",
        f"{cost.title} here": f"{here:.2f}{_change(here, here_first)}",
    }


def _paper_speed(column: Speed, one: Measured, first: Measured) -> str:
    value = column.paper(one.entry.paper)
    if value is None:
        return OUT_OF_MEMORY
    return f"{value}{_times(column.ratio(one.entry, first.entry))}"


def _measured_speed(one: Measured, first: Measured) -> str:
    throughput = one.throughput()
    if throughput is None:
        return str(one.obstacle)
    return f"{throughput:.2f}{_times(one.speed(first))}"


def _change(value: float, first: float) -> str:
    return "" if value == first else f" ({value / first - 1:+.0%})"


def _times(speed: float | None) -> str:
    return "" if speed is None else f" ({speed:.2f}x)"


def _judge(claim: Claim, table: PaperTable, results: Results) -> str:
    """Say whether a claim holds here, with all figures of what it compares."""
    here, paper = defaultdict(list), defaultdict(list)
    for turn in results:
        speed = turn[claim.faster].speed(turn[claim.slower])
        if speed is not None:
            here[f"{turn[0].task}, {turn[0].batch_size} at once"].append(speed)
    for column in table.speeds:
        for group in table.groups:
            ratio = column.ratio(group[claim.faster], group[claim.slower])
            if ratio is not None:
                paper[column.title].append(ratio)
    figures = f"in the paper {_figures(paper)}"
    speeds = [speed for found in here.values() for speed in found]
    if not speeds:
        return f"{claim.text}: cannot be judged here, for lack of memory; {figures}."
    faster = sum(speed > 1 + _NOISE for speed in speeds)
    if 0 < faster < len(speeds):
        verdict = f"holds here in {faster} of {len(speeds)} measurements"
    else:
        verdict = "holds here" if faster else "does not hold here"
    return f"{claim.text}: {verdict}, {_figures(here)}; {figures}."


def _shortages(results: Results) -> list[str]:
    """A sentence for each batch that was too large for some networks and not for others."""
    found = []
    for turn in results:
        lacking = [one for one in turn if one.obstacle is not None]
        if 0 < len(lacking) < len(turn):
            names = ", ".join(f"{one.entry.label} at {one.image_size} pixels" for one in lacking)
            found.append(
                f"{turn[0].batch_size} at once ({turn[0].task}) was too much for the memory with "
                f"{names}, and not with the others."
            )
    return found


def _figures(speeds: dict[str, list[float]]) -> str:
    return ", ".join(
        f"{', '.join(f'{value:.2f}x' for value in values)} ({title})"
        for title, values in speeds.items()
    )
