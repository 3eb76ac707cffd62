"""Progressive learning in one `fit`: a dataset that follows a plan, a callback that drives it.

`fit` was made for one dataset of one length, and traces the model once. Here both change:

* `_EpochDataset` is the `x` of `fit`. Its iterator returns the batches of the current epoch,
  whether `fit` asks for an iterator at every epoch or keeps one for all (`steps_per_epoch`).
* `ProgressiveLearning` opens each epoch's data, sets the dropout rates, and makes the train
  function again at every stage: a traced one keeps the old rates and loses the static picture
  size.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, pairwise
from typing import Any

import keras
import tensorflow as tf

from keras_effnetv2._common.text import counted, say
from keras_effnetv2.models.graph import all_layers
from keras_effnetv2.recipes.stages import StagePlan, TrainStage

# What `fit` believes an epoch has at most. It cuts every epoch at the number that it reads before
# the first one, and stages differ in length: so the number has to be out of reach.
_UNBOUNDED = 2**62

# Value of `model.stop_training` that ends an epoch only. Any other callback's True replaces it.
_END_OF_EPOCH = "end of the epoch"

# Batches that may be read outside of training: a look-ahead of one (JAX on an accelerator) while
# `fit` reads a first batch to build the model.
_PREVIEW_BATCHES = 2

MakeDataset = Callable[[TrainStage, int], Any]


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
    dropout rates are set and the train function is made again; weights, optimizer and learning
    rate continue. Works with `steps_per_epoch`, `initial_epoch`, `steps_per_execution`,
    `BackupAndRestore`, `tf.distribute.MirroredStrategy`, mixed precision and any Keras backend.
    After training the dropout rates stay at those of the last stage.

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
            The progress bar adds one call a stage, to find the lengths.
        stages: `StagePlan` or a sequence of `TrainStage`s.
        dropout_layers: names of the layers whose `rate` follows the stages; None is the rule above.
        skip_batches: leave out this many batches of the first epoch that `fit` runs, to resume in
            the middle of it; fewer than it has. `steps_per_epoch` counts the batches after them.
        verbose: 1 prints a line when a stage begins, 0 is silent.
        echo: called with that line.

    Attributes:
        dataset: the `x` of `fit`; useless without this callback.
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
        dropout_layers: Sequence[str] | None = None,
        skip_batches: int = 0,
        verbose: int = 0,
        echo: Callable[[str], Any] = say,
    ) -> None:
        super().__init__()
        self.stages = StagePlan(stages)
        self.dataset = _EpochDataset(make_dataset, self.stages)
        self.dropout_layers = dropout_layers
        self.skip_batches = skip_batches
        self.verbose = verbose
        self.echo = echo
        self._stage: TrainStage | None = None
        self._steps_per_epoch: int | None = None

    @property
    def epochs(self) -> int:
        """Epochs of the plan, for `fit(epochs=...)`."""
        return self.stages.epochs

    def set_params(self, params: dict[str, Any]) -> None:
        super().set_params(params)
        if params["steps"] != _UNBOUNDED:
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
        scheduled_dropout_layers(self.model, self.dropout_layers, self.stages)
        self.dataset.start(_distribution_of(self.model), self._steps_per_epoch, self.skip_batches)

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        if self.stages.at(epoch) is not self._stage:
            self._begin(self.stages.at(epoch))
        self.dataset.open(epoch)

    def _begin(self, stage: TrainStage) -> None:
        self._stage = stage
        if stage.dropout_rate is not None:
            for layer in scheduled_dropout_layers(self.model, self.dropout_layers, self.stages):
                layer.rate = stage.dropout_rate
        self.model.make_train_function(force=True)
        if self.verbose:
            self.echo(_announcement(stage, self.stages))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        if not self.dataset.was_read:
            raise ValueError(
                "`fit` does not read the data of ProgressiveLearning. Pass "
                "model.fit(progressive.dataset, ...) with callbacks=[progressive]."
            )
        # `batch` is the index of the last step; with `steps_per_execution` it may lie past the end.
        length = self.dataset.length
        if self._steps_per_epoch is None and length is not None and batch + 1 >= length:
            self.model.stop_training = self.model.stop_training or _END_OF_EPOCH

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        if self.model.stop_training is _END_OF_EPOCH:
            self.model.stop_training = False

    def on_train_end(self, logs: Any = None) -> None:
        self.dataset.stop()


class _EpochDataset(tf.data.Dataset, tf.distribute.DistributedDataset):
    """The dataset that `fit` sees: iterating it gives the batches of the epoch that is open.

    It counts as distributed so that `fit` iterates it directly. It has no graph (so no
    `super().__init__`): transforming it raises the error of `_variant_tensor`.
    """

    def __init__(self, make_dataset: MakeDataset, plan: StagePlan) -> None:
        self._make_dataset = make_dataset
        self._plan = plan
        self.start(None, None, 0)

    def _forget(self) -> None:
        self._epoch: int | None = None
        self._fresh = False  # opened and not yet asked for an iterator
        self._served = 0
        self.iterator: Any = None
        self.length: int | None = None  # batches of the open epoch, None if unknown or without end

    def start(
        self, distribute: Callable[[Any], Any] | None, steps_per_epoch: int | None, skip: int
    ) -> None:
        """Begin a training; `distribute` maps each epoch's dataset to its distributed form."""
        self._forget()
        self._distribute = distribute
        self._steps_per_epoch = steps_per_epoch
        self._skip_batches = skip
        self.was_read = False

    def stop(self) -> None:
        """Let go of the training and its data."""
        self._forget()
        self._distribute = None

    def open(self, epoch: int) -> None:
        """Make the data of `epoch` the current one, unless a look-ahead has done so."""
        if epoch == self._epoch:
            return
        self._forget()  # first, so that two pipelines never stand side by side
        dataset = self._make(self._plan.at(epoch), epoch)
        if self._skip_batches:
            dataset = self._without_skipped(dataset, epoch)
        cardinality = _cardinality(dataset)
        if self._steps_per_epoch is None and cardinality == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The data has no end. Pass `steps_per_epoch` to `fit`, or let make_dataset(stage, "
                f"epoch) `take` the batches of one epoch. Received: {dataset!r}, epoch={epoch}"
            )
        self._epoch = epoch
        self._fresh = True
        self.length = cardinality if cardinality >= 0 else None
        is_distributed = isinstance(dataset, tf.distribute.DistributedDataset)
        if self._distribute is not None and not is_distributed:
            dataset = self._distribute(dataset)
        self.iterator = iter(dataset)

    def _without_skipped(self, dataset: Any, epoch: int) -> Any:
        count, self._skip_batches = self._skip_batches, 0
        if not isinstance(dataset, tf.data.Dataset):
            raise TypeError(
                "With `skip_batches` make_dataset(stage, epoch) must return a tf.data.Dataset; "
                "ProgressiveLearning distributes it as the model is. "
                f"Received: {dataset!r}, skip_batches={count}"
            )
        rest, batches = dataset.skip(count), _cardinality(dataset)
        if count < 0 or _cardinality(rest) == 0:
            raise ValueError(
                "`skip_batches` must be less than the number of batches in the epoch. "
                f"Received: skip_batches={count}, epoch={epoch} with "
                f"{counted(batches, 'batch', 'batches')}"
            )
        return rest

    def _make(self, stage: TrainStage, epoch: int) -> Any:
        dataset = self._make_dataset(stage, epoch)
        if not isinstance(dataset, tf.data.Dataset | tf.distribute.DistributedDataset):
            raise TypeError(
                "make_dataset(stage, epoch) must return a tf.data.Dataset of batches. "
                f"Received: {dataset!r} for {stage}, epoch={epoch}"
            )
        if _cardinality(dataset) == 0:
            raise ValueError(
                "make_dataset(stage, epoch) must return at least one batch; with "
                "drop_remainder=True the batch may be larger than the data. Received: no batches "
                f"for {stage}, epoch={epoch}"
            )
        return dataset

    def longest_epoch(self) -> int | None:
        """Return the most batches of the stages' first epochs; None if one is not known."""
        lengths = [_cardinality(self._make(stage, stage.start_epoch)) for stage in self._plan]
        return max(lengths) if min(lengths) >= 0 else None

    def next_batch(self) -> Any:
        """Return the next batch, for the backends that read in Python.

        A backend that reads one batch ahead of `steps_per_epoch` gets the next epoch's first one.
        """
        if self._served == self._steps_per_epoch:
            if self._epoch is None or self._epoch + 1 == self._plan.epochs:
                raise StopIteration
            self.open(self._epoch + 1)
        batch = next(self.iterator)
        self._served += 1
        return batch

    def __iter__(self) -> Iterator[Any]:
        if not self._fresh:  # not from within a training, or from a `fit` that has yet to begin
            return self._preview()
        self._fresh = False
        self.was_read = True
        if self.length is None and self._steps_per_epoch is None:
            return self._read_ahead()
        return _OpenEpochIterator(self)

    def _read_ahead(self) -> Iterator[Any]:
        """The open epoch's batches; sets `length` when the last one is handed out.

        Running into the end of the data inside a train step would count half a step: variables
        that do not depend on the batch (metrics' counts) are updated nevertheless.
        """
        for count, (batch, following) in enumerate(pairwise(chain(self.iterator, [None])), start=1):
            if following is None:
                self.length = count
            yield batch

    def _preview(self) -> Iterator[Any]:
        for count, batch in enumerate(self._make(self._plan[0], 0)):
            if count == _PREVIEW_BATCHES:
                raise RuntimeError(
                    "The dataset of ProgressiveLearning was read without its callback, which "
                    "switches the epochs and stages. Pass both: model.fit(progressive.dataset, "
                    "epochs=progressive.epochs, callbacks=[progressive])."
                )
            yield batch

    def cardinality(self) -> Any:
        """Return "unknown": the callback ends an epoch, not `fit`."""
        return tf.constant(_UNBOUNDED, tf.int64)

    @property
    def element_spec(self) -> Any:
        """Of the open epoch; of the first one outside of training."""
        source = self._make(self._plan[0], 0) if self.iterator is None else self.iterator
        return source.element_spec

    def _inputs(self) -> list[Any]:
        return []

    @property
    def _variant_tensor(self) -> Any:
        raise NotImplementedError(
            "The dataset of ProgressiveLearning can only be given to `fit`. Transform, weight or "
            "shard the data in make_dataset(stage, epoch) instead (no `class_weight` in `fit`; "
            "keras.distribution.DataParallel(auto_shard_dataset=False))."
        )


class _OpenEpochIterator(tf.data.Iterator):
    """Iterator over whichever epoch is open, for a `fit` that keeps one iterator for all epochs.

    A `tf.function` sees the iterator of the open epoch in its place: its type and its handle.
    """

    def __init__(self, epochs: _EpochDataset) -> None:
        super().__init__()
        self._epochs = epochs

    @property
    def element_spec(self) -> Any:
        return self._epochs.iterator.element_spec

    def get_next(self) -> Any:
        return self._epochs.iterator.get_next()

    def get_next_as_optional(self) -> Any:
        return self._epochs.iterator.get_next_as_optional()

    def __next__(self) -> Any:
        return self._epochs.next_batch()

    @property
    def _type_spec(self) -> Any:
        return self._epochs.iterator._type_spec

    @property
    def _iterator_resource(self) -> Any:  # the handle of a plain iterator
        return self._epochs.iterator._iterator_resource

    @property
    def _iterators(self) -> Any:  # the handles of a distributed iterator
        return self._epochs.iterator._iterators


def without_auto_sharding(dataset: tf.data.Dataset) -> tf.data.Dataset:
    """Return the dataset, marked as not to be divided among machines when it is distributed.

    On the devices of one machine nothing is divided, but to find that out TensorFlow (2.21)
    rewrites the pipeline for each new iterator: 7 seconds for ours.
    """
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.with_options(options)


def _distribution_of(model: keras.Model) -> Callable[[tf.data.Dataset], Any] | None:
    """The function that distributes a dataset as the model is; None if the backend has none."""
    if keras.backend.backend() != "tensorflow":
        return None
    strategy = model.distribute_strategy
    distribute = strategy.experimental_distribute_dataset
    if isinstance(strategy, tf.distribute.MirroredStrategy):
        return lambda dataset: distribute(without_auto_sharding(dataset))
    return distribute


def _cardinality(dataset: Any) -> int:
    """Number of batches; negative where it is unknown or infinite."""
    cardinality = dataset.cardinality  # a method of a Dataset, a number of a DistributedDataset
    return int(cardinality() if callable(cardinality) else cardinality)


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
