"""Actions: what the deciding core wants done, in order. What it is told is in `events`.

A `Journal` always stands before the message that reveals its decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.records import Record
from coordinator.spans import Span
from wire.errors import SparsyncError
from wire.messages import ShardPlacement


@dataclass(frozen=True)
class Journal:
    """Make a decision durable before anything after it is done."""

    record: Record


@dataclass(frozen=True)
class Joined:
    incarnation: int


@dataclass(frozen=True)
class Declared:
    placement: tuple[ShardPlacement, ...]
    plan: int
    upload: bool


@dataclass(frozen=True)
class Stopped:
    at_step: int


@dataclass(frozen=True)
class Saved:
    """A checkpoint is whole on disk."""

    step: int
    path: str


@dataclass(frozen=True)
class Done:
    """A request was carried out. `incarnation`: of the worker that it was about."""

    incarnation: int = 0


@dataclass(frozen=True)
class Answer:
    """Complete the request that waits under `key`, with a value or by raising."""

    key: str
    value: Joined | Declared | Stopped | Saved | Done | SparsyncError


@dataclass(frozen=True)
class Assignment:
    """One stream of a worker's plan."""

    stream: int
    attempt: int
    step: int
    deposit: int | None
    send_to: tuple[int, ...]
    release: bool


@dataclass(frozen=True)
class LeaseOrder:
    """One lease of a worker's plan. `partial`: units that some shards hold, and the shards that need them still."""

    lease: int
    span: Span
    partial: tuple[tuple[int, tuple[int, ...]], ...] = ()


@dataclass(frozen=True)
class Plan:
    """The whole of what a worker is to do."""

    number: int
    segment: int
    begins: int
    total_steps: int
    assignments: tuple[Assignment, ...] = ()
    elastic: bool = False
    leases: tuple[LeaseOrder, ...] = ()
    ahead: int | None = None
    first: bool = False
    leave: bool = False
    lag: int = 0
    drained: tuple[int, ...] = ()
    hand_over: int | None = None
    inherits: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    """The worker's part is over. `error`: class name of what ended it, or empty."""

    reason: str
    error: str


@dataclass(frozen=True)
class Redirect:
    """A shard is served elsewhere, or by another process, under a new term."""

    shard: int
    address: str
    incarnation: int
    term: int


@dataclass(frozen=True)
class Tell:
    incarnation: int
    order: Plan | End | Redirect


@dataclass(frozen=True)
class ConfigureShard:
    pass


@dataclass(frozen=True)
class CloseStep:
    step: int
    streams: tuple[int, ...]
    deposit: bool
    final: bool
    retain_from: int
    late: tuple[int, ...] = ()
    pause: bool = False
    drain: bool = False
    bound: float = 0.0


@dataclass(frozen=True)
class BeginSegment:
    """Settle in this way from `step` on."""

    number: int
    step: int
    elastic: bool
    arrival: bool
    lag: int = 0
    owed: int = 0


@dataclass(frozen=True)
class RetireWorker:
    incarnation: int


@dataclass(frozen=True)
class Advance:
    low: int


@dataclass(frozen=True)
class HoldTo:
    """Units that are accepted from now on count up to this norm."""

    bound: float


@dataclass(frozen=True)
class FenceStream:
    step: int
    stream: int
    attempt: int


@dataclass(frozen=True)
class FinishShard:
    reason: str


@dataclass(frozen=True)
class StandBy:
    """Follow the log of a shard's primary."""

    shard: int
    address: str
    term: int


@dataclass(frozen=True)
class Promote:
    """Be the primary from now on."""

    term: int


@dataclass(frozen=True)
class LeaveAlone:
    """Wait for this standby no more."""

    standby: int


ShardOrder = (
    ConfigureShard
    | CloseStep
    | FenceStream
    | FinishShard
    | BeginSegment
    | RetireWorker
    | Advance
    | HoldTo
    | StandBy
    | Promote
    | LeaveAlone
)


@dataclass(frozen=True)
class Command:
    """For the primary of a shard."""

    shard: int
    command: ShardOrder


@dataclass(frozen=True)
class CommandServer:
    """For a server, whatever it serves."""

    incarnation: int
    command: ShardOrder


@dataclass(frozen=True)
class OpenShards:
    """The shards have their servers: open the line to every server anew."""


@dataclass(frozen=True)
class Dial:
    """Open the line to a server, where it is now. An older one ends, and what is under way there is not heard."""

    incarnation: int


@dataclass(frozen=True)
class Dismiss:
    """Hear nothing more of a server that is out of the run, but tell it so, should it be there: it is to join anew."""

    incarnation: int
    reason: str


@dataclass(frozen=True)
class RestoreShards:
    """Send the checkpoint that is being resumed to the shards."""


@dataclass(frozen=True)
class WriteCheckpoint:
    """Every shard stands at `step` and every stream's state of it is deposited: write them down."""

    step: int


@dataclass(frozen=True)
class Note:
    """A line for events.jsonl."""

    event: str
    fields: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Abdicate:
    """Another coordinator decides: this process ends at once, and neither decides nor tells anything any more."""

    reason: str


@dataclass(frozen=True)
class Quit:
    """All is said; the process ends when its workers have gone."""


Action = (
    Journal
    | Answer
    | Tell
    | Command
    | CommandServer
    | OpenShards
    | Dial
    | Dismiss
    | RestoreShards
    | WriteCheckpoint
    | Note
    | Abdicate
    | Quit
)
