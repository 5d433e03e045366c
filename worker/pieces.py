"""What of a unit belongs to one step of the optimizer: its batches, and where the loop stands in them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Piece:
    """The batches of one step. sizes: samples of each. load: a batch by its number."""

    step: int
    sizes: tuple[int, ...]
    load: Callable[[int], Any]


@dataclass
class Standing:
    """Where the loop stands in a unit.

    Attributes:
        piece: at hand; its batches `given` so far, and whether `step` was called after them.
        last: whether no other one of the unit comes behind it.
        bad: why the unit must not reach the model.
        losses, tokens: of the steps that were taken.
    """

    samples: int = 0
    piece: Piece | None = None
    last: bool = True
    given: int = 0
    stepped: bool = False
    bad: str = ""
    tokens: int = 0
    losses: list[float] = field(default_factory=list)

    def begin(self, piece: Piece, *, last: bool) -> None:
        self.piece, self.last, self.given, self.stepped = piece, last, 0, False

    @property
    def batches(self) -> int:
        """Of the piece at hand."""
        return len(self.piece.sizes) if self.piece is not None else 0

    @property
    def loss(self) -> float:
        """The mean of those that the unit's steps had."""
        return sum(self.losses) / max(len(self.losses), 1)
