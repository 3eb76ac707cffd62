"""The class lists against those of Keras and of their source, and the naming of scores."""

import hashlib
import json
import subprocess
import sys

import keras
import numpy as np
import pytest
from helpers.source_files import SMALL

import keras_effnetv2 as kev2
from keras_effnetv2.pretrained.labels import Label, class_list, has_class_list

# SHA-256 of the lists as weights/make_labels.py prints them, made from timm 1.0.31.
SHA256 = {
    1000: "61e6bf481c37ad44d3860aa1a1da7caf836c6dc10854b5baab766e3343e94781",
    21843: "0d80846368242886914e6eeaf41f012554b1cf0d84d932bd571849f7627a0f10",
}


def test_imagenet_is_byte_for_byte_the_list_of_keras_applications():
    index = {str(number): list(label) for number, label in enumerate(class_list(1000))}
    digest = hashlib.md5(json.dumps(index).encode()).hexdigest()
    # keras/src/applications/imagenet_utils.py: file_hash of imagenet_class_index.json
    assert digest == "c2c37ea517e94d9795004a39431a14cb"


@pytest.mark.parametrize("classes", SHA256)
def test_lists_are_those_of_their_source(classes):
    labels = class_list(classes)
    text = "".join(f"{wordnet_id}\t{name}\n" for wordnet_id, name in labels)
    assert hashlib.sha256(text.encode()).hexdigest() == SHA256[classes]
    ids = [label.wordnet_id for label in labels]
    assert len(set(ids)) == classes
    assert ids == sorted(ids)  # the order of both heads


def test_another_number_of_classes_has_no_list():
    assert [has_class_list(classes) for classes in (1000, 21843, 10, 21841)] == [1, 1, 0, 0]
    message = r"class lists for 1000 \(ImageNet\) and 21843 \(ImageNet-21k\) classes. Received: 10"
    with pytest.raises(ValueError, match=message):
        class_list(10)


def test_reading_a_list_starts_no_backend():
    program = (
        "import sys; from keras_effnetv2.pretrained.labels import class_list; class_list(21843); "
        "print({'keras', 'numpy', 'tensorflow'} & set(sys.modules))"
    )
    finished = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (finished.stdout, finished.stderr) == ("set()\n", "")


def random_scores(classes, pictures=3):
    return np.random.default_rng(0).random((pictures, classes), np.float32)


def test_predictions_are_decoded_as_keras_applications_does():
    # As keras/src/applications/imagenet_utils.py has it, which would download its list.
    scores, labels = random_scores(1000), class_list(1000)
    assert kev2.decode_predictions(scores, top=7) == [
        [(*labels[best], row[best]) for best in row.argsort()[-7:][::-1]] for row in scores
    ]


def test_imagenet21k_scores_get_its_names():
    scores = np.zeros((1, 21843), np.uint8)  # unsigned ones are not wrapped around
    wanted = class_list(21843).index(Label("n02504458", "African_elephant"))
    scores[0, wanted] = 200
    ((first, second),) = kev2.decode_predictions(scores, top=2)
    assert first == ("n02504458", "African_elephant", 200.0)
    assert second == ("n00004475", "organism", 0.0)  # of equal scores the first class


@pytest.mark.backend
def test_tensors_of_the_backend_and_predictions_of_a_network():
    model = kev2.build_model(SMALL, input_shape=(32, 32, 3))
    scores = model.predict(np.zeros((2, 32, 32, 3)), verbose=0)
    decoded = kev2.decode_predictions(scores)
    assert [len(row) for row in decoded] == [5, 5]
    assert decoded[0][0][2] == scores[0].max()
    assert kev2.decode_predictions(keras.ops.convert_to_tensor(scores)) == decoded


def test_top_beyond_the_classes_names_all_and_no_picture_none():
    (row,) = kev2.decode_predictions(random_scores(1000, pictures=1), top=5000)
    assert len({wordnet_id for wordnet_id, _, _ in row}) == 1000
    assert kev2.decode_predictions(np.zeros((0, 1000))) == []


@pytest.mark.parametrize(
    ("scores", "top", "message"),
    [
        (
            np.zeros(1000),
            5,
            r"Give the scores of one picture as scores\[None\]. Received: shape=\(1000,\)",
        ),
        (np.zeros((1, 7, 7, 1000)), 5, "must have the shape"),
        (np.zeros((2, 10)), 5, r"1000 \(ImageNet\) and 21843 .* class_names\[index\] .*\(2, 10\)"),
        (np.zeros((2, 1000)), 0, "at least 1. Received: 0"),
        (np.zeros((2, 1000)), 2.0, "at least 1. Received: 2.0"),
    ],
)
def test_bad_scores_are_one_clear_error(scores, top, message):
    with pytest.raises(ValueError, match=message):
        kev2.decode_predictions(scores, top)
