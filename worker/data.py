"""Samples as positions: one permutation per (seed, epoch), and which positions a unit takes.

A step takes R units of `unit` samples each, an epoch as many steps as its samples need; the
last ones are short or empty. Units never span epochs.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import default_collate

from worker.randomness import seed_all


class Dataset(Protocol):
    """Any map-style dataset."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Any: ...


@dataclass(frozen=True)
class Order:
    """Which samples belong to which unit.

    Args:
        samples: length of the dataset.
        unit: samples of a full unit (batch size times accumulate).
        streams: units a step (R).
    """

    seed: int
    samples: int
    unit: int
    streams: int

    @property
    def steps_per_epoch(self) -> int:
        return -(-self.samples // (self.unit * self.streams))

    def epoch(self, step: int) -> int:
        return step // self.steps_per_epoch

    def indices(self, step: int, stream: int) -> NDArray[np.integer[Any]]:
        """Dataset indices of a unit; fewer than `unit`, or none, at the end of an epoch."""
        epoch, step_in_epoch = divmod(step, self.steps_per_epoch)
        start = (step_in_epoch * self.streams + stream) * self.unit
        return permutation(self.seed, epoch, self.samples)[start : start + self.unit]


@lru_cache(maxsize=2)
def permutation(seed: int, epoch: int, samples: int) -> NDArray[np.integer[Any]]:
    """The order of an epoch: the same on every machine (Philox, keyed by seed and epoch)."""
    generator = np.random.Generator(np.random.Philox(np.random.SeedSequence([seed, epoch])))
    return generator.permutation(np.arange(samples, dtype=np.int32 if samples < 1 << 31 else np.int64))


def batches_of(indices: NDArray[np.integer[Any]], batch_size: int, accumulate: int) -> list[list[int]]:
    """A unit's batches: `accumulate` of them wherever there are that many samples."""
    if len(indices) >= batch_size * accumulate or len(indices) < accumulate:
        cut = range(batch_size, len(indices), batch_size)
    else:
        return [part.tolist() for part in np.array_split(indices, accumulate)]
    return [part.tolist() for part in np.split(indices, list(cut)) if len(part)]


class Loader:
    """Collated batches by index, in this process or ahead of time in others.

    Args:
        collate: joins samples to a batch; torch's default without one.
        processes: 0 loads when asked; otherwise so many spawned processes (never forked: a fork after
            a connection exists crashes gRPC) load what `ahead` announces.
    """

    def __init__(
        self, dataset: Dataset, *, seed: int, collate: Callable[[list[Any]], Any] | None, processes: int
    ) -> None:
        self._fetch = _Fetch(dataset, seed, collate or default_collate)
        self._pool: ProcessPoolExecutor | None = None
        self._coming: dict[tuple[int, tuple[int, ...]], Future[Any]] = {}
        if processes:
            self._pool = ProcessPoolExecutor(
                processes,
                mp_context=multiprocessing.get_context("spawn"),
                initializer=_adopt,
                initargs=(self._fetch,),
            )

    def ahead(self, batches: Sequence[tuple[int, list[int]]]) -> None:
        """These batches (epoch, indices) are asked for next, in this order; others that were announced are dropped."""
        if self._pool is None:
            return
        wanted = [(epoch, tuple(indices)) for epoch, indices in batches]
        for key in self._coming.keys() - set(wanted):
            self._coming.pop(key).cancel()
        for key in wanted:
            if key not in self._coming:
                self._coming[key] = self._pool.submit(_fetch_adopted, *key)

    def load(self, epoch: int, indices: list[int]) -> Any:
        """One batch."""
        if self._pool is None:
            return self._fetch(epoch, indices)
        key = (epoch, tuple(indices))
        return (self._coming.pop(key, None) or self._pool.submit(_fetch_adopted, *key)).result()

    def close(self) -> None:
        """End the processes. Of a pool in which one died the others are asked by SIGTERM, and waited for in vain."""
        if self._pool is None:
            return
        if self._pool._broken:
            for process in list((self._pool._processes or {}).values()):
                process.kill()
        self._pool.shutdown(wait=False, cancel_futures=True)


@dataclass(frozen=True)
class _Fetch:
    """Samples of a batch, each under random numbers of its own (seed, epoch, index), collated."""

    dataset: Dataset
    seed: int
    collate: Callable[[list[Any]], Any]

    def __call__(self, epoch: int, indices: Sequence[int]) -> Any:
        return self.collate([self._sample(epoch, index) for index in indices])

    def _sample(self, epoch: int, index: int) -> Any:
        seed_all("sample", self.seed, epoch, index)
        return self.dataset[index]


_adopted: _Fetch | None = None


def _adopt(fetch: _Fetch) -> None:
    """In a loader process: keep the dataset, compute on one thread, end with the trainer however that ends."""
    global _adopted
    _adopted = fetch
    torch.set_num_threads(1)
    for meant_for_the_trainer in (signal.SIGINT, signal.SIGTERM):  # but sent to the whole group, or job step
        signal.signal(meant_for_the_trainer, signal.SIG_IGN)
    threading.Thread(target=_end_with_trainer, daemon=True).start()


def _end_with_trainer() -> None:
    trainer = multiprocessing.parent_process()
    assert trainer is not None
    trainer.join()
    os._exit(0)


def _fetch_adopted(epoch: int, indices: tuple[int, ...]) -> Any:
    assert _adopted is not None
    return _adopted(epoch, indices)


def to_device(batch: Any, device: torch.device) -> Any:
    """Every tensor of a batch (in tuples, lists and dicts) on `device`."""
    if isinstance(batch, torch.Tensor):
        return batch.to(device, non_blocking=True)
    if isinstance(batch, dict):
        return {k: to_device(v, device) for k, v in batch.items()}
    if isinstance(batch, tuple) and hasattr(batch, "_fields"):
        return type(batch)(*(to_device(v, device) for v in batch))
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(v, device) for v in batch)
    return batch
