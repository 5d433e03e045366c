"""Whether units come so late that it costs loss, which nothing else would tell: the loss alone looks like a bad one.

AdamW on gradients a step late can be helped by looking ahead; on gradients two steps late it loses more than any codec
takes (benchmarks/results/delay.md). Pure.
"""

from __future__ import annotations

from collections import deque

LATE_STEPS = 1.5
"""More in the mean is worth a word."""
UNITS_STEPS = 50
"""The mean is over the units of so many steps; before there are so many nothing is said."""


class Lateness:
    """Of the units of one segment, as they are counted.

    Args:
        streams: units of a step (R).
    """

    def __init__(self, *, streams: int) -> None:
        self._streams = streams
        self._behind: deque[int] = deque(maxlen=UNITS_STEPS * streams)
        self._told = False

    def count(self, behind: tuple[int, ...]) -> float | None:
        """So many units by others was each of these behind. Mean steps, the first time that it is worth a word."""
        self._behind.extend(behind)
        if self._told or len(self._behind) < UNITS_STEPS * self._streams:
            return None
        mean = sum(self._behind) / len(self._behind) / self._streams
        self._told = mean > LATE_STEPS
        return mean if self._told else None
