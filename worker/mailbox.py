"""What the network thread hands to the training thread: plans, deltas, the end, an error.

| thread          | owns                                   | blocks on              |
|-----------------|----------------------------------------|------------------------|
| main (training) | model, planes, stream state, carrier   | compute, this mailbox  |
| `transfer`      | connections, frames on their way       | sockets                |
| heartbeat       | (a process of its own) its connection  | its timer, our pipe    |
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from worker.streams import Assignment

WAKE_S = 0.2
"""Signals are handled between waits of this length."""


@dataclass(frozen=True)
class Delta:
    """One shard's delta from `version` to `version` + 1, with what its header says."""

    shard: int
    version: int
    frame: bytes
    deposit: bool
    final: bool


@dataclass(frozen=True)
class Plan:
    assignments: tuple[Assignment, ...]
    total_steps: int


@dataclass(frozen=True)
class End:
    reason: str
    error: str


class Mailbox:
    """Thread-safe; every `put_` wakes the reader."""

    def __init__(self, shards: int) -> None:
        self._shards = shards
        self._changed = threading.Condition()
        self._plan: Plan | None = None
        self._end: End | None = None
        self._error: Exception | None = None
        self._deltas: dict[int, dict[int, Delta]] = {}

    def put_plan(self, plan: Plan) -> None:
        with self._changed:
            self._plan = plan
            self._changed.notify_all()

    def put_end(self, end: End) -> None:
        with self._changed:
            self._end = self._end or end
            self._changed.notify_all()

    def put_error(self, error: Exception) -> None:
        with self._changed:
            self._error = self._error or error
            self._changed.notify_all()

    def put_delta(self, delta: Delta) -> None:
        with self._changed:
            self._deltas.setdefault(delta.version, {})[delta.shard] = delta
            self._changed.notify_all()

    @property
    def end(self) -> End | None:
        return self._end

    def take_plan(self) -> Plan | None:
        """The newest plan since the last call."""
        with self._changed:
            plan, self._plan = self._plan, None
            return plan

    def take_deltas(self, version: int) -> Sequence[Delta] | None:
        """The deltas from `version` on by one, of every shard in order, once all are here."""
        with self._changed:
            if len(self._deltas.get(version, ())) < self._shards:
                return None
            arrived = self._deltas.pop(version)
            return [arrived[shard] for shard in range(self._shards)]

    def wait(self, version: int) -> None:
        """Wait a moment for anything new: a plan, an end, or whole deltas from `version`.

        Raises: the error that the network thread met.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._news(version), timeout=WAKE_S)
            if self._error is not None and self._end is None:
                raise self._error

    def wait_for(self, ready: Callable[[], bool]) -> bool:
        """Wait a moment until `ready()`; whether it is."""
        with self._changed:
            return self._changed.wait_for(ready, timeout=WAKE_S)

    def _news(self, version: int) -> bool:
        whole = len(self._deltas.get(version, ())) == self._shards
        return self._plan is not None or self._end is not None or self._error is not None or whole
