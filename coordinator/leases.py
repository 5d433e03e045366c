"""Leases: who works off which units of an elastic segment (design: rules 5 and 12).

The units are cut into interleaved spans, each leased to a worker up to the end of the run, so that all
advance together through the data and the coordinator may be away for long. A lease ends in one of two
ways. From a living holder it is *asked back*: the holder says which unit of it it has not begun, and from
there on it is vacant. The holder of others is *retired*: once every shard has answered, what is missing is vacant.
"""

from __future__ import annotations

from dataclasses import dataclass

from coordinator import actions as a
from coordinator import events as e
from coordinator.arrivals import Arrivals
from coordinator.crew import Crew
from coordinator.desk import Desk
from coordinator.entries import Lease
from coordinator.pace import Pace
from coordinator.records import Leased, Lowered, Pooled, Vacated
from coordinator.spans import Span

BALANCE_S = 5.0
"""Least time between two looks at the balance."""
WINDOW_S = 30.0
"""Workers are balanced over the work of so long."""
ROUNDS = 8
"""And over so many units of each span at least, so that each one weighs alike."""
LEVEL = 0.85
"""Spans move when the first worker will be done within this share of the last one's time."""


@dataclass
class _Asked:
    """A lease that is asked back: by the plan of this number."""

    plan: int


@dataclass(frozen=True)
class _Window:
    """The near future that workers are compared over: units below `horizon`, seconds of a unit by worker."""

    horizon: int
    unit_s: dict[int, float]

    def takes(self, worker: int, span: Span) -> float:
        """Seconds that a worker needs for what of a span lies in the window."""
        return self.unit_s[worker] * span.cut(self.horizon)[0].count


class Leases:
    """Deals and takes back. Its own state is only what was heard; decisions are in the journal."""

    def __init__(self, desk: Desk, crew: Crew, arrivals: Arrivals, pace: Pace) -> None:
        self._desk = desk
        self._crew = crew
        self._arrivals = arrivals
        self._pace = pace
        self._asked: dict[int, _Asked] = {}
        self._next: dict[int, int] = {}
        self._gone = {m.incarnation for m in desk.state.members.values() if m.retiring}
        self._looked_at = 0.0
        self._slots = 1
        self._evaluator = 0
        self.held_back = False
        """Nothing is dealt: a boundary is being prepared."""
        self.hand_over: int | None = None
        """The step before which the run stands still, and whoever evaluates hands over what it keeps."""

    # --- dealing -------------------------------------------------------------------------

    def begin(self, now: float) -> None:
        """Cut the units of the segment and deal them to the ready workers."""
        state = self._desk.state
        assert state.dataset is not None
        self._looked_at = now
        self._evaluator = min(self._crew.available, default=0)
        self._slots = self._pace.slots(state.streams, len(self._crew.available))
        self._desk.decide(Pooled(state.low, state.dataset.total_steps * state.streams, self._slots))
        self.deal("the segment begins")
        for worker in sorted(self._crew.ready - {lease.holder for lease in state.leases.values()}):
            self.tell(worker)

    def resume(self, now: float) -> None:
        """The coordinator is back: tell everybody again, have those who leave begin nothing more, deal what is vacant.

        What was asked back otherwise is asked again where that is still wanted: an answer to an older plan is none.
        """
        state = self._desk.state
        self._looked_at = now
        spans = [*state.vacant, *(lease.span for lease in state.leases.values())]
        self._slots = max((span.stride for span in spans), default=1)
        self._evaluator = min(self._crew.available, default=0)
        for worker in sorted(self._crew.ready | self._crew.leaving):
            if worker in self._crew.leaving:
                self.ask_back(worker)
            else:
                self.tell(worker)
        self.deal("the coordinator is back")

    def deal(self, reason: str) -> None:
        """Lease all that is vacant and may be begun, each span to the worker that is done with it soonest."""
        state = self._desk.state
        if self.held_back:
            return
        bar = None if state.barred is None else state.barred * state.streams
        spans = [v if bar is None else v.cut(bar)[0] for v in sorted(state.vacant)]
        window, changed = self._window(), set()
        work = self._work(window)
        for span in filter(None, spans):
            if not work:
                self._desk.note("waiting", reason=f"no worker is ready for units from {span.start} on")
                break
            worker = min(work, key=lambda w: (work[w] + window.takes(w, span), w))
            work[worker] += window.takes(worker, span)
            self._desk.decide(Leased(state.leased + 1, worker, span.start, span.stop, span.stride, reason))
            changed.add(worker)
        for worker in sorted(changed):
            self.tell(worker)

    def _window(self) -> _Window:
        """What all together do in `WINDOW_S`, from the slowest unit on."""
        unit_s = {w: self._crew.unit_s(self._desk.name_of(w)) for w in self._crew.available}
        units = int(WINDOW_S * sum(1 / seconds for seconds in unit_s.values()))
        state = self._desk.state
        return _Window(state.low + max(units, ROUNDS * self._slots), unit_s)

    def _work(self, window: _Window) -> dict[int, float]:
        """Seconds of work in the window that each available worker has before it."""
        work = dict.fromkeys(sorted(self._crew.available), 0.0)
        for lease in self._desk.state.leases.values():
            if lease.holder in work and lease.number not in self._asked:
                work[lease.holder] += window.takes(lease.holder, self._rest(lease))
        return work

    def _rest(self, lease: Lease) -> Span:
        """The part of a lease that is not known to be begun."""
        number = max(self._next.get(lease.number, 0), lease.span.start)
        number = lease.span.first_from(max(number, self._desk.state.low))
        while number < lease.span.stop and self._arrivals.known(number):
            number += lease.span.stride
        self._next[lease.number] = number
        return lease.span.cut(number)[1]

    def balance(self, now: float) -> None:
        """Move spans from workers that will need longer to those that will be done sooner, as measured by now."""
        if self.held_back or now - self._looked_at < BALANCE_S:
            return
        self._forget_finished()
        if not self._asked:
            self._looked_at = now
            self.level()

    def level(self) -> None:
        """Ask spans back from the worker that will need longest, while that lets the last one end sooner."""
        window, givers = self._window(), set()
        work = self._work(window)
        if not work or min(work.values()) >= LEVEL * max(work.values()):
            return
        open_: dict[int, list[Lease]] = {}
        while True:
            giver = max(work, key=lambda w: (work[w], w))
            to = min(work, key=lambda w: (work[w], w))
            if giver not in open_:
                open_[giver] = self._open_leases(giver)
            leases = open_[giver]
            if not leases:
                break
            lease = leases.pop()
            rest = self._rest(lease)
            if work[to] + window.takes(to, rest) >= work[giver]:
                break
            work[giver] -= window.takes(giver, rest)
            work[to] += window.takes(to, rest)
            self._asked[lease.number] = _Asked(0)
            givers.add(giver)
        for worker in sorted(givers):
            self.tell(worker)

    def _open_leases(self, worker: int) -> list[Lease]:
        """The leases of a worker with units that are not begun, longest last."""
        leases = [x for x in self._desk.state.leased_to(worker) if x.number not in self._asked]
        return sorted((x for x in leases if self._rest(x)), key=lambda x: (self._rest(x).count, x.number))

    # --- taking back ---------------------------------------------------------------------

    def ask_back(self, worker: int) -> None:
        """Have a living worker begin nothing more of what it holds."""
        for lease in self._open_leases(worker):
            self._asked[lease.number] = _Asked(0)
        self.tell(worker)

    def ask_all_back(self) -> None:
        """Have all living workers begin nothing more; nothing is dealt meanwhile."""
        self.held_back = True
        for worker in sorted({lease.holder for lease in self._desk.state.leases.values()} - self._gone):
            self.ask_back(worker)

    @property
    def settled(self) -> bool:
        """Whether all that was asked back is vacant or finished, and nobody's work is being sorted out."""
        self._forget_finished()
        return not self._asked and not self._gone

    @property
    def begun(self) -> int:
        """One beyond the largest unit that is begun or leased."""
        return max((lease.span.last + 1 for lease in self._desk.state.leases.values()), default=0)

    def holding(self, event: e.Holding) -> None:
        """A worker's answer: what it was asked to give back is vacant from the unit that it names on."""
        state, lowered = self._desk.state, False
        for number, following in event.leases:
            lease, asked = state.leases.get(number), self._asked.get(number)
            if lease is None or lease.holder != event.incarnation:
                continue
            self._next[number] = max(self._next.get(number, 0), following)
            if asked is not None and event.plan >= asked.plan:
                del self._asked[number]
                self._desk.decide(Lowered(number, lease.span.first_from(following)))
                lowered = True
        if lowered:
            self._forget_finished()
            self.deal("given back by " + self._desk.name_of(event.incarnation))

    def abandon(self, worker: int) -> None:
        """A worker is gone; what it leaves is vacant once every shard has retired it."""
        self._gone.add(worker)
        for lease in self._desk.state.leased_to(worker):
            self._asked.pop(lease.number, None)

    def retired(self, worker: int) -> None:
        """All that a gone worker pushed is known now."""
        if worker not in self._gone:
            return
        self._gone.discard(worker)
        for lease in self._desk.state.leased_to(worker):
            spans = lease.span.cut(self._first_open(lease.span))[1].without(
                self._arrivals.complete, until=self._arrivals.high
            )
            self._desk.decide(Vacated(lease.number, tuple((s.start, s.stop, s.stride) for s in spans)))
        self._forget_finished()
        self.deal(f"{self._desk.name_of(worker)} is gone")

    def _first_open(self, span: Span) -> int:
        """The first unit of a span that may not be settled."""
        state = self._desk.state
        owed = [n for n in state.owed if n >= span.start and (n - span.start) % span.stride == 0]
        return min([span.first_from(state.open_step * state.streams), *owed])

    def _forget_finished(self) -> None:
        known = self._desk.state.leases
        self._asked = {n: asked for n, asked in self._asked.items() if n in known}
        self._next = {n: following for n, following in self._next.items() if n in known}

    def unfinished(self, worker: int) -> list[int]:
        """The leases of a worker that hold a unit which does not stand everywhere."""
        leases = self._desk.state.leased_to(worker)
        return [lease.number for lease in leases if self._owed(lease) is not None]

    def oldest(self) -> dict[int, int]:
        """The first unit that each worker owes, of those that owe any."""
        oldest: dict[int, int] = {}
        for lease in self._desk.state.leases.values():
            owed = self._owed(lease) if lease.holder not in self._gone else None
            if owed is not None:
                oldest[lease.holder] = min(owed, oldest.get(lease.holder, owed))
        return oldest

    @property
    def asked(self) -> set[int]:
        """The workers that were asked to give something back and have not answered."""
        leases = self._desk.state.leases
        return {leases[number].holder for number in self._asked if number in leases}

    def _owed(self, lease: Lease) -> int | None:
        """The first unit of a lease that does not stand everywhere."""
        open_ = lease.span.cut(self._first_open(lease.span))[1]
        return next((n for n in open_ if not self._arrivals.complete(n)), None)

    def count(self, worker: int) -> int:
        """Units that a worker holds and has not begun, as far as is known."""
        return sum(self._rest(lease).count for lease in self._desk.state.leased_to(worker))

    # --- plans ---------------------------------------------------------------------------

    @property
    def evaluator(self) -> int:
        """The worker that evaluates; 0: nobody is there."""
        return self._evaluator if self._evaluator in self._crew.available else 0

    def appoint(self) -> None:
        """See to it that somebody evaluates: the one that does, while it is there."""
        if self._evaluator not in self._crew.available:
            self._evaluator = min(self._crew.available, default=0)
            if self._evaluator:
                self.tell(self._evaluator)

    def tell(self, worker: int) -> None:
        """Send a worker its plan; leases that are asked back end there."""
        state, number = self._desk.state, self._desk.next_plan()
        assert state.dataset is not None
        for lease in state.leased_to(worker):
            if (asked := self._asked.get(lease.number)) is not None and not asked.plan:
                asked.plan = number
        orders = tuple(self._order(lease) for lease in state.leased_to(worker))
        self._desk.tell(
            worker,
            a.Plan(
                number=number,
                segment=state.segment.number,
                begins=state.segment.step,
                total_steps=state.dataset.total_steps,
                elastic=True,
                leases=orders,
                ahead=self._pace.ahead,
                first=worker == self._evaluator,
                hand_over=self.hand_over if worker == self._evaluator else None,
                inherits=tuple(s for s, heir in enumerate(state.segment.heirs) if heir == worker),
                leave=worker in self._crew.leaving,
            ),
        )

    def _order(self, lease: Lease) -> a.LeaseOrder:
        span = lease.span
        if lease.number in self._asked:
            span = Span(span.start, span.start, span.stride)
        known = span.cut(self._arrivals.high)[0].cut(self._first_open(span))[1]
        partial = ((n, self._arrivals.missing(n)) for n in known)
        return a.LeaseOrder(lease.number, span, tuple((n, need) for n, need in partial if need))
