"""ProgressiveLearning on more than one device of a machine."""

import subprocess
import sys
from pathlib import Path

import tensorflow as tf
from helpers.progressive_probe import (
    STAGES,
    STEPS,
    build_model,
    check_epoch,
    make_dataset,
    only_tensorflow,
    train,
)

from keras_effnetv2.training.progressive import ProgressiveLearning


def check_mirrored_strategy():
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        model = build_model()
    for fit_args, steps in (({}, STEPS), ({"steps_per_epoch": 2, "epochs": 2}, [2, 2])):
        log = train(model, ProgressiveLearning(make_dataset, STAGES), **fit_args)
        assert [row["steps"] for row in log.values()] == steps
        for epoch, row in log.items():
            check_epoch(epoch, row)
            if epoch == STAGES.at(epoch).start_epoch:
                assert row["shapes"][-2:] == [(None, *[STAGES.at(epoch).image_size] * 2, 3)] * 2


@only_tensorflow
def test_mirrored_strategy():
    # Two CPU devices must be set up before TensorFlow starts, hence a process of its own.
    code = "import test_progressive_devices as t; t.check_mirrored_strategy()"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
