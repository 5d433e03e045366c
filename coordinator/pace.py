"""Clock policies: how work is cut, when a unit is settled, when a step closes. One signature for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol

from coordinator.records import Segment, Switching

SLOTS = 64
SLOTS_A_WORKER = 4
DEFAULT_STALENESS = 3
LATEST = 8
"""Steps that a unit may come late under a quorum before the steps wait for it."""


@dataclass(frozen=True)
class Standing:
    """What a pace decides from.

    Attributes:
        step: the open step.
        streams: number of streams.
        shards: number of shards.
        accepted: stream -> the shards that hold its unit of the open step.
        oldest_owed: step of the oldest unit that an earlier close went without, or None.
        open_s: seconds that the step has been open.
    """

    step: int
    streams: int
    shards: int
    accepted: Mapping[int, Set[int]]
    oldest_owed: int | None = None
    open_s: float = 0.0

    @property
    def complete(self) -> tuple[int, ...]:
        """The streams whose unit every shard holds, ascending."""
        return tuple(s for s in range(self.streams) if len(self.accepted.get(s, ())) == self.shards)

    @property
    def missing(self) -> list[int]:
        return sorted(set(range(self.streams)) - set(self.complete))


Decision = tuple[tuple[int, ...] | None, str]
"""Streams whose units the open step closes with, or None to wait; and the reason."""


class Pace(Protocol):
    """One way of keeping time.

    Attributes:
        exact: streams are carried, deposited and replayed: bits do not depend on who computes. Else units are leased.
        arrival: units are settled as they arrive, by the shards; no step is closed but at boundaries.
        ahead: steps that a unit may be ahead of the slowest; None: without a bound.
        lag: exact: steps that the model which a unit is computed on stands behind the unit; 0: it has all before it.
    """

    @property
    def exact(self) -> bool: ...

    @property
    def arrival(self) -> bool: ...

    @property
    def ahead(self) -> int | None: ...

    @property
    def lag(self) -> int: ...

    def slots(self, streams: int, workers: int) -> int:
        """Interleaved spans that the units are cut into, to be leased one by one."""
        ...

    def owed(self, streams: int) -> int:
        """Units of closed steps that may be missing at once."""
        ...

    def decide(self, standing: Standing) -> Decision:
        """Whether, and with which units, the open step closes."""
        ...


@dataclass(frozen=True)
class SyncPace:
    """Bulk-synchronous: a step closes when every unit of it stands on every shard.

    With a `lag` of 1 (delayed) the units of step t are computed on x̂ as step t - 1 began: pushes and deltas are on
    their way while the next units are computed. It drains before boundaries (`Steps`).
    """

    lag: int = 0
    exact: bool = True
    arrival: bool = False

    @property
    def ahead(self) -> int:
        return self.lag

    def slots(self, streams: int, workers: int) -> int:
        return streams

    def owed(self, streams: int) -> int:
        return 0

    def decide(self, standing: Standing) -> Decision:
        if not standing.missing:
            return (
                standing.complete,
                f"all {standing.streams} units of step {standing.step} stand on every shard",
            )
        return None, f"step {standing.step} waits for streams {standing.missing}"


@dataclass(frozen=True)
class QuorumPace:
    """Synchronous, but a step closes without its late units once the deadline is over; they are settled later.

    Source: backup workers (arXiv 1604.00981), with late units kept instead of dropped.
    """

    quorum: int
    deadline_s: float
    exact: bool = False
    arrival: bool = False
    ahead: int | None = 0
    lag: int = 0

    def slots(self, streams: int, workers: int) -> int:
        return streams

    def owed(self, streams: int) -> int:
        return LATEST * (streams - self.quorum)

    def decide(self, standing: Standing) -> Decision:
        owed = standing.oldest_owed
        if owed is not None and standing.step - owed >= LATEST:
            return None, f"step {standing.step} waits for a unit of step {owed}, {LATEST} steps late"
        if not standing.missing:
            return (
                standing.complete,
                f"all {standing.streams} units of step {standing.step} stand on every shard",
            )
        if len(standing.complete) >= self.quorum and standing.open_s >= self.deadline_s:
            return standing.complete, f"a quorum of {self.quorum} after {standing.open_s:.1f} s"
        return None, f"step {standing.step} waits for streams {standing.missing}"


@dataclass(frozen=True)
class ArrivalPace:
    """Settled on arrival. `ahead` set: stale synchronous (ssp), each stream a lease; None: asynchronous, finely cut."""

    ahead: int | None
    exact: bool = False
    arrival: bool = True
    lag: int = 0

    def slots(self, streams: int, workers: int) -> int:
        return max(SLOTS, SLOTS_A_WORKER * workers) if self.ahead is None else streams

    def owed(self, streams: int) -> int:
        return 0

    def decide(self, standing: Standing) -> Decision:
        return None, "units are settled as they arrive"


def pace_of(segment: Segment | Switching) -> Pace:
    """The policy of a segment; two whose other keys do not matter to it have equal ones."""
    bounded = segment.mode == "ssp" or (segment.mode == "local" and segment.staleness is not None)
    if segment.mode in ("sync", "local") and not bounded:
        return SyncPace() if segment.quorum is None else QuorumPace(segment.quorum, segment.deadline_s)
    if segment.mode == "delayed":
        return SyncPace(lag=1)
    if bounded:
        return ArrivalPace(DEFAULT_STALENESS if segment.staleness is None else segment.staleness)
    return ArrivalPace(None)
