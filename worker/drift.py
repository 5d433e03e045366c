"""How far x̂ moves on before a unit of this worker counts, in an elastic segment. Pure; counted, not estimated.

Of each shard: units are settled there by deltas, and a unit is late by those that were settled between the x̂ that it
was computed on and the delta that settles it. The next one is taken to be as late as the middle one of the last few:
one that a pause made very late says nothing of it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Sequence
from statistics import median

from worker.deltas import Delta

FEW = 9
"""Units of this worker that are remembered."""


class Drift:
    """One worker's, in one segment.

    Args:
        streams: units of a step (R).
    """

    def __init__(self, shards: int, *, streams: int) -> None:
        self._streams = streams
        self._settled = [0] * shards
        self._last = [0] * shards
        self._late = [deque[int](maxlen=FEW) for _ in range(shards)]
        self._begun: dict[tuple[int, int], int] = {}

    def began(self, unit: int, shards: Collection[int]) -> None:
        """Unit number `unit`, which these shards will settle, is computed on x̂ as it is now."""
        for shard in shards:
            self._begun[shard, unit] = self._settled[shard]

    def hear(self, deltas: Sequence[Delta]) -> None:
        """Deltas that x̂ has followed."""
        for delta in deltas:
            shard = delta.shard
            for outcome in delta.outcomes:
                began = self._begun.pop((shard, outcome.unit.number(self._streams)), None)
                if began is not None:
                    self._late[shard].append(self._settled[shard] - began)
            self._last[shard] = sum(outcome.factor > 0 for outcome in delta.outcomes)
            self._settled[shard] += len(delta.outcomes)

    def moves(self, shard: int) -> float:
        """What is expected until the next unit counts, in moves as large as the last one; 0 while nothing is known."""
        late, last = self._late[shard], self._last[shard]
        return median(late) / last if late and last else 0.0
