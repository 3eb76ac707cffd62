"""What tables of the paper compare, as networks to be measured here, and what they claim."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from benchmarks.paper.figures import TABLE_2, TABLE_3, TABLE_10
from keras_effnetv2.architectures.config import ModelConfig
from keras_effnetv2.benchmark.paper_figures import TABLE_11
from keras_effnetv2.models.build import MIN_SIZE

Task = Literal["training", "inference"]
"""What is timed: steps of a training, or predictions."""


@dataclass(frozen=True)
class Entry:
    """A row of a table.

    Attributes:
        label: as it is printed.
        config: the network.
        paper: the row of `benchmark.paper`, with the paper's figures.
        image_size: pixels, of each task, in the paper; for training in Table 10, where the paper
            does not say, those of the official code.
        flops_size: pixels at which the paper counts multiply-adds.
    """

    label: str
    config: ModelConfig
    paper: Any
    image_size: dict[Task, int]
    flops_size: int


@dataclass(frozen=True)
class Cost:
    """A column with what a network costs, whatever it runs on.

    Attributes:
        title: with the unit.
        paper: reads the figure from the paper's row.
        here: makes it from the trainable parameters and the multiply-adds of a built network.
    """

    title: str
    paper: Callable[[Any], float]
    here: Callable[[int, int], float]


@dataclass(frozen=True)
class Speed:
    """A column with speeds that the paper measured on a device.

    Attributes:
        title: with the unit.
        paper: reads the figure from the paper's row; None says that memory did not suffice.
        task: what was timed.
        is_time: whether the figure is a time, so that less is faster.
    """

    title: str
    paper: Callable[[Any], float | None]
    task: Task
    is_time: bool = False

    def ratio(self, one: Entry, other: Entry) -> float | None:
        """Return how many times as fast one entry is as another; None if memory was lacking."""
        values = (self.paper(one.paper), self.paper(other.paper))
        first, second = values[::-1] if self.is_time else values
        return None if first is None or second is None else first / second


@dataclass(frozen=True)
class Claim:
    """Something the paper concludes from a table.

    Attributes:
        text: what is claimed.
        faster: which entry of a group is said to be faster,
        slower: and than which other.
    """

    text: str
    faster: int
    slower: int


@dataclass(frozen=True)
class PaperTable:
    """A table of the paper, and what of it is measured.

    Attributes:
        title: what it shows.
        groups: entries that take turns; times are compared with the first of a group.
        tasks: what is timed.
        costs: columns that are counted.
        speeds: columns that the paper measured.
        claims: what the paper concludes.
        batch_sizes: that are timed by default on a GPU or TPU.
        cpu_batch_sizes: that are timed by default without one.
        cpu_image_size: pixels of the largest pictures by default without one; None is the original.
        not_measured: what cannot be measured without ImageNet or the paper's devices.
    """

    title: str
    groups: tuple[tuple[Entry, ...], ...]
    tasks: tuple[Task, ...]
    costs: tuple[Cost, ...]
    speeds: tuple[Speed, ...]
    claims: tuple[Claim, ...]
    batch_sizes: tuple[int, ...]
    cpu_batch_sizes: tuple[int, ...]
    cpu_image_size: int | None
    not_measured: str

    def scale(self, largest: int | None) -> float:
        """Return the sides of pictures over the original ones, if the largest get another size.

        Args:
            largest: pixels; None leaves them.

        Raises:
            ValueError: a picture would become smaller than 32 pixels.
        """
        sizes = self._sizes()
        scale = 1.0 if largest is None else largest / max(sizes)
        if min(sizes) * scale < MIN_SIZE:
            least = math.ceil(MIN_SIZE * max(sizes) / min(sizes))
            raise ValueError(
                f"The largest pictures must have at least {least} pixels here: the others become "
                f"smaller in proportion, and networks need {MIN_SIZE}. Received: {largest}"
            )
        return scale

    def _sizes(self) -> list[int]:
        return [
            entry.image_size[task]
            for group in self.groups
            for entry in group
            for task in self.tasks
        ]


_COSTS = (
    Cost("parameters, M", lambda row: row.parameters, lambda parameters, _: parameters / 1e6),
    Cost("FLOPs, B", lambda row: row.flops, lambda _, flops: flops / 1e9),
)
_V2_IS_FASTER = Claim("EfficientNetV2 is faster than the EfficientNet of its accuracy", 1, 0)
_NO_ACCURACY = "The accuracies need ImageNet and, for each network, its training on it"


def open_table(name: str, variant: ModelConfig | None = None) -> PaperTable:
    """Return a table of the paper.

    Args:
        name: one of `TABLES`.
        variant: of "table-2", another network than EfficientNet-B6.

    Raises:
        ValueError: a variant for another table.
    """
    if variant is None:
        return TABLES[name]()
    if name != "table-2":
        raise ValueError(
            f"A variant is for table-2 alone: {name} compares the networks that the paper names. "
            f"Received: {variant.name}"
        )
    return _table_2(variant)


def _table_2(config: ModelConfig | None = None) -> PaperTable:
    config = config or ModelConfig.from_name("efficientnet-b6")
    entries = [
        Entry(config.name, config, paper, {"training": size}, size)
        for size, paper in TABLE_2.items()
    ]
    speeds = tuple(
        Speed(f"{device}, pictures/s, {batch} at once", value, task="training")
        for device, batch, value in (
            ("TPUv3 core", 32, lambda row: row.tpu[32]),
            ("TPUv3 core", 128, lambda row: row.tpu[128]),
            ("V100", 12, lambda row: row.v100[12]),
            ("V100", 24, lambda row: row.v100[24]),
        )
    )
    return PaperTable(
        "Table 2: picture size against the speed of training; the paper has EfficientNet-B6",
        (tuple(entries),),
        ("training",),
        (),
        speeds,
        (Claim("Smaller pictures train faster at the same batch size", 1, 0),),
        batch_sizes=(12, 24, 32, 128),
        cpu_batch_sizes=(1, 4),
        cpu_image_size=None,
        not_measured=f"{_NO_ACCURACY}, at either size; the pictures/s of the paper need a TPUv3 "
        "and a V100.",
    )


def _table_3() -> PaperTable:
    base = ModelConfig.from_name("efficientnet-b4")
    entries = [
        Entry(
            f"{base.name}, stages 1-{fused[-1]} fused" if fused else f"{base.name}, no fused",
            base.with_fused_stages(*fused),
            paper,
            {"training": base.eval_size},
            base.eval_size,
        )
        for fused, paper in TABLE_3.items()
    ]
    return PaperTable(
        "Table 3: EfficientNet-B4 with Fused-MBConv in place of MBConv",
        (tuple(entries),),
        ("training",),
        _COSTS,
        (
            Speed("TPUv3 core, pictures/s", lambda row: row.tpu, task="training"),
            Speed("V100, pictures/s", lambda row: row.v100, task="training"),
        ),
        (
            Claim("Fusing the stages 1-3 makes training faster", 1, 0),
            Claim("Fusing every stage trains slower than fusing the stages 1-3", 1, 3),
        ),
        batch_sizes=(32,),
        cpu_batch_sizes=(8,),
        cpu_image_size=128,
        not_measured=f"{_NO_ACCURACY}; the pictures/s of the paper need a TPUv3 and a V100. Where "
        "parameters and FLOPs differ from the paper's, docs/decisions.md says why "
        "(with_fused_stages).",
    )


def _table_10() -> PaperTable:
    return PaperTable(
        "Table 10: networks trained in the same way, progressively",
        (tuple(_variant(name, row) for name, row in TABLE_10.items()),),
        ("training", "inference"),
        _COSTS,
        (
            Speed(
                "training, h on 32 TPU cores",
                lambda row: row.train_hours,
                task="training",
                is_time=True,
            ),
            Speed("V100, ms for 16", lambda row: row.infer_ms, task="inference", is_time=True),
        ),
        (_V2_IS_FASTER,),
        batch_sizes=(16,),
        cpu_batch_sizes=(1,),
        cpu_image_size=None,
        not_measured=f"{_NO_ACCURACY}; its hours need 32 TPU cores, the paper's inference a V100. "
        "The hours are of whole trainings, whose pictures grow; what is timed here is a step at "
        "their largest size in the official code.",
    )


def _table_11() -> PaperTable:
    entries = [_variant(name, row) for name, row in TABLE_11.items()]
    return PaperTable(
        "Table 11: small networks of about the same accuracy",
        tuple(zip(entries[::2], entries[1::2], strict=True)),
        ("inference",),
        _COSTS,
        (Speed("V100, pictures/s, 128 at once", lambda row: row.throughput, task="inference"),),
        (_V2_IS_FASTER,),
        batch_sizes=(128,),
        cpu_batch_sizes=(8,),
        cpu_image_size=None,
        not_measured=f"{_NO_ACCURACY}; the pictures/s of the paper need a V100.",
    )


def _variant(name: str, paper: Any) -> Entry:
    config = ModelConfig.from_name(name)
    sizes: dict[Task, int] = {"training": config.train_size, "inference": config.eval_size}
    return Entry(name, config, paper, sizes, config.eval_size)


TABLES: dict[str, Callable[[], PaperTable]] = {
    "table-2": _table_2,
    "table-3": _table_3,
    "table-10": _table_10,
    "table-11": _table_11,
}
