"""Parts of a source for several workers: disjoint, together complete, in both kinds of stores."""

from itertools import chain

import numpy as np
import pytest

from keras_effnetv2.data import records
from keras_effnetv2.data.pack import pack
from keras_effnetv2.data.sources import load_source


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


def test_parts_in_order_are_disjoint_and_complete(source):
    for count in (1, 2, 3, 7, 102):
        parts = [source.order(shard=(index, count)).tolist() for index in range(count)]
        assert sorted(chain.from_iterable(parts)) == list(range(101))
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        assert all(found == sorted(found) for found in parts)


def test_shuffled_parts_are_disjoint_and_equally_long(source):
    for count in (1, 2, 3, 7):
        parts = [
            source.order(shuffle=True, epoch=2, shard=(index, count)).tolist()
            for index in range(count)
        ]
        assert [len(found) for found in parts] == [101 // count] * count
        assert len(set(chain.from_iterable(parts))) == 101 // count * count
        last = {"shuffle": True, "shard": (count - 1, count)}
        assert source.order(epoch=2, **last).tolist() == parts[-1]
        assert source.order(epoch=3, **last).tolist() != parts[-1]
    with pytest.raises(ValueError, match="101 pictures cannot be shared by 102 workers"):
        source.dataset(shuffle=True, shard=(0, 102))


def test_pictures_are_read_in_this_order(source, in_memory):
    order = source.order(shuffle=True, epoch=1, shard=(1, 3)).tolist()
    read = list(source.dataset(shuffle=True, epoch=1, shard=(1, 3)).as_numpy_iterator())
    assert [index for _, _, index in read] == order
    data = {index: data for data, _, index in in_memory.dataset().as_numpy_iterator()}
    assert [data for data, _, _ in read] == [data[index] for index in order]
    assert [label for _, label, _ in read] == in_memory.labels[order].tolist()


def test_workers_see_together_the_batches_of_one_process(in_memory):
    alone = in_memory.order(shuffle=True, seed=1)
    parts = [in_memory.order(shuffle=True, seed=1, shard=(index, 4)) for index in range(4)]
    for batch in range(101 // 20):
        together = {index for found in parts for index in found[5 * batch : 5 * batch + 5]}
        assert together == set(alone[20 * batch : 20 * batch + 20])


def test_each_worker_reads_its_own_stretch_of_the_records(in_records):
    rows = in_records.rows
    parts = [in_records.store.order(np.sort(rows), None, (index, 4)) for index in range(4)]
    assert all((np.diff(found) == 1).all() for found in parts)


@pytest.mark.parametrize("shard", [(2, 2), (-1, 2), (0, 0), (0.5, 2), (True, 2)])
def test_parts_that_are_none(in_memory, shard):
    with pytest.raises(ValueError, match="shard"):
        in_memory.dataset(shard=shard)
