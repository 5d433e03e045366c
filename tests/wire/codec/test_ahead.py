"""How far a plane has moved, and how it is carried on: the kernels against numpy, torch against the kernels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from wire.codec import cuda
from wire.codec import kernels as ks
from wire.codec.base import Blocks
from wire.codec.device import device_of
from wire.layout import BLOCK

ROWS = np.array([0, 3, 4])
NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
ON_DEVICES = pytest.mark.parametrize(
    "device", ["cpu", pytest.param("cuda:0", marks=[pytest.mark.gpu, NO_CUDA])], scope="module"
)


def planes(count: int) -> list[np.ndarray]:
    draw = np.random.default_rng(3)
    return [draw.standard_normal((6, BLOCK)).astype(np.float32) for _ in range(count)]


def test_products_of_the_rows_that_are_asked_for() -> None:
    now, before, sent = planes(3)
    along, squares = np.full(6, -7.0), np.full(6, -7.0)
    ks.products(now, before, sent, ROWS, along, squares)
    moved = (now - before).astype(np.float64)
    assert along[ROWS] == pytest.approx((moved * sent).sum(1)[ROWS], rel=1e-12)
    assert squares[ROWS] == pytest.approx((sent.astype(np.float64) ** 2).sum(1)[ROWS], rel=1e-12)
    assert along[[1, 2, 5]].tolist() == squares[[1, 2, 5]].tolist() == [-7.0] * 3


def test_going_on_rounds_each_operation() -> None:
    now, before, sent = planes(3)
    moves, gains = np.linspace(0, 1, 6, dtype=np.float32), np.linspace(-1, 2, 6, dtype=np.float32)
    expected = moves[:, None] * (now - before) - gains[:, None] * sent
    into = sent.copy()
    ks.go_on(now, before, moves, gains, ROWS, into)
    assert np.array_equal(into[ROWS], expected[ROWS])
    assert np.array_equal(into[[1, 2, 5]], sent[[1, 2, 5]])


def test_without_a_gain_nothing_is_read() -> None:
    now, before = planes(2)
    into = np.full_like(now, np.nan)
    none = np.zeros(6, np.float32)
    ks.go_on(now, before, none + 1, none, ROWS, into)
    assert np.array_equal(into[ROWS], (now - before)[ROWS])


@ON_DEVICES
@pytest.mark.parametrize("rows", [ROWS, np.arange(6), np.arange(0)], ids=["some", "all", "none"])
def test_on_a_device_the_bits_are_the_same(device: str, rows: np.ndarray) -> None:
    now, before, sent = planes(3)
    there = [torch.from_numpy(plane).to(device) for plane in (now, before, sent)]
    expected, found = np.full((2, 6), -7.0), np.full((2, 6), -7.0)
    ks.products(now, before, sent, rows, *expected)
    cuda.products(*there, rows, *found)
    assert np.array_equal(found, expected)

    moves, gains = np.linspace(0, 1, 6, dtype=np.float32), np.linspace(-1, 1.5, 6, dtype=np.float32)
    assert gains[2] == 0
    ks.go_on(now, before, moves, gains, rows, sent)
    cuda.go_on(there[0], there[1], moves, gains, rows, there[2])
    assert np.array_equal(there[2].cpu().numpy().view(np.int32), sent.view(np.int32))


@ON_DEVICES
def test_without_a_gain_nothing_is_read_on_a_device_either(device: str) -> None:
    now, before = (torch.from_numpy(plane).to(device) for plane in planes(2))
    into = torch.full_like(now, np.nan)
    none = np.zeros(6, np.float32)
    cuda.go_on(now, before, none + 1, none, ROWS, into)
    assert torch.equal(into[ROWS], (now - before)[ROWS])


@ON_DEVICES
@pytest.mark.parametrize("where", ["numpy", "torch"])
def test_squares_of_the_real_elements(device: str, where: str) -> None:
    blocks = Blocks(ROWS, np.array([BLOCK, 7, 1], np.int32), ROWS)
    (values,) = planes(1)
    values[0, 0] = np.finfo(np.float32).max
    real = np.concatenate([values[0], values[3, :7], values[4, :1]]).astype(np.float64)
    for behind_the_end in (0.5, np.inf, np.nan):
        values[3, 7] = behind_the_end
        assert squares(values, where, device, blocks) == pytest.approx((real**2).sum(), rel=1e-12)
    for bad in (np.inf, np.nan):
        values[4, 0] = bad
        assert not np.isfinite(squares(values, where, device, blocks))


def squares(plane: np.ndarray, where: str, device: str, blocks: Blocks) -> float:
    there = plane if where == "numpy" else torch.from_numpy(plane).to(device)
    return device_of(there).square_sum(there, blocks)
