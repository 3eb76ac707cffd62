"""What `make_dataset` delivers at every stage inside one `fit`, measured on the batches.

Black pictures, one a class: under RandAugment with one operation only SolarizeAdd leaves a grey
that is neither 0, 128 (filled in) nor 255 (inverted), and that grey is int(magnitude / 10 * 110)
(`augment_levels`, from the official table). Under mixup a label keeps max(v, 1 - v) with
v ~ Beta(alpha, alpha), whose variance 1 / (4 (2 alpha + 1)) gives alpha back.
"""

import keras
import numpy as np
import pytest
import tensorflow as tf
from helpers.progressive_probe import only_tensorflow

import keras_effnetv2 as kev2

pytestmark = only_tensorflow
PICTURES = 320


class Recorder(keras.Model):
    """Learns one bias; keeps every batch that a training step gets, in NumPy."""

    def __init__(self):
        super().__init__()
        self.batches = []
        self.bias = self.add_weight(shape=(), name="bias")

    def call(self, x):
        return self.bias + tf.zeros([tf.shape(x)[0], PICTURES])

    def train_step(self, data):
        self.batches.append([np.array(part) for part in data])
        return super().train_step(data)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("black")
    black = tf.io.encode_png(tf.zeros([40, 40, 3], tf.uint8)).numpy()
    for index in range(PICTURES):
        (folder / f"{index:03d}").mkdir()
        (folder / f"{index:03d}" / "black.png").write_bytes(black)
    return kev2.load_source(folder, "all")


def batches_by_stage(source, stages, **data_args):
    """The batches of each stage, as the steps of one `fit` got them."""

    def dataset(stage, epoch):
        return kev2.make_dataset(
            source,
            image_size=stage.image_size,
            batch_size=stage.batch_size,
            training=True,
            randaugment_magnitude=stage.randaugment_magnitude,
            mixup_alpha=stage.mixup_alpha,
            seed=1,
            epoch=epoch,
            **data_args,
        )

    model = Recorder()
    model.compile("sgd", "mse", run_eagerly=True)
    progressive = kev2.ProgressiveLearning(dataset, stages)
    model.fit(progressive.dataset, epochs=progressive.epochs, callbacks=[progressive], verbose=0)
    batches = iter(model.batches)
    found = [
        [next(batches) for _ in range(PICTURES // stage.batch_size * epochs)]
        for stage in stages
        for epochs in [stage.end_epoch - stage.start_epoch]
    ]
    assert next(batches, None) is None
    for stage, of_stage in zip(stages, found, strict=True):
        size = stage.image_size
        for images, labels in of_stage:
            assert (images.shape, images.dtype) == ((stage.batch_size, size, size, 3), np.float32)
            assert (labels.shape, labels.dtype) == ((stage.batch_size, PICTURES), np.float32)
    return found


def test_randaugment_magnitude(source):
    stages = kev2.progressive_stages(
        epochs=2,
        stages=2,
        image_size=(32, 44),
        randaugment_magnitude=(5, 20),
        batch_size=(160, 40),
    )
    found = batches_by_stage(source, stages, randaugment_layers=1)
    additions = [
        {int(value) for images, _ in batches for value in np.unique(images)} - {0, 128, 255}
        for batches in found
    ]
    assert additions == [{55}, {220}]


def test_mixup_alpha(source):
    stages = kev2.progressive_stages(
        epochs=4, stages=2, image_size=(32, 44), mixup_alpha=(0, 3), batch_size=(160, 40)
    )
    alphas = []
    for batches in batches_by_stage(source, stages):
        kept = np.concatenate([labels.max(axis=1) for _, labels in batches])
        alphas.append((1 / (4 * np.mean((kept - 0.5) ** 2)) - 1) / 2)
    # Standard error of the estimate at alpha = 3 and 640 labels: 0.2.
    assert alphas == pytest.approx([0, 3], abs=0.4)
