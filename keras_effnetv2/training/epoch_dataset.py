"""`EpochDataset`: the `x` of one `fit` whose epochs and stages have data of their own."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise
from typing import Any

import tensorflow as tf

from keras_effnetv2._common.text import counted
from keras_effnetv2.recipes.stages import StagePlan, TrainStage

# What `fit` believes an epoch has at most. It cuts every epoch at the number that it reads before
# the first one, and stages differ in length: so the number has to be out of reach.
UNBOUNDED = 2**62

# Batches that may be read outside of training: a look-ahead of one (JAX on an accelerator) while
# `fit` reads a first batch to build the model.
_PREVIEW_BATCHES = 2

MakeDataset = Callable[[TrainStage, int], Any]


@dataclass(frozen=True)
class EpochsInOne:
    """The batches of an epoch and of those after it in its stage, as many of each.

    One iterator reads them all: what a new one costs is paid once a stage. Only for one step an
    execution, as several could read on into the next epoch.
    """

    dataset: tf.data.Dataset
    epochs: int

    @property
    def length(self) -> int:
        """Batches of an epoch; negative if unknown or infinite."""
        return _cardinality(self.dataset) // self.epochs


class EpochDataset(tf.data.Dataset, tf.distribute.DistributedDataset):
    """The dataset that `fit` sees: iterating it gives the batches of the epoch that is open.

    It counts as distributed so that `fit` iterates it directly. It has no graph (so no
    `super().__init__`): transforming it raises the error of `_variant_tensor`.
    """

    def __init__(self, make_dataset: MakeDataset, plan: StagePlan) -> None:
        self._make_dataset = make_dataset
        self._plan = plan
        self._looks: list[tuple[int, Any]] | None = None
        self.start(None, None, 0)

    def _forget(self) -> None:
        self._epoch: int | None = None
        self._last_epoch = -1  # that the iterator has batches of
        self.is_at_end = False  # all batches of the open epoch have been read
        self._fresh = False  # opened and not yet asked for an iterator
        self._served = 0
        self._source: Any = None
        self.iterator: Any = None
        self.length: int | None = None  # batches of the open epoch, None if unknown or without end
        self._whole_length = 0  # of an epoch of which nothing is skipped

    def start(
        self, distribute: Callable[[Any], Any] | None, steps_per_epoch: int | None, skip: int
    ) -> None:
        """Begin a training; `distribute` maps each epoch's dataset to its distributed form."""
        self._forget()
        self._distribute = distribute
        self._steps_per_epoch = steps_per_epoch
        self._skip_batches = skip
        self._shared_spec: Any = None
        self.was_read = False

    def stop(self) -> None:
        """Let go of the training and its data."""
        self._looks = None
        self._forget()
        self._distribute = None

    def open(self, epoch: int) -> None:
        """Make the data of `epoch` the current one, unless a look-ahead has done so."""
        if epoch == self._epoch:
            return
        if self.is_at_end and epoch <= self._last_epoch:  # the iterator goes on with its batches
            self._epoch, self._fresh, self._served = epoch, True, 0
            self.length, self.is_at_end = self._whole_length, False
            return
        self._forget()  # first, so that two pipelines never stand side by side
        made = self._make(self._plan.at(epoch), epoch)
        dataset, length = made.dataset, made.length
        if self._steps_per_epoch is None and length == tf.data.INFINITE_CARDINALITY:
            raise ValueError(
                "The data has no end. Pass `steps_per_epoch` to `fit`, or let make_dataset(stage, "
                f"epoch) `take` the batches of one epoch. Received: {dataset!r}, epoch={epoch}"
            )
        if self._skip_batches:
            length -= self._skip_batches
            dataset = self._without_skipped(made, epoch)
        self._epoch, self._last_epoch = epoch, epoch + made.epochs - 1
        self._fresh = True
        self.length = length if length >= 0 else None
        self._whole_length = made.length
        self._source = dataset
        self._start_iterator()

    def _start_iterator(self) -> None:
        dataset = self._source
        if not isinstance(dataset, tf.distribute.DistributedDataset):
            if self._shared_spec is not None:
                variant = tf.data.experimental.to_variant(dataset)
                dataset = tf.data.experimental.from_variant(variant, self._shared_spec)
            if self._distribute is not None:
                dataset = self._distribute(dataset)
        self.iterator = iter(dataset)

    def share_shapes(self, model_inputs: Sequence[Any] | None) -> bool:
        """Give the batches of all epochs one spec; return whether that is possible.

        `model_inputs` are the tensors that the model takes, None if it does not say; they must
        leave open what differs between the stages.
        """
        lengths, specs = zip(*self._first_look(), strict=True)
        if None in specs or (self._steps_per_epoch is None and min(lengths) < 0):
            return False
        try:
            shared = tf.nest.map_structure(
                lambda first, *others: first.most_specific_common_supertype(others), *specs
            )
        except (TypeError, ValueError):  # the structures differ
            return False
        if None in tf.nest.flatten(shared):
            return False
        if model_inputs is not None:
            fed = tf.nest.flatten(shared[0] if isinstance(shared, tuple) else shared)
            taken = [tf.TensorShape(tensor.shape) for tensor in model_inputs]
            if len(fed) != len(taken) or not all(
                spec.shape.is_subtype_of(shape) for spec, shape in zip(fed, taken, strict=True)
            ):
                return False
        self._shared_spec = shared
        return True

    def keep_shapes(self) -> None:
        """Undo `share_shapes`, before the first batch of the open epoch was read."""
        self._shared_spec = None
        self._start_iterator()

    def _without_skipped(self, made: EpochsInOne, epoch: int) -> Any:
        count, self._skip_batches = self._skip_batches, 0
        dataset = made.dataset
        if not isinstance(dataset, tf.data.Dataset):
            raise TypeError(
                "With `skip_batches` make_dataset(stage, epoch) must return a tf.data.Dataset; "
                "ProgressiveLearning distributes it as the model is. "
                f"Received: {dataset!r}, skip_batches={count}"
            )
        rest = dataset.skip(count)
        if count < 0 or _cardinality(rest) == 0 or 0 <= made.length <= count:
            raise ValueError(
                "`skip_batches` must be less than the number of batches in the epoch. "
                f"Received: skip_batches={count}, epoch={epoch} with "
                f"{counted(made.length, 'batch', 'batches')}"
            )
        return rest

    def _make(self, stage: TrainStage, epoch: int) -> EpochsInOne:
        made = self._make_dataset(stage, epoch)
        if not isinstance(made, EpochsInOne):
            made = EpochsInOne(made, 1)
        dataset = made.dataset
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
        return made

    def longest_epoch(self) -> int | None:
        """Return the most batches of the stages' first epochs; None if one is not known."""
        lengths = [length for length, _ in self._first_look()]
        return max(lengths) if min(lengths) >= 0 else None

    def _first_look(self) -> list[tuple[int, Any]]:
        """Return the length and the spec, None if distributed, of each stage's first epoch."""

        def look(stage: TrainStage) -> tuple[int, Any]:
            made = self._make(stage, stage.start_epoch)
            is_plain = isinstance(made.dataset, tf.data.Dataset)
            return made.length, made.dataset.element_spec if is_plain else None

        if self._looks is None:
            self._looks = [look(stage) for stage in self._plan]
        return self._looks

    def next_batch(self) -> Any:
        """Return the next batch, for the backends that read in Python.

        A backend that reads one batch ahead of `steps_per_epoch` gets the next epoch's first one.
        """
        if self._steps_per_epoch is None and self._served == self.length:
            raise StopIteration  # what follows belongs to the next epoch
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
        for count, batch in enumerate(self._make(self._plan[0], 0).dataset):
            if count == _PREVIEW_BATCHES:
                raise RuntimeError(
                    "The dataset of ProgressiveLearning was read without its callback, which "
                    "switches the epochs and stages. Pass both: model.fit(progressive.dataset, "
                    "epochs=progressive.epochs, callbacks=[progressive])."
                )
            yield batch

    def cardinality(self) -> Any:
        """Return "unknown": the callback ends an epoch, not `fit`."""
        return tf.constant(UNBOUNDED, tf.int64)

    @property
    def element_spec(self) -> Any:
        """Of the open epoch; of the first one outside of training."""
        if self.iterator is None:
            return self._make(self._plan[0], 0).dataset.element_spec
        return self.iterator.element_spec

    def _inputs(self) -> list[Any]:
        return []

    @property
    def _variant_tensor(self) -> Any:
        raise NotImplementedError(
            "The dataset of ProgressiveLearning can only be given to `fit`. Transform, weight or "
            "shard the data in make_dataset(stage, epoch) instead: "
            'kev2.make_dataset(class_weights="balanced") in place of `class_weight` in `fit`; '
            "keras.distribution.DataParallel(auto_shard_dataset=False)."
        )


class StageDataset(tf.data.Dataset, tf.distribute.DistributedDataset):
    """The validation data that `fit` sees: the pictures at the size that is open.

    It counts as distributed so that `fit` iterates it directly.
    """

    def __init__(self, make_dataset: Callable[[int], Any], sizes: Sequence[int]) -> None:
        self._make_dataset = make_dataset
        self._sizes = sizes
        self._size: int | None = None
        self._made: Any = None
        self._distribute: Callable[[Any], Any] | None = None
        self._is_shared = False

    def open(self, size: int | None) -> None:
        """Make a size the current one; the data of another one are let go. None lets go only."""
        if size != self._size:
            self._size, self._made = size, None

    def start(self, distribute: Callable[[Any], Any] | None, *, is_shared: bool) -> None:
        """Begin a validation; `is_shared`: all sizes have one spec, so that one trace does."""
        self._distribute = distribute
        self._is_shared = is_shared and len(set(self._sizes)) > 1

    @property
    def _dataset(self) -> tf.data.Dataset:
        if self._made is None:
            self._made = self._make_dataset(self._sizes[0] if self._size is None else self._size)
        return self._made

    def __iter__(self) -> Iterator[Any]:
        dataset: Any = self._dataset
        if self._is_shared:
            variant = tf.data.experimental.to_variant(dataset)
            spec = tf.nest.map_structure(_of_any_size, dataset.element_spec)
            dataset = tf.data.experimental.from_variant(variant, spec)
        return iter(dataset if self._distribute is None else self._distribute(dataset))

    def cardinality(self) -> Any:
        """Return the number of batches, the same for every size."""
        return self._dataset.cardinality()

    @property
    def element_spec(self) -> Any:
        """Of the size that is open."""
        return self._dataset.element_spec

    def _inputs(self) -> list[Any]:
        return []

    @property
    def _variant_tensor(self) -> Any:
        raise NotImplementedError(
            "The validation data of ProgressiveLearning can only be given to `fit`. Transform them "
            "in make_validation(image_size) instead."
        )


def _of_any_size(spec: Any) -> Any:
    """Return the spec of pictures of any size; that of anything else as it is."""
    if spec.shape.rank != 4:
        return spec
    return tf.TensorSpec([spec.shape[0], None, None, spec.shape[3]], spec.dtype)


class _OpenEpochIterator(tf.data.Iterator):
    """Iterator over whichever epoch is open, for a `fit` that keeps one iterator for all epochs.

    A `tf.function` sees the iterator of the open epoch in its place: its type and its handle.
    """

    def __init__(self, epochs: EpochDataset) -> None:
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


def _cardinality(dataset: Any) -> int:
    """Number of batches; negative where it is unknown or infinite."""
    cardinality = dataset.cardinality  # a method of a Dataset, a number of a DistributedDataset
    return int(cardinality() if callable(cardinality) else cardinality)
