"""What workers of unequal speed waited for, from statuses and the times of their units."""

from typing import Any

import pytest

from benchmarks.speeds import gaps, off_speed, outside, waited_s, worked, working_s


def status(at: float, *, units: int = 4) -> dict[str, Any]:
    told = {"tokens_per_s": 256.0 if units else None}
    return {"at": at, "workers": [{"units": 4, "tokens_per_s": 256.0}] * 2 + [{"units": units, **told}]}


def test_seconds_come_from_rates_and_shares() -> None:
    told = {"units": 10, "tokens_per_s": 256.0, "wait_share": 0.2}
    assert waited_s({"tokens": 5120, "units_settled": 10}, told) == pytest.approx(5.0)


def test_all_worked_between_everybodys_first_unit_and_the_last_one_that_is_begun() -> None:
    looks = [status(1.0, units=0), status(2.0), status(3.0), status(4.0), status(5.0)]
    first, last = worked(looks, until=4.5)
    assert (first["at"], last["at"]) == (2.0, 4.0)


def test_a_run_too_short_to_be_seen_is_an_error() -> None:
    with pytest.raises(ValueError, match="raise --steps"):
        worked([status(1.0, units=0), status(2.0)], until=9.0)


def test_outside_units_is_what_none_of_them_took_of_the_time() -> None:
    units = [{"began": b, "ended": b + 1.0} for b in (0.0, 1.5, 2.5)]
    assert outside(units, since=0.5, until=4.5) == pytest.approx(1.5)


def test_gaps_are_between_units_of_one_worker() -> None:
    units = [{"began": b, "ended": b + 1.0} for b in (0.0, 1.5, 2.5, 5.5)]
    assert gaps(units) == [2.0, 0.5, 0.0]
    assert working_s({"fast": units, "slow-0": [{"began": 0.5, "ended": 7.0}]}) == 7.0


def test_the_slow_worker_that_is_further_off_counts() -> None:
    found = {name: {"units": n} for name, n in (("fast", 40), ("slow-0", 10), ("slow-1", 8))}
    assert off_speed(found) == pytest.approx(0.25)
