"""The clocks: monotonic ones for durations, the wall clock for human eyes only."""

from __future__ import annotations

import re

import pytest

from wire.clock import Deadline, ManualClock, monotonic_clock, utc_timestamp


def test_a_manual_clock_moves_only_when_told() -> None:
    clock = ManualClock(5.0)
    clock.advance(1.5)
    assert clock.now() == 6.5
    with pytest.raises(ValueError, match="cannot go back"):
        clock.advance(-1)


def test_a_deadline_counts_down_to_zero_and_stays_there() -> None:
    clock = ManualClock()
    deadline = Deadline(clock, 2.0)
    assert (deadline.remaining(), deadline.passed) == (2.0, False)
    clock.advance(2.0)
    assert (deadline.remaining(), deadline.passed) == (0.0, True)
    clock.advance(1.0)
    assert deadline.remaining() == 0.0


def test_the_system_clock_never_goes_back() -> None:
    readings = [monotonic_clock.now() for _ in range(1000)]
    assert readings == sorted(readings)


def test_a_timestamp_is_utc_with_milliseconds() -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", utc_timestamp())
