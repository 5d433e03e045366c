"""What the network thread hands to the training thread: plans, deltas, answers, the end, an error.

| thread          | owns                                   | blocks on              |
|-----------------|----------------------------------------|------------------------|
| main (training) | model, planes, stream state, segments  | compute, this mailbox  |
| `transfer`      | connections, frames on their way       | sockets                |
| heartbeat       | (a process of its own) its connection  | its timer, our pipe    |
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum

from wire.ids import UnitId
from worker.deltas import Delta, DeltaQueues
from worker.leases import Lease
from worker.streams import Assignment

WAKE_S = 0.2
"""Signals are handled between waits of this length."""
AHEAD_BYTES = 16 << 20
"""With so many bytes of a shard's deltas waiting here, no more are read: the rest waits on the server."""


@dataclass(frozen=True)
class Plan:
    """The whole of what this worker is to do. `ahead` None: without a bound. `lag`, `drained`: see `Carrier.need`.

    Attributes:
        hand_over: the step before which the run stands still, and this worker hands over what it keeps.
        handed: the step at which was handed over what begins here without a deposit; None: what the script makes.
        inherits: streams of the segment before whose residual this worker goes on with.
    """

    assignments: tuple[Assignment, ...] = ()
    total_steps: int = 0
    number: int = 0
    segment: int = 0
    elastic: bool = False
    leases: tuple[Lease, ...] = ()
    ahead: int | None = None
    first: bool = False
    begins: int = 0
    leave: bool = False
    lag: int = 0
    drained: tuple[int, ...] = ()
    hand_over: int | None = None
    handed: int | None = None
    inherits: tuple[int, ...] = ()


@dataclass(frozen=True)
class End:
    reason: str
    error: str


class Flushed(Enum):
    """What a shard did with the last push of a leaver."""

    TAKEN = "it is in the model, or will be"
    REFUSED = "the segment is over, or this worker was given up"
    FAILED = "there was no answer in time"


class Mailbox:
    """Thread-safe; every `put_` wakes the reader."""

    def __init__(self, shards: int) -> None:
        self._changed = threading.Condition()
        self._plan: Plan | None = None
        self._end: End | None = None
        self._error: Exception | None = None
        self._deltas = DeltaQueues(shards)
        self._following = 0
        self._under_way: Counter[UnitId] = Counter()
        self._answered = False
        self._flushed: list[tuple[int, Flushed]] = []
        self.accepted = 0
        self.on_taken: Callable[[], None] = lambda: None
        """Called on the training thread when deltas were taken, or forgotten."""

    # --- from the network thread -------------------------------------------------------------

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

    def put_delta(self, delta: Delta, following: int = 0) -> None:
        """Of the `following` that began last; what an older one still brings is dropped."""
        with self._changed:
            if following == self._following:
                self._deltas.put(delta)
                self._changed.notify_all()

    def crowded(self, shard: int) -> bool:
        """Whether enough of a shard's deltas wait here."""
        with self._changed:
            return self._deltas.waiting_bytes(shard) >= AHEAD_BYTES

    def put_answer(self, unit: UnitId, *, accepted: bool) -> None:
        """A shard answered a push of `unit`."""
        with self._changed:
            self._under_way[unit] -= 1
            self._under_way += Counter()  # those at zero go
            self.accepted += accepted
            self._answered = True
            self._changed.notify_all()

    def put_flushed(self, shard: int, answer: Flushed) -> None:
        with self._changed:
            self._flushed.append((shard, answer))
            self._answered = True
            self._changed.notify_all()

    # --- from the training thread ------------------------------------------------------------

    @property
    def end(self) -> End | None:
        return self._end

    def check(self) -> None:
        """Raises: the error that the network thread met, unless the run is over."""
        if self._error is not None and self._end is None:
            raise self._error

    def take_plan(self) -> Plan | None:
        """The newest plan since the last call."""
        with self._changed:
            plan, self._plan = self._plan, None
            return plan

    def begin_deltas(self, steps: Sequence[int]) -> int:
        """Forget the deltas that are here; the number of the following that may bring others from now on."""
        with self._changed:
            self._deltas.begin(steps)
            self._following += 1
        self.on_taken()
        return self._following

    def take_deltas(self) -> Sequence[Delta]:
        """The next deltas that are entered together, by shard; none when they are not all here."""
        with self._changed:
            taken = self._deltas.take()
        if taken:
            self.on_taken()
        return taken

    def expect_answer(self, unit: UnitId) -> None:
        """One more push of `unit` is under way."""
        with self._changed:
            self._under_way[unit] += 1

    @property
    def units_under_way(self) -> int:
        """Units with a push that is not acknowledged."""
        return len(self._under_way)

    @property
    def flush_answered(self) -> bool:
        """Whether `take_flushed` has something to give."""
        return bool(self._flushed)

    def take_flushed(self) -> list[tuple[int, Flushed]]:
        """(shard, its answer) to the last push, of those that have answered since the last call."""
        with self._changed:
            taken, self._flushed = self._flushed, []
            return taken

    def wait(self, *, deltas: bool = True) -> None:
        """Wait a moment for anything new: a plan, an end, an answer, or (if asked) deltas that can be entered.

        Raises: the error that the network thread met.
        """
        with self._changed:
            self._changed.wait_for(lambda: self._news(deltas), timeout=WAKE_S)
            self._answered = False
        self.check()

    def _news(self, deltas: bool) -> bool:
        known = self._plan is not None or self._end is not None or self._error is not None or self._answered
        return known or (deltas and self._deltas.ready)
