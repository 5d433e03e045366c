"""Which samples a unit takes, and who loads them."""

from __future__ import annotations

from collections import namedtuple
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import TensorDataset

from worker.data import Loader, Order, batches_of, permutation, to_device

SIZES = st.integers(1, 60)


@given(samples=SIZES, unit=st.integers(1, 9), streams=st.integers(1, 5), epoch=st.integers(0, 2))
def test_an_epoch_takes_every_sample_once(samples: int, unit: int, streams: int, epoch: int) -> None:
    order = Order(3, samples, unit, streams)
    first = epoch * order.steps_per_epoch
    taken = [
        index
        for step in range(first, first + order.steps_per_epoch)
        for stream in range(streams)
        for index in order.indices(step, stream)
    ]
    assert sorted(taken) == list(range(samples))
    assert order.epoch(first) == epoch == order.epoch(first + order.steps_per_epoch - 1)


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {tuple(permutation(seed, epoch, 50)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len(orders) == 6
    assert np.array_equal(permutation(0, 1, 50), permutation(0, 1, 50))


@given(samples=st.integers(0, 40), batch_size=st.integers(1, 8), accumulate=st.integers(1, 5))
def test_a_unit_has_its_batches_wherever_there_are_samples_enough(
    samples: int, batch_size: int, accumulate: int
) -> None:
    samples = min(samples, batch_size * accumulate)
    batches = batches_of(np.arange(samples), batch_size, accumulate)
    assert [index for batch in batches for index in batch] == list(range(samples))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    assert len(batches) <= accumulate
    if samples >= accumulate:
        assert len(batches) == accumulate


class Noisy:
    """A dataset whose samples draw random numbers."""

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        return torch.cat([torch.tensor([float(index)]), torch.rand(1)])


def test_a_sample_is_random_by_epoch_and_index_only() -> None:
    loader = Loader(Noisy(), seed=1, collate=None, processes=0)
    together, apart = loader.load(0, [3, 5]), loader.load(0, [5])
    assert torch.equal(together[1], apart[0])
    assert not torch.equal(loader.load(1, [5])[0], apart[0])
    loader.ahead([(0, [1])])  # nobody loads ahead in this process
    loader.close()


@pytest.fixture
def pool() -> Any:
    dataset = TensorDataset(torch.arange(10.0))
    loader = Loader(dataset, seed=0, collate=None, processes=1)
    yield loader
    assert loader._pool is not None
    loader._pool.shutdown(wait=True, cancel_futures=True)


def test_a_process_loads_ahead_what_is_then_asked_for(pool: Loader) -> None:
    pool.ahead([(0, [1, 2]), (0, [3])])
    coming = dict(pool._coming)
    assert list(coming) == [(0, (1, 2)), (0, (3,))]
    (values,) = pool.load(0, [1, 2])
    assert values.tolist() == [1.0, 2.0]
    pool.ahead([(0, [3]), (1, [3])])
    assert pool._coming[0, (3,)] is coming[0, (3,)]  # announced again: not loaded again
    assert pool.load(0, [3])[0].tolist() == [3.0]
    pool.ahead([(1, [4])])
    assert list(pool._coming) == [(1, (4,))]
    assert pool.load(2, [9])[0].tolist() == [9.0]  # nobody announced it


def test_a_signal_to_the_whole_group_ends_no_loader(pool: Loader) -> None:
    pool.load(0, [0])
    (process,) = pool._pool._processes.values()
    process.terminate()
    assert pool.load(0, [1])[0].tolist() == [1.0]
    process.kill()
    with pytest.raises(BrokenProcessPool):
        pool.load(0, [2])
    pool.close()  # and the fixture waits for them: none is left


def test_every_tensor_of_a_batch_moves() -> None:
    pair = namedtuple("pair", "x y")
    batch = {"a": [torch.ones(1), "text"], "b": pair(torch.ones(2), (torch.ones(3), 4))}
    moved = to_device(batch, torch.device("meta"))
    assert moved["a"][0].is_meta
    assert moved["a"][1] == "text"
    assert isinstance(moved["b"], pair)
    assert moved["b"].x.is_meta
    assert moved["b"].y[0].is_meta
    assert moved["b"].y[1] == 4
