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
from typing import TYPE_CHECKING, Any

from keras_effnetv2._common.machine import is_out_of_memory
from keras_effnetv2._common.progress import progress_line, working
from keras_effnetv2._common.text import counted, first_line
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.run_settings import RecordedPictures, changes
from keras_effnetv2.search import storage as store
from keras_effnetv2.search.objective import Objective
from keras_effnetv2.search.record import StudyRecord
from keras_effnetv2.search.sampling import Sampling
from keras_effnetv2.search.space import SearchSpace
from keras_effnetv2.search.trial_training import TrialFailed, TrialRunner
from keras_effnetv2.training.inputs import Inputs, load_inputs
from keras_effnetv2.training.preflight import check_arguments

if TYPE_CHECKING:
    from optuna.study import Study
    from optuna.trial import FrozenTrial, Trial

_LOGGER = logging.getLogger(__name__)

_MAX_REASON = 200  # characters
_SCORED = ["maximize"]
_PARETO = ["maximize", "minimize", "minimize"]  # accuracy, step time, parameters


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
    check_arguments(space.backbone, recipe, {})
    if recipe.batch_size == "auto":
        raise ValueError(
            "The networks of a search train with the same batches. Give their size as a number "
            '(--batch-size, batch_size=). Received: "auto"'
        )
    if recipe.small_pictures is True:
        raise ValueError(
            "A search takes the strides of its backbone. Give one that is made for small pictures "
            "(`info VARIANT --for-pictures 32 --json`, ModelConfig.for_small_pictures) and leave "
            "out --small-pictures (small_pictures=)."
        )
    opened = store.open_storage(storage, heartbeat_seconds=heartbeat_seconds)
    data = data if isinstance(data, TrainingData) else TrainingData(data, cache="memory")
    inputs = load_inputs(space.backbone, data, recipe, say=echo)
    if inputs.training.multi_label:
        raise ValueError(
            "A search compares networks by their accuracy, for which every picture needs one "
            f"class, but {inputs.training.spec!r} has pictures of several. --no-multi-label "
            "(TrainingData(..., multi_label=False)) takes each label as one class."
        )
    inputs = inputs.prepared(echo)
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
        with working("building the backbone"):
            runner, epochs = TrialRunner(space.backbone, inputs), inputs.plan.epochs
        created.optimize(
            _Worker(space, objective, runner, epochs, sampling.is_pareto, echo).try_network,
            catch=(TrialFailed,),
            callbacks=[lambda study, trial: study.stop() if _finished(study) >= trials else None],
        )
    return store.as_record(created, storage)


@dataclass(frozen=True)
class _Worker:
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
            show(f"trial {trial.number}: {epoch} of {counted(self.epochs, 'epoch')} done")
            _keep(trial, {"epochs": epoch})
            if self.is_pareto:
                return
            trial.report(score(accuracy), epoch)
            if epoch < self.epochs and trial.should_prune():
                self.echo(f"trial {trial.number}: stopped early, after {counted(epoch, 'epoch')}")
                raise store.require_optuna().TrialPruned

        try:
            with progress_line() as show:
                show(f"trial {trial.number}: building the network")
                model = self.runner.build(config)
                show(f"trial {trial.number}: timing its step")
                found |= self.runner.cost(model)
                _keep(trial, found)  # also of a trial that is pruned or lost
                show(f"trial {trial.number}: training")
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
    if changed := changes({"space": space.to_dict(), **begun}, settings):
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
