"""The report of a search: one HTML page, and its parts as files for programs.

The page needs nothing else (see `report_style.py`). Its size is bounded: tables of at most
`summary.MAX_ROWS` trials; of a thousand complete ones the picture takes half a megabyte.
"""

import contextlib
import csv
import io
import json
import os
import shlex
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from statistics import fmean
from typing import Any

from keras_effnetv2._common.files import write_text
from keras_effnetv2.architectures.config import ModelConfig, encode_stages
from keras_effnetv2.report.style import (
    clean_text,
    data_table,
    name_html,
    page_html,
    plain_text,
    section_html,
    summary_table,
)
from keras_effnetv2.search.chart import pareto_chart
from keras_effnetv2.search.front import Candidate, Findings, find
from keras_effnetv2.search.record import StudyRecord, TrialRecord
from keras_effnetv2.search.summary import (
    MAX_ROWS,
    MEASURES,
    NOTHING_YET,
    STATES,
    cautions,
    front_rows,
    measures,
    overview,
    short_blocks,
)

REPORT, BEST, FRONT, PICTURE = "report.html", "best.json", "front.csv", "pareto.svg"

_CHOICES = ("conv", "kernel", "expand", "layers")
_FEWEST = 3  # trials of a choice, of which a mean is shown


def render_search_report(study: StudyRecord) -> str:
    """Returns a study as one HTML page that needs no other file; the same study, the same page."""
    findings = find(study)
    sections = [
        _summary(study, findings),
        section_html("picture", "Accuracy against step time", _picture(study, findings)),
        section_html("front", "Pareto front", _front(findings)),
        section_html("best", "Best network", _best(study, findings)),
        section_html("space", "What was searched", _space(study, findings)),
        section_html("settings", "Settings", summary_table(list(_flat(study.settings)))),
        section_html("trials", "All trials", _trials(study, findings)),
    ]
    links = (
        ("picture", "Picture"),
        ("front", "Front"),
        ("best", "Best network"),
        ("space", "Space"),
        ("settings", "Settings"),
        ("trials", "Trials"),
    )
    return page_html(f"Architecture search: {study.name}", links, sections)


def write_results(study: StudyRecord, folder: str | os.PathLike[str]) -> list[Path]:
    """Writes what a study has found; makes the folder where it is missing.

    `report.html` is `render_search_report`; `best.json` the network with the highest score, for
    `train --model`; `front.csv` the Pareto front, the networks as block strings; `pareto.svg` the
    picture alone. Each is written whole or not at all. While no trial is complete there is only
    the report, and what an earlier call left of the others is removed.

    Returns:
        The paths that were written.

    Raises:
        OSError: a file cannot be written.
    """
    findings = find(study)
    texts = {REPORT: render_search_report(study)}
    if findings.best is not None:
        texts[BEST] = findings.best.trial.config.to_json() + "\n"
        texts[FRONT] = _to_csv(findings.front)
        texts[PICTURE] = pareto_chart(findings, study.baseline.name, standalone=True) + "\n"
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name in (BEST, FRONT, PICTURE):
        if name not in texts:
            (folder / name).unlink(missing_ok=True)
    for name, text in texts.items():
        write_text(folder / name, text)
    return [folder / name for name in texts]


def _to_csv(front: Sequence[Candidate]) -> str:
    """The front as CSV text; its numbers read back exactly."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("trial", "score", "accuracy", "step_time", "step_seconds", "parameters")
    writer.writerow((*header, "head_filters", "blocks"))
    for one in front:
        config = one.trial.config
        writer.writerow(
            (
                *(one.trial.number, one.score, one.accuracy, one.step_time),
                *(one.trial.step_seconds, one.parameters),
                *(config.head_filters, " ".join(encode_stages(config.stages))),
            )
        )
    return text.getvalue()


def _summary(study: StudyRecord, findings: Findings) -> str:
    notes = "".join(f"<p>{plain_text(caution)}</p>" for caution in cautions(study, findings))
    return section_html("summary", "Summary", summary_table(overview(study, findings)) + notes)


def _picture(study: StudyRecord, findings: Findings) -> str:
    if findings.best is None:
        return f"<p>{NOTHING_YET}</p>"
    chart = pareto_chart(findings, study.baseline.name, standalone=False)
    left_out = len(study.trials) - len(findings.candidates)
    words = [
        "Numbers are those of trials. No network is both more accurate and faster than one on the "
        "line; what is on the front below it is smaller."
    ]
    if findings.baseline is None:
        words.append(f"There is no complete trial of the baseline, {study.baseline.name}.")
    if left_out:
        words.append(f"Not in the picture: {left_out:,} trials that are not complete.")
    caption = "".join(f"<span>{plain_text(line)}</span>" for line in words)
    return (
        f'<figure class="chart"><div class="scroll" role="region" aria-label="Picture"'
        f' tabindex="0">{chart}</div><figcaption>{caption}</figcaption></figure>'
    )


def _front(findings: Findings) -> str:
    if findings.best is None:
        return f"<p>{NOTHING_YET}</p>"
    rows = front_rows(findings)
    shown = rows[:MAX_ROWS]
    cells = [
        f'<tr><th scope="row">{trial.number}</th><td>{findings.marks(trial)}</td>'
        f"{_network_cell(trial.config)}{_measure_cells(trial)}</tr>"
        for trial in shown
    ]
    note = (
        f"<p>{len(findings.front):,} of {len(findings.candidates):,} complete trials: no other"
        " network beats these in accuracy, step time and parameters at once.</p>"
    )
    table = data_table("The most accurate first", 3, ("trial", "note", "network", *MEASURES), cells)
    configs = "".join(
        f"<details><summary>Trial {trial.number} as JSON</summary>{_code(trial.config.to_json())}"
        "</details>"
        for trial in shown
    )
    return note + table + _left_out(len(rows) - len(shown)) + configs


def _best(study: StudyRecord, findings: Findings) -> str:
    if findings.best is None:
        return f"<p>{NOTHING_YET}</p>"
    config = findings.best.trial.config
    spec = shlex.quote(study.settings["training"]["spec"])
    command = f"keras-effnetv2 train --data {spec} --model {BEST} --output runs/best --seed 0"
    return (
        f"<p>Trial {findings.best.trial.number} has the highest score. To train it:</p>"
        f"{_code(command)}"
        f"<p>Its stages as block strings, under a head of {config.head_filters} filters:</p>"
        f"{_code(chr(10).join(encode_stages(config.stages)))}"
        f"<p>The whole network, which is the file {BEST}:</p>{_code(config.to_json())}"
    )


def _space(study: StudyRecord, findings: Findings) -> str:
    """The choices of every stage, with the mean score of those that were tried often enough."""
    exponents = study.settings["objective"]
    chosen = _scores_by_choice(study, findings)
    rows = []
    for number, stage in enumerate(study.space.backbone.stages, start=1):
        cells = "".join(f"<td>{_choices(chosen[f'stage{number}_{c}'])}</td>" for c in _CHOICES)
        rows.append(
            f'<tr><th scope="row">{number}</th>{cells}'
            f'<td class="number">{stage.output_filters}</td>'
            f'<td class="number">{stage.strides}</td></tr>'
        )
    formula = (
        "<p>Score: accuracy \N{MULTIPLICATION SIGN} step time"
        f"<sup>{exponents['step_time_exponent']:g}</sup> \N{MULTIPLICATION SIGN} parameters"
        f"<sup>{exponents['parameters_exponent']:g}</sup>, the step time over that of"
        f" {plain_text(study.baseline.name)}.</p>"
    )
    note = (
        f"<p>Beside a choice stands the mean score of its networks and their number, where at least"
        f" two choices have {_FEWEST} or more; the highest is bold. A hint and no proof: these"
        " networks differ elsewhere too, and a sampler tries more of what was good.</p>"
    )
    header = ("stage", *_CHOICES, "filters", "stride")
    return formula + note + data_table("Choices of every stage", 5, header, rows)


def _scores_by_choice(
    study: StudyRecord, findings: Findings
) -> dict[str, dict[str | int, list[float]]]:
    """Parameter of the space -> its choices -> scores of the networks that have it.

    A network outside the space, as a baseline can be, has none of its choices.
    """
    scores: dict[str, dict[str | int, list[float]]] = {
        parameter: {choice: [] for choice in choices}
        for parameter, choices in study.space.parameters.items()
    }
    for one in findings.candidates:
        with contextlib.suppress(ValueError):  # outside the space
            for parameter, choice in study.space.parameters_of(one.trial.config).items():
                scores[parameter][choice].append(one.score)
    return scores


def _choices(scores: Mapping[str | int, Sequence[float]]) -> str:
    means = {choice: fmean(of) for choice, of in scores.items() if len(of) >= _FEWEST}
    lines = []
    for choice, of in scores.items():
        text = str(choice)
        if choice in means and len(means) > 1:
            text = f"{choice}: {means[choice]:.4f} ({len(of)})"
        is_best = len(means) > 1 and means.get(choice) == max(means.values())
        lines.append(f"<div>{f'<strong>{text}</strong>' if is_best else text}</div>")
    return "".join(lines)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(label, value) of all settings, "recipe.epochs" for what lies in another."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", text


def _trials(study: StudyRecord, findings: Findings) -> str:
    if not study.trials:
        return "<p>No trial was begun.</p>"
    trials = sorted(study.trials, key=_best_first)
    shown = trials[:MAX_ROWS]
    rows = []
    for trial in shown:
        note = findings.marks(trial) if trial.reason is None else name_html(trial.reason, 60)
        rows.append(
            f'<tr><th scope="row">{trial.number}</th><td>{trial.state}</td><td>{note}</td>'
            f"{_network_cell(trial.config)}{_measure_cells(trial)}"
            f'<td class="number">{trial.epochs}</td></tr>'
        )
    header = ("trial", "state", "note", "network", *MEASURES, "epochs")
    table = data_table("The highest score first, then what is not complete", 4, header, rows)
    return table + _left_out(len(trials) - len(shown))


def _best_first(trial: TrialRecord) -> tuple[int, float, int]:
    return STATES.index(trial.state), -(trial.score or 0.0), trial.number


def _measure_cells(trial: TrialRecord) -> str:
    return "".join(f'<td class="number">{text}</td>' for text in measures(trial))


def _network_cell(config: ModelConfig) -> str:
    whole = " ".join(encode_stages(config.stages))
    return f'<td title="{plain_text(whole)}"><code>{plain_text(short_blocks(config))}</code></td>'


def _left_out(count: int) -> str:
    return f"<p>{count:,} more are not shown.</p>" if count else ""


def _code(text: str) -> str:
    """Lines as they are, for copying."""
    lines = "\n".join(escape(clean_text(line)) for line in text.split("\n"))
    return f'<pre class="code">{lines}</pre>'
