"""What curves come to. Pure: a curve is its points in order of time, with linear pieces between them."""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Point = Mapping[str, Any]
AXES = ("seconds", "tokens", "bytes")
BYTES = ("bytes_up", "bytes_down", "bytes_state", "bytes_control")
"""Of a point; together all that went through the workers' sockets."""


def along(point: Point, axis: str) -> float:
    """Where a point lies on one of `AXES`; bytes are those of all sockets, both ways."""
    return float(sum(point[key] for key in BYTES) if axis == "bytes" else point[axis])


def line(curve: Sequence[Point], axis: str) -> list[tuple[float, float]]:
    """(place on the axis, loss) of each point that has a finite loss."""
    return [(along(p, axis), float(p["loss"])) for p in curve if p["loss"] is not None]


def loss_at(curve: Sequence[Point], axis: str, value: float) -> float | None:
    """The loss at that place; None before the first point, behind the last one, and where it is not finite."""
    for before, after in itertools.pairwise(curve):
        low, high = along(before, axis), along(after, axis)
        if low <= value <= high:
            if before["loss"] is None or after["loss"] is None:
                return None
            share = (value - low) / (high - low) if high > low else 1.0
            return float(before["loss"] + share * (after["loss"] - before["loss"]))
    return None


def loss_by(curve: Sequence[Point], axis: str, value: float) -> float | None:
    """As `loss_at`; what has ended before keeps the loss that it ended with."""
    last = curve[-1]
    if along(last, axis) < value:
        return None if last["loss"] is None else float(last["loss"])
    return loss_at(curve, axis, value)


def reached_at(curve: Sequence[Point], axis: str, loss: float) -> float | None:
    """Where the loss is that low for the first time; None: never."""
    found = line(curve, axis)
    if found and found[0][1] <= loss:
        return found[0][0]
    for (low, before), (high, after) in itertools.pairwise(found):
        if after <= loss < before:
            return low + (before - loss) / (before - after) * (high - low)
    return None


def finite(value: float | None) -> float | None:
    """None for what diverged: JSON has no word for it, and nothing can be sorted by it."""
    return value if value is not None and math.isfinite(value) else None


@dataclass(frozen=True)
class Spread:
    """A figure over the seeds. `sd`: of the sample, 0 for one value."""

    mean: float
    sd: float
    low: float
    high: float
    n: int

    def __str__(self) -> str:
        return f"{self.mean:.4g}" + (f" ± {self.sd:.2g}" if self.n > 1 else "")


def spread(values: Iterable[float | None]) -> Spread | None:
    """Over all; None where one is missing or not finite, or none is there: a mean of the rest would flatter."""
    found = list(values)
    if not found or any(v is None or not math.isfinite(v) for v in found):
        return None
    numbers = [v for v in found if v is not None]
    sd = statistics.stdev(numbers) if len(numbers) > 1 else 0.0
    return Spread(statistics.fmean(numbers), sd, min(numbers), max(numbers), len(numbers))


def ratio(value: float | None, to: float | None) -> float | None:
    return value / to if value is not None and to else None


def mean_staleness(histogram: Mapping[str, int] | None) -> float | None:
    """Steps, of a histogram of units by whole steps."""
    units = sum((histogram or {}).values())
    return sum(int(steps) * n for steps, n in (histogram or {}).items()) / units if units else None
