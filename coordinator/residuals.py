"""Residuals: what workers hold back for later pushes, as norms, and what of it is lost.

Norms are only heard; a loss is a record, for it belongs to the run's accounts.
"""

from __future__ import annotations

from coordinator import events as e
from coordinator.desk import Desk
from coordinator.records import Lost


class Residuals:
    """Norms by incarnation: of the residual that a worker holds, and of all that it has dropped so far."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._held: dict[int, float] = {}
        self._dropped = {m.incarnation: m.dropped for m in desk.state.members.values()}

    @property
    def held(self) -> float:
        """Sum of the norms of what the workers in the run hold back, as they told last."""
        return sum(self._held.values())

    def told(self, event: e.Progressed) -> None:
        """What a worker holds now; what it has dropped since it told last, with a segment, is lost."""
        before = self._dropped.get(event.incarnation, 0.0)
        self._held[event.incarnation] = event.residual_norm
        self._dropped[event.incarnation] = event.dropped_norm
        self._lose(event.incarnation, event.dropped_norm - before)

    def flushed(self, event: e.Flushed) -> None:
        """A leaver has pushed what it held, but for what no shard took."""
        self._held[event.incarnation] = event.residual_norm

    def gone(self, incarnation: int) -> None:
        """A worker is out of the run, and what it held with it."""
        self._lose(incarnation, self._held.pop(incarnation, 0.0))

    def _lose(self, incarnation: int, norm: float) -> None:
        if norm > 0:
            self._desk.decide(Lost(incarnation, norm, self._dropped.get(incarnation, 0.0)))
            self._desk.note("mass_lost", name=self._desk.name_of(incarnation), residual_norm=norm)
