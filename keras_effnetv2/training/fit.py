"""`train`: pictures in, a run folder with a trained, judged and exported model out."""

import contextlib
import os
import platform
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._version import __version__
from keras_effnetv2.architecture import last_activation
from keras_effnetv2.config import ModelConfig
from keras_effnetv2.data.pipeline import make_dataset
from keras_effnetv2.data.scan import BadPicturesError, drop_bad, find_bad_pictures
from keras_effnetv2.data.sources import ImageSource, load_source
from keras_effnetv2.data.splits import carve_validation
from keras_effnetv2.evaluation import Evaluation, evaluate_source
from keras_effnetv2.export import export_saved_model
from keras_effnetv2.model import build_model
from keras_effnetv2.report import write_report
from keras_effnetv2.training import run_folder
from keras_effnetv2.training.ema import EMA
from keras_effnetv2.training.history import Backup, HistoryFile
from keras_effnetv2.training.progressive import ProgressiveLearning, scheduled_dropout_layers
from keras_effnetv2.training.recipe import TrainRecipe
from keras_effnetv2.training.run_report import (
    describe_plan,
    describe_result,
    gather_report,
    summary_rows,
)
from keras_effnetv2.training.stages import StagePlan, TrainStage

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
        skip_bad: leave out pictures that cannot be read; otherwise they are an error.
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
    _check_arguments(model_or_variant, recipe, weights)
    say = echo if verbose else _silent
    folder = Path(output)
    earlier = run_folder.check_output(folder, resume=resume, overwrite=overwrite)
    training, judged = _load(source, validation, validation_fraction, max_train_examples, recipe)
    plan = recipe.plan(_name_of(model_or_variant))
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    classes = len(training.class_names)
    if isinstance(model_or_variant, str):
        model = _build(model_or_variant, weights, classes, recipe, plan)
    else:
        model = model_or_variant
        _check_model(model, classes, recipe, plan)
    # After everything that is quick to check, because it reads every picture.
    training, judged = _scanned((training, judged), skip_bad, say)
    job = _Job(model, training, judged, recipe, plan, folder)
    settings = _settings(job, weights, validation_fraction, max_train_examples)
    if earlier is not None:
        run_folder.check_same_run(earlier, settings)
    needed = _BYTES_PER_PARAMETER * model.count_params() + _OTHER_FILES_BYTES
    run_folder.prepare_output(folder, keep=resume, needed_bytes=needed)
    run_folder.write_settings(folder, settings)
    say(describe_plan(settings, recipe, plan, model.count_params(), folder))
    _compile(job)
    with _resumable(folder):
        history = _fit(job, resume=resume, verbose=verbose)
        evaluation = _evaluate(job)
        _write_results(job, settings, history, evaluation)
    say(describe_result(settings, history, evaluation, folder))
    return TrainResult(model, evaluation, history, folder)


@dataclass(frozen=True)
class _Job:
    """A training that is ready to run: everything has been looked up and checked."""

    model: keras.Model
    training: ImageSource
    validation: ImageSource
    recipe: TrainRecipe
    plan: StagePlan
    folder: Path

    def stage_dataset(self, stage: TrainStage, epoch: int) -> tf.data.Dataset:
        """The training batches of an epoch."""
        return make_dataset(
            self.training,
            image_size=stage.image_size,
            batch_size=stage.batch_size,
            training=True,
            randaugment_magnitude=stage.randaugment_magnitude,
            mixup_alpha=stage.mixup_alpha,
            cutmix_alpha=stage.cutmix_alpha,
            seed=self.recipe.seed,
            epoch=epoch,
            crop_area=self.recipe.crop_area,
            horizontal_flip=self.recipe.horizontal_flip,
            randaugment_layers=self.recipe.randaugment_layers,
            scale_randaugment=self.recipe.scale_randaugment,
        )

    def validation_dataset(self) -> tf.data.Dataset:
        """The validation batches, at the size of the last stage."""
        return make_dataset(
            self.validation,
            image_size=self.plan[-1].image_size,
            batch_size=self.recipe.batch_size,
            training=False,
            style=self.recipe.evaluation_style,
        )


def _silent(line: str) -> None:
    pass


def _name_of(model_or_variant: keras.Model | str) -> str:
    return model_or_variant if isinstance(model_or_variant, str) else model_or_variant.name


# --- before the training ------------------------------------------------------------------------


def _check_arguments(model_or_variant: Any, recipe: Any, weights: str | None) -> None:
    """What can be said before any data is touched."""
    if not isinstance(recipe, TrainRecipe):
        raise ValueError(
            "`recipe` must be a TrainRecipe, for example TrainRecipe.preset('finetune'). "
            f"Received: recipe={recipe!r}"
        )
    if not isinstance(model_or_variant, keras.Model):
        ModelConfig.from_name(model_or_variant)  # an unknown name raises
    elif weights is not None:
        raise ValueError(
            "`weights` goes with a variant; load them into the model instead. "
            f"Received: weights={weights!r} and the model {model_or_variant.name!r}"
        )


def _load(
    source: ImageSource | str | os.PathLike[str],
    validation: ImageSource | None,
    validation_fraction: float | None,
    max_train_examples: int | None,
    recipe: TrainRecipe,
) -> tuple[ImageSource, ImageSource]:
    """The training and the validation pictures."""
    if not isinstance(source, ImageSource):
        if validation is not None:
            raise ValueError(
                "`validation` goes with an ImageSource; of a folder, a table or a data set the "
                f"validation split is used. Received: source={source!r} and a validation source"
            )
        options: dict[str, Any] = {"validation_fraction": validation_fraction, "seed": recipe.seed}
        training = load_source(source, "train", **options)
        validation = load_source(source, "validation", **options)
    elif validation is not None and validation_fraction is not None:
        raise ValueError(
            "Give the validation pictures or the fraction to carve, not both. Received: "
            f"validation={validation!r}, validation_fraction={validation_fraction!r}"
        )
    elif validation is None:
        fraction = 0.2 if validation_fraction is None else validation_fraction
        held = carve_validation(source.labels, source.class_names, fraction, recipe.seed)
        rest = np.setdiff1d(np.arange(source.num_examples), held)
        training, validation = source.subset(rest), source.subset(held)
    else:
        training = source
    if not isinstance(validation, ImageSource):
        raise ValueError(
            "`validation` must be an ImageSource, as load_source(...) makes it. "
            f"Received: validation={validation!r}"
        )
    if training.class_names != validation.class_names:
        raise ValueError(
            "Training and validation pictures must have the same class names in the same order; "
            "load the validation pictures with class_names=training.class_names."
        )
    broken = [name for name in training.class_names if name.splitlines() != [name]]
    if broken:
        raise ValueError(
            "A class name must be one line that is not empty, because labels.txt holds one a "
            f"line. Rename these: {broken}"
        )
    if max_train_examples is not None:
        training = training.stratified_subset(max_train_examples, recipe.seed)
    return training, validation


def _scanned(
    sources: Sequence[ImageSource], skip_bad: bool, say: Callable[[str], Any]
) -> list[ImageSource]:
    """The sources without unreadable pictures; one error for all unless they may be left out."""
    found = []
    for source in sources:
        say(f"Checking {source.num_examples:,} {source.split} pictures ...")
        found.append(find_bad_pictures(source))
    if any(found) and not skip_bad:
        raise BadPicturesError([picture for bad in found for picture in bad])
    kept = []
    for source, bad in zip(sources, found, strict=True):
        for picture in bad:
            say(f"  left out: {picture.name!r}: {picture.reason}")
        if bad:
            say(f"{len(bad):,} of {source.num_examples:,} {source.split} pictures are left out.")
        kept.append(drop_bad(source, bad) if bad else source)
    return kept


def _build(
    variant: str, weights: str | None, classes: int, recipe: TrainRecipe, plan: StagePlan
) -> keras.Model:
    rates = [stage.dropout_rate for stage in plan if stage.dropout_rate is not None]
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy(recipe.precision)
    try:
        return build_model(
            ModelConfig.from_name(variant),
            weights=weights,
            classes=classes,
            classifier_activation=recipe.loss,
            # The rate in force is set stage by stage; here it must be above 0 to be settable.
            dropout_rate=max(rates) if rates else None,
            drop_path_rate=recipe.drop_path_rate,
        )
    finally:
        keras.config.set_dtype_policy(policy)


def _check_model(model: keras.Model, classes: int, recipe: TrainRecipe, plan: StagePlan) -> None:
    """Raises ValueError unless the model is a classifier that fits the pictures and the recipe."""
    outputs = getattr(model, "outputs", None)  # a subclassed model has none
    if not outputs or len(outputs) != 1 or len(model.inputs) != 1 or len(outputs[0].shape) != 2:
        raise ValueError(
            "`train` needs a functional or Sequential classifier, built, with one input "
            "(N, height, width, 3) and one output (N, classes). "
            f"Received: {model.name!r} with outputs {outputs}"
        )
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"The model {model.name!r} has {model.output_shape[-1]} classes, the pictures have "
            f"{classes}. Build it with classes={classes}."
        )
    scheduled_dropout_layers(model, None, plan)  # raises where the plan has rates, the model none
    sizes = [stage.image_size for stage in plan]
    shape = tuple(model.input_shape)
    if len(shape) != 4 or any(side not in (None, size) for size in sizes for side in shape[1:3]):
        raise ValueError(
            f"The model {model.name!r} takes {shape}, the stages have pictures of {sizes} pixels. "
            "Build it with input_shape=(None, None, 3), or train with one size, the model's."
        )
    activation = last_activation(outputs[0])
    if activation != recipe.loss:
        raise ValueError(
            f"The recipe's loss wants a model that ends with a {recipe.loss}: build it with "
            f"classifier_activation={recipe.loss!r}. Received: {model.name!r} ending with "
            f"{activation}"
        )


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

    return {
        "finished": False,
        "model": job.model.name,
        "weights": weights,
        "training": describe(job.training),
        "validation": describe(job.validation),
        "validation_fraction": validation_fraction,
        "max_train_examples": max_train_examples,
        "class_names": list(job.training.class_names),
        "recipe": job.recipe.to_dict(),
        "stages": [asdict(stage) for stage in job.plan],
        "image_size": job.plan[-1].image_size,
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
def _resumable(folder: Path) -> Iterator[None]:
    """Says of a failed write (a full disk, most often) that nothing is lost."""
    try:
        yield
    except OSError as error:
        raise OSError(
            f"The run in {folder} broke off: {error}. Mend the cause (is the disk full?) and go "
            "on after the last finished epoch with --resume, resume=True."
        ) from error


def _compile(job: _Job) -> None:
    model, recipe = job.model, job.recipe
    # XLA would compile the train step once more at every stage; JAX knows no other way.
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(
        recipe.make_optimizer(max(1, job.training.num_examples // recipe.batch_size)),
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
    progressive = ProgressiveLearning(job.stage_dataset, job.plan, verbose=min(verbose, 1))
    history = HistoryFile(job.folder / run_folder.HISTORY, job.plan, resume=resume)
    backup = Backup(job.folder / run_folder.BACKUP)
    average = [] if job.recipe.ema_decay is None else [EMA(job.recipe.ema_decay)]
    reseed, stop = _Reseed(job.recipe.seed), keras.callbacks.TerminateOnNaN()
    job.model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        initial_epoch=backup.epochs_done,
        shuffle=False,  # each epoch's data is shuffled as it is made
        validation_data=job.validation_dataset(),
        callbacks=[progressive, reseed, *average, history, backup, stop],
        verbose=verbose,
    )
    losses = history.columns["loss"]
    if not np.isfinite(losses[-1]):
        raise _not_finite(f"the loss of epoch {len(losses)}")
    return history.columns


def _evaluate(job: _Job) -> Evaluation:
    """The final scores on the validation pictures."""
    evaluation = evaluate_source(
        job.model,
        job.validation,
        image_size=job.plan[-1].image_size,
        style=job.recipe.evaluation_style,
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
    folder, names = job.folder, job.training.class_names
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
            image_size=job.plan[-1].image_size,
            style=job.recipe.evaluation_style,
        )
    report = gather_report(
        title=f"{job.model.name} on {job.training.spec}",
        summary=summary_rows(settings, history, evaluation, job.model.count_params()),
        plan=job.plan,
        history=history,
        validation=job.validation,
        evaluation=evaluation,
        style=job.recipe.evaluation_style,
        stage_dataset=job.stage_dataset,
    )
    write_report(report, folder / run_folder.REPORT)
    settings["result"] = {
        "validation_accuracy": evaluation.accuracy,
        "validation_loss": evaluation.loss,
        "seconds": round(sum(history["seconds"]), 1),
    }
    settings["finished"] = True
    run_folder.write_settings(folder, settings)
    run_folder.remove(folder / run_folder.BACKUP)
