"""Commands in processes that are killed: `python -m helpers.killed_commands FOLDER KILLS SEED`.

Starting TensorFlow costs seconds, so this process imports it, starts nothing of it, and forks: a
child runs a command, and is killed (SIGKILL): the first as soon as it begins to write, the others
at a random moment of the time that a whole one takes, each in another part of it. Prints a line of
JSON: for each command and kill whether it came too late, and what it left. Where the result is not
there, the command is called once more and not killed.
"""

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import keras
import tensorflow as tf  # noqa: F401  the children have it

from helpers.command_line import VARIANT, small_variant
from helpers.photos import write_colour_run, write_photos
from helpers.quick_runs import leave_out_rewriting
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.cli.main import main as command
from keras_effnetv2.models.build import build_model

# Of each: the words, the output in a folder of its own, and what of it is whole if it is there.
COMMANDS = {
    "pack": ("pack --data {photos} --shards 3 --output {output}", "packed", "packed"),
    "export": ("export {run} --output {output}", "exported", "exported/1"),
    "convert": (
        f"weights convert --variant {VARIANT} {{weights}} {{output}}",
        *("net.weights.h5", "net.weights.h5"),
    ),
}


def in_child(function, is_time=lambda: False):
    """Calls a function in a child; kills it once `is_time()`. True if it came to its end."""
    child = os.fork()
    if not child:
        try:
            os._exit(function() or 0)
        except BaseException as error:
            print(repr(error), file=sys.stderr, flush=True)
            os._exit(1)
    while not (ended := os.waitpid(child, os.WNOHANG))[0] and not is_time():
        time.sleep(0.002)
    if not ended[0]:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        return False
    assert os.waitstatus_to_exitcode(ended[1]) == 0
    return True


def prepare(folder):
    write_colour_run(folder / "run", write_photos(folder / "photos"))
    keras.utils.set_random_seed(0)
    model = build_model(ModelConfig.from_name(VARIANT), classes=3)
    model.save_weights(folder / "start.weights.h5")


def main(folder, kills, seed):
    random.seed(seed)
    leave_out_rewriting()
    in_child(lambda: prepare(folder))
    given = {"photos": folder / "photos", "run": folder / "run"}
    given["weights"] = folder / "start.weights.h5"
    log = {}
    for name, (words, output, result) in COMMANDS.items():

        def call(place, *is_time, words=words, output=output):
            place.mkdir(exist_ok=True)
            line = words.format(**given, output=place / output)
            return in_child(lambda: command(line.split()), *is_time)

        started = time.monotonic()
        assert call(folder / f"{name}-whole")
        whole = time.monotonic() - started
        log[name] = []
        for number in range(kills):
            place = folder / f"{name}-{number}"
            # In most of the first half nothing is written yet.
            share = 0.4 + 0.6 * (number + random.random()) / kills
            moment = time.monotonic() + share * whole

            def is_time(number=number, place=place, moment=moment):
                return time.monotonic() > moment if number else any(place.rglob(".writing-*"))

            is_through = call(place, is_time)
            log[name].append([is_through, sorted(path.name for path in place.rglob("*"))])
            if not (place / result).exists():
                assert call(place)
    print(json.dumps(log))


if __name__ == "__main__":
    with small_variant():
        main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
