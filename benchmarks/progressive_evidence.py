"""Progressive learning against the fixed largest size, for as many epochs, over several seeds.

command:  python benchmarks/progressive_evidence.py --data cifar10.tar --output /tmp/evidence
time:     about 80 minutes on 2 cores; a training that is finished in --output is not done again
result:   a Markdown table on stdout, a run folder for each training in --output

The paper's question (its Table 12), for a laptop: a small EfficientNetV2 learns CIFAR-10 from
scratch with the image size growing from 64 to 160 pixels in four stages, the RandAugment magnitude
from 5 to 15 and dropout from 0.1 to 0.3, as the paper has them for S; then at 160 pixels with the
last stage's magnitude and dropout from beginning to end; then so with the first stage's. All are
judged on the 10,000 test pictures at 160 pixels. The trainings of a seed follow each other, so that
a machine whose speed changes does not decide. Times are of `fit`: wall clock, and processor time,
which other programs on the machine hardly touch.
"""

import argparse
import dataclasses
import json
import statistics
import time
from pathlib import Path

import keras
from cifar_budget import extracted

from keras_effnetv2 import ModelConfig, TrainRecipe, build_model, load_source, train
from keras_effnetv2.evaluation.scores import evaluate_source

CLASSES = 10
PROGRESSIVE = dataclasses.replace(
    TrainRecipe.preset("quickstart"),
    image_size=(64, 160),
    randaugment_magnitude=(5, 15),
    dropout_rate=(0.1, 0.3),
)
FIXED = dataclasses.replace(PROGRESSIVE, stages=1, image_size=160)
RECIPES = {
    "progressive": PROGRESSIVE,
    "fixed-strong": dataclasses.replace(FIXED, randaugment_magnitude=15, dropout_rate=0.3),
    "fixed-weak": dataclasses.replace(FIXED, randaugment_magnitude=5, dropout_rate=0.1),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar, or its folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--examples", type=int, default=3000)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trainings", nargs="+", choices=RECIPES, default=list(RECIPES))
    arguments = parser.parse_args()
    data = arguments.data
    if data.is_file():
        data = extracted(data, arguments.output / "data")

    measured = {name: [] for name in arguments.trainings}
    for seed in range(arguments.seeds):
        for name in arguments.trainings:
            recipe = dataclasses.replace(RECIPES[name], epochs=arguments.epochs, seed=seed)
            folder = arguments.output / f"{name}-{seed}"
            measured[name].append(train_and_judge(data, recipe, folder, arguments.examples))
            print(f"{name}, seed {seed}: {measured[name][-1]}", flush=True)
    print("\n| training | seconds in `fit` | processor time, s | test accuracy | mean |")
    print("|---|---|---|---|---|")
    for name, runs in measured.items():
        wall, processor, accuracy = ([run[key] for run in runs] for key in KEYS)
        print(
            f"| {name} | {listed(wall, '.0f')} | {listed(processor, '.0f')} "
            f"| {listed(accuracy, '.2%')} | {statistics.mean(accuracy):.2%} |"
        )


KEYS = ("wall", "processor", "accuracy")


def listed(values, form):
    return ", ".join(format(value, form) for value in values)


def train_and_judge(data, recipe, folder, examples):
    """`KEYS` of one training: seconds in `fit`, and the accuracy on the test pictures."""
    figures = folder / "evidence.json"
    if figures.is_file():
        return json.loads(figures.read_text())
    keras.utils.set_random_seed(recipe.seed)
    config = ModelConfig.from_name("efficientnetv2-b0").scaled(width=0.5, depth=0.5)
    model = build_model(config, classes=CLASSES, dropout_rate=0.1, drop_path_rate=0.1)
    seconds = {}
    model.fit = timed(model.fit, seconds)
    run = train(
        model,
        data,
        recipe,
        folder,
        max_train_examples=examples,
        validation_fraction=0.004,
        overwrite=True,
        scan=False,
        verbose=2,
    )
    test = load_source(data, "test")
    evaluation = evaluate_source(
        run.model, test, image_size=160, style=recipe.evaluation_style, batch_size=250
    )
    measured = dict(zip(KEYS, (*seconds.values(), evaluation.accuracy), strict=True))
    figures.write_text(json.dumps(measured))
    return measured


def timed(function, seconds):
    """`function`, which leaves in `seconds` how long it took."""

    def call(*args, **options):
        wall, processor = time.perf_counter(), time.process_time()
        result = function(*args, **options)
        seconds["wall"] = time.perf_counter() - wall
        seconds["processor"] = time.process_time() - processor
        return result

    return call


if __name__ == "__main__":
    main()
