"""`train`: from pictures to a run folder with a trained, judged and exported model."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2._common.progress import never_silent, working
from keras_effnetv2._common.text import counted, say
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.data.class_balance import ClassWeights
from keras_effnetv2.data.picture_record import PictureRecord
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.training_data import TrainingData
from keras_effnetv2.data.unreadable import BadPicture, UnreadablePictures
from keras_effnetv2.evaluation.scores import Evaluation
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.report.run_report import describe_plan, describe_result
from keras_effnetv2.runs import run_folder
from keras_effnetv2.runs.history import HistoryFile
from keras_effnetv2.runs.run_settings import (
    Limits,
    RecordedPictures,
    RunSettings,
    check_same_run,
)
from keras_effnetv2.training.assemble import build_to_train, compile_to_train, fit_stages
from keras_effnetv2.training.batch_sizes import fit_in_memory, settle_batch_sizes
from keras_effnetv2.training.best_epoch import BestEpoch, describe_patience
from keras_effnetv2.training.board import board_callbacks
from keras_effnetv2.training.epoch_lines import EpochLines
from keras_effnetv2.training.findings import look_for_findings
from keras_effnetv2.training.footprint import this_machine
from keras_effnetv2.training.inputs import Inputs, load_inputs
from keras_effnetv2.training.interruption import StopSignals
from keras_effnetv2.training.preflight import (
    architecture_to_record,
    check_arguments,
    check_model,
    config_of,
    recipe_changes,
    settled_limits,
)
from keras_effnetv2.training.probe import fit_classifier, fit_probe
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.results import evaluate_model, write_results
from keras_effnetv2.training.snapshots import Saving, Snapshot, Snapshots, latest_snapshot
from keras_effnetv2.training.start import Start, settle_start
from keras_effnetv2.training.time_budget import TimeBudget, fit_to_time
from keras_effnetv2.training.time_left import TimeLeft
from keras_effnetv2.training.transfer import freeze
from keras_effnetv2.training.workers import (
    current_workers,
    explained,
    local_copy,
    undistributed,
    wait_for_all,
)

# On disk: the model and its export, four bytes for a parameter each, and what has no parameters.
_RESULT_BYTES = 4 * 2
_OTHER_FILES_BYTES = 50_000_000


@dataclass(frozen=True)
class TrainResult:
    """The result of `train`.

    Attributes:
        model: the trained model (with averaged weights, if the recipe averages). Its `fit` needs
            another `compile` first.
        evaluation: its scores on the validation pictures.
        history: column -> one value per epoch, as in `history.csv`.
        output: the run folder.
    """

    model: keras.Model
    evaluation: Evaluation
    history: dict[str, list[float]] = field(repr=False)
    output: Path


@dataclass(frozen=True)
class _RunContext:
    """Where a run writes its files and lines, and what it calls and notes meanwhile."""

    folder: Path
    saving: Saving
    callbacks: Sequence[keras.callbacks.Callback]
    tensorboard: bool
    unreadable: UnreadablePictures  # notes pictures that cannot be read
    say: Callable[[str], Any]
    began: float = field(default_factory=time.monotonic)


def train(
    model_or_variant: keras.Model | ModelConfig | str,
    source: ImageSource | str | os.PathLike[str],
    recipe: TrainRecipe | None = None,
    output: str | os.PathLike[str] = "runs/latest",
    *,
    epochs: int | None = None,
    validation: ImageSource | None = None,
    validation_fraction: float | None = None,
    multi_label: bool | None = None,
    max_train_examples: int | None = None,
    weights: str | None = "auto",
    class_weights: ClassWeights = None,
    balanced: bool | None = None,
    skip_bad: bool = False,
    scan: bool | None = None,
    cache: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    keep_snapshots: int = 2,
    snapshot_minutes: float | None = 30.0,
    strategy: tf.distribute.Strategy | None = None,
    callbacks: Sequence[keras.callbacks.Callback] = (),
    patience: int | None = None,
    max_minutes: float | None = None,
    tensorboard: bool = False,
    verbose: int = 1,
    echo: Callable[[str], Any] = say,
    **fields: Any,
) -> TrainResult:
    """Train a classifier and write a run folder that can be evaluated, served and repeated.

    The folder holds `model.keras`, `saved_model/1/`, `labels.txt`, `recipe.json`, `history.csv`,
    `pictures.csv`, `confusion.csv` and `report.html`. Every file appears only when it is complete.

    If a run is interrupted in any way, `resume` continues from its latest snapshot (in `backup/`,
    after every epoch, and every `snapshot_minutes` within one). The final weights are those of an
    uninterrupted run, on a CPU bit for bit. SIGTERM and SIGINT (Ctrl-C) end the run with a
    snapshot after the current batch or validation; a second signal ends the process at once.

    Args:
        model_or_variant: "efficientnetv2-b0" and so on, a `ModelConfig`, or a Keras classifier
            that takes pixels 0..255 and ends with a softmax (sigmoid loss: a sigmoid).
        source: what `load_source` takes (its "train" and "validation" splits are used), or the
            training pictures as an `ImageSource`.
        recipe: default `TrainRecipe.preset("finetune")` for a network with trained weights, else
            "quickstart".
        output: the run folder; must not hold a run unless `resume` or `overwrite`.
        epochs: passes over the training pictures; None: what the recipe's `epochs` and `min_steps`
            ask for.
        validation: the validation pictures, if `source` is an `ImageSource`; None holds back a
            share of it.
        validation_fraction: share to hold back; see `load_source`. None: 0.2 of an `ImageSource`.
        multi_label: whether a picture may have several classes or none; see `load_source`. Then the
            loss is "sigmoid", and each class gets a threshold, which is stored with the run: above
            it the class is named. It has the highest F1 on the validation pictures.
        max_train_examples: train on a stratified part of that many pictures.
        weights: initial weights of a model that is built here, see `build_model`. "auto": the best
            published ones available for the variant, unless the recipe is one that trains from
            scratch; without any a line says so, and the network starts from random weights, as
            with None.
        class_weights: "balanced", so that all classes weigh the same in the loss, or {class name:
            weight}, 1 for classes without a name; see `make_dataset`. Validation has no weights.
            This and `balanced` are fields of the recipe, too; None leaves them as they are there.
        balanced: draw every class equally often.
        skip_bad: leave out pictures that cannot be read, even if they become unreadable during
            training (see `data.unreadable`); otherwise they are an error.
        scan: decode every picture before the training; None: unless there are more than 50,000.
        cache: where to keep the encoded pictures: "memory", or a folder on a faster disk; see
            `ImageSource.cached`.
        resume: continue the run in `output` from its latest undamaged snapshot, with the same
            arguments. If there is no run yet, start one.
        overwrite: replace the files of the run in `output`, after everything has been checked.
        keep_snapshots: number of snapshots to keep, at least 1, besides the one a stage began with.
            With two there is another one if the newest is damaged. Each has the size of four
            models, and of one more with `patience` or if `max_minutes` shortens the training.
        snapshot_minutes: time between snapshots within an epoch, 0 for every batch; None: only
            between epochs. Resuming within an epoch reads its earlier batches again.
        strategy: `tf.distribute.MirroredStrategy()` for the GPUs of this machine; a model that is
            given must be built in its scope. For JAX and for several machines see
            `training.workers`. `batch_size` is always the global one.
        callbacks: of Keras, called beside those of the training, in `fit`. At the end of an epoch
            the weights that were judged are in the model: with `recipe.ema_decay` the averaged
            ones (see `EMA`), as at the end of the training. The state of a callback is not in the
            snapshots: when a run is resumed, it starts afresh. With several processes each of them
            calls them. With `probe="only"` the model that they see is the classifier alone.
        patience: end the training if this many epochs of the last stage bring no improvement, and
            keep the weights of the best epoch, exactly those that were judged. It is the epoch with
            the highest validation accuracy, and of those with the lowest loss. Earlier stages do
            not count, because they are judged on smaller pictures; so no stage is skipped. None
            trains all epochs and keeps the last one. `resume` keeps this setting.
        max_minutes: limit of the whole call, including the classifier that is fitted first and the
            report. A few steps are timed, and a training that would take longer gets fewer epochs,
            or fewer pictures in each, so that no stage is skipped and the learning rate runs its
            whole course. If time gets short later, steps are left out in the same way. A classifier
            is fitted to fewer pictures, and is the result if a shortened training made it worse.
            What cannot be shortened, at least a step of each stage and the scores of all validation
            pictures, may take longer; a line then says what took how long. `resume` keeps this
            setting and counts the time that was used. With enough time nothing changes.
        tensorboard: write `output/tensorboard` for TensorBoard: loss, accuracy and learning rate of
            every epoch, and pictures of every stage, as they are trained on. Needs the extra
            `loggers`. Other loggers: their Keras callbacks, in `callbacks`.
        verbose: 0 silent, 1 progress bars (where stderr is no terminal: lines, at least every ten
            seconds at first), 2 one line for each epoch.
        echo: called with each line of the plan and the summary (silent with verbose=0).
        fields: other values for any fields of the recipe, such as image_size=128, batch_size=32.

    Returns:
        A `TrainResult`.

    Raises:
        BadPicturesError: pictures that cannot be read; the message lists them.
        BlockingIOError: another process trains in `output`.
        FileExistsError: `output` is not empty.
        OSError: `output` cannot be written, or its disk is full; `resume` continues from there.
        RuntimeError: the loss, a weight or a score is not finite; the message says when, and what
            was saved.
        TrainingInterrupted: SIGTERM or SIGINT (see `training.interruption`); a
            `KeyboardInterrupt`. The state is saved.
        ValueError: an argument, the data or the model does not fit, or all snapshots are damaged.
    """
    data = TrainingData(
        source,
        validation=validation,
        validation_fraction=validation_fraction,
        multi_label=multi_label,
        max_train_examples=max_train_examples,
        skip_bad=skip_bad,
        scan=scan,
        cache=cache,
    )
    changes = recipe_changes(train, fields, epochs, class_weights, balanced)
    check_arguments(model_or_variant, recipe, changes, weights, callbacks, tensorboard)
    limits = Limits(patience, max_minutes)
    folder = Path(output)
    workers = current_workers(strategy)
    verbose = verbose if workers.is_first else 0
    say = echo if verbose else (lambda line: None)
    saving = Saving(folder / run_folder.BACKUP, keep_snapshots, snapshot_minutes)
    unreadable = UnreadablePictures(skip_bad)
    context = _RunContext(folder, saving, callbacks, tensorboard, unreadable, say)
    place = {"resume": resume, "overwrite": overwrite, "is_writer": workers.is_first}
    holding = run_folder.hold_output(folder, **place, say=say)
    watch = never_silent("preparing the training", quiet=verbose != 1)
    with holding as earlier, watch, contextlib.ExitStack() as frozen:
        start = settle_start(model_or_variant, weights, recipe, earlier, say).with_recipe(changes)
        limits = settled_limits(limits, earlier, workers)
        inputs = load_inputs(
            model_or_variant, data, start.recipe, workers, say, is_pretrained=start.is_pretrained
        )
        network = inputs.network(model_or_variant)
        with contextlib.nullcontext() if strategy is None else strategy.scope():
            model = _network(network, start.weights, inputs)
            inputs = settle_batch_sizes(model, inputs, earlier, this_machine(), say)
        inputs = freeze(model, inputs, start.is_pretrained, earlier, frozen, say)
        inputs = inputs.prepared(say)  # after what is quick to check: this reads every picture
        settings, pictures = _settings(model, inputs, network, start, limits, earlier, folder)
        resumed = _begin(model, inputs, context, settings, pictures, earlier, keep=resume)
        return _run(model, inputs, context, settings, resumed, frozen)


# --- before the training ------------------------------------------------------------------------


def _network(
    model_or_variant: keras.Model | ModelConfig | str, weights: str | None, inputs: Inputs
) -> keras.Model:
    """Return the network to train, checked if it was given; seed all random generators."""
    keras.utils.set_random_seed(inputs.recipe.seed)
    if inputs.recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    if not isinstance(model_or_variant, keras.Model):
        return build_to_train(config_of(model_or_variant), inputs, weights)
    check_model(model_or_variant, inputs)
    return model_or_variant


def _settings(
    model: keras.Model,
    inputs: Inputs,
    model_or_variant: keras.Model | ModelConfig | str,
    start: Start,
    limits: Limits,
    earlier: RunSettings | None,
    folder: Path,
) -> tuple[RunSettings, PictureRecord]:
    """Return the settings and the pictures of a run; they must be those of the one to resume."""
    pictures = PictureRecord.of(inputs.training, inputs.validation, inputs.recipe.seed)
    settings = RunSettings(
        finished=False,
        model=model.name,
        architecture=architecture_to_record(model_or_variant),
        weights=start.weights,
        is_pretrained=start.is_pretrained,
        training=RecordedPictures.of(inputs.training),
        validation=RecordedPictures.of(inputs.validation),
        validation_fraction=inputs.data.validation_fraction,
        max_train_examples=inputs.data.max_train_examples,
        class_names=tuple(inputs.training.class_names),
        recipe=inputs.recipe,
        stages=tuple(inputs.plan),
        limits=limits,
        max_pictures_per_epoch=inputs.max_pictures_per_epoch,
        image_size=inputs.evaluation_size,
        pictures_sha256=pictures.fingerprint,
        thresholds=(0.5,) * len(inputs.training.class_names)
        if inputs.training.multi_label
        else None,
    )
    if earlier is not None:
        recorded = run_folder.read_pictures(folder, earlier)
        check_same_run(earlier, settings, recorded, pictures)
    return settings, pictures


def _begin(
    model: keras.Model,
    inputs: Inputs,
    context: _RunContext,
    settings: RunSettings,
    pictures: PictureRecord,
    earlier: RunSettings | None,
    keep: bool,
) -> Snapshot | None:
    """Write and say what is known before the training: the first worker, when all have read.

    Return the snapshot to resume from.
    """
    folder, saving, say = context.folder, context.saving, context.say
    for finding in look_for_findings(model, inputs, this_machine(), settings.weights):
        say(finding)
    resumed = None if earlier is None else latest_snapshot(saving.folder, say)
    wait_for_all(inputs.workers)
    if not inputs.workers.is_first:
        return resumed
    results = _RESULT_BYTES * model.count_params() + _OTHER_FILES_BYTES
    run_folder.prepare_output(folder, keep=keep, needed_bytes=saving.needed_bytes(model) + results)
    pictures.write(folder / run_folder.PICTURES)
    run_folder.write_settings(folder, settings)
    say(describe_plan(settings, model.count_params(), folder))
    return resumed


# --- the training -------------------------------------------------------------------------------


def _run(
    model: keras.Model,
    inputs: Inputs,
    context: _RunContext,
    settings: RunSettings,
    resumed: Snapshot | None,
    frozen: contextlib.ExitStack,
) -> TrainResult:
    """Train, judge and write the results; close `frozen` after the training."""
    workers, folder, limits = inputs.workers, context.folder, settings.limits
    unreadable, say = context.unreadable, context.say
    budget = None
    if limits.max_minutes is not None:
        notes = None if resumed is None else resumed.notes["time"]
        budget = TimeBudget(limits.max_minutes, notes, began=context.began)
    with _explained(folder, inputs, unreadable), StopSignals(folder) as signals:
        compile_to_train(model, inputs)
        if inputs.recipe.probe == "first" and resumed is None:
            say("Fitting the classifier first ...")
            fit_classifier(model, inputs, unreadable, budget, say)
        if budget is not None:
            if resumed is None and inputs.recipe.probe != "only":
                inputs, settings = fit_to_time(
                    model, inputs, settings, budget, unreadable, folder, say
                )
            budget.follow(inputs)
        callbacks = [*context.callbacks]
        if context.tensorboard and workers.is_first:
            callbacks += board_callbacks(folder / run_folder.TENSORBOARD, inputs)
        if inputs.is_probe:
            say("Fitting the classifier ...")
            history = fit_probe(model, inputs, unreadable, folder, limits, budget, callbacks, say)
        else:
            if limits.patience is not None:
                say(describe_patience(limits.patience, inputs.plan))
            with signals.deferred():
                history, inputs, settings = fit_in_memory(
                    lambda inputs, resumed: _fit(
                        model, inputs, context, resumed, limits, budget, callbacks, signals
                    ),
                    *(model, inputs, settings, context.saving.folder, resumed, budget, say),
                )
        frozen.close()
        say("Judging the network and writing the run folder ...")
        with undistributed():
            model = local_copy(model) if workers.devices > 1 else model
            before = () if budget is None else budget.before
            evaluation, judged, is_earlier = evaluate_model(model, inputs, before)
            settings = replace(settings, kept_classifier=is_earlier)
            if workers.is_first:
                write_results(
                    model, inputs, unreadable, folder, settings, history, evaluation, judged
                )
        wait_for_all(workers)
    if unreadable.found:
        say(
            f"left out, because they became unreadable: {len(unreadable.found):,} of "
            f"{inputs.training.num_examples:,} pictures"
        )
    say(describe_result(settings, history, evaluation, folder))
    if budget is not None and (overrun := budget.overrun()):
        say(overrun)
    return TrainResult(model, evaluation, history, folder)


@contextlib.contextmanager
def _explained(folder: Path, inputs: Inputs, unreadable: UnreadablePictures) -> Iterator[None]:
    """Name the picture of a failed read; for a failed write, say that nothing is lost."""
    try:
        with explained(inputs.workers):
            yield
    except tf.errors.OpError as error:
        if unreadable.error is None:
            raise
        raise unreadable.error from error
    except OSError as error:
        raise OSError(
            f"The run in {folder} stopped: {error}. Remove the cause (is the disk full, or the "
            "size of a file limited?) and continue from the last snapshot (--resume, resume=True)."
        ) from error


@working("training")
def _fit(
    model: keras.Model,
    inputs: Inputs,
    context: _RunContext,
    resumed: Snapshot | None,
    limits: Limits,
    budget: TimeBudget | None,
    callbacks: Sequence[keras.callbacks.Callback],
    signals: StopSignals,
) -> dict[str, list[float]]:
    """Run `fit` and return its history."""
    unreadable, say = context.unreadable, context.say
    epochs, batches = (0, 0) if resumed is None else (resumed.epochs, resumed.batches)
    if resumed is not None:
        within = f" and {counted(batches, 'batch', 'batches')}" if batches else ""
        say(f"Resuming after {counted(epochs, 'epoch')}{within}.")
    kept: Mapping[str, Any] = {} if resumed is None else resumed.notes
    unreadable.found.update((bad["index"], BadPicture(**bad)) for bad in kept.get("unreadable", ()))
    progressive = ProgressiveLearning(
        partial(inputs.smoothed_dataset, unreadable=unreadable, alone=budget is not None),
        inputs.plan,
        make_validation=inputs.validation_dataset,
        evaluation_size=inputs.evaluation_size,
        skip_batches=batches,
        verbose=1,
        echo=say,
    )
    history = HistoryFile(
        context.folder / run_folder.HISTORY if inputs.workers.is_first else None,
        inputs.plan,
        state=kept.get("history"),
    )
    weights = [] if resumed is None else resumed.kept_weights()
    timed, lines = TimeLeft(inputs, say), EpochLines(lambda: progressive.dataset.length, say)
    if budget is not None:
        budget.begin(progressive.dataset, timed)
        if resumed is not None:
            count = resumed.notes["time"]["arrays_before"]
            budget.before, weights = weights[:count], weights[count:]
    best = BestEpoch(limits.patience, inputs.plan, history, weights)

    def notes() -> dict[str, Any]:
        return {
            "history": history.state(),
            "unreadable": [asdict(bad) for bad in unreadable.found.values()],
            "has_ended": bool(model.stop_training),
            "time": None if budget is None else budget.notes(),
        }

    snapshots = Snapshots(
        *(context.saving, resumed, notes, signals, inputs.workers.is_first),
        kept=lambda: [*(() if budget is None else budget.before), *best.kept],
        plan=inputs.plan,
    )
    with contextlib.closing(lines), contextlib.closing(snapshots):
        fit_stages(
            model,
            inputs,
            progressive,
            # The state that is saved is what all others have made of it.
            [
                *(history, best, *callbacks, *([] if budget is None else [budget]), snapshots),
                *(timed, lines),
            ],
            # If it has ended before the last epoch, there is nothing left to train.
            initial_epoch=inputs.plan.epochs if kept.get("has_ended") else epochs,
            verbose=0,
        )
    return history.columns
