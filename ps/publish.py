"""The published model's log: deltas from a retained version on, each encoded once for all readers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wire.ids import UnitId


@dataclass(frozen=True)
class Outcome:
    """What became of a unit: `factor` of it is in the model, the rest goes back to its sender."""

    unit: UnitId
    factor: float


@dataclass(frozen=True)
class Delta:
    """Takes the published model of this shard from `version` to `version` + 1."""

    version: int
    step: int
    outcomes: Sequence[Outcome]
    frame: bytes
    deposit: bool
    final: bool


class DeltaLog:
    """Deltas `base` ≤ version < `version`, in memory.

    One thread appends and trims while others read: `get` sees a delta or none, never another one.
    """

    def __init__(self, base: int) -> None:
        self.base = base
        self.version = base
        """The newest version: that of the published plane."""
        self.final = False
        self._deltas: dict[int, Delta] = {}

    def append(self, delta: Delta) -> None:
        assert delta.version == self.version, (delta.version, self.version)
        self._deltas[delta.version] = delta
        self.version += 1
        self.final = delta.final

    def get(self, version: int) -> Delta | None:
        """The delta that starts at `version`, or None while it is not published yet.

        Raises:
            KeyError: it is older than what is retained.
        """
        delta = self._deltas.get(version)
        if delta is None and version < self.base:
            raise KeyError(f"delta {version} is no longer retained, the oldest is {self.base}")
        return delta

    def trim(self, retain_from: int) -> None:
        """Forget the deltas before `retain_from`."""
        first, self.base = self.base, min(max(retain_from, self.base), self.version)
        for version in range(first, self.base):
            del self._deltas[version]
