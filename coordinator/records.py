"""What the coordinator decides, as plain records: the journal's lines and the only changes of its state.

A record holds numbers, strings and tuples of them, so that its JSON is itself.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any

import xxhash

from wire.config import Config

FIRST = ""
"""What stands for the checksum before the first line of a journal."""


@dataclass(frozen=True)
class Began:
    """A coordinator took office: first on a new journal, or resuming a checkpoint on a new timeline."""

    run: str
    timeline: int
    term: int
    nonce: str
    first_step: int
    checkpoint: str
    deposits: bool = False
    """Whether the checkpoint holds the streams' state: one that was written in an elastic segment does not."""
    config: str = ""
    """The effective configuration, as JSON: whoever continues the run has the same."""
    origin: int = 0
    """From which rounds are counted (wire/rounds.py)."""
    handed: bool = False
    """Whether what a worker kept beside the parameters is taken from the checkpoint, and no streams' state."""
    norms: tuple[float, ...] = ()
    """Of the checkpoint: what `Closed.norms` of the newest steps told."""


@dataclass(frozen=True)
class Reopened:
    """A coordinator took office again on the journal of a run that is not over."""

    term: int
    nonce: str


@dataclass(frozen=True)
class Segment:
    """From `step` on the run is in this mode; all before it is settled. Number 0 begins with the run."""

    number: int
    step: int
    mode: str
    staleness: int | None
    quorum: int | None
    deadline_s: float
    heirs: tuple[int, ...] = ()
    """Elastic, behind an exact one: by stream, the worker that goes on with what it held back."""


@dataclass(frozen=True)
class Switching:
    """Another mode was asked for: at the next boundary a segment with it begins."""

    mode: str
    staleness: int | None
    quorum: int | None
    deadline_s: float


@dataclass(frozen=True)
class Admitted:
    """A process is in the run under a new incarnation."""

    incarnation: int
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str


@dataclass(frozen=True)
class Readied:
    """A worker has its data, and can be given work. `keeps`: it has more to keep than parameters."""

    incarnation: int
    keeps: bool = False


@dataclass(frozen=True)
class Leaving:
    """A worker goes, by its own wish or an operator's: it is given nothing more."""

    incarnation: int


@dataclass(frozen=True)
class Departed:
    """A process is out of the run: dead, left, or failed. Its incarnation is refused from now on.

    `carried`: it had work that others must take over. `told`: what a worker said of itself last, by field of Progress.
    """

    incarnation: int
    reason: str
    dead: bool
    carried: bool = False
    told: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Retired:
    """Every shard refuses a worker that is gone, and has told all that it took from it."""

    incarnation: int


@dataclass(frozen=True)
class Modelled:
    """The first worker's model became the run's, and its blocks have their servers.

    `parameters`: (name, shape, dtype, group) each; `groups`: the optimizer's, as (name, value) pairs;
    `placement`: (shard, address, incarnation, ranges) each.
    """

    parameters: tuple[tuple[str, tuple[int, ...], str, int], ...]
    optimizer: str
    groups: tuple[tuple[tuple[str, float], ...], ...]
    plan: int
    placement: tuple[tuple[int, str, int, tuple[tuple[int, int], ...]], ...]


@dataclass(frozen=True)
class Uploading:
    """This worker, and no other, is asked to upload the initial model."""

    incarnation: int


@dataclass(frozen=True)
class Returned:
    """A server of the run has joined again with what it held, under its old incarnation: here it is from now on."""

    incarnation: int
    address: str
    pid: int
    host: str


@dataclass(frozen=True)
class Moved:
    """A shard is served at this address by this incarnation, under a new term: its server came back, or is another.

    Whoever stands by for it is not in sync until that is told again.
    """

    shard: int
    address: str
    incarnation: int
    term: int


@dataclass(frozen=True)
class Stood:
    """This server is the standby of a shard from now on; an older one of it is none any more."""

    shard: int
    incarnation: int


@dataclass(frozen=True)
class InSynced:
    """The standby holds all that the shard's primary acknowledges: it may be promoted."""

    shard: int
    standby: int


@dataclass(frozen=True)
class Parted:
    """The standby must not be promoted any more: its primary is about to acknowledge without it."""

    shard: int
    standby: int
    reason: str


@dataclass(frozen=True)
class Promoted:
    """The standby is the shard's primary under this term. The one before is out of the run."""

    shard: int
    incarnation: int
    address: str
    term: int
    reason: str


@dataclass(frozen=True)
class Loaded:
    """Every shard holds its part of the initial (or restored) model."""

    source: str


@dataclass(frozen=True)
class Dataset:
    """What the first ready worker trains on; all others must have the same."""

    samples: int
    digest: str
    batch_size: int
    accumulate: int
    evaluates: bool
    evaluate_every: int
    total_steps: int
    steps: int = 0
    """As people count them: with local steps `total_steps` is rounds."""


@dataclass(frozen=True)
class Assigned:
    """A stream's attempt, its holder (0: nobody yet) and the first unit that the holder pushes.

    `send_to`: the shards that still need that unit; empty: all. `fence`: every shard is asked to refuse older
    attempts, and whether it holds the unit of this step; nobody holds the stream before all have answered.
    """

    stream: int
    attempt: int
    holder: int
    step: int
    send_to: tuple[int, ...]
    reason: str
    fence: int | None = None


@dataclass(frozen=True)
class Deposited:
    """The state of a stream before the unit of `step` is whole on every shard."""

    stream: int
    step: int


@dataclass(frozen=True)
class Closed:
    """A step is settled with exactly these streams; what they brought, for the accounts.

    Where units settle on arrival there are no streams: `step` is the last one before a boundary, and
    its units are in `Counted`. `late`: numbers of units of earlier steps; `pause`: the segment ends; `checkpoint`:
    one of the following step is written before the run goes on; `drain`: of the step after next, where units lag.
    `bound`: on the norms of pushes, 0: none; `norms`: of those that contribute, as they count (`coordinator.clipping`).
    """

    step: int
    streams: tuple[int, ...]
    deposit: bool
    final: bool
    retain_from: int
    empty: int
    samples: int
    tokens: int
    loss: float | None
    late: tuple[int, ...] = ()
    pause: bool = False
    staleness: tuple[tuple[int, int], ...] = ()
    returned: float = 0.0
    checkpoint: bool = False
    drain: bool = False
    bound: float = 0.0
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Counted:
    """Every unit below `low` stands on every shard; what those since the last such record brought.

    `staleness`: (whole steps stale, units); `returned`: units' worth that went back to the senders.
    """

    low: int
    units: int
    empty: int
    samples: int
    tokens: int
    loss: float | None
    staleness: tuple[tuple[int, int], ...]
    returned: float
    norms: tuple[float, ...] = ()


@dataclass(frozen=True)
class Bounded:
    """Where units settle on arrival: what shards accept from now on counts up to this norm."""

    bound: float


@dataclass(frozen=True)
class Pooled:
    """The units of an elastic segment, as `slots` interleaved spans, all vacant."""

    start: int
    stop: int
    slots: int


@dataclass(frozen=True)
class Leased:
    """A worker is to compute units `start`, `start` + `stride`, … below `stop`: the begin of a vacant span, or all."""

    lease: int
    holder: int
    start: int
    stop: int
    stride: int
    reason: str


@dataclass(frozen=True)
class Lowered:
    """A living worker begins no unit of its lease at or beyond `stop`: the rest is vacant."""

    lease: int
    stop: int


@dataclass(frozen=True)
class Vacated:
    """The holder of a lease is gone, and all that it pushed is known: these spans of it are vacant."""

    lease: int
    spans: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class Lost:
    """What a worker had produced and not pushed yet, and holds no more: the L2 norm of that residual.

    `dropped`: of all that it has dropped so far while it lived.
    """

    incarnation: int
    residual_norm: float
    dropped: float = 0.0


@dataclass(frozen=True)
class Barred:
    """Units at or beyond this step are begun only behind the next boundary. None: the bar is lifted."""

    step: int | None


@dataclass(frozen=True)
class HandedOver:
    """What the worker that evaluates keeps beside the parameters is on the first shard, as before `step`."""

    step: int


@dataclass(frozen=True)
class Evaluated:
    """A validation loss on x̂ (`published`) or on x, of the model at `step`."""

    step: int
    model: str
    loss: float


@dataclass(frozen=True)
class Checkpointed:
    """The checkpoint of `step` is whole on disk."""

    step: int
    path: str
    params_digest: str
    published_digest: str


@dataclass(frozen=True)
class Unwritten:
    """The checkpoint of `step` could not be written: the run goes on without."""

    step: int
    reason: str


@dataclass(frozen=True)
class Stopping:
    """The run ends with the step that is open now. `error`: class name of what made it end, or empty."""

    reason: str
    error: str


@dataclass(frozen=True)
class Ended:
    """The run is over."""

    reason: str
    error: str


@dataclass(frozen=True)
class Dismissed:
    """Everybody who was to be reached was told that the run is over."""


def switching_to(config: Config) -> Switching:
    """The mode that a configuration asks for."""
    sync = config.sync
    return Switching(sync.mode, sync.staleness, sync.quorum, sync.deadline_s)


Record = (
    Began
    | Reopened
    | Admitted
    | Readied
    | Leaving
    | Departed
    | Retired
    | Modelled
    | Uploading
    | Returned
    | Moved
    | Stood
    | InSynced
    | Parted
    | Promoted
    | Loaded
    | Dataset
    | Segment
    | Switching
    | Assigned
    | Deposited
    | Closed
    | Counted
    | Bounded
    | Pooled
    | Leased
    | Lowered
    | Vacated
    | Lost
    | Barred
    | HandedOver
    | Evaluated
    | Checkpointed
    | Unwritten
    | Stopping
    | Ended
    | Dismissed
)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Record.__args__}


def to_json(record: Record) -> str:
    return json.dumps({"record": type(record).__name__, **dataclasses.asdict(record)})


def from_json(text: str) -> Record:
    """The record of a journal line. Raises: KeyError for a kind that this build does not know."""
    fields = json.loads(text)
    record: Record = _KINDS[fields.pop("record")](**{k: _tuples(v) for k, v in fields.items()})
    return record


def checksum_of(before: str, seq: int, text: object) -> str:
    """Of a journal line, chained to that of the line before it (`FIRST` for the first one)."""
    return xxhash.xxh3_64_hexdigest(f"{before} {seq} {text}".encode())


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
