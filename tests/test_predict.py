"""`kev2.predict` and `predict --embeddings`: names, scores and features of pictures."""

import json
import shutil
from dataclasses import replace

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.command_line import VARIANT, command, small_variant
from helpers.photos import write_colour_run, write_photos
from helpers.quick_runs import step_eagerly
from sklearn.datasets import load_sample_images

import keras_effnetv2 as kev2
from keras_effnetv2.evaluation.named_network import open_network
from keras_effnetv2.evaluation.prediction import predict
from keras_effnetv2.images.evaluation_crop import resize_for_evaluation, seen_window
from keras_effnetv2.models.grad_cam import grad_cam
from keras_effnetv2.runs.run_folder import write_settings

CLASSES = ("blue", "green", "red")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run whose features are the mean red, green and blue, 0..1."""
    folder = tmp_path_factory.mktemp("run")
    return write_colour_run(folder / "run", write_photos(folder / "photos"))


@pytest.fixture(scope="module")
def sure_run(run, tmp_path_factory):
    """The same with a temperature of 2 and a threshold of 0.95."""
    folder = shutil.copytree(run, tmp_path_factory.mktemp("sure") / "run")
    settings = kev2.open_run(folder).settings
    write_settings(folder, replace(settings, temperature=2.0, none_below=0.95))
    return folder


@pytest.fixture
def pictures(tmp_path):
    """A red one, a text, a missing one, and a blue one; of one colour each."""
    for name, colour in (("red", (255, 0, 51)), ("blue", (0, 102, 255))):
        pixels = np.full((8, 8, 3), colour, np.uint8)
        (tmp_path / f"{name}.png").write_bytes(tf.io.encode_png(pixels).numpy())
    (tmp_path / "text.png").write_text("no picture")
    return [tmp_path / f"{name}.png" for name in ("red", "text", "missing", "blue")]


MEANS = [[1, 0, 0.2], [0, 0.4, 1]]


def test_a_file_of_embeddings_holds_the_pictures_that_could_be_read(
    run, pictures, tmp_path, capsys
):
    path = tmp_path / "features.npz"
    path.write_text("an earlier file")
    code, out, err = command(capsys, "predict", run, *pictures, "--top", 1, "--embeddings", path)
    assert code == 1
    assert [line.split()[-1] for line in out.splitlines()] == [
        "red",
        "picture",
        "directory",
        "blue",
    ]
    assert err.startswith(f"{path}: embeddings of 2 pictures\nerror: 2 of 4 pictures cannot be")
    with np.load(path) as file:
        assert sorted(file) == ["embeddings", "network", "paths"]
        np.testing.assert_allclose(file["embeddings"], MEANS, atol=1e-5)
        assert file["embeddings"].dtype == np.float32
        assert file["paths"].tolist() == [str(pictures[0]), str(pictures[3])]
        assert json.loads(str(file["network"])) == {"run": str(run)}


def test_without_a_picture_no_file_is_written(run, pictures, tmp_path, capsys):
    path = tmp_path / "features.npz"
    for words in (pictures[1:2], pictures[2:3]):
        code, _, err = command(capsys, "predict", run, *words, "--embeddings", path)
        assert code == 1
        assert err.startswith(f"{path} was not written: no picture could be read\nerror: 1 of 1")
    assert not path.exists()


def test_rows_in_python(run, pictures):
    red, text, missing, blue = kev2.predict(run, pictures, top=2, embeddings=True)
    # Softmax of 4 times the colour: e^4 : e^0.8 : e^0.
    shares = np.exp([4, 0.8, 0]) / np.exp([4, 0.8, 0]).sum()
    assert (red.class_names, red.wordnet_ids, red.error) == (("red", "blue"), (), "")
    assert red.scores == pytest.approx(shares[:2].tolist(), rel=1e-4)
    np.testing.assert_allclose([red.embedding, blue.embedding], MEANS, atol=1e-5)
    assert (text.class_names, text.embedding) == ((), None)
    assert "not a JPEG" in text.error
    assert "No such file" in missing.error
    (plain,) = kev2.predict(run, str(pictures[0]))
    assert plain.class_names == ("red", "blue", "green")
    assert plain.embedding is None
    (mine,) = kev2.predict(run, pictures[:1], class_names=("blau", "grün", "rot"), top=2)
    assert mine.class_names == ("rot", "blau")
    with pytest.raises(ValueError, match=r"a name for each class .* has 3\. Received: \['a'\]"):
        kev2.predict(run, pictures[:1], class_names=["a"])


def test_a_temperature_and_a_mark(sure_run, run, pictures, tmp_path, capsys):
    few = [pictures[0], pictures[3]]
    red, blue = kev2.predict(sure_run, few)
    # Softmax of 4 times the colour: 0.945 and 0.902 are the highest scores.
    shares = np.exp([4, 0.8, 0]) / np.exp([4, 0.8, 0]).sum()
    np.testing.assert_allclose(red.scores, shares, rtol=1e-4)
    assert (red.none_of_these, blue.none_of_these) == (True, True)
    halves = np.exp([2, 0.4, 0]) / np.exp([2, 0.4, 0]).sum()
    for row in (
        kev2.predict(sure_run, few, calibrated=True)[0],
        kev2.predict(replace(open_network(sure_run), none_below=0.94), few, calibrated=True)[0],
    ):
        np.testing.assert_allclose(row.scores, halves, rtol=1e-4)
        assert row.class_names == red.class_names
    assert row.none_of_these is False  # by the score of the network, 0.945
    several = replace(open_network(sure_run), thresholds=(0.9, 0.9, 0.9))
    (named,) = kev2.predict(several, few[:1], calibrated=True)
    assert named.class_names == ("red",)  # 0.945 is above it, with the temperature 0.757 is not
    with pytest.raises(ValueError, match=r"no temperature.*leave out --calibrated"):
        kev2.predict(run, few, calibrated=True)
    assert kev2.predict(run, few)[0].none_of_these is None
    _, out, _ = command(capsys, "predict", sure_run, few[0], "--top", 2, "--calibrated")
    (first, second) = out.splitlines()
    assert first.split(maxsplit=1)[1] == f"{halves[0]:.2%}  red  (perhaps none of these)"
    assert second.split() == [f"{halves[1]:.2%}", "blue"]
    table = tmp_path / "found.csv"
    _, out, _ = command(capsys, "predict", sure_run, few[0], "--json", "--csv", table)
    assert json.loads(out)["none_of_these"] is True
    assert table.read_text().splitlines()[0].endswith("score_3,none_of_these,error")
    mixed = ("missing.png", few[0], "--min-score", 1, "--csv", table)  # no row has all columns
    command(capsys, "predict", sure_run, *mixed, "--top", 2)
    lines = table.read_text().splitlines()
    assert lines[0] == "picture,class,score,class_2,score_2,none_of_these,error"
    assert lines[2] == f"{few[0]},,,,,True,"
    command(capsys, "predict", sure_run, "missing.png", "--csv", table, "--top", 2)
    assert table.read_text().splitlines()[:1] == lines[:1]  # where no picture can be read, too


def test_many_pictures_get_what_few_get(run, pictures, tmp_path):
    """Many are worth a trace of the network; a few are not."""
    whole = tf.io.encode_jpeg(np.zeros((64, 64, 3), np.uint8)).numpy()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    few = [*pictures[:2], tmp_path / "half.jpg"]
    once = kev2.predict(run, few, embeddings=True)
    assert [one.error for one in once][2] == "corrupt or truncated JPEG"
    for again, one in zip(kev2.predict(run, few * 2, embeddings=True), once * 2, strict=True):
        assert (again.class_names, again.error) == (one.class_names, one.error)
        np.testing.assert_allclose(again.scores, one.scores, rtol=1e-5)
        if not one.error:
            np.testing.assert_allclose(again.embedding, one.embedding, rtol=1e-5)


def test_a_keras_file_and_a_model_are_what_their_run_is(run, pictures, tmp_path, capsys, recwarn):
    model = kev2.open_run(run).model
    fixed = keras.Sequential([keras.Input((32, 32, 3)), *model.layers])
    alone = tmp_path / "alone.keras"
    fixed.save(alone)
    for network, names in (
        (run / "model.keras", CLASSES),  # the run beside it knows names and size
        (alone, ("0", "1", "2")),
        (fixed, ("0", "1", "2")),
    ):
        (row,) = kev2.predict(network, pictures[-1:], embeddings=True)
        assert row.class_names == (names[0], names[1], names[2])
        np.testing.assert_allclose(row.embedding, MEANS[1], atol=1e-5)
    (row,) = kev2.predict(fixed, pictures[-1:], class_names=CLASSES)
    assert row.class_names == CLASSES
    # Only of the model without names, and where `predict` is called.
    (hint,) = (one for one in recwarn if "class_names=source.class_names" in str(one.message))
    assert hint.filename == __file__
    code, out, err = command(capsys, "evaluate", alone, "--data", run.parent / "photos", "--json")
    assert code == 0, err
    assert json.loads(out)["accuracy"] == 1
    with pytest.raises(ValueError, match=r"any x any pixels.*input_shape=\(S, S, 3\)"):
        kev2.predict(model, pictures)
    with pytest.raises(ValueError, match="must take pictures"):
        kev2.predict(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]), pictures)


def test_a_variant_is_named_by_imagenet_and_its_classifier_takes_its_features(pictures, tmp_path):
    with small_variant():
        config = kev2.ModelConfig.from_name(VARIANT)
        model = kev2.build_model(config)
        path = tmp_path / "mine.weights.h5"
        model.save_weights(path)
        (row,) = kev2.predict(VARIANT, pictures[:1], weights=str(path), embeddings=True)
        (same,) = kev2.predict(model, pictures[:1], embeddings=True)
    assert len(set(row.class_names)) == 5
    assert all(name.startswith("n") for name in row.wordnet_ids)
    np.testing.assert_array_equal(same.embedding, row.embedding)
    kernel, bias = model.layers[-1].get_weights()
    likely = np.exp(row.embedding @ kernel + bias)
    expected = np.sort(likely / likely.sum())[::-1][:5]
    np.testing.assert_allclose(row.scores, expected, rtol=1e-5)


def test_photographs_are_named_and_explained(monkeypatch):
    """The two of scikit-learn, with the weights of an installed package."""
    step_eagerly(monkeypatch)
    samples = load_sample_images()
    network = open_network("efficientnet-lite0")
    temple, flower = predict(network, samples.filenames, top=1)
    assert (temple.class_names, flower.class_names) == (("palace",), ("daisy",))
    assert 0.2 < temple.scores[0] < flower.scores[0] < 0.4
    # The flower fills a disc around row 223 and column 308 (of 427 and 640) with a radius of 140.
    top, left, side, _ = seen_window(427, 640, network.image_size, network.style)
    pixels = resize_for_evaluation(samples.images[1], network.image_size, network.style)
    heat = grad_cam(network.model, pixels)
    rows, columns = np.mgrid[:224, :224] * side / 224
    distance = np.hypot(rows + top - 223, columns + left - 308)
    assert (distance[heat > 0.5] < 140).all()
    assert heat[distance > 200].mean() < 0.2


@pytest.mark.parametrize("ending", ["nested", "activation", "two heads", "flat"])
def test_features_of_any_end(ending, pictures):
    layers = keras.layers
    inputs = keras.Input((8, 8, 3))
    pooled = layers.GlobalAveragePooling2D()(layers.Rescaling(1 / 255)(inputs))
    dense = layers.Dense(2, "softmax")
    if ending == "nested":
        inner = keras.Model(inputs, layers.Dropout(0.1)(dense(pooled)))
        outer = keras.Input((8, 8, 3))
        model = keras.Model(outer, layers.Activation("linear")(inner(outer)))
    elif ending == "activation":
        model = keras.Model(inputs, layers.Softmax()(layers.Dense(2)(layers.Dropout(0.5)(pooled))))
    elif ending == "two heads":
        model = keras.Model(inputs, layers.Average()([dense(pooled), layers.Dense(2)(pooled)]))
    else:
        model = keras.Model(inputs, layers.Flatten()(layers.Conv2D(2, 8)(inputs)))
    if ending in ("nested", "activation"):
        (row,) = kev2.predict(model, pictures[:1], embeddings=True)
        np.testing.assert_allclose(row.embedding, MEANS[0], atol=1e-5)
        assert row.scores[0] == pytest.approx(kev2.predict(model, pictures[:1])[0].scores[0])
    else:
        with pytest.raises(ValueError, match=r"has no features \(N, C\)"):
            kev2.predict(model, pictures[:1], embeddings=True)


def test_exports_hold_no_features(run, pictures, tmp_path, capsys):
    (tmp_path / "1").mkdir()
    for name in ("1/saved_model.pb", "model.onnx", "model.xml", "model.tflite"):
        (tmp_path / name).touch()
        path = (tmp_path / name).parent if name.endswith(".pb") else tmp_path / name
        words = ("predict", path, *pictures, "--embeddings", tmp_path / "features.npz")
        code, _, err = command(capsys, *words)
        assert code == 1
        assert f"--embeddings: '{path}' is an export without features. Give what it" in err


def test_wrong_words(run, pictures, tmp_path, capsys):
    for path, expected in (
        ("features.npy", "--embeddings must be a file that ends in .npz. Received: 'features.npy'"),
        (tmp_path / "no" / "a.npz", f"--embeddings: There is no folder '{tmp_path / 'no'}'"),
    ):
        code, out, err = command(capsys, "predict", run, *pictures, "--embeddings", path)
        assert (code, out) == (1, "")
        assert expected in err
    with pytest.raises(ValueError, match="for a variant only"):
        kev2.predict(run, pictures, weights="imagenet")
    for network, weights in ((kev2.open_run(run), None), (kev2.open_run(run).model, "imagenet")):
        with pytest.raises(ValueError, match=r"a Keras model, or a variant, which alone takes"):
            kev2.predict(network, pictures, weights=weights)
    with pytest.raises(ValueError, match=r"There is no file 'nothing.keras'"):
        kev2.predict("nothing.keras", pictures)
    with pytest.raises(ValueError, match=r"no folder 'eficientnetv2-b0'.*Did you mean"):
        kev2.predict("eficientnetv2-b0", pictures)
    shutil.copy(pictures[1], tmp_path / "broken.keras")
    with pytest.raises(ValueError, match=r"broken\.keras cannot be read"):
        kev2.predict(tmp_path / "broken.keras", pictures)
