"""Events: what the deciding core is told. What it wants done about them is in `actions`."""

from __future__ import annotations

from dataclasses import dataclass

from coordinator.records import Switching
from wire.ids import UnitId
from wire.layout import Layout
from wire.messages import Commit, OptimizerSpec


@dataclass(frozen=True)
class Join:
    """A process asks to enter; answered under `key`.

    `run`, `timeline`, `held`: of the shard that a server has on its disk, and the incarnation that it had.
    """

    key: str
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str
    run: str = ""
    timeline: int = 0
    held: int = 0


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
    keeps: bool = False


@dataclass(frozen=True)
class HandedOver:
    """What a worker keeps beside the parameters, as it was before `step`, is on the first shard."""

    incarnation: int
    step: int


@dataclass(frozen=True)
class Progressed:
    """A worker did something.

    `unit_s`: seconds of the newest unit, 0 if none was finished; `figures`: what it did so far, by field of Progress.
    """

    incarnation: int
    unit_s: float
    residual_norm: float = 0.0
    dropped_norm: float = 0.0
    figures: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Announced:
    """A worker makes no progress on purpose."""

    incarnation: int
    activity: str


@dataclass(frozen=True)
class Moving:
    """State or a whole model is on its way between a worker and the servers, and gets on."""

    incarnation: int


@dataclass(frozen=True)
class StreamDeposited:
    incarnation: int
    stream: int
    step: int
    released: bool
    attempt: int = 0


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


@dataclass(frozen=True)
class WorkerLeaving:
    incarnation: int
    reason: str


@dataclass(frozen=True)
class ShardAttached:
    """The line to a shard's primary is open and it told its state; or it has become the primary, and told it anew.

    `accepted`: the units that it holds and that may not be counted. `clock`: every unit of earlier steps stands there;
    None: not told. `standing`: it does not know yet that it is the primary. `standby`: the one that it waits for, or 0;
    `recorded`: the one that the line began with, as in sync.
    """

    shard: int
    incarnation: int
    configured: bool
    step: int
    segment: int = 0
    accepted: tuple[UnitAccepted, ...] = ()
    clock: int | None = None
    standing: bool = False
    standby: int = 0
    recorded: int = 0


@dataclass(frozen=True)
class ServerAttached:
    """The line to a server that is no primary is open. `found`: the incarnation that answers there."""

    incarnation: int
    found: int


@dataclass(frozen=True)
class ServerAlive:
    incarnation: int


@dataclass(frozen=True)
class LineBroken:
    """The line to a server is broken, or cannot be opened; it is being opened again."""

    incarnation: int
    reason: str


@dataclass(frozen=True)
class StandbyInSync:
    """A primary waits for its standby from now on, which holds all that it has acknowledged."""

    shard: int
    standby: int


@dataclass(frozen=True)
class StandbyParted:
    """The standby that a primary waits for does not follow any more. `diverged`: its state is another one."""

    shard: int
    standby: int
    reason: str
    diverged: bool = False


@dataclass(frozen=True)
class StandbyLeft:
    """The answer to the word that ends a primary's waiting for its standby."""

    shard: int
    standby: int


@dataclass(frozen=True)
class ShardStalled:
    """A shard acknowledges nothing, as its log cannot be written; without a reason: it can again."""

    shard: int
    reason: str


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
class Fenced:
    """A server obeys another coordinator: this one is a copy, or was replaced."""

    shard: int
    message: str


@dataclass(frozen=True)
class LineRefused:
    """A server ended its line with an error that is none of the connection."""

    incarnation: int
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
class CheckpointAsked:
    """An operator wants a checkpoint; answered under `key` when it is whole on disk, or failed."""

    key: str


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
    | Moving
    | StreamDeposited
    | LossEvaluated
    | WorkerFailed
    | WorkerLeaving
    | ShardAttached
    | ServerAttached
    | ServerAlive
    | LineBroken
    | StandbyInSync
    | StandbyParted
    | StandbyLeft
    | ShardStalled
    | ShardConfigured
    | ShardRestored
    | UnitAccepted
    | FenceAnswered
    | StepSettled
    | ShardRefused
    | Fenced
    | LineRefused
    | CheckpointWritten
    | CheckpointFailed
    | WorkerRetired
    | SegmentBegun
    | Holding
    | Flushed
    | HandedOver
    | StopAsked
    | CheckpointAsked
    | SetAsked
    | DrainAsked
    | Tick
)
