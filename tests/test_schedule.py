"""WarmupSchedule against the learning rates of the official code."""

import json
from pathlib import Path

import keras
import numpy as np
import pytest

from keras_effnetv2.training.schedule import WarmupSchedule

# Made by running the official code (shared/oracle/README.md, section training).
GOLDEN = json.loads(
    (Path(__file__).parent / "golden/training/learning_rate.json").read_text("utf-8")
)
CURVES = [name for name in GOLDEN if name != "formula"]
MINIMAL = {"steps_per_epoch": 10, "warmup_epochs": 1}


def official(name):
    params = GOLDEN[name]["params"]
    return WarmupSchedule(
        params["initial_lr"],
        steps_per_epoch=params["steps_per_epoch"],
        warmup_epochs=params["warmup_epochs"],
        schedule=params["lr_decay_type"],
        total_steps=params["total_steps"],
        decay_factor=params["decay_factor"],
        decay_epochs=params["decay_epochs"],
        minimum=params["minimal_lr"],
    )


def rates(schedule, steps):
    return np.array([keras.ops.convert_to_numpy(schedule(step)) for step in steps])


@pytest.mark.backend
@pytest.mark.parametrize("name", CURVES)
def test_official_curve(name):
    schedule = official(name)
    found = rates(schedule, GOLDEN[name]["steps"])
    # The cosine's last value is 0 by cancellation, hence the absolute term.
    np.testing.assert_allclose(found, GOLDEN[name]["lr"], rtol=1e-6, atol=1e-10)


@pytest.mark.backend
@pytest.mark.parametrize("name", CURVES)
def test_serialization_round_trip(name):
    schedule = official(name)
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    restored = keras.saving.deserialize_keras_object(config)
    assert isinstance(restored, WarmupSchedule)
    assert restored.get_config() == schedule.get_config()
    steps = GOLDEN[name]["steps"]
    np.testing.assert_array_equal(rates(restored, steps), rates(schedule, steps))


@pytest.mark.backend
def test_drives_an_optimizer():
    schedule = WarmupSchedule(0.5, steps_per_epoch=4, warmup_epochs=1, schedule="constant")
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    model.compile(keras.optimizers.SGD(schedule), loss=lambda y, outputs: outputs)
    model.layers[0].kernel.assign([[0.0]])
    model.fit(np.ones((6, 1)), np.ones((6, 1)), batch_size=1, shuffle=False, verbose=0)
    # Gradient 1 a step: minus the sum of 0, 1/8, 2/8, 3/8, 1/2, 1/2.
    assert model.layers[0].get_weights()[0] == pytest.approx(-1.75)


def test_length_in_epochs():
    curves = [
        WarmupSchedule(
            0.1, steps_per_epoch=2.5, warmup_epochs=0, schedule="cosine", **{name: length}
        )
        for name, length in (("total_epochs", 4), ("total_steps", 10))
    ]
    expected = [0.1, 0.05 * (1 + np.cos(0.1 * np.pi)), 0.05, 0.0, 0.0]
    for curve in curves:
        np.testing.assert_allclose(rates(curve, [0, 1, 5, 10, 12]), expected, atol=1e-8)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_learning_rate": 0}, "`base_learning_rate` must be above 0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be above 0"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be 0 or more"),
        ({"decay_factor": 1.5}, r"`decay_factor` must be in \(0, 1\]. Received: decay_factor=1\.5"),
        ({"decay_epochs": 0}, "`decay_epochs` must be above 0"),
        ({"minimum": -0.1}, "`minimum` must be 0 or more"),
        ({"schedule": "step"}, "one of exponential, cosine, linear, constant.*'step'"),
        ({"schedule": "cosine"}, "needs `total_epochs` or `total_steps`"),
        ({"total_epochs": 3, "total_steps": 30}, "Give the length once"),
        ({"total_epochs": 0}, "must be above 0. Received: total_epochs=0"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupSchedule(**{"base_learning_rate": 0.1, **MINIMAL, **arguments})
