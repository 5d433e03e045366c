"""The workers that can be given work, and how fast each is. Only heard, never journaled."""

from __future__ import annotations

from dataclasses import dataclass, field

FOLLOW = 0.3
"""Weight of the newest unit in a worker's mean time."""
PENALTY_S = 30.0
"""How long a straggler is taken for as slow as it was; twice as long each further time."""


@dataclass
class Crew:
    """Ready and leaving workers by incarnation; times of their units by name, which outlives an incarnation."""

    ready: set[int] = field(default_factory=set)
    leaving: set[int] = field(default_factory=set)
    _unit_s: dict[str, float] = field(default_factory=dict)
    _straggled: dict[str, tuple[float, int]] = field(default_factory=dict)

    @property
    def available(self) -> set[int]:
        """The workers that can be given work."""
        return self.ready - self.leaving

    def dismiss(self, incarnation: int) -> None:
        """It is out of the run."""
        self.ready.discard(incarnation)
        self.leaving.discard(incarnation)

    def computed(self, name: str, unit_s: float, now: float) -> None:
        """A unit took this long. A straggler's penalty stands until its time is over."""
        if now >= self._straggled.get(name, (0.0, 0))[0]:
            before = self._unit_s.get(name, unit_s)
            self._unit_s[name] = before + FOLLOW * (unit_s - before)

    def straggled(self, name: str, unit_s: float, now: float) -> None:
        """A unit was not done after this long."""
        times = self._straggled.get(name, (0.0, 0))[1] + 1
        self._straggled[name] = (now + PENALTY_S * 2 ** (times - 1), times)
        self._unit_s[name] = unit_s

    def forgive(self, now: float) -> list[str]:
        """The stragglers whose time is over; they count as unknown again."""
        forgiven = [name for name, (until, _) in self._straggled.items() if 0 < until <= now]
        for name in forgiven:
            self._straggled[name] = (0.0, self._straggled[name][1])
            self._unit_s.pop(name, None)
        return forgiven

    def stragglers(self, now: float) -> set[str]:
        """Names of those under a penalty."""
        return {name for name, (until, _) in self._straggled.items() if until > now}

    def straggled_times(self) -> dict[str, int]:
        """How often each of those that ever straggled has done so."""
        return {name: times for name, (_, times) in self._straggled.items()}

    def unit_s(self, name: str) -> float:
        """Seconds that a unit takes there: measured, else the mean of the others."""
        known = self._unit_s.values()
        return self._unit_s.get(name) or (sum(known) / len(known) if known else 1.0)
