"""Parts of a source for several workers: disjoint, together complete, in both kinds of stores."""

from itertools import chain

import numpy as np
import pytest

from keras_effnetv2.data import records
from keras_effnetv2.data.pack import pack
from keras_effnetv2.data.sources import ImageSource, load_source

COUNTS = [1, 2, 3, 7]


@pytest.fixture(scope="module")
def in_memory():
    return load_source("digits", "all").stratified_subset(101)


@pytest.fixture(scope="module")
def in_records(in_memory, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packs") / "digits"
    pack(in_memory, folder, shards=3)
    return load_source(f"tfrecord:{folder}", "all")


@pytest.fixture(params=["in_memory", "in_records"])
def source(request, monkeypatch):
    monkeypatch.setattr(records, "_WINDOW_PICTURES", 32)
    return request.getfixturevalue(request.param)


def part(source: ImageSource, **order) -> list[int]:
    return [int(index) for _, _, index in source.dataset(**order).as_numpy_iterator()]


@pytest.mark.parametrize("count", COUNTS)
def test_parts_in_order_are_disjoint_and_complete(source, count):
    parts = [part(source, shard=(index, count)) for index in range(count)]
    assert sorted(chain.from_iterable(parts)) == list(range(101))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert all(found == sorted(found) for found in parts)


@pytest.mark.parametrize("count", COUNTS)
def test_shuffled_parts_are_disjoint_and_equally_long(source, count):
    parts = [part(source, shuffle=True, epoch=2, shard=(index, count)) for index in range(count)]
    assert [len(found) for found in parts] == [101 // count] * count
    assert len(set(chain.from_iterable(parts))) == 101 // count * count
    again = part(source, shuffle=True, epoch=2, shard=(count - 1, count))
    assert again == parts[-1]
    assert again != part(source, shuffle=True, epoch=3, shard=(count - 1, count))


def test_workers_see_together_the_batches_of_one_process(in_memory):
    alone = part(in_memory, shuffle=True, seed=1)
    parts = [part(in_memory, shuffle=True, seed=1, shard=(index, 4)) for index in range(4)]
    for batch in range(101 // 20):
        together = {index for found in parts for index in found[5 * batch : 5 * batch + 5]}
        assert together == set(alone[20 * batch : 20 * batch + 20])


def test_each_worker_reads_its_own_stretch_of_the_records(in_records):
    rows = in_records.rows
    parts = [in_records.store.order(np.sort(rows), None, (index, 4)) for index in range(4)]
    assert all((np.diff(found) == 1).all() for found in parts)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0.5, 2), (True, 2)])
def test_parts_that_are_none(source, shard):
    with pytest.raises(ValueError, match="shard"):
        source.dataset(shard=shard)


def test_more_workers_than_pictures(source):
    with pytest.raises(ValueError, match="101 pictures cannot be shared by 102 workers"):
        source.dataset(shuffle=True, shard=(0, 102))
    assert part(source, shard=(0, 102)) in ([], [0])
