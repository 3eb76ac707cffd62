"""Progressive learning in one `fit`: a dataset that follows a plan, a callback that drives it.

`fit` was made for one dataset of one length, and traces the model once. Here both change:

* `EpochDataset` is the `x` of `fit`. Its iterator returns the batches of the current epoch,
  whether `fit` asks for an iterator at every epoch or keeps one for all (`steps_per_epoch`).
* `ProgressiveLearning` opens each epoch's data and sets the dropout rates. With TensorFlow's own
  kernels one train function serves all stages: sizes are left open in its trace, and rates are
  read from variables (`SharedTrace`). Where shapes must be static (XLA, JAX) it is made again at
  every stage: a traced one would keep the old rates and lose the static picture size.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2._common.text import counted, say
from keras_effnetv2.models.graph import all_layers
from keras_effnetv2.recipes.stages import StagePlan, TrainStage
from keras_effnetv2.training.epoch_dataset import (
    UNBOUNDED,
    EpochDataset,
    MakeDataset,
    StageDataset,
    without_auto_sharding,
)
from keras_effnetv2.training.shared_trace import SharedTrace, can_share, make_variables

# Value of `model.stop_training` that ends an epoch only. Any other callback's True replaces it.
_END_OF_EPOCH = "end of the epoch"


class ProgressiveLearning(keras.callbacks.Callback):
    """Trains a model through the stages of a plan, in one `fit`:

        progressive = ProgressiveLearning(make_dataset, progressive_stages(...))
        model.fit(
            progressive.dataset,
            epochs=progressive.epochs,
            shuffle=False,  # or Keras warns that it does not shuffle a dataset
            callbacks=[progressive],
        )

    Every epoch takes its batches from `make_dataset(stage, epoch)`. At the start of a stage the
    dropout rates are set; weights, optimizer and learning rate continue. Without XLA, TensorFlow
    traces the train step once, with sizes left open. With XLA, on JAX, and where the model or its
    data do not allow that, it is traced at every stage. Works with `steps_per_epoch`,
    `initial_epoch`, `steps_per_execution`, `BackupAndRestore`, `tf.distribute.MirroredStrategy`,
    mixed precision and any Keras backend. After training the dropout rates stay at those of the
    last stage.

    The scheduled layers are every `keras.layers.Dropout` (`SpatialDropout` is one too), also
    inside nested models, that has no `noise_shape` and was built with a rate above 0. In this
    package's networks that is the dropout before the classifier, the one that the paper schedules;
    stochastic depth is a `Dropout` with a `noise_shape` and stays as it is. `dropout_layers`
    overrides the rule. A `dropout_rate` of None leaves the rates alone.

    Data of unknown length (`from_generator`, `filter`) is read in Python, one batch ahead, to find
    the last one; `tf.data.experimental.assert_cardinality` avoids that. With several processes
    pass `auto_shard_dataset=False` to `keras.distribution.DataParallel` and let `make_dataset`
    return the share of its process.

    Args:
        make_dataset: called as `make_dataset(stage, epoch)` with a `TrainStage` and the epoch,
            from 0; returns a `tf.data.Dataset` of the batches of that epoch, as `fit` takes it.
            The progress bar, and one trace for all stages, add one call a stage, to find lengths
            and shapes.
        stages: `StagePlan` or a sequence of `TrainStage`s.
        make_validation: called as `make_validation(image_size)`; returns a `tf.data.Dataset` of the
            validation batches, as many for every size. They are made when they are first needed,
            and again for every other size. For `fit(validation_data=progressive.validation)`.
        evaluation_size: side of the validation pictures from the last stage on, pixels; before,
            and if None, it is that of the stage.
        dropout_layers: names of the layers whose `rate` follows the stages; None is the rule above.
        skip_batches: leave out this many batches of the first epoch that `fit` runs, to resume in
            the middle of it; fewer than it has. `steps_per_epoch` counts the batches after them.
        verbose: 1 prints a line when a stage begins, 0 is silent.
        echo: called with that line.

    Attributes:
        dataset: the `x` of `fit`; useless without this callback.
        validation: the `validation_data` of `fit`, at the size of the stage; None without
            `make_validation`.
        epochs: epochs of the plan.
        stages: the `StagePlan`.

    Raises:
        ValueError: `stages` is not a plan. In `fit`: it asks for more epochs than the plan has or
            reads other data, a named layer cannot be scheduled, the stages' rates differ and the
            model has no layer to set, or an epoch has no batches, or no end without
            `steps_per_epoch`.
        TypeError: `make_dataset` did not return a `tf.data.Dataset`, or with `skip_batches`
            returned a distributed one.
    """

    def __init__(
        self,
        make_dataset: MakeDataset,
        stages: Iterable[TrainStage],
        *,
        make_validation: Callable[[int], tf.data.Dataset] | None = None,
        evaluation_size: int | None = None,
        dropout_layers: Sequence[str] | None = None,
        skip_batches: int = 0,
        verbose: int = 0,
        echo: Callable[[str], Any] = say,
    ) -> None:
        super().__init__()
        self.stages = StagePlan(stages)
        self.dataset = EpochDataset(make_dataset, self.stages)
        sizes = [stage.image_size for stage in self.stages]
        self._validation_sizes = [*sizes[:-1], evaluation_size or sizes[-1]]
        self.validation = make_validation and StageDataset(make_validation, self._validation_sizes)
        self.dropout_layers = dropout_layers
        self.skip_batches = skip_batches
        self.verbose = verbose
        self.echo = echo
        self._stage: TrainStage | None = None
        self._steps_per_epoch: int | None = None
        self._is_shared = False  # one train function for all stages
        self._trace: SharedTrace | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the plan, for `fit(epochs=...)`."""
        return self.stages.epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if params["steps"] != UNBOUNDED:
            self._steps_per_epoch = params["steps"]
            return
        self._steps_per_epoch = None
        # The dictionary is shared: the progress bar, which comes last, takes its total from here.
        params["steps"] = self.dataset.longest_epoch() if params["verbose"] else None

    def on_train_begin(self, logs: Any = None) -> None:
        self._stage = None
        if self.params["epochs"] > self.epochs:
            raise ValueError(
                f"The plan has {counted(self.epochs, 'epoch')}. Use "
                f"fit(epochs=progressive.epochs). Received: epochs={self.params['epochs']}"
            )
        layers = self._scheduled_layers()
        self._distribute = _distribution_of(self.model)
        self.dataset.start(self._distribute, self._steps_per_epoch, self.skip_batches)
        self._trace = None
        is_traced = keras.backend.backend() == "tensorflow" and not self.model.run_eagerly
        self._is_shared = (
            is_traced
            and not self.model.jit_compile
            and all(map(can_share, layers))
            and self.dataset.share_shapes(getattr(self.model, "inputs", None))
        )
        if is_traced:
            make_variables(self.model, self.dataset)

    def _scheduled_layers(self) -> list[Any]:
        layers = scheduled_dropout_layers(self.model, self.dropout_layers, self.stages)
        return layers if {stage.dropout_rate for stage in self.stages} - {None} else []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.stages.at(epoch) is not self._stage:
            self._begin(self.stages.at(epoch))
        self.dataset.open(epoch)

    def _begin(self, stage: TrainStage) -> None:
        self._stage = stage
        if stage.dropout_rate is not None:
            for layer in self._scheduled_layers():
                layer.rate = stage.dropout_rate
        if not self._is_shared:
            self.model.make_train_function(force=True)
        elif self._trace is None or self.model.train_function is not self._trace:
            self._trace = SharedTrace(self.model, self._scheduled_layers(), self._trace_each_stage)
        else:
            self._trace.update()
        size = self._validation_sizes[stage.index]
        if self.validation is not None:
            self.validation.open(size)
        if self.verbose:
            judged = "" if self.validation is None else f", validated at {size}"
            self.echo(_announcement(stage, self.stages) + judged)

    def on_test_begin(self, logs: Any = None) -> None:
        if self.validation is not None:
            self.validation.start(self._distribute, is_shared=self._is_shared)

    def _trace_each_stage(self) -> None:
        self._is_shared, self._trace = False, None
        self.dataset.keep_shapes()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.dataset.was_read:
            raise ValueError(
                "`fit` does not read the data of ProgressiveLearning. Pass "
                "model.fit(progressive.dataset, ...) with callbacks=[progressive]."
            )
        # `batch` is the index of the last step; with `steps_per_execution` it may lie past the end.
        length = self.dataset.length
        if self._steps_per_epoch is None and length is not None and batch + 1 >= length:
            self.dataset.is_at_end = True
            self.model.stop_training = self.model.stop_training or _END_OF_EPOCH

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False

    def on_train_end(self, logs: Any = None) -> None:
        self.dataset.stop()
        if self.validation is not None:
            self.validation.open(None)
        if self._trace is not None:
            self._trace = self.model.train_function = None  # the next `fit` makes its own


def _distribution_of(model: keras.Model) -> Callable[[tf.data.Dataset], Any] | None:
    """The function that distributes a dataset as the model is; None if the backend has none."""
    if keras.backend.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    distribute = strategy.experimental_distribute_dataset
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        return lambda dataset: distribute(without_auto_sharding(dataset))
    return distribute


def scheduled_dropout_layers(model: Any, names: Sequence[str] | None, plan: StagePlan) -> list[Any]:
    """Return the layers whose rate follows the plan; the rule is in `ProgressiveLearning`."""
    # Keras gives a dropout layer its random seed only if it is built with a rate above 0.
    layers = [layer for layer in all_layers(model) if hasattr(layer, "seed_generator")]
    if names is not None:
        usable = {layer.name: layer for layer in layers if hasattr(layer, "rate")}
        if unusable := [name for name in names if name not in usable]:
            raise ValueError(
                "`dropout_layers` must name layers that have a `rate` and were built with one "
                f"above 0: {', '.join(usable) or 'this model has none'}. "
                f"Received: {', '.join(unusable)}"
            )
        return [usable[name] for name in names]
    dropouts = (layer for layer in layers if isinstance(layer, keras.layers.Dropout))
    found = [layer for layer in dropouts if layer.noise_shape is None]
    rates = {stage.dropout_rate for stage in plan}
    if not found and len(rates - {None}) > 1:
        raise ValueError(
            "The stages schedule the dropout rate, but the model has no Dropout layer to set (one "
            "with noise_shape=None, built with a rate above 0). Build the model with dropout, name "
            "its layers in `dropout_layers`, or plan with dropout_rate=None. Received: model="
            f"{model.name!r}, dropout rates {[stage.dropout_rate for stage in plan]}"
        )
    return found


def _announcement(stage: TrainStage, plan: StagePlan) -> str:
    header, *rows = plan.table()
    settings = list(zip(header, rows[stage.index], strict=True))[2:]  # after stage and epochs
    listed = ", ".join(f"{name} {'off' if value == '-' else value}" for name, value in settings)
    epochs = f"{stage.start_epoch + 1}-{stage.end_epoch}"
    return f"Stage {stage.index + 1}/{len(plan)}, epochs {epochs}: {listed}"
