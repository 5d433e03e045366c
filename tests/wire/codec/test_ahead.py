"""The kernels that tell how far a plane has moved and carry it on, against numpy."""

from __future__ import annotations

import numpy as np
import pytest

from wire.codec import kernels as ks
from wire.layout import BLOCK

ROWS = np.array([0, 3, 4])


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
