"""The report of a search: one HTML page, and its parts as files for programs.

The page's size is limited: tables have at most `summary.MAX_ROWS` trials, and the chart of a
thousand complete ones takes half a megabyte.
"""

import contextlib
import csv
import io
import json
import os
import shlex
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from statistics import fmean
from typing import Any

from keras_effnetv2._common.files import write_text
from keras_effnetv2.architectures.stage import encode_stages
from keras_effnetv2.report.style import Table, render
from keras_effnetv2.search.pareto_chart import pareto_chart
from keras_effnetv2.search.record import Candidate, Findings, StudyRecord, TrialRecord, find
from keras_effnetv2.search.space import StageChoices, parameter_name
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

_CHOICES = tuple(field.name for field in fields(StageChoices))
_FEWEST = 3  # trials of a choice, of which a mean is shown
_LETTERS = 80  # of a cell: the choices of six stages


def render_search_report(study: StudyRecord) -> str:
    """Return a study as a single HTML page. Equal studies give equal pages."""
    findings = find(study)
    links = [("space", "Space"), ("settings", "Settings"), ("trials", "Trials")]
    chart = None
    if findings.best is not None:
        links = [("picture", "Picture"), ("front", "Front"), ("best", "Best network"), *links]
        chart = pareto_chart(findings, study.baseline.name, standalone=False)
    return render(
        "search.html",
        title=f"Architecture search: {study.name}",
        links=links,
        summary=overview(study, findings),
        cautions=cautions(study, findings) or [NOTHING_YET],
        study=study,
        findings=findings,
        chart=chart,
        front=front_table(findings),
        shown_front=front_rows(findings)[:MAX_ROWS],
        spec=shlex.quote(study.settings["training"]["spec"]),
        best_file=BEST,
        encode_stages=encode_stages,
        fewest=_FEWEST,
        space=choices_table(study, findings),
        settings=list(_flat(study.settings)),
        trials=trials_table(study, findings),
    )


def write_results(study: StudyRecord, folder: str | os.PathLike[str]) -> list[Path]:
    """Write the results of a study; make the folder if it is missing.

    `report.html` is the page of `render_search_report`; `best.json` the network with the highest
    score, for `train --model`; `front.csv` the Pareto front, with networks as block strings;
    `pareto.svg` the chart alone. Each is written whole or not at all. If no trial is complete, only
    the report is written, and the other files of earlier calls are removed.

    Returns:
        The paths of the files.

    Raises:
        OSError: a file cannot be written.
    """
    findings = find(study)
    texts = {REPORT: render_search_report(study)}
    if findings.best is not None:
        texts[BEST] = findings.best.config.to_json() + "\n"
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
    """The front as CSV text, with exact numbers."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ("trial", "score", "accuracy", "step_time", "step_seconds", "parameters")
    writer.writerow((*header, "head_filters", "blocks"))
    for one in front:
        figures = (one.score, one.accuracy, one.step_time, one.step_seconds, one.parameters)
        blocks = " ".join(encode_stages(one.config.stages))
        writer.writerow((one.number, *figures, one.config.head_filters, blocks))
    return text.getvalue()


def front_table(findings: Findings) -> Table:
    """Return the table of the Pareto front, and the baseline below it."""
    rows = [
        (trial.number, findings.marks(trial), short_blocks(trial.config), *measures(trial))
        for trial in front_rows(findings)
    ]
    return _cut("The most accurate first", ("trial", "note", "network", *MEASURES), 3, rows)


def trials_table(study: StudyRecord, findings: Findings) -> Table:
    """Return the table of all trials."""
    rows = [
        (
            *(trial.number, trial.state, trial.reason or findings.marks(trial)),
            *(short_blocks(trial.config), *measures(trial), trial.epochs),
        )
        for trial in sorted(study.trials, key=_best_first)
    ]
    header = ("trial", "state", "note", "network", *MEASURES, "epochs")
    return _cut("The highest score first, then trials that are not complete", header, 4, rows)


def _best_first(trial: TrialRecord) -> tuple[int, float, int]:
    return STATES.index(trial.state), -(trial.score or 0.0), trial.number


def _cut(caption: str, header: Sequence[str], words: int, rows: Sequence[Sequence[Any]]) -> Table:
    """A table of at most `MAX_ROWS` rows; its caption says how many are left out."""
    if len(rows) > MAX_ROWS:
        caption += f"; {len(rows) - MAX_ROWS:,} more are not shown"
    return Table(caption, header, words, rows[:MAX_ROWS], _LETTERS)


def choices_table(study: StudyRecord, findings: Findings) -> Table:
    """Return the choices of every stage, with the mean scores of those tried often enough."""
    scores: dict[tuple[str, str | int], list[float]] = defaultdict(list)
    for one in findings.candidates:
        with contextlib.suppress(ValueError):  # outside the space, as a baseline can be
            for choice in study.space.parameters_of(one.config).items():
                scores[choice].append(one.score)

    def cell(parameter: str) -> list[tuple[str, bool]]:
        """Lines, and whether each is the best."""
        choices = study.space.parameters[parameter]
        tried = {choice: scores[parameter, choice] for choice in choices}
        means = {choice: fmean(of) for choice, of in tried.items() if len(of) >= _FEWEST}
        if len(means) < 2:
            return [(str(choice), False) for choice in choices]
        words = {choice: f": {mean:.4f} ({len(tried[choice])})" for choice, mean in means.items()}
        best = max(means.values())
        return [(f"{one}{words.get(one, '')}", means.get(one) == best) for one in choices]

    rows = [
        (
            *(number, *(cell(parameter_name(number, choice)) for choice in _CHOICES)),
            *(stage.output_filters, stage.strides),
        )
        for number, stage in enumerate(study.space.backbone.stages, start=1)
    ]
    return Table("Choices of every stage", ("stage", *_CHOICES, "filters", "stride"), 5, rows)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """(label, value) of all settings; nested ones are named like "recipe.epochs"."""
    for key, value in settings.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            yield f"{prefix}{key}", text
