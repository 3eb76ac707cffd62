"""The command `train`: train a classifier, or show the pictures it would be trained with."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from typer import BadParameter

from keras_effnetv2._common.checks import check_integer, check_tensorboard
from keras_effnetv2._common.text import say
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.architectures.variants import variant_unless_path
from keras_effnetv2.cli.command import OptionGroup, command, flag, option
from keras_effnetv2.cli.options import (
    DATA,
    DataOptions,
    RecipeOptions,
    check_weights,
    read_network,
)
from keras_effnetv2.cli.quiet_start import start_tensorflow
from keras_effnetv2.recipes.presets import FROM_SCRATCH
from keras_effnetv2.recipes.recipe import TrainRecipe
from keras_effnetv2.runs.run_settings import Limits, RunSettings
from keras_effnetv2.runs.run_state import check_output

if TYPE_CHECKING:
    from keras_effnetv2.training.start import Start


@dataclass(frozen=True)
class DeviceOptions(OptionGroup):
    """The devices for the training."""

    section = "Several devices (--batch-size is the global batch size)"

    mirrored: bool = flag(
        "--mirrored", "Train on all GPUs of this machine (TensorFlow's MirroredStrategy)."
    )
    coordinator: str | None = option(
        "HOST:PORT",
        "Address of worker 0, to train together with other processes. Start each of them with this "
        "command and its own --worker. All must see the same DIR. Needs KERAS_BACKEND=jax.",
    )
    workers: int = option("N", "Number of processes.", 1)
    worker: int = option("I", "Number of this process, counted from 0.", 0)

    def check(self) -> None:
        """Raise ValueError for options that do not go together, and for numbers out of range."""
        check_integer("workers", self.workers, minimum=1)
        check_integer("worker", self.worker, minimum=0, maximum=self.workers - 1)
        if self.coordinator is None and self.workers != 1:
            raise ValueError("--workers needs --coordinator HOST:PORT, the address of worker 0.")
        if self.coordinator is not None and self.mirrored:
            raise ValueError("Choose one of --mirrored (TensorFlow) and --coordinator (JAX).")

    def start(self) -> Any:
        """Connect to the other processes; return the strategy for the GPUs of this machine."""
        import tensorflow as tf

        from keras_effnetv2.training.workers import connect

        if self.coordinator is not None:
            connect(self.coordinator, self.workers, self.worker)
        return tf.distribute.MirroredStrategy() if self.mirrored else None


@dataclass(frozen=True)
class CourseOptions(OptionGroup):
    """When the training ends before its last epoch, and where to watch it."""

    section = "Course of the training"

    patience: int | None = option(
        "N",
        "End the training if N epochs of the last stage bring no improvement, and keep the weights "
        "of the best epoch (highest validation accuracy, then lowest loss). --resume keeps this.",
    )

    max_minutes: float | None = option(
        "M",
        "Finish in M minutes, from loading the pictures to writing the report. If time is short, "
        "there are fewer epochs, or fewer pictures in each; no stage is skipped, and the learning "
        "rate runs its whole course. Starting TensorFlow is not counted. --resume keeps this, and "
        "counts the time that is used up.",
    )

    tensorboard: bool = flag(
        "--tensorboard",
        "Write DIR/tensorboard for TensorBoard: scalars of every epoch, pictures of every stage.",
    )

    def check(self) -> None:
        """Raise ValueError for a number out of range.

        Raises:
            ImportError: a package is missing that was asked for.
        """
        Limits(self.patience, self.max_minutes)
        if self.tensorboard:
            check_tensorboard("--tensorboard")


_RECIPE = RecipeOptions(None)
_NONE = "none"
_CHOOSE_WEIGHTS = ("auto", _NONE)


@command("keras-effnetv2 train --data photos/ --output runs/photos")
def train(
    *,
    data: str = DATA,
    output: Path = option("DIR", "The run folder.", ...),
    model: str = option(
        "VARIANT_OR_FILE",
        "A variant, or the JSON file of another network (see the command info).",
        "efficientnetv2-b0",
    ),
    weights: str = option(
        "NAME_OR_PATH",
        "Weights to start from: a published set or hf://OWNER/NAME, which are downloaded, a weight "
        "file, auto (the best published set that is available), or none (random).",
        "auto",
    ),
    probe: bool = flag(
        "--probe",
        "Fit only the classifier, to features that are computed once for every picture (the recipe "
        "probe).",
    ),
    preview: bool = flag(
        "--preview", "Do not train; write DIR/preview.html with pictures and labels of every stage."
    ),
    resume: bool = flag("--resume", "Resume the interrupted run in DIR."),
    overwrite: bool = flag("--overwrite", "Replace the run in DIR."),
    data_options: DataOptions,
    recipe_options: RecipeOptions = _RECIPE,
    course: CourseOptions,
    devices: DeviceOptions,
) -> None:
    """Train a classifier on pictures, progressively, and write a run folder."""
    if preview and resume:
        raise BadParameter("does not go with --resume", param_hint="--preview")
    recipe_options = _with_probe(recipe_options) if probe else recipe_options
    config = read_network(model)
    default = FROM_SCRATCH[0] if weights in _CHOOSE_WEIGHTS else "finetune"
    recipe = recipe_options.load(config.name, default)
    devices.check()
    course.check()
    checked = recipe or recipe_options.changed(TrainRecipe.preset(default))
    data_options.check(data, checked.class_weights)
    check_weights(config, None if weights in _CHOOSE_WEIGHTS else weights)
    earlier = None if preview else check_output(output, resume=resume, overwrite=overwrite)
    start_tensorflow()
    from keras_effnetv2.data.sources import available_splits

    available_splits(data, data_options.multi_label)  # bad data: before weights are downloaded
    start = _start(config, weights, recipe, recipe_options, earlier)
    network = variant_unless_path(model) or config  # a variant may be changed for small pictures
    if preview:
        _preview(network, data, vars(data_options), start, output)
        return
    strategy = devices.start()
    from keras_effnetv2.training.fit import train as train_network

    train_network(
        network,
        data,
        start.recipe,
        output,
        **vars(data_options),
        **vars(course),
        weights=start.weights,
        resume=resume,
        overwrite=overwrite,
        strategy=strategy,
    )


def _with_probe(options: RecipeOptions) -> RecipeOptions:
    if options.preset or options.recipe:
        raise BadParameter("does not go with --preset or --recipe", param_hint="--probe")
    return replace(options, preset="probe")


def _start(
    config: ModelConfig,
    weights: str,
    recipe: TrainRecipe | None,
    options: RecipeOptions,
    earlier: RunSettings | None,
) -> "Start":
    """Return what to start from, with the recipe that is asked for."""
    from keras_effnetv2.training.start import settle_start

    start = settle_start(config, None if weights == _NONE else weights, recipe, earlier, say)
    return start._replace(recipe=recipe or options.changed(start.recipe))


def _preview(
    network: ModelConfig | str, data: str, settings: dict[str, Any], start: "Start", output: Path
) -> None:
    from keras_effnetv2.data.training_data import TrainingData
    from keras_effnetv2.training.preview import write_preview

    pictures = TrainingData(data, **settings)
    say(write_preview(network, pictures, start.recipe, output, weights=start.weights))
