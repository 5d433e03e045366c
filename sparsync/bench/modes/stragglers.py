"""How workers are made slow: one pattern for a case, the same for clusters and baselines.

| pattern | |
|---|---|
| `none` | nobody is |
| `slow:4/4/2/1` | worker i takes so many times as long for a unit, always |
| `pauses:0.05/2` | with that chance a unit is preceded by a pause, of so many seconds in the mean, exponential |
| `stop:10/8` | the last worker's processes are stopped (SIGSTOP) 10 s after its first unit, and go on 8 s later |

Slowness is sleep, so that a machine with few cores can show many machines. Drawn from (seed, worker, unit) alone.
"""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

from wire.errors import UsageError

NOBODY = "none"


@dataclass(frozen=True)
class Pattern:
    """What becomes of the workers of a case.

    Attributes:
        factors: of worker i, the last one's for all after it.
        chance, mean_s: of a pause before a unit.
        stop_after_s, stop_for_s: of the last worker; 0 seconds: never.
    """

    name: str
    factors: tuple[float, ...] = (1.0,)
    chance: float = 0.0
    mean_s: float = 0.0
    stop_after_s: float = 0.0
    stop_for_s: float = 0.0

    def factor(self, worker: int) -> float:
        return self.factors[min(worker, len(self.factors) - 1)]

    def sleep_s(self, *, worker: int, unit: int, seed: int, computed_s: float, unit_s: float) -> float:
        """Before a worker's unit number `unit`, whose compute takes `computed_s`, as the one before did.

        unit_s: that a unit of a worker of factor 1 takes at least.
        """
        slow = self.factor(worker) * max(computed_s, unit_s) - computed_s
        return max(0.0, slow) + self._pause_s(worker, unit, seed)

    def _pause_s(self, worker: int, unit: int, seed: int) -> float:
        if not self.chance:
            return 0.0
        draw = random.Random(f"{seed}/{worker}/{unit}")
        return -self.mean_s * math.log(1.0 - draw.random()) if draw.random() < self.chance else 0.0

    def stops(self, worker: int, workers: int) -> bool:
        return self.stop_for_s > 0 and worker == workers - 1


def pattern(text: str) -> Pattern:
    """Raises: UsageError."""
    kind, _, told = text.partition(":")
    try:
        numbers = tuple(float(word) for word in told.split("/")) if told else ()
    except ValueError:
        raise _unknown(text) from None
    if kind == NOBODY and not numbers:
        return Pattern(NOBODY)
    if kind == "slow" and numbers and min(numbers) >= 1:
        return Pattern(text, factors=numbers)
    if kind == "pauses" and len(numbers) == 2 and 0 < numbers[0] <= 1 and numbers[1] > 0:
        return Pattern(text, chance=numbers[0], mean_s=numbers[1])
    if kind == "stop" and len(numbers) == 2 and numbers[0] >= 0 and numbers[1] > 0:
        return Pattern(text, stop_after_s=numbers[0], stop_for_s=numbers[1])
    raise _unknown(text)


def _unknown(text: str) -> UsageError:
    return UsageError(
        f"--stragglers {text}: expected none, slow:4/4/2/1 (factors ≥ 1, by worker), pauses:0.05/2 (chance, mean "
        "seconds) or stop:10/8 (seconds until the last worker stops, seconds until it goes on)"
    )
