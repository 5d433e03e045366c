"""How stale a unit is, counted exactly, and how much of it counts.

A unit's staleness on this shard: the units by other workers that were accepted here since the
version from which it was computed; τ is their number in steps. σ(τ) as in algorithms for
asynchronous descent with bounded delay (arXiv 1511.05950): 1 up to one step, then a falling power.
"""

from __future__ import annotations

from collections import deque

import numpy as np

from ps.trees import State

HISTORY = 4096, 65_536
"""Accepted units that are remembered, at least and at most; between them, four times what may still count."""


class Staleness:
    """Who was accepted at which version, of the newest units.

    Args:
        version: of the published model, at which the segment begins.
        streams: units a step (R).
        damping, max_staleness: of σ; with `aggregate` "sum" every unit counts in full.
    """

    def __init__(
        self, version: int, *, streams: int, aggregate: str, damping: float, max_staleness: float
    ) -> None:
        self._accepted: deque[tuple[int, int]] = deque()
        least, most = HISTORY
        self._length = int(min(max(least, 4 * max_staleness * streams), most))
        self._complete_from = version
        self._streams = streams
        self._in_full = aggregate == "sum"
        self._damping = damping
        self._max_staleness = max_staleness

    def note(self, version: int, incarnation: int) -> None:
        """A unit of `incarnation` is accepted while the published model is at `version`."""
        self._accepted.append((version, incarnation))
        if len(self._accepted) > self._length:
            self._complete_from = self._accepted.popleft()[0] + 1

    def weigh(self, base_version: int, incarnation: int) -> tuple[int, float]:
        """(behind, factor) of a unit of `incarnation` that was computed from `base_version`.

        A base from before what is remembered is beyond every limit; `behind` then counts what is known.
        """
        behind = self._behind(base_version, incarnation)
        if self._in_full:
            return behind, 1.0
        if base_version < self._complete_from:
            return behind, 0.0
        return behind, factor(
            behind / self._streams, damping=self._damping, max_staleness=self._max_staleness
        )

    def image(self) -> State:
        """`accepted`: int64 [m, 2], version and incarnation of each unit, the oldest first."""
        accepted = np.array(self._accepted, np.int64).reshape(-1, 2)
        return {"complete_from": self._complete_from, "accepted": accepted}

    def restore(self, tree: State) -> None:
        self._complete_from = tree["complete_from"]
        self._accepted = deque((version, by) for version, by in tree["accepted"].tolist())

    def _behind(self, base_version: int, incarnation: int) -> int:
        behind = 0
        for version, by in reversed(self._accepted):
            if version < base_version:
                break
            behind += by != incarnation
        return behind


def factor(tau: float, *, damping: float, max_staleness: float) -> float:
    """σ(τ) = (1 + max(0, τ - 1)) ** -damping, and 0 beyond `max_staleness` (τ and it in steps)."""
    if tau > max_staleness:
        return 0.0
    return float((1.0 + max(0.0, tau - 1.0)) ** -damping)
