"""Trains EfficientNetV2-B0 from scratch, progressively, with its own tf.data pipeline.

command:  python examples/progressive_from_scratch.py [--epochs 12] [--stages 3]
          [--image-size 32 48] [--batch-size 64]
time:     about 5 minutes on 2 idle cores (an estimate), most of it for the tracing of the stages
result:   the validation accuracy of the averaged weights after each epoch
"""

import argparse

import keras
import numpy as np
import tensorflow as tf
from sklearn.datasets import load_digits

import keras_effnetv2 as kev2

HELD_BACK = 360  # of the 1,797 digits


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--stages", type=int, default=3)
    parser.add_argument("--image-size", type=int, nargs=2, default=[32, 48])
    parser.add_argument("--batch-size", type=int, default=64)
    return parser.parse_args(words)


def resized(images, labels, size: int, batch_size: int) -> tf.data.Dataset:
    """Batches of images (B, size, size, 3) 0..255 and labels (B,)."""
    data = tf.data.Dataset.from_tensor_slices((images, labels)).batch(batch_size)
    return data.map(lambda x, y: (tf.image.resize(x, (size, size)), y)).prefetch(2)


def main(words: list[str] | None = None) -> keras.callbacks.History:
    """Plans and trains; the model is left with the averaged weights."""
    args = parse_arguments(words)
    digits = load_digits()
    images = np.repeat(digits.images[..., None] * (255 / 16), 3, axis=-1).astype("float32")
    labels = digits.target
    stages = kev2.progressive_stages(
        epochs=args.epochs,
        stages=args.stages,
        image_size=args.image_size,
        dropout_rate=(0.1, 0.3),
        batch_size=args.batch_size,
    )
    print(stages)

    def make_dataset(stage, epoch):  # called once an epoch, with the settings of its stage
        order = HELD_BACK + np.random.default_rng(epoch).permutation(len(images) - HELD_BACK)
        return resized(images[order], labels[order], stage.image_size, stage.batch_size)

    model = kev2.EfficientNetV2B0(weights=None, classes=10)
    rate = kev2.WarmupSchedule(
        0.004,
        steps_per_epoch=(len(images) - HELD_BACK) / args.batch_size,
        warmup_epochs=1,
        schedule="cosine",
        total_epochs=args.epochs,
    )
    model.compile(
        keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    progressive = kev2.ProgressiveLearning(make_dataset, stages, verbose=1)
    return model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        shuffle=False,  # the pictures come shuffled
        callbacks=[progressive, kev2.EMA(0.98)],
        validation_data=resized(
            images[:HELD_BACK], labels[:HELD_BACK], args.image_size[-1], args.batch_size
        ),
        verbose=2,
    )


if __name__ == "__main__":
    main()
