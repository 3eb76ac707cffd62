"""What was measured, as Markdown tables for people and as plain data for programs."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict

import numpy as np

from keras_effnetv2.benchmark.comparison import Timed
from keras_effnetv2.benchmark.paper_figures import TABLE_7, TABLE_11

_OF_TABLE_7 = ("top1", "infer_ms", "train_hours")
_OF_TABLE_11 = ("top1", "throughput")


def speed_table(group: Sequence[Timed]) -> str:
    """Return the Markdown table of one group; times are compared with the first row."""
    header = ["network", "format", "MB", "largest difference", "same class"]
    for batch_size in group[0].seconds:
        header += [f"ms for {batch_size} (p95)", "pictures/s", "time"]
    rows = []
    for timed in group:
        one = timed.contestant
        size = "" if one.bytes is None else f"{one.bytes / 1e6:.1f}"
        cells = [one.network, one.format, size, f"{one.max_difference:.1e}"]
        cells.append(f"{one.top1_agreement:.0%}")
        for batch_size, seconds in timed.seconds.items():
            median, p95 = timed.median(batch_size), np.percentile(seconds, 95)
            cells += [f"{1e3 * median:.1f} ({1e3 * p95:.1f})", f"{batch_size / median:.1f}"]
            cells.append(f"{timed.ratio[batch_size]:.2f}")
        rows.append(cells)
    return markdown_table(header, rows)


def paper_table(groups: Iterable[Sequence[Timed]]) -> str:
    """Return the paper's Tables 7 and 11 beside what was measured; "" if it has no such network.

    What is measured is the fastest format of each network, at its best batch size.
    """
    header = ["network", "pixels", "parameters, M: paper", "here", "FLOPs, B: paper", "here"]
    header += ["top-1, % (7)", "V100, ms for 16 (7)", "training, TPU core hours / 32 (7)"]
    header += ["top-1, % (11)", "V100, pictures/s (11)", "pictures/s here", "format"]
    rows = []
    for name, fastest in _fastest(groups).items():
        row7, row11 = TABLE_7.get(name), TABLE_11.get(name)
        row = row7 or row11
        if row is None:
            continue
        one = fastest.contestant
        cells = [name, str(one.image_size), f"{row.parameters:g}", f"{one.parameters / 1e6:.2f}"]
        cells += [f"{row.flops:g}", f"{one.flops / 1e9:.2f}"]
        for table_row, fields in ((row7, _OF_TABLE_7), (row11, _OF_TABLE_11)):
            values = (getattr(table_row, field, None) for field in fields)
            cells += ["" if value is None else f"{value:g}" for value in values]
        rows.append([*cells, f"{fastest.throughput():.1f}", one.format])
    return markdown_table(header, rows) if rows else ""


def as_data(groups: Iterable[Sequence[Timed]]) -> list[dict[str, object]]:
    """Return one JSON object for each contestant, with all times in seconds."""
    return [
        {
            **asdict(timed.contestant),
            "seconds": {str(size): times.tolist() for size, times in timed.seconds.items()},
            "time_ratio": {str(size): ratio for size, ratio in timed.ratio.items()},
            "compared_with": f"{group[0].contestant.network} {group[0].contestant.format}",
        }
        for group in groups
        for timed in group
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table.

    Args:
        header: a title for each column.
        rows: a text for each column.
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _fastest(groups: Iterable[Sequence[Timed]]) -> dict[str, Timed]:
    """Return the fastest format of each network."""
    fastest: dict[str, Timed] = {}
    for group in groups:
        for timed in group:
            name = timed.contestant.network
            if name not in fastest or timed.throughput() > fastest[name].throughput():
                fastest[name] = timed
    return fastest
