"""What is shown of a search: in the terminal, as a page, as a picture, as files."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from xml.etree import ElementTree

import pytest
from helpers.html_pages import HOSTILE, Page, assert_needs_no_other_file
from helpers.search_studies import BASELINE, complete, incomplete, large_study, network, study_of

from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.architectures.stage import decode_stages
from keras_effnetv2.search.pareto_chart import pareto_chart
from keras_effnetv2.search.record import find
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.study_page import (
    choices_table,
    front_table,
    render_search_report,
    trials_table,
    write_results,
)
from keras_effnetv2.search.summary import MAX_ROWS, describe

SMALL = study_of(
    complete(0, 0.70, 1.0, 6_000_000, BASELINE, score=0.3211),
    complete(1, 0.85, 1.5, 9_125_000, score=0.41239),
    incomplete(2, "pruned"),
    incomplete(3, "failed", "out of memory: 2.1 GiB"),
    complete(4, 0.60, 0.5, 2_000_000, score=0.3),
    complete(5, 0.60, 0.6, 6_000_000, score=0.2),
    incomplete(6, "running"),
)
STUDIES = {
    "small": SMALL,
    "empty": study_of(),
    "nothing complete": study_of(incomplete(0, "failed", "no"), incomplete(1, "running")),
    "one": study_of(complete(0, 0.5, 1.0, 5_000_000)),
    "equal": study_of(*(complete(i, 1.0, 0.83, 5_000_000) for i in range(3))),
    "accuracy 0": study_of(complete(0, 0.0, 1.0, 5_000_000), complete(1, 0.0, 1.1, 1)),
    "0 to 1": study_of(complete(0, 0.0, 1e-3, 5_000_000), complete(1, 1.0, 1e3, 10**12)),
    "not a number": study_of(complete(0, math.nan, 1.0, 5_000_000), complete(1, 0.5, 1.0, 7)),
}


def picture(study, standalone=False):
    return pareto_chart(find(study), study.baseline.name, standalone=standalone)


# ---- the terminal


def test_a_study_in_the_terminal():
    assert describe(SMALL).splitlines() == [
        "study             flowers in sqlite:///search.db",
        "trials            7: 4 complete, 1 pruned, 1 failed, 1 running",
        # 1 or 2 layers in the first stage, 3 numbers in the others; 2 x 2 x 3 of the rest
        f"space             {2 * 12 * (3 * 12) ** 5:,} networks around efficientnetv2-b0",
        "score             accuracy x step time^-0.07 x parameters^-0.05",
        "1 failed          out of memory: 2.1 GiB",
        "best              trial 1: score 0.4124, accuracy 85.00 %, step time 1.50 x baseline "
        "(75.0 ms), 9.12 M parameters",
        "baseline          trial 0: score 0.3211, accuracy 70.00 %, step time 1.00 x baseline "
        "(50.0 ms), 6.00 M parameters",
        "best, not larger  trial 0: score 0.3211, accuracy 70.00 %, step time 1.00 x baseline "
        "(50.0 ms), 6.00 M parameters",
        "",
        "Pareto front, 3 of 4 complete trials",
        "trial   score  accuracy                  step time  parameters",
        "    1  0.4124   85.00 %  1.50 x baseline (75.0 ms)      9.12 M  best, front",
        "    0  0.3211   70.00 %  1.00 x baseline (50.0 ms)      6.00 M  front, baseline",
        "    4  0.3000   60.00 %  0.50 x baseline (25.0 ms)      2.00 M  front",
        "",
        "Best network, trial 1",
        *json.loads(network(1).to_json())["stages"],
        "head of 1280 filters",
        "",
        "Few trials are complete: 4 of 1,451,188,224 networks. The first ones are random, and the "
        "sampler needs more to learn from. Repeat the command with a larger number of trials to "
        "continue.",
        "",
        "Accuracies after a short training differ by chance. Train the best networks longer and "
        "with 3 seeds before you trust their order.",
    ]


def test_a_baseline_that_is_beaten_closes_the_front():
    study = study_of(complete(0, 0.7, 1.0, 6_000_000, BASELINE), complete(1, 0.8, 0.9, 5_000_000))
    rows = describe(study).split("parameters\n")[-1].splitlines()[:2]
    assert [row.split()[0] for row in rows] == ["1", "0"]
    assert rows[0].endswith("  best, front")
    assert rows[1].endswith("  baseline")


def test_what_is_called_badly_cannot_reach_the_terminal():
    text = describe(study_of(incomplete(0, "failed", "\x1b[31m\r\nred"), name="a\x07b"))
    assert set(text) & {"\x1b", "\r", "\x07"} == set()
    assert "No trial is complete yet." in text


@pytest.mark.parametrize(
    ("trials", "is_few"), [(39, True), (40, False), (large_study(200), False), (0, None)]
)
def test_few_trials_are_said_to_be_few(trials, is_few):
    if isinstance(trials, int):
        trials = study_of(*(complete(i, 0.5, 1.0, 5) for i in range(trials)))
    text = describe(trials)
    assert ("Few trials" in text) == bool(is_few)
    assert ("differ by chance" in text) == (is_few is not None)


def test_a_small_space_that_was_tried_wholly_has_no_few_trials():
    space = SearchSpace.from_backbone(
        BASELINE, conv=("mbconv",), kernel=(3,), expand=(4,), layer_offsets=(0,)
    )
    first = replace(space.stages[0], expand=(1, 4, 6))
    space = replace(space, stages=(first, *space.stages[1:]))
    assert space.size == 3
    study = study_of(*(complete(i, 0.5, 1.0, 5) for i in range(3)), space=space)
    assert "Few trials" not in describe(study)
    assert "3 networks around" in describe(study)


# ---- the picture


def dots(svg):
    """Trial number -> middle and width of its dot."""
    found = re.findall(r'<path d="([^"]*)"[^>]*><title>trial (\d+)', svg)
    places = {}
    for path, number in found:
        numbers = [float(n) for n in re.findall(r"-?[\d.]+", path)]
        across, down = numbers[::2], numbers[1::2]
        middle = (max(across) + min(across)) / 2, (max(down) + min(down)) / 2
        places[int(number)] = (*middle, max(across) - min(across))
    return places


def test_networks_lie_where_they_were_measured_and_areas_are_parameters():
    trials = [(0.5, 1.0, 4_000_000), (0.7, 2.0, 2_000_000), (0.6, 2.0, 1_000_000)]
    found = dots(picture(study_of(*(complete(i, *trial) for i, trial in enumerate(trials)))))
    (x0, y0, d0), (x1, y1, d1), (x2, y2, d2) = (found[number] for number in range(3))
    assert x1 == pytest.approx(x2, abs=0.05)
    assert x0 < x1
    assert y2 == pytest.approx((y0 + y1) / 2, abs=0.05)  # the y axis of SVG points down
    assert y1 < y0
    assert (d1, d2) == (pytest.approx(d0 / 2**0.5, abs=0.05), pytest.approx(d0 / 2, abs=0.05))


def test_the_baseline_the_best_and_the_front_are_named():
    svg = picture(SMALL)
    words = re.findall(r">([^<>]+)</text>", svg)
    # Of 9.125 million parameters one digit, and a fifth.
    shapes = ["complete trial", "Pareto front", "best score", "baseline"]
    assert {*shapes, "9 M parameters", "2 M parameters"} <= {*words}
    assert {"0", "1", "4"} <= {*words}  # numbers of the front, beside their dots
    assert svg.count("<title>trial ") == 4  # what is not complete is not drawn
    assert "baseline" not in re.findall(r">([^<>]+)</text>", picture(STUDIES["one"]))
    assert svg == picture(SMALL)


@pytest.mark.parametrize("name", [name for name in STUDIES if find(STUDIES[name]).best])
def test_every_study_has_a_picture(name):
    svg = picture(STUDIES[name], standalone=True)
    ElementTree.fromstring(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)
    assert svg.count("<title>trial ") == len(find(STUDIES[name]).candidates)
    ticks = [float(tick) for tick in re.findall(r"text-anchor: end[^>]*>([\d.]+)</text>", svg)]
    assert ticks
    assert all(0 <= tick <= 100 for tick in ticks)


# ---- the page


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_page(name):
    study = STUDIES[name]
    html = render_search_report(study)
    assert_needs_no_other_file(html)
    page = Page(html)
    assert len(page.all("svg")) == (find(study).best is not None)
    assert ("No trial is complete yet." in page.text) == (find(study).best is None)
    links = {link["href"].removeprefix("#") for link in page.all("a")}
    assert links < {section["id"] for section in page.all("section")}


def test_the_tables_of_the_page():
    findings = find(SMALL)
    front = front_table(findings)
    assert front.header == (
        *("trial", "note", "network", "score", "accuracy", "step time", "parameters"),
    )
    assert [row[:2] for row in front.rows] == [
        (1, "best, front"),
        (0, "front, baseline"),
        (4, "front"),
    ]
    assert front.rows[0][3:] == ("0.4124", "85.00 %", "1.50 x baseline (75.0 ms)", "9.12 M")
    # B0 by hand, from its official block strings without strides and widths.
    assert front.rows[1][2] == "r1_k3_e1_c1 r2_k3_e4_c1 r2_k3_e4_c1 r3_k3_e4 r5_k3_e6 r8_k3_e6"
    trials = trials_table(SMALL, findings).rows
    assert [row[:3] for row in trials] == [
        (1, "complete", "best, front"),
        (0, "complete", "front, baseline"),
        (4, "complete", "front"),
        (5, "complete", ""),
        (2, "pruned", ""),
        (3, "failed", "out of memory: 2.1 GiB"),
        (6, "running", ""),
    ]
    assert trials[4][4:] == ("-", "-", "1.25 x baseline (62.5 ms)", "5.00 M", 1)
    assert trials[5][4:] == ("-", "-", "-", "-", 0)


def test_the_page_says_how_to_train_the_best():
    study = study_of(complete(0, 0.8, 1.0, 1000))
    study.settings["training"]["spec"] = "my photos/"
    text = Page(render_search_report(study)).text
    assert (
        "keras-effnetv2 train --data 'my photos/' --model best.json --output runs/best --seed 0\n"
    ) in text
    assert "\n".join(json.loads(network(0).to_json())["stages"]) in text
    assert network(0).to_json() in text


def test_the_mean_score_of_a_choice_is_shown_where_two_have_three_trials():
    space = study_of().space

    def trial(number, kernel, layers, score):
        values = {name: choices[0] for name, choices in space.parameters.items()}
        values |= {"stage3_kernel": kernel, "stage3_layers": layers}
        config = space.sample(lambda name, choices: values[name])
        return complete(number, 0.5, 1.0, 1000, config, score)

    outside = replace(network(0), head_filters=640)
    scores = [(3, 1, 0.1), (3, 1, 0.2), (3, 1, 0.6), (5, 1, 0.4), (5, 1, 0.4), (5, 2, 0.7)]
    trials = [trial(number, *rest) for number, rest in enumerate(scores)]
    study = study_of(*trials, complete(6, 0.9, 1.0, 1000, outside))
    number, conv, kernel, _, layers, *_ = choices_table(study, find(study)).rows[2]
    assert number == 3
    assert conv == [("mbconv", False), ("fused", False)]  # all are mbconv
    assert kernel == [("3: 0.3000 (3)", False), ("5: 0.5000 (3)", True)]
    assert layers == [("1", False), ("2", False), ("3", False)]  # 5 trials, 1 and none


def test_a_thousand_trials_are_cut_and_counted():
    study = large_study(1000)
    table = trials_table(study, find(study))
    assert len(table.rows) == MAX_ROWS
    assert table.caption.endswith(f"{1001 - MAX_ROWS} more are not shown")
    assert len(render_search_report(study)) < 1e6


def test_hostile_text_is_only_text():
    study = study_of(
        incomplete(0, "failed", HOSTILE),
        complete(1, 0.5, 1.0, 1000),
        name=HOSTILE,
        storage=HOSTILE,
    )
    study.settings["training"]["spec"] = HOSTILE
    study.settings["recipe"][HOSTILE] = HOSTILE
    html = render_search_report(study)
    assert_needs_no_other_file(html)
    assert "img" not in Page(html).tags
    assert Page(html).text.count("<img src=x onerror=") >= 6


# ---- the files


def test_the_files_of_a_study(tmp_path):
    folder = tmp_path / "new" / "results"
    paths = write_results(SMALL, folder)
    assert [path.name for path in paths] == ["report.html", "best.json", "front.csv", "pareto.svg"]
    assert sorted(folder.iterdir()) == sorted(paths)
    report, best, front, svg = paths
    assert report.read_text("utf-8") == render_search_report(SMALL)
    assert read_config(str(best)) == network(1)
    assert svg.read_text("utf-8") == picture(SMALL, standalone=True) + "\n"
    rows = list(csv.DictReader(front.open(encoding="utf-8", newline="")))
    assert [row["trial"] for row in rows] == ["1", "0", "4"]
    assert decode_stages(rows[1]["blocks"].split()) == BASELINE.stages
    assert rows[1]["head_filters"] == "1280"
    measured = [(float(row["accuracy"]), float(row["step_time"])) for row in rows]
    assert measured == [(0.85, 1.5), (0.7, 1.0), (0.6, 0.5)]
    assert float(rows[0]["score"]) == 0.41239
    assert float(rows[0]["step_seconds"]) == 0.05 * 1.5
    assert int(rows[0]["parameters"]) == 9_125_000


def test_a_study_without_a_result_leaves_none_of_another_one(tmp_path):
    write_results(SMALL, tmp_path)
    (tmp_path / "notes.txt").write_text("mine")
    assert write_results(study_of(), tmp_path) == [tmp_path / "report.html"]
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "notes.txt"}


def test_a_file_that_cannot_be_written_leaves_nothing_half_done(tmp_path):
    (tmp_path / "best.json").mkdir()
    (tmp_path / "best.json" / "file").touch()
    with pytest.raises(OSError, match=r"best\.json"):
        write_results(SMALL, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"report.html", "best.json"}


def test_showing_a_study_starts_no_keras():
    program = (
        "import sys, keras_effnetv2.search.study_page\n"
        "print({'keras', 'optuna', 'tensorflow'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")
