"""CIFAR-10 photos at one budget of time: progressive learning against the fixed largest size.

command:  python benchmarks/cifar_budget.py --data cifar10.tar --output /tmp/cifar-budget
time:     about 35 minutes on 2 cores; a run that is finished in --output is not trained again
result:   a Markdown table on stdout, two run folders in --output

Trains efficientnetv2-b0 from scratch on 5,000 training pictures twice: with the quickstart recipe
(32 to 64 pixels in four stages), then at 64 pixels alone for as many epochs as take the same time.
That number comes from train steps of every size, measured in turns, because the speed of a shared
machine changes while a training lasts. Both are judged on the 10,000 test pictures.
"""

import argparse
import dataclasses
import statistics
import tarfile
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tensorflow as tf

from keras_effnetv2 import ModelConfig, TrainRecipe, build_model, load_source, train
from keras_effnetv2.evaluation.scores import evaluate_source
from keras_effnetv2.runs.run_folder import open_run

VARIANT = "efficientnetv2-b0"
CLASSES = 10
ROUNDS = 8  # of timing
STEPS_A_ROUND = 3


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar, or its folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=5000)
    arguments = parser.parse_args()
    data = arguments.data
    if data.is_file():
        data = extracted(data, arguments.output / "data")

    recipe = dataclasses.replace(
        TrainRecipe.preset("quickstart"),
        epochs=arguments.epochs,
        image_size=(32, 64),
        small_pictures=False,
    )
    plan = recipe.resolve(VARIANT).plan
    steps = arguments.examples // recipe.batch_size  # an epoch
    seconds = time_steps(plan, recipe, arguments.examples)
    budget = sum(
        seconds[stage.image_size].trace
        + (stage.end_epoch - stage.start_epoch) * steps * seconds[stage.image_size].step
        for stage in plan
    )
    largest = seconds[plan[-1].image_size]
    fixed_recipe = dataclasses.replace(
        recipe,
        epochs=int((budget - largest.trace) / (steps * largest.step)),
        stages=1,
        image_size=plan[-1].image_size,
        mixup_alpha=plan[-1].mixup_alpha,
        dropout_rate=plan[-1].dropout_rate,
    )
    print("\n| size | first step, s | step, s |\n|---|---|---|")
    for size, (trace, step) in seconds.items():
        print(f"| {size} | {trace:.1f} | {step:.3f} |")
    print(f"the progressive training computes for about {budget:.0f} s\n", flush=True)
    table = ["| training | epochs | seconds in fit | test accuracy |", "|---|---|---|---|"]
    for name, one in (("progressive", recipe), ("fixed", fixed_recipe)):
        accuracy, in_fit = train_and_judge(data, one, arguments.output / name, arguments.examples)
        table.append(f"| {name} | {one.epochs} | {in_fit:.0f} | {accuracy:.2%} |")
    print("\n".join(["", *table]))


def extracted(archive, folder):
    """The folder that holds train/ and test/ of an archive, which is extracted once."""
    if not folder.is_dir():
        with tarfile.open(archive) as tar:
            tar.extractall(folder, filter="data")
    while not (folder / "train").is_dir():
        (folder,) = (path for path in folder.iterdir() if path.is_dir())
    return folder


class Seconds(NamedTuple):
    """Of the first train step of a size, which traces, and of a later one."""

    trace: float
    step: float


def time_steps(plan, recipe, num_examples):
    """Size -> `Seconds` of training the network on random pictures, all sizes in turns."""
    model = build_model(
        ModelConfig.from_name(VARIANT), classes=CLASSES, drop_path_rate=recipe.drop_path_rate
    )
    sizes = [stage.image_size for stage in plan]
    optimizer = recipe.make_optimizer(plan, num_examples, model)
    model.compile(optimizer, "categorical_crossentropy", jit_compile=False)
    optimizer.build(model.trainable_variables)
    rng = np.random.default_rng(0)
    labels = np.eye(CLASSES, dtype="float32")[rng.integers(0, CLASSES, recipe.batch_size)]
    train_steps = {}
    first = {}
    for size in sizes:
        pictures = rng.uniform(0, 255, (recipe.batch_size, size, size, 3)).astype("float32")
        batch = tf.data.Dataset.from_tensors((pictures, labels)).repeat()
        model.make_train_function(force=True)
        train_steps[size] = (model.train_function, iter(batch))
        first[size] = timed(*train_steps[size], steps=1)
    later = {size: [] for size in sizes}
    for _ in range(ROUNDS):
        for size in sizes:
            later[size].append(timed(*train_steps[size], steps=STEPS_A_ROUND) / STEPS_A_ROUND)
    return {size: Seconds(first[size], statistics.median(later[size])) for size in sizes}


def timed(function, batches, steps):
    """Seconds that so many train steps take."""
    start = time.perf_counter()
    for _ in range(steps):
        function(batches)
    return time.perf_counter() - start


def train_and_judge(data, recipe, output, examples):
    """Accuracy on the test pictures, and seconds in `fit`."""
    if not (output / "model.keras").is_file():
        train(
            VARIANT,
            data,
            recipe,
            output,
            max_train_examples=examples,
            validation_fraction=0.02,
            overwrite=True,
            verbose=2,
        )
    run = open_run(output)
    test = load_source(data, "test", class_names=run.class_names)
    evaluation = evaluate_source(
        run.model, test, image_size=run.image_size, style=run.style, batch_size=250
    )
    seconds = np.genfromtxt(output / "history.csv", delimiter=",", names=True)["seconds"]
    return evaluation.accuracy, seconds.sum()


if __name__ == "__main__":
    main()
