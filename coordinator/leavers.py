"""Workers that leave an elastic segment: each pushes what it holds back for later pushes, says so, and is let go.

A leaver that owes nothing any more is waited for at most `FLUSH_S`; what it holds then is lost. Only heard: who flushed
is told again on every line.
"""

from __future__ import annotations

from collections.abc import Callable

from coordinator import actions as a
from coordinator import events as e
from coordinator.crew import Crew
from coordinator.desk import Desk
from coordinator.pace import pace_of

FLUSH_S = 10.0
"""P17: so long after its last unit a leaver ends, whether or not it could flush."""
OWES_NOTHING = "it asked to leave and owes nothing any more"


class Leavers:
    """Those of one segment.

    Attributes:
        flushing: the leavers that owe nothing any more and are still waited for.
    """

    def __init__(self, desk: Desk, crew: Crew) -> None:
        self._desk = desk
        self._crew = crew
        self._idle_since: dict[int, float] = {}
        self._flushed: set[int] = set()
        self._told: set[int] = set()
        self.flushing: set[int] = set()

    def flushed(self, event: e.Flushed) -> None:
        """A worker has pushed what it held back; of an older segment that says nothing."""
        if event.segment == self._desk.state.segment.number:
            self._flushed.add(event.incarnation)

    def remind(self, incarnation: int) -> None:
        """It opened its line anew: what it was told may be lost."""
        self._told.discard(incarnation)

    def let_go(self, owes: Callable[[int], object], now: float) -> None:
        """End those that have nothing more to do here. `owes`: whether some shard still needs a unit of a worker."""
        idle = {worker for worker in self._crew.leaving if not owes(worker)}
        reasons = {worker: self._reason(worker, now) for worker in sorted(idle)}
        self.flushing = {worker for worker, reason in reasons.items() if not reason}
        for worker, reason in reasons.items():
            if reason and worker not in self._told:
                self._told.add(worker)
                self._desk.tell(worker, a.End(reason, ""))

    def _reason(self, worker: int, now: float) -> str:
        """Why a leaver that owes nothing may go, or nothing."""
        since = self._idle_since.setdefault(worker, now)
        if worker in self._flushed or worker not in self._crew.ready:
            return OWES_NOTHING
        if self._too_late:
            return "it asked to leave, and the segment is over"
        if now - since >= FLUSH_S:
            return f"it asked to leave, and has not flushed what it holds back for {FLUSH_S:.0f} s"
        return ""

    @property
    def _too_late(self) -> bool:
        """Whether no shard takes a flush any more, nor will in the next segment."""
        state = self._desk.state
        return state.final or (
            state.paused and state.switching is not None and pace_of(state.switching).exact
        )
