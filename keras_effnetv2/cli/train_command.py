"""The command `train`: trains a classifier, or shows what it would be trained with."""

import sys
from pathlib import Path

from typer import BadParameter

from keras_effnetv2.architectures.config_file import read_config
from keras_effnetv2.cli.options import Data, DataOptions, RecipeOptions, check_data, check_weights
from keras_effnetv2.cli.quiet_start import start_tensorflow

_RECIPE = RecipeOptions("quickstart")


def train(
    data: Data,
    output: Path,
    *,
    model: str = "efficientnetv2-b0",
    weights: str | None = None,
    preview: bool = False,
    resume: bool = False,
    overwrite: bool = False,
    data_options: DataOptions,
    recipe_options: RecipeOptions = _RECIPE,
    mirrored: bool = False,
    coordinator: str | None = None,
    workers: int = 1,
    worker: int = 0,
) -> None:
    """Train a classifier on pictures, progressively, and write a run folder.

    Options:
      --output DIR: The run folder.
      --model VARIANT_OR_FILE: A variant, or the JSON file of another network (see the command
        info).
      --weights NAME_OR_PATH: Weights to start from: a published set, which is downloaded, or a
        weight file.  [default: fresh weights]
      --preview: Do not train: write DIR/preview.html with pictures and labels of every stage.
      --resume: Go on with the interrupted run in DIR.
      --overwrite: Replace the run in DIR.

    Several devices (--batch-size is the global batch size):
      --mirrored: Train on all GPUs of this machine (TensorFlow's MirroredStrategy).
      --coordinator HOST:PORT: Address of worker 0: train together with other processes. Start each
        of them with this command and its own --worker; all must see the same DIR. Needs
        KERAS_BACKEND=jax.
      --workers N: Number of processes.
      --worker I: Number of this process, from 0.

    Example:
      keras-effnetv2 train --data photos/ --output runs/photos
    """
    if preview and resume:
        raise BadParameter("does not go with --resume", param_hint="--preview")
    config = read_config(model)
    recipe_options.check()
    if coordinator is None and workers != 1:
        raise ValueError("--workers needs --coordinator HOST:PORT, the address of worker 0.")
    if coordinator is not None and mirrored:
        raise ValueError("Choose one of --mirrored (TensorFlow) and --coordinator (JAX).")
    check_data(data)
    check_weights(config, weights)
    start_tensorflow()
    recipe = recipe_options.load()
    settings = vars(data_options)
    if preview:
        from keras_effnetv2.data.training_data import TrainingData
        from keras_effnetv2.training.preview import write_preview

        print(write_preview(config, TrainingData(data, **settings), recipe, output))
        return
    import tensorflow as tf

    from keras_effnetv2.training.workers import connect

    if coordinator is not None:
        connect(coordinator, workers, worker)
    from keras_effnetv2.training.fit import train as train_network

    train_network(
        config,
        data,
        recipe,
        output,
        **settings,
        weights=weights,
        resume=resume,
        overwrite=overwrite,
        strategy=tf.distribute.MirroredStrategy() if mirrored else None,
        # A bar redraws its line; into a file or a pipe one line an epoch is better.
        verbose=1 if sys.stdout.isatty() else 2,
    )
