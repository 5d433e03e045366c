"""Workers that are out of the run, until every shard has said that it takes nothing from them any more (rule 5).

A shard tells of what it accepted in order; so once it has answered, all that the worker pushed and that
counts is known.
"""

from __future__ import annotations

from coordinator import actions as a
from coordinator.desk import Desk
from coordinator.records import Retired


class Retirements:
    """Which shards have yet to answer, by incarnation."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._asked = {m.incarnation: self._shards() for m in desk.state.members.values() if m.retiring}

    @property
    def pending(self) -> set[int]:
        """Incarnations that some shard has not answered for."""
        return set(self._asked)

    def _shards(self) -> set[int]:
        return {s.shard for s in self._desk.state.placement}

    def begin(self, incarnation: int) -> None:
        """Have every shard refuse this worker from now on."""
        if self._desk.state.placement:
            self._asked[incarnation] = self._shards()
            self._desk.command_all(a.RetireWorker(incarnation))

    def answered(self, shard: int, incarnation: int) -> bool:
        """Whether that was the last answer for this worker."""
        left = self._asked.get(incarnation)
        if left is None:
            return False
        left.discard(shard)
        if left:
            return False
        del self._asked[incarnation]
        self._desk.decide(Retired(incarnation))
        return True

    def again(self, shard: int) -> None:
        """The line to a shard was broken: ask it once more for what it has not answered."""
        for incarnation, left in self._asked.items():
            if shard in left:
                self._desk.actions.append(a.Command(shard, a.RetireWorker(incarnation)))
