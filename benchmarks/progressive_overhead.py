"""What `ProgressiveLearning` adds to a training: one `fit` with it against a loop by hand.

    python benchmarks/progressive_overhead.py [--rounds 3] [--steps 50] [--width 64]

Both train the same network over the same data in the same four stages (32 to 56 pixels), in turns.
The loop is what one would write without the callback: for each stage it sets the dropout rate,
makes a `tf.function` of Keras' own train step and feeds it batch by batch. Both trace once a stage;
that time is counted in both. What the callback and `fit` add is a fixed time a stage and an epoch,
so the ratio falls as epochs get longer (real ones have hundreds of steps). Printed are the medians
over the rounds of process CPU time (which other programs hardly touch) and of wall time, and their
ratios; goal: at most 1.02.

Takes about 3 minutes on two idle cores (estimated from a shorter run).
"""

import argparse
import os
import statistics
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from pipeline_report import surroundings

from keras_effnetv2.recipes.stages import StagePlan, TrainStage, progressive_stages
from keras_effnetv2.training.progressive import ProgressiveLearning

BATCH_SIZE = 32
EPOCHS_PER_STAGE = 2
PLAN: StagePlan = progressive_stages(
    epochs=4 * EPOCHS_PER_STAGE,
    stages=4,
    image_size=(32, 56),
    dropout_rate=(0.1, 0.3),
    batch_size=BATCH_SIZE,
)


def build_model(width: int) -> keras.Model:
    """Four convolutions and a Dropout: tracing is short, steps are most of the time."""
    model = keras.Sequential([keras.Input((None, None, 3))])
    for stride in (2, 1, 1, 2):
        model.add(keras.layers.Conv2D(width, 3, strides=stride, padding="same", activation="relu"))
    model.add(keras.layers.GlobalAveragePooling2D())
    model.add(keras.layers.Dropout(0.1, name="dropout"))
    model.add(keras.layers.Dense(10, activation="softmax"))
    # Left to itself `fit` would compile the step with XLA, which the loop does not.
    model.compile(
        keras.optimizers.SGD(0.01, momentum=0.9),
        "sparse_categorical_crossentropy",
        jit_compile=False,
    )
    return model


def make_dataset(stage: TrainStage, epoch: int, steps: int) -> tf.data.Dataset:
    """`steps` batches of noise, of the stage's size, made from the epoch's seed."""
    size = stage.image_size
    rng = np.random.default_rng(epoch)
    images = rng.uniform(0, 1, (stage.batch_size, size, size, 3)).astype("float32")
    labels = rng.integers(0, 10, stage.batch_size)
    batch = tf.data.Dataset.from_tensors((images, labels))
    return batch.repeat(steps).apply(tf.data.experimental.assert_cardinality(steps)).prefetch(2)


def train_with_callback(model: keras.Model, steps: int) -> None:
    """One `fit`."""
    progressive = ProgressiveLearning(lambda stage, epoch: make_dataset(stage, epoch, steps), PLAN)
    model.fit(progressive.dataset, epochs=PLAN.epochs, callbacks=[progressive], verbose=0)


def train_by_hand(model: keras.Model, steps: int) -> None:
    """A loop over stages, epochs and batches around the same train step."""
    for stage in PLAN:
        model.get_layer("dropout").rate = stage.dropout_rate

        @tf.function(reduce_retracing=True)
        def step(iterator):
            return model.train_step(next(iterator))

        for epoch in range(stage.start_epoch, stage.end_epoch):
            model.reset_metrics()
            iterator = iter(make_dataset(stage, epoch, steps))
            for _ in range(steps):
                step(iterator)


def measure(train: Callable[[keras.Model, int], None], width: int, steps: int) -> np.ndarray:
    """CPU and wall seconds of one whole training of a new model."""
    keras.utils.set_random_seed(0)
    model = build_model(width)
    cpu, wall = time.process_time(), time.perf_counter()
    train(model, steps)
    weights = [
        keras.ops.convert_to_numpy(variable) for variable in model.trainable_variables
    ]  # waits for the end
    assert model.optimizer.iterations == PLAN.epochs * steps
    assert all(np.isfinite(weight).all() for weight in weights)
    return np.array([time.process_time() - cpu, time.perf_counter() - wall])


def main() -> None:
    """Measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=50, help="an epoch; there are 8 epochs")
    parser.add_argument("--width", type=int, default=64, help="channels of the network")
    args = parser.parse_args()
    ways = {"callback": train_with_callback, "by hand": train_by_hand}
    for train in ways.values():  # what is paid once a process, and by neither
        measure(train, args.width, 2)
    seconds = {name: [] for name in ways}
    for turn in range(args.rounds):
        for name in list(ways)[:: 1 if turn % 2 else -1]:
            seconds[name].append(measure(ways[name], args.width, args.steps))
    for name, value in surroundings().items():
        print(f"{name}: {value}")
    print(f"{args.rounds} rounds of {PLAN.epochs} epochs of {args.steps} steps, medians:")
    medians = {
        name: [statistics.median(column) for column in np.transpose(rows)]
        for name, rows in seconds.items()
    }
    for name, (cpu, wall) in medians.items():
        print(f"  {name:9} CPU {cpu:7.2f} s  wall {wall:7.2f} s")
    cpu, wall = np.divide(medians["callback"], medians["by hand"])
    print(f"  ratio     CPU {cpu:7.3f}    wall {wall:7.3f}    (goal: at most 1.02)")


if __name__ == "__main__":
    main()
