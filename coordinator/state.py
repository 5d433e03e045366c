"""The coordinator's durable state: what the journal says, and nothing else.

`State.apply(record)` is its single mutating call; replaying a journal gives the state that
wrote it. What is only heard (heartbeats, acceptances, rates) lives in `core` and is told
again by those who know.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import assert_never

from coordinator import records as r
from wire.layout import BlockRange, Layout, Parameter
from wire.messages import OptimizerSpec, ShardPlacement

NOBODY = 0


@dataclass
class Member:
    """A process of the run, in or out of it."""

    incarnation: int
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str
    gone: str = ""
    dead: bool = False

    @property
    def present(self) -> bool:
        return not self.gone


@dataclass
class Lane:
    """A stream and who computes it.

    `step` is the first unit that the holder pushes, `deposit` the step of the newest deposit
    (None: the stream still starts from its initial state at the run's first step).
    """

    stream: int
    attempt: int = 0
    holder: int = NOBODY
    step: int = 0
    send_to: tuple[int, ...] = ()
    deposit: int | None = None


@dataclass
class Totals:
    """Sums over settled steps."""

    units: int = 0
    empty: int = 0
    samples: int = 0
    tokens: int = 0


@dataclass
class State:
    """Everything that a restarted coordinator knows."""

    streams: int
    run: str = ""
    timeline: int = 0
    term: int = 0
    nonce: str = ""
    first_step: int = 0
    checkpoint: str = ""
    members: dict[int, Member] = field(default_factory=dict)
    layout: Layout | None = None
    optimizer: OptimizerSpec | None = None
    plan: int = 0
    placement: tuple[ShardPlacement, ...] = ()
    loaded: bool = False
    dataset: r.Dataset | None = None
    lanes: list[Lane] = field(default_factory=list)
    open_step: int = 0
    final: bool = False
    last_close: r.Closed | None = None
    bases: list[int] = field(default_factory=list)
    totals: Totals = field(default_factory=Totals)
    evaluations: list[r.Evaluated] = field(default_factory=list)
    checkpointed: r.Checkpointed | None = None
    stopping: r.Stopping | None = None
    ended: r.Ended | None = None

    def apply(self, record: r.Record) -> None:
        """Change the state by one journaled decision."""
        match record:
            case r.Began():
                self._begin(record)
            case r.Admitted():
                self.members[record.incarnation] = Member(**vars(record))
            case r.Departed():
                member = self.members[record.incarnation]
                member.gone, member.dead = record.reason, record.dead
            case r.Modelled():
                self._model(record)
            case r.Loaded():
                self.loaded = True
            case r.Dataset():
                self.dataset = record
            case r.Assigned():
                lane = self.lanes[record.stream]
                lane.attempt, lane.holder = record.attempt, record.holder
                lane.step, lane.send_to = record.step, record.send_to
            case r.Deposited():
                self.lanes[record.stream].deposit = record.step
            case r.Closed():
                self._close(record)
            case r.Evaluated():
                self.evaluations.append(record)
            case r.Checkpointed():
                self.checkpointed = record
            case r.Stopping():
                self.stopping = record
            case r.Ended():
                self.ended = record
            case _:
                assert_never(record)

    def _begin(self, record: r.Began) -> None:
        self.run, self.timeline = record.run, record.timeline
        self.term, self.nonce = record.term, record.nonce
        self.first_step = self.open_step = record.first_step
        self.checkpoint = record.checkpoint
        self.bases = [record.first_step]
        deposit = record.first_step if record.checkpoint else None
        self.lanes = [Lane(s, step=record.first_step, deposit=deposit) for s in range(self.streams)]

    def _model(self, record: r.Modelled) -> None:
        self.layout = Layout(tuple(Parameter(*p) for p in record.parameters))
        self.optimizer = OptimizerSpec(record.optimizer, tuple(dict(g) for g in record.groups))
        self.plan = record.plan
        self.placement = tuple(
            ShardPlacement(shard, address, incarnation, tuple(BlockRange(*b) for b in ranges))
            for shard, address, incarnation, ranges in record.placement
        )

    def _close(self, record: r.Closed) -> None:
        self.open_step = record.step + 1
        self.final = record.final
        self.last_close = record
        # A hand-over deposits between two bases; what a shard forgets must still begin at one.
        self.bases = [b for b in self.bases if b >= record.retain_from]
        if record.deposit:
            self.bases.append(record.step + 1)
        self.totals.units += len(record.streams) - record.empty
        self.totals.empty += record.empty
        self.totals.samples += record.samples
        self.totals.tokens += record.tokens
        for lane in self.lanes:
            if lane.step == record.step:
                lane.send_to = ()

    @property
    def next_incarnation(self) -> int:
        return max(self.members, default=NOBODY) + 1

    def present(self, role: str) -> list[Member]:
        """The members of a role that are in the run, oldest first."""
        return [m for m in self.members.values() if m.role == role and m.present]

    def held_by(self, incarnation: int) -> list[Lane]:
        return [lane for lane in self.lanes if lane.holder == incarnation]

    @property
    def retain_from(self) -> int:
        """Oldest version that a replay may still need: the base from which every deposit can be reached."""
        return min(self.base_of(lane) for lane in self.lanes)

    def reached(self, lane: Lane) -> int:
        """The step whose state of `lane` is the newest on the shards: its deposit, or the first one."""
        return self.first_step if lane.deposit is None else lane.deposit

    def base_of(self, lane: Lane) -> int:
        """The newest version that the shards keep whole, at or before the deposit of `lane`."""
        return max(base for base in self.bases if base <= self.reached(lane))

    @property
    def deposited(self) -> bool:
        """Whether every stream's newest deposit is of the open step."""
        return all(lane.deposit == self.open_step for lane in self.lanes)
