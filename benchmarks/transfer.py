"""What batch norm should do when a pretrained network learns new classes from few pictures.

command:  python benchmarks/transfer.py --data FOLDER --output /tmp/transfer
time:     about 15 minutes on 2 cores; a network that is pretrained in --output is not again
result:   a Markdown table on stdout; 35.5% from scratch, 60.5% with batch norms trained and 59.5%
          frozen, which is no difference at 16 a batch (2026-11-23, two seeds)

FOLDER holds CIFAR-10 as train/CLASS/*.jpg and test/CLASS/*.jpg. efficientnetv2-b0 is pretrained on
2,000 pictures of the first five classes, then learns the other five from 50 pictures of each, 16 a
batch, at 32 pixels: from scratch, with its batch norms trained, with them frozen. Judged by 1,000
test pictures of the same five classes.
"""

import argparse
import dataclasses
import statistics
from pathlib import Path

import keras
import numpy as np

from keras_effnetv2 import ModelConfig, TrainRecipe, build_model, load_source, make_dataset, train
from keras_effnetv2.training.transfer import freeze_batch_norm

VARIANT = "efficientnetv2-b0"
SIZE = 32  # pixels
FIRST, SECOND = range(5), range(5, 10)  # labels pretrained on, labels transferred to
RECIPE = dataclasses.replace(
    TrainRecipe.preset("quickstart"), epochs=15, stages=1, image_size=SIZE, dropout_rate=0.2
)
MODES = ("from scratch", "batch norm trained", "batch norm frozen")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=20, help="of the transfer")
    parser.add_argument("--batch-size", type=int, default=16, help="of the transfer")
    arguments = parser.parse_args()
    pretrained = arguments.output / "pretrained"
    if not (pretrained / "model.keras").is_file():
        pictures = of_classes(load_source(arguments.data, "train"), FIRST, 400, seed=0)
        train(VARIANT, pictures, RECIPE, pretrained, overwrite=True, verbose=2)
    recipe = dataclasses.replace(RECIPE, epochs=arguments.epochs, batch_size=arguments.batch_size)
    print("| transfer | test accuracy, mean | by seed |\n|---|---|---|", flush=True)
    for mode in MODES:
        scores = [
            transfer(arguments.data, pretrained / "model.keras", mode, recipe, seed)
            for seed in range(arguments.seeds)
        ]
        each = ", ".join(f"{score:.1%}" for score in scores)
        print(f"| {mode} | {statistics.mean(scores):.1%} | {each} |", flush=True)


def of_classes(source, labels, count, seed):
    """`count` random pictures of each of some classes, which become the classes 0, 1, ..."""
    rng = np.random.default_rng(seed)
    chosen = np.concatenate(
        [rng.permutation(np.flatnonzero(source.labels == label))[:count] for label in labels]
    )
    part = source.subset(chosen)
    return dataclasses.replace(
        part,
        class_names=tuple(source.class_names[label] for label in labels),
        labels=part.labels - min(labels),
    )


def transfer(data, weights, mode, recipe, seed):
    """Accuracy on the test pictures after learning the second five classes."""
    keras.utils.set_random_seed(seed)
    pictures = of_classes(load_source(data, "train"), SECOND, 50, seed)
    test = of_classes(load_source(data, "test"), SECOND, 200, seed=0)
    model = build_model(
        ModelConfig.from_name(VARIANT),
        weights=None if mode == "from scratch" else weights,
        classes=len(SECOND),
        drop_path_rate=recipe.drop_path_rate,
    )
    if mode == "batch norm frozen":
        freeze_batch_norm(model)
    optimizer = recipe.make_optimizer(recipe.resolve(VARIANT).plan, pictures.num_examples, model)
    model.compile(optimizer, recipe.make_loss(), jit_compile=False)
    options = {"image_size": SIZE, "batch_size": recipe.batch_size, "training": True}
    options |= {"crop_area": recipe.crop_area}
    # One dataset of all epochs, because each epoch has crops of its own.
    batches = make_dataset(pictures, **options, seed=seed)
    for epoch in range(1, recipe.epochs):
        batches = batches.concatenate(make_dataset(pictures, **options, seed=seed, epoch=epoch))
    batches = batches.map(lambda images, labels: (images, recipe.smooth_labels(labels)))
    model.fit(batches, verbose=0)
    judged = make_dataset(test, image_size=SIZE, batch_size=250, training=False, style="whole")
    scores = model.predict(judged, verbose=0)
    return float(np.mean(scores.argmax(axis=1) == test.labels))


if __name__ == "__main__":
    main()
