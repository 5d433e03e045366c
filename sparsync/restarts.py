"""Which processes are started again, how often, and when. Pure; times are seconds handed in.

A worker pauses longer each time. The coordinator and the servers, for whom everybody waits, begin at
once the first time.
"""

from __future__ import annotations

from collections.abc import Iterable

from sparsync.exits import Role

PAUSES_S: dict[Role, tuple[float, ...]] = {
    "coordinator": (0.0, 1.0, 2.0, 4.0),
    "ps": (0.0, 1.0, 2.0, 4.0),
    "worker": (0.5, 1.0, 2.0, 4.0),
}


class Restarts:
    """Restarts of a cluster's processes, each at most `limit` times."""

    def __init__(self, processes: Iterable[str], *, limit: int) -> None:
        self._counts = dict.fromkeys(processes, 0)
        self._due: dict[str, float] = {}
        self.limit = limit

    @property
    def total(self) -> int:
        """Of all processes together."""
        return sum(self._counts.values())

    def of(self, process: str) -> int:
        """Restarts of one process so far."""
        return self._counts[process]

    @property
    def waiting(self) -> frozenset[str]:
        """Processes that will be started again."""
        return frozenset(self._due)

    def spent(self, process: str) -> bool:
        """Whether it has had all of its restarts."""
        return self._counts[process] >= self.limit

    def plan(self, process: str, role: Role, now: float, *, at_once: bool = False) -> str:
        """Have it started after a pause; in words."""
        pauses = PAUSES_S[role]
        pause_s = 0.0 if at_once else pauses[min(self._counts[process], len(pauses) - 1)]
        self._counts[process] += 1
        self._due[process] = now + pause_s
        count = f"({self._counts[process]} of {self.limit})"
        return f"starting it again {f'in {pause_s:g} s ' if pause_s else ''}{count}"

    def take_due(self, now: float) -> list[str]:
        """Those to start now."""
        due = [process for process, at in self._due.items() if now >= at]
        for process in due:
            del self._due[process]
        return due

    def cancel(self) -> None:
        """Nobody is started any more."""
        self._due.clear()
