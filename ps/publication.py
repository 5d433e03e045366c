"""When a shard that settles on arrival publishes: soon enough that nobody waits, seldom enough that deltas pay.

Pure: times are handed in. What it says becomes a record of the log (ps/owner.py), so that the
arithmetic depends on the log alone.
"""

from __future__ import annotations

from dataclasses import dataclass

DELAY_S = 0.25
"""A unit, or what a leaver flushed, is pending no longer than this."""


@dataclass(frozen=True)
class Backlog:
    """What is accepted and not settled.

    Attributes:
        units: how many.
        lanes: workers that sent units in this segment and were not given up.
        streams: units of a step (R).
        clock_advanced: the clock is past that of the newest delta: bounded workers wait for the next one.
        flushed: what a leaver held back is pending, and may be published without a unit.
    """

    units: int
    lanes: int
    streams: int
    clock_advanced: bool
    flushed: bool = False


@dataclass(frozen=True)
class Decision:
    """Publish now, for this `reason`; or, where it is empty, look again after `wait_s` (None: at the next unit)."""

    reason: str
    wait_s: float | None = None


class Publication:
    """Remembers since when something is pending."""

    def __init__(self) -> None:
        self._since: float | None = None

    def decide(self, backlog: Backlog, now: float) -> Decision:
        """What to do about `backlog` at `now`, in seconds of a monotonic clock."""
        if not backlog.units and not backlog.flushed:
            self._since = None
            return Decision("")
        if self._since is None:
            self._since = now
        enough = (max(backlog.lanes, backlog.streams) + 1) // 2
        if backlog.units >= enough:
            return Decision(
                f"{backlog.units} units are pending, {enough} suffice for {backlog.streams} a step and "
                f"{backlog.lanes} workers"
            )
        if backlog.units and backlog.clock_advanced:
            return Decision("the clock advanced")
        waited = now - self._since
        if waited >= DELAY_S:
            what = "a unit" if backlog.units else "a flush"
            return Decision(f"{what} is pending for {waited:.3f} s, limit {DELAY_S} s")
        return Decision("", DELAY_S - waited)
