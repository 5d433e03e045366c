"""Clock policies: when does a step close, and with which units? One signature for all of them."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class Standing:
    """What a pace decides from.

    Attributes:
        step: the open step.
        streams: number of streams.
        shards: number of shards.
        accepted: stream -> the shards that hold its unit of the open step.
    """

    step: int
    streams: int
    shards: int
    accepted: Mapping[int, Set[int]]

    @property
    def complete(self) -> tuple[int, ...]:
        """The streams whose unit every shard holds, ascending."""
        return tuple(s for s in range(self.streams) if len(self.accepted.get(s, ())) == self.shards)


class Pace(Protocol):
    """Decides the units to close the open step with, or None to wait; always with a reason."""

    def decide(self, standing: Standing) -> tuple[tuple[int, ...] | None, str]: ...


class SyncPace:
    """Bulk-synchronous: a step closes when every unit of it stands on every shard."""

    def decide(self, standing: Standing) -> tuple[tuple[int, ...] | None, str]:
        complete = standing.complete
        if len(complete) == standing.streams:
            return complete, f"all {standing.streams} units of step {standing.step} stand on every shard"
        missing = sorted(set(range(standing.streams)) - set(complete))
        return None, f"step {standing.step} waits for streams {missing}"


PACES: Mapping[str, type[Pace]] = {"sync": SyncPace}
