"""ProgressiveLearning under what `compile` can ask for: all stages in each mode of execution."""

import keras
import pytest
from helpers.progressive_probe import (
    EPOCHS,
    STAGES,
    STEPS,
    build_model,
    check_epoch,
    make_dataset,
    only_tensorflow,
    train,
)

from keras_effnetv2.training.progressive import ProgressiveLearning


@only_tensorflow
@pytest.mark.parametrize(
    "compile_args",
    [{"steps_per_execution": 2}, {"jit_compile": True}, {"run_eagerly": True}],
    ids=str,
)
def test_modes_of_execution(compile_args):
    log = train(build_model(**compile_args), ProgressiveLearning(make_dataset, STAGES))
    assert list(log) == list(range(EPOCHS))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["iterations"] == sum(STEPS[: epoch + 1])


@only_tensorflow
@pytest.mark.parametrize("policy", ["mixed_bfloat16", "mixed_float16"])
def test_mixed_precision(policy):
    keras.config.set_dtype_policy(policy)
    try:
        model = build_model()
    finally:
        keras.config.set_dtype_policy("float32")
    assert model.get_layer("classifier_dropout").compute_dtype == policy.removeprefix("mixed_")
    log = train(model, ProgressiveLearning(make_dataset, STAGES))
    for epoch, row in log.items():
        check_epoch(epoch, row)
        assert row["steps"] == STEPS[epoch]
