"""What curves come to, against curves whose answers are plain."""

from __future__ import annotations

import math

import pytest

from sparsync.bench.modes.figures import loss_at, loss_by, mean_staleness, reached_at, spread
from tests.sparsync.modes.curves import curve

FALLING = curve((0.0, 0, 6.0), (10.0, 100, 4.0), (30.0, 200, 3.0))


@pytest.mark.parametrize(
    ("axis", "value", "loss"),
    [
        ("tokens", 0, 6.0),
        ("tokens", 50, 5.0),
        ("tokens", 200, 3.0),
        ("seconds", 20.0, 3.5),
        ("bytes", 400, 4.0),
        ("tokens", 201, None),
        ("seconds", -1.0, None),
    ],
)
def test_a_loss_lies_on_straight_lines_between_points_and_nowhere_else(
    axis: str, value: float, loss: float | None
) -> None:
    assert loss_at(FALLING, axis, value) == (None if loss is None else pytest.approx(loss))


@pytest.mark.parametrize(
    ("loss", "seconds"), [(5.0, 5.0), (4.0, 10.0), (3.5, 20.0), (3.0, 30.0), (7.0, 0.0), (2.9, None)]
)
def test_a_loss_is_reached_where_the_curve_first_comes_down_to_it(loss: float, seconds: float | None) -> None:
    assert reached_at(FALLING, "seconds", loss) == (None if seconds is None else pytest.approx(seconds))


def test_what_has_ended_keeps_its_loss() -> None:
    assert loss_by(FALLING, "seconds", 31.0) == 3.0
    assert loss_by(FALLING, "seconds", 20.0) == pytest.approx(3.5)
    assert loss_by(FALLING, "seconds", -1.0) is None
    assert loss_by(curve((0.0, 0, 6.0), (1.0, 1, None)), "seconds", 2.0) is None


def test_the_first_of_several_crossings_counts() -> None:
    restless = curve((0.0, 0, 6.0), (1.0, 1, 4.0), (2.0, 2, 5.0), (3.0, 3, 3.0))
    assert reached_at(restless, "seconds", 4.5) == pytest.approx(0.75)


def test_what_diverged_has_no_loss_there_and_is_not_drawn_through() -> None:
    diverged = curve((0.0, 0, 6.0), (1.0, 1, None), (2.0, 2, 5.0))
    assert loss_at(diverged, "tokens", 0.5) is None
    assert loss_at(diverged, "tokens", 1.5) is None
    assert reached_at(curve((0.0, 0, 6.0), (1.0, 1, None)), "seconds", 5.0) is None


def test_two_copies_at_one_place_do_not_divide_by_nothing() -> None:
    assert loss_at(curve((0.0, 0, 6.0), (0.0, 0, 5.0), (1.0, 10, 4.0)), "tokens", 0) in (6.0, 5.0)


def test_a_spread_is_of_all_seeds_or_of_none() -> None:
    found = spread([1.0, 2.0, 3.0])
    assert found is not None
    assert (found.mean, found.sd, found.low, found.high, found.n) == (2.0, 1.0, 1.0, 3.0, 3)
    one = spread([5.0])
    assert one is not None and one.sd == 0.0 and str(one) == "5"
    assert spread([1.0, None]) is None
    assert spread([1.0, math.inf]) is None
    assert spread([]) is None


def test_mean_staleness_is_by_units() -> None:
    assert mean_staleness({"0": 2, "3": 1}) == pytest.approx(1.0)
    assert mean_staleness({}) is None
    assert mean_staleness(None) is None
