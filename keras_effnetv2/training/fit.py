"""`train`: pictures in, a run folder with a trained, judged and exported model out."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._version import __version__
from keras_effnetv2.config import ModelConfig
from keras_effnetv2.data.scan import BadPicturesError
from keras_effnetv2.data.sources import ImageSource
from keras_effnetv2.data.unreadable import UnreadablePictures
from keras_effnetv2.evaluation import Evaluation, evaluate_source
from keras_effnetv2.export import export_saved_model
from keras_effnetv2.model import build_model
from keras_effnetv2.report import write_report
from keras_effnetv2.training import run_folder
from keras_effnetv2.training.ema import EMA
from keras_effnetv2.training.history import Backup, HistoryFile
from keras_effnetv2.training.preflight import (
    Inputs,
    check_arguments,
    check_model,
    load_inputs,
    without_bad_pictures,
)
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.recipe import TrainRecipe
from keras_effnetv2.training.run_report import (
    describe_plan,
    describe_result,
    gather_report,
    summary_rows,
)

# On disk for each parameter, four bytes each: the backup (weights, average, two optimizer slots;
# twice, because the old one goes after the new one is there), the model and its export.
_BYTES_PER_PARAMETER = 4 * (2 * 4 + 2)
_OTHER_FILES_BYTES = 50_000_000


@dataclass(frozen=True)
class TrainResult:
    """What `train` made.

    Attributes:
        model: the trained model (with averaged weights, if the recipe averages).
        evaluation: its scores on the validation pictures.
        history: column -> one value an epoch, as in `history.csv`.
        output: the run folder.
    """

    model: keras.Model
    evaluation: Evaluation
    history: dict[str, list[float]]
    output: Path


def train(
    model_or_variant: keras.Model | str,
    source: ImageSource | str | os.PathLike[str],
    recipe: TrainRecipe | None = None,
    output: str | os.PathLike[str] = "runs/latest",
    *,
    validation: ImageSource | None = None,
    validation_fraction: float | None = None,
    max_train_examples: int | None = None,
    weights: str | None = None,
    skip_bad: bool = False,
    scan: bool | None = None,
    cache: str | os.PathLike[str] | None = None,
    resume: bool = False,
    overwrite: bool = False,
    verbose: int = 1,
    echo: Callable[[str], Any] = print,
) -> TrainResult:
    """Trains a classifier and leaves a run folder that can be evaluated, served and repeated.

    The folder holds `model.keras`, `saved_model/1/`, `labels.txt`, `recipe.json`, `history.csv`
    and `report.html`. Files are written beside and renamed, so none is ever half there.

    Args:
        model_or_variant: "efficientnetv2-b0" and so on, or a Keras classifier that takes pixels
            0..255 and ends with a softmax (sigmoid loss: a sigmoid).
        source: what `load_source` takes (its "train" and "validation" splits are used), or the
            training pictures as an `ImageSource`.
        recipe: default `TrainRecipe.preset("quickstart")`.
        output: the run folder; must not hold a run unless `resume` or `overwrite`.
        validation: the validation pictures, where `source` is an `ImageSource`; None carves them
            out of it.
        validation_fraction: share to carve; see `load_source`. None: 0.2 of an `ImageSource`.
        max_train_examples: train on a stratified part of that many pictures.
        weights: of a model that is built here, see `build_model`.
        skip_bad: leave out pictures that cannot be read, also those that become so while training
            (see `data.unreadable`); otherwise they are an error.
        scan: decode every picture before the training; None: unless there are more than 50,000.
        cache: "memory", or a folder on a quicker disk, to keep the encoded pictures in; see
            `ImageSource.cached`.
        resume: go on with the run in `output` after its last finished epoch.
        overwrite: replace the files of the run in `output`, when everything has been checked.
        verbose: 0 silent, 1 progress bars, 2 a line an epoch (as in Keras).
        echo: called with each line of the plan and the summary (silent with verbose=0).

    Returns:
        A `TrainResult`.

    Raises:
        BadPicturesError: pictures that cannot be read; the message lists them.
        FileExistsError: `output` holds something already.
        OSError: `output` cannot be written, or its disk is full; `resume` goes on from there.
        RuntimeError: the loss or the scores are not finite.
        ValueError: an argument, the data or the model does not fit.
    """
    recipe = TrainRecipe.preset("quickstart") if recipe is None else recipe
    check_arguments(model_or_variant, recipe, weights)
    say = echo if verbose else _silent
    folder = Path(output)
    earlier = run_folder.check_output(folder, resume=resume, overwrite=overwrite)
    inputs = load_inputs(
        model_or_variant,
        source,
        recipe,
        validation,
        validation_fraction,
        max_train_examples,
        skip_bad,
    )
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    if isinstance(model_or_variant, str):
        model = _build(model_or_variant, weights, inputs)
    else:
        model = model_or_variant
        check_model(model, inputs)
    # After everything that is quick to check, because it reads every picture.
    inputs = without_bad_pictures(inputs, scan, say)
    job = _Job(model, inputs if cache is None else inputs.cached(cache), folder)
    settings = _settings(job, weights, validation_fraction, max_train_examples)
    if earlier is not None:
        run_folder.check_same_run(earlier, settings)
    needed = _BYTES_PER_PARAMETER * model.count_params() + _OTHER_FILES_BYTES
    run_folder.prepare_output(folder, keep=resume, needed_bytes=needed)
    run_folder.write_settings(folder, settings)
    say(describe_plan(settings, inputs.recipe, inputs.plan, model.count_params(), folder))
    _compile(job)
    with _resumable(folder, inputs.unreadable):
        history = _fit(job, resume=resume, verbose=verbose)
        evaluation = _evaluate(job)
        _write_results(job, settings, history, evaluation)
    if inputs.unreadable.found:
        say(
            f"left out, because they became unreadable: {len(inputs.unreadable.found):,} of "
            f"{inputs.training.num_examples:,} pictures"
        )
    say(describe_result(settings, history, evaluation, folder))
    return TrainResult(model, evaluation, history, folder)


@dataclass(frozen=True)
class _Job:
    """A training that is ready to run: everything has been looked up and checked."""

    model: keras.Model
    inputs: Inputs
    folder: Path


def _silent(line: str) -> None:
    pass


# --- before the training ------------------------------------------------------------------------


def _build(variant: str, weights: str | None, inputs: Inputs) -> keras.Model:
    recipe = inputs.recipe
    rates = [stage.dropout_rate for stage in inputs.plan if stage.dropout_rate is not None]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        return build_model(
            ModelConfig.from_name(variant),
            weights=weights,
            classes=len(inputs.training.class_names),
            classifier_activation=recipe.loss,
            # The rate in force is set stage by stage; here it must be above 0 to be settable.
            dropout_rate=max(rates) if rates else None,
            drop_path_rate=recipe.drop_path_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)


def _settings(
    job: _Job,
    weights: str | None,
    validation_fraction: float | None,
    max_train_examples: int | None,
) -> dict[str, Any]:
    """What `recipe.json` holds: everything that repeats the run, then its state and result."""

    def describe(source: ImageSource) -> dict[str, Any]:
        # A path may hold bytes that are no UTF-8; neither a terminal nor a text file takes those.
        spec = source.spec.encode("utf-8", "backslashreplace").decode("utf-8")
        return {"spec": spec, "split": source.split, "pictures": source.num_examples}

    inputs = job.inputs
    return {
        "finished": False,
        "model": job.model.name,
        "weights": weights,
        "training": describe(inputs.training),
        "validation": describe(inputs.validation),
        "validation_fraction": validation_fraction,
        "max_train_examples": max_train_examples,
        "class_names": list(inputs.training.class_names),
        "recipe": inputs.recipe.to_dict(),
        "stages": [asdict(stage) for stage in inputs.plan],
        "image_size": inputs.plan[-1].image_size,
        "versions": {
            "keras_effnetv2": __version__,
            "keras": keras.__version__,
            "tensorflow": tf.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
            "backend": keras.backend.backend(),
        },
    }


# --- the training and what comes after ----------------------------------------------------------


@contextlib.contextmanager
def _resumable(folder: Path, unreadable: UnreadablePictures) -> Iterator[None]:
    """Says of a failed write (a full disk, most often) that nothing is lost.

    Of a failed read it says which picture it was, without the graph around it.
    """
    try:
        yield
    except tf.errors.OpError as error:
        if not unreadable.is_exhausted:
            raise
        raise BadPicturesError(tuple(unreadable.found.values())) from error
    except OSError as error:
        raise OSError(
            f"The run in {folder} broke off: {error}. Mend the cause (is the disk full?) and go "
            "on after the last finished epoch with --resume, resume=True."
        ) from error


def _compile(job: _Job) -> None:
    model, recipe = job.model, job.inputs.recipe
    # XLA would compile the train step once more at every stage; JAX knows no other way.
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(
        recipe.make_optimizer(max(1, job.inputs.training.num_examples // recipe.batch_size)),
        recipe.make_loss(),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=jit_compile,
    )
    # Before the first step, which would otherwise be traced a second time for the new variables.
    model.optimizer.build(model.trainable_variables)


class _Reseed(keras.callbacks.Callback):
    """Makes the random numbers of an epoch (dropout, stochastic depth) depend on it and the seed.

    Keras saves weights without the state of their random generators, so a resumed training would
    otherwise draw the first epoch's numbers again.
    """

    def __init__(self, seed: int) -> None:
        super().__init__()
        self._seed = seed

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for index, state in enumerate(states):
            drawn = np.random.SeedSequence([self._seed, epoch, index]).generate_state(1)[0]
            state.assign([int(drawn) >> 1, 0])  # 31 bits fit every backend's integers


def _fit(job: _Job, *, resume: bool, verbose: int) -> dict[str, list[float]]:
    """Runs the one `fit` and returns its history."""
    inputs = job.inputs
    progressive = ProgressiveLearning(inputs.stage_dataset, inputs.plan, verbose=min(verbose, 1))
    history = HistoryFile(job.folder / run_folder.HISTORY, inputs.plan, resume=resume)
    backup = Backup(job.folder / run_folder.BACKUP)
    average = [] if inputs.recipe.ema_decay is None else [EMA(inputs.recipe.ema_decay)]
    reseed, stop = _Reseed(inputs.recipe.seed), keras.callbacks.TerminateOnNaN()
    job.model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        initial_epoch=backup.epochs_done,
        shuffle=False,  # each epoch's data is shuffled as it is made
        validation_data=inputs.validation_dataset(),
        callbacks=[progressive, reseed, *average, history, backup, stop],
        verbose=verbose,
    )
    losses = history.columns["loss"]
    if not np.isfinite(losses[-1]):
        raise _not_finite(f"the loss of epoch {len(losses)}")
    return history.columns


def _evaluate(job: _Job) -> Evaluation:
    """The final scores on the validation pictures."""
    inputs = job.inputs
    evaluation = evaluate_source(
        job.model,
        inputs.validation,
        image_size=inputs.plan[-1].image_size,
        style=inputs.recipe.evaluation_style,
    )
    if not np.isfinite(evaluation.scores).all():
        raise _not_finite("a score of the trained model")
    return evaluation


def _not_finite(what: str) -> RuntimeError:
    return RuntimeError(
        f"Training failed: {what} is not finite. Lower the learning rate (--learning-rate) and "
        "start anew with --overwrite."
    )


def _write_results(
    job: _Job,
    settings: dict[str, Any],
    history: dict[str, list[float]],
    evaluation: Evaluation,
) -> None:
    """Writes model, export, labels and report, then marks the run as finished."""
    folder, inputs = job.folder, job.inputs
    names = inputs.training.class_names
    # Of the layers only: compiled, the file would need this package to be loaded.
    bare = keras.Model(job.model.inputs, job.model.outputs, name=job.model.name)
    with run_folder.written_whole(folder / run_folder.MODEL) as scratch:
        bare.save(scratch)
    run_folder.write_text(folder / run_folder.LABELS, "".join(f"{name}\n" for name in names))
    run_folder.remove(folder / run_folder.SAVED_MODEL)  # of an attempt that broke off here
    if keras.backend.backend() == "tensorflow":
        export_saved_model(
            bare,
            folder / run_folder.SAVED_MODEL,
            names,
            image_size=inputs.plan[-1].image_size,
            style=inputs.recipe.evaluation_style,
        )
    report = gather_report(
        title=f"{job.model.name} on {inputs.training.spec}",
        summary=summary_rows(settings, history, evaluation, job.model.count_params()),
        plan=inputs.plan,
        history=history,
        validation=inputs.validation,
        evaluation=evaluation,
        style=inputs.recipe.evaluation_style,
        stage_dataset=inputs.stage_dataset,
    )
    write_report(report, folder / run_folder.REPORT)
    settings["result"] = {
        "validation_accuracy": evaluation.accuracy,
        "validation_loss": evaluation.loss,
        "seconds": round(sum(history["seconds"]), 1),
    }
    settings["left_out_while_training"] = [bad.name for bad in inputs.unreadable.found.values()]
    settings["finished"] = True
    run_folder.write_settings(folder, settings)
    run_folder.remove(folder / run_folder.BACKUP)
