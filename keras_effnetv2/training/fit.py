"""`train`: pictures in, a run folder with a trained, judged and exported model out."""

import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2._version import __version__
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
from keras_effnetv2.training.history import HistoryFile
from keras_effnetv2.training.progressive import ProgressiveLearning
from keras_effnetv2.training.recipe import TrainRecipe
from keras_effnetv2.training.run_report import gather_report
from keras_effnetv2.training.stages import StagePlan, TrainStage

# 32-bit numbers on disk for each parameter: the backup (weights, average, two optimizer slots;
# twice, because the old one goes after the new one is there), the model and its export.
_STORED_PER_PARAMETER = 2 * 4 + 2
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
        validation_fraction: share to carve; see `load_source`.
        max_train_examples: train on a stratified part of that many pictures.
        weights: of a model that is built here, see `build_model`.
        skip_bad: leave out pictures that cannot be read; otherwise they are an error.
        resume: go on with the run in `output` after its last finished epoch.
        overwrite: replace the run in `output`.
        verbose: 0 silent, 1 progress bars, 2 a line an epoch (as in Keras).
        echo: called with each line of the plan and the summary (silent with verbose=0).

    Returns:
        A `TrainResult`.

    Raises:
        BadPicturesError: pictures that cannot be read; the message lists them.
        FileExistsError: `output` holds something already.
        ValueError: an argument, the data or the model does not fit.
    """
    recipe = recipe or TrainRecipe.preset("quickstart")
    say = echo if verbose else _silent
    folder = Path(output)
    earlier = run_folder.check_output(folder, resume=resume, overwrite=overwrite)
    training, judged = _load(source, validation, validation_fraction, max_train_examples, recipe)
    training, judged = (_scanned(part, skip_bad, say) for part in (training, judged))
    plan = recipe.plan(_name_of(model_or_variant))
    keras.utils.set_random_seed(recipe.seed)
    if recipe.deterministic:
        tf.config.experimental.enable_op_determinism()
    model = _make_model(model_or_variant, weights, training, recipe, plan)
    job = _Job(model, training, judged, recipe, plan, folder)
    settings = _settings(job, weights)
    if earlier is not None:
        _check_same_run(earlier, settings)
    needed = 4 * _STORED_PER_PARAMETER * model.count_params() + _OTHER_FILES_BYTES
    run_folder.prepare_output(folder, keep=resume, needed_bytes=needed)
    run_folder.write_settings(folder, settings)
    say(_describe(job))
    started = time.monotonic()
    history = _fit(job, resume=resume, verbose=verbose)
    seconds = time.monotonic() - started
    evaluation = evaluate_source(
        model, judged, image_size=plan[-1].image_size, style=recipe.evaluation_style
    )
    _write_results(job, settings, history, evaluation, seconds)
    say(_summary(job, evaluation, seconds))
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

    def mean_steps_per_epoch(self) -> float:
        """Optimizer steps an epoch, averaged over the plan."""
        examples = self.training.num_examples
        steps = sum(
            max(1, examples // stage.batch_size) * (stage.end_epoch - stage.start_epoch)
            for stage in self.plan
        )
        return steps / self.plan.epochs


def _silent(line: str) -> None:
    pass


def _name_of(model_or_variant: keras.Model | str) -> str:
    return model_or_variant if isinstance(model_or_variant, str) else model_or_variant.name


# --- before the training ------------------------------------------------------------------------


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
    elif validation is None:
        fraction = 0.2 if validation_fraction is None else validation_fraction
        held = carve_validation(source.labels, source.class_names, fraction, recipe.seed)
        rest = np.setdiff1d(np.arange(source.num_examples), held)
        training, validation = source.subset(rest), source.subset(held)
    else:
        training = source
    if training.class_names != validation.class_names:
        raise ValueError(
            "Training and validation pictures must have the same class names in the same order; "
            "load the validation pictures with class_names=training.class_names."
        )
    broken = [name for name in training.class_names if not name or len(name.splitlines()) > 1]
    if broken:
        raise ValueError(
            "A class name must be one line that is not empty, because labels.txt holds one a "
            f"line. Rename these: {broken}"
        )
    if max_train_examples is not None:
        training = training.stratified_subset(max_train_examples, recipe.seed)
    return training, validation


def _scanned(source: ImageSource, skip_bad: bool, say: Callable[[str], Any]) -> ImageSource:
    """The source without unreadable pictures; BadPicturesError unless they may be left out."""
    say(f"Checking {source.num_examples:,} {source.split} pictures ...")
    bad = find_bad_pictures(source)
    if not bad:
        return source
    if not skip_bad:
        raise BadPicturesError(bad)
    for picture in bad:
        say(f"  left out: {picture.name!r}: {picture.reason}")
    say(f"{len(bad):,} of {source.num_examples:,} {source.split} pictures are left out.")
    return drop_bad(source, bad)


def _make_model(
    model_or_variant: keras.Model | str,
    weights: str | None,
    training: ImageSource,
    recipe: TrainRecipe,
    plan: StagePlan,
) -> keras.Model:
    """The compiled model, built here or checked."""
    classes = len(training.class_names)
    if isinstance(model_or_variant, keras.Model):
        model = model_or_variant
        _check_model(model, classes, recipe)
        if weights is not None:
            raise ValueError("`weights` goes with a variant; load them into the model instead.")
    else:
        config = ModelConfig.from_name(model_or_variant)
        rates = [stage.dropout_rate for stage in plan if stage.dropout_rate is not None]
        policy = keras.config.dtype_policy()
        keras.config.set_dtype_policy(recipe.precision)
        try:
            model = build_model(
                config,
                weights=weights,
                classes=classes,
                classifier_activation=recipe.loss,
                # The rate in force is set stage by stage; here it must be above 0 to be settable.
                dropout_rate=max(rates) if rates else None,
                drop_path_rate=recipe.drop_path_rate,
            )
        finally:
            keras.config.set_dtype_policy(policy)
    steps = max(1, training.num_examples // recipe.batch_size)
    # XLA takes minutes to compile a train step on a CPU, once a stage; JAX knows no other way.
    jit_compile = False if keras.backend.backend() == "tensorflow" else "auto"
    model.compile(
        recipe.make_optimizer(steps),
        recipe.make_loss(),
        metrics=[keras.metrics.CategoricalAccuracy("accuracy")],
        jit_compile=jit_compile,
    )
    return model


def _check_model(model: keras.Model, classes: int, recipe: TrainRecipe) -> None:
    if not model.built or len(model.outputs) != 1 or len(model.output_shape) != 2:
        raise ValueError(
            "`train` needs a built classifier with one output (N, classes). "
            f"Received: {model.name!r}"
        )
    if model.output_shape[-1] != classes:
        raise ValueError(
            f"The model {model.name!r} has {model.output_shape[-1]} classes, the pictures have "
            f"{classes}. Build it with classes={classes}."
        )
    activation = getattr(getattr(model.layers[-1], "activation", None), "__name__", None)
    if activation != recipe.loss:
        raise ValueError(
            f"The recipe's loss wants a model that ends with a {recipe.loss}: build it with "
            f"classifier_activation={recipe.loss!r}. Received: {model.name!r} ending with "
            f"{activation}"
        )


def _settings(job: _Job, weights: str | None) -> dict[str, Any]:
    """What `recipe.json` holds: everything that repeats the run, then its state and result."""

    def describe(source: ImageSource) -> dict[str, Any]:
        return {"spec": source.spec, "split": source.split, "pictures": source.num_examples}

    return {
        "finished": False,
        "model": job.model.name,
        "weights": weights,
        "training": describe(job.training),
        "validation": describe(job.validation),
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


def _check_same_run(earlier: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Raises ValueError if a run is resumed with other settings than it was started with."""
    keys = ("model", "training", "validation", "class_names", "recipe")
    # By way of JSON, so that tuples compare equal to the lists that were read.
    mine = run_folder.as_json({key: settings[key] for key in keys})
    changed = [key for key in keys if earlier[key] != mine[key]]
    if changed:
        listed = "; ".join(
            f"{name}: was {old!r}, is {new!r}"
            for key in changed
            for name, old, new in _differences(key, earlier[key], mine[key])
        )
        raise ValueError(
            f"A run can only be resumed with the settings it was started with. Changed: {listed}"
        )


def _differences(key: str, old: Any, new: Any) -> list[tuple[str, Any, Any]]:
    if not (isinstance(old, dict) and isinstance(new, dict)):
        return [(key, old, new)]
    names = [name for name in {**old, **new} if old.get(name) != new.get(name)]
    return [(f"{key}.{name}", old.get(name), new.get(name)) for name in names]


# --- the training and what comes after ----------------------------------------------------------


def _fit(job: _Job, *, resume: bool, verbose: int) -> dict[str, list[float]]:
    """Runs the one `fit` and returns its history."""
    progressive = ProgressiveLearning(job.stage_dataset, job.plan, verbose=min(verbose, 1))
    history = HistoryFile(job.folder / run_folder.HISTORY, job.plan, resume=resume)
    average = [] if job.recipe.ema_decay is None else [EMA(job.recipe.ema_decay)]
    backup = keras.callbacks.BackupAndRestore(
        str(job.folder / run_folder.BACKUP), delete_checkpoint=False
    )
    job.model.fit(
        progressive.dataset,
        epochs=progressive.epochs,
        validation_data=job.validation_dataset(),
        callbacks=[progressive, *average, backup, history, keras.callbacks.TerminateOnNaN()],
        verbose=verbose,
    )
    losses = history.columns.get("loss", [])
    if len(losses) < progressive.epochs or not np.isfinite(losses[-1]):
        raise RuntimeError(
            f"Training stopped in epoch {len(losses) or 1}: the loss is not finite. Lower "
            "the learning rate (--learning-rate) and start anew with --overwrite."
        )
    return history.columns


def _write_results(
    job: _Job,
    settings: dict[str, Any],
    history: dict[str, list[float]],
    evaluation: Evaluation,
    seconds: float,
) -> None:
    """Writes model, export, labels and report, then marks the run as finished."""
    folder, names = job.folder, job.training.class_names
    # Of the layers only: compiled, the file would need this package to be loaded.
    bare = keras.Model(job.model.inputs, job.model.outputs, name=job.model.name)
    with run_folder.written_whole(folder / run_folder.MODEL) as scratch:
        bare.save(scratch)
    run_folder.write_text(folder / run_folder.LABELS, "".join(f"{name}\n" for name in names))
    shutil.rmtree(folder / run_folder.SAVED_MODEL, ignore_errors=True)
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
        summary=_summary_rows(job, evaluation, seconds),
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
        "seconds": round(seconds, 1),
    }
    settings["finished"] = True
    run_folder.write_settings(folder, settings)
    shutil.rmtree(folder / run_folder.BACKUP, ignore_errors=True)


# --- what is said -------------------------------------------------------------------------------


def _describe(job: _Job) -> str:
    """The plan, before the training."""
    names = job.training.class_names
    recipe = job.recipe
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    rate = recipe.learning_rate_schedule(1.0).base_learning_rate
    rows = (
        ("model", f"{job.model.name}, {job.model.count_params():,} parameters"),
        ("data", job.training.spec),
        ("classes", f"{len(names):,}: {shown}"),
        (
            "pictures",
            f"{job.training.num_examples:,} for training, "
            f"{job.validation.num_examples:,} for validation",
        ),
        (
            "optimizer",
            f"{recipe.optimizer}, learning rate {rate:.3g} {recipe.schedule} after "
            f"{recipe.warmup_epochs:g} epochs of warm-up, weight decay {recipe.weight_decay:g}"
            + (f", weights averaged with {recipe.ema_decay:g}" if recipe.ema_decay else ""),
        ),
        ("loss", f"{recipe.loss} cross entropy, label smoothing {recipe.label_smoothing:g}"),
        ("seed", f"{recipe.seed}"),
        ("output", f"{job.folder}"),
    )
    return f"{_table(rows)}\n\n{job.plan}\n"


def _summary_rows(job: _Job, evaluation: Evaluation, seconds: float) -> tuple[tuple[str, str], ...]:
    size = job.plan[-1].image_size
    return (
        ("validation accuracy", f"{evaluation.accuracy:.2%}"),
        ("validation loss", f"{evaluation.loss:.4f}"),
        ("pictures", f"{job.training.num_examples:,} + {job.validation.num_examples:,}"),
        ("training time", f"{seconds:,.0f} s for {job.plan.epochs} epochs"),
        ("model", f"{job.model.name}, {job.model.count_params():,} parameters, {size} px"),
        ("recipe", f"{job.recipe.name}, seed {job.recipe.seed}"),
        (
            "versions",
            f"keras_effnetv2 {__version__}, Keras {keras.__version__} on "
            f"{keras.backend.backend()}, TensorFlow {tf.__version__}",
        ),
    )


def _summary(job: _Job, evaluation: Evaluation, seconds: float) -> str:
    """What came out, after the training."""
    folder = job.folder
    rows = [
        *_summary_rows(job, evaluation, seconds)[:4],
        ("model", str(folder / run_folder.MODEL)),
        ("report", str(folder / run_folder.REPORT)),
    ]
    if keras.backend.backend() == "tensorflow":
        rows.append(("for serving", str(folder / run_folder.SAVED_MODEL)))
    else:
        rows.append(("for serving", f"KERAS_BACKEND=tensorflow keras-effnetv2 export {folder}"))
    return f"\n{_table(rows)}"


def _table(rows: Any) -> str:
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"{label:<{width}}  {value}" for label, value in rows)
