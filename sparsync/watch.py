"""Looking at a live run again and again: for a picture that moves, or until a worker is gone."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wire.clock import Clock, Deadline, monotonic_clock
from wire.errors import Unreachable

if TYPE_CHECKING:
    from sparsync.control import Control
    from sparsync.live import Display

TIMEOUT_S = 5.0
PATIENCE_S = 10.0
"""How long a coordinator that has answered before may be silent."""
OVER = ("done", "failed")
GONE = ("dead", "left")


class Looks:
    """The status of a run, as often as it is asked for; a silence of the coordinator is waited out.

    `last`: the newest answer; None before the first.
    """

    def __init__(self, control: Control, *, clock: Clock = monotonic_clock) -> None:
        self._control = control
        self._clock = clock
        self._patience: Deadline | None = None
        self.last: dict[str, Any] | None = None

    @property
    def over(self) -> bool:
        """Whether the run has ended, as far as the newest answer tells."""
        return self.last is not None and self.last.get("state") in OVER

    async def look(self) -> dict[str, Any] | None:
        """The status; None: no answer this time. Raises Unreachable when the silence lasts, or at the first look.

        A coordinator that goes silent while its run is finishing has ended it: the newest status then says `done`.
        """
        try:
            found = await self._control.status(timeout_s=TIMEOUT_S)
        except Unreachable:
            if self.last is not None and self.last.get("state") == "finishing":
                self.last |= {"state": "done", "reason": "the coordinator has ended"}
                return self.last
            if self._patience is None or self._patience.passed:
                raise
            return None
        self._patience = Deadline(self._clock, PATIENCE_S)
        self.last = found
        return found


async def watch(
    control: Control, display: Display, *, interval_s: float, clock: Clock = monotonic_clock
) -> None:
    """Shows each status until the run is over. Raises Unreachable."""
    looks = Looks(control, clock=clock)
    answering = True
    while not looks.over:
        found = await looks.look()
        if found is not None:
            display.update(found, clock.now())
        elif answering:
            display.note(f"coordinator {control.address} does not answer; asking again")
        answering = found is not None
        if not looks.over:
            await asyncio.sleep(interval_s)


async def watch_leave(control: Control, incarnation: int, *, interval_s: float) -> Mapping[str, Any]:
    """The status entry of the worker of this incarnation once it is gone, or the run is over. Raises Unreachable."""
    looks = Looks(control)
    while True:
        if found := await looks.look():
            workers: list[dict[str, Any]] = found.get("workers") or []
            worker = next((w for w in workers if w.get("incarnation") == incarnation), {"state": "left"})
            if looks.over or worker.get("state") in GONE:
                return worker
        await asyncio.sleep(interval_s)
