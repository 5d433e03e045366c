"""How long a worker is waited for: when each made progress last, and how long units take.

Only heard, never journaled. A stuck worker is given up after `cluster.progress_timeout_s`; one that only is
slow, after `cluster.straggler_s`, and only where another one waits for it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from coordinator import actions as a
from coordinator.desk import Rules
from coordinator.records import Closed

STRAGGLER_UNITS = 3
"""A worker straggles when others wait for a unit of it this many times the median (and the configured least)."""
MEDIAN_UNITS = 10
"""A worker makes no progress when it takes this many times the median unit (and the configured least)."""
WINDOW = 50
"""Unit times that the median is taken over."""


@dataclass(frozen=True)
class Verdict:
    """A worker to give up. `straggles`: it makes progress, but too slowly for the others; it comes back by itself."""

    incarnation: int
    idle_s: float
    reason: str
    straggles: bool = False


class Patience:
    """Since when each worker owes what it owes; times are monotonic seconds handed in."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._since: dict[int, float] = {}
        self._announced: set[int] = set()
        self._computed: set[int] = set()
        self._unit_times: list[float] = []

    def heard(self, incarnation: int, now: float) -> None:
        """A worker did what is no unit: it owes from now on."""
        self._since[incarnation] = now

    def announced(self, incarnation: int) -> None:
        """A worker makes no progress on purpose, until it tells of some."""
        self._announced.add(incarnation)

    def progressed(self, incarnation: int, now: float, *, unit_s: float = 0.0) -> None:
        """A worker made progress. `unit_s`: seconds of the unit that it finished, 0 if none."""
        self._since[incarnation] = now
        self._announced.discard(incarnation)
        if unit_s > 0:
            self._computed.add(incarnation)
            self._unit_times = [*self._unit_times[1 - WINDOW :], unit_s]

    def renew(self, actions: Sequence[a.Action], now: float) -> None:
        """Whoever was just told what to do, or what has settled, owes from now on, however long it waited before."""
        for action in actions:
            if isinstance(action, a.Tell) and action.incarnation in self._since:
                self._since[action.incarnation] = now
            elif isinstance(action, a.Journal) and isinstance(action.record, Closed):
                self.pardon(now)

    def pardon(self, now: float) -> None:
        """Nobody could do anything meanwhile: whoever owes something owes it from now on."""
        self._since = dict.fromkeys(self._since, now)

    def excuse(self, late_s: float, now: float) -> None:
        """Nobody could be heard for the last `late_s`: they count as nobody's delay."""
        self._since = {i: min(since + late_s, now) for i, since in self._since.items()}

    def forget(self, incarnation: int) -> None:
        self._since.pop(incarnation, None)
        self._announced.discard(incarnation)

    def verdicts(self, owing: set[int], now: float, *, others_wait: bool) -> list[Verdict]:
        """The workers to give up among those that owe something. `others_wait`: somebody stands idle meanwhile."""
        idle = ((i, now - self._since.get(i, now)) for i in sorted(owing - self._announced))
        found = (self._judge(incarnation, idle_s, others_wait) for incarnation, idle_s in idle)
        return [verdict for verdict in found if verdict is not None]

    def _judge(self, incarnation: int, idle_s: float, others_wait: bool) -> Verdict | None:
        median = self._median_unit_s
        limit = max(self._rules.progress_timeout_s, MEDIAN_UNITS * median)
        if idle_s > limit:
            return Verdict(incarnation, idle_s, f"no progress for {idle_s:.0f} s, limit {limit:.0f} s")
        budget = max(self._rules.straggler_s, STRAGGLER_UNITS * median)
        if idle_s > budget and others_wait and incarnation in self._computed:
            reason = f"a straggler: its unit takes {idle_s:.1f} s, budget {budget:.1f} s"
            return Verdict(incarnation, idle_s, reason, straggles=True)
        return None

    @property
    def _median_unit_s(self) -> float:
        times = sorted(self._unit_times)
        return times[len(times) // 2] if times else 0.0
