"""Exports to ONNX, OpenVINO and LiteRT against Keras; what writing and opening them refuses."""

import ast
import dataclasses
import functools
import json
import sys
import zipfile

import keras
import numpy as np
import pytest
from helpers.quick_runs import two_blocks
from helpers.served_models import chaotic, make_forgetful_model, make_model, pixels

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.export import formats
from keras_effnetv2.export.check import DIFFERENCE_LIMIT
from keras_effnetv2.export.formats import ExportReport, export_model
from keras_effnetv2.export.metadata import Metadata, read_metadata
from keras_effnetv2.export.real_pictures import photographs
from keras_effnetv2.export.runtimes import computes_bfloat16, load_exported
from keras_effnetv2.models.build import build_model
from keras_effnetv2.pretrained.registry import CentralCrop

ENDINGS = {"onnx": ".onnx", "openvino": ".xml", "litert": ".tflite"}
SIZE = 32
NAMES = ["ash", "birch tree", "Küstentanne", 'oak, "red"', "<pine>"]
STYLE = CentralCrop(SIZE, 0.875, "center")


def network(size=None):
    """A fused block and one with squeeze and excitation, whose batch norms do something."""
    keras.utils.set_random_seed(2)
    model = build_model(two_blocks(), classes=5, input_shape=(size, size, 3))
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    model(photographs(SIZE), training=True)  # moving statistics of pictures
    head = model.layers[-1]
    head.kernel.assign(8 * head.kernel)  # so that classes differ
    return model


@pytest.fixture(scope="module")
def model():
    return network()


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    """Writes a format of the model, once, and returns the report."""

    @functools.cache
    def write(name, dynamic_size):
        path = tmp_path_factory.mktemp("exported") / "new" / f"net{ENDINGS[name]}"
        return export_model(
            *(model, path, name),
            image_size=SIZE,
            dynamic_size=dynamic_size,
            class_names=NAMES,
            style=STYLE,
            temperature=1.5,
            none_below=0.25,
        )

    return write


def keras_answer(model, images):
    return model(images, training=False).numpy()


def distinct(answer):
    """Pictures get different answers, so that a constant cannot pass for equal."""
    return np.ptp(answer, axis=0).max() > 0.1


@pytest.mark.parametrize("name", ENDINGS)
@pytest.mark.parametrize("dynamic_size", [False, True])
def test_float32_is_keras_at_any_batch_size(model, exported, name, dynamic_size):
    report = exported(name, dynamic_size)
    run = load_exported(report.path, threads=1)
    images = photographs(SIZE)
    expected = keras_answer(model, images)
    assert distinct(expected)
    for count in (1, 3, 24):
        np.testing.assert_allclose(run(images[:count]), expected[:count], atol=1e-5)
    wide = images[:2, :20]
    if dynamic_size:
        np.testing.assert_allclose(run(wide), keras_answer(model, wide), atol=1e-5)
    else:
        with pytest.raises(ValueError, match=r"float32 array \(N, 32, 32, 3\), 0..255"):
            run(wide)
    assert report == ExportReport(
        report.path,
        name,
        None,
        size_of(report.path),
        max_difference=pytest.approx(0, abs=1e-5),
        top1_agreement=1.0,
        pictures=28 if dynamic_size else 24,
    )


def size_of(path):
    files = [file for file in path.parent.iterdir() if file.suffix != ".json"]
    assert [file.stem for file in files] == [path.stem] * len(files)
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize(
    ("name", "quantize", "kernel_bytes", "differences"),
    [
        ("openvino", "float16", 2, (1e-7, 5e-4)),
        ("openvino", "bfloat16", 2, (5e-4, 5e-2)),
        ("litert", "float16", 2, (1e-7, 5e-4)),
        ("litert", "dynamic", 1, (1e-4, 5e-2)),
        ("litert", "int8", 1, (1e-4, 1e-1)),
    ],
)
def test_shortened_files(name, quantize, kernel_bytes, differences, tmp_path):
    """OpenVINO's two differ in what they compute with alone."""
    if quantize == "bfloat16" and not computes_bfloat16():
        pytest.skip("this CPU does not compute in bfloat16")
    net = wide_network()
    images = photographs(SIZE)
    path = tmp_path / f"net{ENDINGS[name]}"
    report = export_model(
        net,
        path,
        name,
        quantize,
        calibration=images if quantize == "int8" else None,
        pictures=images,
        min_agreement=0.9,
    )
    expected = keras_answer(net, images)
    assert distinct(expected)
    difference = np.abs(load_exported(path)(images) - expected).max()
    # A runtime with several threads does not always add in the same order.
    assert report.max_difference == pytest.approx(difference, rel=1e-3, abs=1e-6)
    assert differences[0] < report.max_difference < differences[1]
    assert report.top1_agreement >= 0.9
    weights = path.with_suffix(".bin") if name == "openvino" else path
    kernels = sum(weight.shape.num_elements() for weight in net.weights if weight.ndim > 1)
    assert kernels * kernel_bytes < weights.stat().st_size < kernels * (kernel_bytes + 1)


def wide_network():
    """A small network in whose file the kernels are most of what there is."""
    net = make_model(size=SIZE, width=1024)
    head = net.layers[-1]
    head.kernel.assign(20 * head.kernel)  # so that classes differ
    return net


def described(path):
    """Returns the name and the axes of what an ONNX file takes and returns."""
    import onnx

    graph = onnx.load(path).graph
    found = []
    for value in (*graph.input, *graph.output):
        assert value.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
        axes = value.type.tensor_type.shape.dim
        found.append((value.name, [axis.dim_param or axis.dim_value for axis in axes]))
    assert "BatchNormalization" not in {node.op_type for node in graph.node}
    return found


def test_onnx_has_one_input_and_named_axes(exported):
    output = ("probabilities", ["batch", 5])
    fixed, dynamic = (described(exported("onnx", size).path) for size in (False, True))
    assert fixed == [("images", ["batch", 32, 32, 3]), output]
    assert dynamic == [("images", ["batch", "height", "width", 3]), output]


def test_litert_names_its_tensors(exported):
    from ai_edge_litert.interpreter import Interpreter

    signatures = Interpreter(str(exported("litert", False).path)).get_signature_list()
    assert signatures == {"serving_default": {"inputs": ["images"], "outputs": ["probabilities"]}}


def test_openvino_names_its_tensors(exported):
    import openvino

    read = openvino.Core().read_model(exported("openvino", False).path)
    assert [x.get_any_name() for x in (*read.inputs, *read.outputs)] == ["images", "probabilities"]


@pytest.mark.parametrize("name", ENDINGS)
def test_a_file_says_how_it_is_used(exported, name):
    assert read_metadata(exported(name, False).path) == Metadata(
        class_names=tuple(NAMES),
        image_size=SIZE,
        style=STYLE,
        pixel_range=(0, 255),
        activation="softmax",
        temperature=1.5,
        none_below=0.25,
    )


def test_other_programs_find_the_class_names(exported):
    import onnxruntime
    import openvino

    session = onnxruntime.InferenceSession(str(exported("onnx", False).path))
    properties = session.get_modelmeta().custom_metadata_map
    assert ast.literal_eval(properties["names"]) == dict(enumerate(NAMES))
    assert properties["Image.NominalPixelRange"] == "NominalRange_0_255"
    read = openvino.Core().read_model(exported("openvino", False).path)
    labels = read.get_rt_info(["model_info", "labels"]).astype(str)
    assert labels == 'ash birch_tree Küstentanne oak,_"red" <pine>'
    with zipfile.ZipFile(exported("litert", False).path) as archive:
        assert archive.read("labels.txt").decode().splitlines() == NAMES


@pytest.mark.parametrize(
    ("name", "content"),
    [("a.xml", b"<net/>"), ("a.tflite", b"TFL3"), ("a.onnx", b""), ("a/saved_model.pb", b"")],
)
def test_exports_of_others_say_nothing(tmp_path, name, content):
    path = tmp_path / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    assert read_metadata(tmp_path / name.split("/")[0]) == Metadata()


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.xml", b"<net>"),
        (
            "a.xml",
            b"<a><rt_info><keras_effnetv2><metadata value='[1]'/></keras_effnetv2></rt_info></a>",
        ),
        ("a.onnx", b"garbage"),
    ],
)
def test_a_damaged_file_says_so(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name} does not say clearly .*Export the"):
        read_metadata(tmp_path / name)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"class_names": ["a"]}, "one name for each of the model's 6 classes. Received: 1"),
        ({"temperature": 0}, "`temperature` must be a number above 0, or None. Received: 0"),
        ({"none_below": 2}, "`none_below` must be a number from 0 to 1, or None. Received: 2"),
        ({"style": "round"}, "`style` must be one of 'whole'"),
    ],
)
def test_metadata_that_is_refused(tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        export_model(make_model(), tmp_path / "a.onnx", **options)
    assert not list(tmp_path.iterdir())


def test_mixed_precision_becomes_float32(tmp_path):
    half = make_model(policy="mixed_bfloat16", ending=[keras.layers.Activation("linear")])
    export_model(half, tmp_path / "net.onnx")
    answer = load_exported(tmp_path / "net.onnx")(pixels(4))
    np.testing.assert_allclose(answer, make_model()(pixels(4), training=False), atol=1e-5)
    assert {layer.compute_dtype for layer in half.layers} == {"float32", "bfloat16"}


@pytest.mark.slow  # converts networks
def test_what_cannot_be_folded_is_converted_as_it_is(tmp_path):
    body = keras.layers.TimeDistributed(keras.layers.BatchNormalization(gamma_initializer="ones"))
    inputs = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.GlobalAveragePooling2D()(body(inputs))
    net = keras.Model(inputs, keras.layers.Dense(3, "softmax")(x / 64))
    net.layers[1].layer.moving_mean.assign([10.0, 20.0, 30.0])
    export_model(net, tmp_path / "net.onnx")
    images = photographs(SIZE)
    answer = load_exported(tmp_path / "net.onnx")(images)
    np.testing.assert_allclose(answer, keras_answer(net, images), atol=1e-5)


def test_the_report_lies_beside_the_file(tmp_path):
    report = export_model(make_model(), tmp_path / "net.onnx", pictures=load_digits())
    assert json.loads((tmp_path / "net.onnx.json").read_text("utf-8")) == {
        "path": "net.onnx",
        "format": "onnx",
        "quantize": None,
        "bytes": (tmp_path / "net.onnx").stat().st_size,
        "max_difference": report.max_difference,
        "top1_agreement": 1.0,
        "pictures": 40,
        "float_layers": [],
    }
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.json"]


def load_digits():
    return load_source("digits", split="validation").subset(range(40))


def calibrated(path, **options):
    return export_model(make_model(size=SIZE), path, "litert", "int8", **options)


def test_int8_is_judged_on_pictures_it_was_not_calibrated_with(tmp_path, monkeypatch):
    seen = []
    convert = formats.FORMATS["litert"].write

    def spy(*arguments):
        seen.append(np.concatenate(arguments[-1]))
        convert(*arguments)

    row = dataclasses.replace(formats.FORMATS["litert"], write=spy)
    monkeypatch.setitem(formats.FORMATS, "litert", row)
    images = photographs(SIZE)
    report = calibrated(tmp_path / "a.tflite", calibration=images, force=True)
    np.testing.assert_allclose(seen[0], images[::2], atol=1e-3)
    assert report.pictures == 12


def test_int8_that_disagrees_is_refused(tmp_path):
    # Calibrated in the dark: what is brighter is cut off at the range that was seen.
    pictures = photographs(SIZE)
    with pytest.raises(RuntimeError, match=r"int8 file .* on .*% of 24 pictures, but 98.0%"):
        calibrated(tmp_path / "net.tflite", calibration=pictures / 50, pictures=pictures)
    assert not list(tmp_path.iterdir())


def outlier_network(factor):
    """A network with a map of huge numbers that nothing depends on, beside those that matter."""
    keras.utils.set_random_seed(3)
    images = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Rescaling(1 / 128, -1)(images)
    x = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="stem")(x)
    wide = keras.layers.Conv2D(9, 1, name="outlier")
    narrow = keras.layers.Conv2D(8, 1, activation="relu", name="narrow")
    x = keras.layers.Conv2D(8, 3, activation="relu", name="middle")(narrow(wide(x)))
    x = keras.layers.GlobalAveragePooling2D()(x)
    head = keras.layers.Dense(5, "softmax", name="head")
    net = keras.Model(images, head(x))
    kernel = wide.kernel.numpy()
    kernel[..., 8] *= factor
    wide.kernel.assign(kernel)
    kernel = narrow.kernel.numpy()
    kernel[:, :, 8] = 0
    narrow.kernel.assign(kernel)
    head.kernel.assign(20 * head.kernel)  # so that classes differ
    return net


@pytest.mark.slow  # converts networks
def test_what_int8_cannot_hold_stays_in_float(tmp_path):
    net, images = outlier_network(1e3), photographs(SIZE)
    expected = keras_answer(net, images)
    assert distinct(expected)
    options = {"calibration": images, "pictures": images}
    with pytest.raises(RuntimeError, match="--keep-float auto, keep_float='auto'"):
        export_model(net, tmp_path / "all.tflite", "litert", "int8", **options)
    path = tmp_path / "some.tflite"
    report = export_model(net, path, "litert", "int8", keep_float="auto", **options)
    assert {"outlier", "narrow"} <= set(report.float_layers)
    assert not {"stem", "head"} & set(report.float_layers)
    assert (load_exported(path)(images).argmax(1) == expected.argmax(1)).mean() >= 0.98
    assert json.loads(path.with_name("some.tflite.json").read_text())["float_layers"]


@pytest.mark.slow  # converts networks
def test_an_int8_file_that_cannot_run_is_refused(tmp_path):
    net, options = outlier_network(1e5), {"calibration": photographs(SIZE)}
    with pytest.raises(RuntimeError, match=r"LiteRT cannot run the int8 file .*--keep-float auto"):
        export_model(net, tmp_path / "net.tflite", "litert", "int8", **options)
    assert not list(tmp_path.iterdir())
    path = tmp_path / "some.tflite"
    report = export_model(net, path, "litert", "int8", keep_float="auto", **options)
    assert set(report.float_layers) == {"outlier", "narrow"}
    assert report.top1_agreement == 1


@pytest.mark.slow  # converts networks
def test_all_of_a_network_may_stay_in_float(tmp_path):
    keras.utils.set_random_seed(1)
    images = keras.Input((SIZE, SIZE, 3))
    x = keras.layers.Conv2D(4, 3, activation="relu")(keras.layers.Rescaling(1 / 128, -1)(images))
    x = keras.layers.Dense(20, "softmax")(keras.layers.GlobalAveragePooling2D()(x))
    report = export_model(
        *(keras.Model(images, x), tmp_path / "net.tflite", "litert", "int8"),
        calibration=photographs(SIZE) / 50,
        pictures=photographs(SIZE),
        keep_float="auto",
        min_agreement=1,
    )
    assert report.max_difference < 1e-5


@pytest.mark.slow  # converts networks
def test_a_network_that_int8_can_hold_is_int8_throughout(tmp_path):
    options = {"calibration": photographs(SIZE), "min_agreement": 0.5}
    whole = calibrated(tmp_path / "whole.tflite", **options)
    report = calibrated(tmp_path / "auto.tflite", keep_float="auto", **options)
    assert report.float_layers == whole.float_layers == ()
    first, second = (load_exported(one.path)(photographs(SIZE)) for one in (whole, report))
    np.testing.assert_array_equal(first, second)


def test_a_file_that_differs_is_refused_unless_forced(tmp_path):
    net = make_forgetful_model()
    with pytest.raises(RuntimeError, match=r"differs from Keras by 0\.01.*The limit is 0\.0001"):
        export_model(net, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())
    report = export_model(net, tmp_path / "net.onnx", force=True)
    assert DIFFERENCE_LIMIT < report.max_difference < 0.02


def test_a_model_that_rounding_alone_changes_is_written(tmp_path):
    report = export_model(chaotic(), tmp_path / "net.onnx")
    assert report.max_difference > DIFFERENCE_LIMIT
    assert report.path.exists()


def test_answers_that_are_not_finite_are_always_refused(tmp_path):
    net = make_model()
    net.layers[-1].bias.assign([np.nan] * 6)
    with pytest.raises(RuntimeError, match="probabilities that are not finite"):
        export_model(net, tmp_path / "net.onnx", force=True)
    assert not list(tmp_path.iterdir())


def test_nothing_is_overwritten(tmp_path):
    for name, there in (("net.xml", "net.bin"), ("net.onnx", "net.onnx.json")):
        (tmp_path / there).write_text("mine")
        format = "openvino" if name == "net.xml" else "onnx"
        with pytest.raises(FileExistsError, match=f"another path, or remove .*{there}$"):
            export_model(make_model(), tmp_path / name, format)
        assert (tmp_path / there).read_text() == "mine"


@pytest.mark.parametrize(
    ("path", "options", "message"),
    [
        ("a.onnx", {"format": "keras"}, "one of 'onnx', 'openvino', 'litert'. Received: 'keras'"),
        ("a.onnx", {"quantize": "int8"}, "must be None for format 'onnx'. .*Received: 'int8'"),
        (
            "a.xml",
            {"format": "openvino", "quantize": "int8"},
            "must be None or 'float16' or 'bfloat16' for format 'openvino'",
        ),
        ("a.tflite", {"format": "litert", "quantize": "int8"}, "needs pictures .* calibration="),
        ("a.onnx", {"calibration": pixels(2)}, "`calibration` is for int8 only.*pictures="),
        (
            "a.onnx",
            {"keep_float": "auto"},
            "`keep_float` is for int8 only.*quantize=None",
        ),
        ("a.onnx", {"keep_float": "head"}, "`keep_float` must be one of 'auto'. Received: 'head'"),
        ("a.pb", {}, r"must end in .onnx, for example .*a.onnx. Received: .*a.pb"),
        ("a.onnx", {"min_agreement": 98}, "a number from 0 to 1. Received: 98"),
        ("a.onnx", {"dynamic_size": True}, "pictures of any size. .* Received: an input of .*24"),
        ("a.onnx", {"image_size": 64}, "Received: image_size=64 for an input of .*24"),
        (
            "a.tflite",
            {"format": "litert", "quantize": "int8", "calibration": pixels(1)},
            "every second picture .* Received: 1",
        ),
    ],
)
def test_refusals(path, options, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export_model(make_model(), tmp_path / path, **options)
    assert not list(tmp_path.iterdir())


def test_bfloat16_needs_a_cpu_that_computes_it(tmp_path, monkeypatch):
    monkeypatch.setattr(formats, "computes_bfloat16", lambda: False)
    with pytest.raises(RuntimeError, match="AVX512_BF16 or AMX, and this one does not"):
        export_model(make_model(), tmp_path / "a.xml", "openvino", "bfloat16")


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((2, SIZE, SIZE, 3)),
        np.zeros((2, SIZE, SIZE, 3), np.uint8),
        np.zeros((SIZE, SIZE, 3), np.float32),
        np.zeros((2, SIZE, SIZE, 1), np.float32),
        np.zeros((0, SIZE, SIZE, 3), np.float32),
        [[0.0]],
    ],
    ids=lambda images: f"{getattr(images, 'dtype', 'list')}{getattr(images, 'shape', '')}",
)
def test_pictures_that_no_runtime_sees(exported, images):
    for name in ENDINGS:
        with pytest.raises(ValueError, match=r"array \(N, 32, 32, 3\), 0..255, with N at least 1"):
            load_exported(exported(name, False).path)(images)


@pytest.mark.parametrize(
    ("path", "threads", "error", "message"),
    [
        ("net.pb", None, ValueError, "one of .onnx, .xml, .tflite. Received: .*net.pb"),
        ("net.onnx.json", None, ValueError, "Received: .*net.onnx.json"),
        ("net.onnx", None, FileNotFoundError, r"no exported file .*net\.onnx"),
        ("net.onnx", 0, ValueError, "at least 1, or None. Received: 0"),
    ],
)
def test_what_is_not_opened(tmp_path, path, threads, error, message):
    with pytest.raises(error, match=message):
        load_exported(tmp_path / path, threads)


def test_a_missing_package_is_named_with_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    (tmp_path / "net.onnx").touch()
    with pytest.raises(
        ImportError, match=r"'onnxruntime' cannot .* pip install .keras-effnetv2\[formats\]"
    ):
        load_exported(tmp_path / "net.onnx")
