"""The one place that reads a clock.

Every duration is monotonic seconds from a `Clock`, so that a jump of the wall clock moves
nothing (P16) and tests set the time by hand. The wall clock serves human timestamps only.
"""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import NamedTuple, Protocol


class Clock(Protocol):
    """A source of monotonic time."""

    def now(self) -> float:
        """Seconds since an arbitrary moment; never goes back."""
        ...


class SystemClock:
    """This machine's monotonic clock."""

    def now(self) -> float:
        return time.monotonic()


class ManualClock:
    """A clock that stands still until a test advances it."""

    def __init__(self, start: float = 0.0) -> None:
        self._now = start

    def now(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        """Moves the clock forward. Raises ValueError for a negative step."""
        if seconds < 0:
            raise ValueError(f"a monotonic clock cannot go back: advance({seconds})")
        self._now += seconds


class Deadline:
    """A moment `seconds` after its creation on `clock`."""

    def __init__(self, clock: Clock, seconds: float) -> None:
        self._clock = clock
        self._end = clock.now() + seconds

    def remaining(self) -> float:
        """Seconds left, never below zero: fit to be a timeout."""
        return max(0.0, self._end - self._clock.now())

    @property
    def passed(self) -> bool:
        return self._clock.now() >= self._end


monotonic_clock = SystemClock()
"""The clock that a runtime hands to what it starts."""


class Anchor(NamedTuple):
    """What the wall clock showed at a time of `monotonic_clock`."""

    monotonic_s: float
    utc_s: float


def wall_anchor() -> Anchor:
    """Now, on both clocks: so that times of several machines can be laid beside each other by people's tools."""
    before = time.monotonic()
    utc_s = time.time()
    return Anchor((before + time.monotonic()) / 2, utc_s)


def utc_now() -> datetime:
    """The wall clock, for what has dates of its own: certificates."""
    return datetime.now(UTC)


def utc_timestamp() -> str:
    """The wall clock for human eyes, as `2026-11-22T01:30:30.123Z`. Never compared, never subtracted."""
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
