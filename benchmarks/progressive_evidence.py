"""Progressive learning against the fixed largest size, and a plain `fit` of keras.applications.

command:  python benchmarks/progressive_evidence.py --data clothing.tar --output /tmp/evidence
time:     hours on 2 cores; a training that is finished in --output is not done again
result:   a Markdown table on stdout, a folder for each training in --output

The paper's question (its Table 12) on your own pictures: a network is trained by the default recipe
with sizes, augmentation and dropout growing in stages; and at the largest size, with the last
stage's augmentation and dropout, for as many epochs; with `--evaluation-size` that is the size at
which all are judged, and the stages may end below it. Both are trained for all, half and a quarter
of the epochs, each with its whole schedule. `--weights auto` fine-tunes in place of training from
scratch. "keras.applications" is what its user would write: EfficientNetV2B0 from scratch at the
largest size, Adam with a rate of 0.001, pictures mirrored at random.

All are judged at the same size on the test pictures, or on the validation pictures where there are
no others. The trainings of a seed follow each other, so that a machine whose speed changes does not
decide. Times are of `fit`: wall clock, and processor time, which other programs hardly touch.
"""

import argparse
import contextlib
import dataclasses
import json
import math
import statistics
import time
from pathlib import Path

import keras
import tensorflow as tf
from cifar_budget import extracted

from keras_effnetv2 import ModelConfig, TrainRecipe, load_source, make_dataset, train
from keras_effnetv2.evaluation.scores import evaluate_source

TRAININGS = ("progressive", "fixed", "keras.applications")
KEYS = ("wall", "processor", "accuracy")


def main():
    arguments = parsed()
    if arguments.data.is_file():
        arguments.data = extracted(arguments.data, arguments.output / "data")
    measured = {}
    for seed in range(arguments.seeds):
        for share in arguments.budgets:
            for name in arguments.trainings:
                folder = arguments.output / f"{name}-{share:g}-{seed}"
                figures = folder / "evidence.json"
                if not figures.is_file():
                    epochs = max(1, round(share * arguments.epochs))
                    if name == "keras.applications":
                        result = plain_fit(epochs, seed, folder, arguments)
                    else:
                        result = staged_fit(name == "fixed", epochs, seed, folder, arguments)
                    figures.write_text(json.dumps(dict(zip(KEYS, result, strict=True))))
                run = json.loads(figures.read_text())
                measured.setdefault((share, name), []).append(run)
                print(f"{name}, {share:g} of the epochs, seed {seed}: {run}", flush=True)
    print_table(measured)


def parsed():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="a folder, or its .tar")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", default="efficientnetv2-b0")
    parser.add_argument("--scale", type=float, default=1.0, help="of its width and depth")
    parser.add_argument("--weights", choices=("none", "auto"), default="none")
    parser.add_argument("--sizes", type=int, nargs=2, help="of the first and the last stage")
    parser.add_argument("--evaluation-size", type=int, help="otherwise that of the last stage")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--examples", type=int, help="training pictures; otherwise all")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--budgets", type=float, nargs="+", default=[0.25, 0.5, 1.0])
    parser.add_argument("--trainings", nargs="+", choices=TRAININGS, default=TRAININGS[:2])
    return parser.parse_args()


def recipe_of(arguments, epochs, seed):
    recipe = TrainRecipe.preset("quickstart" if arguments.weights == "none" else "finetune")
    if arguments.sizes:
        recipe = dataclasses.replace(recipe, image_size=tuple(arguments.sizes))
    size = arguments.evaluation_size
    return dataclasses.replace(recipe, epochs=epochs, min_steps=0, seed=seed, evaluation_size=size)


def staged_fit(is_fixed, epochs, seed, folder, arguments):
    """`KEYS` of a training by the default recipe, in stages or at the last one's size."""
    recipe = recipe_of(arguments, epochs, seed)
    if is_fixed:
        size = recipe.evaluation_size or recipe.image_size
        recipe = dataclasses.replace(recipe, stages=1, image_size=size)
    model = arguments.model
    if arguments.scale != 1:
        config = ModelConfig.from_name(model)
        model = config.scaled(width=arguments.scale, depth=arguments.scale)
    with timed() as seconds:
        run = train(
            model,
            arguments.data,
            recipe,
            folder,
            weights=None if arguments.weights == "none" else "auto",
            max_train_examples=arguments.examples,
            overwrite=True,
            scan=False,
            verbose=2,
        )
    size = json.loads((folder / "recipe.json").read_text("utf-8"))["image_size"]
    return *seconds, judged(run.model, arguments.data, size)


def plain_fit(epochs, seed, folder, arguments):
    """`KEYS` of what a user of keras.applications would write."""
    keras.utils.set_random_seed(seed)
    training, validation = (load_source(arguments.data, split) for split in ("train", "validation"))
    if arguments.examples:
        training = training.stratified_subset(arguments.examples)
    resolved = recipe_of(arguments, epochs, seed).resolve(arguments.model)
    size = resolved.recipe.evaluation_size or resolved.plan[-1].image_size
    options = {"image_size": size, "batch_size": 32, "training": False, "style": "whole"}
    batches, held_back = (make_dataset(one, **options) for one in (training, validation))
    count = tf.data.experimental.assert_cardinality(math.ceil(training.num_examples / 32))
    batches = batches.unbatch().shuffle(4096).batch(32).apply(count)
    mirrored = batches.map(lambda x, y: (tf.image.random_flip_left_right(x), y))
    model = keras.applications.EfficientNetV2B0(
        weights=None, classes=len(training.class_names), input_shape=(size, size, 3)
    )
    model.compile("adam", "categorical_crossentropy", metrics=["accuracy"])
    with timed() as seconds:
        model.fit(mirrored, validation_data=held_back, epochs=epochs, verbose=2)
    folder.mkdir(parents=True, exist_ok=True)
    return *seconds, judged(model, arguments.data, size)


def judged(model, data, size):
    """The accuracy on pictures that were not trained on."""
    names = load_source(data).class_names
    split = "test" if (data / "test").is_dir() else "validation"
    pictures = load_source(data, split, class_names=names)
    return evaluate_source(model, pictures, image_size=size, style="whole").accuracy


@contextlib.contextmanager
def timed():
    """Give a list that will hold the seconds of `fit`, wall clock and processor."""
    seconds, fit = [0.0, 0.0], keras.Model.fit

    def call(*args, **options):
        clocks = time.perf_counter, time.process_time
        before = [clock() for clock in clocks]
        result = fit(*args, **options)
        for index, clock in enumerate(clocks):  # of the classifier first, if the recipe has that
            seconds[index] += clock() - before[index]
        return result

    keras.Model.fit = call
    try:
        yield seconds
    finally:
        keras.Model.fit = fit


def print_table(measured):
    print("\n| epochs | training | seconds in `fit` | processor time, s | accuracy | mean |")
    print("|---|---|---|---|---|---|")
    for (share, name), runs in measured.items():
        wall, processor, accuracy = ([run[key] for run in runs] for key in KEYS)
        print(
            f"| {share:g} | {name} | {listed(wall, '.0f')} | {listed(processor, '.0f')} "
            f"| {listed(accuracy, '.2%')} | {statistics.mean(accuracy):.2%} |"
        )


def listed(values, form):
    return ", ".join(format(value, form) for value in values)


if __name__ == "__main__":
    main()
