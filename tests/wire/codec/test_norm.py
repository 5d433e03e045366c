from __future__ import annotations

import math

import numpy as np
import pytest

from wire.codec.kernels import square_sum


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4095, 4096, 100_003])
def test_the_sum_of_squares_is_that_of_float64(size: int) -> None:
    values = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    expected = math.fsum(float(v) ** 2 for v in values)
    assert square_sum(values) == pytest.approx(expected, rel=1e-12, abs=0)


def test_squares_beyond_float32_do_not_overflow() -> None:
    assert square_sum(np.full(16, 1e30, np.float32)) == pytest.approx(16e60, rel=1e-6)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("at", [0, 3, 15, 16])
def test_it_is_not_finite_where_an_element_is_not(bad: float, at: int) -> None:
    values = np.ones(17, np.float32)
    values[at] = bad
    assert not math.isfinite(square_sum(values))
