"""A search in words: the output of `search show`, and the format of figures and networks."""

from collections import Counter

from keras_effnetv2._common.text import aligned, counted, printable
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.stage import encode_stages
from keras_effnetv2.search.record import Findings, StudyRecord, TrialRecord, TrialState, best, find

STATES: tuple[TrialState, ...] = ("complete", "pruned", "failed", "running")
MEASURES = ("score", "accuracy", "step time", "parameters")
NOTHING_YET = "No trial is complete yet."
MAX_ROWS = 200  # trials in a table; a page of more is slow to read and to load

_FEW_TRIALS = 40  # with fewer the choice of a stage, of 2 to 3, has been seen some ten times


def measures(trial: TrialRecord) -> tuple[str, str, str, str]:
    """Return the `MEASURES` of a trial in words, "-" for unknown ones."""
    ms = "" if trial.step_seconds is None else f" ({1e3 * trial.step_seconds:.1f} ms)"
    return (
        "-" if trial.score is None else f"{trial.score:.4f}",
        "-" if trial.accuracy is None else f"{100 * trial.accuracy:.2f} %",
        "-" if trial.step_time is None else f"{trial.step_time:.2f} x baseline{ms}",
        "-" if trial.parameters is None else f"{trial.parameters / 1e6:.2f} M",
    )


def short_blocks(config: ModelConfig) -> str:
    """Return the stages as block strings, without the parts that a search does not change."""
    return " ".join(
        f"r{stage.repeats}_k{stage.kernel_size}_e{stage.expand_ratio}"
        + ("_c1" if stage.conv == "fused" else "")
        for stage in config.stages
    )


def overview(study: StudyRecord, findings: Findings) -> list[tuple[str, str]]:
    """Return labels and values of the most important facts."""
    states = Counter(trial.state for trial in study.trials)
    counts = ", ".join(f"{states[state]:,} {state}" for state in STATES if states[state])
    exponents = study.settings["objective"]
    rows = [
        ("study", f"{study.name} in {study.storage}"),
        ("trials", f"{len(study.trials):,}" + (f": {counts}" if counts else "")),
        ("space", f"{counted(study.space.size, 'network')} around {study.space.backbone.name}"),
        (
            "score",
            f"accuracy x step time^{exponents['step_time_exponent']:g}"
            f" x parameters^{exponents['parameters_exponent']:g}",
        ),
    ]
    reasons = Counter(trial.reason for trial in study.trials if trial.reason is not None)
    rows += [(f"{count:,} failed", reason) for reason, count in reasons.most_common(5)]
    if findings.best is None:
        return rows
    rows.append(("best", one_line(findings.best)))
    baseline = findings.baseline
    if baseline is None:
        rows.append(("baseline", f"no complete trial of {study.baseline.name}"))
        return rows
    rows.append(("baseline", one_line(baseline)))
    small = best(findings.candidates, max_parameters=baseline.parameters)
    if small is not None and small is not findings.best:
        rows.append(("best, not larger", one_line(small)))
    return rows


def one_line(trial: TrialRecord) -> str:
    """Return a trial and its measures in one line."""
    score, accuracy, step_time, parameters = measures(trial)
    return (
        f"trial {trial.number}: score {score}, accuracy {accuracy}, step time {step_time}, "
        f"{parameters} parameters"
    )


def cautions(study: StudyRecord, findings: Findings) -> list[str]:
    """Return warnings about the result; none for an empty study."""
    complete = len(findings.candidates)
    if not complete:
        return []
    few = (
        f"Few trials are complete: {complete} of {study.space.size:,} networks. The first "
        "ones are random, and the sampler needs more to learn from. Repeat the command with a "
        "larger number of trials to continue."
    )
    chance = (
        "Accuracies after a short training differ by chance. Train the best networks longer and "
        "with 3 seeds before you trust their order."
    )
    return [few, chance] if complete < min(_FEW_TRIALS, study.space.size) else [chance]


def front_rows(findings: Findings) -> list[TrialRecord]:
    """Return the trials of the front, and the baseline last if it is not among them."""
    rows: list[TrialRecord] = [*findings.front]
    if findings.baseline is not None and findings.baseline not in rows:
        rows.append(findings.baseline)
    return rows


def describe(study: StudyRecord) -> str:
    """Describe a study for the terminal: its trials, the front and the best network.

    Returns:
        Lines without control characters, whatever the names in the study are.
    """
    findings = find(study)
    lines = aligned(overview(study, findings), left=(0, 1))
    if findings.best is None:
        return "\n".join([*lines, "", NOTHING_YET])
    rows = front_rows(findings)
    header = ("trial", *MEASURES, "")
    cells = [(str(t.number), *measures(t), findings.marks(t)) for t in rows[:MAX_ROWS]]
    complete = counted(len(findings.candidates), "complete trial")
    lines += ["", f"Pareto front, {len(findings.front):,} of {complete}"]
    lines += aligned([header, *cells], left=(5,))
    if len(rows) > MAX_ROWS:
        lines.append(f"{len(rows) - MAX_ROWS:,} more are not shown.")
    config = findings.best.config
    lines += ["", f"Best network, trial {findings.best.number}"]
    lines += encode_stages(config.stages)
    lines.append(f"head of {config.head_filters} filters")
    for caution in cautions(study, findings):
        lines += ["", caution]
    return "\n".join(map(printable, lines))
