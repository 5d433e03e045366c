"""Exact segments: streams are carried by workers, their state outlives them, a step closes with all its units."""

from __future__ import annotations

from coordinator import events as e
from coordinator.boundary import Boundary
from coordinator.crew import Crew
from coordinator.desk import Desk
from coordinator.lanes import Lanes
from coordinator.pace import Pace
from coordinator.steps import Steps


class Exact:
    """`lanes` decides who computes what, `steps` when a step closes."""

    handing_over = False

    def __init__(self, desk: Desk, crew: Crew, boundary: Boundary, pace: Pace) -> None:
        self._desk = desk
        self._boundary = boundary
        self.lanes = Lanes(desk, crew)
        self._pace = pace
        self.steps = Steps(desk, boundary, pace)
        self.welcome = self.lanes.welcome
        self.remind = self.lanes.remind
        self.leave = self.lanes.leave
        self.abandon = self.lanes.abandon
        self.deposited = self.lanes.deposited
        self.fenced = self.lanes.fenced
        self.resume = self.lanes.resume
        self.accept = self.steps.accept
        self.standing_on = self.steps.standing_on
        self.disagreement = self.steps.disagreement

    @property
    def waits_for(self) -> str:
        return self.steps.waits_for

    def begin(self, now: float) -> None:
        self.lanes.begin(now)

    def carries(self, incarnation: int) -> list[int]:
        return [lane.stream for lane in self._desk.state.held_by(incarnation)]

    def leased(self, incarnation: int) -> int | None:
        return None

    def staleness(self, incarnation: int) -> float | None:
        """Of those of a step that drained it is 0."""
        return float(self._pace.lag)

    def retired(self, incarnation: int) -> None:
        """Attempts fence what a worker pushed."""

    def holding(self, event: e.Holding) -> None:
        """There are no leases."""

    def flushed(self, event: e.Flushed) -> None:
        """In the elastic segment that is over."""

    def again(self, event: e.ShardAttached) -> None:
        self.lanes.fence_again(event.shard)

    def owing(self) -> set[int]:
        owed = self.steps.owed()
        return {lane.holder for lane in self._desk.state.lanes if lane.stream in owed}

    def advance(self, now: float) -> None:
        self.steps.advance()
        self._boundary.write_if_due(deposited=self._desk.state.deposited)
        if not self._desk.untold:
            self.lanes.balance(now)
