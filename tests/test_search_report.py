"""What is shown of a search: in the terminal, as a page, as a picture, as files."""

import csv
import json
import math
import re
import subprocess
import sys
from dataclasses import replace
from itertools import combinations
from xml.etree import ElementTree

import pytest
from helpers.html_pages import CHROMIUM, HOSTILE, Page, measure_in_chromium
from helpers.search_studies import BASELINE, complete, incomplete, large_study, network, study_of

from keras_effnetv2.architectures.config import decode_stages
from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.report.style import clean_text
from keras_effnetv2.search import chart, summary
from keras_effnetv2.search.front import find
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.study_page import render_search_report, write_results
from keras_effnetv2.search.summary import describe

SECTIONS = ["summary", "picture", "front", "best", "space", "settings", "trials"]
NUMBER = r"-?[\d.]+"

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
    "large": large_study(200),
    "empty": study_of(),
    "nothing complete": study_of(incomplete(0, "failed", "no"), incomplete(1, "running")),
    "one": study_of(complete(0, 0.5, 1.0, 5_000_000)),
    "equal": study_of(*(complete(i, 1.0, 0.83, 5_000_000) for i in range(3))),
    "accuracy 0": study_of(complete(0, 0.0, 1.0, 5_000_000), complete(1, 0.0, 1.1, 1)),
    "0 to 1": study_of(complete(0, 0.0, 1e-3, 5_000_000), complete(1, 1.0, 1e3, 10**12)),
    "not a number": study_of(complete(0, math.nan, 1.0, 5_000_000), complete(1, 0.5, 1.0, 7)),
}


def picture(study, standalone=False):
    return chart.pareto_chart(find(study), study.baseline.name, standalone=standalone)


def circles(svg, style):
    found = re.findall(
        rf'<circle class="{style}" cx="({NUMBER})" cy="({NUMBER})" r="({NUMBER})"><title>', svg
    )
    return [tuple(map(float, circle)) for circle in found]


def labels(svg):
    found = re.findall(rf'class="label" x="({NUMBER})" y="({NUMBER})">(\d+)<', svg)
    return {int(number): (float(x), float(y)) for x, y, number in found}


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
        "Few trials are complete: 4 of 1,451,188,224 networks. The first of a search are drawn at "
        "random, and a sampler needs more to choose by; repeat the command with a larger number of "
        "trials to go on.",
        "",
        "Accuracies of a short training differ by chance: train the best of the front with 3 "
        "seeds, and longer, before you believe the order.",
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


# ---- the picture: the plot spans x 64..620 and y 392 (bottom) .. 84 (top)


def test_a_known_network_is_a_known_dot():
    svg = picture(study_of(complete(0, 0.5, 1.0, 4_000_000), complete(1, 0.7, 2.0, 1_000_000)))
    # With a margin of 4 % the axes reach from 0.8 to 2.2 and from 45 to 75 %:
    # x = 64 + 556 (S - 0.8) / 1.4, y = 392 - 308 (A - 45) / 30; areas are 4 to 1.
    assert circles(svg, "front") == [(540.57, 135.33, 6.0), (143.43, 340.67, 12.0)]
    assert circles(svg, "dot") == []
    steps = re.findall('class="steps" points="(.*?)"', svg)
    assert steps == ["143.43,340.67 540.57,340.67 540.57,135.33"]
    assert 'class="square"' not in svg  # no baseline, neither in the plot nor in the legend
    assert ">baseline<" not in svg


def test_the_line_passes_by_what_is_on_the_front_for_being_small():
    trials = [complete(0, 0.5, 1.0, 9), complete(1, 0.7, 2.0, 9), complete(2, 0.4, 1.5, 1)]
    svg = picture(study_of(*trials))
    dots = circles(svg, "front")
    assert len(dots) == 3
    [steps] = re.findall('class="steps" points="(.*?)"', svg)
    corners = [tuple(map(float, point.split(","))) for point in steps.split()]
    (x1, y1), (x0, y0) = dots[0][:2], dots[1][:2]
    assert corners == [(x0, y0), (x1, y0), (x1, y1)]


def test_the_baseline_and_the_best_are_told_by_shape():
    svg = picture(SMALL)
    best, baseline, _ = circles(svg, "front")
    assert baseline[2] == pytest.approx(12 * math.sqrt(6 / 9.125), abs=0.01)  # by its parameters
    ring = f'<circle class="ring" cx="{best[0]:.2f}" cy="{best[1]:.2f}" r="14.50"/>'
    assert ring in svg
    squares = re.findall(r'class="square" x="(.*?)" y="(.*?)" width="(.*?)" height="(.*?)"', svg)
    left, top, width, height = map(float, squares[-1])  # the other one is in the legend
    assert (left + width / 2, top + height / 2) == pytest.approx(baseline[:2], abs=0.01)
    assert width == height > 2 * baseline[2]
    assert len(circles(svg, "dot")) == 1  # trial 5; what is not complete is not drawn


@pytest.mark.parametrize("name", [name for name in STUDIES if find(STUDIES[name]).best])
def test_every_study_has_a_picture_within_its_bounds(name):
    svg = picture(STUDIES[name], standalone=True)
    ElementTree.fromstring(svg)
    assert not re.search(r"\b(nan|inf)\b", svg)
    dots = circles(svg, "dot") + circles(svg, "front")
    assert len(dots) == len(find(STUDIES[name]).candidates)
    for x, y, radius in dots:
        assert 64 <= x <= 620
        assert 84 <= y <= 392
        assert 2 <= radius <= 12
    percents = re.findall(r'text-anchor="end">(.*?)<', svg)
    assert len(percents) >= 3
    assert all(0 <= float(tick) <= 100 for tick in percents)


@pytest.mark.parametrize("name", ["small", "large", "equal"])
def test_labels_keep_away_from_each_other_and_from_marked_dots(name):
    study = STUDIES[name]
    svg = picture(study)
    boxes = [
        (x, y - 11, x + 7.5 * len(str(number)), y + 3) for number, (x, y) in labels(svg).items()
    ]
    marked = [(x - r, y - r, x + r, y + r) for x, y, r in circles(svg, "front")]

    def meet(one, other):
        # Coordinates have two digits.
        return (
            min(one[2], other[2]) - max(one[0], other[0]) > 0.02
            and min(one[3], other[3]) - max(one[1], other[1]) > 0.02
        )

    assert boxes
    assert not any(meet(*pair) for pair in combinations(boxes, 2))
    assert not any(meet(box, dot) for box in boxes for dot in marked)
    assert find(study).best.trial.number in labels(svg)


def test_sizes_are_explained_by_round_numbers():
    svg = picture(study_of(complete(0, 0.5, 1.0, 8_300_000)))
    # Of 1, 2, 5 and 10 million 10 is the nearest to 8.3, and 2 is a fifth of it.
    sizes = re.findall(r'r="([\d.]+)"/><text x="18" y="4">(.*?) M parameters', svg)
    expected = [(12 * math.sqrt(10 / 8.3), "10"), (12 * math.sqrt(2 / 8.3), "2")]
    assert [(float(radius), text) for radius, text in sizes] == [
        (pytest.approx(radius, abs=0.01), text) for radius, text in expected
    ]


# ---- the page


@pytest.mark.parametrize("name", STUDIES)
def test_every_study_has_a_page(name):
    study = STUDIES[name]
    page = Page(render_search_report(study))
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert len(page.all("svg")) == (find(study).best is not None)
    assert ("No trial is complete yet." in page.text) == (find(study).best is None)
    assert "script" not in page.tags


def rows_of(html, section):
    body = re.search(f'<section id="{section}".*?</section>', html, re.DOTALL).group(0)
    return [
        [re.sub("<.*?>", "", cell) for cell in re.findall(r"<t[hd].*?>(.*?)</t[hd]>", row)]
        for row in re.findall("<tr>(.*?)</tr>", body)
    ]


def test_the_tables_of_the_page():
    html = render_search_report(SMALL)
    header, *front = rows_of(html, "front")
    assert header == ["trial", "note", "network", "score", "accuracy", "step time", "parameters"]
    assert [row[:2] for row in front] == [
        ["1", "best, front"],
        ["0", "front, baseline"],
        ["4", "front"],
    ]
    assert front[0][3:] == ["0.4124", "85.00 %", "1.50 x baseline (75.0 ms)", "9.12 M"]
    # B0 by hand, from its official block strings without strides and widths.
    assert front[1][2] == "r1_k3_e1_c1 r2_k3_e4_c1 r2_k3_e4_c1 r3_k3_e4 r5_k3_e6 r8_k3_e6"
    _, *trials = rows_of(html, "trials")
    assert [(row[0], row[1], row[2]) for row in trials] == [
        ("1", "complete", "best, front"),
        ("0", "complete", "front, baseline"),
        ("4", "complete", "front"),
        ("5", "complete", ""),
        ("2", "pruned", ""),
        ("3", "failed", "out of memory: 2.1 GiB"),
        ("6", "running", ""),
    ]
    assert trials[4][4:] == ["-", "-", "1.25 x baseline (62.5 ms)", "5.00 M", "1"]
    assert trials[5][4:] == ["-", "-", "-", "-", "0"]
    assert ["recipe.epochs", "4"] in rows_of(html, "settings")
    assert ["recipe.image_size", "[64, 96]"] in rows_of(html, "settings")


def test_the_page_says_how_to_train_the_best():
    study = study_of(complete(0, 0.8, 1.0, 1000))
    study.settings["training"]["spec"] = "my photos/"
    html = render_search_report(study)
    assert (
        "keras-effnetv2 train --data &#x27;my photos/&#x27; --model best.json --output runs/best"
    ) in html
    codes = re.findall('<pre class="code">(.*?)</pre>', html, re.DOTALL)
    assert codes[-2].splitlines() == json.loads(network(0).to_json())["stages"]
    assert codes[-1].replace("&quot;", '"') == network(0).to_json()


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
    html = render_search_report(study_of(*trials, complete(6, 0.9, 1.0, 1000, outside)))
    third = re.search(r'<th scope="row">3</th>(<td>.*?)</tr>', html).group(1)
    cells = re.findall("<td>(.*?)</td>", third)
    assert cells[0] == "<div>mbconv</div><div>fused</div>"  # all are mbconv
    assert cells[1] == "<div>3: 0.3000 (3)</div><div><strong>5: 0.5000 (3)</strong></div>"
    assert cells[3] == "<div>1</div><div>2</div><div>3</div>"  # 5 trials, 1 and none


def test_a_thousand_trials_are_cut_and_counted():
    study = large_study(1000)
    html = render_search_report(study)
    assert len(rows_of(html, "trials")) == 1 + summary.MAX_ROWS
    assert f"{1001 - summary.MAX_ROWS} more are not shown." in html
    assert html.count("<title>trial ") == len(find(study).candidates)
    assert len(html) < 1e6


def test_hostile_text_is_only_text():
    study = study_of(
        incomplete(0, "failed", HOSTILE),
        complete(1, 0.5, 1.0, 1000),
        name=HOSTILE,
        storage=HOSTILE,
    )
    study.settings["training"]["spec"] = HOSTILE
    study.settings["recipe"][HOSTILE] = HOSTILE
    page = Page(render_search_report(study))
    assert "script" not in page.tags
    assert not any("onload" in name for attributes in page.attributes for name in attributes)
    assert page.text.count(clean_text(HOSTILE)) >= 6
    page.text.encode("utf-8")


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


# ---- in a browser


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_the_page_in_a_browser(tmp_path):
    html = render_search_report(replace(STUDIES["large"], name="long" * 40))
    for found in measure_in_chromium(html, (1200, 420), tmp_path):
        assert found["sections"] == SECTIONS
        assert found["scroll"] == found["width"]
        assert found["charts"] == [True]
        assert found["page"] == "rgb(255, 255, 255)"  # the style sheet is in force
