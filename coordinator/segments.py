"""The run's segments, one after the other: when work is first dealt, who decides in each, and how the next begins.

An operator's wish for another mode is a record; the segment at hand makes for a boundary because of it. Where the run
stands still there, the shards are told of the next segment, and work is dealt once every one settles in the new way.
"""

from __future__ import annotations

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.boundary import Boundary
from coordinator.crew import Crew
from coordinator.desk import Desk, begin_of
from coordinator.elastic import Elastic
from coordinator.exact import Exact
from coordinator.pace import pace_of
from coordinator.retirements import Retirements
from coordinator.units import spread
from coordinator.work import Standstill, Work
from wire.errors import Busy, RunOver


class Segments:
    """What decides in the segment at hand.

    Attributes:
        work: the deciding half of this segment.
        begun_at: when work was first dealt, in monotonic seconds, or None.
    """

    def __init__(self, desk: Desk, crew: Crew, boundary: Boundary, retirements: Retirements) -> None:
        self._desk = desk
        self._crew = crew
        self._boundary = boundary
        self._retirements = retirements
        self._beginning: set[int] = set()
        """Shards that have not said that the next segment has begun there."""
        self.begun_at: float | None = None
        self.work: Work = self._work()
        if self.begun and not desk.state.dealt:
            self._stand_still()

    def _work(self) -> Work:
        pace = pace_of(self._desk.state.segment)
        if pace.exact:
            return Exact(self._desk, self._crew, self._boundary, pace)
        return Elastic(self._desk, self._crew, self._boundary, self._retirements, pace)

    @property
    def begun(self) -> bool:
        """Whether work was dealt: enough workers were ready at one moment."""
        return self._desk.state.begun

    @property
    def bounded(self) -> bool:
        """Whether a slow worker stops the others."""
        return pace_of(self._desk.state.segment).ahead is not None

    def welcome(self, incarnation: int, now: float, *, keeps: bool = False) -> None:
        """A worker is ready. The run begins with it, if it is the last one that was waited for."""
        if incarnation not in self._crew.ready:
            self._desk.decide(r.Readied(incarnation, keeps))
        self._crew.ready.add(incarnation)
        if self.begun:
            self.work.welcome(incarnation)
        elif len(self._crew.available) >= self._desk.rules.workers_to_begin:
            self._desk.note("begun", workers=len(self._crew.available), step=self._desk.state.open_step)
            self.begun_at = now
            self.work.begin(now)

    def advance(self, now: float) -> None:
        """Settle what can be settled, then go on to the next segment, once the run has begun."""
        if self.begun:
            self.work.advance(now)
            self._begin_next_if_over()

    def _begin_next_if_over(self) -> None:
        """The next mode, once the run stands still at its boundary and nobody who is gone can push any more."""
        state = self._desk.state
        switching = state.switching
        if (
            switching is None
            or self._beginning
            or not self._boundary.segment_over
            or self.work.handing_over
            or self._retirements.pending
            or self._depositing
            or (self._streams_end(switching) and not self._crew.available)
        ):
            return
        segment = r.Segment(
            state.segment.number + 1,
            state.open_step,
            switching.mode,
            switching.staleness,
            switching.quorum,
            switching.deadline_s,
            self._heirs(switching),
        )
        self._desk.decide(segment)
        self._desk.note("segment", number=segment.number, mode=segment.mode, step=segment.step)
        self._desk.command_all(begin_of(self._desk.state))
        self._stand_still()

    @property
    def _depositing(self) -> bool:
        """Whether the state in which streams end the segment is not on every shard yet: others may go on from it."""
        state = self._desk.state
        return pace_of(state.segment).exact and not state.deposited

    def _heirs(self, switching: r.Switching) -> tuple[int, ...]:
        """Who goes on with what each stream holds back, where streams end: who carries it, or somebody else."""
        if not self._streams_end(switching):
            return ()
        carriers = [lane.holder for lane in self._desk.state.lanes]
        available = sorted(self._crew.available)
        return spread(carriers, present=available, others=available)

    def _streams_end(self, switching: r.Switching) -> bool:
        """Whether there are none behind the boundary: somebody must be there to go on with what they held back."""
        return pace_of(self._desk.state.segment).exact and not pace_of(switching).exact

    def _stand_still(self) -> None:
        self.work = Standstill(self._desk, self._crew)
        self._beginning = {placed.shard for placed in self._desk.state.placement}

    def begun_on(self, shard: int, segment: int, now: float) -> None:
        """Work is dealt once every shard settles in the new way: a unit must not come before that."""
        if segment != self._desk.state.segment.number or shard not in self._beginning:
            return
        self._beginning.discard(shard)
        if not self._beginning:
            self.work = self._work()
            self.work.begin(now)

    def resume(self, now: float) -> None:
        """The coordinator came back to a run at work, and every shard has told what it holds."""
        self.work.resume(now)

    def set(self, event: e.SetAsked) -> None:
        """Another mode, from the next boundary on. What is asked last before a boundary counts."""
        state, wanted = self._desk.state, event.wanted
        if state.ended is not None or state.final:
            self._desk.answer(event.key, RunOver("the run is at its end: its mode changes no more"))
            return
        if state.paused:
            refusal = f"the run stands still at step {state.open_step} while its mode changes; ask again in a moment"
            self._desk.answer(event.key, Busy(refusal))
            return
        if pace_of(wanted) != pace_of(state.switching or state.segment):
            self._desk.decide(wanted)
            self._desk.note("switching", mode=wanted.mode, step=state.open_step)
        self._desk.answer(event.key, a.Done())
