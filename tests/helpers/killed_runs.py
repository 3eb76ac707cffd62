"""Trainings in processes that are killed: `python -m helpers.killed_runs FOLDER KILLS SEED`.

Starting TensorFlow costs seconds, so this process imports it, starts nothing of it, and forks: a
child trains, and is killed (SIGKILL) at a random moment of the time that a whole training takes.
Most of that passes before the first step is done, so that a run is met at its beginning by its
first children, at its end by those that resume it. If there are kills left when a run is finished,
another is begun. Prints a line of JSON: what became of each child.

FOLDER has the pictures, in pictures/; it gets the runs, run-0 being the one that nobody killed.
Export and report, which take half of a run's time and whose writers replace whole files, are left
out.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from helpers.quick_runs import leave_out_results, leave_out_rewriting, small_network
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.training import fit

RECIPE = replace(
    TrainRecipe.preset("quickstart"),
    epochs=3,
    stages=2,
    batch_size=8,
    image_size=(32, 40),
    mixup_alpha=0.2,
    warmup_epochs=1.0,
    seed=5,
)


def train(pictures, output):
    settings = output / "recipe.json"
    if settings.exists() and json.loads(settings.read_text("utf-8"))["finished"]:
        return  # killed between that and its end
    fit.train(
        small_network(2, dropout=0.3, eager=False),
        pictures,
        RECIPE,
        output,
        validation_fraction=0.25,
        scan=False,  # reads only
        resume=True,
        snapshot_minutes=0,
        verbose=0,
    )


def in_child(pictures, output, limit=None):
    """Trains in a child; kills it after `limit` seconds. True if it came to its end."""
    child = os.fork()
    if not child:
        try:
            train(pictures, output)
            os._exit(0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    if limit is not None:
        end = time.monotonic() + limit
        while time.monotonic() < end:
            pid, status = os.waitpid(child, os.WNOHANG)
            if pid:
                break
            time.sleep(0.005)
        else:
            os.kill(child, signal.SIGKILL)
            pid, status = os.waitpid(child, 0)
    else:
        pid, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def main(folder, kills, seed):
    leave_out_results(pytest.MonkeyPatch())
    leave_out_rewriting()
    rng = random.Random(seed)
    pictures = folder / "pictures"
    started = time.monotonic()
    assert in_child(pictures, folder / "run-0")
    whole = time.monotonic() - started
    log, done, run = [], 0, 1
    while True:
        output = folder / f"run-{run}"
        limit = rng.uniform(0, whole) if done < kills else None
        is_through = in_child(pictures, output, limit)
        found = sorted(path.name for path in output.glob("**/*") if path.is_file())
        log.append([limit, is_through, found])
        done += not is_through
        if is_through:
            if done >= kills:
                break
            run += 1
    print(json.dumps({"whole": whole, "log": log, "runs": run}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
