"""The coordinator's durable state: what the journal says, and nothing else.

`State.apply(record)` is its single mutating call; replaying a journal gives the state that
wrote it. What is only heard (heartbeats, acceptances, rates) lives with those who judge by it
(`membership`, `patience`, `crew`, `arrivals`, `steps`), and is told again by those who know.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import assert_never

from coordinator import records as r
from coordinator.clipping import newest
from coordinator.entries import NOBODY, Lane, Lease, Member, Standby, Totals
from coordinator.pace import pace_of
from coordinator.spans import Span, first_deal
from wire.layout import BlockRange, Layout, Parameter
from wire.messages import OptimizerSpec, ShardPlacement

FIRST_SEGMENT = r.Segment(0, 0, "sync", None, None, 1.0)

RunRecord = (
    r.Began
    | r.Reopened
    | r.Modelled
    | r.Uploading
    | r.Loaded
    | r.Dataset
    | r.Evaluated
    | r.Checkpointed
    | r.Unwritten
    | r.Stopping
    | r.Ended
    | r.Dismissed
)
MemberRecord = r.Admitted | r.Readied | r.Leaving | r.Departed | r.Retired | r.Lost
ServerRecord = r.Returned | r.Moved | r.Stood | r.InSynced | r.Parted | r.Promoted
StepRecord = r.Assigned | r.Deposited | r.Closed | r.Segment | r.Switching
LeaseRecord = r.Counted | r.Bounded | r.Pooled | r.Leased | r.Lowered | r.Vacated | r.Barred | r.HandedOver


@dataclass
class State:
    """Everything that a restarted coordinator knows."""

    streams: int
    run: str = ""
    timeline: int = 0
    term: int = 0
    nonce: str = ""
    first_step: int = 0
    origin: int = 0
    checkpoint: str = ""
    members: dict[int, Member] = field(default_factory=dict)
    layout: Layout | None = None
    optimizer: OptimizerSpec | None = None
    plan: int = 0
    placement: tuple[ShardPlacement, ...] = ()
    uploader: int = NOBODY
    standbys: dict[int, Standby] = field(default_factory=dict)
    """By shard."""
    loaded: bool = False
    dataset: r.Dataset | None = None
    segment: r.Segment = FIRST_SEGMENT
    dealt: bool = False
    """Whether work of the segment at hand was dealt."""
    switching: r.Switching | None = None
    low: int = 0
    """Units below this number are settled on every shard, and counted."""
    owed: set[int] = field(default_factory=set)
    """Units of closed steps that are still to come."""
    elastic: bool = False
    """Whether any segment so far was elastic: the result then depends on who computed what, and when."""
    leases: dict[int, Lease] = field(default_factory=dict)
    vacant: list[Span] = field(default_factory=list)
    leased: int = 0
    """Leases handed out so far."""
    barred: int | None = None
    handed: int | None = None
    """The step at which a worker handed over last what it keeps beside the parameters."""
    norms: tuple[float, ...] = ()
    """Of the newest pushes of the segment, as they counted, where pushes are clipped."""
    bound: float = 0.0
    """On the norms of pushes, as the shards were told where units settle on arrival."""
    loss: float | None = None
    lanes: list[Lane] = field(default_factory=list)
    open_step: int = 0
    final: bool = False
    last_close: r.Closed | None = None
    drained: list[int] = field(default_factory=list)
    """Steps of this segment that were announced to have all before them in the model of their units."""
    anew: bool = False
    """Whether streams began this segment without a state, and their initial one is not the run's."""
    bases: list[int] = field(default_factory=list)
    due: int | None = None
    """The step whose checkpoint must be written, or fail, before the run goes on."""
    witnesses: frozenset[int] = frozenset()
    """Workers that were in the run at the final close: only they can evaluate behind it."""
    recoveries: int = 0
    totals: Totals = field(default_factory=Totals)
    evaluations: list[r.Evaluated] = field(default_factory=list)
    checkpointed: r.Checkpointed | None = None
    stopping: r.Stopping | None = None
    ended: r.Ended | None = None
    dismissed: bool = False

    def apply(self, record: r.Record) -> None:
        """Change the state by one journaled decision."""
        match record:
            case r.Admitted() | r.Readied() | r.Leaving() | r.Departed() | r.Retired() | r.Lost():
                self._apply_to_member(record)
            case r.Returned() | r.Moved() | r.Stood() | r.InSynced() | r.Parted() | r.Promoted():
                self._apply_to_servers(record)
            case r.Assigned() | r.Deposited() | r.Closed() | r.Segment() | r.Switching():
                self._apply_to_steps(record)
            case (
                r.Counted()
                | r.Bounded()
                | r.Pooled()
                | r.Leased()
                | r.Lowered()
                | r.Vacated()
                | r.Barred()
                | r.HandedOver()
            ):
                self._apply_to_leases(record)
            case _:
                self._apply_to_run(record)

    def _apply_to_run(self, record: RunRecord) -> None:
        """Who decides, what is trained, and how it ends."""
        match record:
            case r.Began():
                self._begin(record)
            case r.Reopened():
                self.term, self.nonce = record.term, record.nonce
            case r.Modelled():
                self._model(record)
            case r.Uploading():
                self.uploader = record.incarnation
            case r.Loaded():
                self.loaded = True
            case r.Dataset():
                self.dataset = record
            case r.Evaluated():
                self.evaluations.append(record)
            case r.Checkpointed():
                self.checkpointed, self.due = record, None
            case r.Unwritten():
                self.due = None
            case r.Stopping():
                self.stopping = record
            case r.Ended():
                self.ended = record
            case r.Dismissed():
                self.dismissed = True
            case _:
                assert_never(record)

    def _apply_to_member(self, record: MemberRecord) -> None:
        match record:
            case r.Admitted():
                self.members[record.incarnation] = Member(**vars(record))
            case r.Readied():
                member = self.members[record.incarnation]
                member.ready, member.keeps = True, record.keeps
            case r.Leaving():
                self.members[record.incarnation].leaving = True
            case r.Departed():
                self._depart(record)
            case r.Retired():
                self.members[record.incarnation].retiring = False
            case r.Lost():
                self.totals.lost += record.residual_norm
                self.members[record.incarnation].dropped = record.dropped
            case _:
                assert_never(record)

    def _apply_to_servers(self, record: ServerRecord) -> None:
        """Which server is where, serves which shard, or stands by for it."""
        match record:
            case r.Returned():
                member = self.members[record.incarnation]
                member.address, member.pid, member.host = record.address, record.pid, record.host
            case r.Moved():
                self._serve(record)
                if (standby := self.standbys.get(record.shard)) is not None:
                    standby.in_sync = False
            case r.Stood():
                self.standbys[record.shard] = Standby(record.incarnation)
            case r.InSynced():
                self.standbys[record.shard].in_sync = True
            case r.Parted():
                self.standbys[record.shard].in_sync = False
            case r.Promoted():
                self._serve(record)
                del self.standbys[record.shard]
            case _:
                assert_never(record)

    def _apply_to_steps(self, record: StepRecord) -> None:
        """Segments, and in exact ones streams and closes."""
        match record:
            case r.Segment():
                self._begin_segment(record)
            case r.Switching():
                self.switching = None if pace_of(record) == pace_of(self.segment) else record
            case r.Assigned():
                lane = self.lanes[record.stream]
                lane.attempt, lane.holder = record.attempt, record.holder
                lane.step, lane.send_to, lane.fencing = record.step, record.send_to, record.fence
                self.dealt = True
            case r.Deposited():
                self.lanes[record.stream].deposit = record.step
            case r.Closed():
                self._close(record)
            case _:
                assert_never(record)

    def _apply_to_leases(self, record: LeaseRecord) -> None:
        """Who works on what in an elastic segment, and what is settled of it."""
        match record:
            case r.Counted():
                self._count(record)
            case r.Bounded():
                self.bound = record.bound
            case r.Pooled():
                self.vacant = first_deal(record.start, record.stop, record.slots)
                self.dealt = True
            case r.Leased():
                self._lease(record)
            case r.Lowered():
                lease = self.leases[record.lease]
                lease.span, rest = lease.span.cut(record.stop)
                self.vacant += [rest] if rest else []
                self._drop_finished()
            case r.Vacated():
                del self.leases[record.lease]
                self.vacant += [Span(*span) for span in record.spans]
            case r.Barred():
                self.barred = record.step
            case r.HandedOver():
                self.handed = record.step
            case _:
                assert_never(record)

    def _begin(self, record: r.Began) -> None:
        self.run, self.timeline = record.run, record.timeline
        self.term, self.nonce = record.term, record.nonce
        self.first_step = self.open_step = record.first_step
        self.origin = record.origin
        self.checkpoint = record.checkpoint
        self.low = record.first_step * self.streams
        self.norms = record.norms
        self.segment = replace(self.segment, step=record.first_step)
        self.bases = [record.first_step]
        self.handed = record.first_step if record.handed else None
        deposit = record.first_step if record.deposits else None
        self.lanes = [Lane(s, step=record.first_step, deposit=deposit) for s in range(self.streams)]

    def _depart(self, record: r.Departed) -> None:
        member = self.members[record.incarnation]
        member.gone, member.dead, member.told = record.reason, record.dead, record.told
        member.retiring = self.begun and member.role == "worker"  # before, nobody had anything to push
        standbys = self.standbys.items()
        self.standbys = {s: standby for s, standby in standbys if standby.incarnation != record.incarnation}
        self.recoveries += record.carried

    def _begin_segment(self, record: r.Segment) -> None:
        """Streams begin anew, from one exact segment to the next with their state; what was leased is settled."""
        self.anew = record.number > 0 and not (pace_of(self.segment).exact and pace_of(record).exact)
        if record.number > 0:
            for lane in self.lanes:
                lane.attempt += 1
                lane.holder, lane.step, lane.send_to = NOBODY, record.step, ()
                lane.deposit, lane.fencing = None if self.anew else record.step, None
            self.bases = [record.step]
        self.drained = []
        if self.anew:
            self.norms, self.bound = (), 0.0
        self.segment, self.switching, self.barred, self.dealt = record, None, None, False
        self.elastic = self.elastic or not pace_of(record).exact
        self.leases.clear()
        self.vacant.clear()
        self.owed.clear()
        self.low = record.step * self.streams

    def _lease(self, record: r.Leased) -> None:
        span = Span(record.start, record.stop, record.stride)
        whole = next(v for v in self.vacant if (v.start, v.stride) == (span.start, span.stride))
        self.vacant.remove(whole)
        rest = whole.cut(span.stop)[1]
        self.vacant += [rest] if rest else []
        self.leases[record.lease] = Lease(record.lease, record.holder, span)
        self.leased = record.lease

    def _count(self, record: r.Counted) -> None:
        self.low = record.low
        self.open_step = max(self.open_step, record.low // self.streams)
        self.loss = self.loss if record.loss is None else record.loss
        self.totals.add(record, record.units)
        self._note_norms(record)
        self._drop_finished()

    def _drop_finished(self) -> None:
        self.leases = {
            n: lease for n, lease in self.leases.items() if lease.span and lease.span.last >= self.low
        }

    def _model(self, record: r.Modelled) -> None:
        self.layout = Layout(tuple(Parameter(*p) for p in record.parameters))
        self.optimizer = OptimizerSpec(record.optimizer, tuple(dict(g) for g in record.groups))
        self.plan = record.plan
        self.placement = tuple(
            ShardPlacement(shard, address, incarnation, tuple(BlockRange(*b) for b in ranges))
            for shard, address, incarnation, ranges in record.placement
        )

    def _serve(self, record: r.Moved | r.Promoted) -> None:
        """Another process, or another address, serves a shard."""
        placed = list(self.placement)
        placed[record.shard] = replace(
            placed[record.shard], address=record.address, incarnation=record.incarnation, term=record.term
        )
        self.placement = tuple(placed)

    def _close(self, record: r.Closed) -> None:
        self.open_step = record.step + 1
        self.final = record.final
        self.last_close = record
        self.drained = [n for n in self.drained if n >= record.retain_from]
        if record.drain:
            self.drained.append(record.step + 2)
        self.due = record.step + 1 if record.checkpoint else None
        if record.final:
            self.witnesses = frozenset(m.incarnation for m in self.present("worker"))
        # A hand-over deposits between two bases; what a shard forgets must still begin at one.
        self.bases = [b for b in self.bases if b >= record.retain_from]
        if record.deposit:
            self.bases.append(record.step + 1)
        self.loss = self.loss if record.loss is None else record.loss
        self.totals.add(record, len(record.streams) + len(record.late))
        self._note_norms(record)
        if record.streams or record.late:
            self._owe(record)
        for lane in self.lanes:
            if lane.step == record.step:
                lane.send_to = ()

    def _note_norms(self, record: r.Closed | r.Counted) -> None:
        if record.norms:
            self.norms = newest(self.norms, record.norms, streams=self.streams)

    def _owe(self, record: r.Closed) -> None:
        """Units of the step that it was closed without are owed; `low` is the first unit not settled."""
        missing = set(range(self.streams)) - set(record.streams)
        self.owed |= {record.step * self.streams + stream for stream in missing}
        self.owed -= set(record.late)
        self.low = min(self.owed, default=(record.step + 1) * self.streams)
        self._drop_finished()

    @property
    def begun(self) -> bool:
        """Whether work was ever dealt."""
        return self.dealt or self.segment.number > 0

    @property
    def next_incarnation(self) -> int:
        return max(self.members, default=NOBODY) + 1

    def present(self, role: str) -> list[Member]:
        """The members of a role that are in the run, oldest first."""
        return [m for m in self.members.values() if m.role == role and m.present]

    def shard_of(self, incarnation: int) -> int | None:
        """The shard that a server is the primary of."""
        return next((s.shard for s in self.placement if s.incarnation == incarnation), None)

    def stands_for(self, incarnation: int) -> int | None:
        """The shard that a server is the standby of."""
        return next((s for s, standby in self.standbys.items() if standby.incarnation == incarnation), None)

    def in_sync_of(self, shard: int) -> int:
        """The standby of a shard that is recorded as in sync, or nobody."""
        standby = self.standbys.get(shard)
        return standby.incarnation if standby is not None and standby.in_sync else NOBODY

    def held_by(self, incarnation: int) -> list[Lane]:
        return [lane for lane in self.lanes if lane.holder == incarnation]

    def counted(self, number: int) -> bool:
        """Whether a unit is settled everywhere, and in the accounts."""
        return number < self.open_step * self.streams and number not in self.owed

    def leased_to(self, incarnation: int) -> list[Lease]:
        """The unfinished leases of a worker, oldest first."""
        return [lease for lease in self.leases.values() if lease.holder == incarnation]

    @property
    def retain_from(self) -> int:
        """Oldest version that a replay may still need: the base from which every deposit can be reached."""
        return min(self.base_of(lane) for lane in self.lanes)

    def reached(self, lane: Lane) -> int:
        """The step whose state of `lane` is the newest on the shards: its deposit, or the segment's first one."""
        return self.segment.step if lane.deposit is None else lane.deposit

    def base_of(self, lane: Lane) -> int:
        """The newest version that the shards keep whole, at or before the deposit of `lane`.

        Where units lag and the deposit is of a step that did not drain, its unit needs x̂ of the step before; bases are
        of steps that drain, so this one is not behind it.
        """
        return max(base for base in self.bases if base <= self.reached(lane))

    @property
    def handed_here(self) -> int | None:
        """The step at which was handed over what begins here without a deposit; None: what the script makes."""
        if self.handed is None or self.handed < self.segment.step:
            return None
        return None if pace_of(self.segment).exact and self.handed > self.segment.step else self.handed

    @property
    def closed(self) -> int:
        """Every step before this one is closed."""
        return self.segment.step if self.last_close is None else self.last_close.step + 1

    @property
    def paused(self) -> bool:
        """Whether a close has ended the segment, and the next one is not decided yet."""
        return self.last_close is not None and self.last_close.pause and self.segment.step < self.closed

    @property
    def deposited(self) -> bool:
        """Whether every stream's newest deposit is of the open step."""
        return all(lane.deposit == self.open_step for lane in self.lanes)
