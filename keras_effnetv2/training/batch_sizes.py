"""The batch sizes of the stages: the largest that fit into memory, and halves where one does not.

The learning rate follows them, as it is proportional to the batch size of a stage (see
`schedule.follow_plan`). The stages of a run's `recipe.json` hold what was chosen.
"""

import gc
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras

from keras_effnetv2._common.machine import is_out_of_memory
from keras_effnetv2._common.text import counted
from keras_effnetv2.recipes.stages import StagePlan
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.run_settings import RunSettings
from keras_effnetv2.training.assemble import compile_to_train
from keras_effnetv2.training.footprint import Machine, most_pictures
from keras_effnetv2.training.inputs import Inputs
from keras_effnetv2.training.snapshots import Snapshot, go_back, latest_snapshot
from keras_effnetv2.training.time_budget import TimeBudget

History = dict[str, list[float]]

_MOST = 4096  # as the official trainings
# Fewer steps an epoch teach little, however many pictures are in each.
_FEWEST_STEPS = 16


def settle_batch_sizes(
    model: keras.Model,
    inputs: Inputs,
    earlier: RunSettings | None,
    machine: Machine,
    say: Callable[[str], Any],
) -> Inputs:
    """Return inputs with batch sizes in place of "auto"; a resumed run keeps the plan that it had.

    Each is a power of two times the devices: the largest of which a train step fits into memory,
    an epoch has 16 (or that the preset has), and that is at most 4,096. On a CPU memory is
    estimated, on a GPU steps are tried.

    Args:
        model: the network, built.
        inputs: of the training.
        earlier: the settings of the run that is resumed, or None.
        machine: what the training can use.
        say: called with a line about what "auto" chose.
    """
    plan = inputs.plan
    if earlier is not None and len(earlier.stages) == len(plan):
        # Its batches may have been halved, and its epochs fitted to the time.
        pictures = earlier.max_pictures_per_epoch
        return replace(inputs, plan=StagePlan(earlier.stages), max_pictures_per_epoch=pictures)
    if inputs.recipe.batch_size != "auto":
        return inputs
    devices, sizes = inputs.workers.devices, []
    size, pictures = devices, inputs.training.num_examples
    # The plan has the batch size of the preset, which is not too large for few pictures.
    most = min(_MOST, pictures, max(plan[0].batch_size, pictures // _FEWEST_STEPS))
    while 2 * size <= most:
        size *= 2
    for stage in plan:  # sizes of pictures never fall
        while size > devices and not _fits(model, inputs, stage.index, size, machine):
            size //= 2
        sizes.append(size)
    say(f"batch sizes: {', '.join(map(str, sizes))}, the largest that fit (batch_size auto)")
    return _with_sizes(inputs, sizes)


def fit_in_memory(
    fit: Callable[[Inputs, Snapshot | None], History],
    model: keras.Model,
    inputs: Inputs,
    settings: RunSettings,
    folder: Path,
    resumed: Snapshot | None,
    budget: TimeBudget | None,
    say: Callable[[str], Any],
) -> tuple[History, Inputs, RunSettings]:
    """Train; a stage that runs out of memory starts again with half of its batch.

    Args:
        fit: trains with inputs from a snapshot on, or from the beginning, and returns the history.
        model: the network, compiled.
        inputs: of the training.
        settings: of the run.
        folder: of the snapshots.
        resumed: the snapshot to resume from, or None.
        budget: of its time, or None.
        say: called with a line about what is halved.

    Returns:
        The history, and inputs and settings with the batch sizes that it ended with.
    """
    while True:
        try:
            return fit(inputs, resumed), inputs, settings
        except Exception as error:
            if inputs.workers.count > 1 or not is_out_of_memory(error):
                raise
        # Out here the error, which holds what the step computed, is gone.
        latest = latest_snapshot(folder, say)
        assert latest is not None  # `fit` begins with one
        stage = inputs.plan.at(min(latest.epochs, inputs.plan.epochs - 1))
        inputs = halve_batches(inputs, stage.index)
        say(
            f"Stage {stage.index + 1} ran out of memory with batches of {stage.batch_size}. It "
            f"starts again with {inputs.plan[stage.index].batch_size}."
        )
        resumed = go_back(folder, stage.start_epoch, say)
        settings = replace(settings, stages=tuple(inputs.plan))
        run_folder.write_settings(folder.parent, settings)
        if budget is not None:
            budget.follow(inputs)
        compile_to_train(model, inputs)


def halve_batches(inputs: Inputs, index: int) -> Inputs:
    """Return inputs in which a stage has half of its batch, and no later one a larger batch.

    Raises:
        ValueError: the batch cannot be halved.
    """
    size = inputs.plan[index].batch_size
    half, rest = divmod(size, 2)
    if rest or half % inputs.workers.devices:
        raise ValueError(
            f"There is not enough memory for a train step with {counted(size, 'picture')} of "
            f"{inputs.plan[index].image_size} pixels, and the batch cannot be halved. Use smaller "
            "pictures (--image-size, image_size=) or another batch size (--batch-size, "
            "batch_size=)."
        )
    sizes = [stage.batch_size for stage in inputs.plan]
    return _with_sizes(inputs, [*sizes[:index], *(min(one, half) for one in sizes[index:])])


def _with_sizes(inputs: Inputs, sizes: list[int]) -> Inputs:
    stages = zip(inputs.plan, sizes, strict=True)
    return replace(
        inputs, plan=StagePlan(replace(stage, batch_size=size) for stage, size in stages)
    )


def _fits(model: keras.Model, inputs: Inputs, index: int, size: int, machine: Machine) -> bool:
    stage = inputs.plan[index]
    if not machine.has_accelerator:
        most = most_pictures(model, stage.image_size, machine)
        return most is None or size <= most
    sizes = [size] * len(inputs.plan)
    try:
        _try_step(model, _with_sizes(inputs, sizes), stage.image_size, size)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return False
    finally:
        gc.collect()
    return True


def _try_step(model: keras.Model, inputs: Inputs, image_size: int, size: int) -> None:
    """Do a train step with a copy of a network."""
    copy = keras.models.clone_model(model)
    compile_to_train(copy, inputs)
    pictures = keras.ops.zeros((size, image_size, image_size, 3))
    copy.train_on_batch(pictures, keras.ops.zeros((size, copy.output_shape[-1])))
