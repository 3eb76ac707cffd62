"""Does a larger picture want a stronger RandAugment? The paper's Table 5, for a laptop.

command:  python examples/augmentation_by_size.py --data cifar10/
time:     not measured; nine trainings for each seed
result:   a table of accuracies, sizes by magnitudes. The paper, a network of its search space on
          ImageNet at 128, 192 and 300 pixels, magnitudes 5, 10, 15: 78.3, 78.0, 77.7; 81.2, 81.6,
          81.5; 82.5, 82.7, 83.2% top-1. Small pictures want 5, large ones 15.

--data is a folder with train/ and test/. The network is a small EfficientNetV2-B0, so that nine
trainings end: look at which magnitude is best for a size, not at the accuracies.
"""

import argparse

import keras
import numpy as np

import keras_effnetv2 as kev2


def accuracy(training, test, size: int, magnitude: float, options, seed: int) -> float:
    """Trains one network and judges it on the test pictures."""
    keras.utils.set_random_seed(seed)
    config = kev2.ModelConfig.from_name("efficientnetv2-b0").scaled(width=0.25, depth=0.5)
    model = kev2.build_model(config, classes=len(training.class_names), dropout_rate=0.2)
    batches = {"image_size": size, "batch_size": options.batch_size}

    def make_dataset(stage, epoch):
        return kev2.make_dataset(
            training,
            **batches,
            training=True,
            randaugment_magnitude=magnitude,
            crop_area=(0.25, 1.0),
            seed=seed,
            epoch=epoch,
        )

    plan = kev2.progressive_stages(epochs=options.epochs, stages=1, **batches)
    steps = options.epochs * max(1, training.num_examples // options.batch_size)
    rate = keras.optimizers.schedules.CosineDecay(0.004, steps)
    loss = keras.losses.CategoricalCrossentropy(label_smoothing=0.1)
    model.compile(keras.optimizers.Adam(rate), loss, jit_compile=False)
    progressive = kev2.ProgressiveLearning(make_dataset, plan)
    fit_options = {"callbacks": [progressive], "shuffle": False, "verbose": 0}
    model.fit(progressive.dataset, epochs=plan.epochs, **fit_options)
    judged = kev2.make_dataset(test, **batches, training=False)
    return float(np.mean(model.predict(judged, verbose=0).argmax(axis=1) == test.labels))


def main(words: list[str] | None = None) -> np.ndarray:
    """Trains all and prints the table; returns the accuracies (seeds, sizes, magnitudes)."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", required=True, help="folder with train/ and test/")
    parser.add_argument("--pictures", type=int, default=10_000, help="to train on")
    parser.add_argument("--image-size", type=int, nargs="+", default=[32, 48, 64])
    parser.add_argument("--magnitude", type=float, nargs="+", default=[5, 10, 15])
    parser.add_argument("--epochs", type=int, default=15)
    parser.add_argument("--batch-size", type=int, default=64)
    parser.add_argument("--seeds", type=int, default=1)
    options = parser.parse_args(words)
    training = kev2.load_source(options.data, "train").stratified_subset(options.pictures, 0)
    test = kev2.load_source(options.data, "test")
    found = np.zeros((options.seeds, len(options.image_size), len(options.magnitude)))
    for place in np.ndindex(found.shape):
        seed, size, magnitude = place
        found[place] = accuracy(
            training, test, options.image_size[size], options.magnitude[magnitude], options, seed
        )
        print(place, f"{found[place]:.2%}", flush=True)
    print("| pixels |", " | ".join(f"magnitude {value:g}" for value in options.magnitude), "|")
    for size, row in zip(options.image_size, found.mean(axis=0), strict=True):
        print(f"| {size} |", " | ".join(f"{value:.2%}" for value in row), "|")
    return found


if __name__ == "__main__":
    main()
