"""Trains EfficientNetV2 on ImageNet (ILSVRC2012), as the paper or as the released code does.

command:  keras-effnetv2 pack --data imagenet/ --output packed/   (once; class folders in train/
          and validation/, or tfds:imagenet2012)
          python examples/imagenet.py --data tfrecord:packed/ --output runs/imagenet-s
          and, where it broke off, the same with --resume
time:     the paper's Table 7, 32 TPU v3 cores: S 7.1, M 13, L 24 hours for 350 epochs
result:   not repeated here; the paper's Table 7: S 83.9%, M 85.1%, L 85.7% top-1

The recipe is for batches of 4,096 pictures; the learning rate follows a smaller --batch-size. On
the GPUs of one machine the script divides each batch among them. B0 to B3 have no row in the
paper: --preset imagenet-official.
"""

import argparse
from dataclasses import replace

import keras
import tensorflow as tf

import keras_effnetv2 as kev2
from keras_effnetv2.evaluation.scores import evaluate_source


def parse_arguments(words: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="what load_source takes")
    parser.add_argument("--output", required=True, help="the run folder")
    parser.add_argument("--variant", default="efficientnetv2-s")
    parser.add_argument(
        "--preset", default="imagenet-paper", choices=("imagenet-paper", "imagenet-official")
    )
    parser.add_argument("--batch-size", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=350)
    parser.add_argument("--image-size", type=int, nargs=2, help="other sizes than the preset's")
    parser.add_argument("--precision", default="float32", help="mixed_bfloat16 on newer GPUs")
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(words)


def all_devices() -> tf.distribute.Strategy | None:
    """Return the strategy for all GPUs, if TensorFlow sees several."""
    if keras.backend.backend() == "tensorflow" and len(tf.config.list_physical_devices("GPU")) > 1:
        return tf.distribute.MirroredStrategy()
    return None


def main(words: list[str] | None = None) -> float:
    """Runs the whole program and returns the validation accuracy."""
    options = parse_arguments(words)
    recipe = replace(
        kev2.TrainRecipe.preset(options.preset),
        batch_size=options.batch_size,
        epochs=options.epochs,
        precision=options.precision,
    )
    if options.image_size:
        recipe = replace(recipe, image_size=tuple(options.image_size))
    result = kev2.train(
        options.variant,
        options.data,
        recipe,
        options.output,
        resume=options.resume,
        strategy=all_devices(),
        verbose=2,
    )
    # Judged at a larger size than trained with, as published: S 384, M and L 480 pixels.
    evaluation = evaluate_source(
        result.model,
        kev2.load_source(options.data, "validation"),
        image_size=kev2.ModelConfig.from_name(options.variant).eval_size,
        style=recipe.resolve(options.variant).recipe.evaluation_style,
    )
    print(f"top-1 {evaluation.accuracy:.1%}")
    return evaluation.accuracy


if __name__ == "__main__":
    main()
