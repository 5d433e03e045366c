"""What a kind of segment must know to do: deal work, take it back, and settle what comes of it.

`Exact` and `Elastic` are the two kinds; the core calls them through this one signature. Events of the other kind that
come late (an answer to a fence when streams are gone) mean nothing to a kind, and are passed over.
"""

from __future__ import annotations

from typing import Protocol

from coordinator import actions as a
from coordinator import events as e
from coordinator.crew import Crew
from coordinator.desk import Desk
from coordinator.pace import pace_of


class Work(Protocol):
    """The deciding half of one segment.

    Attributes:
        waits_for: what keeps the run from going on, in words.
    """

    @property
    def waits_for(self) -> str: ...

    @property
    def handing_over(self) -> bool:
        """Whether a worker is still to hand over what it keeps beside the parameters, at the boundary at hand."""
        ...

    def begin(self, now: float) -> None:
        """Deal the work to the ready workers."""
        ...

    def resume(self, now: float) -> None:
        """A coordinator that came back has heard every shard: go on with what was dealt."""
        ...

    def welcome(self, incarnation: int) -> None:
        """A worker is ready, and may have been before: give it what is vacant, or have something handed over to it."""
        ...

    def remind(self, incarnation: int) -> None:
        """A worker opened its line anew: tell it again what it may have missed."""
        ...

    def leave(self, incarnation: int) -> None:
        """A worker wants to go: take back what it has not begun, then tell it to end."""
        ...

    def abandon(self, incarnation: int, reason: str) -> None:
        """A worker is gone: find out what of its work stands, give the rest to others."""
        ...

    def carries(self, incarnation: int) -> list[int]:
        """Streams or leases of a worker, for the events."""
        ...

    def leased(self, incarnation: int) -> int | None:
        """Units that a worker holds and has not begun, as far as is known; None where streams are carried."""
        ...

    def staleness(self, incarnation: int) -> float | None:
        """Mean steps that the worker's units so far were stale; None before the first."""
        ...

    def accept(self, event: e.UnitAccepted) -> None:
        """A shard holds a unit."""
        ...

    def standing_on(self, shard: int) -> set[int]:
        """Numbers of the units that a shard was heard to hold, and that are not counted yet."""
        ...

    def deposited(self, event: e.StreamDeposited) -> None:
        """A stream's state is on every shard."""
        ...

    def fenced(self, event: e.FenceAnswered) -> None:
        """A shard answers a fence."""
        ...

    def retired(self, incarnation: int) -> None:
        """Every shard refuses this worker now, and has told all that it took from it."""
        ...

    def holding(self, event: e.Holding) -> None:
        """A worker answers a plan: how far its leases have come."""
        ...

    def flushed(self, event: e.Flushed) -> None:
        """A worker that leaves has pushed what it held back."""
        ...

    def again(self, event: e.ShardAttached) -> None:
        """The line to a shard was broken: say again what it may have missed."""
        ...

    def owing(self) -> set[int]:
        """The workers that keep others waiting, or the run."""
        ...

    def disagreement(self) -> str:
        """Why the run must not go on: commits that contradict each other, or nothing."""
        ...

    def advance(self, now: float) -> None:
        """Settle what can be settled; then what a boundary brings."""
        ...


class Standstill:
    """Between two segments: the shards are told of the next one, nobody has work, nobody is given any.

    Who becomes ready meanwhile is dealt to when that begins. Who leaves owes nothing; what it holds back is flushed
    when the next segment begins, if that is elastic.
    """

    waits_for = "the next segment begins on every shard"
    handing_over = False

    def __init__(self, desk: Desk, crew: Crew) -> None:
        self._desk = desk
        self._crew = crew

    def begin(self, now: float) -> None:
        """It is the next segment that begins."""

    def resume(self, now: float) -> None:
        """Nothing was dealt."""

    def welcome(self, incarnation: int) -> None:
        """Its plan comes with the segment."""

    def remind(self, incarnation: int) -> None:
        flushes = incarnation in self._crew.ready and not pace_of(self._desk.state.segment).exact
        if incarnation in self._crew.leaving and not flushes:
            self._desk.tell(incarnation, a.End("it asked to leave between two segments", ""))

    def leave(self, incarnation: int) -> None:
        self.remind(incarnation)

    def abandon(self, incarnation: int, reason: str) -> None:
        """It holds nothing; the shards retire it all the same."""

    def carries(self, incarnation: int) -> list[int]:
        return []

    def leased(self, incarnation: int) -> int | None:
        return None

    def staleness(self, incarnation: int) -> float | None:
        return None

    def accept(self, event: e.UnitAccepted) -> None:
        """Told again, of the segment that is over: all that is counted."""

    def standing_on(self, shard: int) -> set[int]:
        return set()

    def deposited(self, event: e.StreamDeposited) -> None:
        """Streams begin anew."""

    def fenced(self, event: e.FenceAnswered) -> None:
        """Attempts begin anew."""

    def retired(self, incarnation: int) -> None:
        """It holds nothing."""

    def holding(self, event: e.Holding) -> None:
        """Of leases that are settled."""

    def flushed(self, event: e.Flushed) -> None:
        """In the segment that is over."""

    def again(self, event: e.ShardAttached) -> None:
        """The core tells the segment again."""

    def owing(self) -> set[int]:
        return set()

    def disagreement(self) -> str:
        return ""

    def advance(self, now: float) -> None:
        """There is nothing to settle."""
