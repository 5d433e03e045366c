"""What repeated measurements come to."""

from __future__ import annotations

import statistics
from collections.abc import Iterable


def distribution(values: Iterable[float]) -> dict[str, float]:
    """n, min, median and max.

    Raises: ValueError for no values.
    """
    ordered = sorted(values)
    if not ordered:
        raise ValueError("no values were measured; expected at least one")
    return {"n": len(ordered), "min": ordered[0], "median": statistics.median(ordered), "max": ordered[-1]}
