"""What the first step of each stage costs in one `fit` with `ProgressiveLearning`.

    python benchmarks/stage_starts.py [--sizes 32 64 96] [--batch 16] [--steps 8]

Trains EfficientNetV2-B0 for 10 classes (Adam, clipped) on noise, one epoch a stage. Printed are, by
stage, the seconds from the end of the stage before to its data being open, those of its first
step, and the median of the steps after it; the first stage includes the trace. About one minute.
"""

import argparse
import os
import statistics
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from pipeline_report import surroundings

import keras_effnetv2 as kev2


class Times(keras.callbacks.Callback):
    """Notes the seconds since the note before, by epoch: data open, then every step."""

    def on_train_begin(self, logs=None):
        self.by_epoch, self.last = {}, time.perf_counter()

    def note(self):
        now = time.perf_counter()
        self.by_epoch[self.epoch].append(now - self.last)
        self.last = now

    def on_epoch_begin(self, epoch, logs=None):  # after that of ProgressiveLearning
        self.epoch = epoch
        self.by_epoch[epoch] = []
        self.note()

    def on_train_batch_end(self, batch, logs=None):
        self.note()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", nargs="+", type=int, default=[32, 64, 96])
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--steps", type=int, default=8, help="of an epoch")
    args = parser.parse_args()

    def make_dataset(stage, epoch):
        images = tf.random.uniform((args.batch, *[args.sizes[stage.index]] * 2, 3), 0, 255)
        labels = tf.one_hot(tf.range(args.batch) % 10, 10)
        batch = tf.data.Dataset.from_tensors((images, labels))
        return batch.repeat(args.steps).apply(tf.data.experimental.assert_cardinality(args.steps))

    stages = len(args.sizes)
    plan = kev2.progressive_stages(
        epochs=stages,
        stages=stages,
        image_size=(min(args.sizes), max(args.sizes)),
        dropout_rate=(0.1, 0.3),
        batch_size=args.batch,
    )
    model = kev2.EfficientNetV2B0(weights=None, classes=10)
    model.compile(
        keras.optimizers.Adam(1e-3, global_clipnorm=1.0),
        "categorical_crossentropy",
        jit_compile=False,
    )
    progressive, times = kev2.ProgressiveLearning(make_dataset, plan), Times()
    model.fit(
        progressive.dataset, epochs=stages, shuffle=False, callbacks=[progressive, times], verbose=0
    )
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    for size, (opened, first, *steps) in zip(args.sizes, times.by_epoch.values(), strict=True):
        print(
            f"{size:4} pixels: data open {opened:5.2f} s, first step {first:5.2f} s, "
            f"a step {statistics.median(steps):6.3f} s"
        )


if __name__ == "__main__":
    main()
