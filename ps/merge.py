"""What the units of one step count beside each other, and what their sum is divided by.

    x_j <- x_j - α Σ_r w_r Δ̂_rj · R / (n_j^γ R^(1-γ)),   Σ w = 1

R units contribute, n_j of them sent element j, w is their weight: all alike, or by tokens. γ = 0 is the mean over all
units, γ = 1 that over those which sent the element (SparseLoCo, arXiv 2508.15706, has the one in its paper and the
other in its code); ½ keeps the norm of a step where R changes. "sum" divides by nothing. Units that settle on arrival
are not counted element by element: each moves the model by α w R^γ / R of its Δ̂.

All of it is made of small numbers that are the same on every shard, so that placement changes nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ps.records import ShardSpec

Plane = NDArray[np.float32]
Counts = NDArray[np.uint16]
ROWS_AT_ONCE = 64


@dataclass(frozen=True)
class Merge:
    """One rule. power: γ, of "count" only. by_tokens: whether a unit's weight is its tokens."""

    rule: str = "mean"
    power: float = 0.0
    by_tokens: bool = False

    @classmethod
    def of(cls, spec: ShardSpec) -> Merge:
        power = spec.count_power if spec.aggregate == "count" else 0.0
        return cls(spec.aggregate, power, spec.weights == "tokens" and spec.aggregate != "sum")

    @property
    def counts(self) -> bool:
        """Whether it matters how many units sent an element."""
        return self.power > 0

    def shares(self, tokens: Sequence[int]) -> list[float]:
        """w R of each unit, from the tokens of each: 1 where all weigh the same, or nobody tells any."""
        whole = sum(tokens)
        if not self.by_tokens or not whole:
            return [1.0] * len(tokens)
        return [len(tokens) * own / whole for own in tokens]

    def divisor(self, units: int) -> np.float32:
        """Of a sum over so many units, where it does not matter who sent what."""
        return np.float32(1 if self.rule == "sum" else max(units, 1))

    def divisors(self, units: int) -> NDArray[np.float32]:
        """float32 [units + 1]: of the sum at an element that n of so many units sent, by n."""
        found = [max(n, 1) ** self.power * max(units, 1) ** (1 - self.power) for n in range(units + 1)]
        return np.array(found, np.float32)

    def gain(self, streams: int) -> float:
        """R^γ: by so much more counts a unit that settles on arrival, of a step of so many."""
        return float(streams**self.power)


def divide(total: Plane, by: NDArray[np.float32], counts: Counts, out: Plane) -> Plane:
    """out = total / by[counts], element by element."""
    for start in range(0, len(total), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        np.divide(total[rows], by[counts[rows]], out=out[rows])
    return out
