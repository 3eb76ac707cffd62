"""The SavedModel against the Keras model it was made of."""

import datetime
import hashlib
import json
import math
import shutil
import struct
import warnings
from collections import Counter
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.served_models import (
    COLOUR,
    GRAY,
    NAMES,
    SIZE,
    chaotic,
    make_forgetful_model,
    make_model,
    pixels,
)
from tensorflow.core.protobuf import saved_model_pb2

import keras_effnetv2
from keras_effnetv2.export.saved_model import export_saved_model, probability_model
from keras_effnetv2.export.warmup import WARMUP_FILE
from keras_effnetv2.images.evaluation_crop import prepare_batch


def served_probabilities(folder, images):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(images=tf.constant(images))["probabilities"].numpy()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a model, the folder it was exported to and its signatures."""
    model = make_model(width=512)
    model.compile("adam", "categorical_crossentropy")
    model.fit(pixels(2), np.eye(len(NAMES))[:2], verbose=0)  # the optimizer's state stays out
    directory = tmp_path_factory.mktemp("export") / "served"
    folder = export_saved_model(
        model, directory, NAMES, version=3, max_pixels=12_000, variant="tiny", weights="drawn"
    )
    return model, folder, tf.saved_model.load(str(folder)).signatures


def test_files_and_weights_stored_once(served):
    model, folder, _ = served
    assert folder.name == "3"
    assert [path.name for path in folder.parent.iterdir()] == ["3"]  # nothing left beside it
    labels = (folder / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert labels == "".join(f"{name}\n" for name in NAMES)
    variables = sum(path.stat().st_size for path in (folder / "variables").glob("*.data*"))
    weights = 4 * (model.count_params() - 4 * 512)  # folded into kernel and bias
    assert (
        0.95 * weights < variables < 1.05 * weights
    )  # folding leaves one number of four a channel


def test_signatures(served):
    described = {
        name: [
            {key: (spec.shape.as_list(), spec.dtype.name) for key, spec in specs.items()}
            for specs in (signature.structured_input_signature[1], signature.structured_outputs)
        ]
        for name, signature in served[2].items()
    }
    assert described == {
        "serving_default": [
            {"images": ([None, SIZE, SIZE, 3], "float32")},
            {"probabilities": ([None, len(NAMES)], "float32")},
        ],
        "classify_bytes": [
            {"image_bytes": ([None], "string")},
            {
                "classes": ([None, 5], "string"),
                "scores": ([None, 5], "float32"),
                "error": ([None], "string"),
            },
        ],
        "classify": [
            {"inputs": ([None], "string")},
            {"classes": ([None, 5], "string"), "scores": ([None, 5], "float32")},
        ],
    }


def nodes_of(folder):
    """Return all nodes of the graph and its functions."""
    content = (folder / "saved_model.pb").read_bytes()
    graph = saved_model_pb2.SavedModel.FromString(content).meta_graphs[0].graph_def
    bodies = [graph.node, *(function.node_def for function in graph.library.function)]
    return [node for body in bodies for node in body]


def test_graph_has_no_python_op_and_the_network_once(served):
    operations = Counter(node.op for node in nodes_of(served[1]))
    assert not [name for name in operations if "Py" in name]  # PyFunc, EagerPyFunc and others
    assert operations["DecodeJpeg"] >= 1
    # Three signatures call one function; the two branches are its batch of one and any other.
    assert operations["Conv2D"] == 1
    assert "FusedBatchNormV3" not in operations


def test_silu_is_plain_in_the_graph_and_as_it_was_in_the_model(served):
    model, folder, _ = served
    # tf.nn.silu is an IdentityN with a gradient of its own, which nothing can be fused across.
    assert not any("_gradient_op_type" in node.attr for node in nodes_of(folder))
    layer = next(layer for layer in model.layers if isinstance(layer, keras.layers.Activation))
    assert layer.activation is keras.activations.silu


def test_edited_labels_are_what_is_served(served, tmp_path):
    folder = shutil.copytree(served[1], tmp_path / "copy")
    labels = folder / "assets" / "labels.txt"
    labels.write_text("".join(f"class {index}\n" for index in range(len(NAMES))))
    answer = tf.saved_model.load(str(folder)).signatures["classify_bytes"](
        image_bytes=tf.constant([GRAY])
    )
    assert answer["classes"].numpy()[0][0].startswith(b"class ")


@pytest.mark.parametrize("batch", [0, 1, 5])
def test_any_batch_size(served, batch):
    model, _, signatures = served
    images = pixels(batch)
    answer = signatures["serving_default"](images=tf.constant(images))["probabilities"].numpy()
    assert answer.shape == (batch, len(NAMES))
    if batch:
        np.testing.assert_allclose(answer, model(images, training=False), atol=1e-6)
    answer = signatures["classify_bytes"](image_bytes=tf.constant([GRAY] * batch, tf.string))
    assert answer["scores"].shape == (batch, 5)
    assert answer["error"].numpy().tolist() == [b""] * batch


def behind_layers_and_inside_a_model():
    inputs = keras.Input((SIZE, SIZE, 3))
    inner = make_model(None, ending=[keras.layers.Softmax()])
    outputs = keras.layers.Activation("linear", dtype="float32")(inner(inputs))
    return keras.Model([inputs], {"scores": outputs})


def same(answer):
    return answer


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (make_model, same),
        (lambda: make_model("sigmoid"), same),
        (lambda: make_model(tf.nn.softmax), same),
        (lambda: make_model("log_softmax"), keras.ops.softmax),
        (behind_layers_and_inside_a_model, same),
        (lambda: make_model(None), keras.ops.softmax),
        (lambda: make_model(None, classes=1), keras.ops.sigmoid),  # softmax would always say 1
        (lambda: make_model(None, policy="mixed_bfloat16"), keras.ops.softmax),
    ],
)
def test_a_model_is_made_to_give_probabilities(make, expected):
    """From one tensor to one in float32; there is no second softmax."""
    model, images = make(), pixels(2)
    with warnings.catch_warnings():
        # Keras says so when a model is not given what it was built with.
        warnings.filterwarnings("error", "The structure of `inputs`")
        answer = probability_model(model)(images, training=False)
    (own,) = keras.tree.flatten(model(images, training=False))
    assert answer.dtype == tf.float32
    np.testing.assert_allclose(answer, expected(tf.cast(own, tf.float32)), atol=1e-6)


def test_gif_on_request_and_fewer_numbered_classes_than_top_k_without_folding(tmp_path):
    model = make_model("sigmoid", 2)
    folder = export_saved_model(model, tmp_path, gif=True, fold_batch_norm=False)
    answer = tf.saved_model.load(str(folder)).signatures["classify_bytes"](
        image_bytes=tf.constant([COLOUR, GIF])
    )
    assert answer["error"].numpy().tolist() == [b"", b""]
    expected = model(prepare_batch([COLOUR], SIZE)[0], training=False).numpy()[0]
    order = np.argsort(-expected)
    assert answer["classes"].numpy()[0].tolist() == [str(index).encode() for index in order]
    np.testing.assert_allclose(answer["scores"][0], expected[order], atol=1e-6)
    assert card_of(folder)["preprocessing"]["gif"] is True
    assert card_of(folder)["accuracy"]["batch_norm_folded"] is False
    assert card_of(folder)["model"]["parameters"] == model.count_params()


def png(height, width):
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII5B", 13, b"IHDR", width, height, 8, 2, 0, 0, 0)


def bmp(height, width):
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + info


GIF = (  # a red and a blue pixel
    b"GIF89a\x02\0\x01\0\x80\0\0\xff\0\0\0\0\xff,\0\0\0\0\x02\0\x01\0\0\x02\x02D\x0a\0;"
)
TOO_LARGE = "pixels (height x width) is more than the 12000 that are accepted"


@pytest.mark.parametrize(
    ("file", "reason"),
    [
        (COLOUR, f"171 x 231 {TOO_LARGE}"),
        (png(1, 12_001), f"1 x 12001 {TOO_LARGE}"),
        # The product overflows 32 bits, and 63 with channels.
        (png(2**31 - 1, 2**31 - 1), f"2147483647 x 2147483647 {TOO_LARGE}"),
        (bmp(2**31 - 1, 2**31 - 1), "corrupt or truncated BMP"),  # shorter than its pixels
        (bmp(-(2**31) + 1, 60_000), "corrupt or truncated BMP"),
        (GIF, "GIF pictures are not accepted here, because a small one can unpack"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_what_would_be_too_large_is_refused_before_decoding(served, file, reason):
    answer = served[2]["classify_bytes"](image_bytes=tf.constant([file, GRAY]))
    refused, good = (error.decode() for error in answer["error"].numpy())
    assert refused.startswith(reason)
    assert good == ""
    assert not answer["scores"].numpy()[0].any()
    assert answer["scores"].numpy()[1].any()


def card_of(folder):
    return json.loads((folder / "model_card.json").read_text())


def test_the_card_says_what_is_served(served):
    model, folder, _ = served
    card = card_of(folder)
    files = {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "model_card.json"
    }
    assert card["files"] == files
    assert set(files) > {"saved_model.pb", "assets/labels.txt", WARMUP_FILE}
    created = datetime.datetime.fromisoformat(card["created"])
    age = datetime.datetime.now(datetime.UTC) - created
    assert datetime.timedelta(0) <= age < datetime.timedelta(hours=1)
    assert card["versions"] == {
        "keras_effnetv2": keras_effnetv2.__version__,
        "keras": keras.__version__,
        "tensorflow": tf.__version__,
    }
    difference = card["accuracy"].pop("folding_max_difference")
    assert 0 < difference < 1e-5  # what float32 rounding does
    assert card["accuracy"].pop("max_difference") == difference
    assert {name: card[name] for name in ("model", "classes", "preprocessing", "accuracy")} == {
        "model": {
            "name": model.name,
            "variant": "tiny",
            "weights": "drawn",
            "parameters": model.count_params() - 4 * 512,
        },
        "classes": {
            "count": len(NAMES),
            "labels": "assets/labels.txt",
            "labels_sha256": files["assets/labels.txt"],
        },
        "preprocessing": {
            "image_size": SIZE,
            "style": "whole",
            "max_pixels": 12_000,
            "gif": False,
            "pixel_range": [0, 255],
            "normalization": "inside the model",
        },
        "accuracy": {
            "batch_norm_folded": True,
            "not_folded_because": None,
            "rounding_max_difference": None,
            "weights_dtype": "float32",
            "weights_max_difference": 0.0,
            "pictures": 8,
            "top1_agreement": 1.0,
        },
    }
    assert (card["format_version"], card["top_k"]) == (1, 5)


def test_folding_that_changes_probabilities_is_refused(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"changes a probability by 0\.0\d+\. The limit is 0\.0001, .*fold_batch_norm=False",
    ):
        export_saved_model(make_forgetful_model(), tmp_path)
    assert not list(tmp_path.iterdir())


def test_probabilities_that_are_not_finite_are_refused(tmp_path):
    model = make_model()
    model.layers[1].bias.assign(np.full(8, np.nan))
    with pytest.raises(ValueError, match="changes a probability by nan"):
        export_saved_model(model, tmp_path)


def in_half_precision():
    model = make_model(policy="mixed_bfloat16")
    kernel = model.layers[-1].kernel
    kernel.assign(kernel * 100)
    return model


@pytest.mark.parametrize("make", [in_half_precision, chaotic])
def test_a_model_that_rounding_alone_changes_is_folded(tmp_path, make):
    accuracy = card_of(export_saved_model(make(), tmp_path))["accuracy"]
    assert accuracy["batch_norm_folded"]
    assert accuracy["folding_max_difference"] > 1e-4
    assert accuracy["rounding_max_difference"] > 1e-4


def test_what_cannot_be_folded_is_served_as_it_is(tmp_path):
    normal = keras.layers.TimeDistributed(keras.layers.BatchNormalization(name="inner"))
    model = keras.Sequential(
        [
            keras.Input((SIZE, SIZE, 3)),
            normal,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(4, "softmax"),
        ]
    )
    accuracy = card_of(export_saved_model(model, tmp_path))["accuracy"]
    assert accuracy["batch_norm_folded"] is False
    assert "inside another layer cannot be folded" in accuracy["not_folded_because"]


@pytest.mark.parametrize(("dtype", "tolerance"), [("bfloat16", 1e-2), ("float16", 2e-3)])
def test_weights_in_half_precision_are_half_the_size(tmp_path, dtype, tolerance):
    model = make_model(classes=1500, width=64)
    folder = export_saved_model(model, tmp_path, weights_dtype=dtype)
    variables = sum(path.stat().st_size for path in (folder / "variables").glob("*"))
    kernels = sum(math.prod(w.shape) for w in model.weights if len(w.shape) > 1)
    assert 2 * kernels < variables < 1.15 * 2 * kernels
    constants = [n.attr["value"].tensor.tensor_content for n in nodes_of(folder) if n.op == "Const"]
    assert sum(map(len, constants)) < 0.5 * kernels  # no second copy in the graph
    images = pixels(3)
    expected = model(images, training=False)
    difference = np.abs(served_probabilities(folder, images) - expected).max()
    assert 0 < difference < tolerance
    stated = card_of(folder)["accuracy"]["weights_max_difference"]
    assert 0 < stated < tolerance


def test_weights_that_do_not_fit_in_half_precision(tmp_path):
    model = make_model()
    kernel = model.layers[-1].kernel
    kernel.assign(kernel + 1e5)
    with pytest.raises(ValueError, match=r"dense.*/kernel' has values that float16 cannot hold"):
        export_saved_model(model, tmp_path, weights_dtype="float16", fold_batch_norm=False)
    assert not list(tmp_path.iterdir())


def headless():
    inputs = keras.Input((SIZE, SIZE, 3))
    features = keras.layers.Conv2D(4, 1, activation="swish")(inputs)
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(features))


def flat_input():
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)])


class Subclassed(keras.Model):
    def call(self, inputs):
        return inputs


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (
            make_model,
            {"class_names": NAMES[:-1]},
            r"each of the model's 6 classes. Received: 5 in a list",
        ),
        (make_model, {"class_names": "abcdef"}, "Received: 6 in a str"),
        (make_model, {"class_names": [*NAMES[:-1], "two\nlines"]}, r"Received: 'two\\nlines'"),
        (make_model, {"class_names": [*NAMES[:-1], "ends\n"]}, r"Received: 'ends\\n'"),
        (make_model, {"class_names": [*NAMES[:-1], ""]}, "not empty"),
        (make_model, {"class_names": [*NAMES[:-1], 7]}, "Received: 7"),
        (make_model, {"version": 0}, "`version` must be an integer of at least 1. Received: 0"),
        (
            make_model,
            {"top_k": 0},
            "`top_k` must be an integer of at least 1, or None. Received: 0",
        ),
        (make_model, {"image_size": 32}, r"Leave it out .* image_size=32 for an input of"),
        (make_model, {"style": "crop"}, "one of 'whole', 'v2', 'v1', 'finetune'. Received: 'crop'"),
        (make_model, {"max_pixels": 0}, "`max_pixels` must be an integer of at least 1"),
        (
            make_model,
            {"weights_dtype": "int8"},
            "`weights_dtype` must be one of 'float32', 'bfloat16', 'float16'. Received: 'int8'",
        ),
        (lambda: make_model(size=None), {}, "any size, so image_size must say"),
        (
            lambda: make_model(size=None),
            {"image_size": -4},
            "`image_size` must be an integer of at least 1",
        ),
        (lambda: make_model("relu"), {}, r"linear \(logits\), softmax or sigmoid.*ReLU"),
        (Subclassed, {}, "a subclassed model has to be rebuilt from layers"),
        (headless, {}, "add such a Dense layer. Received: an output that is never far below zero"),
        (flat_input, {}, r"must take pictures \(N, height, width, 3\). Received: \(None, 7\)"),
    ],
)
def test_refusals_say_what_is_allowed_and_write_nothing(tmp_path, model, options, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model(), tmp_path / "served", **options)
    assert not list(tmp_path.rglob("*.pb"))
    assert not list(tmp_path.glob("served/.*"))


def test_existing_version_is_kept_and_the_next_one_named(tmp_path):
    for version in ("1", "4", "notes"):
        (tmp_path / version).mkdir()
    message = r"export with another version \(--version 5, version=5\), or remove the folder"
    with pytest.raises(FileExistsError, match=message):
        export_saved_model(make_model(), tmp_path, version=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "4", "notes"]


@pytest.mark.parametrize("place", ["a file", "/proc"])
def test_directory_that_cannot_be_written(tmp_path, place):
    directory = Path(place) if place.startswith("/") else tmp_path / place
    if not directory.exists():
        directory.write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*Choose a folder that can be written"):
        export_saved_model(make_model(), directory)


def test_other_backends_are_told_the_way(tmp_path, on_jax):
    with pytest.raises(
        RuntimeError, match=r"runs on 'jax'. .*KERAS_BACKEND=tensorflow .*model.save"
    ):
        export_saved_model(make_model(), tmp_path)
    assert not list(tmp_path.iterdir())
