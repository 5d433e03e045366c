"""Whether units come so late that it costs loss, which the loss alone would not tell from a hard problem. Pure.

Workers allow for about one step. From two steps on both gradients into AdamW and rounds of local steps lose more than
any codec takes (benchmarks/results/delay.md). In a run with local steps it is rounds that are counted.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

LATE_STEPS = 1.5
"""More in the mean is worth a word."""
OF_STEPS = 50
"""The mean is over the units of so many steps; before there are so many nothing is said."""


class Lateness:
    """Of the newest units of one segment.

    Args:
        streams: units of a step (R).
    """

    def __init__(self, *, streams: int) -> None:
        self._streams = streams
        self._behind: deque[int] = deque(maxlen=OF_STEPS * streams)
        self._told = False

    def count(self, behind: Sequence[int]) -> float | None:
        """More units; by so many of others was each behind. The mean in steps, once, where it is worth a word."""
        self._behind.extend(behind)
        if self._told or len(self._behind) < OF_STEPS * self._streams:
            return None
        mean = sum(self._behind) / len(self._behind) / self._streams
        self._told = mean > LATE_STEPS
        return mean if self._told else None
