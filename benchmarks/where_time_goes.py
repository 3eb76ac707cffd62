"""Where the time of a training goes, from the start of the process to the written run folder.

    python benchmarks/where_time_goes.py --data PHOTOS [--model NAME] [--pictures N] [--epochs N]

Runs `train` with the recipe "finetune" in this process, and times its parts, each without the parts
inside of it. Printed are two Markdown tables of wall and processor seconds: of the whole, and of a
step by stage. The parts of a step are measured apart, after the last epoch, on one batch in memory:
forward; backward, as gradients less forward; the optimizer, as a step less gradients; the input, as
the pipeline alone. In the training the input runs beside the rest, so a step takes less wall time
than their sum. About ten minutes for the clothing photos on two cores.
"""

# ruff: noqa: E402  (the imports are timed)

import time

BEGUN = time.perf_counter()

import argparse
import contextlib
import dataclasses
import os
import statistics
import tempfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import tensorflow as tf
from pipeline_report import surroundings

import keras_effnetv2 as kev2
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.recipes.ema import EMA
from keras_effnetv2.report import run_report
from keras_effnetv2.training import fit, probe, results
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.snapshots import Snapshots

# What is timed: the part, and where its function is found.
PARTS = (
    ("scan", TrainingData, "prepare"),
    ("findings", fit, "look_for_findings"),
    ("classifier first: features", probe, "_features"),
    ("classifier first: fit", fit, "fit_classifier"),
    ("epochs: new iterators", Inputs, "smoothed_dataset"),
    ("epochs: averages", EMA, "on_train_batch_end"),
    ("epochs: swap of averages", EMA, "swap"),
    ("epochs: decode of validation", Inputs, "validation_dataset"),
    ("epochs: validation", keras.Model, "evaluate"),
    ("snapshots", Snapshots, "_save"),
    ("judging", fit, "evaluate_model"),
    ("report: nearest pictures", run_report, "nearest_pictures"),
    ("report: rest of its content", results, "gather_report"),
    ("report: page", results, "render_run"),
    ("export", results, "export_saved_model"),
    ("model and other files", fit, "write_results"),
)
BOUNDED = ("findings", "snapshots", "report")  # what they begin with
STEPS = 8  # of each part of a step
BATCHES = 100  # of the input alone


class Clock:
    """Wall and processor seconds of parts, each without the parts inside of it."""

    def __init__(self):
        self.seconds = {}
        self.open = ["start and rest"]
        self.last = BEGUN, 0.0

    def note(self):
        """Give the seconds since the note before to the part that is open."""
        now = time.perf_counter(), time.process_time()
        wall, processor = self.seconds.get(self.open[-1], (0.0, 0.0))
        spent = [then - before for then, before in zip(now, self.last, strict=True)]
        self.seconds[self.open[-1]] = wall + spent[0], processor + spent[1]
        self.last = now

    @contextlib.contextmanager
    def part(self, name):
        """Time a part."""
        self.note()
        self.open.append(name)
        yield
        self.note()
        self.open.pop()

    def timed(self, function, name):
        """Return the function, timed; a generator is read."""

        def call(*args, **options):
            with self.part(name):
                made = function(*args, **options)
                return list(made) if name == "findings" else made

        return call


def timed_fit(clock, steps):
    """Return `fit_stages` that times steps, and the parts of one afterwards."""
    original = fit.fit_stages

    def run(model, inputs, progressive, callbacks, **options):
        make = model.make_train_function

        def make_train_function(force=False):
            make(force)
            if force:  # by `ProgressiveLearning`; the first step of it is traced
                step = model.train_function
                names = iter(["tracing"])
                model.train_function = lambda batches: clock.timed(
                    step, next(names, "epochs: steps")
                )(batches)

        model.make_train_function = make_train_function
        original(model, inputs, progressive, callbacks, **options)
        model.make_train_function = make
        with clock.part("(measuring parts of steps)"):
            for stage in inputs.plan:
                steps.append((stage, parts_of_step(model, inputs, stage)))

    return run


def parts_of_step(model, inputs, stage):
    """Return the median (wall, processor) seconds of input, forward, backward and optimizer."""
    weights = model.get_weights()
    batches = iter(inputs.stage_dataset(stage, stage.start_epoch).repeat())
    images, labels, *_ = next(batches)
    loss = model.loss

    @tf.function
    def forward():
        return loss(labels, model(images, training=True))

    @tf.function
    def gradients():
        with tf.GradientTape() as tape:
            value = forward()
        return tape.gradient(value, model.trainable_variables)

    @tf.function
    def whole():
        model.optimizer.apply_gradients(zip(gradients(), model.trainable_variables, strict=True))

    def seconds(function):
        begun = time.perf_counter(), time.process_time()
        function()
        return time.perf_counter() - begun[0], time.process_time() - begun[1]

    def middle(function):
        function()  # traces it
        spent = [seconds(function) for _ in range(STEPS)]
        return [statistics.median(column) for column in zip(*spent, strict=True)]

    # Many at once, because some are ready before they are asked for.
    reading = seconds(lambda: [next(batches) for _ in range(BATCHES)])
    measured = [middle(one) for one in (forward, gradients, whole)]
    parts = {"input": [one / BATCHES for one in reading], "forward": measured[0]}
    for name, before, after in zip(("backward", "optimizer"), measured, measured[1:], strict=False):
        parts[name] = [b - a for a, b in zip(before, after, strict=True)]
    model.set_weights(weights)
    return parts


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True)
    parser.add_argument("--model", default="efficientnet-lite0")
    parser.add_argument("--pictures", type=int, help="train on so many only")
    parser.add_argument("--epochs", type=int, help="in place of the recipe's")
    args = parser.parse_args()
    clock, steps = Clock(), []
    for name, place, attribute in PARTS:
        setattr(place, attribute, clock.timed(getattr(place, attribute), name))
    fit.fit_stages = timed_fit(clock, steps)
    recipe = kev2.TrainRecipe.preset("finetune")
    if args.epochs:
        recipe = dataclasses.replace(recipe, epochs=args.epochs, min_steps=0)
    with tempfile.TemporaryDirectory() as folder:
        kev2.train(
            args.model,
            args.data,
            recipe,
            f"{folder}/run",
            max_train_examples=args.pictures,
            verbose=2,
        )
    clock.note()
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    del clock.seconds["(measuring parts of steps)"]
    whole = [sum(column) for column in zip(*clock.seconds.values(), strict=True)]
    bounded = [one for name, one in clock.seconds.items() if name.startswith(BOUNDED)]
    rows = [
        *clock.seconds.items(),
        ("snapshots, report, findings", [sum(column) for column in zip(*bounded, strict=True)]),
        ("all", whole),
    ]
    print("\n| part | wall, s | processor, s | share of wall |\n|---|---|---|---|")
    for name, (wall, processor) in rows:
        print(f"| {name} | {wall:.1f} | {processor:.1f} | {wall / whole[0]:.1%} |")
    names = list(steps[0][1])
    print(f"\n| processor ms a step (wall) | {' | '.join(names)} |")
    print("|---" * (len(names) + 1) + "|")
    for stage, parts in steps:
        cells = [f"{1000 * parts[one][1]:.0f} ({1000 * parts[one][0]:.0f})" for one in names]
        print(f"| {stage.image_size} pixels, batch {stage.batch_size} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
