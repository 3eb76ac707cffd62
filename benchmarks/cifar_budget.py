"""CIFAR-10 photos in a fixed number of seconds: progressive against the fixed largest size.

command:  python benchmarks/cifar_budget.py --data cifar10.tar --output /tmp/cifar-budget
time:     about 30 minutes on 2 cores
result:   a Markdown table on stdout, two run folders in --output

Trains efficientnetv2-b0 from scratch on 5,000 training pictures twice: with the quickstart recipe
(32 to 64 pixels in four stages), then at 64 pixels alone for as many epochs as fit into the
seconds that the first training took. Both are judged on the 10,000 test pictures.
"""

import argparse
import dataclasses
import statistics
import tarfile
from pathlib import Path

from keras_effnetv2 import TrainRecipe, load_source, train
from keras_effnetv2.evaluation import evaluate_source


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar, or its folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--examples", type=int, default=5000)
    arguments = parser.parse_args()
    data = arguments.data
    if data.is_file():
        with tarfile.open(data) as tar:
            tar.extractall(arguments.output / "data", filter="data")
        data = arguments.output / "data"
        while not (data / "train").is_dir():
            (data,) = (path for path in data.iterdir() if path.is_dir())

    recipe = dataclasses.replace(TrainRecipe.preset("quickstart"), epochs=arguments.epochs)
    progressive = run(data, recipe, arguments, "progressive")
    history = progressive["history"]
    last = [
        seconds
        for seconds, stage in zip(history["seconds"], history["stage"], strict=True)
        if stage == recipe.stages
    ]
    # The first epoch of a stage also traces the train step: paid once by either training.
    tracing = last[0] - statistics.median(last[1:])
    epochs = int((progressive["seconds"] - tracing) / statistics.median(last[1:]))
    fixed_recipe = dataclasses.replace(
        recipe,
        epochs=epochs,
        stages=1,
        image_size=last_of(recipe.image_size),
        mixup_alpha=last_of(recipe.mixup_alpha),
        dropout_rate=last_of(recipe.dropout_rate),
    )
    fixed = run(data, fixed_recipe, arguments, "fixed")
    print("\n| training | epochs | seconds in fit | test accuracy |\n|---|---|---|---|")
    for name, result in (("progressive 32 to 64", progressive), ("fixed 64", fixed)):
        print(
            f"| {name} | {result['epochs']} | {result['seconds']:.0f} | {result['accuracy']:.2%} |"
        )


def last_of(value):
    """The last stage's value of a recipe field, which is a range or one number."""
    return value[1] if isinstance(value, tuple) else value


def run(data, recipe, arguments, name):
    """One training and its accuracy on the test pictures."""
    result = train(
        "efficientnetv2-b0",
        data,
        recipe,
        arguments.output / name,
        max_train_examples=arguments.examples,
        validation_fraction=0.02,
        overwrite=True,
        verbose=2,
    )
    test = load_source(data, "test", class_names=load_source(data).class_names)
    evaluation = evaluate_source(
        result.model, test, image_size=64, style=recipe.evaluation_style, batch_size=250
    )
    return {
        "accuracy": evaluation.accuracy,
        "seconds": sum(result.history["seconds"]),
        "epochs": recipe.epochs,
        "history": result.history,
    }


if __name__ == "__main__":
    main()
