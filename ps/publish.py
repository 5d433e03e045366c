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
    """Deltas `base` ≤ version < `version`, in memory."""

    def __init__(self, base: int) -> None:
        self.base = base
        self._deltas: list[Delta] = []

    @property
    def version(self) -> int:
        """The newest version: that of the published plane."""
        return self.base + len(self._deltas)

    @property
    def final(self) -> bool:
        return bool(self._deltas) and self._deltas[-1].final

    def append(self, delta: Delta) -> None:
        assert delta.version == self.version, (delta.version, self.version)
        self._deltas.append(delta)

    def get(self, version: int) -> Delta | None:
        """The delta that starts at `version`, or None while it is not published yet.

        Raises:
            KeyError: it is older than what is retained.
        """
        if version < self.base:
            raise KeyError(f"delta {version} is no longer retained, the oldest is {self.base}")
        index = version - self.base
        return self._deltas[index] if index < len(self._deltas) else None

    def trim(self, retain_from: int) -> None:
        """Forget the deltas before `retain_from`."""
        drop = min(max(retain_from - self.base, 0), len(self._deltas))
        del self._deltas[:drop]
        self.base += drop
