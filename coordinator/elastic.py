"""Elastic segments: units are leased, codec state is the workers' own, each unit counts once whoever computes it.

Where units settle on arrival (ssp, async) the shards settle them, and the coordinator counts what stands
everywhere; a boundary is made by asking all leases back, choosing a step beyond all that is begun, having
what is missing below it computed, and one close, once those who leave have flushed. Under a quorum the coordinator
closes the steps.

A coordinator that comes back hands nothing out before every shard has told what it holds: who begins a unit must know
which shards have it already.
"""

from __future__ import annotations

import math
from dataclasses import replace

from coordinator import actions as a
from coordinator import events as e
from coordinator.arrivals import Arrivals, Sums
from coordinator.boundary import Boundary, Kind
from coordinator.clipping import MOVED_S, bound_of, counted, moved
from coordinator.crew import Crew
from coordinator.desk import Desk, every
from coordinator.lateness import Lateness
from coordinator.leases import Leases
from coordinator.leavers import Leavers
from coordinator.pace import Pace, Standing
from coordinator.records import Barred, Bounded, Closed, Counted, Stopping
from coordinator.retirements import Retirements
from wire.messages import BAD_UNIT


class Elastic:
    """`arrivals` knows what stands, `leases` who computes what, `leavers` who goes."""

    def __init__(
        self, desk: Desk, crew: Crew, boundary: Boundary, retirements: Retirements, pace: Pace
    ) -> None:
        self._desk = desk
        self._crew = crew
        self._boundary = boundary
        self._retirements = retirements
        self._pace = pace
        self._arrivals = Arrivals(desk.state)
        self._leases = Leases(desk, crew, self._arrivals, pace)
        self._leavers = Leavers(desk, crew)
        self._lateness = Lateness(streams=desk.state.streams)
        present = {member.incarnation for member in desk.state.present("worker")}
        self._inheriting = present.intersection(desk.state.segment.heirs)
        """Workers that may not have taken on yet what streams held back, which the shards keep until then."""
        self._opened_at = 0.0
        self._bounded_at = -math.inf
        self.waits_for = ""
        self.accept = self._arrivals.accept
        self.standing_on = self._arrivals.standing_on
        self.flushed = self._leavers.flushed

    # --- workers -------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        self._opened_at = now
        self._leases.begin(now)

    def resume(self, now: float) -> None:
        self._opened_at = now
        self._leases.resume(now)

    def welcome(self, incarnation: int) -> None:
        if self._desk.untold:
            return
        self._leases.appoint()
        self._leases.tell(incarnation)
        self._leases.deal(f"{self._desk.name_of(incarnation)} is ready")
        self._leases.level()

    def remind(self, incarnation: int) -> None:
        if incarnation in self._crew.ready | self._crew.leaving and not self._desk.untold:
            self._leases.tell(incarnation)
            self._leavers.remind(incarnation)

    def leave(self, incarnation: int) -> None:
        if not self._desk.untold:
            self._leases.appoint()
            self._leases.ask_back(incarnation)

    def holding(self, event: e.Holding) -> None:
        """A worker follows its plan: it is in this segment, with all that it takes on."""
        self._inheriting.discard(event.incarnation)
        self._leases.holding(event)

    def abandon(self, incarnation: int, reason: str) -> None:
        if incarnation in self._inheriting:
            heirs = enumerate(self._desk.state.segment.heirs)
            streams = [stream for stream, heir in heirs if heir == incarnation]
            self._desk.note("heir_lost", name=self._desk.name_of(incarnation), streams=streams)
        self._inheriting.discard(incarnation)
        self._leases.abandon(incarnation)
        if not self._desk.untold:
            self._leases.appoint()
        if incarnation not in self._retirements.pending:
            self._leases.retired(incarnation)

    def carries(self, incarnation: int) -> list[int]:
        return self._leases.unfinished(incarnation)

    def leased(self, incarnation: int) -> int | None:
        return self._leases.count(incarnation)

    def staleness(self, incarnation: int) -> float | None:
        return self._arrivals.staleness(incarnation)

    def retired(self, incarnation: int) -> None:
        self._leases.retired(incarnation)

    def deposited(self, event: e.StreamDeposited) -> None:
        """No state is deposited here."""

    def fenced(self, event: e.FenceAnswered) -> None:
        """Nothing is fenced but by retirement."""

    def again(self, event: e.ShardAttached) -> None:
        """What was accepted is told by the shard, retirements and closes are the core's."""
        if self._desk.state.bound:
            self._desk.actions.append(a.Command(event.shard, a.HoldTo(self._desk.state.bound)))

    def owing(self) -> set[int]:
        """Who may go on and does not, as its oldest unit is not too far ahead; and who has not answered a plan."""
        state = self._desk.state
        if self._leases.hand_over is not None:
            return {self._leases.evaluator} - {0}
        if not self._boundary.open or self._desk.untold:
            return set()
        slowest = state.low // state.streams
        bound = None if self._pace.ahead is None else slowest + self._pace.ahead
        late = {
            worker
            for worker, number in self._leases.oldest().items()
            if bound is None or number // state.streams <= bound
        }
        return late | self._leases.asked

    def disagreement(self) -> str:
        return self._arrivals.torn

    # --- time ----------------------------------------------------------------------------

    def advance(self, now: float) -> None:
        state = self._desk.state
        if state.dataset is None or state.ended is not None:
            return
        if self._desk.untold:
            self.waits_for = f"shards {sorted(self._desk.untold)} must tell what they hold"
            return
        self._leavers.let_go(self._leases.unfinished, now)
        if not state.final and self._boundary.open:
            self._go_on()
            if self._pace.arrival:
                self._count()
                self._bound_norms(now)
                self._approach_boundary()
            else:
                self._approach_switch()
                self._close_if_due(now)
        self._have_handed_over()
        self._boundary.write_if_due(deposited=not self.handing_over)
        if self._boundary.open and not state.final:
            self._leases.balance(now)

    @property
    def handing_over(self) -> bool:
        """Whether the worker that evaluates, if one is there, has not handed over yet what it keeps."""
        state = self._desk.state
        stands = self._boundary.due is not None or state.paused
        keeper = state.members.get(self._leases.evaluator)
        return stands and state.handed != state.closed and keeper is not None and keeper.keeps

    def _have_handed_over(self) -> None:
        """Where the run stands still everywhere, ask whoever evaluates; another one, if that is gone meanwhile."""
        state = self._desk.state
        asked = self._leases.hand_over
        if not (self.handing_over and self._boundary.reached(state.closed)):
            self._leases.hand_over = None
        elif asked is None:
            self._leases.hand_over = state.closed
            self._leases.tell(self._leases.evaluator)

    def _go_on(self) -> None:
        """Behind a boundary at which the segment did not end, once every shard has closed it."""
        state = self._desk.state
        if state.barred is not None and state.closed >= state.barred and self._boundary.reached(state.barred):
            self._desk.decide(Barred(None))
            self._leases.held_back = False
            self._leases.deal("the boundary is behind")

    # --- settled on arrival --------------------------------------------------------------

    def _count(self) -> None:
        """Whole steps of which every unit stands everywhere."""
        state = self._desk.state
        low = self._arrivals.contiguous // state.streams * state.streams
        if low <= state.low:
            return
        sums = self._arrivals.take(range(state.low, low))
        step = low // state.streams
        self._stop_if_bad(sums)
        self._desk.decide(
            Counted(
                low,
                low - state.low,
                sums.empty,
                sums.samples,
                sums.tokens,
                sums.loss,
                sums.staleness,
                sums.returned,
                norms=counted(sums.norms, state.bound) if self._desk.rules.clip else (),
            )
        )
        self._desk.command_all(a.Advance(low))
        self._desk.note("step", step=step - 1, loss=sums.loss, samples=sums.samples, tokens=sums.tokens)
        self._tell_of_lateness(sums)

    def _tell_of_lateness(self, sums: Sums) -> None:
        mean = self._lateness.count(sums.behind)
        if mean is not None:
            state = self._desk.state
            workers = len(state.present("worker"))
            self._desk.note("late_units", steps=round(mean, 2), workers=workers, units_per_step=state.streams)

    def _bound_norms(self, now: float) -> None:
        """Tell the shards the bound on norms once it has moved."""
        state, clip = self._desk.state, self._desk.rules.clip
        bound = bound_of(state.norms, clip=clip, streams=state.streams) if clip else 0.0
        if moved(state.bound, bound) and now - self._bounded_at >= MOVED_S:
            self._bounded_at = now
            self._desk.decide(Bounded(bound))
            self._desk.command_all(a.HoldTo(bound))

    @property
    def _checkpoint_wanted(self) -> bool:
        """Whether a step at which one is due was passed since the last close."""
        state = self._desk.state
        return self._desk.passes_checkpoint(state.closed, state.open_step)

    def _stop_if_bad(self, sums: Sums) -> None:
        desk, state = self._desk, self._desk.state
        for number, reason in sums.bad:
            desk.note("bad_unit", step=number // state.streams, stream=number % state.streams, reason=reason)
        if sums.bad and desk.rules.on_bad_unit == "stop" and state.stopping is None:
            number, reason = sums.bad[0]
            told = reason.removeprefix(BAD_UNIT)
            step = desk.rounds.first_step(number // state.streams)
            desk.decide(Stopping(f"step {step}: {told}", "BadUnit"))

    def _approach_boundary(self) -> None:
        """Towards the next boundary, where one is wanted: ask back, choose the step, close there."""
        state = self._desk.state
        assert state.dataset is not None
        self.waits_for = "units are settled as they arrive"
        end = state.dataset.total_steps
        checkpoint = self._checkpoint_wanted or self._boundary.wishes.open
        wanted = state.stopping is not None or state.switching is not None or checkpoint
        if state.low == end * state.streams:
            self._close_when_flushed(end)
        elif state.barred is not None:
            self.waits_for = f"a boundary at step {state.barred}: units from {state.low} on are missing"
            if state.low == state.barred * state.streams and state.closed < state.barred:
                self._close_when_flushed(state.barred)
        else:
            self._gather(end, wanted=wanted)

    def _gather(self, end: int, *, wanted: bool) -> None:
        """Where a boundary is wanted ask all leases back, then choose its step."""
        if wanted and not self._leases.held_back:
            self._desk.note("gathering", reason=self._why())
            self._leases.ask_all_back()
        if self._leases.held_back:
            self.waits_for = "a boundary: workers say what they have begun"
            self._choose_boundary(end)

    def _why(self) -> str:
        state = self._desk.state
        if state.stopping is not None:
            return state.stopping.reason
        return f"the mode becomes {state.switching.mode}" if state.switching else "a checkpoint is due"

    def _choose_boundary(self, end: int) -> None:
        """The first step beyond all that is begun, once everybody has said."""
        state, leases = self._desk.state, self._leases
        if not leases.settled:
            return
        high = max(state.low, leases.begun, self._arrivals.high)
        step = min(max(-(-high // state.streams), state.closed + 1), end)
        self._desk.decide(Barred(step))
        self._desk.note("boundary", step=step)
        leases.held_back = False
        leases.deal(f"a boundary at step {step}")

    def _close_when_flushed(self, step: int) -> None:
        """What a leaver holds belongs to this segment: behind the close no shard takes it any more."""
        if self._not_taken_on:
            return
        if self._leavers.flushing:
            names = ", ".join(self._desk.name_of(worker) for worker in sorted(self._leavers.flushing))
            self.waits_for = f"a boundary at step {step}: {names} must push what they hold back"
        else:
            self._close_boundary(step)

    @property
    def _not_taken_on(self) -> bool:
        """Whether a worker may be on its way into the segment with what streams left to it: it must not miss it."""
        if self._inheriting:
            names = ", ".join(map(self._desk.name_of, sorted(self._inheriting)))
            self.waits_for = f"a boundary: {names} must take on what streams held back"
        return bool(self._inheriting)

    def _close_boundary(self, step: int) -> None:
        kind = self._boundary.kind(step)
        if self._checkpoint_wanted:
            kind = Kind(kind.final, checkpoint=True, pause=kind.pause)
        record = Closed(
            step=step - 1,
            streams=(),
            deposit=True,
            final=kind.final,
            retain_from=self._retain_from(step),
            empty=0,
            samples=0,
            tokens=0,
            loss=None,
            pause=kind.pause,
            checkpoint=kind.checkpoint,
        )
        self._desk.decide(record)
        self._desk.close(record)

    # --- settled at closes ---------------------------------------------------------------

    def _approach_switch(self) -> None:
        """Where the segment is to end, see to it that nothing at or beyond its last step is leased when that closes.

        A worker that pulls x̂ behind that close never hears that the segment is over.
        """
        state = self._desk.state
        assert state.dataset is not None
        if state.barred is None:
            self._gather(state.dataset.total_steps, wanted=state.switching is not None)

    def _close_if_due(self, now: float) -> None:
        state = self._desk.state
        step, streams = state.open_step, state.streams
        first = step * streams
        accepted = {s: self._arrivals.shards(first + s) for s in range(streams)}
        late = tuple(sorted(n for n in state.owed if self._arrivals.complete(n)))
        standing = Standing(
            step,
            streams,
            len(state.placement),
            accepted,
            oldest_owed=min((n // streams for n in state.owed - set(late)), default=None),
            open_s=now - self._opened_at,
        )
        units, self.waits_for = self._pace.decide(standing)
        kind = self._boundary.kind(step + 1)
        kind = replace(kind, pause=kind.pause and state.barred == step + 1)
        if units is None:
            return
        if kind.any and (standing.missing or len(late) < len(state.owed)):
            self.waits_for = f"a boundary behind step {step} waits for its late units"
            return
        if kind.any and self._not_taken_on:
            return
        self._close(units, late, kind, now)

    def _retain_from(self, step: int) -> int:
        return self._desk.state.segment.step if self._inheriting else step

    def _close(self, streams: tuple[int, ...], late: tuple[int, ...], kind: Kind, now: float) -> None:
        desk, state = self._desk, self._desk.state
        step, first = state.open_step, state.open_step * state.streams
        bound = bound_of(state.norms, clip=desk.rules.clip, streams=state.streams)
        sums = self._arrivals.take([*late, *(first + s for s in streams)], bound=bound)
        if sums.bad:
            self._stop_if_bad(sums)
        record = Closed(
            step=step,
            streams=streams,
            deposit=kind.any or every(step + 1, desk.rules.stream_state_every),
            final=kind.final,
            retain_from=self._retain_from(step + 1),
            empty=sums.empty,
            samples=sums.samples,
            tokens=sums.tokens,
            loss=sums.loss,
            late=late,
            pause=kind.pause,
            staleness=sums.staleness,
            returned=sums.returned,
            checkpoint=kind.checkpoint,
            bound=bound,
            norms=counted(sums.norms, bound) if desk.rules.clip else (),
        )
        desk.decide(record)
        desk.close(record)
        desk.command_all(a.Advance(state.low))
        desk.note(
            "step",
            step=step,
            loss=sums.loss,
            samples=sums.samples,
            tokens=sums.tokens,
            late=list(late),
            owed=len(state.owed),
        )
        self._tell_of_lateness(sums)
        self._opened_at = now
