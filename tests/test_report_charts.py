"""Tests of the report's charts and tables (geometry, shades) and of the text in them."""

import math
import re
from html import escape
from itertools import pairwise

import numpy as np
import pytest

from keras_effnetv2.report import charts as charts
from keras_effnetv2.report.style import NAME_LENGTH, name_html, plain_text

NAN = math.nan

# ---- chart geometry: the plot spans x 60..410 and y 235 (bottom) .. 50 (top)


def test_a_known_point_is_a_known_pixel():
    line = charts.Series("train", "train", (0.0, 1.0, 0.5))
    svg = charts.line_chart("", [0, 1, 2], [line], [])
    # x = 60 + 350 e / 2; y = 235 - 185 v
    assert 'points="60.00,235.00 235.00,50.00 410.00,142.50"' in svg


@pytest.mark.parametrize(
    ("low", "high", "ticks"),
    [
        (0.0, 1.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (0.13, 2.31, [0, 0.5, 1, 1.5, 2, 2.5]),
        (0.1, 0.3, [0.1, 0.15, 0.2, 0.25, 0.3]),
        (2.0, 2.0, [1.8, 1.9, 2.0, 2.1, 2.2]),
        (0.0, 0.0, [0, 0.2, 0.4, 0.6, 0.8, 1.0]),
        (-3.0, 7.0, [-4, -2, 0, 2, 4, 6, 8]),
        (1.0, 1.0 + 1e-13, [0.9, 0.95, 1.0, 1.05, 1.1]),
    ],
)
def test_value_axis_ticks(low, high, ticks):
    axis = charts.value_axis([high, low])
    assert axis.ticks == pytest.approx(ticks)
    assert axis.low <= low <= high <= axis.high
    assert (axis.position(axis.low), axis.position(axis.high)) == (235, 50)


@pytest.mark.parametrize("scale", [1e-300, 1e-12, 1.0, 1e12, 1e299])
@pytest.mark.parametrize("values", [(0.0, 0.37), (-1.0, 1.0), (0.999, 1.0)])
def test_value_axis_at_every_size(scale, values):
    axis = charts.value_axis([value * scale for value in values])
    assert 3 <= len(axis.ticks) <= 9
    assert axis.low <= values[0] * scale < values[1] * scale <= axis.high


@pytest.mark.parametrize(
    ("epochs", "ticks"),
    [
        ([0, 1, 2], [0, 1, 2]),
        (range(350), [0, 50, 100, 150, 200, 250, 300]),
        ([7, 8], [7, 8]),
        ([3], [3]),
    ],
)
def test_epoch_axis_has_whole_ticks(epochs, ticks):
    assert list(charts.epoch_axis(list(epochs)).ticks) == ticks


def test_one_epoch_is_a_dot_in_the_middle():
    svg = charts.line_chart("", [5], [charts.Series("train", "train", (2.0,))], [(5, "32 px")])
    assert '<circle class="train" cx="235.00" cy="142.50" r="4"/>' in svg
    assert 'class="stage"' not in svg  # the one stage has a label, and no boundary
    assert "32 px" in svg


@pytest.mark.parametrize(
    ("values", "runs"),
    [
        ((1.0, 2.0, 3.0), [[0, 1, 2]]),
        ((NAN, 1.0, NAN, 2.0, 3.0, math.inf, -math.inf), [[1], [3, 4]]),
        ((NAN, NAN), []),
        ((1e301, 1.0), [[1]]),
    ],
)
def test_missing_values_cut_a_line(values, runs):
    assert charts.runs(values) == runs


def test_stage_boundaries_are_dashed_lines_with_labels():
    line = charts.Series("train", "train", tuple(float(e) for e in range(11)))
    stages = [(0, "128 px"), (4, "214 px"), (8, "300 px"), (20, "never reached")]
    svg = charts.line_chart("", list(range(11)), [line], stages)
    assert re.findall(r'class="stage" x1="([\d.]+)"', svg) == ["200.00", "340.00"]
    labels = re.findall(r'class="muted" x="([\d.]+)" y="42">([^<]+)', svg)
    assert labels == [("60.00", "128 px"), ("200.00", "214 px"), ("340.00", "300 px")]


def test_stage_labels_do_not_overlap_and_stay_inside():
    line = charts.Series("train", "train", (0.0,) * 100)
    stages = [(start, f"stage {start}") for start in range(100)]
    svg = charts.line_chart("", list(range(100)), [line], stages)
    lefts = [float(x) for x in re.findall(r'class="muted" x="([\d.]+)"', svg)]
    assert len(lefts) == 6
    assert all(b - a >= 54 for a, b in pairwise(lefts))
    assert lefts[-1] + 54 <= charts.WIDTH


def test_a_run_resumed_within_a_stage_names_that_stage():
    line = charts.Series("train", "train", (0.0, 1.0, 2.0))
    svg = charts.line_chart("", [5, 6, 7], [line], [(0, "32 px"), (4, "48 px"), (6, "64 px")])
    assert re.findall(r'class="muted" x="([\d.]+)" y="42">([^<]+)', svg) == [
        ("60.00", "48 px"),
        ("235.00", "64 px"),
    ]


# ---- text


def test_long_names_keep_their_ends_and_the_whole_in_the_title():
    name = "a" * 30 + "&" + "b" * 30 + ".jpeg"
    html = name_html(name)
    [shown] = re.findall(r">(.*)</bdi>", html)
    assert len(shown) == NAME_LENGTH
    assert (shown[:26], shown[26], shown[27:]) == (
        "a" * 26,
        "\N{HORIZONTAL ELLIPSIS}",
        "b" * 8 + ".jpeg",
    )
    assert f'title="{escape(name)}"' in html
    assert name_html("a" * NAME_LENGTH) == f"<bdi>{'a' * NAME_LENGTH}</bdi>"


def test_hostile_text_is_escaped_and_can_be_written():
    assert plain_text("<b> \"'&\x00\udcff \N{ZERO WIDTH JOINER}") == (
        "&lt;b&gt; &quot;&#x27;&amp;\N{REPLACEMENT CHARACTER}\\udcff \N{ZERO WIDTH JOINER}"
    )


# ---- heat map


def test_heat_map_cells():
    confusion = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 9]])
    html = charts.heat_table(("cat", "dog", "<b>"), confusion)
    cells = re.findall(r'<td class="([a-z ]+)" style="--shade:([\d.]+)">(\d+)</td>', html)
    # the square roots of 8 / 10, 2 / 10, 0, 1 / 4, 3 / 4, and 9 / 9
    assert cells[:5] == [
        ("hit", "0.89", "8"),
        ("miss", "0.45", "2"),
        ("zero", "0.00", "0"),
        ("miss", "0.50", "1"),
        ("hit", "0.87", "3"),
    ]
    assert cells[8:] == [("hit deep", "1.00", "9")]
    assert html.count('<th scope="col"><bdi>&lt;b&gt;</bdi></th>') == 1


def test_heat_map_turns_names_only_where_they_are_wider_than_a_cell():
    assert 'class="heat upright"' in charts.heat_table(("cat", "9"), np.eye(2, dtype=int))
    assert 'class="heat"' in charts.heat_table(("lion", "9"), np.eye(2, dtype=int))
