"""The measurements as Markdown tables for people and as plain data for programs."""

from collections.abc import Iterable, Sequence

import numpy as np

from keras_effnetv2.benchmark.comparison import Timed
from keras_effnetv2.benchmark.paper_figures import TABLE_7, TABLE_11


def speed_table(group: Sequence[Timed]) -> str:
    """Return the Markdown table of one group; times are compared with the first row."""
    judged = list(dict.fromkeys(name for timed in group for name in timed.figures))
    header = ["network", "format", "MB", "largest difference", "same class"]
    header += [name.replace("_", " ") for name in judged]
    for batch_size in group[0].seconds:
        header += [f"ms for {batch_size} (p95)", "pictures/s", "time"]
    rows = []
    for timed in group:
        cells = [timed.network, timed.format]
        cells.append("" if timed.bytes is None else f"{timed.bytes / 1e6:.1f}")
        cells += [f"{timed.max_difference:.1e}", f"{timed.top1_agreement:.1%}"]
        cells += [f"{timed.figures[name]:.1%}" if name in timed.figures else "" for name in judged]
        for batch_size, seconds in timed.seconds.items():
            median, p95 = timed.median(batch_size), np.percentile(seconds, 95)
            cells += [f"{1e3 * median:.1f} ({1e3 * p95:.1f})", f"{batch_size / median:.1f}"]
            cells.append(f"{timed.time_ratio[batch_size]:.2f}")
        rows.append(cells)
    return markdown_table(header, rows)


def paper_table(groups: Iterable[Sequence[Timed]]) -> str:
    """Return the paper's Tables 7 and 11 next to the measurements; "" without such a network.

    The measurement is that of the fastest format of each network, at its best batch size.
    """
    header = ["network", "pixels", "parameters, M: paper", "here", "FLOPs, B: paper", "here"]
    header += ["top-1, % (7)", "V100, ms for 16 (7)", "training, TPU core hours / 32 (7)"]
    header += ["top-1, % (11)", "V100, pictures/s (11)", "pictures/s here", "format"]
    printed = [(TABLE_7, field) for field in ("top1", "infer_ms", "train_hours")]
    printed += [(TABLE_11, field) for field in ("top1", "throughput")]
    fastest: dict[str, Timed] = {}
    for timed in (timed for group in groups for timed in group):
        best = fastest.setdefault(timed.network, timed)
        fastest[timed.network] = max(best, timed, key=Timed.throughput)
    rows = []
    for name, timed in fastest.items():
        if (row := TABLE_7.get(name) or TABLE_11.get(name)) is None:
            continue
        cells = [name, str(timed.image_size)]
        cells += [f"{row.parameters:g}", f"{timed.parameters / 1e6:.2f}"]
        cells += [f"{row.flops:g}", f"{timed.flops / 1e9:.2f}"]
        values = [getattr(table.get(name), field, None) for table, field in printed]
        cells += ["" if value is None else f"{value:g}" for value in values]
        rows.append([*cells, f"{timed.throughput():.1f}", timed.format])
    return markdown_table(header, rows) if rows else ""


def as_data(groups: Iterable[Sequence[Timed]]) -> list[dict[str, object]]:
    """Return plain data for JSON for each format of each network, with all times in seconds."""
    return [
        {
            **{name: value for name, value in vars(timed).items() if name != "figures"},
            **timed.figures,
            "seconds": {size: times.tolist() for size, times in timed.seconds.items()},
            "compared_with": f"{group[0].network} {group[0].format}",
        }
        for group in groups
        for timed in group
    ]


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a Markdown table of a header and rows with the same number of cells."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
