"""What the coordinator decides, as plain records: the journal's lines and the only changes of its state.

A record holds numbers, strings and tuples of them, so that its JSON is itself.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Began:
    """A coordinator took office: first on a new journal, or resuming a checkpoint on a new timeline."""

    run: str
    timeline: int
    term: int
    nonce: str
    first_step: int
    checkpoint: str


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
class Departed:
    """A process is out of the run: dead, left, or failed. Its incarnation is refused from now on."""

    incarnation: int
    reason: str
    dead: bool


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


@dataclass(frozen=True)
class Assigned:
    """A stream's attempt, its holder (0: nobody yet) and the first unit that the holder pushes.

    `send_to`: the shards that still need that unit; empty: all.
    """

    stream: int
    attempt: int
    holder: int
    step: int
    send_to: tuple[int, ...]
    reason: str


@dataclass(frozen=True)
class Deposited:
    """The state of a stream before the unit of `step` is whole on every shard."""

    stream: int
    step: int


@dataclass(frozen=True)
class Closed:
    """A step is settled with exactly these streams; what they brought, for the accounts."""

    step: int
    streams: tuple[int, ...]
    deposit: bool
    final: bool
    retain_from: int
    empty: int
    samples: int
    tokens: int
    loss: float | None


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
class Stopping:
    """The run ends with the step that is open now. `error`: class name of what made it end, or empty."""

    reason: str
    error: str


@dataclass(frozen=True)
class Ended:
    """The run is over."""

    reason: str
    error: str


Record = (
    Began
    | Admitted
    | Departed
    | Modelled
    | Loaded
    | Dataset
    | Assigned
    | Deposited
    | Closed
    | Evaluated
    | Checkpointed
    | Stopping
    | Ended
)

_KINDS: dict[str, type[Any]] = {kind.__name__: kind for kind in Record.__args__}


def to_json(record: Record) -> str:
    return json.dumps({"record": type(record).__name__, **dataclasses.asdict(record)})


def from_json(text: str) -> Record:
    """The record of a journal line. Raises: KeyError for a kind that this build does not know."""
    fields = json.loads(text)
    record: Record = _KINDS[fields.pop("record")](**{k: _tuples(v) for k, v in fields.items()})
    return record


def _tuples(value: Any) -> Any:
    return tuple(_tuples(v) for v in value) if isinstance(value, list) else value
