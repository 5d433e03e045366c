"""Density that falls over the first steps of a run: a pure function of configuration and step.

    d(t) = first (last / first)^(t / steps)  for t < steps, then last

so each step sends the same share less than the one before. Between the ends d is a whole number of a block's 4,096
elements: no platform's rounding of the power decides how many elements are kept. This module imports neither numpy,
numba nor torch.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from wire.layout import BLOCK


class Warmup(NamedTuple):
    """first: density of step 0, last: from step `steps` on. 0 < last <= first <= 1."""

    first: float
    last: float
    steps: int

    def density(self, step: int) -> float:
        """Share of each block that is kept at `step`."""
        if step >= self.steps:
            return self.last
        falling = self.first * math.pow(self.last / self.first, step / self.steps)
        return min(self.first, max(self.last, round(falling * BLOCK) / BLOCK))
