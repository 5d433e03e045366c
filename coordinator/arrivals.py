"""What the shards hold of an elastic segment's units: who stands where, what it brought. Only heard.

A unit is *complete* once every shard has accepted it. Below `low` every unit is complete and counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from coordinator import events as e
from coordinator.state import State
from wire.clipping import share_below
from wire.messages import BAD_UNIT, Commit


@dataclass
class _Arrival:
    """One unit. `returned`: sum over shards of what goes back to the sender, at most the number of shards."""

    commit: Commit
    shards: set[int] = field(default_factory=set)
    behind: int = 0
    returned: float = 0.0


@dataclass(frozen=True)
class Sums:
    """What some units brought, in the fields of a record. `behind`: units by others, of each that contributed."""

    empty: int
    samples: int
    tokens: int
    loss: float | None
    staleness: tuple[tuple[int, int], ...]
    returned: float
    bad: tuple[tuple[int, str], ...]
    norms: list[float]
    behind: list[int]


class Arrivals:
    """Units from the state's `low` on, by number."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._units: dict[int, _Arrival] = {}
        self._torn: int | None = None
        self._behind: dict[int, tuple[int, int]] = {}

    def accept(self, event: e.UnitAccepted) -> None:
        """A shard holds a unit; a repeat changes nothing."""
        number = event.unit.number(self._state.streams)
        if self._state.counted(number):
            return
        unit = self._units.setdefault(number, _Arrival(event.commit))
        if event.shard in unit.shards:
            return
        if unit.commit.contributes != event.commit.contributes:
            self._torn = number
        if not unit.shards:
            units, behind = self._behind.get(event.incarnation, (0, 0))
            self._behind[event.incarnation] = (units + 1, behind + event.behind)
        unit.shards.add(event.shard)
        unit.behind = max(unit.behind, event.behind)
        unit.returned += (1.0 - event.factor) if event.commit.contributes else 0.0

    def staleness(self, incarnation: int) -> float | None:
        """Mean steps that a worker's units of this segment were stale, on the shard that had each first."""
        units, behind = self._behind.get(incarnation, (0, 0))
        return behind / units / self._state.streams if units else None

    @property
    def torn(self) -> str:
        """Two attempts at one unit that contradict each other, in words, or nothing."""
        if self._torn is None:
            return ""
        return (
            f"unit {self._torn}: two attempts stand on different shards and disagree whether it is empty; expected the "
            "same of every worker: data, code and machines alike"
        )

    def shards(self, number: int) -> set[int]:
        """The shards that hold a unit which is not counted yet."""
        unit = self._units.get(number)
        return unit.shards if unit is not None else set()

    def standing_on(self, shard: int) -> set[int]:
        """The units not counted yet that a shard was heard to hold."""
        return {number for number, unit in self._units.items() if shard in unit.shards}

    def complete(self, number: int) -> bool:
        """Whether every shard holds a unit."""
        if self._state.counted(number):
            return True
        return len(self.shards(number)) == len(self._state.placement)

    def known(self, number: int) -> bool:
        """Whether any shard is known to hold it, or to have settled it."""
        return number in self._units or self._state.counted(number)

    def missing(self, number: int) -> tuple[int, ...]:
        """The shards that still need a unit; empty where all do."""
        have = self.shards(number)
        return tuple(s.shard for s in self._state.placement if s.shard not in have) if have else ()

    @property
    def high(self) -> int:
        """One beyond the largest unit that any shard holds, or has settled."""
        return max(self._state.open_step * self._state.streams, max(self._units, default=-1) + 1)

    @property
    def contiguous(self) -> int:
        """One beyond the last unit before which, and with which, all are complete."""
        number = self._state.low
        while self.complete(number):
            number += 1
        return number

    def take(self, numbers: Sequence[int], *, bound: float = 0.0) -> Sums:
        """What these complete units brought; they are forgotten.

        bound: on their norms, of the close that names them.
        """
        units = [(n, self._units.pop(n)) for n in numbers]
        commits = [unit.commit for _, unit in units]
        filled = [unit for _, unit in units if unit.commit.contributes]
        stale = Counter(unit.behind // self._state.streams for unit in filled)
        return Sums(
            empty=len(units) - len(filled),
            samples=sum(c.samples for c in commits),
            tokens=sum(c.tokens for c in commits),
            loss=sum(u.commit.loss for u in filled) / len(filled) if filled else None,
            staleness=tuple(sorted(stale.items())),
            returned=sum(u.returned for u in filled) / max(len(self._state.placement), 1)
            + sum(self._clipped(u, bound) for u in filled),
            bad=tuple(
                (n, u.commit.empty_reason) for n, u in units if u.commit.empty_reason.startswith(BAD_UNIT)
            ),
            norms=[unit.commit.push_norm for unit in filled],
            behind=[unit.behind for unit in filled],
        )

    def _clipped(self, unit: _Arrival, bound: float) -> float:
        """How much of a unit goes back for its norm, of what staleness leaves of it in the mean over the shards."""
        damped = unit.returned / max(len(self._state.placement), 1)
        return (1.0 - damped) * (1.0 - share_below(bound, unit.commit.push_norm))
