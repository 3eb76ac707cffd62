"""A search: what a trial measures, what a study keeps, who may join it, what ends it."""

import functools
import json
import math
import os
import signal
import sqlite3
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import keras
import numpy as np
import optuna
import pytest
import tensorflow as tf
from helpers.quick_runs import two_blocks

from keras_effnetv2.cli.main import main
from keras_effnetv2.data.sources import load_source
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.models.build import build_model
from keras_effnetv2.models.graph import count_trainable
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.search import engine, storage, trial_training
from keras_effnetv2.search.engine import run_search
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.sampling import Sampling
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.storage import open_storage, read_study, without_password
from keras_effnetv2.search.trial_training import StepTimer, TrialFailed, TrialRunner
from keras_effnetv2.training.assemble import compile_to_train
from keras_effnetv2.training.inputs import load_inputs

RECIPE = replace(TrainRecipe.preset("search"), epochs=1, image_size=32, batch_size=16)
RANDOM = Sampling("random", seed=5)
LARGE = SearchSpace.from_backbone(two_blocks(), layer_offsets=(0, 1, 2, 3))
LINES = []


@pytest.fixture(autouse=True)
def quiet_optuna():
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    yield
    optuna.logging.set_verbosity(before)


@pytest.fixture
def space():
    """Eight networks: 2 convolutions x 2 expansions x 2 kernels, but only one in stage 1."""
    both = SearchSpace.from_backbone(two_blocks(), kernel=(3, 5), expand=(1, 4), layer_offsets=(0,))
    first = replace(both.stages[0], kernel=(3,), conv=("fused",), expand=(4,))
    return replace(both, stages=(first, both.stages[1]))


@pytest.fixture
def url(tmp_path):
    """A storage that is quick to make; those of which a database is the subject use `database`."""
    return f"journal:{tmp_path}/search.log"


@pytest.fixture
def database(tmp_path):
    return f"sqlite:///{tmp_path}/search.db"


@functools.cache
def some_digits(count):
    """So many digits to train on, and 16 to judge by."""
    training, validation = (load_source("digits", split) for split in ("train", "validation"))
    return TrainingData(training.subset(range(count)), validation.subset(range(16)), scan=False)


@pytest.fixture(scope="module")
def inputs():
    return load_inputs(two_blocks(), some_digits(32), RECIPE)


class QuickRunner:
    """In place of `TrialRunner`: no network is built, what it costs follows from its config."""

    def __init__(self, outcomes, baseline, inputs):
        self.outcomes = outcomes  # of the next trainings; 0.5 when there are no more
        self.epochs = inputs.plan.epochs

    def build(self, config):
        return config

    def cost(self, config):
        parameters = sum(1000 * one.repeats * one.expand_ratio for one in config.stages)
        return {"parameters": parameters, "step_time": 0.5, "step_seconds": 0.02}

    def train(self, config, watch):
        outcome = self.outcomes.pop(0) if self.outcomes else 0.5
        if isinstance(outcome, Exception):
            raise outcome
        for epoch in range(1, self.epochs + 1):
            watch(epoch, outcome)
        return outcome


class BusyRunner(QuickRunner):
    """Trains until the current folder has the file "go", and a second more."""

    def train(self, config, watch):
        wait_for(lambda: os.path.exists("go"))
        time.sleep(1)
        return super().train(config, watch)


@pytest.fixture
def outcomes(monkeypatch):
    outcomes: list[float | Exception] = []
    monkeypatch.setattr(engine, "TrialRunner", functools.partial(QuickRunner, outcomes))
    return outcomes


def search(space, url, trials, sampling=RANDOM, pictures=32, **options):
    options = {"recipe": RECIPE, "echo": LINES.append} | options
    data = some_digits(pictures)
    return run_search(space, data, trials=trials, storage=url, sampling=sampling, **options)


def test_the_score_is_the_papers():
    # Section 3.3: A * S**w * P**v with w = -0.07 and v = -0.05.
    score = Objective().score(0.8, 2.0, 7_000_000)
    assert score == pytest.approx(0.8 * 2.0**-0.07 * 7e6**-0.05, rel=1e-12)
    assert Objective(0, 0).score(0.8, 2.0, 7_000_000) == 0.8
    assert Objective(-1, 0).score(0.8, 2.0, 7) == pytest.approx(0.4)


def test_an_objective_rewards_nobody_for_being_slow():
    for exponents in ((0.07, -0.05), (-0.07, 0.05), (math.nan, 0), (True, 0)):
        with pytest.raises(ValueError, match="must be a number of at most 0"):
            Objective(*exponents)


@keras.saving.register_keras_serializable("tests")
class Slow(keras.layers.Layer):
    """Advances a clock by some seconds when it is run."""

    def __init__(self, clock, seconds, **options):
        super().__init__(**options)
        self.clock, self.seconds = clock, seconds

    def call(self, images):
        def advance():
            self.clock.now += self.seconds
            return np.float32(0)

        return images + tf.ensure_shape(tf.py_function(advance, [], tf.float32), [])


def slow_model(clock, seconds, inputs):
    image = keras.Input((32, 32, 3))
    slow = Slow(clock, seconds)(keras.layers.Dropout(0.5)(image))
    norm = keras.layers.BatchNormalization()(slow)
    pooled = keras.layers.GlobalAveragePooling2D()(norm)
    model = keras.Model(image, keras.layers.Dense(10, activation="softmax")(pooled))
    compile_to_train(model, inputs)
    return model


@pytest.mark.slow  # compiles the steps of two networks
def test_steps_are_timed_beside_those_of_the_baseline(inputs, monkeypatch):
    clock = SimpleNamespace(now=0.0)  # a list would be copied by Keras
    monkeypatch.setattr(trial_training, "perf_counter", lambda: clock.now)
    baseline, model = (slow_model(clock, seconds, inputs) for seconds in (4.0, 3.0))
    timer = StepTimer(baseline, inputs)
    model.fit(inputs.stage_dataset(inputs.plan[0], 0).take(1), shuffle=False, verbose=0)
    states = [[value.numpy().copy() for value in variables(one)] for one in (model, baseline)]
    assert timer.measure(model) == (3.0, 0.75)
    # 5 rounds of a step that does not count and 2 that do.
    assert clock.now == pytest.approx(3.0 + 5 * 3 * (3.0 + 4.0))  # the first 3 are of `fit` above
    for one, state in zip((model, baseline), states, strict=True):
        for now, before in zip(variables(one), state, strict=True):
            np.testing.assert_array_equal(now.numpy(), before)
    # Quick steps are timed for 2 seconds: 8 rounds of 2 * 0.14.
    for one, seconds in ((model, 0.06), (baseline, 0.08)):
        next(layer for layer in one.layers if isinstance(layer, Slow)).seconds = seconds
    clock.now = 0.0
    assert timer.measure(model)[1] == pytest.approx(0.75)
    assert clock.now == pytest.approx(8 * 3 * 0.14)


def variables(model):
    return [*model.variables, *model.optimizer.variables]


@pytest.fixture(scope="module")
def runner(inputs):
    recipe = replace(RECIPE, epochs=2, ema_decay=0.9, randaugment_magnitude=None)
    return TrialRunner(two_blocks(), replace(inputs, recipe=recipe, plan=recipe.resolve().plan))


@pytest.mark.slow  # a training
def test_a_training_goes_through_the_recipe_and_tells_every_epoch(runner):
    model, same = (runner.build(two_blocks()) for _ in range(2))
    for one, other in zip(model.weights, same.weights, strict=True):
        np.testing.assert_array_equal(one.numpy(), other.numpy())
    model.run_eagerly = True
    told = []
    accuracy = runner.train(model, lambda *seen: told.append(seen))
    assert [epoch for epoch, _ in told] == [1, 2]
    assert accuracy == told[1][1]
    assert model.optimizer.iterations == 2 * (32 // 16)
    model.layers[-1].bias.assign([math.nan] * 10)
    with pytest.raises(TrialFailed, match="the loss became nan in epoch 1"):
        runner.train(model, lambda *seen: pytest.fail("there is nothing to judge"))


def test_a_network_that_the_main_memory_cannot_hold_is_not_tried(runner):
    # The system would end the process.
    pictures = keras.Input((32, 32, 3))
    large = keras.Model(pictures, keras.layers.UpSampling2D(10_000)(pictures))
    with pytest.raises(MemoryError, match=r"not tried: needs about \d{5,}\.\d GB of memory"):
        runner.cost(large)


def test_a_search_goes_on_where_it_ended(space, url, outcomes):
    first = search(space, url, 2)
    assert search(space, url, 2) == first
    more = search(space, url, 12)
    assert more.trials[:2] == first.trials
    assert len(more.trials) == 12
    # There are 8 networks, so some came again: with the former result, without a training.
    found = {}
    for trial in more.trials:
        known = found.setdefault(trial.config, trial)
        for name in ("accuracy", "score", "epochs"):
            assert getattr(trial, name) == getattr(known, name)
    assert 1 < len(found) <= 8
    assert sum("(the network of trial" in line for line in LINES) >= 4


def test_with_a_seed_a_search_goes_on_with_other_networks(url, outcomes):
    draw = Sampling("random", seed=0)
    first = [trial.config for trial in search(LARGE, url, 4, draw).trials]
    more = [trial.config for trial in search(LARGE, url, 7, draw).trials]
    assert more[:4] == first
    assert len(set(more)) == 7
    again = [trial.config for trial in search(LARGE, url, 4, draw, study="again").trials]
    assert again == first


def test_hopeless_networks_are_given_up(url, outcomes):
    outcomes += [0.9] * 6 + [0.1, 0.95]
    accuracy_alone = Objective(0, 0)  # not how large the networks are that are drawn
    study = search(LARGE, url, 8, recipe=replace(RECIPE, epochs=6), objective=accuracy_alone)
    assert [trial.state for trial in study.trials] == [*["complete"] * 6, "pruned", "complete"]
    pruned = study.trials[6]
    assert pruned.epochs == 3  # the first third is left alone
    assert (pruned.accuracy, pruned.score, pruned.reason) == (None, None, None)
    assert pruned.step_time == 0.5


FAILURES = {
    "out of memory: OOM of 3 GiB": tf.errors.ResourceExhaustedError(None, None, "OOM of 3 GiB"),
    "out of memory: no room": MemoryError("no room"),
    "out of memory: MemoryError": MemoryError(),
    "out of memory: RESOURCE_EXHAUSTED: 3 GiB": RuntimeError("RESOURCE_EXHAUSTED: 3 GiB\nmore"),
    "the loss became nan": TrialFailed("the loss became nan"),
}


def test_failed_networks_do_not_end_the_search(url, outcomes):
    outcomes += [0.5, *FAILURES.values(), 0.5]
    study = search(LARGE, url, 7)
    states = [trial.state for trial in study.trials]
    assert states == ["complete", *["failed"] * 5, "complete"]
    assert [trial.reason for trial in study.trials] == [None, *FAILURES, None]
    assert {(trial.accuracy, trial.score) for trial in study.trials[1:-1]} == {(None, None)}


def test_an_error_of_the_program_ends_the_search(space, url, outcomes):
    outcomes.append(RuntimeError("a bug"))
    with pytest.raises(RuntimeError, match="a bug"):
        search(space, url, 3)
    (lost,) = read_study(url, "search").trials
    assert (lost.state, lost.reason) == ("failed", "interrupted, or its worker was lost")


def test_several_goals(space, url, outcomes):
    study = search(space, url, 6, Sampling("nsga2", startup_trials=3, seed=1))
    assert len(study.trials) == 6
    opened = optuna.load_study(study_name="search", storage=open_storage(url))
    for trial, record in zip(opened.trials, study.trials, strict=True):
        assert trial.values == [record.accuracy, record.step_time, record.parameters]
    with pytest.raises(ValueError, match="goals: was 'front', is 'score'"):
        search(space, url, 8)


def test_a_study_of_another_search(space, url, outcomes):
    search(space, url, 1)
    other = replace(space, se_ratio=0.5)
    for searched, change, message in (
        (space, {"recipe": replace(RECIPE, image_size=40)}, r"recipe.image_size: was 32, is 40"),
        (space, {"pictures": 40}, r"training.pictures: was 32, is 40"),
        (space, {"objective": Objective(-0.1)}, r"objective.step_time_exponent: was -0.07"),
        (other, {}, r"space.se_ratio: was 0.25, is 0.5"),
    ):
        with pytest.raises(ValueError, match=f"is another search.*{message}"):
            search(searched, url, 2, **change)
    assert len(search(other, url, 1, study="other").trials) == 1
    assert len(read_study(url, "search").trials) == 1  # nothing was lost or added


def test_a_study_that_is_not_ours(space, url):
    foreign = optuna.create_study(storage=open_storage(url), study_name="search")
    foreign.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    for act in (lambda: search(space, url, 2), lambda: read_study(url, "search")):
        with pytest.raises(ValueError, match="'search' was not made by keras-effnetv2"):
            act()


@pytest.mark.parametrize(
    "settings", ["{", "[" * 10**5, "[]", "{}", '{"space": 5}', '{"space": {"backbone": 1}}', 7]
)
def test_a_study_with_damaged_settings(url, settings):
    study = optuna.create_study(storage=open_storage(url), study_name="search")
    study.set_user_attr("keras_effnetv2", settings)
    with pytest.raises(ValueError, match=r"The study 'search' is damaged: .* Put a copy"):
        read_study(url, "search")


def test_a_study_with_a_damaged_trial(space, url, outcomes):
    search(space, url, 1)
    study = optuna.load_study(storage=open_storage(url), study_name="search")
    study.add_trial(
        optuna.trial.create_trial(
            params=study.trials[0].params,
            distributions=study.trials[0].distributions,
            user_attrs=study.trials[0].user_attrs | {"accuracy": "high"},
            value=1.0,
        )
    )
    with pytest.raises(ValueError, match="is damaged: `accuracy` of trial 1 is 'high'"):
        read_study(url, "search")


def test_a_sampling_that_cannot_be(space, url):
    for arguments, message in (
        ({"sampler": "grid"}, "must be one of 'random', 'tpe', 'nsga2'. Received: 'grid'"),
        ({"startup_trials": 0}, "`startup_trials` must be an integer of at least 1. Received: 0"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, or None. Received: -1"),
        ({"sampler": "tpe"}, r"10 trials would all be random.*sampler='random'"),
        ({"sampler": "nsga2"}, r"10 trials would all be random.*sampler='random'"),
    ):
        with pytest.raises(ValueError, match=message):
            search(space, url, 10, Sampling(**arguments))


def test_storages_that_are_not_there(tmp_path):
    with pytest.raises(ValueError, match=r"there is no folder .*missing"):
        open_storage(f"sqlite:///{tmp_path}/missing/search.db")
    with pytest.raises(ValueError, match=r"There is no storage .*search.db': .* does not exist"):
        read_study(f"sqlite:///{tmp_path}/search.db", "search")
    assert not list(tmp_path.iterdir())  # looking has not made one
    with pytest.raises(ValueError, match=r"must be a URL of SQLAlchemy .*Received: 'search.db'"):
        open_storage("search.db")
    with pytest.raises(ValueError, match="'nosql://host/x' cannot be opened"):
        open_storage("nosql://host/x")
    (tmp_path / "text.db").write_text("no database, but a text that is long enough to be read" * 9)
    with pytest.raises(ValueError, match=r"cannot be opened: .*not a database"):
        open_storage(f"sqlite:///{tmp_path}/text.db")
    optuna.create_study(storage=f"sqlite:///{tmp_path}/a.db", study_name="mine")
    with pytest.raises(ValueError, match=r"no study 'yours' in .*There are: mine"):
        read_study(f"sqlite:///{tmp_path}/a.db", "yours")


def test_what_a_storage_needs_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "psycopg", None)
    message = r"'postgresql://me:\*\*\*@host/db' needs a package .*psycopg.*pip install 'psycopg"
    with pytest.raises(ImportError, match=message):
        open_storage("postgresql://me:secret@host/db")
    with pytest.raises(ValueError, match=r"'grpc://127.0.0.1:1' cannot be opened: .*Connection"):
        open_storage("grpc://127.0.0.1:1")
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(
        ImportError, match=r'pip install "keras-effnetv2\[search\]" \(in a clone: "\.\[search\]"'
    ):
        storage.require_optuna()


@pytest.mark.slow  # three processes
def test_workers_that_begin_at_the_same_moment_make_one_database(tmp_path):
    url = f"sqlite:///{tmp_path}/search.db"
    script = f"""
import time
from keras_effnetv2.search.storage import open_storage
import optuna, sqlalchemy
time.sleep(max(0, {time.time() + 4} - time.time()))
open_storage({url!r}, heartbeat_seconds=1).get_all_studies()
"""
    workers = [
        subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for worker in workers:
        assert (worker.communicate()[1], worker.returncode) == ("", 0)


def test_a_journal_file_is_a_storage_and_a_backbone_need_not_be_in_the_space(
    space, tmp_path, outcomes
):
    url = f"journal:{tmp_path}/search.log"
    without = replace(space, stages=(replace(space.stages[0], expand=(6,)), space.stages[1]))
    assert len(search(without, url, 2).trials) == 2
    assert len(search(without, url, 4).trials) == 4
    found = read_study(url, "search").trials
    assert [trial.config.stages[0].expand_ratio for trial in found] == [6] * 4


def test_passwords_are_not_shown():
    for url, shown in (
        ("postgresql://me:secret@host:5432/db", "postgresql://me:***@host:5432/db"),
        ("sqlite:///search.db", "sqlite:///search.db"),
        ("redis://:se:cr@et@host", "redis://:***@host"),
        ("journal:/a/b:c@d", "journal:/a/b:c@d"),
        ("postgresql:/me:secret@host", "postgresql:/me:***@host"),
        ("me:secret@host", "me:***@host"),
        ("mysql://host/db?user=me&password=secret&x=1", "mysql://host/db?user=me&password=***&x=1"),
    ):
        assert without_password(url) == shown


@pytest.mark.parametrize(
    "url",
    ["postgresql://me:se@cret:w@host/db", "grpc://me:cret@host", "postgres:/me:cret@host"],
)
def test_no_part_of_a_password_is_in_an_error(url):
    with pytest.raises(ValueError, match=r"me:\*\*\*@host.* cannot be opened") as error:
        open_storage(url)
    assert "cret" not in str(error.value)
    assert "w@host" not in str(error.value)


# --- workers that are lost ------------------------------------------------------------------------


def test_the_network_of_a_lost_worker_is_tried_once_more(database, tmp_path, outcomes):
    search(LARGE, database, 1)
    opened = open_storage(database, heartbeat_seconds=1)
    with pytest.warns(UserWarning, match="supposed to be used with Study.optimize"):
        lost = optuna.load_study(study_name="search", storage=opened).ask()
    config = LARGE.sample(lost.suggest_categorical)
    study = opened.get_study_id_from_name("search")
    opened.record_heartbeat(opened.get_trial_id_from_study_id_trial_number(study, lost.number))
    assert read_study(database, "search").trials[1].state == "running"
    with sqlite3.connect(tmp_path / "search.db") as tables:  # as if an hour had passed
        tables.execute("UPDATE trial_heartbeats SET heartbeat = datetime('now', '-1 hour')")
    study = search(LARGE, database, 3, heartbeat_seconds=1)
    assert [trial.state for trial in study.trials].count("complete") == 3
    assert study.trials[1].reason == "interrupted, or its worker was lost"
    assert [trial.number for trial in study.trials if trial.config == config] == [1, 2]


def start_worker(folder, url, trials):
    script = f"""
import sys
sys.path.insert(0, {os.path.dirname(__file__)!r})
from test_search_engine import LARGE, BusyRunner, Sampling, engine, search
engine.TrialRunner = lambda baseline, inputs: BusyRunner([], baseline, inputs)
search(LARGE, {url!r}, {trials}, Sampling("random"), heartbeat_seconds=1)
"""
    environment = os.environ | {"TF_CPP_MIN_LOG_LEVEL": "3"}
    return subprocess.Popen([sys.executable, "-c", script], env=environment, cwd=folder)


def wait_for(what, seconds=240):
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end
        time.sleep(0.2)
    return found


@pytest.mark.slow  # two processes that start TensorFlow
def test_one_of_two_workers_is_killed(database, tmp_path):
    workers = [start_worker(tmp_path, database, 6) for _ in range(2)]
    try:
        wait_for(lambda: os.path.exists(tmp_path / "search.db"))
        wait_for(lambda: len(running(database)) == 2)
        killed = workers[0]
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        (tmp_path / "go").touch()
        assert workers[1].wait(240) == 0
    finally:
        for worker in workers:
            worker.kill()
    study = read_study(database, "search")
    states = [trial.state for trial in study.trials]
    assert states.count("complete") == 6
    # What the killed worker ran is lost, and its network was tried once more.
    lost = [trial for trial in study.trials if trial.state == "failed"]
    assert len(lost) == 1
    assert lost[0].reason == "interrupted, or its worker was lost"
    assert lost[0].config in [
        trial.config for trial in study.trials[lost[0].number + 1 :] if trial.state == "complete"
    ]
    assert "running" not in states


def running(database):
    try:
        trials = read_study(database, "search").trials
    except ValueError:  # is being begun
        return []
    return [trial for trial in trials if trial.state == "running"]


# --- the command --------------------------------------------------------------------------------


@pytest.mark.slow  # trains and reports two trials
def test_the_command_from_pictures_to_a_study(space, tmp_path, database, capsys, monkeypatch):
    """The one search here that builds, times and trains a network: the baseline."""
    monkeypatch.setattr(trial_training, "ENOUGH_SECONDS", 0.0)  # five rounds suffice here
    monkeypatch.chdir(tmp_path)
    (tmp_path / "space.json").write_text(json.dumps(space.to_dict()))
    words = f"search --data digits --space space.json --storage {database} --max-train-examples 32"
    words += " --epochs 1 --image-size 32 --batch-size 16 --sampler random --no-scan"
    assert main([*words.split(), "--trials", "1"]) == 0
    assert "trial 0: score 0." in capsys.readouterr().out
    study = read_study(database, "search")
    (trial,) = study.trials
    assert (trial.state, trial.epochs) == ("complete", 1)
    assert trial.config.stages == space.backbone.stages  # the baseline comes first
    assert trial.score == pytest.approx(
        Objective().score(trial.accuracy, trial.step_time, trial.parameters)
    )
    assert 0 <= trial.accuracy <= 1
    assert trial.step_time == pytest.approx(1, rel=0.9)  # timed beside itself
    assert trial.parameters == count_trainable(build_model(trial.config, classes=10))
    assert study.space == space
    assert study.settings["recipe"]["image_size"] == 32
    assert study.settings["training"]["pictures"] == 32
    assert main(["search", "show", "search", "--storage", database]) == 0
    assert "wrote search-search/report.html" in capsys.readouterr().out.replace(os.sep, "/")
    best = json.loads((tmp_path / "search-search" / "best.json").read_text())
    assert best == json.loads(trial.config.to_json())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("", "A search needs --data and --trials."),
        ("--data digits", "A search needs --trials."),
        ("--data digits --trials 20 --space missing.json", "missing.json cannot be read"),
        ("--data digits --trials 20 --backbone b9", "Unknown variant, and no such file: 'b9'"),
        ("--data digits --trials 0", "--trials must be an integer of at least 1"),
        ("--data digits --trials 20 --step-time-exponent 1", "must be a number of at most 0"),
        ("--data digits --trials 20 --storage sqlite:////no/where/x.db", "no folder /no/where"),
        ("show nothing", "There is no storage 'sqlite:///search.db'"),
    ],
)
def test_what_the_command_refuses(words, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(["search", *words.split()]) == 1
    assert message in capsys.readouterr().err
