"""What the state has entries of: members, streams, standbys, leases; and its sums. Changed by `State.apply` alone."""

from __future__ import annotations

from dataclasses import dataclass, field

from coordinator import records as r
from coordinator.spans import Span

NOBODY = 0
"""In place of an incarnation."""


@dataclass
class Member:
    """A process of the run, in or out of it.

    `retiring`: it is gone, and some shard may still take something from it; `dropped`: norm of what it let fall;
    `keeps`: it has buffers, a loss scaler or the user's objects beside the parameters; `told`: what it said of itself
    last, once it is gone.
    """

    incarnation: int
    role: str
    name: str
    address: str
    fingerprint: str
    pid: int
    host: str
    ready: bool = False
    leaving: bool = False
    gone: str = ""
    dead: bool = False
    retiring: bool = False
    dropped: float = 0.0
    keeps: bool = False
    told: tuple[tuple[str, float], ...] = ()

    @property
    def present(self) -> bool:
        return not self.gone


@dataclass
class Lane:
    """A stream and who computes it.

    `step` is the first unit that the holder pushes, `deposit` the step of the newest deposit
    (None: the stream still starts from its initial state at the run's first step), `fencing` the step whose
    unit the shards are being asked for (None: they are asked for none).
    """

    stream: int
    attempt: int = 0
    holder: int = NOBODY
    step: int = 0
    send_to: tuple[int, ...] = ()
    deposit: int | None = None
    fencing: int | None = None


@dataclass
class Standby:
    """The server that follows a shard's log."""

    incarnation: int
    in_sync: bool = False


@dataclass
class Lease:
    """Units that a worker works off, in an elastic segment."""

    number: int
    holder: int
    span: Span


@dataclass
class Totals:
    """Sums over settled units. `staleness`: whole steps stale -> units."""

    units: int = 0
    empty: int = 0
    samples: int = 0
    tokens: int = 0
    staleness: dict[int, int] = field(default_factory=dict)
    returned: float = 0.0
    lost: float = 0.0

    def add(self, record: r.Closed | r.Counted, units: int) -> None:
        """What `units` units of a record brought."""
        self.units += units - record.empty
        self.empty += record.empty
        self.samples += record.samples
        self.tokens += record.tokens
        self.returned += record.returned
        for stale, count in record.staleness:
            self.staleness[stale] = self.staleness.get(stale, 0) + count
