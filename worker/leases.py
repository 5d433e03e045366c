"""What a worker does next in an elastic segment: the leases it holds and how far each has come. Pure.

A lease is a stride of unit numbers; unit n is stream n mod R of step n // R. Of all leases the
lowest-numbered unit comes first, as far as the slowest clock lets it begin. A later plan may
shorten a lease: the answer tells where it stands, and nothing at or beyond the new stop is begun.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from worker.streams import WAIT, Kind, Task


@dataclass(frozen=True)
class Lease:
    """Units `start`, `start` + `stride`, … below `stop`. `partial`: unit -> the shards that still need it."""

    number: int
    start: int
    stop: int
    stride: int
    partial: Mapping[int, tuple[int, ...]] = field(default_factory=dict)


@dataclass
class _Held:
    lease: Lease
    next: int

    @property
    def open(self) -> bool:
        return self.next < self.lease.stop

    def after(self, number: int) -> int:
        """Its next unit once unit `number` is done."""
        return self.next + self.lease.stride if self.next == number else self.next


class LeaseWork:
    """The leases of one worker in one segment.

    Args:
        streams: units of a step (R).

    Attributes:
        clock: every unit of earlier steps stands on every shard, as far as this worker knows.
    """

    def __init__(self, streams: int) -> None:
        self._streams = streams
        self._held: dict[int, _Held] = {}
        self._stood: dict[int, int] = {}
        self._ahead: int | None = 0
        self.clock = 0

    def take(self, leases: Sequence[Lease], ahead: int | None) -> None:
        """Follow a plan: what it repeats stays where it stands, what it leaves out is dropped.

        A lease that was dropped may be told again, by a coordinator that was started anew and has not heard that it
        was given back: what was begun of it is not begun again.
        """
        self._stood |= self.holding
        begun = ((lease, self._stood.get(lease.number, lease.start)) for lease in leases)
        self._held = {lease.number: _Held(lease, max(lease.start, following)) for lease, following in begun}
        self._ahead = ahead

    def reached(self, clock: int) -> None:
        """The slowest clock stands at `clock`; it never goes back."""
        self.clock = max(self.clock, clock)

    @property
    def open(self) -> bool:
        """Whether it holds a unit that is not done, whether or not that may begin."""
        return self._lowest() is not None

    @property
    def holding(self) -> dict[int, int]:
        """Lease -> its first unit that was not begun."""
        return {number: held.next for number, held in self._held.items()}

    def next(self) -> Task:
        """The unit to compute now, or WAIT. The same one until it is `done`."""
        lowest = self._lowest()
        if lowest is None or not self._may_begin(lowest.next):
            return WAIT
        step, stream = divmod(lowest.next, self._streams)
        return Task(Kind.COMPUTE, stream, step, send_to=lowest.lease.partial.get(lowest.next, ()))

    def _lowest(self) -> _Held | None:
        return min((h for h in self._held.values() if h.open), key=lambda h: h.next, default=None)

    def _may_begin(self, unit: int) -> bool:
        return self._ahead is None or unit // self._streams <= self.clock + self._ahead

    def done(self, task: Task) -> None:
        """The unit of `task` was computed; it is never begun again."""
        number = self._number(task)
        for held in self._held.values():
            if held.next == number and held.open:
                held.next += held.lease.stride

    def following(self, task: Task) -> tuple[int, int]:
        """(step, stream) of the unit after the one at hand, unless a plan changes it."""
        number = self._number(task)
        coming = [h.after(number) for h in self._held.values() if h.after(number) < h.lease.stop]
        step, stream = divmod(min(coming, default=number), self._streams)
        return step, stream

    def _number(self, task: Task) -> int:
        return task.step * self._streams + task.stream
