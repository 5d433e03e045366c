"""What must hold in the small world, whatever happens. Looks at everybody's state at once, as nobody else can."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from coordinator import actions as a
from coordinator import events as e
from coordinator import records as r
from coordinator.entries import NOBODY
from coordinator.pace import pace_of
from tests.coordinator.ground import Broken, commit_of

if TYPE_CHECKING:
    from ps.publish import Delta
    from tests.coordinator.hand import Worker
    from tests.coordinator.links import Order
    from tests.coordinator.server import Server
    from tests.coordinator.shard import Shard
    from tests.coordinator.world import World


ROUNDING = 1e-9
RIVAL = "ffff"
"""Nonce of a coordinator that works on a copy of the journal."""


@dataclass
class Told:
    """What was revealed of one shard, by whichever primary: all of it must stand for ever."""

    units: set[int] = field(default_factory=set)
    deltas: dict[int, object] = field(default_factory=dict)
    primaries: dict[int, int] = field(default_factory=dict)
    """Term -> incarnation."""


class Laws:
    """Raises Broken where one is violated."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._streams = world.rules.units_per_step
        self._begun: dict[int, list[Worker]] = {}
        self._fences: dict[int, int] = {}
        self._told: defaultdict[int, Told] = defaultdict(Told)
        self._boundaries: set[int] = set()
        self._exact = pace_of(world.state.segment).exact
        self._taken_on: set[tuple[int, int]] = set()
        """(segment, stream) whose residual a worker has gone on with."""
        self.computed: dict[int, int] = {}
        """Steps of exact segments -> the step whose x̂ their units were computed on."""

    def _present(self, worker: Worker) -> bool:
        member = self._world.state.members.get(worker.incarnation)
        return member is not None and member.present

    def _barred(self, number: int) -> bool:
        """Whether a unit lies behind a boundary that is not crossed yet."""
        state = self._world.state
        paused = (
            state.last_close is not None
            and state.last_close.pause
            and state.segment.step <= state.last_close.step
        )
        bar = state.open_step if state.final or paused else state.barred
        return bar is not None and number >= bar * self._streams

    # --- units

    def computes(self, worker: Worker, step: int, on: int) -> None:
        """A worker begins a unit of an exact segment, on x̂ as step `on` begins: as everybody else does (P4)."""
        segment = self._world.state.segment
        if not self._present(worker) or worker.segment != segment.number:
            return  # it does not know yet; the shards know
        told = f"{worker.name} (#{worker.incarnation}) computes step {step} on {on}"
        first = self.computed.setdefault(step, on)
        if on != first:
            raise Broken(f"{told}, others on {first}: a torn step")
        if not step - pace_of(segment).lag <= on <= step or (step in self._boundaries and on < step):
            raise Broken(f"{told} in {segment}, boundaries {sorted(self._boundaries)}")

    def _closes(self, close: a.CloseStep) -> None:
        """Behind a boundary nothing was begun on less than all before it."""
        following = close.step + 1
        if close.deposit or close.final or close.pause:
            self._boundaries.add(following)
            if self.computed.get(following, following) < following:
                raise Broken(f"{close} is a boundary, and step {following} was begun before it")

    def begins(self, worker: Worker, number: int, send_to: tuple[int, ...]) -> None:
        """A worker begins a unit of an elastic segment."""
        world, state = self._world, self._world.state
        if not self._present(worker):
            return  # it was given up and does not know; the shards know
        told = f"{worker.name} (#{worker.incarnation}) begins unit {number}"
        if worker.segment != state.segment.number:
            raise Broken(f"{told} of segment {worker.segment}, in {state.segment}")
        if self._barred(number):
            raise Broken(f"{told} behind the boundary at step {state.barred or state.open_step}")
        others = [w for w in self._begun.setdefault(number, []) if w is not worker and self._present(w)]
        if others or number in worker.begun:
            raise Broken(f"{told}, which {[w.name for w in others]} or it itself has begun")
        self._begun[number].append(worker)
        world.partial += bool(send_to)
        have = [shard.index for shard in world.shards if number in shard.accepts]
        need = set(send_to) if send_to else set(range(len(world.shards)))
        if need != set(range(len(world.shards))) - set(have):
            raise Broken(f"{told} for shards {sorted(need)}, but it stands on {have}")
        ahead = pace_of(state.segment).ahead
        slowest = min(shard.ledger.clock for shard in world.shards)
        if ahead is not None and number // self._streams > slowest + ahead:
            raise Broken(f"{told} more than {ahead} steps ahead of the slowest clock {slowest}")

    def accepts(self, shard: Shard, worker: Worker, number: int, attempt: int) -> None:
        """A shard is about to accept a unit. What one does whose place was taken while it stood still is never told."""
        told = f"shard {shard.index} accepts unit {number} of {worker.name} (#{worker.incarnation})"
        if number in shard.accepts:
            raise Broken(f"{told} a second time")
        if self._barred(number):
            raise Broken(f"{told}, behind a boundary")
        if shard.segment.elastic:
            others = [w for w in self._begun.get(number, ()) if w is not worker and self._present(w)]
            serves = shard is self._world.shards[shard.index]
            if serves and others and not self._present(worker):
                raise Broken(f"{told}, which was given up, while {others[0].name} computes it again")
        elif attempt < shard.ledger.fences.get(number % self._streams, 0):
            raise Broken(f"{told} attempt {attempt} behind fence {shard.ledger.fences}")
        if worker.segment != shard.segment.number:
            raise Broken(f"{told} of segment {worker.segment}, in {shard.segment}")

    # --- servers

    def reveals(self, server: Server) -> Told:
        """A primary says something that others build on: no other one does so under its term (P10)."""
        told = self._told[server.shard.index]
        first = told.primaries.setdefault(server.term, server.incarnation)
        if first != server.incarnation:
            raise Broken(
                f"#{server.incarnation} and #{first} both serve shard {server.shard.index}, {server.term}"
            )
        return told

    def acknowledges(self, server: Server, number: int) -> None:
        """A unit was told to stand: it does, on whoever serves the shard now (P1, P10)."""
        self.reveals(server).units.add(number)
        index = server.shard.index
        if number not in self._world.shards[index].accepts:
            raise Broken(f"#{server.incarnation} acknowledges unit {number}, which is not on shard {index}")

    def stand_told(self, index: int, accepted: tuple[e.UnitAccepted, ...]) -> None:
        self._told[index].units.update(unit.unit.number(self._streams) for unit in accepted)

    def publishes(self, server: Server, delta: Delta) -> None:
        """A delta leaves: no version has two contents (P10), and exact steps settle in the order of streams (P3)."""
        told, content = self.reveals(server), (delta.step, delta.closes, delta.clock, tuple(delta.outcomes))
        first = told.deltas.setdefault(delta.version, content)
        if first != content:
            raise Broken(f"shard {server.shard.index}: version {delta.version} is {first}, and {content}")
        segment = server.shard.segment
        if delta.closes and not segment.elastic and delta.step >= segment.step:
            numbers = [outcome.unit.number(self._streams) for outcome in delta.outcomes]
            if numbers != list(range(delta.step * self._streams, (delta.step + 1) * self._streams)):
                raise Broken(f"exact step {delta.step} settles {numbers}, not in stream order")

    def holds(self, index: int, why: str) -> None:
        """All that was revealed of a shard is on its primary, as it recovered or was promoted (P1)."""
        told, shard = self._told[index], self._world.shards[index]
        if lost := told.units - shard.accepts.keys():
            raise Broken(f"{why}: unit {min(lost)} of shard {index} was acknowledged, and is lost")
        if told.deltas and max(told.deltas) >= shard.deltas.version:
            raise Broken(
                f"{why}: shard {index} is at version {shard.deltas.version}, {max(told.deltas)} was seen"
            )

    def obeys(self, server: Server, order: Order) -> None:
        """A server takes a command: of no copy of the journal (P10)."""
        if order.nonce == RIVAL:
            raise Broken(f"#{server.incarnation} obeys a copy of the journal: {order}")

    # --- decisions

    def decided(self, record: r.Record) -> None:
        """The coordinator journals a record."""
        state = self._world.shadow
        match record:
            case r.Counted() | r.Closed():
                self._all_stand(record)
            case r.Lost():
                self._check_lost(record)
            case r.Assigned():
                self._check_fenced(record)
            case r.Moved(shard=shard) | r.Promoted(shard=shard):
                self.holds(shard, str(record))
            case r.Segment(number=number, step=step):
                if state.low != step * self._streams or state.open_step != step or number == 0:
                    raise Broken(f"{record} begins while the state is at {state.low}, {state.open_step}")
                self._check_retired()
                self._check_heirs(record)
                self._fences.clear()

    def _all_stand(self, record: r.Counted | r.Closed) -> None:
        """Every unit that is counted is on every shard."""
        state = self._world.shadow
        below = (n for n in range(state.open_step * self._streams) if n not in state.owed)
        for number in below:
            for shard in self._world.shards:
                if number not in shard.accepts:
                    raise Broken(f"{record} counts unit {number}, which is not on shard {shard.index}")

    def revealed(self, action: a.Tell | a.Command | a.CommandServer) -> None:
        """A message leaves the coordinator: what it tells is in the journal."""
        shadow = self._world.shadow
        match action:
            case a.Tell(_, a.Plan() as plan):
                known = (
                    self._assignments(plan) and self._leases(plan) and plan.segment == shadow.segment.number
                )
                if plan.elastic == pace_of(shadow.segment).exact:
                    raise Broken(f"{plan} in {shadow.segment}")
            case a.Tell(incarnation, a.End() as end):
                known = end.error == "" or shadow.ended is not None or not shadow.members[incarnation].present
                self._check_let_go(incarnation, end)
            case a.Command(_, a.CloseStep(step=step) as close):
                self._closes(close)
                known = shadow.last_close is not None and shadow.last_close.step >= step
            case a.Command(_, a.BeginSegment(number=number)):
                known = shadow.segment.number == number
            case a.Command(_, a.RetireWorker(incarnation)):
                known = not shadow.members[incarnation].present
            case a.Command(_, a.Advance(low)):
                known = shadow.low >= low
            case a.Tell(_, a.Redirect(shard, _, _, term)):
                known = shadow.placement[shard].term >= term
            case a.Command(shard, a.LeaveAlone(standby)):
                known = shadow.in_sync_of(shard) != standby
            case a.CommandServer(incarnation, a.Promote(term)):
                serves = shadow.shard_of(incarnation)
                known = serves is not None and shadow.placement[serves].term >= term
            case a.CommandServer(incarnation, a.StandBy(shard)):
                known = shadow.stands_for(incarnation) == shard
            case _:
                known = True
        if not known:
            raise Broken(f"{action} is revealed before it is journaled")

    def _assignments(self, plan: a.Plan) -> bool:
        lanes = self._world.shadow.lanes
        return all(
            (lanes[s.stream].attempt, lanes[s.stream].step, lanes[s.stream].send_to)
            == (s.attempt, s.step, s.send_to)
            for s in plan.assignments
        )

    def _leases(self, plan: a.Plan) -> bool:
        leases = self._world.shadow.leases
        return all(
            o.lease in leases
            and leases[o.lease].span.cut(o.span.stop)[0] == o.span.cut(leases[o.lease].span.stop)[0]
            for o in plan.leases
        )

    def _check_fenced(self, record: r.Assigned) -> None:
        """A stream whose holder is gone finds its next one once every shard refuses the older attempts."""
        if record.fence is not None:
            self._fences[record.stream] = record.attempt
        if record.holder == NOBODY or record.stream not in self._fences:
            return
        attempt = self._fences.pop(record.stream)
        for shard in self._world.shards:
            if shard.ledger.fences.get(record.stream, 0) < attempt:
                raise Broken(f"{record}, and shard {shard.index} still takes older attempts")

    def _check_retired(self) -> None:
        """No segment begins while a worker that was given up may still push."""
        for worker in self._world.workers:
            member = self._world.state.members.get(worker.incarnation)
            if member is not None and not member.present and worker.planned:
                for shard in self._world.shards:
                    if worker.incarnation not in shard.retired:
                        raise Broken(f"a segment begins, and shard {shard.index} still takes from {member}")

    def _check_heirs(self, segment: r.Segment) -> None:
        """Behind an exact segment every stream leaves what it held back to somebody who is there, if anybody is."""
        before, self._exact = self._exact, pace_of(segment).exact
        if self._exact or not before:
            if segment.heirs:
                raise Broken(f"{segment} names heirs, and streams do not end")
            return
        workers = {m.incarnation for m in self._world.state.present("worker")}
        available = workers & self._world.core.crew.available
        if len(segment.heirs) != self._streams or not available.issuperset(segment.heirs):
            raise Broken(f"{segment}, and {sorted(available)} are there")

    def inherits(self, worker: Worker, plan: a.Plan) -> None:
        """A worker goes on with what streams of the segment before left to it: nobody else does, and it is kept."""
        if not self._present(worker) or plan.segment != self._world.state.segment.number:
            return  # it does not know yet
        for stream in plan.inherits:
            told = f"{worker.name} takes on stream {stream} in segment {plan.segment}"
            if (plan.segment, stream) in self._taken_on:
                raise Broken(f"{told}, which somebody has done")
            self._taken_on.add((plan.segment, stream))
            for shard in self._world.shards:
                if plan.begins not in shard.deposits[stream]:
                    raise Broken(f"{told}, and shard {shard.index} keeps {sorted(shard.deposits[stream])}")

    def _check_let_go(self, incarnation: int, end: a.End) -> None:
        """Who leaves an elastic segment has all that it began on every shard."""
        if not end.reason.startswith("it asked to leave and owes"):
            return
        worker = next(w for w in self._world.workers if w.incarnation == incarnation)
        for number in worker.begun:
            if any(number not in shard.accepts for shard in self._world.shards):
                raise Broken(f"{worker.name} is let go, and its unit {number} does not stand everywhere")

        if worker.lane.holding or worker.farewell.waiting:
            raise Broken(f"{worker.name} is let go, and holds {worker.lane.held}")

    def _check_lost(self, record: r.Lost) -> None:
        """Of a worker that was let go nothing is lost, unless a shard did not answer it."""
        worker = next(w for w in self._world.workers if w.incarnation == record.incarnation)
        if worker.parted and not worker.unsure:
            raise Broken(f"{worker.name} was let go, and {record}")

    def let_go(self, worker: Worker) -> None:
        """Some time after a worker asked to leave."""
        member = self._world.state.members.get(worker.incarnation)
        known = worker.leaving or (member is not None and member.leaving)
        if known and worker.alive and self._present(worker) and not self._world.over:
            raise Broken(f"{worker.name} asked to leave long ago and is not let go")

    def boundary(self, step: int) -> None:
        """A checkpoint is being written."""
        for shard in self._world.shards:
            deposited = shard.segment.elastic or all(step in d for d in shard.deposits.values())
            begun = (
                shard.held if shard.segment.arrival else [n for n in shard.held if n < step * self._streams]
            )
            if shard.ledger.step != step or begun or not deposited:
                raise Broken(f"checkpoint of {step}: shard {shard.index} at {shard.ledger}, {shard.deposits}")

    def granted(self, settled: int, value: object) -> None:
        """An operator who asked when `settled` steps were settled has an answer to his wish for a checkpoint."""
        saved = self._world.checkpoints[-1:]
        if isinstance(value, a.Saved) and (value.step < settled or saved != [value.step]):
            raise Broken(f"asked at step {settled}, answered {value}; written are {self._world.checkpoints}")

    # --- the end

    def end(self) -> None:
        """A whole run: every unit of every step once on every shard, and the accounts say so."""
        world, state = self._world, self._world.state
        assert state.ended is not None
        if state.ended.error not in ("", "Interrupted"):
            raise Broken(f"the run ended badly: {state.ended}")
        if state.ended.error == "" and state.open_step != world.rules.steps:
            raise Broken(f"the run ended at step {state.open_step} of {world.rules.steps}")
        whole = range(state.open_step * self._streams)
        for shard in world.shards:
            if len(set(shard.settled)) != len(shard.settled) or not set(shard.settled) <= set(shard.accepts):
                raise Broken(f"shard {shard.index} settled {shard.settled} of {sorted(shard.accepts)}")
            if state.final and not (sorted(shard.settled) == sorted(shard.accepts) == list(whole)):
                raise Broken(f"shard {shard.index} settled {shard.settled}, accepted {sorted(shard.accepts)}")
        if world.wishes:
            raise Broken(f"the run is over, and nobody answered {world.wishes}")
        self._check_mass()
        self._check_accounts([n for n in whole if n not in state.owed])
        if state.final and world.checkpoints[-1:] != [state.open_step]:
            raise Broken(f"no checkpoint of the last step {state.open_step}: {world.checkpoints}")

    def _check_mass(self) -> None:
        """Nothing counts twice; all of a worker that was let go is in the model, and of one that stayed to the end."""
        for worker in self._world.workers:
            for shard in self._world.shards:
                lane, index = worker.lane, shard.index
                own = lane.produced[index] - lane.dropped[index]
                applied = shard.applied[worker.incarnation]
                told = (
                    f"{worker.name} (#{worker.incarnation}): {own} on shard {index}, {applied} in the model"
                )
                if applied > own + ROUNDING:
                    raise Broken(f"{told}, more than that")
                whole = worker.parted and not worker.unsure and not lane.frames
                if self._world.state.final and whole and applied < own - ROUNDING:
                    raise Broken(f"{told}, though it was let go")
                stays = worker.alive and self._present(worker)
                if stays and worker.final and abs(own - applied - lane.held[index]) > ROUNDING:
                    raise Broken(f"{told}, {lane.held[index]} held")

    def _check_accounts(self, numbers: list[int]) -> None:
        totals = self._world.state.totals
        units = [commit_of(*divmod(number, self._streams)) for number in numbers]
        filled = sum(c.contributes for c in units)
        told = (totals.units, totals.empty, totals.samples, sum(totals.staleness.values()))
        want = (filled, len(units) - filled, sum(c.samples for c in units), filled)
        if told != want:
            raise Broken(f"accounts {told}, expected {want}")
