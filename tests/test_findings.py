"""What is said of a training before it begins: each finding where it belongs, no false alarm."""

import io
import re
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.photos import write_colour_run, write_photos
from helpers.picture_files import png
from helpers.quick_runs import two_blocks
from PIL import Image

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.catalog import MemoryStore
from keras_effnetv2.data.sources import ImageSource, load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.models.applications import preprocess_input
from keras_effnetv2.models.build import build_model
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.recipes.stages import progressive_stages
from keras_effnetv2.training import findings
from keras_effnetv2.training.findings import look_for_findings, map_findings
from keras_effnetv2.training.footprint import Machine, this_machine, training_memory
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.picture_findings import (
    earlier_run_findings,
    label_findings,
    picture_findings,
    same_picture_findings,
)
from keras_effnetv2.training.transfer import freeze_batch_norm

QUICKSTART = TrainRecipe.preset("quickstart")
ONE_SIZE = replace(QUICKSTART, stages=1, image_size=64)
PLAN = ONE_SIZE.resolve().plan
LAPTOP = Machine(free_memory=8 * 10**9, has_accelerator=False)
GPU = replace(LAPTOP, has_accelerator=True)


def picture_source(contents, labels, classes=10, split="train"):
    """A source of pictures in memory: the n-th has the n-th bytes (the last ones again)."""
    names = tuple(f"{n}.png" for n in range(len(contents)))
    return ImageSource(
        spec="memory",
        split=split,
        class_names=tuple(f"class {n}" for n in range(classes)),
        labels=np.asarray(labels, np.int64),
        horizontal_flip=True,
        store=MemoryStore(tf.constant(contents), names),
        rows=np.minimum(np.arange(len(labels)), len(contents) - 1),
    )


def big_source(num_examples, classes, side=500, split="train"):
    slope = np.linspace(0, 255, side, dtype=np.uint8)[:, np.newaxis, np.newaxis]
    picture = tf.io.encode_png(np.broadcast_to(slope, [side, side, 3])).numpy()
    return all_different(
        picture_source([picture], np.arange(num_examples) % classes, classes, split)
    )


def all_different(source):
    """The source as if its pictures, which are few ones repeated, were all different."""
    vars(source)["contents"] = np.random.default_rng(0).permutation(source.num_examples).view(
        np.uint64
    ) + np.uint64(2**40 if source.split == "validation" else 1)
    return source


def inputs_of(training, validation, recipe=ONE_SIZE, variant=None):
    plan = recipe.resolve(variant).plan
    return Inputs(TrainingData(training), training, validation, recipe, plan)


def without_front(classes=10):
    """A network that normalises nothing itself, with a batch norm that has the momentum 0.9."""
    return keras.Sequential(
        [
            keras.Input((None, None, 3)),
            keras.layers.Conv2D(4, 8, strides=8),
            keras.layers.BatchNormalization(momentum=0.9),
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(classes, activation="softmax"),
        ]
    )


def network(*front, inner=None):
    return keras.Sequential([keras.Input((None, None, 3)), *front, inner or without_front()])


def found(iterator):
    return [tuple(line.split(": ", 1)) for line in iterator]


@pytest.fixture(scope="module")
def digits():
    return load_source("digits", "train"), load_source("digits", "validation")


# --- good cases ---------------------------------------------------------------------------------


def test_nothing_is_found_for_digits_and_small_photos_with_quickstart(digits):
    model = build_model(two_blocks(), classes=10)
    inputs = inputs_of(*digits, recipe=QUICKSTART)
    assert list(look_for_findings(model, inputs, LAPTOP)) == []
    training = big_source(2000, 10, side=32)
    validation = all_different(
        picture_source([png(100, 32)], np.arange(200) % 10, split="validation")
    )
    model = network(keras.layers.Rescaling(1 / 127.5, -1))
    inputs = inputs_of(training, validation, recipe=QUICKSTART)
    assert list(look_for_findings(model, inputs, LAPTOP)) == []


def test_photos_with_fewer_pixels_than_the_kernels_need():
    model = network(keras.layers.Rescaling(1 / 127.5, -1))
    photos = picture_source([png(100, 48)], np.arange(64) % 10)
    inputs = inputs_of(photos, photos, replace(ONE_SIZE, stages=2, image_size=(16, 96)))
    (finding,) = map_findings(model, inputs)
    assert finding.startswith("warning: At 16 pixels the last map of ")
    assert " is 2 x 2, too few to learn its kernels from. Use pictures of 96 pixels" in finding
    assert not [*map_findings(model, inputs_of(photos, photos, replace(ONE_SIZE, image_size=24)))]
    digits = picture_source([png(100, 40)], np.arange(64) % 10)
    assert not [*map_findings(model, inputs_of(digits, digits, inputs.recipe))]


@pytest.mark.parametrize("preset", ["imagenet-official", "imagenet-paper"])
def test_nothing_is_found_for_imagenet(preset):
    recipe = TrainRecipe.preset(preset)
    training, validation = big_source(1_281_167, 1000), big_source(50_000, 1000, split="validation")
    model = network(keras.layers.Rescaling(1 / 128, -1), inner=without_front(1000))
    inputs = inputs_of(training, validation, recipe, "efficientnetv2-s")
    assert list(look_for_findings(model, inputs, GPU)) == []


# --- input range --------------------------------------------------------------------------------


def caffe(x):
    return x - np.array([103.939, 116.779, 123.68], "float32")


@pytest.mark.parametrize(
    "front",
    [
        [keras.layers.Rescaling(1 / 255)],
        [keras.layers.Rescaling(1 / 127.5, -1)],
        [keras.layers.Normalization(mean=[124.0] * 3, variance=[3300.0] * 3)],
        [keras.layers.Lambda(caffe)],
        [keras.layers.RandomFlip(), keras.layers.Rescaling(1 / 255)],
        [keras.layers.BatchNormalization()],
    ],
    ids=["rescaled", "centred", "normalised", "mean taken off", "flipped first", "batch norm"],
)
def test_a_normalised_input_is_no_finding(front):
    assert found(findings.input_range_findings(network(*front), PLAN, True)) == []


def test_raw_pixels_at_the_first_weights():
    ((level, text),) = found(findings.input_range_findings(network(), PLAN, learned=True))
    assert level == "warning"
    assert "0..255 reach the first weights" in text
    assert "include_preprocessing=True" in text
    undivided = network(keras.layers.Normalization(mean=[0.5] * 3, variance=[0.05] * 3))
    assert (
        "reach the first weights"
        in found(findings.input_range_findings(undivided, PLAN, learned=True))[0][1]
    )
    unadapted = network(keras.layers.Normalization(mean=[0.0] * 3, variance=[1.0] * 3))
    assert found(findings.input_range_findings(unadapted, PLAN, learned=False))[0][0] == "note"


IMAGENET = {"mean": [123.7, 116.3, 103.5], "variance": [3409.0, 3262.0, 3291.0]}
BY_255 = keras.layers.Rescaling(1 / 255)


@pytest.mark.parametrize(
    ("front", "inner", "reached"),
    [
        ([BY_255], [keras.layers.Rescaling(1 / 128, -1)], "black becomes -1 and white -0.9922"),
        (
            [BY_255],
            [keras.layers.Normalization(**IMAGENET)],
            "black becomes -2.036 and white -2.019",
        ),
        ([BY_255], [keras.layers.Lambda(caffe)], "black becomes -103.9 and white -102.9"),
        ([BY_255], [keras.layers.ZeroPadding2D(), BY_255], "black becomes 0 and white 0.003922"),
        (
            # A model of its own, whose weights are only the numbers of a normalisation.
            [
                keras.Sequential(
                    [keras.layers.Normalization(mean=[127.5] * 3, variance=[65025.0] * 3)]
                )
            ],
            [keras.layers.Rescaling(1 / 128, -1)],
            "black becomes -1.004 and white -0.9961",
        ),
    ],
)
def test_a_network_that_normalises_twice(front, inner, reached):
    model = network(*front, inner=network(*inner))
    ((level, text),) = found(findings.input_range_findings(model, PLAN, True))
    assert level == "warning"
    assert re.search(f"{reached} where they reach the first weights.*twice", text)
    assert found(findings.input_range_findings(network(*inner), PLAN, True)) == []


@pytest.mark.parametrize("variant", ["efficientnetv2-b0", "efficientnetv2-s"])
def test_input_ranges_of_this_packages_networks(variant):
    config = replace(two_blocks(), normalization=ModelConfig.from_name(variant).normalization)
    whole = build_model(config, classes=10)
    bare = build_model(config, classes=10, include_preprocessing=False)
    normalised = keras.layers.Lambda(lambda images: preprocess_input(images, variant))
    for model, text in (
        (whole, None),
        (network(normalised, inner=bare), None),
        (bare, "0..255 reach the first weights"),
        (network(BY_255, inner=whole), "normalised twice"),
        (network(normalised, inner=whole), "normalised twice"),
    ):
        texts = [text for _, text in found(findings.input_range_findings(model, PLAN, True))]
        assert len(texts) == (text is not None)
        assert text is None or text in texts[0]


@pytest.mark.parametrize("variant", ["efficientnetv2-b0", "efficientnetv2-s"])
def test_a_mean_taken_off_in_front_of_a_network_that_normalises(variant):
    front = keras.layers.Lambda(keras.applications.resnet50.preprocess_input)
    config = replace(two_blocks(), normalization=ModelConfig.from_name(variant).normalization)
    for inner in (build_model(config, classes=10), network(keras.layers.Lambda(caffe))):
        model = network(front, inner=inner)
        ((level, text),) = found(findings.input_range_findings(model, PLAN, True))
        assert level == "warning"
        assert re.search("black becomes -.*twice.*preprocess_input", text)
    for right in (
        [front],
        [keras.layers.Rescaling(1, -128), keras.layers.Rescaling(1 / 128)],
        # Adapted to bright pictures.
        [keras.layers.Normalization(mean=[230.0] * 3, variance=[625.0] * 3)],
        [keras.layers.Rescaling(1, -230), keras.layers.Rescaling(1 / 25)],
    ):
        assert found(findings.input_range_findings(network(*right), PLAN, True)) == []


# --- the last activation ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("loss", "layers", "limit"),
    [
        ("softmax", [keras.layers.Dense(3, "softmax"), keras.layers.Softmax()], "0.576"),
        ("softmax", [keras.layers.Dense(3, "sigmoid"), keras.layers.Softmax()], "0.576"),
        ("sigmoid", [keras.layers.Dense(3, "sigmoid"), keras.layers.Activation("sigmoid")], "0.73"),
        (
            "softmax",
            [
                keras.Sequential([keras.Input((4,)), keras.layers.Dense(1000, "softmax")]),
                keras.layers.Softmax(),
                keras.layers.Activation("linear"),
            ],
            "0.003",
        ),
        ("sigmoid", [keras.layers.Dense(3, "hard_sigmoid")], "hard_sigmoid"),
    ],
)
def test_probabilities_that_are_squashed_twice_or_cut_off(loss, layers, limit):
    model = keras.Sequential([keras.Input((4,)), *layers])
    recipe = replace(ONE_SIZE, loss=loss)
    ((level, text),) = found(findings.activation_findings(model, recipe))
    assert level == "warning"
    assert limit in text


@pytest.mark.parametrize(
    ("loss", "layers"),
    [
        ("softmax", [keras.layers.Dense(1000, "softmax")]),
        ("softmax", [keras.layers.Dense(3), keras.layers.Softmax()]),
        ("softmax", [keras.layers.Dense(3, "softmax"), keras.layers.Dropout(0.1)]),
        ("softmax", [keras.layers.Dense(3, "softmax"), keras.layers.Dense(3, "softmax")]),
        ("sigmoid", [keras.layers.Dense(3, "sigmoid")]),
        ("sigmoid", [keras.layers.Dense(1), keras.layers.Activation("sigmoid")]),
    ],
)
def test_one_activation_is_no_finding(loss, layers):
    model = keras.Sequential([keras.Input((4,)), *layers])
    assert found(findings.activation_findings(model, replace(ONE_SIZE, loss=loss))) == []


# --- labels and pictures ------------------------------------------------------------------------


def labels_found(training_labels, validation_labels, classes=3, recipe=QUICKSTART):
    training = picture_source([b""], training_labels, classes)
    validation = picture_source([b""], validation_labels, classes, "validation")
    return found(label_findings(training, validation, recipe))


@pytest.mark.parametrize(
    ("training", "validation", "level", "text"),
    [
        ([0, 1], [0, 1, 2], "warning", "none for training, so they cannot be learned: 'class 2'"),
        ([0, 1], [0, 1], "note", "These classes have no pictures: 'class 2'"),
        ([0, 1, 2], [0, 1], "note", "accuracy will be unknown: 'class 2'"),
        ([0] * 31 + [1, 2] * 3, [0, 1, 2], "warning", "'class 0' has 31 training pictures"),
    ],
)
def test_labels(training, validation, level, text):
    ((found_level, found_text),) = labels_found(training, validation)
    assert found_level == level
    assert text in found_text
    assert labels_found([0] * 30 + [1, 2] * 3, [0, 1, 2]) == []  # ten times as many are fine


def test_uneven_classes_are_no_finding_where_something_is_done_about_them():
    uneven = [0] * 31 + [1, 2] * 3, [0, 1, 2]
    ((_, text),) = labels_found(*uneven)
    assert '--class-weights balanced, class_weights="balanced"' in text
    assert "--balanced, balanced=True" in text
    for recipe in (
        replace(QUICKSTART, class_weights="balanced"),
        replace(QUICKSTART, balanced=True),
    ):
        assert labels_found(*uneven, recipe=recipe) == []


def encoded(pixels, orientation=1):
    exif, file = Image.Exif(), io.BytesIO()
    exif[0x0112] = orientation
    Image.fromarray(pixels).save(file, "PNG", exif=exif)
    return file.getvalue()


def test_a_sample_of_the_pictures_is_looked_at():
    noise = np.random.default_rng(0).integers(0, 256, (8, 8, 4), dtype=np.uint8)
    good, clear, turned = noise[..., :3], encoded(noise), encoded(noise[..., :3], 6)
    dark = tf.io.encode_png(noise[..., :3].astype(np.uint16) * 4).numpy()  # 10 bits in 16
    for contents, texts in (
        ([encoded(good)] * 100, []),
        ([encoded(good)] * 3 + [b"", png(0)], ["warning: 1 of 5 sampled training pictures is of"]),
        ([dark] * 64 + [encoded(good)] * 64, ["warning: 16 of 32 sampled training pictures are a"]),
        ([turned, clear, turned], ["note: 2 of 3 .* turned", "note: 1 of 3 .* transparent"]),
    ):
        labels = [0] * len(contents)
        lines = list(picture_findings(picture_source(contents, labels)))
        assert len(lines) == len(texts), lines
        for line, text in zip(lines, texts, strict=True):
            assert re.match(text, line)
            assert line.endswith("Look at them with --preview.")


def test_pictures_on_both_sides_and_with_two_labels_are_named():
    training = picture_source([png(n, 8) for n in range(20)], np.arange(20) % 10)
    contents = [png(3, 8), png(200, 8), b"broken", png(4, 8), png(4, 8), b""]
    validation = picture_source(contents, [3, 0, 1, 4, 5, 2], split="validation")
    (_, conflict), (level, shared) = found(same_picture_findings(training, validation))
    assert conflict.startswith("1 picture with the same content and different labels.")
    assert conflict.splitlines()[1:] == [
        "  '4.png (class 4)', '3.png (class 4)', '4.png (class 5)'"
    ]
    assert level == "warning"
    assert shared.startswith("Validation has 3 of its 6 pictures in common with training")
    assert shared.splitlines()[1:] == ["  '3.png', '0.png'", "  '4.png', '3.png', '4.png'"]


def test_ten_of_many_same_pictures_are_named():
    training = picture_source([png(n, 8) for n in range(12)], np.arange(12) % 10)
    validation = picture_source([png(n, 8) for n in range(12)], np.arange(12) % 10)
    ((_, text),) = found(same_picture_findings(training, validation))
    assert len(text.splitlines()) == 12
    assert text.splitlines()[-1] == "  and 2 more"


def test_weights_of_a_run_that_was_trained_on_validation_pictures(tmp_path):
    photos = write_photos(tmp_path / "photos")
    run = write_colour_run(tmp_path / "run", photos)
    (run / "backup").mkdir()
    snapshot = shutil.copy(run / "model.keras", run / "backup" / "after-1-epochs.safetensors")
    training, validation = (load_source(photos, split) for split in ("train", "validation"))
    for weights in (run / "model.keras", snapshot):
        assert list(earlier_run_findings(str(weights), training, validation)) == []
        ((level, text),) = found(earlier_run_findings(str(weights), validation, training))
        assert level == "warning"
        assert f"{weights} was trained on 29 of the validation pictures" in text
        # Those that this training is trained on, too, are another finding.
        assert list(earlier_run_findings(str(weights), training, training)) == []


@pytest.mark.parametrize("weights", [None, "imagenet", "model.keras"])
def test_weights_beside_or_without_the_pictures_of_a_run(tmp_path, monkeypatch, weights):
    photos = write_photos(tmp_path / "photos")
    (write_colour_run(tmp_path / "run", photos) / "pictures.csv").write_text("changed")
    monkeypatch.chdir(tmp_path / "run")
    training, validation = (load_source(photos, split) for split in ("train", "validation"))
    assert list(earlier_run_findings(weights, validation, training)) == []


# --- batches, steps, sizes ----------------------------------------------------------------------


def batch_norms_found(pictures, *, batch=32, epochs=20, learned=False, is_frozen=False):
    source = big_source(pictures, 10)
    inputs = inputs_of(source, source, replace(ONE_SIZE, batch_size=batch, epochs=epochs))
    model = without_front()
    if is_frozen:
        freeze_batch_norm(model)
    return found(findings.batch_norm_findings(model, inputs, learned))


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"batch": 15}, "train on batches of 15 pictures"),
        ({"batch": 16}, None),
        ({"epochs": 1, "pictures": 32 * 28}, "After the 28 steps"),  # 0.9 ** 28 = 5.2%
        ({"epochs": 1, "pictures": 32 * 29}, None),  # 0.9 ** 29 = 4.7%
        ({"epochs": 1, "pictures": 32, "learned": True}, None),
        ({"is_frozen": True}, "frozen, but have learned nothing yet"),
        ({"batch": 2, "learned": True, "is_frozen": True}, None),
    ],
)
def test_batch_norms(options, text):
    messages = batch_norms_found(**{"pictures": 3200, **options})
    assert [level for level, _ in messages] == ["warning"] * (text is not None)
    assert text is None or text in messages[0][1]


def test_fewer_pictures_than_a_batch():
    source = big_source(30, 10)
    ((level, text),) = found(findings.step_findings(inputs_of(source, source)))
    assert level == "warning"
    assert "30 training pictures do not fill one batch of 32" in text
    probe = replace(ONE_SIZE, probe="only", batch_size=64)  # as the preset "probe" has it
    assert not [*findings.step_findings(inputs_of(source, source, probe))]
    chosen = replace(probe, batch_size=128)
    assert len([*findings.step_findings(inputs_of(source, source, chosen))]) == 1


# --- precision ----------------------------------------------------------------------------------


def half_precision_network(policy, *, last="float32", whole=True):
    previous = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        layers = [keras.layers.Conv2D(2, 3), keras.layers.GlobalMaxPooling2D()]
        layers.append(keras.layers.Dense(10, dtype=last, activation="softmax"))
    finally:
        keras.config.set_dtype_policy(policy if whole else previous)
    try:
        return keras.Sequential([keras.Input((64, 64, 3)), *layers])
    finally:
        keras.config.set_dtype_policy(previous)


@pytest.mark.parametrize(
    ("options", "precision", "machine", "texts"),
    [
        ({"policy": "float32"}, "float32", LAPTOP, []),
        ({"policy": "mixed_float16"}, "mixed_float16", GPU, []),
        ({"policy": "mixed_bfloat16"}, "mixed_bfloat16", GPU, []),
        ({"policy": "mixed_float16"}, "mixed_float16", LAPTOP, ["There is no GPU"]),
        ({"policy": "float32"}, "mixed_float16", GPU, ["is only for models that `train` builds"]),
        ({"policy": "mixed_float16", "whole": False}, "float32", GPU, ["does not scale the loss"]),
        (
            {"policy": "mixed_float16", "last": None},
            "mixed_float16",
            GPU,
            ["ends in float16, too coarse"],
        ),
    ],
)
def test_precision(options, precision, machine, texts):
    model = half_precision_network(**options)
    recipe = replace(ONE_SIZE, precision=precision)
    messages = [text for _, text in found(findings.precision_findings(model, recipe, machine))]
    assert len(messages) == len(texts)
    assert all(text in message for text, message in zip(texts, messages, strict=True))


# --- the file -----------------------------------------------------------------------------------


def ends_with(*layers):
    return network(inner=keras.Sequential([keras.layers.GlobalMaxPooling2D(), *layers]))


class Doubled(keras.layers.Layer):
    def call(self, x):
        return 2 * x


@pytest.mark.parametrize(
    ("layers", "name"),
    [
        ([keras.layers.Dense(3, activation=tf.nn.softmax, name="last")], "last"),
        ([keras.layers.Dense(3), keras.layers.Lambda(tf.nn.softmax, name="softmax")], "softmax"),
        ([Doubled(name="own")], "own"),
        ([keras.layers.Dense(3, activation="softmax"), keras.layers.Softmax()], None),
    ],
)
def test_layers_that_keras_would_not_read_back(layers, name):
    messages = found(findings.file_findings(ends_with(*layers)))
    assert len(messages) == (name is not None)
    assert name is None or f"of these layers: {name!r}. " in messages[0][1]


# --- memory and all together --------------------------------------------------------------------


def test_the_estimate_of_memory_follows_its_formula():
    plan = progressive_stages(epochs=2, stages=2, image_size=(64, 64), batch_size=(8, 4))
    # Bytes: 8 x 8 x 4 twice (convolution, batch norm), 4, 10; five copies of every parameter.
    one_picture = 4 * (8 * 8 * 4 * 2 + 4 + 10)
    parameters = (8 * 8 * 3 * 4 + 4) + 4 * 4 + (4 * 10 + 10)
    expected = 8 * one_picture + 5 * 4 * parameters + 300_000_000
    assert training_memory(without_front(), plan) == expected
    assert training_memory(network(), plan) == expected  # nested
    rescaled = network(keras.layers.Rescaling(1 / 255))
    assert training_memory(rescaled, plan) == expected + 8 * 4 * 64 * 64 * 3


@pytest.mark.parametrize(
    ("machine", "is_said"),
    [
        (replace(LAPTOP, free_memory=3 * 10**8), True),
        (replace(LAPTOP, free_memory=5 * 10**8), False),
        (replace(LAPTOP, free_memory=None), False),
        (replace(GPU, free_memory=1), False),
    ],
)
def test_too_little_memory_is_said_of_a_cpu(machine, is_said):
    plan = progressive_stages(epochs=1, stages=1, image_size=64, batch_size=8)
    messages = found(findings.memory_findings(without_front(), plan, machine))
    assert [level for level, _ in messages] == ["warning"] * is_said
    if is_said:
        assert "A train step needs about 0.4 GB of memory, and 0.3 GB are free." in messages[0][1]


def test_this_machine_is_looked_at():
    machine = this_machine()
    assert machine.free_memory is None or machine.free_memory > 10**6
    assert machine.has_accelerator is False  # tests/conftest.py


def test_all_findings_are_lines_in_the_order_in_which_one_looks(digits):
    inputs = inputs_of(*digits, replace(ONE_SIZE, batch_size=4))
    every = list(look_for_findings(without_front(), inputs, LAPTOP))
    assert [line.partition(":")[0] for line in every] == ["note", "warning"]
    assert all("\n" not in line for line in every)
