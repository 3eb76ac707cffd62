"""What weights by class and balanced draws do for rare classes.

command:  python benchmarks/class_balance.py --data FOLDER --output /tmp/balance
time:     10 minutes of processor time
result:   a Markdown table on stdout; see docs/benchmarks.md

FOLDER holds photos in class folders. Each class is trained on fewer pictures than the one before,
from 200 down to 10, the class with most photos first, and is judged by 100 other pictures.
efficientnet-lite0 with its ImageNet weights is fitted at 128 pixels by the recipes "probe" and
"finetune", the latter in one stage of 6 epochs.
"""

import argparse
import dataclasses
from pathlib import Path

import numpy as np

from keras_effnetv2 import TrainRecipe, load_source, train

MOST, FEWEST, JUDGED = 200, 10, 100  # pictures of a class
RECIPES = {
    "probe": dataclasses.replace(TrainRecipe.preset("probe"), image_size=128),
    "finetune": dataclasses.replace(
        TrainRecipe.preset("finetune"), epochs=6, min_steps=0, stages=1, image_size=128
    ),
}
WAYS = {
    "plain": {},
    "class_weights": {"class_weights": "balanced"},
    "balanced": {"balanced": True},
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=[*RECIPES])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    print("| recipe | seed | | mean recall | of the rarer half | of the others |")
    print("|---|---|---|---|---|---|", flush=True)
    for name in arguments.recipes:
        for seed in arguments.seeds:
            training, judged, sizes = uneven(load_source(arguments.data, "all"), seed)
            for way, options in WAYS.items():
                recipe = dataclasses.replace(RECIPES[name], seed=seed)
                output = arguments.output / f"{name}-{seed}-{way}"
                options = options | {"validation": judged, "overwrite": True, "verbose": 0}
                result = train("efficientnet-lite0", training, recipe, output, **options)
                recalls = result.evaluation.recall_by_class()
                is_rare = sizes <= np.median(sizes)
                means = [recalls.mean(), recalls[is_rare].mean(), recalls[~is_rare].mean()]
                cells = [name, str(seed), way, *(f"{mean:.1%}" for mean in means)]
                print(f"| {' | '.join(cells)} |", flush=True)


def uneven(source, seed):
    """Pictures to train on, pictures to judge by, and how many of each class are trained on."""
    rng = np.random.default_rng(seed)
    counts = source.class_counts()
    sizes = np.zeros_like(counts)
    sizes[np.argsort(-counts)] = np.geomspace(MOST, FEWEST, len(counts)).round()
    drawn = [rng.permutation(np.flatnonzero(source.labels == c)) for c in range(len(counts))]
    trained = [own[:size] for own, size in zip(drawn, sizes, strict=True)]
    judged = [own[size : size + JUDGED] for own, size in zip(drawn, sizes, strict=True)]
    return *(source.subset(np.concatenate(part)) for part in (trained, judged)), sizes


if __name__ == "__main__":
    main()
