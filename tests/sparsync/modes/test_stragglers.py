"""Patterns: what they say is what is slept, and the same every time."""

from __future__ import annotations

import statistics

import pytest

from sparsync.bench.modes.stragglers import Pattern, pattern
from wire.errors import UsageError


def sleeps(
    of: Pattern, *, worker: int, units: int = 1, computed_s: float = 0.1, unit_s: float = 0.0
) -> list[float]:
    return [
        of.sleep_s(worker=worker, unit=unit, seed=3, computed_s=computed_s, unit_s=unit_s)
        for unit in range(units)
    ]


def test_a_factor_stretches_a_unit_by_sleep() -> None:
    slow = pattern("slow:1/1/4")
    assert [sleeps(slow, worker=w)[0] for w in range(4)] == pytest.approx([0.0, 0.0, 0.3, 0.3])


def test_a_unit_takes_at_least_its_time() -> None:
    slow = pattern("slow:1/2")
    assert sleeps(slow, worker=0, unit_s=0.25)[0] == pytest.approx(0.15)
    assert sleeps(slow, worker=1, unit_s=0.25)[0] == pytest.approx(0.4)
    assert sleeps(slow, worker=0, unit_s=0.05)[0] == 0.0


def test_pauses_come_as_often_and_are_as_long_as_told() -> None:
    found = sleeps(pattern("pauses:0.25/2"), worker=1, units=4000)
    pauses = [seconds for seconds in found if seconds]
    assert len(pauses) / len(found) == pytest.approx(0.25, abs=0.03)
    assert statistics.fmean(pauses) == pytest.approx(2.0, rel=0.1)
    assert found == sleeps(pattern("pauses:0.25/2"), worker=1, units=4000)
    assert found != sleeps(pattern("pauses:0.25/2"), worker=0, units=4000)


def test_the_last_worker_stops() -> None:
    stop = pattern("stop:10/8")
    assert [stop.stops(worker, 3) for worker in range(3)] == [False, False, True]
    assert not pattern("none").stops(0, 1)
    assert sleeps(stop, worker=2) == [0.0]


@pytest.mark.parametrize(
    "text", ["", "slow", "slow:0.5", "slow:a", "pauses:2/1", "pauses:0.1", "stop:1", "nobody"]
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="expected none, slow"):
        pattern(text)
