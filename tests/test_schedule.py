"""WarmupSchedule against the learning rates of the official code; stages of other batch sizes."""

import json

import keras
import numpy as np
import pytest
from helpers import oracle

from keras_effnetv2.recipes.schedule import (
    StagedSchedule,
    WarmupSchedule,
    follow_plan,
)
from keras_effnetv2.recipes.stages import progressive_stages, step_of_epoch, steps_per_epoch

GOLDEN = oracle.training("learning_rate")
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


def assert_survives_json(schedule, steps):
    config = json.loads(json.dumps(keras.saving.serialize_keras_object(schedule)))
    restored = keras.saving.deserialize_keras_object(config)
    assert type(restored) is type(schedule)
    assert restored.get_config() == schedule.get_config()
    np.testing.assert_array_equal(rates(restored, steps), rates(schedule, steps))


@pytest.mark.backend
@pytest.mark.parametrize("name", CURVES)
def test_official_curve(name):
    schedule, steps = official(name), GOLDEN[name]["steps"]
    # The cosine's last value is 0 by cancellation, hence the absolute term.
    np.testing.assert_allclose(rates(schedule, steps), GOLDEN[name]["lr"], rtol=1e-6, atol=1e-10)
    assert_survives_json(schedule, steps[::10])
    # Stages of one batch size change nothing.
    total = int(GOLDEN[name]["params"]["total_steps"])
    equal = [(start, 306, 4096) for start in (0, total // 4, total // 2)]
    np.testing.assert_array_equal(
        rates(StagedSchedule(schedule, equal), steps), rates(schedule, steps)
    )
    plan = progressive_stages(epochs=350, stages=4, image_size=32, batch_size=4096)
    assert follow_plan(schedule, plan, 1_256_144) is schedule


@pytest.mark.backend
def test_schedules_drive_a_compiled_optimizer():
    warm_up = WarmupSchedule(0.5, steps_per_epoch=4, warmup_epochs=1, schedule="constant")
    staged = StagedSchedule(curve("constant"), [(0, 3, 100), (2, 6, 50)])
    # Gradient 1 a step: minus the sum of 0, 1/8, 2/8, 3/8, 1/2, 1/2; of two 0.1 and four 0.05.
    for schedule, expected in ((warm_up, -1.75), (staged, -0.4)):
        model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
        model.compile(keras.optimizers.SGD(schedule), loss=lambda y, outputs: outputs)
        model.layers[0].kernel.assign([[0.0]])
        model.fit(np.ones((6, 1)), np.ones((6, 1)), batch_size=1, shuffle=False, verbose=0)
        assert model.layers[0].get_weights()[0] == pytest.approx(expected)


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
        ({"base_learning_rate": 0}, "`base_learning_rate` must be a number above 0"),
        ({"steps_per_epoch": 0}, "`steps_per_epoch` must be a number above 0"),
        ({"warmup_epochs": -1}, "`warmup_epochs` must be a number of at least 0"),
        ({"decay_factor": 1.5}, r"`decay_factor` .* above 0 and of at most 1\. Received: 1\.5"),
        ({"decay_epochs": 0}, "`decay_epochs` must be a number above 0"),
        ({"minimum": -0.1}, "`minimum` must be a number of at least 0"),
        ({"schedule": "step"}, "one of 'exponential', 'cosine', 'linear', 'constant'.*'step'"),
        ({"schedule": "cosine"}, "needs its length, as `total_epochs` or as `total_steps`"),
        ({"total_epochs": 3, "total_steps": 30}, "not both. Received: total_epochs=3"),
        ({"total_epochs": 0}, "`total_epochs` must be a number above 0, or None"),
    ],
)
def test_errors(arguments, message):
    with pytest.raises(ValueError, match=message):
        WarmupSchedule(**{"base_learning_rate": 0.1, **MINIMAL, **arguments})


# --- stages with other batch sizes ----------------------------------------------------------------

PICTURES = 970  # 3 steps an epoch of 256, 6 of 160, 15 of 64
# 6 epochs: two at a batch of 256 (6 steps), two at 160 (12 steps), two at 64 (30 steps).
PLAN = progressive_stages(epochs=6, stages=3, image_size=32, batch_size=(256, 64))
STARTS = [0, 6, 18]


def curve(kind="cosine", **arguments):
    defaults = {"steps_per_epoch": 3, "warmup_epochs": 0, "schedule": kind, "total_epochs": 6}
    return WarmupSchedule(0.1, **{**defaults, **arguments})


def test_the_place_is_in_epochs_and_the_rate_follows_the_batch():
    schedule = follow_plan(curve(), PLAN, PICTURES)
    steps = range(6 + 12 + 30)
    epochs = [step / 3 for step in range(6)]
    epochs += [2 + step / 6 for step in range(12)]
    epochs += [4 + step / 15 for step in range(30)]
    batches = [256] * 6 + [160] * 12 + [64] * 30
    expected = [
        0.05 * (1 + np.cos(np.pi * epoch / 6)) * batch / 256
        for epoch, batch in zip(epochs, batches, strict=True)
    ]
    np.testing.assert_allclose(rates(schedule, steps), expected, rtol=2e-6, atol=1e-9)
    assert_survives_json(schedule, range(0, 48, 5))


def test_warm_up_and_falls_are_where_their_epochs_are():
    # Warm-up over 3 of 6 epochs, so half into the second stage: steps 0 to 11, of 6 + 6.
    warming = follow_plan(curve("constant", warmup_epochs=3), PLAN, PICTURES)
    np.testing.assert_allclose(
        rates(warming, [3, 6, 9, 12, 18]),
        [0.1 / 3, 0.1 * 2 / 3 * 160 / 256, 0.1 * 2.5 / 3 * 160 / 256, 0.0625, 0.025],
        rtol=1e-6,
    )
    # A fall at every epoch: the first steps of the epochs 1, 3 and 5 and those before them.
    falling = follow_plan(curve("exponential", decay_factor=0.5, decay_epochs=1), PLAN, PICTURES)
    found = rates(falling, [2, 3, 11, 12, 32, 33]) / [1, 1, 0.625, 0.625, 0.25, 0.25]
    np.testing.assert_allclose(found, [0.1, 0.05, 0.025, 0.0125, 0.00625, 0.003125], rtol=1e-6)


def test_steps_are_whole_batches_and_at_least_one():
    # 1,256,144 pictures in batches of 4,096 (learning_rate.json, imagenet_exponential_main_tf2).
    params = GOLDEN["imagenet_exponential_main_tf2"]["params"]
    assert steps_per_epoch(1_256_144, 4096) == params["steps_per_epoch"] == 306
    assert steps_per_epoch(10, 32) == 1


def test_steps_until_an_epoch():
    assert [step_of_epoch(PLAN, PICTURES, stage.start_epoch) for stage in PLAN] == STARTS
    assert [step_of_epoch(PLAN, PICTURES, epoch) for epoch in (0.5, 2.5, 6)] == [2, 9, 48]
    # In floating point 0.1 * 30 is a little more than 3.
    plan = progressive_stages(epochs=1, stages=1, image_size=32, batch_size=1)
    assert step_of_epoch(plan, 30, 0.1) == 3


def test_the_place_is_in_pixels():
    plan = progressive_stages(epochs=6, stages=3, image_size=(32, 64), batch_size=256)
    assert [stage.image_size for stage in plan] == [32, 48, 64]
    schedule = follow_plan(curve(warmup_epochs=1), plan, PICTURES, "pixels")
    # Two epochs of 3 steps each: of 1, 2.25 and 4 times the pixels, so 14.5 in place of 6 epochs.
    places = [0, 1 / 3, 2 / 3, 1, 2, 4.25, 6.5, 10.5, 14.5]
    expected = 0.05 * (1 + np.cos(np.pi * np.array(places) / 14.5))
    expected[:3] = [0, 0.1 / 3, 0.2 / 3]
    found = rates(schedule, [0, 1, 2, 3, 6, 9, 12, 15, 18])
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-9)
    falling = curve("exponential", decay_factor=0.5, decay_epochs=3)  # one fall, halfway
    found = rates(follow_plan(falling, plan, PICTURES, "pixels"), [12, 13, 17])
    np.testing.assert_allclose(found, [0.1, 0.05, 0.05], rtol=1e-6)
    assert_survives_json(schedule, range(18))
    same = progressive_stages(epochs=6, stages=3, image_size=32, batch_size=256)
    assert follow_plan(falling, same, PICTURES, "pixels") is falling
