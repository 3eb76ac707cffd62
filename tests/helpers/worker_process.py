"""One worker of two trainings, of which the second takes long: a process, for test_workers.py.

KERAS_BACKEND=jax python -m helpers.worker_process FOLDER COUNT INDEX PORT
"""

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import keras_effnetv2 as kev2
from helpers.quick_runs import leave_out_results, leave_out_rewriting, small_network
from keras_effnetv2.training.fit import train
from keras_effnetv2.training.workers import connect

# The rate is low, since other orders of adding up are equal up to rounding only, and training makes
# small differences larger. No dropout, whose draws differ.
RECIPE = replace(
    kev2.TrainRecipe.preset("quickstart"),
    epochs=2,
    stages=1,
    batch_size=16,
    image_size=32,
    dropout_rate=None,
    optimizer="sgd",
    learning_rate=0.01,
)


def train_small(output, epochs=2, *, eager=False):
    """Trains the same network on the same pictures, whatever the backend."""
    source = kev2.load_source("digits")
    model = small_network(dropout=None, eager=eager)
    rng = np.random.default_rng(0)
    model.set_weights([weight + rng.normal(0, 0.05, weight.shape) for weight in plain_start(model)])
    return train(
        model,
        source.subset(range(64)),
        replace(RECIPE, epochs=epochs),
        output,
        validation=source.subset(range(64, 81)),  # an odd number
        scan=False,
        verbose=2,
    )


def plain_start(model):
    """Zeros, and ones for scale and variance of the batch norm: no backend's random numbers."""
    ones = ("gamma", "moving_variance")
    return [np.full(weight.shape, float(weight.name in ones)) for weight in model.weights]


if __name__ == "__main__":
    count, index, port = map(int, sys.argv[2:])
    connect(f"127.0.0.1:{port}", count, index)
    leave_out_rewriting()
    train_small(Path(sys.argv[1]) / "two")
    leave_out_results(pytest.MonkeyPatch())
    train_small(Path(sys.argv[1]) / "endless", epochs=400)
