"""Operators who wait for a checkpoint: several of them share one, the next that is written.

What was settled when they asked is in it. A wish is not journaled: it ends with the line of the one who asked.
"""

from __future__ import annotations

from coordinator import actions as a
from coordinator.desk import Desk, error_of
from wire.errors import Busy, SparsyncError


class Wishes:
    """Who asked for a checkpoint and was not answered yet."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._keys: list[str] = []

    @property
    def open(self) -> bool:
        """Whether the next boundary needs a checkpoint for somebody's sake."""
        return bool(self._keys)

    def ask(self, key: str, *, begun: bool) -> None:
        """Answered when a checkpoint is written, or fails; refused where there will be none."""
        state = self._desk.state
        if state.ended is not None:
            self._desk.answer(key, error_of(state.ended))
        elif not begun:
            refusal = (
                "the run has not begun: nothing was trained since its first step; ask again when it runs"
            )
            self._desk.answer(key, Busy(refusal))
        else:
            if not self._keys:
                self._desk.note("checkpoint_asked", step=state.open_step)
            self._keys.append(key)

    def answer(self, value: a.Saved | SparsyncError) -> None:
        """All who wait hear this."""
        for key in self._keys:
            self._desk.answer(key, value)
        self._keys.clear()
