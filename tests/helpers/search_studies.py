"""Studies of a search with made-up results, for the tests of what is shown of one."""

import math
from dataclasses import replace

import numpy as np

from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.record import StudyRecord, TrialRecord
from keras_effnetv2.search.space import SearchSpace

SPACE = SearchSpace.from_backbone("efficientnetv2-b0")
BASELINE = ModelConfig.from_name("efficientnetv2-b0")


def network(seed):
    """A network of the space; another seed is another one."""
    random = np.random.default_rng(seed)
    return SPACE.sample(lambda name, choices: choices[random.integers(len(choices))])


def complete(number, accuracy, step_time, parameters, config=None, score=None):
    return TrialRecord(
        number=number,
        state="complete",
        config=network(number) if config is None else config,
        accuracy=accuracy,
        step_time=step_time,
        step_seconds=0.05 * step_time,
        parameters=parameters,
        score=Objective().score(accuracy, step_time, parameters) if score is None else score,
        epochs=4,
        reason=None,
    )


def incomplete(number, state, reason=None):
    """A trial that was pruned or is running (its step was timed), or that failed."""
    known = state != "failed"
    return TrialRecord(
        number=number,
        state=state,
        config=network(number),
        accuracy=None,
        step_time=1.25 if known else None,
        step_seconds=0.0625 if known else None,
        parameters=5_000_000 if known else None,
        score=None,
        epochs=1 if known else 0,
        reason=reason,
    )


def study_of(*trials, **fields):
    study = StudyRecord(
        name="flowers",
        storage="sqlite:///search.db",
        space=SPACE,
        settings={
            "objective": {"step_time_exponent": -0.07, "parameters_exponent": -0.05},
            "goals": "score",
            "training": {"spec": "photos/", "split": "train", "pictures": 4000},
            "recipe": {"epochs": 4, "image_size": [64, 96], "autoaugment": False},
        },
        trials=trials,
    )
    return replace(study, **fields)


def large_study(trials, seed=0):
    """A study as a search leaves one: the baseline first, then all kinds of trials."""
    random = np.random.default_rng(seed)
    found = [complete(0, 0.803, 1.0, 5_858_704, BASELINE)]
    for number in range(1, trials):
        kind = random.random()
        if kind < 0.15:
            found.append(incomplete(number, "pruned"))
        elif kind < 0.18:
            found.append(incomplete(number, "failed", "out of memory: 2.1 GiB"))
        else:
            size = random.uniform(0.3, 2.2)
            accuracy = 0.86 - 0.12 * math.exp(-2 * size) - abs(random.normal(0, 0.04))
            step_time = size * random.uniform(0.6, 1.5)
            found.append(complete(number, accuracy, step_time, int(5e6 * size)))
    return study_of(*found, incomplete(trials, "running"))
