"""What an architecture search finds, against B0 of as many parameters and the median random net.

command:  python benchmarks/search_evidence.py --data cifar10.tar --output /tmp/search
time:     some hours on 2 cores; trials and trainings that are finished in --output are not repeated
result:   Markdown tables on stdout; in --output the studies, see `keras-effnetv2 search show`

A search over the paper's space around EfficientNetV2-B0, by tree-structured Parzen estimators, on
digits and on a part of CIFAR-10, judged on pictures held back from its training pictures. Then four
networks are trained longer, over several seeds, on all training pictures, and judged on the test
pictures, which the search has not seen (of digits: its validation split): the one with the best
score; B0 scaled in width to as many parameters; B0; the median of the random networks that the
search began with, of which none is given up early. Step times are medians over the time of B0's
step beside them.
"""

import argparse
import dataclasses
import json
import statistics
from pathlib import Path

import optuna
from cifar_budget import extracted

from keras_effnetv2 import ModelConfig, TrainRecipe, load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.search.engine import run_search
from keras_effnetv2.search.sampling import Sampling
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.trial_training import TrialRunner
from keras_effnetv2.training.inputs import load_inputs

RECIPE = dataclasses.replace(TrainRecipe.preset("search"), image_size=32)
RANDOM_TRIALS = 15
TEST_EXAMPLES = 2000  # of CIFAR-10; they are gone through after every epoch
WIDTHS = [step / 20 for step in range(6, 41)]
SPLITS = {"digits": ("train", "validation"), "cifar10": ("train", "test")}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="cifar10.tar, or its folder")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--datasets", nargs="+", choices=SPLITS, default=list(SPLITS))
    parser.add_argument("--trials", type=int, default=40)
    parser.add_argument("--epochs", type=int, default=5, help="of a trial")
    parser.add_argument("--final-epochs", type=int, default=15)
    parser.add_argument("--examples", type=int, default=2000, help="of CIFAR-10, for a trial")
    parser.add_argument("--seeds", type=int, default=3)
    arguments = parser.parse_args()
    arguments.output.mkdir(parents=True, exist_ok=True)
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    for dataset in arguments.datasets:
        pictures, test = sources(dataset, arguments)
        # B0 comes first. So that the random networks have a median, all are trained to the end.
        for trials, sampling in (
            (1 + RANDOM_TRIALS, Sampling("random", prune=False, seed=0)),
            (arguments.trials, Sampling("tpe", startup_trials=1 + RANDOM_TRIALS, seed=0)),
        ):
            study = run_search(
                SearchSpace.from_backbone(),
                TrainingData(pictures, validation_fraction=0.2, cache="memory"),
                trials=trials,
                storage=f"sqlite:///{arguments.output}/search.db",
                study=dataset,
                recipe=dataclasses.replace(RECIPE, epochs=arguments.epochs),
                sampling=sampling,
                echo=lambda line: print(line, flush=True),
            )
        chosen = contestants(study)
        rows = judge(dataset, chosen, pictures, test, arguments)
        print(f"\n{dataset}\n\n{table(rows)}\n", flush=True)


def sources(dataset, arguments):
    """The pictures that are trained on, and those that the trained networks are judged by."""
    spec = "digits"
    if dataset == "cifar10":
        spec = arguments.data
        if spec.is_file():
            spec = extracted(spec, arguments.output / "data")
    pictures, test = (load_source(spec, split) for split in SPLITS[dataset])
    if dataset == "cifar10":
        pictures = pictures.stratified_subset(arguments.examples, 0)
        test = test.stratified_subset(TEST_EXAMPLES, 0)
    return pictures, test


def contestants(study):
    """Name of a contestant -> its config, number of its trial or None."""
    complete = [trial for trial in study.trials if trial.state == "complete"]
    best = max(complete, key=lambda trial: trial.score)
    random = [trial for trial in study.trials if trial.number][:RANDOM_TRIALS]
    # A network comes twice where a worker was killed while it had it.
    distinct = {trial.config: trial for trial in reversed(random) if trial.state == "complete"}
    median = sorted(distinct.values(), key=lambda one: one.score)[len(distinct) // 2]
    b0 = study.space.backbone
    budget = min(WIDTHS, key=lambda width: abs(size_of(b0.scaled(width=width)) - best.parameters))
    return {
        f"best of the search (trial {best.number})": best.config,
        f"B0 of as many parameters (width {budget:g})": b0.scaled(width=budget),
        "B0": b0,
        f"median of the random (trial {median.number})": median.config,
    }


def size_of(config):
    from keras_effnetv2 import build_model

    return count_trainable(build_model(config, classes=10))


def judge(dataset, chosen, pictures, test, arguments):
    """Trains each contestant with each seed, by turns; what is known already is read."""
    cache = arguments.output / f"{dataset}.json"
    known = json.loads(cache.read_text()) if cache.exists() else {}
    rows = {name: [] for name in chosen}
    b0 = ModelConfig.from_name("efficientnetv2-b0")
    for seed in range(arguments.seeds):
        recipe = dataclasses.replace(RECIPE, epochs=arguments.final_epochs, seed=seed)
        runner = None
        for name, config in chosen.items():
            key = f"{name}, seed {seed}, {arguments.final_epochs} epochs"
            if key not in known:
                if runner is None:
                    data = TrainingData(pictures, test, scan=False, cache="memory")
                    inputs = load_inputs(b0, data, recipe).prepared(print)
                    runner = TrialRunner(b0, inputs)
                model = runner.build(config)
                cost = runner.cost(model)
                accuracy = runner.train(model, lambda epoch, accuracy: None)
                known[key] = {
                    "accuracy": accuracy,
                    "step_time": cost["step_time"],
                    "parameters": cost["parameters"],
                }
                cache.write_text(json.dumps(known, indent=1))
                print(f"{key}: {accuracy:.2%}", flush=True)
            rows[name].append(known[key])
    return rows


def table(rows):
    lines = [
        "| network | parameters, M | step time, of B0's | accuracy, % (each seed) |",
        "| --- | --- | --- | --- |",
    ]
    for name, results in rows.items():
        accuracies = [100 * result["accuracy"] for result in results]
        each = ", ".join(f"{accuracy:.2f}" for accuracy in accuracies)
        lines.append(
            f"| {name} | {results[0]['parameters'] / 1e6:.2f} "
            f"| {statistics.median(result['step_time'] for result in results):.2f} "
            f"| {statistics.mean(accuracies):.2f} ({each}) |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
