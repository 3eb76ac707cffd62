"""`run_search`: train networks of a space for a short time; Optuna chooses the next ones.

Workers, on one machine or many, share a study in an Optuna storage. Each takes the next network,
trains it and writes the result, until the study has the requested number of trials.
"""

import contextlib
import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from keras_effnetv2._common.checks import check_choice, check_integer
from keras_effnetv2._common.machine import is_out_of_memory
from keras_effnetv2._common.text import counted, first_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.run_settings import RecordedPictures, changes
from keras_effnetv2.search import storage as store
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.record import StudyRecord
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.trial_training import TrialFailed, TrialRunner
from keras_effnetv2.training.inputs import Inputs, load_inputs
from keras_effnetv2.training.preflight import check_arguments

if TYPE_CHECKING:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

SamplerName = Literal["random", "tpe", "nsga2"]

_LOGGER = logging.getLogger(__name__)

DEFAULT_STARTUP_TRIALS = 10
_MEDIAN_OF = 5  # complete trials, before any is given up for being below their median
_MAX_REASON = 200  # characters
_SCORED = ["maximize"]
_PARETO = ["maximize", "minimize", "minimize"]  # accuracy, step time, parameters


@dataclass(frozen=True)
class Sampling:
    """How networks are chosen.

    Args:
        sampler: "random"; "tpe", tree-structured Parzen estimators, for the best score; or "nsga2",
            a genetic algorithm for the front of accuracy, step time and parameters.
        startup_trials: number of random trials at the start; for "nsga2" the size of its
            population.
        prune: stop a network whose score after an epoch is below the median of the others at this
            epoch; not with "nsga2", which has no score.
        seed: seed of the choice, at least 0. A new search of one worker with the same seed starts
            with the same networks. Several workers need different seeds, or None.

    Raises:
        ValueError: the sampler is unknown, `startup_trials` is below 1, or the seed is below 0.
    """

    sampler: SamplerName = "tpe"
    startup_trials: int = DEFAULT_STARTUP_TRIALS
    prune: bool = True
    seed: int | None = None

    def __post_init__(self) -> None:
        check_choice("sampler", self.sampler, get_args(SamplerName))
        check_integer("startup_trials", self.startup_trials, minimum=1)
        check_integer("seed", self.seed, minimum=0, or_none=True)

    @property
    def is_pareto(self) -> bool:
        """Return whether the search has several goals at once."""
        return self.sampler == "nsga2"

    def check_trials(self, trials: int) -> None:
        """Raise ValueError if there are so few trials that this sampler would never choose."""
        check_integer("trials", trials, minimum=1)
        if self.sampler != "random" and trials <= self.startup_trials:
            raise ValueError(
                f"{trials} trials would all be random, because {self.sampler!r} draws its first "
                f"{self.startup_trials} at random. Ask for more trials (--trials, trials=), fewer "
                "random ones (--startup-trials, startup_trials=) or another sampler (--sampler "
                "random, sampler='random')."
            )

    def make_sampler(self, tried: int) -> "BaseSampler":
        """Return Optuna's sampler.

        A continued search, with some trials `tried`, draws different networks than a new one.
        """
        samplers = store.require_optuna().samplers
        seed = None if self.seed is None else (self.seed + tried) % 2**32
        if self.sampler == "random":
            return samplers.RandomSampler(seed=seed)
        if self.sampler == "tpe":
            return samplers.TPESampler(n_startup_trials=self.startup_trials, seed=seed)
        return samplers.NSGAIISampler(population_size=self.startup_trials, seed=seed)

    def make_pruner(self, epochs: int) -> "BasePruner":
        """Return Optuna's pruner, which does nothing in the first third of the epochs."""
        pruners = store.require_optuna().pruners
        if not self.prune or self.is_pareto:
            return pruners.NopPruner()
        return pruners.MedianPruner(n_startup_trials=_MEDIAN_OF, n_warmup_steps=epochs // 3 + 1)


def run_search(
    space: SearchSpace,
    data: TrainingData | ImageSource | str | os.PathLike[str],
    *,
    trials: int,
    storage: str = store.DEFAULT_STORAGE,
    study: str = "search",
    recipe: TrainRecipe | None = None,
    objective: Objective | None = None,
    sampling: Sampling | None = None,
    heartbeat_seconds: int = 60,
    echo: Callable[[str], Any] = _LOGGER.info,
) -> StudyRecord:
    """Search for networks, as one worker of a study, which is created if it does not exist.

    The backbone of the space is the baseline: its step is timed next to that of every other
    network, and it is the first trial if it is in the space. Networks are judged on the validation
    pictures; keep the test pictures for the result.

    A worker that is killed loses at most its current trial. After three missing heartbeats another
    worker, or a repeated call, counts the trial as failed and tries its network once more.
    (Storages other than databases have no heartbeat: there such a trial stays "running" and does
    not count.)

    Args:
        space: the networks.
        data: the pictures: a `TrainingData`, or its `source`, which is then kept in memory.
        trials: total number of complete, pruned and failed trials; k workers may run up to k - 1
            more. A network that was tried before gets its earlier result.
        storage: see `storage.open_storage`.
        study: name of the study in the storage.
        recipe: default `TrainRecipe.preset("search")`.
        objective: default that of the paper.
        sampling: how networks are chosen. Workers may differ, but "nsga2" needs its own study.
        heartbeat_seconds: time between two heartbeats.
        echo: called with each line of the progress; by default they are logged.

    Returns:
        The study, including the results of other workers so far.

    Raises:
        BadPicturesError: pictures cannot be read.
        ImportError: Optuna or the package for the database is not installed.
        ValueError: an argument or the data does not fit, the storage is not reachable, or the
            study belongs to another search; the message lists the differences.
    """
    recipe = recipe or TrainRecipe.preset("search")
    objective = objective or Objective()
    sampling = sampling or Sampling()
    sampling.check_trials(trials)
    check_arguments(space.backbone, recipe)
    opened = store.open_storage(storage, heartbeat_seconds=heartbeat_seconds)
    data = data if isinstance(data, TrainingData) else TrainingData(data, cache="memory")
    inputs = load_inputs(space.backbone, data, recipe, say=echo).prepared(echo)
    created = store.require_optuna().create_study(
        storage=opened,
        study_name=study,
        pruner=sampling.make_pruner(inputs.plan.epochs),
        directions=_PARETO if sampling.is_pareto else _SCORED,
        load_if_exists=True,
    )
    _agree(created, _settings(space, objective, inputs, sampling))
    created.sampler = sampling.make_sampler(len(created.get_trials(deepcopy=False)))
    if _finished(created) < trials:
        runner, epochs = TrialRunner(space.backbone, inputs), inputs.plan.epochs
        created.optimize(
            _Worker(space, objective, runner, epochs, sampling.is_pareto, echo).try_network,
            catch=(TrialFailed,),
            callbacks=[lambda study, trial: study.stop() if _finished(study) >= trials else None],
        )
    return store.as_record(created, storage)


@dataclass(frozen=True)
class _Worker:
    """Tries one network after another."""

    space: SearchSpace
    objective: Objective
    runner: TrialRunner
    epochs: int
    is_pareto: bool
    echo: Callable[[str], Any]

    def try_network(self, trial: "Trial") -> float | tuple[float, float, float]:
        """Optuna's objective: the score to maximise, or the three goals of `_PARETO`."""
        started = time.perf_counter()
        config = self.space.sample(trial.suggest_categorical)
        earlier = _same_network(trial)
        if earlier is None:
            found = self._judge(config, trial)
            how = f"{time.perf_counter() - started:.0f} s"
        else:
            found = {name: earlier.user_attrs[name] for name in store.RESULTS}
            how = f"the network of trial {earlier.number}"
        _keep(trial, found)
        self.echo(
            f"trial {trial.number}: score {found['score']:.4f}, accuracy {found['accuracy']:.2%}, "
            f"step time {found['step_time']:.2f} x baseline, {found['parameters'] / 1e6:.2f} "
            f"million parameters ({how})"
        )
        if self.is_pareto:
            return found["accuracy"], found["step_time"], found["parameters"]
        return found["score"]

    def _judge(self, config: ModelConfig, trial: "Trial") -> dict[str, Any]:
        """Time and train a network; an error of this network fails only its trial."""
        found: dict[str, Any] = {}

        def score(accuracy: float) -> float:
            return self.objective.score(accuracy, found["step_time"], found["parameters"])

        def watch(epoch: int, accuracy: float) -> None:
            _keep(trial, {"epochs": epoch})
            if self.is_pareto:
                return
            trial.report(score(accuracy), epoch)
            if epoch < self.epochs and trial.should_prune():
                self.echo(f"trial {trial.number}: stopped early, after {counted(epoch, 'epoch')}")
                raise store.require_optuna().TrialPruned

        try:
            model = self.runner.build(config)
            found |= self.runner.cost(model)
            _keep(trial, found)  # also of a trial that is pruned or lost
            accuracy = self.runner.train(model, watch)
        except Exception as error:
            if isinstance(error, TrialFailed):
                reason = str(error)
            elif is_out_of_memory(error):
                reason = f"out of memory: {first_line(error)[:_MAX_REASON]}"
            else:
                raise
            _keep(trial, {"reason": reason})
            self.echo(f"trial {trial.number} failed: {reason}")
            raise TrialFailed(reason) from error
        return found | {"accuracy": accuracy, "score": score(accuracy)}


def _keep(trial: "Trial", values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        trial.set_user_attr(name, value)


def _same_network(trial: "Trial") -> "FrozenTrial | None":
    """A complete trial of the same network, which would be trained to the same accuracy."""
    state = store.require_optuna().trial.TrialState.COMPLETE
    others = trial.study.get_trials(deepcopy=False, states=(state,))
    return next((other for other in others if other.params == trial.params), None)


def _settings(
    space: SearchSpace, objective: Objective, inputs: Inputs, sampling: Sampling
) -> dict[str, Any]:
    """The settings that must agree for two searches to be the same, as plain data."""
    return {
        "space": space.to_dict(),
        "objective": asdict(objective),
        "goals": "front" if sampling.is_pareto else "score",
        "training": asdict(RecordedPictures.of(inputs.training)),
        "validation": asdict(RecordedPictures.of(inputs.validation)),
        "recipe": inputs.recipe.to_dict(),
    }


def _agree(study: "Study", settings: dict[str, Any]) -> None:
    """Start a study with its baseline, or refuse one of another search."""
    if store.SETTINGS not in study.user_attrs and not study.trials:
        study.set_user_attr(store.SETTINGS, json.dumps(settings))
        space = SearchSpace.from_dict(settings["space"])
        with contextlib.suppress(ValueError):  # the backbone need not be in the space
            study.enqueue_trial(space.parameters_of(space.backbone), skip_if_exists=True)
        return
    space, begun = store.settings_of(study)
    begun["space"] = space.to_dict()  # has all fields, also those that came later
    changed = changes({key: begun.get(key) for key in settings}, settings)
    if changed:
        raise ValueError(
            f"The study {study.study_name!r} is another search. Choose another name (--study, "
            f"study=), or repeat its settings. Changed: {'; '.join(changed)}"
        )


def _finished(study: "Study") -> int:
    """Number of trials that count, without those whose worker was lost or interrupted."""
    failed = store.require_optuna().trial.TrialState.FAIL
    return sum(
        trial.state.is_finished() and (trial.state != failed or "reason" in trial.user_attrs)
        for trial in study.get_trials(deepcopy=False)
    )
