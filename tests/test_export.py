"""The SavedModel, used by TensorFlow alone in another process, against the Keras model."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_effnetv2.export import export_saved_model
from keras_effnetv2.preprocess import decode_image, prepare_batch, resize_for_evaluation

GOLDEN = Path(__file__).parent / "golden" / "preprocessing"
COLOUR = (GOLDEN / "synthetic_colour.jpg").read_bytes()
GRAY = (GOLDEN / "synthetic_gray.jpg").read_bytes()
NAMES = ["ash", "birch tree", "Küstentanne", "oak, red", "pine", "yew"]
SIZE = 24


def make_model(activation="softmax", classes=6, size=SIZE, policy="float32", ending=(), width=8):
    """Return a small classifier of stock layers, with a scale that makes the classes differ."""
    keras.utils.set_random_seed(3)
    layers = [
        keras.layers.Rescaling(1 / 128, -1),
        keras.layers.Conv2D(width, 3, strides=2, dtype=policy),
        keras.layers.BatchNormalization(dtype=policy),
        keras.layers.Activation("silu", dtype=policy),
        keras.layers.GlobalAveragePooling2D(dtype=policy),
        keras.layers.Dropout(0.5),
        keras.layers.Dense(
            classes, activation, dtype=policy, kernel_initializer=keras.initializers.RandomNormal()
        ),
        *ending,
    ]
    return keras.Sequential([keras.Input((size, size, 3)), *layers])


def pixels(count, size=SIZE):
    return np.random.default_rng(5).uniform(0, 255, (count, size, size, 3)).astype(np.float32)


def served_probabilities(folder, images):
    serve = tf.saved_model.load(str(folder)).signatures["serving_default"]
    return serve(images=tf.constant(images))["probabilities"].numpy()


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


TENSORFLOW_ALONE = textwrap.dedent("""
    import importlib.machinery, json, sys

    class Blocked:  # is found, because TensorFlow looks where keras is, but cannot be imported
        def find_spec(self, name, path=None, target=None):
            if name in ("keras", "tf_keras", "keras_effnetv2"):
                return importlib.machinery.ModuleSpec(name, self, origin=f"/{name}/__init__.py")

        def create_module(self, spec):
            raise ImportError(f"{spec.name} must not be needed")

        def exec_module(self, module):
            pass

    sys.meta_path.insert(0, Blocked())
    import tensorflow as tf

    folder, *files = sys.argv[1:]
    served = tf.saved_model.load(folder)
    data = [open(file, "rb").read() for file in files]
    data[1:1] = [b"no picture", data[0][:-500]]
    answer = served.signatures["classify_bytes"](image_bytes=tf.constant(data))
    print(json.dumps({
        "classes": [[name.decode() for name in row] for row in answer["classes"].numpy()],
        "scores": answer["scores"].numpy().tolist(),
        "error": [reason.decode() for reason in answer["error"].numpy()],
    }))
""")


def test_tensorflow_alone_names_the_classes_that_keras_predicts(tmp_path):
    model = make_model(size=None)
    original = export_saved_model(
        model, tmp_path / "first", NAMES, top_k=3, image_size=SIZE, style="v2"
    )
    folder = original.rename(tmp_path / "moved")  # nothing may point to where it was written
    files = [str(GOLDEN / "synthetic_colour.jpg"), str(GOLDEN / "synthetic_gray.jpg")]
    result = subprocess.run(
        [sys.executable, "-c", TENSORFLOW_ALONE, str(folder), *files],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answer = json.loads(result.stdout)
    assert answer["error"] == [
        "",
        "not a JPEG, PNG, BMP, GIF or WebP picture",
        "corrupt or truncated JPEG",
        "",
    ]
    images = [resize_for_evaluation(decode_image(data), SIZE, "v2") for data in (COLOUR, GRAY)]
    expected = model.predict(np.stack(images), verbose=0)
    order = np.argsort(-expected, axis=1)[:, :3]
    np.testing.assert_allclose(
        [answer["scores"][0], answer["scores"][3]],
        np.take_along_axis(expected, order, axis=1),
        atol=1e-6,
    )
    assert answer["classes"] == [
        [NAMES[index] for index in order[0]],
        [""] * 3,
        [""] * 3,
        [NAMES[index] for index in order[1]],
    ]
    assert answer["scores"][1] == answer["scores"][2] == [0, 0, 0]


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return a model, the folder it was exported to and its signatures."""
    model = make_model(width=512)
    model.compile("adam", "categorical_crossentropy")
    model.fit(pixels(2), np.eye(len(NAMES))[:2], verbose=0)  # the optimizer's state stays out
    directory = tmp_path_factory.mktemp("export") / "served"
    folder = export_saved_model(model, directory, NAMES, version=3, max_pixels=12_000)
    return model, folder, tf.saved_model.load(str(folder)).signatures


def test_files_and_weights_stored_once(served):
    model, folder, _ = served
    assert folder.name == "3"
    assert [path.name for path in folder.parent.iterdir()] == ["3"]  # nothing left beside it
    labels = (folder / "assets" / "labels.txt").read_text(encoding="utf-8")
    assert labels == "".join(f"{name}\n" for name in NAMES)
    variables = sum(path.stat().st_size for path in (folder / "variables").glob("*.data*"))
    weights = 4 * model.count_params()
    assert weights <= variables < 1.05 * weights


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
    }


def test_graph_has_no_python_op(served):
    content = (served[1] / "saved_model.pb").read_bytes()
    assert b"PyFunc" not in content
    assert b"DecodeJpeg" in content  # operation names can be found in the file


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


def test_half_precision_logits_become_float32_probabilities(tmp_path):
    model = make_model(None, policy="mixed_bfloat16")
    images = pixels(3)
    probabilities = served_probabilities(export_saved_model(model, tmp_path), images)
    assert probabilities.dtype == np.float32
    logits = keras.ops.convert_to_numpy(keras.ops.cast(model(images, training=False), "float32"))
    # bfloat16 has 8 bits; the graph fuses operations that run one by one eagerly.
    np.testing.assert_allclose(probabilities, softmax(logits), atol=5e-3)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


def test_probabilities_are_recognised_behind_layers_and_inside_models(tmp_path):
    """No second softmax after Softmax, in a nested model, behind the usual float32 cast."""
    inner = make_model(None, ending=[keras.layers.Softmax()])
    inputs = keras.Input((SIZE, SIZE, 3))
    outputs = keras.layers.Activation("linear", dtype="float32")(inner(inputs))
    images = pixels(2)
    probabilities = served_probabilities(
        export_saved_model(keras.Model(inputs, outputs), tmp_path), images
    )
    np.testing.assert_allclose(probabilities, inner(images, training=False), atol=1e-6)


@pytest.mark.parametrize(("activation", "classes"), [("sigmoid", 2), (None, 1)])
def test_sigmoid_with_fewer_classes_than_top_k_and_numbered_names(tmp_path, activation, classes):
    model = make_model(activation, classes)
    folder = export_saved_model(model, tmp_path)
    answer = tf.saved_model.load(str(folder)).signatures["classify_bytes"](
        image_bytes=tf.constant([COLOUR])
    )
    expected = model(prepare_batch([COLOUR], SIZE)[0], training=False).numpy()[0]
    if activation is None:  # one logit alone: softmax would always say 1
        expected = 1 / (1 + np.exp(-expected))
    order = np.argsort(-expected)
    assert answer["classes"].numpy().tolist() == [[str(index).encode() for index in order]]
    np.testing.assert_allclose(answer["scores"][0], expected[order], atol=1e-6)


def test_pixel_limit_is_served(served):
    answer = served[2]["classify_bytes"](image_bytes=tf.constant([COLOUR, GRAY]))
    assert answer["error"].numpy().tolist() == [
        b"171 x 231 pixels (height x width) is more than the 12000 that are accepted",
        b"",
    ]


def headless():
    inputs = keras.Input((SIZE, SIZE, 3))
    return keras.Model(inputs, keras.layers.GlobalAveragePooling2D()(inputs))


def flat_input():
    return keras.Sequential([keras.Input((7,)), keras.layers.Dense(2)])


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
        (make_model, {"version": 0}, "version must be at least 1. Received: 0"),
        (make_model, {"top_k": 0}, "top_k must be at least 1. Received: 0"),
        (make_model, {"image_size": 32}, r"leave it out .* image_size=32 for an input of"),
        (
            make_model,
            {"style": "crop"},
            "Allowed: whole, v2, v1, finetune, or a CentralCrop. Received: 'crop'",
        ),
        (make_model, {"max_pixels": 0}, "max_pixels must be a positive number"),
        (lambda: make_model(size=None), {}, "any size, so image_size must say"),
        (lambda: make_model(size=None), {"image_size": -4}, "image_size must be a positive"),
        (lambda: make_model("relu"), {}, r"linear \(logits\), softmax or sigmoid.*Received: relu"),
        (headless, {}, "add such a Dense layer. Received: globalaveragepooling2d"),
        (flat_input, {}, r"must take pictures \(N, height, width, 3\). Received: \(None, 7\)"),
    ],
)
def test_refusals_say_what_is_allowed_and_write_nothing(tmp_path, model, options, message):
    with pytest.raises(ValueError, match=message):
        export_saved_model(model(), tmp_path / "served", **options)
    assert not list(tmp_path.rglob("*.pb"))
    assert not list(tmp_path.glob("served/.*"))


def test_model_without_symbolic_output_is_refused(tmp_path):
    class Subclassed(keras.Model):
        def call(self, inputs):
            return inputs

    with pytest.raises(ValueError, match="a subclassed model has to be rebuilt from layers"):
        export_saved_model(Subclassed(), tmp_path)


def test_existing_version_is_kept_and_the_next_one_named(tmp_path):
    for version in ("1", "4", "notes"):
        (tmp_path / version).mkdir()
    with pytest.raises(FileExistsError, match=r"export with version=5, or remove the folder"):
        export_saved_model(make_model(), tmp_path, version=1)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["1", "4", "notes"]


@pytest.mark.parametrize("place", ["a file", "/proc"])
def test_directory_that_cannot_be_written(tmp_path, place):
    directory = Path(place) if place.startswith("/") else tmp_path / place
    if not directory.exists():
        directory.write_text("")
    with pytest.raises(OSError, match=r"Cannot write to .*Choose a folder that can be written"):
        export_saved_model(make_model(), directory)


def test_other_backends_are_told_the_way(tmp_path, monkeypatch):
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(
        RuntimeError, match=r"runs on 'jax': save the model with model.save.* with K"
    ):
        export_saved_model(make_model(), tmp_path)
    assert not list(tmp_path.iterdir())
