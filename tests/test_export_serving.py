"""The SavedModel used without Keras and this package: by TensorFlow, its tools, and in C++."""

import json
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from helpers.served_models import COLOUR, GOLDEN, GRAY, NAMES, SIZE, example, make_model
from tensorflow.core.protobuf import saved_model_pb2
from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

from keras_effnetv2.export.saved_model import export_saved_model
from keras_effnetv2.export.warmup import WARMUP_FILE
from keras_effnetv2.images.evaluation_crop import decode_image, resize_for_evaluation

FILES = [str(GOLDEN / "synthetic_colour.jpg"), str(GOLDEN / "synthetic_gray.jpg")]
CLASSIFY_METHOD = "tensorflow/serving/classify"


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """Return the folder of an export that was moved, and the probabilities that Keras predicts."""
    directory = tmp_path_factory.mktemp("served")
    model = make_model(size=None)
    original = export_saved_model(
        model, directory / "first", NAMES, top_k=3, image_size=SIZE, style="v2"
    )
    images = [resize_for_evaluation(decode_image(data), SIZE, "v2") for data in (COLOUR, GRAY)]
    expected = model.predict(np.stack(images), verbose=0)
    return original.rename(directory / "moved"), expected  # nothing may point to where it was


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
    import numpy as np
    import tensorflow as tf
    from tensorflow.python.tools import saved_model_cli

    folder, outputs, *files = sys.argv[1:]
    served = tf.saved_model.load(folder).signatures
    data = [open(file, "rb").read() for file in files]
    data[1:1] = [b"no picture", data[0][:-500]]

    def example(file):
        value = tf.train.Feature(bytes_list=tf.train.BytesList(value=[file]))
        features = tf.train.Features(feature={"image/encoded": value})
        return tf.train.Example(features=features).SerializeToString()

    def plain(answer):
        found = {name: value.numpy().tolist() for name, value in answer.items()}
        found["classes"] = [[name.decode() for name in row] for row in found["classes"]]
        found["error"] = [reason.decode() for reason in found.get("error", [])]
        return found

    pixels = served["serving_default"](images=tf.fill([2, 24, 24, 3], 128.0))
    print(json.dumps({
        "pixels": pixels["probabilities"].numpy().tolist(),
        "bytes": plain(served["classify_bytes"](image_bytes=tf.constant(data))),
        "examples": plain(served["classify"](inputs=tf.constant([example(d) for d in data]))),
    }))

    print("-- tools")
    gray, examples = f"{outputs}/gray.npy", f"{outputs}/examples.npy"
    np.save(gray, np.full([2, 24, 24, 3], 128.0, np.float32))
    np.save(examples, np.array([example(data[0])]))
    run = ["run", "--dir", folder, "--tag_set", "serve", "--outdir", outputs, "--signature_def"]
    for words in (
        ["show", "--dir", folder, "--all"],
        ["scan", "--dir", folder, "--tag_set", "serve"],
        [*run, "serving_default", "--inputs", f"images={gray}"],
        [*run, "classify", "--inputs", f"inputs={examples}"],
    ):
        sys.argv = ["saved_model_cli", *words]
        try:
            saved_model_cli.main()
        except SystemExit as end:
            assert not end.code, words
""")


@pytest.fixture(scope="module")
def alone(served, tmp_path_factory):
    """Return what a process printed that has TensorFlow only, and where its tools wrote arrays."""
    arrays = tmp_path_factory.mktemp("arrays")
    result = subprocess.run(
        [sys.executable, "-c", TENSORFLOW_ALONE, str(served[0]), str(arrays), *FILES],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stderr
    answer, tools = result.stdout.split("-- tools\n")
    return json.loads(answer), tools, arrays


def test_tensorflow_alone_names_the_classes_that_keras_predicts(served, alone):
    expected, answer = served[1], alone[0]
    order = np.argsort(-expected, axis=1)[:, :3]
    for signature in ("bytes", "examples"):
        found = answer[signature]
        np.testing.assert_allclose(
            [found["scores"][0], found["scores"][3]],
            np.take_along_axis(expected, order, axis=1),
            atol=1e-6,
        )
        assert found["classes"] == [
            [NAMES[index] for index in order[0]],
            [""] * 3,
            [""] * 3,
            [NAMES[index] for index in order[1]],
        ]
        assert found["scores"][1] == found["scores"][2] == [0, 0, 0]
    assert answer["bytes"]["error"] == [
        "",
        "not a JPEG, PNG, BMP, GIF or WebP picture",
        "corrupt or truncated JPEG",
        "",
    ]


def test_the_tools_of_tensorflow_show_run_and_scan_it(served, alone):
    answer, tools, arrays = alone
    for signature in ("serving_default", "classify_bytes", "classify"):
        assert f"signature_def['{signature}']" in tools
    assert f"Method name is: {CLASSIFY_METHOD}" in tools
    assert "does not contain the default denylisted ops" in tools
    probabilities = np.load(arrays / "probabilities.npy")
    np.testing.assert_allclose(probabilities, answer["pixels"], atol=1e-6)
    np.testing.assert_allclose(np.load(arrays / "scores.npy")[0], answer["bytes"]["scores"][0])


@pytest.fixture(scope="module")
def loaded(served):
    return tf.saved_model.load(str(served[0])).signatures


def signatures_of(folder):
    saved = saved_model_pb2.SavedModel.FromString((folder / "saved_model.pb").read_bytes())
    return saved.meta_graphs[0].signature_def


def test_signatures_obey_the_rules_of_tensorflow_serving(served):
    """classifier.cc: the method's name, one input `inputs`, outputs `classes` and `scores` only."""
    signatures = signatures_of(served[0])
    classify = signatures["classify"]
    assert classify.method_name == CLASSIFY_METHOD
    assert {name: tensor.dtype for name, tensor in classify.inputs.items()} == {
        "inputs": tf.string.as_datatype_enum
    }
    assert {name: tensor.dtype for name, tensor in classify.outputs.items()} == {
        "classes": tf.string.as_datatype_enum,
        "scores": tf.float32.as_datatype_enum,
    }
    for name in ("serving_default", "classify_bytes"):
        assert signatures[name].method_name == "tensorflow/serving/predict"


def test_bad_examples_do_not_hurt_their_neighbours(served, loaded):
    classify = loaded["classify"]
    integers = tf.train.Feature(int64_list=tf.train.Int64List(value=[1]))
    other_type = tf.train.Example(features=tf.train.Features(feature={"image/encoded": integers}))
    examples = [
        example(COLOUR),
        example(COLOUR, feature="image/other"),
        example(),
        other_type.SerializeToString(),
        b"\xff not an example",
        b"",
        example(b"no picture"),
        example(GRAY),
    ]
    answer = classify(inputs=tf.constant(examples))
    best = np.sort(served[1], axis=1)[:, :2:-1]
    np.testing.assert_allclose(answer["scores"].numpy()[[0, -1]], best, atol=1e-6)
    assert not answer["scores"].numpy()[1:-1].any()
    assert set(answer["classes"].numpy()[1:-1].ravel()) == {b""}
    assert classify(inputs=tf.constant([], tf.string))["scores"].shape == (0, 3)


def test_warm_up_requests_replay(served, loaded):
    """Parsed by TensorFlow Serving's own messages, and run through the signatures they name."""
    records = list(tf.data.TFRecordDataset(str(served[0] / WARMUP_FILE)).as_numpy_iterator())
    logs = [PredictionLog.FromString(record) for record in records]
    assert [log.WhichOneof("log_type") for log in logs] == [
        "predict_log",
        "predict_log",
        "classify_log",
    ]
    answers = {}
    for log in logs[:2]:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(tensor) for name, tensor in request.inputs.items()}
        name = request.model_spec.signature_name
        answers[name] = loaded[name](**{k: tf.constant(v) for k, v in inputs.items()})
    assert answers["serving_default"]["probabilities"].shape == (1, len(NAMES))
    assert answers["classify_bytes"]["error"].numpy().tolist() == [b""]
    request = logs[2].classify_log.request
    assert request.model_spec.signature_name == "classify"
    examples = [item.SerializeToString() for item in request.input.example_list.examples]
    scores = loaded["classify"](inputs=tf.constant(examples))["scores"]
    np.testing.assert_allclose(scores, answers["classify_bytes"]["scores"], atol=1e-6)
    assert scores.numpy().any()


@pytest.mark.slow  # compiles against TensorFlow's headers
def test_a_cpp_program_answers_from_pixels_and_files(served, alone, tmp_path):
    compiler = shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        pytest.skip("no C++ compiler (g++ or clang++) on this machine")
    library = Path(tf.sysconfig.get_lib())
    if not (library / "libtensorflow_cc.so.2").exists():
        pytest.skip("this TensorFlow has no libtensorflow_cc to link a program with")
    program = tmp_path / "serve"
    source = Path(__file__).with_name("serve_saved_model.cc")
    libraries = ["-l:libtensorflow_cc.so.2", "-l:libtensorflow_framework.so.2"]
    flags = ["-std=c++17", f"-I{tf.sysconfig.get_include()}", f"-L{library}"]
    if shutil.which("ld.gold"):  # reads a library of a gigabyte in a sixth of the time
        flags.append("-fuse-ld=gold")
    build = [compiler, *flags, str(source), "-o", str(program), *libraries]
    subprocess.run([*build, f"-Wl,-rpath,{library}"], check=True)
    folder, expected = served
    signatures = signatures_of(folder)
    pixels, files = signatures["serving_default"], signatures["classify_bytes"]
    tensors = [
        pixels.inputs["images"].name,
        pixels.outputs["probabilities"].name,
        files.inputs["image_bytes"].name,
        *(files.outputs[name].name for name in ("classes", "scores", "error")),
    ]
    (tmp_path / "bad").write_bytes(b"no picture")
    pictures = [FILES[0], str(tmp_path / "bad"), FILES[1]]
    result = subprocess.run(
        [program, folder, str(SIZE), *tensors, *pictures], capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.split("\n")
    probabilities = [float(line) for line in lines[: len(NAMES)]]
    np.testing.assert_allclose(probabilities, alone[0]["pixels"][0], atol=1e-6)
    good, bad, other = (lines[len(NAMES) + 3 * i :][:3] for i in range(3))
    assert bad == ["not a JPEG, PNG, BMP, GIF or WebP picture", "", "0"]
    for (error, name, score), row in zip((good, other), expected, strict=True):
        assert (error, name) == ("", NAMES[row.argmax()])
        assert float(score) == pytest.approx(row.max(), abs=1e-6)
