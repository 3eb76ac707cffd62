"""Training, optimizers and averages on two devices of one machine give what one gives.

Devices are set up before TensorFlow starts, hence a process of its own for all of it.
"""

import functools
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import test_ema
import test_optimizers
from helpers import progressive_probe as probe
from helpers.quick_runs import (
    leave_out_report,
    leave_out_results,
    leave_out_rewriting,
    small_network,
)

from keras_effnetv2.data.sources import load_source
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training import fit
from keras_effnetv2.training.fit import train
from keras_effnetv2.training.progressive import ProgressiveLearning

# No dropout, whose draws differ by device, no batch norm, whose statistics do, and no clipping,
# which each device does to its part.
RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=2,
    stages=2,
    batch_size=16,
    image_size=(32, 40),
    dropout_rate=None,
    optimizer="sgd",
    learning_rate=0.05,
    gradient_clip=None,
    class_weights={"1": 2.0},
    balanced=True,
)


def train_small(output, model, **options):
    source = load_source("digits")
    pictures = source.subset(range(48))
    judged = source.subset(range(64, 81))  # not a multiple of two
    return train(
        model, pictures, RECIPE, output, validation=judged, scan=False, verbose=0, **options
    )


class Counted(tf.distribute.MirroredStrategy):
    runs = 0

    def run(self, *args, **options):
        Counted.runs += 1
        return super().run(*args, **options)


def check_train(folder, strategy):
    patch, before = pytest.MonkeyPatch(), strategy.runs
    leave_out_results(patch)
    plain_network = functools.partial(small_network, dropout=None, norm=False)
    alone = train_small(folder / "alone", plain_network())
    patch.undo()
    leave_out_report(patch)
    # A variant is built within the scope of the strategy.
    patch.setattr(fit, "build_to_train", lambda *given: plain_network(eager=False))
    mirrored = train_small(folder / "mirrored", "efficientnetv2-b0", strategy=strategy)
    assert strategy.runs > before
    odd = replace(RECIPE, batch_size=15)
    with pytest.raises(ValueError, match=r"among the 2 devices.*Received: 15"):
        train("efficientnetv2-b0", load_source("digits"), odd, strategy=strategy)
    for one, two in zip(alone.model.get_weights(), mirrored.model.get_weights(), strict=True):
        np.testing.assert_allclose(two, one, rtol=0, atol=1e-5)
    np.testing.assert_allclose(
        mirrored.evaluation.scores, alone.evaluation.scores, rtol=0, atol=1e-5
    )
    assert mirrored.evaluation.scores.shape == (17, 10)
    # 18 are judged while training: the first stands in for the one that is missing.
    for name in ("loss", "learning_rate"):
        np.testing.assert_allclose(mirrored.history[name], alone.history[name], rtol=1e-4)
    np.testing.assert_allclose(mirrored.history["val_loss"], alone.history["val_loss"], atol=0.05)
    served = tf.saved_model.load(str(folder / "mirrored/saved_model/1"))
    images = tf.random.stateless_uniform((2, 40, 40, 3), (1, 2), 0, 255)
    answer = served.signatures["serving_default"](images=images)["probabilities"]
    np.testing.assert_allclose(answer, alone.model(images), rtol=0, atol=1e-5)
    assert json.loads((folder / "mirrored/recipe.json").read_text())["finished"]


def check_progressive(strategy):
    with strategy.scope():
        model = probe.build_model(jit_compile=False)
    for fit_args, steps in (({}, probe.STEPS), ({"steps_per_epoch": 2, "epochs": 2}, [2, 2])):
        log = probe.train(model, ProgressiveLearning(probe.make_dataset, probe.STAGES), **fit_args)
        assert [row["steps"] for row in log.values()] == steps
        for epoch, row in log.items():
            probe.check_epoch(epoch, row)
        # Traced for every size at once: see test_shared_trace.py.
        assert {seen[1:] for row in log.values() for seen in row["shapes"]} <= {(None, None, 3)}


def check_two_devices(folder):
    leave_out_rewriting()
    cpu = tf.config.list_physical_devices("CPU")[0]
    tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * 2)
    strategy = Counted(["CPU:0", "CPU:1"])
    assert strategy.num_replicas_in_sync == 2
    test_optimizers.check_two_devices(strategy)
    test_ema.check_two_devices(strategy)
    check_progressive(strategy)
    check_train(folder, strategy)


@pytest.mark.slow  # a process that starts TensorFlow and compiles
@probe.only_tensorflow
def test_two_devices(tmp_path):
    code = f"import test_fit_devices as t; t.check_two_devices(t.Path({str(tmp_path)!r}))"
    run = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parent, capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr


def test_a_strategy_for_machines_is_refused(tmp_path):
    strategy = tf.distribute.get_strategy()
    with pytest.raises(ValueError, match=r"must be a tf\.distribute\.MirroredStrategy"):
        train_small(tmp_path / "run", small_network(), strategy=strategy)
    assert not (tmp_path / "run").exists()
