"""Events in, actions out: the vocabulary between the deciding core and the runtime that acts.

Events are what was heard; actions are what is to be done, in order: a `Journal` always stands
before the message that reveals its decision.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from coordinator.records import Record, Switching
from coordinator.spans import Span
from wire.errors import SparsyncError
from wire.ids import UnitId
from wire.layout import Layout
from wire.messages import Commit, OptimizerSpec, ShardPlacement

# --- events ----------------------------------------------------------------------------


@dataclass(frozen=True)
class Join:
    """A process asks to enter; answered under `key`."""

    key: str
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str


@dataclass(frozen=True)
class Declare:
    """A worker tells its model; answered under `key` once the shards are ready for it."""

    key: str
    incarnation: int
    layout: Layout
    optimizer: OptimizerSpec


@dataclass(frozen=True)
class Beat:
    """A heartbeat. `line` tells the streams of one process apart: a broken one may end after its successor began."""

    incarnation: int
    line: int = 0


@dataclass(frozen=True)
class BeatsEnded:
    incarnation: int
    line: int = 0


@dataclass(frozen=True)
class Attending:
    """A worker opened its line: it is told its plan."""

    incarnation: int


@dataclass(frozen=True)
class Uploaded:
    incarnation: int


@dataclass(frozen=True)
class Ready:
    incarnation: int
    samples: int
    digest: str
    batch_size: int
    accumulate: int
    evaluates: bool
    evaluate_every: int


@dataclass(frozen=True)
class Progressed:
    """A worker did something. `unit_s`: seconds of the newest unit, 0 if none was finished."""

    incarnation: int
    unit_s: float
    residual_norm: float = 0.0
    dropped_norm: float = 0.0


@dataclass(frozen=True)
class Announced:
    """A worker makes no progress on purpose."""

    incarnation: int
    activity: str


@dataclass(frozen=True)
class StreamDeposited:
    incarnation: int
    stream: int
    step: int
    released: bool


@dataclass(frozen=True)
class LossEvaluated:
    incarnation: int
    step: int
    model: str
    loss: float
    seconds: float


@dataclass(frozen=True)
class WorkerFailed:
    incarnation: int
    error: str
    message: str
    ends_run: bool


@dataclass(frozen=True)
class WorkerLeaving:
    incarnation: int
    reason: str


@dataclass(frozen=True)
class ShardAttached:
    """A shard's line is open and it told its state."""

    shard: int
    incarnation: int
    configured: bool
    step: int
    segment: int = 0


@dataclass(frozen=True)
class ShardConfigured:
    shard: int


@dataclass(frozen=True)
class ShardRestored:
    """All shards hold the checkpoint's planes."""


@dataclass(frozen=True)
class UnitAccepted:
    shard: int
    unit: UnitId
    attempt: int
    incarnation: int
    commit: Commit
    factor: float = 1.0
    behind: int = 0


@dataclass(frozen=True)
class WorkerRetired:
    """A shard takes nothing more from a worker; what it took was told before."""

    shard: int
    incarnation: int


@dataclass(frozen=True)
class SegmentBegun:
    shard: int
    segment: int


@dataclass(frozen=True)
class Holding:
    """A worker's answer to a plan: (lease, first unit of it that was not begun) each."""

    incarnation: int
    plan: int
    leases: tuple[tuple[int, int], ...]


@dataclass(frozen=True)
class Flushed:
    """A leaver has pushed what it held back in a segment. `residual_norm`: of what no shard took in time."""

    incarnation: int
    segment: int
    residual_norm: float


@dataclass(frozen=True)
class FenceAnswered:
    shard: int
    step: int
    stream: int
    attempt: int
    accepted: bool


@dataclass(frozen=True)
class StepSettled:
    shard: int
    step: int


@dataclass(frozen=True)
class ShardRefused:
    shard: int
    error: str
    message: str


@dataclass(frozen=True)
class ShardLost:
    shard: int
    reason: str


@dataclass(frozen=True)
class CheckpointWritten:
    step: int
    path: str
    params_digest: str
    published_digest: str


@dataclass(frozen=True)
class CheckpointFailed:
    step: int
    message: str


@dataclass(frozen=True)
class StopAsked:
    key: str
    reason: str


@dataclass(frozen=True)
class SetAsked:
    """An operator wants the run in another mode."""

    key: str
    wanted: Switching


@dataclass(frozen=True)
class DrainAsked:
    """An operator wants a worker to leave."""

    key: str
    name: str


@dataclass(frozen=True)
class Tick:
    """Time has passed. `late_s`: the coordinator itself was held up for so long and has heard nobody meanwhile."""

    late_s: float = 0.0


Event = (
    Join
    | Declare
    | Beat
    | BeatsEnded
    | Attending
    | Uploaded
    | Ready
    | Progressed
    | Announced
    | StreamDeposited
    | LossEvaluated
    | WorkerFailed
    | WorkerLeaving
    | ShardAttached
    | ShardConfigured
    | ShardRestored
    | UnitAccepted
    | FenceAnswered
    | StepSettled
    | ShardRefused
    | ShardLost
    | CheckpointWritten
    | CheckpointFailed
    | WorkerRetired
    | SegmentBegun
    | Holding
    | Flushed
    | StopAsked
    | SetAsked
    | DrainAsked
    | Tick
)

# --- actions ---------------------------------------------------------------------------


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
class Done:
    """A request was carried out. `incarnation`: of the worker that it was about."""

    incarnation: int = 0


@dataclass(frozen=True)
class Answer:
    """Complete the request that waits under `key`, with a value or by raising."""

    key: str
    value: Joined | Declared | Stopped | Done | SparsyncError


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


@dataclass(frozen=True)
class End:
    """The worker's part is over. `error`: class name of what ended it, or empty."""

    reason: str
    error: str


@dataclass(frozen=True)
class Tell:
    incarnation: int
    order: Plan | End


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


@dataclass(frozen=True)
class BeginSegment:
    """Settle in this way from `step` on."""

    number: int
    step: int
    elastic: bool
    arrival: bool


@dataclass(frozen=True)
class RetireWorker:
    incarnation: int


@dataclass(frozen=True)
class Advance:
    low: int


@dataclass(frozen=True)
class FenceStream:
    step: int
    stream: int
    attempt: int


@dataclass(frozen=True)
class FinishShard:
    reason: str


ShardOrder = ConfigureShard | CloseStep | FenceStream | FinishShard | BeginSegment | RetireWorker | Advance


@dataclass(frozen=True)
class Command:
    shard: int
    command: ShardOrder


@dataclass(frozen=True)
class OpenShards:
    """Open a line to every shard of the placement."""


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
class Quit:
    """All is said; the process ends when its workers have gone."""


Action = Journal | Answer | Tell | Command | OpenShards | RestoreShards | WriteCheckpoint | Note | Quit
