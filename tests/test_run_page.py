"""The report of a run: its curves and tables as data, its page, and all pages in a browser."""

import base64
import math
import re
from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
from helpers.chromium import chromium_tab
from helpers.html_pages import CHROMIUM, HOSTILE, Page, assert_needs_no_other_file, measure
from helpers.search_studies import large_study

from keras_effnetv2._common.text import printable
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.evaluation.calibration import fit_confidence
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.report.figures import curve_chart
from keras_effnetv2.report.nearest import Neighbour
from keras_effnetv2.report.run_page import (
    class_table,
    confused_pairs,
    curves,
    heat_cells,
    render_run,
)
from keras_effnetv2.report.run_report import Mistake, RunReport
from keras_effnetv2.report.samples import Sample
from keras_effnetv2.report.style import MAX_EDGE, shortened, spread
from keras_effnetv2.search.study_page import render_search_report
from keras_effnetv2.training.inputs import load_inputs
from keras_effnetv2.training.preview import render_preview

NAN = math.nan
PLAN = progressive_stages(epochs=6, stages=2, image_size=(32, 64), dropout_rate=(0.1, 0.3))
HISTORY = {
    "epoch": [1, 2, 3, 4, 5, 6],
    "loss": [2.0, 1.5, 1.0, 0.75, 0.5, 0.25],
    "val_loss": [77_000.0, NAN, 1.0, 0.9, NAN, math.inf],
    "accuracy": [0.1, 0.3, 0.5, 0.6, 0.7, 0.8],
    "val_accuracy": [0.2, 0.4, 0.6, 0.8, 0.7, 0.7],
    "learning_rate": [1e-3, 1e-3, 5e-4, 5e-4, 1e-4, 1e-4],
    "image_size": [32, 32, 32, 64, 64, 64],
}
CONFUSION = np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]])


def picture(height=8, width=8, seed=0):
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture(scope="module")
def report():
    """Six epochs in two stages, with gaps, on three classes; all the text is hostile."""
    near = [Neighbour(picture(seed=3), HOSTILE, HOSTILE, 0.0), Neighbour(picture(), "", "cow", 1.5)]
    return RunReport(
        title=f"run {HOSTILE}",
        summary=(("variant", "efficientnetv2-b0"), (HOSTILE, HOSTILE)),
        plan=PLAN,
        history=HISTORY | {f"val_{HOSTILE}": [1.0] * 6},
        class_names=("cat", "dog", HOSTILE),
        confusion=CONFUSION,
        samples={
            "stage 1: 32 px": [Sample(0, picture(), "0.70 cat + 0.30 dog")],
            "stage 2: 64 px": [Sample(0, picture(200, 100), HOSTILE)],
        },
        mistakes=(
            Mistake(picture(seed=2), f"{HOSTILE}.png", HOSTILE, "dog", 0.9, near),
            Mistake(picture(seed=1), "small.png", "cat", "dog", 0.5, near[:1]),
        ),
        compared=(2000, 2500),
        confidence=fit_confidence(
            np.tile([0.9, 0.06, 0.04], (100, 1)), np.repeat([0, 1], 50), "softmax"
        ),
    )


# ---- tables


def test_recall_and_precision_by_hand():
    table = class_table(("cat", "dog", "cow"), CONFUSION)
    # recall 8 / 10 and 3 / 4; precision 8 / 9 and 3 / 5; nothing of the class without examples
    expected = [("cat", 10, 8 / 10, 8 / 9), ("dog", 4, 3 / 4, 3 / 5), ("cow", 0, None, None)]
    assert table.rows == expected


def test_of_a_thousand_classes_the_worst_are_shown():
    confusion = np.eye(1000, dtype=np.int64) * 50
    confusion[3, 5] = 40  # recall of class 3: 50 / 90
    confusion[7, 8] = 41  # recall of class 7: 50 / 91
    confusion[9] = 0
    names = tuple(f"class {i}" for i in range(1000))
    table = class_table(names, confusion)
    assert table.caption == "The 30 classes with the lowest recall, of 999 with pictures"
    assert [row[0] for row in table.rows[:3]] == ["class 7", "class 3", "class 0"]
    pairs = confused_pairs(names, confusion)
    assert pairs.caption == "The 2 most frequently confused pairs, of 2"
    assert pairs.rows == [
        ("class 7", "class 8", 41, 41 / 91),
        ("class 3", "class 5", 40, 40 / 90),
    ]
    assert confused_pairs(names, np.eye(1000, dtype=np.int64)).rows == []


def test_cells_of_the_confusion_matrix():
    cells = heat_cells(np.array([[8, 2, 0], [1, 3, 0], [0, 0, 9]]))
    # the square roots of 8 / 10, 2 / 10, 0, 1 / 4, 3 / 4, and 9 / 9
    assert cells[0] == [
        (8, pytest.approx(0.8**0.5), "hit"),
        (2, pytest.approx(0.2**0.5), "miss"),
        (0, 0, "zero"),
    ]
    assert cells[1][:2] == [(1, 0.5, "miss"), (3, pytest.approx(0.75**0.5), "hit")]
    assert cells[2][2] == (9, 1.0, "hit deep")


# ---- curves


def test_curves_have_what_a_reader_looks_for():
    loss, accuracy, rate = curves(HISTORY, PLAN)
    assert (loss.title, accuracy.title, rate.title) == ("Loss", "Accuracy", "Learning rate")
    assert loss.stages == [(1, "32 px"), (4, "64 px")]
    assert loss.lines["train"] == HISTORY["loss"]
    # 77,000 would make a flat line of the rest; infinity and NaN are gaps.
    np.testing.assert_array_equal(loss.lines["validation"], [NAN, NAN, 1.0, 0.9, NAN, NAN])
    assert loss.words == [
        "train: last 0.25, lowest 0.25 (epoch 6)",
        "validation: last 0.9, lowest 0.9 (epoch 4)",
        "1 validation value above 6 not drawn",
    ]
    assert accuracy.words[1] == "validation: last 0.7, highest 0.8 (epoch 4)"
    assert rate.words == ["learning rate: last 0.0001, highest 0.001 (epoch 1)"]


def test_every_metric_gets_a_curve_after_loss_and_accuracy():
    columns = ("auc", "top_5_accuracy", "learning_rate", "accuracy", "val_auc", "seconds", "loss")
    found = curves({"epoch": [1]} | {name: [0.5] for name in columns}, PLAN)
    titles = [curve.title for curve in found]
    assert titles == ["Loss", "Accuracy", "Auc", "Top 5 accuracy", "Learning rate"]
    [several] = curves({"epoch": [1], "pr_auc": [0.5]} | {"val_pr_auc": [0.4]}, PLAN)
    assert several.title == "Area under the precision-recall curve"
    assert several.words[-1] == "close to the mean average precision, but from 200 thresholds"
    assert curves({}, PLAN) == []
    [nothing] = curves({"epoch": [1], "loss": [NAN]}, PLAN)
    assert nothing.words == ["train: no finite value"]


def test_a_chart_shows_its_points_and_its_stages():
    loss, *_ = curves(HISTORY, PLAN)
    svg = curve_chart(loss)
    page = Page(svg)
    assert curve_chart(loss) == svg  # the same for the same data, also of the same second
    assert {"train", "validation", "epoch", "32 px", "64 px"} <= set(re.findall(r">([^<>]+)<", svg))
    assert "; ".join(loss.words) in page.all("svg")[0]["aria-label"]
    paths = [a["d"] for a in page.all("path") if "#0072b2" in a.get("style", "") and "id" not in a]
    points = re.findall(r"[ML] ([\d.]+) ([\d.]+)", max(paths, key=len))
    assert len(points) == 6
    down = [float(y) for _, y in points]  # equal steps of loss are equal steps on the drawing
    assert (down[1] - down[0]) == pytest.approx(down[2] - down[1], abs=0.02)
    assert (down[3] - down[2]) * 2 == pytest.approx(down[1] - down[0], abs=0.03)


@pytest.mark.parametrize(
    ("epochs", "values"),
    [([3], [2.0]), ([1, 2, 3], [1.0, NAN, 2.0]), ([1, 2], [1e299, -1e299]), ([1], [NAN])],
)
def test_a_chart_of_few_or_odd_values(epochs, values):
    [curve] = curves({"epoch": epochs, "loss": values}, PLAN)
    svg = curve_chart(curve)
    alone = 0 if len(epochs) == 2 or math.isnan(values[0]) else sum(map(math.isfinite, values))
    assert len([a for a in Page(svg).all("use") if "#0072b2" in a.get("style", "")]) == alone
    assert "nan" not in svg.partition("aria-label")[2].partition(">")[2]


# ---- the page


def test_the_page_needs_no_other_file_and_hostile_names_are_text(report):
    html = render_run(report)
    assert_needs_no_other_file(html)
    assert Page(html).text.count(printable(HOSTILE)[:20]) >= 8
    assert len(Page(html).all("img")) == 7
    text = " ".join(Page(html).text.split())
    assert "the nearest of 2,000 training pictures, drawn at random from 2,500, with their" in text
    assert "cow1.500" in text  # on two lines
    of_all = " ".join(Page(render_run(replace(report, compared=(3, 3)))).text.split())
    assert "the nearest of the 3 training pictures, with their" in of_all
    assert html == render_run(report)
    assert "On average, scores differ by 40.0% from the share that is right" in text
    assert "95% of the rightly named pictures have a score of 0.9 or more." in text
    assert "only rough" not in text
    few = fit_confidence(np.tile([0.9, 0.06, 0.04], (99, 1)), np.arange(99) % 2, "softmax")
    assert "With fewer than 100 pictures the temperature is only rough." in render_run(
        replace(report, confidence=few)
    )
    assert "The scores are no probabilities." in render_run(replace(report, confidence=None))
    ids = [a["id"] for a in Page(html).attributes if "id" in a and not a["id"][1:].isalnum()]
    assert len(ids) == len(set(ids))


def test_long_names_keep_their_ends_and_the_whole_in_the_title():
    name = "a" * 30 + "&" + "b" * 30 + ".jpeg"
    short = f"{'a' * 26}\N{HORIZONTAL ELLIPSIS}{'b' * 8}.jpeg"
    title = name.replace("&", "&amp;")
    assert shortened(name, 40) == f'<bdi title="{title}">{short}</bdi>'
    assert shortened("a" * 40, 40) == f"<bdi>{'a' * 40}</bdi>"


def test_pictures_are_exact_below_the_largest_edge_and_reduced_above(report):
    half = np.zeros((512, 256, 3), np.uint8)
    half[:, ::2] = 255  # columns of black and white: any reduction but a mean leaves stripes
    whole = picture()
    samples = {"1": [Sample(0, whole, "exact")], "2": [Sample(0, half, "stripes")]}
    page = Page(render_run(replace(report, samples=samples)))
    images = page.all("img")
    exact, reduced = (
        tf.io.decode_png(base64.b64decode(image["src"].partition(",")[2])).numpy()
        for image in images[:2]
    )
    np.testing.assert_array_equal(exact, whole)
    assert reduced.shape == (MAX_EDGE, MAX_EDGE // 2, 3)
    assert np.abs(reduced.astype(int) - 127.5).max() <= 0.5
    assert (images[1]["width"], images[1]["height"]) == ("64", "128")


def test_of_many_stages_some_are_shown_from_the_first_to_the_last():
    assert spread(15, 8) == [0, 2, 4, 6, 8, 10, 12, 14]
    assert spread(3, 8) == [0, 1, 2]


def test_the_page_is_bounded_and_says_what_it_leaves_out(report):
    noise = picture(130, 130)  # the worst case of PNG
    near = [Neighbour(noise, "y.png", "cat", 0.5)] * 5
    groups = {f"stage {i}": [Sample(0, noise, "c")] * 12 for i in range(8)}
    plan = progressive_stages(epochs=15, stages=15, image_size=(32, 64))
    large = replace(
        report,
        plan=plan,
        class_names=tuple(map(str, range(1000))),
        confusion=np.eye(1000, dtype=np.int64),
        samples=groups,
        mistakes=(Mistake(noise, "x.png", "cat", "dog", 0.5, near),) * 24,
    )
    html = render_run(large)
    assert len(Page(html).all("img")) == 240
    assert "8 of 15 stages" in Page(html).text
    assert len(html) < 11_000_000


# ---- in a browser


@pytest.mark.slow  # a browser starts, and shows three pages four times
@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_every_page_fits_and_is_legible_in_light_and_dark(report, tmp_path):
    names = tuple(f"{'very ' * 20}long name {i}" for i in range(30))
    wide = replace(report, class_names=names, confusion=np.full((30, 30), 12345))
    recipe = replace(TrainRecipe.preset("quickstart"), epochs=4, stages=2, image_size=(32, 480))
    inputs = load_inputs("b0", TrainingData("digits", max_train_examples=60), recipe)
    pages = {
        "run": render_run(wide),
        "preview": render_preview(inputs),
        "search": render_search_report(replace(large_study(200), name="long" * 40)),
    }
    found = {}
    for name, html in pages.items():
        path = tmp_path / f"{name}.html"
        path.write_text(html, encoding="utf-8")
        with chromium_tab(tmp_path / name) as tab:
            tab.open(path.as_uri())
            for width, dark in ((1200, False), (420, False), (1200, True)):
                one = found[name, width, dark] = measure(tab, width, dark)
                assert (one["faint"], one["overflow"]) == ([], 0), (name, width, dark)
                assert one["texts"] > 50
                assert one["page"] == ("rgb(20, 23, 26)" if dark else "rgb(255, 255, 255)")
                assert all(chart > 200 for chart in one["charts"])
    assert [len(found[name, 1200, True]["charts"]) for name in pages] == [5, 0, 1]
    shown = found["preview", 420, False]["images"]
    # Small ones four times their size; large ones what a phone has room for.
    assert {width for natural, width in shown if natural == 32} == {128}
    assert all(300 < width <= 420 - 2 * 14 for natural, width in shown if natural == 480)
