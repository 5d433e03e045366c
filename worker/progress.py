"""What one incarnation has done so far, as it reports it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Progress:
    """Units computed and replayed, and the seconds of computing, of compressing and of waiting; cumulative.

    `unit_s`, `residual_norm`: of the newest unit, as it was told.
    """

    units: int = 0
    replayed: int = 0
    compute_s: float = 0.0
    encode_s: float = 0.0
    wait_s: float = 0.0
    unit_s: float = 0.0
    residual_norm: float = 0.0

    def computed(self, seconds: float, *, replayed: bool) -> None:
        """One more unit."""
        self.compute_s += seconds
        self.replayed += replayed
        self.units += not replayed

    def report(
        self,
        *,
        version: int,
        pulls: int,
        bytes_moved: tuple[int, int, int],
        unit_s: float,
        residual_norm: float,
        dropped_norm: float,
    ) -> dict[str, float | int]:
        """The fields of the report `progress`."""
        pushed, pulled, state = bytes_moved
        self.unit_s, self.residual_norm = unit_s or self.unit_s, residual_norm
        return {
            "version": version,
            "units": self.units,
            "compute_s": self.compute_s,
            "wait_s": self.wait_s,
            "bytes_pushed": pushed,
            "bytes_pulled": pulled,
            "bytes_state": state,
            "pulls": pulls,
            "unit_s": unit_s,
            "replayed": self.replayed,
            "residual_norm": residual_norm,
            "dropped_norm": dropped_norm,
        }
