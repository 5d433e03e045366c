"""Streams and their holders: fence, reassign, hand over, rebalance (design: rules 5 and 10).

A stream changes hands in one of two ways. A holder that is gone is *fenced*: attempt a+1 is
journaled, every shard refuses older attempts from then on and says whether it holds the
open step's unit; where all do, there is nothing to redo, else the heir sends only where the
unit is missing. A living holder *releases*: it deposits the stream's state at its next
boundary and computes it no more.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator import actions as a
from coordinator import events as e
from coordinator import units
from coordinator.crew import Crew
from coordinator.desk import Desk
from coordinator.entries import NOBODY, Lane
from coordinator.pace import pace_of
from coordinator.records import Assigned, Deposited

BALANCE_S = 10.0
"""Least time between two moves of streams for speed's sake."""


@dataclass
class _Fencing:
    """Answers so far to a fence: shard -> whether it holds the unit of `step`."""

    step: int
    attempt: int
    answers: dict[int, bool] = field(default_factory=dict)


class Lanes:
    """Who computes what. Its own state is only what was heard; decisions are in the journal.

    A stream that was to be released for speed's sake alone is forgotten with the coordinator: its holder is told a
    plan without that, and hands it over all the same if it was on its way.
    """

    def __init__(self, desk: Desk, crew: Crew) -> None:
        self._desk = desk
        self._crew = crew
        lanes = desk.state.lanes
        self._releasing = {lane.stream for lane in lanes if lane.holder in crew.leaving}
        self._fencing = {
            lane.stream: _Fencing(lane.fencing, lane.attempt) for lane in lanes if lane.fencing is not None
        }
        self._moved_at = 0.0

    # --- the start -----------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Deal the streams to the ready workers; who carried some in the segment before, and leaves, is let go."""
        self._moved_at = now
        for stream, worker in units.first_deal(len(self._desk.state.lanes), sorted(self._crew.available)):
            lane = self._desk.state.lanes[stream]
            self._assign(
                lane, worker, lane.step, (), "the segment begins" if lane.attempt else "the run begins"
            )
        for worker in sorted(self._crew.ready):
            self._tell(worker)
            self._let_go(worker)

    def welcome(self, incarnation: int) -> None:
        """A worker is ready: give it what is vacant, or have a stream handed over to it; it may hold some already."""
        self._settle_vacant()
        if self._desk.state.held_by(incarnation):
            self._tell(incarnation)

    def resume(self, now: float) -> None:
        """The coordinator is back: speeds are measured anew from here on."""
        self._moved_at = now

    def remind(self, incarnation: int) -> None:
        """A worker opened its line anew: tell it again what it may have missed."""
        if incarnation in self._crew.ready | self._crew.leaving:
            self._tell(incarnation)
            self._let_go(incarnation)
            self._dismiss_leavers()

    # --- departures ----------------------------------------------------------------------

    def leave(self, incarnation: int) -> None:
        """A worker wants to go: it releases all that it carries."""
        self._releasing.update(lane.stream for lane in self._desk.state.held_by(incarnation))
        self._tell(incarnation)
        self._let_go(incarnation)
        self._dismiss_leavers()

    def _dismiss_leavers(self) -> None:
        """With nobody left to hand over to, a leaver would wait for a boundary that may never come: let it go.

        Its streams are fenced when it is gone, and their next holders replay from the deposits.
        """
        if not self._crew.available:
            for incarnation in sorted(self._crew.leaving):
                self._desk.tell(incarnation, a.End("it asked to leave, and nobody is there to take over", ""))

    def abandon(self, incarnation: int, reason: str) -> None:
        """A worker is gone: fence what it carried."""
        for lane in self._desk.state.held_by(incarnation):
            self._releasing.discard(lane.stream)
            self._fence(lane, reason)
        self._dismiss_leavers()

    def _fence(self, lane: Lane, reason: str) -> None:
        state = self._desk.state
        self._assign(lane, NOBODY, lane.step, lane.send_to, reason, fence=state.open_step)
        self._fencing[lane.stream] = _Fencing(state.open_step, lane.attempt)
        self._desk.command_all(a.FenceStream(state.open_step, lane.stream, lane.attempt))

    def fence_again(self, shard: int) -> None:
        """A shard's line was broken: ask it once more for what it has not answered."""
        for stream, fencing in self._fencing.items():
            if shard not in fencing.answers:
                fence = a.FenceStream(fencing.step, stream, fencing.attempt)
                self._desk.actions.append(a.Command(shard, fence))

    def fenced(self, event: e.FenceAnswered) -> None:
        """A shard answered a fence; with the last answer the stream finds its next holder."""
        fencing = self._fencing.get(event.stream)
        if fencing is None or fencing.attempt != event.attempt:
            return
        fencing.answers[event.shard] = event.accepted
        if len(fencing.answers) < len(self._desk.state.placement):
            return
        del self._fencing[event.stream]
        missing = tuple(sorted(s for s, accepted in fencing.answers.items() if not accepted))
        everywhere, nowhere = not missing, len(missing) == len(fencing.answers)
        lane = self._desk.state.lanes[event.stream]
        step = fencing.step + 1 if everywhere else fencing.step
        reason = (
            f"unit of step {fencing.step} stands on every shard"
            if everywhere
            else f"unit of step {fencing.step} is missing on shards {list(missing)}"
        )
        self._assign(lane, NOBODY, step, () if nowhere else missing, reason)
        self._settle_vacant()

    # --- deposits ------------------------------------------------------------------------

    def deposited(self, event: e.StreamDeposited) -> None:
        """A stream's state is on every shard; a released stream goes to its next holder."""
        state = self._desk.state
        lane = state.lanes[event.stream]
        if lane.holder != event.incarnation or event.step < state.reached(lane):
            return  # a repeat of what another attempt told
        if lane.deposit is None or event.step > lane.deposit:
            self._desk.decide(Deposited(event.stream, event.step))
        if event.released and event.attempt == lane.attempt:  # not one of long ago, told again on a new line
            self._releasing.discard(event.stream)
            giver = self._desk.name_of(event.incarnation)
            # A holder may hand over before it reached its first unit: what was settled for that one stands.
            early = event.step <= lane.step
            step, send_to = (lane.step, lane.send_to) if early else (event.step, ())
            self._assign(lane, NOBODY, step, send_to, f"handed over by {giver} at step {event.step}")
            self._settle_vacant()
            self._tell(event.incarnation)
            self._let_go(event.incarnation)

    def _let_go(self, incarnation: int) -> None:
        if incarnation in self._crew.leaving and not self._desk.state.held_by(incarnation):
            self._desk.tell(incarnation, a.End("it asked to leave and carries nothing any more", ""))

    # --- placing -------------------------------------------------------------------------

    def load(self) -> dict[int, int]:
        """Streams that each ready worker carries or will keep, those being released left out."""
        state = self._desk.state
        return {
            worker: sum(lane.stream not in self._releasing for lane in state.held_by(worker))
            for worker in sorted(self._crew.available)
        }

    def _settle_vacant(self) -> None:
        """Give every vacant stream a holder, then move streams while the load is uneven."""
        state = self._desk.state
        changed: set[int] = set()
        for lane in state.lanes:
            if lane.holder == NOBODY and lane.stream not in self._fencing and not self._at_its_end(lane):
                worker = units.heir(self.load(), self._unit_s())
                if worker is None:
                    self._desk.note("waiting", reason=f"no worker is ready for stream {lane.stream}")
                    continue
                self._assign(lane, worker, lane.step, lane.send_to, "it is done with it soonest")
                changed.add(worker)
        if (giver := self._release_one()) is not None:
            changed.add(giver)
        for worker in sorted(changed):
            self._tell(worker)

    def _at_its_end(self, lane: Lane) -> bool:
        """Whether the segment is over and the stream's state of its end is deposited: nothing is left to do.

        An heir would pull x̂ behind the close that ended the segment, and never hear of it.
        """
        return self._desk.state.paused and self._desk.state.reached(lane) == self._desk.state.open_step

    def _release_one(self) -> int | None:
        """Have a stream handed over where that lets a step end sooner; by whom."""
        state = self._desk.state
        if self._releasing or state.final or state.paused:
            return None
        giver = units.giver(self.load(), self._unit_s())
        if giver is not None:
            stream = max(lane.stream for lane in self._desk.state.held_by(giver))
            self._releasing.add(stream)
            self._desk.note("rebalance", stream=stream, worker=self._desk.name_of(giver))
        return giver

    def balance(self, now: float) -> None:
        """Move a stream if the workers' speeds, as measured by now, ask for it."""
        if now - self._moved_at >= BALANCE_S and not self._fencing:
            self._moved_at = now
            if (giver := self._release_one()) is not None:
                self._tell(giver)

    def _unit_s(self) -> dict[int, float]:
        return {worker: self._crew.unit_s(self._desk.name_of(worker)) for worker in self._crew.available}

    def _assign(
        self,
        lane: Lane,
        holder: int,
        step: int,
        send_to: tuple[int, ...],
        reason: str,
        *,
        fence: int | None = None,
    ) -> None:
        """Journal a stream's next attempt. A vacancy raises the attempt, its filling keeps it."""
        attempt = lane.attempt + 1 if holder == NOBODY and lane.holder != NOBODY else lane.attempt
        self._desk.decide(Assigned(lane.stream, attempt, holder, step, send_to, reason, fence))
        self._desk.note(
            "assigned",
            stream=lane.stream,
            attempt=attempt,
            worker=self._desk.name_of(holder) if holder != NOBODY else None,
            step=step,
            reason=reason,
        )

    def plan(self, incarnation: int) -> a.Plan:
        """All that a worker is to do."""
        state = self._desk.state
        return a.Plan(
            number=self._desk.next_plan(),
            segment=state.segment.number,
            begins=state.segment.step,
            total_steps=state.dataset.total_steps if state.dataset else 0,
            lag=pace_of(state.segment).lag,
            drained=self._drained(),
            first=any(lane.stream == 0 for lane in state.held_by(incarnation)),
            assignments=tuple(
                a.Assignment(
                    stream=lane.stream,
                    attempt=lane.attempt,
                    step=lane.step,
                    deposit=lane.deposit,
                    send_to=lane.send_to,
                    release=lane.stream in self._releasing,
                )
                for lane in state.held_by(incarnation)
            ),
        )

    def _drained(self) -> tuple[int, ...]:
        """Where units lag: the steps whose units have all before them, as far as is decided."""
        state, second = self._desk.state, self._desk.state.segment.step + 1
        if not pace_of(state.segment).lag:
            return ()
        return tuple(sorted({*state.drained, *([second] if self._desk.drained(second) else [])}))

    def _tell(self, incarnation: int) -> None:
        self._desk.tell(incarnation, self.plan(incarnation))
