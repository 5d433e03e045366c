"""Stretches of unit numbers: what leases are made of. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True, order=True)
class Span:
    """Units `start`, `start` + `stride`, … below `stop`."""

    start: int
    stop: int
    stride: int

    def __bool__(self) -> bool:
        return self.start < self.stop

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.start, self.stop, self.stride))

    @property
    def count(self) -> int:
        """How many units."""
        return len(range(self.start, self.stop, self.stride))

    @property
    def last(self) -> int:
        """Its last unit; of an empty span the one before its start."""
        return self.start + (self.count - 1) * self.stride

    def first_from(self, number: int) -> int:
        """The first unit of the span's sequence at or beyond `number`, whether it is below `stop` or not."""
        return self.start + max(0, -(-(number - self.start) // self.stride)) * self.stride

    def cut(self, number: int) -> tuple[Span, Span]:
        """What is below `number`, and the rest."""
        at = self.first_from(number)
        return Span(self.start, min(self.stop, at), self.stride), Span(at, self.stop, self.stride)

    def without(self, done: Callable[[int], bool], *, until: int) -> list[Span]:
        """What is left when the units that are done are taken out; at `until` and beyond none is.

        Maximal runs, in order.
        """
        runs: list[Span] = []
        begin: int | None = None
        below, rest = self.cut(until)
        for unit in below:
            if done(unit):
                if begin is not None:
                    runs.append(Span(begin, unit, self.stride))
                begin = None
            elif begin is None:
                begin = unit
        if begin is not None:
            return [*runs, Span(begin, self.stop, self.stride)]
        return [*runs, rest] if rest else runs


def first_deal(start: int, stop: int, slots: int) -> list[Span]:
    """All units from `start` below `stop` as `slots` interleaved spans."""
    return [span for k in range(slots) if (span := Span(start + k, stop, slots))]
