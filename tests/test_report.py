"""Tests of the training report: its numbers, its page, and its look in a browser."""

import base64
import math
import re
from dataclasses import replace

import numpy as np
import pytest
from helpers.html_pages import CHROMIUM, HOSTILE, Page, measure_in_chromium

from keras_effnetv2.report.run_page import (
    MAX_MISTAKES,
    MAX_SAMPLES,
    MAX_STAGES_SHOWN,
    Mistake,
    Report,
    Sample,
    StageSamples,
    confusion_matrix,
    render_report,
    write_report,
)
from keras_effnetv2.report.style import MAX_EDGE

NAN = math.nan
SECTIONS = ["summary", "stages", "curves", "classes", "confusion", "samples", "mistakes"]


def picture(height=8, width=8, seed=0):
    shape = (height, width, 3)
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.fixture
def report():
    """Six epochs in two stages, with gaps, on three classes; all the text is hostile."""
    names = ("cat", "dog", HOSTILE)
    return Report(
        title=f"run {HOSTILE}",
        summary=(("variant", "efficientnetv2-b0"), (HOSTILE, HOSTILE)),
        stages=(("stage", "image size"), ("1", "32 px"), ("2", "64 px")),
        history={
            "epoch": [0, 1, 2, 3, 4, 5],
            "loss": [2.0, 1.5, 1.0, 0.75, 0.5, 0.25],
            "val_loss": [2.0, NAN, 1.0, 0.9, None, math.inf],
            "accuracy": [0.1, 0.3, 0.5, 0.6, 0.7, 0.8],
            "val_accuracy": [0.2, 0.4, 0.6, 0.8, 0.7, 0.7],
            "learning_rate": [1e-3, 1e-3, 5e-4, 5e-4, 1e-4, 1e-4],
            "image_size": [32, 32, 32, 64, 64, 64],
            "dropout_rate": [0.1, 0.1, 0.1, 0.3, 0.3, 0.3],
        },
        stage_starts=(0, 3),
        class_names=names,
        confusion=np.array([[8, 2, 0], [1, 3, 0], [0, 0, 0]]),
        stage_samples=(
            StageSamples("stage 1: 32 px", (Sample(picture(), "0.7 cat + 0.3 dog"),)),
            StageSamples("stage 2: 64 px", (Sample(picture(200, 100), HOSTILE),)),
        ),
        mistakes=(
            Mistake(picture(seed=1), "small.png", "cat", "dog", 0.5),
            Mistake(picture(seed=2), f"{HOSTILE}.png", HOSTILE, "dog", 0.9),
        ),
    )


# ---- confusion matrix


def test_confusion_matrix_counted_by_hand():
    counts = confusion_matrix([0, 0, 0, 1, 2, 2], [0, 0, 1, 1, 2, 0], 4)
    assert counts.dtype == np.int64
    assert counts.tolist() == [[2, 1, 0, 0], [0, 1, 0, 0], [1, 0, 1, 0], [0, 0, 0, 0]]


def test_confusion_matrix_of_small_integer_types_does_not_overflow():
    counts = confusion_matrix(np.array([200], np.uint8), np.array([250], np.uint8), 256)
    assert np.argwhere(counts).tolist() == [[200, 250]]


def test_confusion_matrix_of_nothing():
    assert confusion_matrix([], [], 2).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize(
    ("truth", "prediction", "num_classes", "message"),
    [
        ([0, 1], [0], 2, r"same length.*Received: 2 and 1"),
        ([0, 2], [0, 1], 2, r"truth must hold class indices of 0\.\.1.*Received: 2 and 0 more"),
        ([0, 1], [-1, -3], 2, r"prediction .*0\.\.1.*Received: -1 and 1 more"),
        ([[0, 1]], [0], 2, r"argmax.*Received: int64 of the shape \(1, 2\)"),
        ([0.0], [0], 2, r"truth must be a list of class indices.*Received: float64"),
        ([], [], 0, r"num_classes must be 1 or more\. Received: 0"),
    ],
)
def test_confusion_matrix_errors(truth, prediction, num_classes, message):
    with pytest.raises(ValueError, match=message):
        confusion_matrix(truth, prediction, num_classes)


def test_page_is_balanced_and_has_its_sections_in_order(report):
    page = Page(render_report(report))
    assert [section["id"] for section in page.all("section")] == SECTIONS
    assert {link["href"] for link in page.all("a")} <= {f"#{name}" for name in SECTIONS}
    assert page.all("html") == [{"lang": "en"}]
    assert len(page.all("svg")) == 3
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    assert all(th["scope"] in ("row", "col") for th in page.all("th"))


def test_page_needs_nothing_from_outside(report):
    html = render_report(report)
    page = Page(html)
    assert not {"script", "link", "iframe", "object", "base", "form"} & set(page.tags)
    for attributes in page.attributes:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "action", "srcset"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;base64,"))
    assert "://" not in html
    assert "url(" not in html
    assert "@import" not in html
    [policy] = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy == "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def decoded_pictures(html):
    import tensorflow as tf

    sources = [image["src"].partition(",")[2] for image in Page(html).all("img")]
    return [tf.io.decode_png(base64.b64decode(source)).numpy() for source in sources]


def test_pictures_are_exact_below_the_largest_edge_and_reduced_above(report):
    html = render_report(report)
    pixels, images = decoded_pictures(html), Page(html).all("img")
    assert (pixels[0] == report.stage_samples[0].samples[0].image).all()
    assert pixels[1].shape == (MAX_EDGE, MAX_EDGE // 2, 3)
    sizes = [(image["width"], image["height"]) for image in images]
    assert sizes == [("8", "8"), ("64", "128"), ("8", "8"), ("8", "8")]
    assert [image.get("class") for image in images] == ["small", None, "small", "small"]
    assert images[0]["alt"] == "Training picture: 0.7 cat + 0.3 dog"


def test_a_reduced_picture_keeps_the_mean(report):
    half = np.zeros((512, 512, 3), np.uint8)
    half[:, ::2] = 255  # columns of black and white: any reduction but a mean leaves stripes
    sample = StageSamples("s", (Sample(half, "stripes"),))
    [pixels] = decoded_pictures(
        render_report(replace(report, stage_samples=(sample,), mistakes=()))
    )
    assert np.abs(pixels.astype(int) - 127.5).max() <= 0.5


def test_recall_precision_and_accuracy_by_hand(report):
    html = render_report(report)
    rows = re.findall(r"<tr><th scope=\"row\"><bdi>(cat|dog)</bdi></th>(.*?)</tr>", html)
    cells = {name: re.findall(r"<td[^>]*>([^<]*)</td>", row) for name, row in rows[:2]}
    # recall 8 / 10 and 3 / 4; precision 8 / 9 and 3 / 5
    assert cells == {"cat": ["10", "0.800", "0.889"], "dog": ["4", "0.750", "0.600"]}
    assert "11 of 14 examples are in the right class: accuracy 0.7857" in html
    assert html.count('<td class="number muted">n/a</td>') == 2  # the class without examples


def test_captions_say_last_and_best(report):
    text = Page(render_report(report)).text
    assert "train: last 0.25, lowest 0.25 (epoch 5)" in text
    assert "validation: last 0.9, lowest 0.9 (epoch 3)" in text  # None and infinity are gaps
    assert "validation: last 0.7, highest 0.8 (epoch 3)" in text
    assert "learning rate: last 0.0001, highest 0.001 (epoch 0)" in text
    assert "Dropout rate" not in text


def test_every_metric_gets_a_chart_after_loss_and_accuracy(report):
    history = {
        "auc": [0.5],
        "top_5_accuracy": [0.5],
        "learning_rate": [0.1],
        "accuracy": [0.5],
        "val_auc": [0.5],
        "batch_size": [64],
        "loss": [1.0],
    }
    html = render_report(replace(report, history=history))
    titles = re.findall(r'<figure class="chart"><h3>([^<]*)</h3>', html)
    assert titles == ["Loss", "Accuracy", "Auc", "Top 5 accuracy", "Learning rate"]


def test_stages_are_labelled_with_their_size_or_number(report):
    history = {"epoch": [5, 6], "loss": [1.0, 0.5], "image_size": [48, 64]}
    resumed = replace(report, history=history, stage_starts=(0, 4, 6, 9))
    assert re.findall(r">(\d+ px)</text>", render_report(resumed)) == ["48 px", "64 px"]
    unsized = replace(report, history={"loss": [1.0, 0.5, 0.2]}, stage_starts=(0, 1))
    assert re.findall(r">(stage \d)</text>", render_report(unsized)) == ["stage 1", "stage 2"]


def test_worst_mistakes_come_first_and_are_cut(report):
    many = tuple(Mistake(picture(), f"{i}.png", "cat", "dog", i / 100) for i in range(60))
    confusion = np.array([[40, 60], [0, 30]])  # 60 mistakes in all
    mistaken = replace(
        report,
        class_names=("cat", "dog"),
        confusion=confusion,
        mistakes=(*many[::2], *many[1::2]),
    )
    text = Page(render_report(mistaken)).text
    files = re.findall(r"(\d+)\.png", text)
    assert files == [str(i) for i in range(59, 59 - MAX_MISTAKES, -1)]
    assert "24 of 60" in text


def test_an_empty_report_says_what_is_missing():
    empty = Report("t", (), (), {}, (), (), np.zeros((0, 0), np.int64), (), ())
    page = Page(render_report(empty))
    for said in ("No summary", "without stages", "No epoch", "No validation example"):
        assert said in page.text
    assert "No picture was kept." in page.text
    assert "No picture is in a wrong class." in page.text


def test_one_class_with_nothing_but_nan(report):
    one = replace(
        report,
        history={"loss": [NAN, NAN], "val_loss": [NAN, NAN]},
        class_names=("cat",),
        confusion=np.array([[3]]),
        stage_samples=(),
        mistakes=(Mistake(picture(), "x.png", "cat", "dog", NAN),),
    )
    page = Page(render_report(one))
    assert "train: no finite value" in page.text
    assert "accuracy 1.0000" in page.text
    assert "nan" not in "".join(a.get("points", "") for a in page.attributes)


def test_a_thousand_classes_stay_small(report):
    confusion = np.eye(1000, dtype=np.int64) * 50
    confusion[3, 5] = 40  # recall of class 3: 50 / 90
    confusion[7, 8] = 41  # recall of class 7: 50 / 91
    confusion[9] = 0
    names = tuple(f"class {i}" for i in range(1000))
    html = render_report(replace(report, class_names=names, confusion=confusion))
    page = Page(html)
    assert "The 30 classes of lowest recall, of 999 with examples" in page.text
    assert "The 2 pairs most often confused, of 2" in page.text
    rows = re.findall(r'<tr><th scope="row"><bdi>(class \d+)</bdi></th>', html)
    assert rows[:3] == ["class 7", "class 3", "class 0"]
    assert rows[30:] == ["class 7", "class 3"]  # 41 and 40 examples
    assert "heat" not in {a.get("class") for a in page.attributes}
    assert len(html) < 150_000


def test_a_thousand_classes_without_a_mistake(report):
    names = tuple(map(str, range(31)))
    html = render_report(replace(report, class_names=names, confusion=np.eye(31, dtype=np.int64)))
    assert "No example is in a wrong class." in html


def test_pictures_are_bounded_and_stages_spread(report):
    noise = picture(130, 130)  # the worst case of PNG
    samples = (Sample(noise, "c"),) * (MAX_SAMPLES + 3)
    groups = tuple(StageSamples(f"stage {i}", samples) for i in range(15))
    mistakes = (Mistake(noise, "x.png", "cat", "dog", 0.5),) * 30
    html = render_report(replace(report, stage_samples=groups, mistakes=mistakes))
    assert len(Page(html).all("img")) == MAX_STAGES_SHOWN * MAX_SAMPLES + MAX_MISTAKES == 120
    assert len(html) < 8_000_000
    shown = re.findall(r"<h3><bdi>stage (\d+)</bdi></h3>", html)
    assert shown == ["0", "2", "4", "6", "8", "10", "12", "14"]
    assert "8 of 15 stages" in html
    assert html.count("3 more are not shown.") == MAX_STAGES_SHOWN


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_names": ("cat", "dog")}, r"shape \(2, 2\).*Received: shape \(3, 3\)"),
        ({"confusion": np.eye(3)}, r"counts.*Received: float64, 0 below 0"),
        ({"confusion": -np.eye(3, dtype=int)}, r"counts.*Received: int64, 3 below 0"),
        ({"history": {"loss": [1.0], "accuracy": []}}, r"put NaN.*'loss': 1, 'accuracy': 0"),
        ({"history": {"epoch": [NAN], "loss": [1.0]}}, r"epoch column.*Received: \[nan\]"),
        ({"stages": (("a", "b"), ("c",))}, r"as many cells.*Received: \[2, 1\] cells"),
    ],
)
def test_report_errors(report, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(report, **changes)


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((4, 4, 3)), r"astype\('uint8'\).*Received: float64 of the shape \(4, 4, 3\)"),
        (np.zeros((4, 4), np.uint8), r"\(H, W, 3\).*Received: uint8 of the shape \(4, 4\)"),
        (np.zeros((0, 4, 3), np.uint8), r"not empty.*\(0, 4, 3\)"),
    ],
)
def test_picture_errors_leave_no_file(report, tmp_path, image, message):
    bad = replace(report, mistakes=(Mistake(image, "x.png", "cat", "dog", 0.5),))
    with pytest.raises(ValueError, match=message):
        write_report(bad, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_write_report_replaces_the_file_and_leaves_nothing_beside(report, tmp_path):
    path = tmp_path / "new" / "report.html"
    write_report(report, path)
    write_report(replace(report, title="second"), str(path))
    assert "<title>second</title>" in path.read_text(encoding="utf-8")
    assert list(path.parent.iterdir()) == [path]


def test_write_report_that_fails_leaves_nothing_beside(report, tmp_path):
    with pytest.raises(OSError, match="report"):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []
    assert not list(tmp_path.parent.glob(f".{tmp_path.name}*.tmp"))


# ---- in a browser


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="no chromium or google-chrome on this machine")
def test_the_page_in_a_browser(report, tmp_path):
    names = tuple(f"{'very ' * 20}long name {i}" for i in range(30))
    wide = replace(report, class_names=names, confusion=np.full((30, 30), 12345))
    for found in measure_in_chromium(render_report(wide), (1200, 420), tmp_path):
        assert found["sections"] == SECTIONS
        natural = [tuple(image[:2]) for image in found["images"]]
        assert natural == [(8, 8), (64, 128), (8, 8), (8, 8)]
        assert all(shown[2] >= 96 and shown[3] == shown[2] for shown in found["images"])
        assert found["scroll"] == found["width"]
        assert found["charts"] == [True] * 3
        assert found["page"] == "rgb(255, 255, 255)"  # the style sheet is in force


def test_a_validation_loss_of_thousands_does_not_flatten_the_chart(report):
    history = {"loss": [2.0, 1.0, 0.5], "val_loss": [77_000.0, 6.5, 0.6]}
    page = Page(render_report(replace(report, history=history, stage_starts=())))
    assert "2 validation values above 6 not drawn" in page.text
    assert "77000" not in page.text.replace(",", "")
