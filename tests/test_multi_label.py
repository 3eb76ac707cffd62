"""Pictures of several classes: tables, splits, batches, training, judging, the report."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
from helpers.picture_files import png, write_files
from helpers.quick_runs import leave_out_results, small_network

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.augment.mixing import draw_beta, mix_batch
from keras_effnetv2.benchmark.contestants import open_network
from keras_effnetv2.data.pack import pack
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.splits import carve_validation, stratified_draw
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.evaluation.class_scores import best_thresholds
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.pretrained.registry import CentralCrop
from keras_effnetv2.pretrained.timm_config import Description, read_description, to_timm
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.report.run_page import several_classes_table
from keras_effnetv2.runs.run_folder import open_run, write_settings
from keras_effnetv2.training.assemble import PrecisionRecallArea
from keras_effnetv2.training.fit import train


def write_table(folder: Path, text: str) -> str:
    (folder / "table.csv").write_text(text, encoding="utf-8")
    return f"csv:{folder / 'table.csv'}"


HOT = [[1, 0, 1], [0, 0, 0], [0, 1, 0]]  # of bird, cat, dog


# --- tables


@pytest.mark.parametrize(
    "text",
    [
        "path,label\n1,dog;bird\n2,\n3,cat\n",
        "path,label\n1, bird ; dog ;;dog\n2, ; \n3,cat;\n",
        'path;label\n1;"dog;bird"\n2;\n3;cat\n',
        "label\tpath\ndog;bird\t1\n\t2\ncat\t3\n",
        "path,dog,cat,bird\n1,1,0,1\n2,0,0,0\n3,0,1,0\n",
        ",path,bird,cat,dog\n0,1,True,False,true\n1,2,0.0,0.0,0\n2,3,0,1.0,0,\n",  # of pandas
    ],
)
def test_labels_with_several_classes_are_multi_hot(tmp_path, text):
    source = load_source(write_table(tmp_path, text), "all")
    assert source.multi_label
    assert source.class_names == ("bird", "cat", "dog")
    assert source.labels.dtype == bool
    assert source.labels.tolist() == HOT
    assert source.class_counts().tolist() == [1, 1, 1]
    assert source.label_texts == ("bird;dog", "", "cat")
    (note,) = source.notes
    assert "(multi-label): line 2 of" in note
    assert "--no-multi-label (multi_label=False)" in note


def test_a_table_is_multi_label_if_it_says_so_or_is_taken_so(tmp_path):
    spec = write_table(tmp_path, "path,label\n1,a\n2,b\n")
    assert load_source(spec, "all").labels.tolist() == [0, 1]
    taken = load_source(spec, "all", multi_label=True)
    assert taken.labels.tolist() == [[True, False], [False, True]]
    assert "note: No picture of" in taken.notes[0]
    spec = write_table(tmp_path, "path,a,b\n1,1,0\n2,0,1\n")
    assert load_source(spec, "all").labels.tolist() == [0, 1]
    spec = write_table(tmp_path, "path,label\n1,a;b\n2,b\n")
    whole = load_source(spec, "all", multi_label=False)
    assert whole.class_names == ("a;b", "b")
    assert not whole.multi_label
    assert not whole.notes
    # A class without any picture stays a class of the network.
    spec = write_table(tmp_path, "path,a,b,c,split\n1,1,1,0,train\n2,0,1,0,val\n")
    assert load_source(spec, "validation").class_names == ("a", "b", "c")


@pytest.mark.parametrize(
    ("text", "multi_label", "message"),
    [
        ("path,label\n1,a\n2,\n3,b\n", None, r"line 3: .* is empty.*--multi-label"),
        ("path,label\n1,a;b\n2,\n", False, r"line 3: .* is empty"),
        ("path,a,b\n1,1,0\n2,0,0\n", None, r"line 3: no class is 1.*--multi-label"),
        ("path,a,b\n1,1,1\n2,0,1\n", False, r"line 2: several classes are 1.*--multi-label"),
        ("path,a,b\n1,1,0\n2,,1\n", None, r"line 3: 'a' is ''.*no column 'label'"),
        ("path,kind,size\n1,cat,7\n", None, r"line 2: 'kind' is 'cat'.*Name the column"),
        ("path,kind\n1,cat\n", None, r"no column 'label'.*a column of 0 and 1 for each class"),
        ("path,a,a,b\n1,1,0,1\n", None, r"more than once: 'a'"),
        ('path,"a;b",c\n1,1,0\n', None, r"classes with a ';' in their names: 'a;b'"),
        ("path;label\n1;a;b\n", None, r"""line 2: expected 2 .*A ';' inside .*: "a;b.jpg"."""),
        ("path,label\n1,;\n2,;\n", None, "has no class. Training needs"),
        ("path,label\n1,a;b\n1,c\n", None, r"as 'a;b' and as 'c'.*several classes with .*'a;b'"),
    ],
)
def test_table_errors(tmp_path, text, multi_label, message):
    with pytest.raises(ValueError, match=message):
        load_source(write_table(tmp_path, text), "all", multi_label=multi_label)


def test_class_names_of_a_run(tmp_path):
    spec = write_table(tmp_path, "path,label\n1,a;b\n2,\n3,b\n")
    named = load_source(spec, "all", class_names=["b", "c", "a"])
    assert named.labels.tolist() == [[1, 0, 1], [0, 0, 0], [1, 0, 0]]
    with pytest.raises(ValueError, match=r"not among .*\n  'b' .is it 'B'..: line 2, line 4$"):
        load_source(spec, "all", class_names=["B", "a"])


def test_every_other_kind_of_source_has_one_class_a_picture(tmp_path):
    write_files(tmp_path, {f"{name}/{n}.png": png(n) for n, name in enumerate("aab")})
    source = load_source(tmp_path, "all", multi_label=True)
    assert source.labels.tolist() == [[True, False], [True, False], [False, True]]


# --- splits


def test_a_held_back_split_has_each_class_in_proportion():
    rng = np.random.default_rng(0)
    counts = np.array([300, 100, 40, 10, 2, 1, 0])
    labels = np.zeros((500, 7), bool)
    for label, count in enumerate(counts):
        labels[rng.choice(480, count, replace=False), label] = True
    held = carve_validation(labels, "abcdefg", 0.2, seed=1)
    assert len(held) == 100
    assert (np.diff(held) > 0).all()
    share = labels[held].sum(0)
    assert (np.abs(share - counts / 5)[:4] <= 2).all()
    assert share[4:].tolist() == [1, 0, 0]  # a class of one picture is one to train on
    none = ~labels.any(axis=1)
    assert abs(none[held].sum() - none.sum() / 5) <= 3
    np.testing.assert_array_equal(carve_validation(labels, "abcdefg", 0.2, seed=1), held)
    assert not np.array_equal(carve_validation(labels, "abcdefg", 0.2, seed=2), held)
    # Another order of the classes is not another split.
    turned = carve_validation(labels[:, ::-1], "gfedcba", 0.2, seed=1)
    np.testing.assert_array_equal(turned, held)
    # A part to train on has every class.
    part = stratified_draw(labels, 20, seed=1)
    assert len(part) == 20
    assert labels[part].any(axis=0).tolist() == [True] * 6 + [False]


def test_a_split_without_pictures_is_refused():
    with pytest.raises(ValueError, match=r"Of 3 pictures, `validation_fraction` 0\.1 is 0 for"):
        carve_validation(np.eye(3, dtype=bool), "abc", 0.1, seed=0)


# --- batches


@pytest.fixture
def pictures(tmp_path):
    write_files(tmp_path, {f"{n}.png": png(40 * n) for n in range(6)})
    labels = ("a;b", "", "c", "a;c", "b", "a;b;c")
    rows = "".join(f"{n}.png,{label}\n" for n, label in enumerate(labels))
    return write_table(tmp_path, f"path,label\n{rows}")


def test_batches_have_multi_hot_labels_which_are_mixed(pictures):
    source = load_source(pictures, "all")
    options = {"image_size": 32, "batch_size": 6}
    ((_, labels),) = make_dataset(source, training=False, **options)
    expected = [[1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 1], [0, 1, 0], [1, 1, 1]]
    assert labels.dtype == "float32"
    assert labels.numpy().tolist() == expected
    _, shares = mix_batch(
        np.zeros((6, 2, 2, 3), "float32"), labels, mixup_alpha=1.0, cutmix_alpha=0.0, seed=(1, 2)
    )
    weights = draw_beta(6, 1.0, (1, 2)).numpy()[:, None]
    weights = np.maximum(weights, 1 - weights)
    np.testing.assert_allclose(shares, weights * labels + (1 - weights) * labels[::-1], rtol=1e-6)


def test_packed_and_cached_pictures_keep_their_classes(pictures, tmp_path):
    source = load_source(pictures, "all")
    pack(source, tmp_path / "packed")
    packed = load_source(f"tfrecord:{tmp_path / 'packed'}", "all")
    assert packed.class_names == source.class_names
    np.testing.assert_array_equal(packed.labels, source.labels)
    with pytest.raises(ValueError, match="have several classes each"):
        load_source(f"tfrecord:{tmp_path / 'packed'}", "all", multi_label=False)
    cached = source.cached(tmp_path / "cache")
    np.testing.assert_array_equal(cached.contents, source.contents)
    assert [label.tolist() for _, label, _ in cached.dataset().as_numpy_iterator()] == (
        source.labels.tolist()
    )


def test_an_image_source_is_what_it_was_loaded_as(pictures):
    source = load_source(pictures, "all")
    with pytest.raises(ValueError, match="decides whether an ImageSource is multi-label"):
        TrainingData(source, multi_label=False)
    training, validation = TrainingData(source, validation_fraction=0.5).load(seed=0)
    assert (training.num_examples, validation.num_examples) == (3, 3)
    single = replace(source, labels=np.zeros(6, np.int64))
    with pytest.raises(ValueError, match="must both be multi-label or not"):
        TrainingData(source, validation=single).load(seed=0)


# --- figures


LABELS = np.array([[1, 1, 0], [0, 0, 0], [1, 0, 0], [0, 1, 0]], bool)
SCORES = np.array([[0.9, 0.5, 0.6], [0.8, 0.5, 0.1], [0.7, 0.2, 0.1], [0.1, 0.2, 0.1]], np.float32)
# The first class: F1 is 2/3, 1/2, 4/5 and 2/3 with one to four pictures named. The second: 1/2
# and, with all four, 2/3. The third has no pictures.
THRESHOLDS = (0.4, 0.1, 0.5)


def test_figures_by_hand():
    found = best_thresholds(LABELS, SCORES, enough=1)
    assert found == pytest.approx(THRESHOLDS, abs=1e-7)
    many = best_thresholds(np.repeat(LABELS, 5, axis=0), np.repeat(SCORES, 5, axis=0))
    assert many == pytest.approx(THRESHOLDS, abs=1e-7)
    assert best_thresholds(LABELS, SCORES).tolist() == [0.5] * 3, "chosen on two pictures"
    evaluation = Evaluation(LABELS, SCORES, "sigmoid", found)
    figures = evaluation.by_class()
    # sklearn.metrics.average_precision_score and f1_score of the first two classes
    assert figures["average precision"] == pytest.approx([5 / 6, 0.5, np.nan], nan_ok=True)
    assert figures["F1"] == pytest.approx([0.8, 2 / 3, np.nan], nan_ok=True)
    assert evaluation.mean_average_precision == pytest.approx((5 / 6 + 0.5) / 2)
    assert evaluation.f1 == pytest.approx((0.8 + 2 / 3) / 2)
    assert evaluation.accuracy == 0.25  # the last picture alone has exactly its classes
    loss = keras.losses.BinaryCrossentropy()(LABELS, SCORES)
    assert evaluation.loss == pytest.approx(float(loss), rel=1e-5)
    assert list(evaluation.figures()) == ["mean_average_precision", "f1", "accuracy", "loss"]
    assert "4 pictures, mean average precision 66.67%" in repr(evaluation)
    nothing = Evaluation(np.zeros((4, 3), bool), SCORES, "sigmoid")
    assert np.isnan(nothing.mean_average_precision)
    table = several_classes_table(("a", "b", "c"), evaluation)
    assert table.header == ("class", "count", "average precision", "F1", "threshold")
    assert table.rows[0] == ("a", 2, *map(pytest.approx, (5 / 6, 0.8, 0.4)))
    assert table.rows[2] == ("c", 0, None, None, 0.5)


def test_the_metric_of_an_epoch_takes_smoothed_and_mixed_labels():
    whole, smoothed = PrecisionRecallArea(3), PrecisionRecallArea(3)
    whole.update_state(LABELS.astype("float32"), SCORES)
    smoothed.update_state(0.9 * LABELS + 0.05, SCORES)
    assert float(whole.result()) == pytest.approx(float(smoothed.result()))
    perfect = PrecisionRecallArea(3)
    perfect.update_state(np.eye(3), np.eye(3))
    assert float(perfect.result()) == pytest.approx(1)


# --- a training


RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    **{"epochs": 1, "stages": 1, "batch_size": 4, "image_size": 32, "min_steps": 0},
    randaugment_magnitude=None,
)


@pytest.fixture
def run(pictures, tmp_path, monkeypatch):
    """A training on six pictures of three classes, and what it said."""
    leave_out_results(monkeypatch)
    said = []
    model = small_network(3, activation="sigmoid")
    result = train(model, pictures, RECIPE, tmp_path / "run", echo=said.append)
    return result, "\n".join(said)


def test_a_training_finds_the_loss_and_keeps_its_thresholds(run):
    result, said = run
    assert "loss: sigmoid, because a picture may have several classes or none" in said
    assert "note: Pictures may have several classes (multi-label): line 2 of" in said
    assert "validation mean average precision" in said
    assert {"pr_auc", "val_pr_auc"} < set(result.history)
    opened = open_run(result.output)
    assert (opened.recipe.loss, opened.recipe.label_smoothing) == ("sigmoid", 0.0)
    assert opened.confusion is None
    assert opened.settings.thresholds == tuple(result.evaluation.thresholds)
    assert opened.settings.result["validation_f1"] == result.evaluation.f1
    # `benchmark` names classes by the thresholds of the run, as `evaluate` does.
    write_settings(result.output, replace(opened.settings, thresholds=(0.25, 0.25, 0.25)))
    measured = open_network(str(result.output), data=opened.settings.training.spec)
    figures = measured.figures(np.where(measured.judged_on.labels, 0.3, 0.2))
    assert (figures["accuracy"], figures["f1"]) == (1, 1)
    assert [one.class_name for one in opened.pictures.validation] == [
        load_source(opened.settings.training.spec, "all").label_texts[int(Path(one.name).stem)]
        for one in opened.pictures.validation
    ]


def test_a_shared_run_keeps_its_thresholds(tmp_path):
    config = ModelConfig.from_name("efficientnetv2-b0")
    described = Description(
        *("tf_efficientnetv2_b0", config, 2, config.normalization, ("a", "b"), 224, "whole"),
        activation="sigmoid",
        thresholds=(0.25, 0.5),
    )
    crop = CentralCrop(224, 1.0, "center", "bilinear")
    (tmp_path / "config.json").write_text(json.dumps(to_timm(described, crop)))
    read = read_description(tmp_path / "config.json")
    assert (read.activation, read.thresholds) == ("sigmoid", (0.25, 0.5))
