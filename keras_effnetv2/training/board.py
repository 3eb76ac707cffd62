"""What TensorBoard shows of a training: scalars of every epoch, pictures of every stage."""

from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from keras_effnetv2.report.samples import stage_title, training_pictures
from keras_effnetv2.training.inputs import Inputs

MAX_PICTURES = 12  # of one stage


class StagePictures(keras.callbacks.Callback):
    """Writes training pictures of a stage for TensorBoard when it begins, the very ones of it."""

    def __init__(self, folder: Path, inputs: Inputs) -> None:
        super().__init__()
        self._inputs = inputs
        self._writer = tf.summary.create_file_writer(str(folder))

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        stage = self._inputs.plan.at(epoch)
        if epoch != stage.start_epoch:
            return
        names = self._inputs.training.class_names
        samples = training_pictures(stage, self._inputs.stage_dataset, names, MAX_PICTURES)
        captions = ", ".join(f"{i}: {one.caption}" for i, one in enumerate(samples))
        with self._writer.as_default():
            tf.summary.image(
                stage_title(stage).partition(":")[0].lower(),
                np.stack([one.image for one in samples]),
                step=epoch,
                max_outputs=MAX_PICTURES,
                description=f"{stage_title(stage)}. Labels: {captions}",
            )

    def on_train_end(self, logs: Any = None) -> None:
        self._writer.flush()


def board_callbacks(folder: Path, inputs: Inputs) -> list[keras.callbacks.Callback]:
    """Return the callbacks that write files for TensorBoard into a folder."""
    scalars = keras.callbacks.TensorBoard(str(folder), write_graph=False)
    # A probe computes its features from pictures without augmentation, and has no stages.
    return [scalars] if inputs.is_probe else [scalars, StagePictures(folder / "pictures", inputs)]
